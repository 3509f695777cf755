"""A run folder half written or edited by hand: what cannot be what a run wrote is left aside and named, the rest is told, and nothing is made up."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_repair import write_fake_repair
from fake_run import fake_tables, write_fake_run

from workbench.errors import DataError
from workbench.report import build_report
from workbench.report.checked import impossible
from workbench.report.compare import compared
from workbench.report.record import RunRecord
from workbench.results import Result

SMALL = dict(languages=4, layers=3, meanings=8)
KEPT = ("prompts", "verdicts", "stages", "hypotheses", "refusal", "outcomes", "dropped")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    tables = fake_tables(**SMALL)
    return write_fake_run(tmp_path_factory.mktemp("made") / "run", without=tuple(set(tables) - set(KEPT)), **SMALL)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def edited(folder, name, **columns):
    path = folder / "results" / f"{name}.parquet"
    Result(Result.load(path).table.assign(**columns)).save(path)
    return folder


def told(folder):
    return re.sub(r"\s+", " ", build_report(folder).read_text(encoding="utf-8").split("<nav", 1)[0])


@pytest.mark.parametrize(
    ("name", "columns", "why"),
    [
        ("refusal", {"value": 7.3}, "value out of range; expected numbers of -1 to 1"),
        ("refusal", {"value": "high"}, "value out of range"),
        ("refusal", {"n": -4}, "n out of range; expected numbers of at least 0"),
        ("refusal", {"low": 0.9, "high": 0.1}, "low end is above its high end"),
        ("refusal", {"statistic": "selectivity"}, "repeat a model and language and statistic"),
        ("hypotheses", {"p": 1.7}, "p out of range"),
        ("verdicts", {"gap": -30.0}, "gap out of range"),
        ("verdicts", {"verdict": "fine"}, "verdict that is none of"),
        ("verdicts", {"language": "qaa"}, "repeat a language"),
        ("stages", {"stage": "judged"}, "stage that is none of"),
    ],
)
def test_a_table_that_no_run_writes_is_left_aside_and_named(folder, name, columns, why):
    edited(folder, name, **columns)
    record = RunRecord.read(folder)
    said = record.broken[name]
    assert f"{name}.parquet is not what a run wrote" in said and why in said and "give `workbench diagnose` again" in said
    assert record.table(name) is None


def test_the_page_names_what_was_left_aside_and_stands_without_it(folder):
    edited(folder, "refusal", value=7.3)
    assert "refusal.parquet is not what a run wrote" in told(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'id="verdicts"' in page and "there is no table “refusal”" in page


def test_one_column_less_leaves_every_other_section_standing(folder):
    table = Result.load(folder / "results" / "stages.parquet").table
    Result(table.drop(columns="passed")).save(folder / "results" / "stages.parquet")
    assert "it lacks the columns passed" in told(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f'<section id="{one}">' in page for one in ("understood", "calibrated", "geometry")) and 'id="verdicts"' in page


def test_a_negative_refusal_rate_is_no_rate_though_selectivity_may_be_negative():
    table = pd.DataFrame({"language": ["qaa", "qaa"], "statistic": ["selectivity", "harmful_refusal"], "value": [-0.2, 0.1], "n": 8}).assign(
        tier="low", low=-0.3, high=0.3
    )
    assert impossible("refusal", table) is None
    assert "1 of 1 rows hold a value" in impossible("refusal", table.assign(value=[0.2, -0.1]).iloc[1:])


def test_what_a_run_writes_is_never_called_impossible():
    tables = fake_tables(languages=8)
    assert {name: why for name, table in tables.items() if (why := impossible(name, table))} == {}
    gaps = {name: table.assign(**{c: np.nan for c in ("value", "low", "high", "p") if c in table}) for name, table in tables.items()}
    assert {name: why for name, table in gaps.items() if (why := impossible(name, table))} == {}


def test_a_damaged_summary_is_a_gap_that_names_the_command(folder):
    (folder / "summary.json").write_text('{"schema": "workbench-summary/1", "mod', encoding="utf-8")
    page = told(folder)
    assert "summary.json is damaged" in page and "give `workbench diagnose` again" in page
    assert 'id="verdicts"' in (folder / "report.html").read_text(encoding="utf-8")


def test_of_a_repair_the_message_names_the_repair(tmp_path):
    folder = write_fake_repair(tmp_path / "repair")
    (folder / "summary.json").write_text("{", encoding="utf-8")
    assert "give `workbench repair gate` again" in RunRecord.read(folder).broken["summary"]
    edited(folder, "repair_rates", value=9.0)
    assert "give `workbench repair gate` again" in RunRecord.read(folder).broken["repair_rates"]


def test_a_damaged_repair_in_a_diagnosis_is_a_gap_of_its_report(folder):
    (folder / "repair").mkdir()
    (folder / "repair" / "manifest.json").write_text('{"kind": "gate rep', encoding="utf-8")
    assert "manifest.json is damaged" in told(folder)


@pytest.mark.parametrize("content", ['{"spec": ', "[]", "", '"run"'])
def test_a_damaged_manifest_is_a_clear_error_for_report_and_compare(folder, made, content):
    (folder / "manifest.json").write_text(content, encoding="utf-8")
    for call in (lambda: build_report(folder), lambda: compared(made, folder)):
        with pytest.raises(DataError, match=r"manifest\.json (is damaged|holds no JSON object).*new --out"):
            call()


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("how", ["missing", "cut short", "without its columns", "out of range"])
def test_two_runs_are_compared_on_what_can_be_read(made, folder, name, how):
    path = folder / "results" / f"{name}.parquet"
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:60])
    elif how == "without its columns":
        table = Result.load(path).table
        Result(table[[c for c in ("language", "tier") if c in table]].assign(other=1)).save(path)
    else:
        edited(folder, name, n=-1)
    problems = compared(made, folder).problems
    if how == "missing" or name == "dropped":
        assert not any("Not read" in problem and name not in problem for problem in problems)
    else:
        assert any(f"{name}.parquet is" in problem for problem in problems)


def test_a_run_that_is_not_finished_says_so_where_it_is_compared(made, folder):
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "started"}), encoding="utf-8")
    assert any("is not finished" in problem for problem in compared(made, folder).problems)
