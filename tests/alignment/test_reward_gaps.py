"""The monitor finds gaps that were planted, says how sure it is, and compares the same meanings with the reference."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from workbench.alignment.reward_gaps import RewardGaps, reward_gaps
from workbench.errors import DataError
from workbench.statistics import wilson

PLANTED = {"en": 1.6, "de": 1.2, "sw": 0.1}


def scored(rng, meanings=40, planted=PLANTED, spread=0.5):
    """Pairs whose gap is the language's plus what the meaning adds; harmless pairs have a gap of .8 everywhere."""
    rows = []
    for harmful in (True, False):
        for i in range(meanings):
            shared = rng.normal(0, spread)
            for tag, gap in planted.items():
                long, short = (int(n) for n in rng.integers(4, 20, 2))
                per_token = (gap if harmful else 0.8) + shared + rng.normal(0, spread)
                rows.append((f"{'h' if harmful else 'b'}{i}", tag, harmful, -2.0 * long, long, (-2.0 - per_token) * short, short))
    return pd.DataFrame(rows, columns=["meaning_id", "language", "harmful", "chosen_sum", "chosen_len", "rejected_sum", "rejected_len"])


def at(result, language, statistic, harmful=True):
    table = result.table
    row = table[(table["language"] == language) & (table["statistic"] == statistic) & (table["harmful"] == harmful)]
    assert len(row) == 1
    return row.iloc[0]


def test_gaps_that_were_planted_are_found_per_language_and_class(rng):
    result = reward_gaps(scored(rng, meanings=400), reference=["en", "de"])
    for tag, gap in PLANTED.items():
        assert at(result, tag, "reward_gap")["value"] == pytest.approx(gap, abs=0.1)
        assert at(result, tag, "reward_gap", harmful=False)["value"] == pytest.approx(0.8, abs=0.1)
    assert at(result, "sw", "below_reference")["value"] == pytest.approx((1.6 + 1.2) / 2 - 0.1, abs=0.1)
    assert at(result, "sw", "below_reference", harmful=False)["value"] == pytest.approx(0, abs=0.1)
    assert set(result.table.loc[result.table["statistic"] == "below_reference", "language"]) == {"sw"}


def test_the_interval_is_students_over_meanings_and_the_share_is_wilsons(rng):
    frame = scored(rng)
    result = reward_gaps(frame)
    part = frame[(frame["language"] == "sw") & frame["harmful"]]
    gaps = part["chosen_sum"] / part["chosen_len"] - part["rejected_sum"] / part["rejected_len"]
    low, high = ttest_1samp(gaps, 0).confidence_interval()
    row = at(result, "sw", "reward_gap")
    assert (row["value"], row["low"], row["high"]) == pytest.approx((gaps.mean(), low, high))
    assert (row["n"], row["pairs"], row["tier"]) == (40, 40, "low")
    share = at(result, "en", "preferred", harmful=False)
    assert share["value"] == np.mean(scored_gaps(frame, "en", False) > 0)
    assert share["low"] < share["value"] and share["high"] > share["value"]


def scored_gaps(frame, language, harmful):
    part = frame[(frame["language"] == language) & (frame["harmful"] == harmful)]
    return (part["chosen_sum"] / part["chosen_len"] - part["rejected_sum"] / part["rejected_len"]).to_numpy()


def test_when_every_pair_is_preferred_the_share_keeps_a_width(rng):
    row = at(reward_gaps(scored(rng, meanings=10, planted={"en": 30.0})), "en", "preferred")
    assert row["value"] == row["high"] == 1.0
    assert row["low"] < wilson(10, 10).low < 1  # wider than of ten independent pairs with a known variance


def test_the_difference_from_the_reference_is_paired_by_meaning(rng):
    frame = scored(rng)
    paired = ttest_rel(scored_gaps(frame, "en", True), scored_gaps(frame, "sw", True))
    low, high = paired.confidence_interval()
    row = at(reward_gaps(frame, reference=["en"]), "sw", "below_reference")
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert row["low"] < PLANTED["en"] - PLANTED["sw"] < row["high"]


