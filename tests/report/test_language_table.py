"""What was measured per language: the tables' numbers, worded, and no marks: those are the verdicts'."""

from __future__ import annotations

import pytest
from fake_run import fake_tables, write_fake_run

from workbench.report.language_table import language_rows
from workbench.report.record import RunRecord
from workbench.report.wording import compact, interval, listed, number
from workbench.results import Result


@pytest.fixture
def rows_with(tmp_path):
    def build(**tables):
        folder = write_fake_run(tmp_path / "run", languages=5, layers=4, meanings=8)
        for name, table in tables.items():
            Result(table).save(folder / "results" / f"{name}.parquet")
        run = RunRecord.read(folder)
        return run, {row.language: row for row in language_rows(run)}

    return build


@pytest.fixture
def tables():
    found = fake_tables(languages=5, layers=4, meanings=8)
    return found | {"refusal": found["refusal"].assign(validated=True)}


def test_languages_stand_in_the_order_of_the_figures(rows_with):
    _, rows = rows_with()
    assert list(rows) == ["qaa", "qab", "qac", "qad", "qae"]
    assert [tag for tag, row in rows.items() if row.reference] == ["qaa", "qab", "qac"]


def test_rates_of_the_model_before_are_not_shown_as_its_own(rows_with, tables):
    refusal = tables["refusal"]
    _, rows = rows_with(refusal=refusal)
    row = refusal.query("model == 'after' and language == 'qaa' and statistic == 'harmful_refusal'").iloc[0]
    assert [line.value for line in rows["qaa"].harmful_refusal] == [f"{100 * row['value']:.0f}"]


def test_numbers_are_written_with_a_true_minus_and_a_dash_for_nothing():
    assert number(-0.041, "+.2f") == "−0.04" and number(float("nan")) == "–" and number(None) == "–"
    assert interval(0.1, 0.25) == "[0.10, 0.25]" and interval(float("nan"), 1) == ""
    assert listed(["a", "b", "c"]) == "a, b and c" and listed([]) == "none"


def test_hashes_and_records_are_shortened():
    assert compact({"hash": "ab" * 32, "on": True, "none": None}) == "hash abababababab…; on yes; none none"


def test_a_judge_that_was_not_validated_is_marked_and_said_to_decide_nothing(rows_with, tables):
    refusal = tables["refusal"].copy()
    refusal.loc[refusal["language"] == "qad", "validated"] = False
    _, rows = rows_with(refusal=refusal)
    (line,) = rows["qad"].harmful_refusal
    assert line.value.endswith("†") and "decides nothing" in line.note
    assert not rows["qae"].harmful_refusal[0].value.endswith("†")


def test_the_gap_to_the_own_threshold_stands_with_the_reference_threshold(rows_with, tables):
    _, rows = rows_with(thresholds=tables["thresholds"].assign(gap=0.3, gap_low=0.21, gap_high=0.39))
    assert {line.note for line in rows["qad"].transferred} == {"own minus reference threshold: +0.30 [+0.21, +0.39]"}
    assert {line.note for line in rows["qad"].own} == {""}


def test_a_measure_that_was_not_taken_has_no_lines(tmp_path):
    folder = write_fake_run(tmp_path / "run", languages=4, layers=4, meanings=8, without=("understanding", "refusal"))
    row = language_rows(RunRecord.read(folder))[0]
    assert row.understood == [] and row.selectivity == [] and len(row.represented) == 2
