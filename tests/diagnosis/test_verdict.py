"""The decision list where the failing stage is known: named given evidence, open without, and never with permuted labels."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted_stages import HEALTHY, TRUTH, Speaks, decided, draw, evidence_of, verdict_of

from workbench.diagnosis.verdict import FAILURES, NONE, OPEN
from workbench.diagnosis.verdict import HEALTHY as FINE

LOW = {f"l-{name}": one for name, one in TRUTH.items()}


def low_verdicts(n, seed, spoken=LOW):
    found, _, _ = decided(evidence_of(draw(spoken, n=n, rng=np.random.default_rng(seed))))
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_with_100_prompts_per_class_every_planted_stage_is_named_and_the_reference_is_healthy(seed):
    found = low_verdicts(100, seed)
    assert {tag: verdict_of(found, tag) for tag in LOW} == {tag: tag.removeprefix("l-") for tag in LOW}
    assert [verdict_of(found, tag) for tag in ("h1", "h2", "h3")] == [FINE] * 3
    row = found.table.set_index("language").loc["l-unrouted"]
    assert row["verdict"] == "actuation" and row["stage"] == "actuated"
    assert row["gap_low"] <= row["gap"] <= row["gap_high"] and row["gap"] > 0.8


def test_with_10_prompts_per_class_verdicts_are_cautious_and_none_is_wrong():
    told = [(tag.removeprefix("l-"), verdict_of(found, tag)) for found in (low_verdicts(10, seed) for seed in range(3)) for tag in LOW]
    assert all(verdict in (truth, OPEN, "actuation") for truth, verdict in told)
    assert np.mean([verdict == OPEN for _, verdict in told]) > 0.3


def test_two_prompts_per_class_decide_nothing():
    found = low_verdicts(2, 0)
    assert set(found.table["verdict"]) == {OPEN}


@pytest.mark.parametrize("spoken", [Speaks(harmful=0.05), Speaks(harmful=0.3, harmless=0.3)], ids=["refuses nothing", "refuses anything"])
def test_a_reference_that_fails_itself_stops_the_comparison_and_says_so(spoken):
    drawn = draw({"h1": spoken, "h2": spoken, "h3": spoken, **LOW}, n=60, rng=np.random.default_rng(0))
    found, _, _ = decided(evidence_of(drawn))
    assert set(found.table["verdict"]) == {NONE}
    assert found.table["reason"].str.contains("reference itself fails").all() and found.table["reason"].str.contains("--reference").all()


@pytest.mark.parametrize(("change", "told"), [({"answers": 0.0}, "is understood"), ({"apart": 0.0}, "has harm represented")])
def test_a_reference_without_understanding_or_harm_is_none_too(change, told):
    drawn = draw({**dict.fromkeys(("h1", "h2", "h3"), replace(HEALTHY, **change)), **LOW}, n=60, rng=np.random.default_rng(0))
    found, _, _ = decided(evidence_of(drawn))
    assert set(found.table["verdict"]) == {NONE} and found.table["reason"].str.contains(told).all()


def test_a_reference_whose_judge_was_not_validated_decides_nothing():
    drawn = draw(LOW, n=60, rng=np.random.default_rng(0))
    doubtful = drawn.outcomes.assign(validated=~drawn.outcomes["language"].isin(drawn.reference))
    found, _, _ = decided(evidence_of(drawn, outcomes=doubtful))
    assert set(found.table["verdict"]) == {OPEN}


def test_a_language_whose_judge_was_not_validated_is_open_and_the_others_are_not():
    drawn = draw(LOW, n=100, rng=np.random.default_rng(0))
    doubtful = drawn.outcomes.assign(validated=drawn.outcomes["language"] != "l-calibration")
    found, stages, _ = decided(evidence_of(drawn, outcomes=doubtful))
    assert verdict_of(found, "l-calibration") == OPEN and verdict_of(found, "l-representation") == "representation"
    assert "not validated" in stages.of("l-calibration")["actuated"]["reason"]


def test_what_was_not_assessed_is_never_a_pass():
    drawn = draw(LOW, n=100, rng=np.random.default_rng(0))
    keyed = replace(drawn, answers=drawn.answers[drawn.answers["language"] != "l-healthy"])
    found, stages, _ = decided(evidence_of(keyed))
    assert verdict_of(found, "l-healthy") == OPEN
    row = stages.of("l-healthy")["understood"]
    assert not row["assessed"] and row["passed"] is None


def test_harm_that_beats_no_control_is_not_called_represented():
    drawn = draw(LOW, n=100, rng=np.random.default_rng(0))
    represented = evidence_of(drawn).table("represented")
    for change in ({"untrained_seeds": 2}, {"surface": 1.0}, {"untrained_high": np.nan}):
        weaker = represented.assign(**{k: np.where(represented["language"] == "l-calibration", v, represented[k]) for k, v in change.items()})
        found, stages, _ = decided(evidence_of(drawn, represented=weaker))
        assert stages.of("l-calibration")["represented"]["passed"] is None, change
        assert verdict_of(found, "l-calibration") == OPEN


def test_a_threshold_that_is_off_where_refusal_is_not_is_told_and_is_no_failure():
    found = low_verdicts(100, 0, {"l": Speaks(shift=3.5)})
    row = found.table.set_index("language").loc["l"]
    assert row["verdict"] == FINE and "calibrated" in row["reason"]


def test_refusing_everything_is_a_gap_as_much_as_refusing_nothing():
    found = low_verdicts(100, 0, {"l": Speaks(harmless=0.9, shift=-3.5)})
    assert verdict_of(found, "l") == "calibration"


def test_an_actuation_failure_without_an_oracle_has_no_subtype():
    found = low_verdicts(100, 0, {"l": Speaks(harmful=0.0), "m": Speaks(harmful=0.0, restored=0.5)})
    rows = found.table.set_index("language").loc[["l", "m"]]
    assert rows["verdict"].tolist() == ["actuation"] * 2 and rows["subtype"].tolist() == ["", ""]


def test_the_only_reference_language_is_compared_with_none():
    drawn = draw({"l": Speaks(shift=3.5, harmful=0.3)}, n=100, rng=np.random.default_rng(0), reference=("h",))
    found, _, _ = decided(evidence_of(drawn))
    assert verdict_of(found, "h") == FINE and verdict_of(found, "l") == "calibration"
    assert "only reference" in found.table.set_index("language").loc["h", "reason"]


def permuted_harm(drawn, rng):
    """Shuffle which meanings are called harmful, the same way in every language."""
    meanings = np.unique(drawn.scores["meaning_id"].values)
    told = {m: m.endswith("True") for m in meanings}
    for split in ("select", "score"):
        of_split = [m for m in meanings if m.startswith(split)]
        told.update(zip(of_split, rng.permutation([told[m] for m in of_split]), strict=True))
    harmful = np.array([told[m] for m in drawn.scores["meaning_id"].values])
    outcomes = drawn.outcomes.assign(harmful=drawn.outcomes["meaning_id"].map(told))
    return replace(drawn, scores=drawn.scores.assign_coords(harmful=("prompt", harmful)), outcomes=outcomes)


def permuted_languages(drawn, rng):
    """Shuffle languages within each meaning: whatever is read and replied, no language differs from another."""
    frame = pd.DataFrame(
        {"meaning": drawn.scores["meaning_id"].values, "language": drawn.scores["language"].values, "prompt": drawn.scores["prompt"].values}
    )
    frame["to"] = frame.groupby("meaning")["language"].transform(rng.permutation)
    to = frame.set_index("prompt")["to"]
    tier = frame["to"].map(drawn.tiers).to_numpy()
    scores = drawn.scores.assign_coords(language=("prompt", frame["to"].to_numpy()), tier=("prompt", tier))
    return replace(drawn, scores=scores, outcomes=drawn.outcomes.assign(language=drawn.outcomes["prompt_id"].map(to)))


MIXED = {"l1": TRUTH["calibration"], "l2": TRUTH["representation"], "l3": TRUTH["unrouted"], "l4": HEALTHY, "l5": TRUTH["unresponsive"]}
WEAK = {f"l{i}": Speaks(harmful=0.9, shift=0.7) for i in range(5)}


def issued(permute, spoken, sims, n, seed):
    rng, named, cells = np.random.default_rng(seed), 0, 0
    for _ in range(sims):
        found, _, _ = decided(evidence_of(permute(draw(spoken, n=n, rng=rng), rng)))
        named += int(found.table["verdict"].isin(FAILURES.values()).sum())
        cells += len(found.table)
    return named, cells


@pytest.mark.parametrize(("permute", "spoken"), [(permuted_harm, MIXED), (permuted_languages, WEAK)])
def test_permuted_labels_name_no_stage(permute, spoken):
    named, cells = issued(permute, spoken, 6, 30, 1)
    assert named <= 0.065 * cells


@pytest.mark.slow
def test_over_a_thousand_cells_permuted_labels_name_a_stage_in_at_most_6_5_percent():
    """Without harm the reference fails first; with languages shuffled every stage is reached, and most cells are called healthy."""
    rng, told = np.random.default_rng(2), {permuted_harm: Counter(), permuted_languages: Counter()}
    for permute, spoken, n, sims in ((permuted_harm, MIXED, 25, 64), (permuted_languages, WEAK, 150, 80)):
        for _ in range(sims):
            found, _, _ = decided(evidence_of(permute(draw(spoken, n=n, rng=rng), rng)))
            told[permute].update(found.table["verdict"])
    for count in told.values():
        assert sum(count[name] for name in FAILURES.values()) <= 0.065 * count.total()
    assert sum(count.total() for count in told.values()) >= 1000
    assert told[permuted_languages]["healthy"] >= 0.5 * told[permuted_languages].total()
