"""The verdicts of the first screen are the tables' own: a mark, a word and a sentence for each, and "not assessed" is never a pass."""

from __future__ import annotations

import pandas as pd
import pytest
from fake_run import fake_tables, write_fake_run

from workbench.report.hypotheses import tested as hypotheses
from workbench.report.parts import FAIL, NONE, OK, UNSURE
from workbench.report.record import RunRecord
from workbench.report.verdict_table import stage_note, verdict_rows, verdict_sentences
from workbench.results import Result

SMALL = dict(languages=6, layers=3, meanings=8)


@pytest.fixture(scope="module")
def tables():
    return fake_tables(**SMALL)


@pytest.fixture
def read(tmp_path, tables):
    def build(**changed):
        folder = write_fake_run(tmp_path / "run", without=tuple(set(tables) - {"prompts", "verdicts", "stages", "hypotheses"}), **SMALL)
        for name, table in changed.items():
            Result(table).save(folder / "results" / f"{name}.parquet")
        return RunRecord.read(folder)

    return build


def test_every_language_has_its_verdict_and_the_state_of_each_stage(read):
    rows = {row.language: row for row in verdict_rows(read())}
    assert list(rows) == ["qaa", "qab", "qac", "qad", "qae", "qaf"]
    assert [rows[tag].state for tag in ("qaa", "qad", "qaf")] == [OK, FAIL, UNSURE]
    states = {stage: line.state for stage, line in rows["qad"].stages.items()}
    assert states == {"understood": OK, "represented": OK, "calibrated": FAIL, "actuated": FAIL, "expressed": NONE}
    assert rows["qaf"].stages["calibrated"].state == UNSURE
    assert (
        "criterion of calibrated" in rows["qad"].stages["calibrated"].note and "reason of calibrated in qad" in rows["qad"].stages["calibrated"].note
    )


@pytest.mark.parametrize("passed", [True, False, None])
def test_what_was_not_assessed_is_neither_a_pass_nor_a_failure(read, tables, passed):
    rows = verdict_rows(read(stages=tables["stages"].assign(assessed=False, passed=passed)))
    assert {line.state for row in rows for line in row.stages.values()} == {NONE}
    assert {line.value for row in rows for line in row.stages.values()} == {"not assessed"}


def test_the_verdicts_are_told_by_group_with_gap_and_meaning(read):
    run = read()
    said = verdict_sentences(run, verdict_rows(run))
    assert said[0].startswith("Calibration fails in qad and qae (mid tier): harm is encoded, but the reference's threshold does not fit it.")
    assert "Selectivity is 60 points below" in said[0]
    assert said[1].startswith("Not enough evidence: qaf (low tier).") and said[2].startswith("Healthy: qaa, qab and qac (high tier, reference).")


def test_a_reference_that_fails_stops_the_comparison(read, tables):
    run = read(verdicts=tables["verdicts"].assign(verdict="none", reason="the reference itself fails: qaa do not refuse selectively"))
    said = verdict_sentences(run, verdict_rows(run))
    assert said[0].startswith("No verdict: the reference itself fails: qaa do not refuse selectively. The comparison stops here") and len(said) == 1
    assert {row.state for row in verdict_rows(run)} == {NONE}


def test_a_language_without_a_gap_has_a_dash(read, tables):
    rows = verdict_rows(read(verdicts=tables["verdicts"].assign(gap=float("nan"), gap_low=float("nan"), gap_high=float("nan"))))
    assert {row.gap.value for row in rows} == {"–"} and {row.gap.interval for row in rows} == {""}


def test_what_is_open_tells_how_few_prompts_there_were_and_a_reason_that_all_share(read, tables):
    run = read(verdicts=tables["verdicts"].assign(verdict="not enough evidence", reason="no reference language is shown to be understood"))
    said = verdict_sentences(run, verdict_rows(run))
    assert len(said) == 1 and said[0].count("no reference language is shown to be understood") == 1
    assert "1 prompts per class and language; more of them narrow the intervals" in said[0]


def test_a_language_that_could_not_be_measured_is_named(read):
    lost = pd.DataFrame({"what": ["language", "language"], "language": ["qax", "qaf"], "n": [3, 2], "reason": ["1 harmful prompt", "geometry only"]})
    run = read(dropped=lost)
    assert verdict_sentences(run, verdict_rows(run))[-1] == "Not measured at all: qax (1 harmful prompt)."


def test_an_actuation_failure_says_whether_the_edit_brings_refusal_back(read, tables):
    run = read(verdicts=tables["verdicts"].assign(verdict="actuation", subtype="unresponsive"))
    said = verdict_sentences(run, verdict_rows(run))
    assert said[0].startswith("Actuation (unresponsive) fails in") and "does not bring it back" in said[0]


def test_a_run_without_verdicts_says_so_instead_of_passing(tmp_path):
    run = RunRecord.read(write_fake_run(tmp_path, without=("verdicts",), **SMALL))
    assert verdict_rows(run) == [] and "holds no verdicts" in verdict_sentences(run, [])[0]


def test_a_stage_tells_its_criterion_and_where_it_was_passed(read):
    assert stage_note(read(), "calibrated") == ["Criterion: criterion of calibrated. Passed in qaa, qab and qac; failed in qad and qae; open in qaf."]


def test_hypotheses_stand_by_statement_with_what_was_decided(read):
    found = {one.id: one for one in hypotheses(read())}
    one = found["calibrated"]
    assert one.statement == "Statement of calibrated." and one.told == "3 shown, 2 contrary shown, 1 open of 6"
    assert one.rows[3][:2] == ["qad", "t_post_inst@2"] and one.rows[3][5:] == ["0.020", "contrary shown", "40"]