def test_copies_of_pairs_do_not_narrow_an_interval_and_lengths_are_shown(rng):
    frame = scored(rng, meanings=15)
    once, thrice = reward_gaps(frame), reward_gaps(pd.concat([frame] * 3))
    for statistic in ("reward_gap", "length_difference"):
        one, three = at(once, "de", statistic), at(thrice, "de", statistic)
        assert (one["value"], one["low"], one["high"]) == pytest.approx((three["value"], three["low"], three["high"]))
        assert (three["n"], three["pairs"]) == (15, 45)
    part = frame[(frame["language"] == "de") & frame["harmful"]]
    assert at(once, "de", "length_difference")["value"] == pytest.approx((part["chosen_len"] - part["rejected_len"]).mean())


def test_only_meanings_of_both_languages_are_compared(rng):
    frame = scored(rng, meanings=20)
    kept = ~((frame["language"] == "sw") & frame["meaning_id"].isin([f"h{i}" for i in range(8)]))
    row = at(reward_gaps(frame[kept], reference=["en"]), "sw", "below_reference")
    both = frame[frame["harmful"] & kept & ~frame["meaning_id"].isin([f"h{i}" for i in range(8)])]
    assert row["value"] == pytest.approx(scored_gaps(both, "en", True).mean() - scored_gaps(both, "sw", True).mean())
    assert row["n"] == 12


def test_a_class_that_the_reference_lacks_is_not_compared(rng):
    frame = scored(rng, meanings=5)
    table = reward_gaps(frame[frame["harmful"] | (frame["language"] != "en")], reference=["en"]).table
    compared = table[table["statistic"] == "below_reference"]
    assert set(compared["language"]) == {"de", "sw"} and compared["harmful"].all()


def test_two_meanings_give_a_value_without_an_interval(rng):
    row = at(reward_gaps(scored(rng, meanings=2)), "en", "reward_gap")
    assert np.isfinite(row["value"]) and np.isnan(row["low"]) and np.isnan(row["high"])


def test_tiers_given_win_over_the_table(rng):
    frame = scored(rng, meanings=3).assign(tier="mid")
    assert set(reward_gaps(frame).table["tier"]) == {"mid"}


def test_a_result_is_saved_and_read_whole(rng, tmp_path):
    result = reward_gaps(scored(rng), reference=["en"])
    read = RewardGaps.load(result.save(tmp_path / "reward_gaps.parquet"))
    pd.testing.assert_frame_equal(read.table, result.table)
    assert read.provenance == {"reference": ["en"], "confidence": 0.95}
    assert list(result.summary().columns) == ["language", "harmful", "reward_gap", "preferred", "length_difference", "below_reference"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="chosen_len"), r"lacks \['chosen_len'\]"),
        (lambda f: f.iloc[:0], "frame of 0 pairs lacks rows"),
        (lambda f: f.assign(chosen_sum=np.where(f["meaning_id"] == "h1", np.nan, -3.0)), r"3 of 18 pairs.*meanings \['h1'\]"),
        (lambda f: f.assign(rejected_len=0), "no rejected token"),
    ],
)
def test_frames_that_cannot_be_averaged_are_refused(rng, change, says):
    with pytest.raises(DataError, match=says):
        reward_gaps(change(scored(rng, meanings=3)))


def test_a_reference_language_that_is_not_there_is_refused(rng):
    with pytest.raises(DataError, match=r"\['fr'\] have no pair. Expected some of en, de, sw"):
        reward_gaps(scored(rng, meanings=3), reference=["en", "fr"])


