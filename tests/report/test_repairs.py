"""The page and the terminal's tables of all repairs say what the table holds, and no more."""

from __future__ import annotations

import io
import json
import re

import pytest
from finished_repairs import write_gate, write_training

from workbench.alignment.table import repair_table
from workbench.cli import main
from workbench.report.repairs import needs_table, rates_table, repairs_page, terminal_tables


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    names = ("lasa", "msd", "dpo", "kto", "sft", "mpo", "mlc")
    return [write_gate(base / "gate"), *(write_training(base / name, name, seen=("qaa", "qab")) for name in names)]


@pytest.fixture(scope="module")
def table(folders):
    return repair_table(folders)


def test_the_terminal_s_tables_fit_120_columns_and_cut_nothing(table):
    from rich.console import Console

    console = Console(width=120, file=io.StringIO())
    for one in terminal_tables(table):
        console.print(one)
    text = console.file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120 and "…" not in text
    for method in ("unrepaired", "gate, shrinkage", "lasa", "mlc"):
        assert method in text
    assert re.search(r"dpo +of all +5\.0 \[\d+, \d+\]", text)


def test_rows_are_one_per_repair_and_mean_and_say_the_gain(table):
    rows = rates_table(table).rows
    assert [row[0] for row in rows if row[0]] == ["unrepaired", "gate, shrinkage", "lasa", "msd", "dpo", "kto", "sft", "mpo", "mlc"]
    assert rows[0][1] == "of all" and rows[0][2].startswith("35.0 [")
    msd = next(i for i, row in enumerate(rows) if row[0] == "msd")
    assert [row[1] for row in rows[msd : msd + 5]] == ["of all", "high", "low", "seen", "unseen"]
    assert rows[msd][6].startswith("+30.0 [+") and rows[0][6] == "–"
    needs = {row[0]: row for row in needs_table(table).rows}
    assert needs["msd"][1:7] == ["4 seconds", "12", "900", "70", "0", "8"] and needs["gate, shrinkage"][1] == "–"


def test_the_page_is_one_file_that_loads_nothing_with_the_table_before_the_figures(table, tmp_path):
    page = repairs_page(table, tmp_path / "deep" / "repairs.html").read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page) and "default-src 'none'" in page
    assert page.count("plotly.js v") == 1
    assert re.findall(r'data-figure="(\w+)"', page) == ["repaired_languages", "repair_cost"]
    assert page.index("What every repair does") < page.index("What every repair takes") < page.index('data-figure="repaired_languages"')
    assert "A controlled model with invented languages" in page


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in arguments])
    return stop.value.code


def test_the_command_shows_the_table_and_ends_with_the_page(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run("repair", "table", *folders, "--out", tmp_path / "all.html") == 0
    said = capsys.readouterr().out
    assert "unrepaired" in said and said.rstrip().endswith("all.html") and (tmp_path / "all.html").is_file()


def test_the_command_prints_rows_for_programs(folders, capsys):
    assert run("repair", "table", *folders[:2], "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "workbench-repairs/1" and {row["method"] for row in told["rows"]} == {"unrepaired", "gate, shrinkage", "lasa"}


def test_the_command_refuses_what_is_no_repair_and_a_page_of_another_kind(folders, tmp_path, capsys):
    assert run("repair", "table", folders[0], tmp_path) == 2
    assert "no run folder" in capsys.readouterr().err
    assert run("repair", "table", folders[0], "--out", tmp_path / "all.pdf") == 2
    assert ".html" in capsys.readouterr().err
