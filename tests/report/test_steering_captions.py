"""What the report says about directions and edits holds whatever the edits did."""

import pytest
from fake_steering import fake_steering

from workbench.report import steering_captions
from workbench.report.record import RunRecord

TIERS = {"en": "high", "de": "high", "sw": "low"}


@pytest.fixture
def tables(rng):
    return fake_steering(TIERS, ("t_inst", "t_post_inst"), 5, 40, rng)


@pytest.fixture
def run(tmp_path):
    return RunRecord(tmp_path, {}, {}, {})


def test_cosines_stand_beside_those_of_the_same_meanings_relabelled(run, tables):
    said = steering_captions.direction_cosines(run, tables["direction_cosines"])
    assert "relabelled in both languages 0.50" in said and "3 of 3 at t_inst" in said
    under = steering_captions.direction_cosines(run, tables["direction_cosines"].assign(permuted_same_95=0.95))
    assert "0 of 3 at t_inst and 0 of 3 at t_post_inst" in under


def test_a_sweep_in_which_nothing_is_gained_is_not_called_a_success(run, tables):
    table = tables["strength"]
    table.loc[table["statistic"] == "harmless_refusal", "value"] = 0.0
    assert steering_captions.strength(run, table).startswith("At no strength tried")


def test_answers_that_are_lost_are_not_called_right(run, tables):
    table = tables["steering"]
    broken = (table["statistic"] == "answer_accuracy") & (table["edit"] == "ablate") & (table["strength"] != 0) & (table["language"] == "sw")
    table.loc[broken, ["value", "low", "high"]] = [0.0, 0.0, 0.1]
    said = steering_captions.steered(run, table)
    assert "still answered right" not in said and "least in sw, 0%" in said and "without an edit 100% or more" in said


@pytest.mark.parametrize("caption", ["strength", "steering"])
def test_languages_whose_judge_was_not_validated_are_named(run, tables, caption):
    table = tables[caption].assign(validated=lambda t: t["language"] != "sw")
    say = {"strength": steering_captions.strength, "steering": steering_captions.steered}[caption]
    assert say(run, table).endswith("The judge was not validated in sw (†).")
    assert "validated" not in say(run, tables[caption])


def test_a_run_whose_edits_gave_nothing_says_so(run, tables):
    table = tables["steering"]
    assert steering_captions.steered(run, table[table["strength"] == 0]) == "No edit could be measured."
