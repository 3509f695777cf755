"""The waterfall on made-up replies: each step gets what it brought, net of random directions, and what the steps share adds up."""

import numpy as np
import pandas as pd
import pytest

from workbench.diagnosis.waterfall import RANDOM, STEPS, random_action, restored, walk
from workbench.errors import DataError
from workbench.repair.actions import LEAVE, Answered

N = 40


def replies(own=0.25, default=0.75, fitted=1.0, random=0.0, languages=(("en", "high"), ("de", "high"), ("sw", "low"))):
    """Let the first so many harmful prompts of a low language be refused under each action; English and German refuse all of them unedited."""
    rows = [(f"{m}:{tag}", f"m{m}", tag, tier, m < N) for tag, tier in languages for m in range(2 * N)]
    frame = pd.DataFrame(rows, columns=["prompt_id", "meaning_id", "language", "tier", "harmful"])
    rank = np.array([m / N if m < N else 2.0 for _ in languages for m in range(2 * N)])
    low = (frame["tier"] == "low").to_numpy()

    def refusing(share):
        return np.where(low, rank < share, rank < 1)

    refused = {LEAVE: refusing(own), "default": refusing(default)}
    if fitted is not None:
        refused["fitted"] = refusing(fitted)
    for strength in ("default", "fitted") if fitted is not None else ("default",):
        refused |= {random_action(strength, seed): refusing(max(own, random)) for seed in range(RANDOM)}
    empty = {name: np.full(len(frame), np.nan) for name in refused}
    return Answered(frame, refused, empty, empty)


def decisions(answered, transferred=0.5, recalibrated=(0.9, 1.0)):
    """Flag the last so many harmful prompts of a low language: those that nobody refuses unedited come first."""
    frame = answered.prompts
    rank = np.array([int(m[1:]) / N for m in frame["meaning_id"]])
    low = (frame["tier"] == "low").to_numpy()
    return {
        "transferred": (low & (rank < 1) & (rank >= 1 - transferred))[None],
        "recalibrated": np.array([low & (rank < 1) & (rank >= 1 - share) for share in recalibrated]),
    }


def walked(answered, **options):
    return walk(answered, decisions(answered, **options), ["en", "de"], resamples=300, k=4, rng=np.random.default_rng(0))


def steps(table, language="sw"):
    return table[table["language"] == language].set_index("step")


def test_each_level_is_the_selectivity_under_its_decisions_and_push():
    found = walked(replies())
    table = steps(found.waterfall.table)
    assert list(table.index) == list(STEPS)
    # unflagged: refused below .25; transferred flags ranks >= .5, refused there below .75
    assert table["value"].tolist() == pytest.approx([0.25, 0.5, 0.7375, 0.75, 1.0], abs=0.03)
    assert table["labels"].tolist() == ["none", "none", "4 + 4", "all", "all"]
    assert table["draws"].tolist() == [1, 1, 2, 1, 1]
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()


def test_net_steps_add_up_to_what_is_restored_and_switches_to_what_the_chain_gains_after_its_first_step():
    found = walked(replies(random=0.4))
    table = steps(found.waterfall.table)
    assert table["share"].sum() == pytest.approx(table.loc["fitted", "total"])
    gained = found.shapley.table.loc[found.shapley.table["language"] == "sw", "share"].sum()
    assert gained == pytest.approx(table.loc["fitted", "total"] - table.loc["transferred", "total"])
    back = restored(found.waterfall.table).iloc[0]
    assert back["value"] == pytest.approx((1.0 - 0.4) / 0.75, abs=0.02) and back["low"] <= back["value"] <= back["high"]


def test_a_push_that_any_direction_replaces_has_no_net_effect():
    table = steps(walked(replies(default=0.75, fitted=0.75, random=0.75)).waterfall.table)
    assert table["net"].dropna().tolist() == pytest.approx([0.0] * 4)
    assert table.loc["fitted", "value"] == pytest.approx(0.75), "the level itself is still shown"
    assert table.loc["transferred", "random_low"] > 0


def test_a_strength_that_fits_already_adds_nothing_without_doubt():
    found = walked(replies(fitted=None))
    row = steps(found.waterfall.table).loc["fitted"]
    assert [row[name] for name in ("net", "net_low", "net_high", "share")] == [0.0] * 4
    switches = found.shapley.table.set_index("switch")
    assert switches.loc["strength_fitted", ["share", "low", "high"]].tolist() == [0.0] * 3
    assert switches.loc["errors_removed", "share"] > 0


def test_without_a_gap_there_is_nothing_to_share_out():
    found = walked(replies(own=1.0, default=1.0))
    table = steps(found.waterfall.table)
    assert table["share"].isna().all() and found.shapley.table["share"].isna().all() and restored(found.waterfall.table).empty
    assert table["value"].notna().all()


def test_what_never_varies_keeps_an_interval():
    table = steps(walked(replies(own=0.0, default=1.0, fitted=1.0), transferred=1.0, recalibrated=(1.0, 1.0)).waterfall.table)
    assert table.loc["oracle", "low"] < 1.0 and table.loc["own", "high"] > 0.0
    assert table.loc["transferred", "share_low"] < 1.0


def test_prompts_of_the_reference_or_of_others_alone_are_refused():
    answered = replies(languages=(("en", "high"), ("de", "high")))
    with pytest.raises(DataError, match="Expected some of the reference"):
        walked(answered)
