"""Two runs side by side: differences with the sign, pairing and interval that the tables allow, and what is not shared is said."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from fake_repair import write_fake_repair
from fake_run import fake_tables, write_fake_run
from fake_training import write_fake_training

from workbench.errors import DataError
from workbench.report.compare import compare_runs, compared, terminal_table
from workbench.report.parts import FAIL, OK, UNSURE
from workbench.results import Result
from workbench.statistics import newcombe_paired

SMALL = dict(languages=4, layers=3, meanings=40)
KEPT = {"prompts", "verdicts", "stages", "hypotheses", "refusal", "outcomes"}


def run_folder(folder, refused=None, *, spec=None, without=(), **options):
    """Write a run whose harmful prompts are refused by ``refused`` (a share by language), one outcome per prompt."""
    options = SMALL | options
    tables = fake_tables(**options)
    folder = write_fake_run(folder, without=tuple((set(tables) - KEPT) | set(without)), **options)
    if refused is not None:
        outcomes = tables["outcomes"].query("model == 'after'").copy()
        for tag, share in refused.items():
            here = (outcomes["language"] == tag) & outcomes["harmful"]
            outcomes.loc[here, "outcome"] = np.where(np.arange(here.sum()) < share * here.sum(), "refusal", "compliance")
        outcomes.loc[~outcomes["harmful"].astype(bool), "outcome"] = "compliance"
        Result(outcomes).save(folder / "results" / "outcomes.parquet")
    refusal = tables["refusal"].assign(validated=True)
    Result(refusal).save(folder / "results" / "refusal.parquet")
    if spec:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest["spec"] |= spec
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def rates(found):
    return {(row.language, row.statistic): row for row in found.rates}


def test_the_same_prompts_are_compared_one_by_one(tmp_path):
    first, second = run_folder(tmp_path / "a", {"qad": 0.2}), run_folder(tmp_path / "b", {"qad": 0.9})
    found = compared(first, second)
    row = rates(found)["qad", "harmful refused"]
    n = 20
    expected = newcombe_paired(np.arange(n) < 0.9 * n, np.arange(n) < 0.2 * n)
    assert row.apart == pytest.approx(expected) and row.how == "paired, 20 prompts" and row.difference.state == OK
    back = rates(compared(second, first))["qad", "harmful refused"]
    assert back.apart.difference == pytest.approx(-expected.difference) and back.difference.state == FAIL
    assert "The same prompts in both runs." in found.shared


def test_a_run_beside_itself_differs_nowhere(tmp_path):
    folder = run_folder(tmp_path / "a", {"qad": 0.5})
    found = compared(folder, folder)
    assert {row.difference.state for row in found.rates} == {UNSURE} and {row.apart.difference for row in found.rates} == {0.0}
    assert "The verdict differs in 0 of 4 languages." in found.said


def test_another_set_of_prompts_is_never_paired_and_said_to_be_another(tmp_path):
    other = {"prompts": {"source": "another set", "hash": "1" * 64}}
    found = compared(run_folder(tmp_path / "a", {"qad": 0.2}), run_folder(tmp_path / "b", {"qad": 0.9}, spec=other))
    assert {row.how for row in found.rates} == {"independent"}
    assert any("different sets: nothing is paired" in sentence for sentence in found.shared)


def test_another_selection_of_one_set_is_compared_on_what_is_shared(tmp_path):
    other = {"prompts": {"source": "organism", "hash": "1" * 64}}
    found = compared(run_folder(tmp_path / "a", {"qad": 0.2}), run_folder(tmp_path / "b", {"qad": 0.9}, spec=other, meanings=20))
    assert rates(found)["qad", "harmful refused"].how == "paired, 10 prompts"
    assert any(
        sentence == "Different selections of one source: 80 prompts in both, 80 only in the first, 0 only in the second." for sentence in found.shared
    )


def test_languages_of_one_run_only_are_named_and_left_out(tmp_path):
    found = compared(run_folder(tmp_path / "a"), run_folder(tmp_path / "b", languages=5))
    assert any("Only in organism:aligned (b), and not compared: qae." in sentence for sentence in found.shared)
    assert {row.language for row in found.rates} == {"qaa", "qab", "qac", "qad"}


def test_runs_without_a_common_language_are_refused(tmp_path):
    first, second = run_folder(tmp_path / "a"), run_folder(tmp_path / "b")
    for path in (second / "results").glob("*.parquet"):
        table = Result.load(path).table
        Result(table.assign(language="x" + table["language"])).save(path)
    with pytest.raises(DataError, match=r"none is in both"):
        compared(first, second)


def test_a_verdict_that_changed_is_said(tmp_path):
    second = run_folder(tmp_path / "b")
    verdicts = fake_tables(**SMALL)["verdicts"].assign(verdict="healthy")
    Result(verdicts).save(second / "results" / "verdicts.parquet")
    found = compared(run_folder(tmp_path / "a"), second)
    assert "The verdict differs in 1 of 4 languages: qad: not enough evidence → healthy." in found.said
    row = next(row for row in found.verdicts if row.language == "qad")
    assert row.states == (UNSURE, OK) and row.stages["calibrated"][2].label == "second − first"


def test_a_gate_s_rates_are_compared_with_the_diagnosis_refusal(tmp_path):
    found = compared(run_folder(tmp_path / "a"), write_fake_repair(tmp_path / "b"))
    row = rates(found)["qad", "selectivity"]
    assert row.how == "independent" and row.second == "85 [81, 89]" and found.verdicts == []
    assert any("the rates of its gate are compared with the diagnosis' refusal" in sentence for sentence in found.said)
    assert any("no outcome per prompt" in sentence for sentence in found.shared)


def test_two_repairs_are_pointed_to_the_table_of_repairs_and_a_training_beside_a_diagnosis_to_its_weights(tmp_path):
    gate, one, two = write_fake_repair(tmp_path / "gate"), write_fake_training(tmp_path / "one"), write_fake_training(tmp_path / "two")
    for pair in ((one, two), (gate, two)):
        assert f"`workbench repair table {pair[0]} {pair[1]}`" in compared(*pair).shared[-1]
    before = run_folder(tmp_path / "before")
    for pair in ((before, one), (one, before)):
        assert f"`workbench diagnose {one}/model` with the options of {before}" in compared(*pair).shared[-1]
    assert not any("workbench" in sentence for sentence in compared(before, before).shared)


def test_a_judge_that_was_not_validated_marks_nothing(tmp_path):
    second = run_folder(tmp_path / "b", {"qad": 0.9})
    refusal = fake_tables(**SMALL)["refusal"].assign(validated=False)
    Result(refusal).save(second / "results" / "refusal.parquet")
    row = rates(compared(run_folder(tmp_path / "a", {"qad": 0.1}), second))["qad", "harmful refused"]
    assert row.difference.state == "none" and "†" in row.how


def test_the_page_is_one_file_that_loads_nothing_and_escapes_what_runs_say(tmp_path):
    attack = "<script>alert(1)</script>"
    spec = {"model": {"model": attack, "fingerprint": "b" * 64}}
    second = run_folder(tmp_path / "b", spec=spec)
    (second / "summary.json").unlink()
    path = compare_runs(run_folder(tmp_path / "a"), second, tmp_path / "deep" / "page.html")
    page = path.read_text(encoding="utf-8")
    assert attack not in page and "&lt;script&gt;alert(1)" in page
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page) and "default-src 'none'" in page
    assert page.count("plotly.js v") == 1 and 'data-figure="two_runs"' in page


def test_without_out_the_page_lies_in_the_second_folder_and_the_terminal_has_a_row_per_language(tmp_path):
    first, second = run_folder(tmp_path / "a"), run_folder(tmp_path / "b")
    assert compare_runs(first, second) == second / "compare.html"
    assert terminal_table(compared(first, second)).row_count == 4


@pytest.mark.parametrize("columns", [["language", "tier"], ["language", "tier", "statistic", "value"]])
def test_rates_that_lost_columns_are_left_aside_and_named(tmp_path, columns):
    second = run_folder(tmp_path / "b")
    Result(pd.DataFrame(fake_tables(**SMALL)["refusal"][columns])).save(second / "results" / "refusal.parquet")
    found = compared(run_folder(tmp_path / "a"), second)
    assert found.rates == [] and any("refusal.parquet is not what a run wrote: it lacks the columns" in problem for problem in found.problems)
    assert len(found.verdicts) == 4 and any("has no rates" in sentence for sentence in found.shared)


def test_positions_and_places_that_differ_are_said(tmp_path):
    first = run_folder(tmp_path / "a", spec={"positions": ["t_inst", "t_post_inst"]})
    second = run_folder(tmp_path / "b", spec={"positions": ["t_post_inst", "mean_inst"]})
    table = Result.load(second / "results" / "hypotheses.parquet").table
    Result(table.assign(place="mean_inst@1")).save(second / "results" / "hypotheses.parquet")
    said = " ".join(compared(first, second).shared)
    assert "Positions read in both runs: t_post_inst; only in the first: t_inst; only in the second: mean_inst." in said
    assert "(t_post_inst@2 in the first; mean_inst@1 in the second; position@layer)" in said
    assert "Positions" not in " ".join(compared(first, first).shared) and "own choice" not in " ".join(compared(first, first).shared)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json"):
        compared(run_folder(tmp_path / "a"), tmp_path)