# --- pairs under a model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
    rows = [
        {"pair_id": f"{kind}{i}:{tag}", "meaning_id": f"{kind}{i}", "language": tag, "harmful": kind == "h", "prompt": f"word {i} {tag}",
         "chosen": "no", "rejected": "with flour and water"}
        for kind in "hb" for i in range(4) for tag in ("en", "sw")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_pairs_are_scored_as_each_completion_alone_would_be(tiny_model, pairs):
    import torch

    from workbench.alignment.reward_gaps import pairs_to_score
    from workbench.alignment.sequences import collate, completion_logprobs, encode

    chat = tiny_model("llama", n_layers=2)
    made = pairs_to_score(chat, pairs, tiers={"en": "high", "sw": None})
    found = made.scored(chat, token_budget=40)
    assert list(found["meaning_id"]) == list(pairs["meaning_id"]) and list(found["language"]) == list(pairs["language"])
    for side in ("chosen", "rejected"):
        for row in range(0, len(pairs), 5):
            with torch.no_grad():
                alone = completion_logprobs(chat.model, collate(chat, encode(chat, [pairs["prompt"][row]], [pairs[side][row]])))
            assert found[f"{side}_sum"][row] == pytest.approx(float(alone[0]), abs=1e-4) and found[f"{side}_len"][row] == int(alone[1])
    pd.testing.assert_frame_equal(found, made.scored(chat, token_budget=10_000))
    assert set(reward_gaps(found).table["language"]) == {"en", "sw"}


def test_what_stands_in_front_of_a_reply_moves_its_gap_and_is_not_counted(tiny_model, pairs):
    from workbench.alignment.reward_gaps import pairs_to_score

    chat = tiny_model("llama", n_layers=2)
    plain, told = (pairs_to_score(chat, pairs, insert=insert).scored(chat) for insert in (None, [(5, 6)] * 8 + [None] * 8))
    assert plain["chosen_len"].equals(told["chosen_len"])
    moved = plain["chosen_sum"] != told["chosen_sum"]
    assert moved[:8].all() and not moved[8:].any()


def test_a_few_are_the_same_meanings_in_every_language_and_class(tiny_model, pairs):
    from workbench.alignment.reward_gaps import pairs_to_score

    made = pairs_to_score(tiny_model("llama", n_layers=2), pairs)
    few = made.few(2)
    assert few.labels.groupby(["language", "harmful"])["meaning_id"].unique().map(list).tolist() == [["b0", "b1"], ["h0", "h1"]] * 2
    assert len(few.chosen) == len(few.rejected) == len(few.labels) == 8
    assert few.chosen[-1] == made.chosen[11]


def test_held_out_pairs_are_of_the_select_split_or_of_a_preference_files_own():
    from workbench.alignment.monitored import held_out_pairs
    from workbench.alignment.preference import PreferenceSet
    from workbench.prompts.grid import PromptGrid

    rows = [
        {"language": tag, "meaning_id": f"m{i}", "text": f"{tag} {i}", "harmful": i % 2 == 0, "answer": f"done {i}", "refusal": f"sorry {tag}",
         "tier": "low", "split": ("fit", "select", "score")[i // 2 % 3]}
        for tag in ("qaa", "qab") for i in range(12)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    keyed = held_out_pairs(PromptGrid(frame), None, seed=0)
    assert set(keyed["meaning_id"]) == set(frame.loc[frame["split"] == "select", "meaning_id"]) and set(keyed["language"]) == {"qaa", "qab"}
    without = PromptGrid(frame.drop(columns=["answer", "refusal"]))
    assert held_out_pairs(without, [], seed=0) is None
    own = PreferenceSet(keyed.assign(refusal=["sorry"] * len(keyed), answer=["done"] * len(keyed)))
    assert len(held_out_pairs(without, own, seed=0)) == len(keyed)
    fit = PreferenceSet(keyed.assign(split="fit", refusal=["sorry"] * len(keyed), answer=["done"] * len(keyed)))
    assert held_out_pairs(without, fit, seed=0) is None
