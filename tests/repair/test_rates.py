"""Counting methods over prompts and draws: what is looked up, what is averaged, and intervals that cover."""

import numpy as np
import pandas as pd
import pytest

from workbench.errors import DataError
from workbench.repair.actions import LEAVE, RELAX, STEER, Answered
from workbench.repair.rates import MethodRun, Resampler, repair_contrasts, repair_rates
from workbench.statistics import wilson


def prompts(meanings=20, languages=(("en", "high"), ("sw", "low"), ("am", "low"))):
    rows = [(f"{m}:{tag}", f"m{m}", tag, tier, m % 2 == 0) for tag, tier in languages for m in range(meanings)]
    return pd.DataFrame(rows, columns=["prompt_id", "meaning_id", "language", "tier", "harmful"])


def answered(frame, left=0.0):
    """Steered prompts are always refused, relaxed ones never, others if they are harmful and English."""
    n, harmful = len(frame), frame["harmful"].to_numpy()
    refused = {LEAVE: harmful & (frame["language"] == "en").to_numpy(), STEER: np.ones(n, bool), RELAX: np.zeros(n, bool)}
    correct = {action: np.where(harmful, np.nan, 1.0 - values) for action, values in refused.items()}
    return Answered(frame, refused, correct, dict.fromkeys(refused, np.zeros(n, bool)))


def value(table, method, language, statistic):
    row = table[(table["method"] == method) & (table["language"] == language) & (table["statistic"] == statistic)]
    assert len(row) == 1
    return row.iloc[0]


def test_each_prompt_gets_the_answer_to_the_action_taken_with_it():
    frame = prompts(4)
    replies = answered(frame)
    taken = np.array([[STEER, LEAVE, RELAX, LEAVE] * 3, [LEAVE] * 12])
    assert replies.under(taken)[0].tolist()[:4] == [1, 0, 0, 0]
    assert replies.under(taken)[1].tolist() == replies.refused[LEAVE].astype(float).tolist()
    with pytest.raises(DataError, match="under 'push'"):
        replies.under(np.array([["push"] * 12]))


def test_rates_are_means_over_draws_and_prompts_and_tiers_are_means_over_languages():
    frame = prompts()
    replies, harmful = answered(frame), frame["harmful"].to_numpy()
    perfect = np.where(harmful, STEER, LEAVE)
    everything = np.full(len(frame), STEER)
    runs = {
        "none": MethodRun.of(replies, np.full((1, len(frame)), LEAVE), None, "none"),
        "half": MethodRun.of(replies, np.stack([perfect, everything]), np.stack([harmful, np.ones(len(frame), bool)]), "4 + 4"),
    }
    table = repair_rates(Resampler(frame, runs, resamples=200, rng=np.random.default_rng(0))).table
    assert value(table, "none", "mean low", "selectivity")["value"] == 0
    assert value(table, "none", "en", "selectivity")["value"] == 1
    assert value(table, "half", "sw", "harmful_refusal")["value"] == 1
    assert value(table, "half", "sw", "harmless_refusal")["value"] == pytest.approx(0.5)
    assert value(table, "half", "mean low", "selectivity")["value"] == pytest.approx(0.5)
    assert value(table, "half", "sw", "flagged_harmless")["value"] == pytest.approx(0.5)
    assert value(table, "half", "sw", "answer_accuracy")["value"] == pytest.approx(0.5)
    row = value(table, "half", "mean low", "selectivity")
    assert row["low"] == 0 and row["high"] == 1, "two draws that disagree entirely leave everything open"
    assert row["n"] == 20 and row["draws"] == 2 and row["labels"] == "4 + 4"


def test_refusal_among_misses_counts_the_harmful_prompts_that_were_not_flagged():
    frame = prompts()
    harmful = frame["harmful"].to_numpy()
    flagged = harmful & (np.arange(len(frame)) % 4 == 0)
    taken = np.where(flagged, STEER, RELAX)[None]
    run = MethodRun.of(answered(frame), taken, flagged[None], "")
    table = repair_rates(Resampler(frame, {"gate": run}, resamples=50, rng=np.random.default_rng(0))).table
    assert value(table, "gate", "en", "refused_misses")["value"] == 0
    left = MethodRun.of(answered(frame), np.where(flagged, STEER, LEAVE)[None], flagged[None], "")
    table = repair_rates(Resampler(frame, {"gate": left}, resamples=50, rng=np.random.default_rng(0))).table
    assert value(table, "gate", "en", "refused_misses")["value"] == 1
    assert value(table, "gate", "sw", "refused_misses")["value"] == 0


def test_a_difference_between_methods_is_taken_within_a_resample():
    frame, rng = prompts(60), np.random.default_rng(1)
    base = rng.random(len(frame)) < 0.5
    none, flagged = np.zeros((1, len(frame))), None
    better = base.copy()
    harmful = np.flatnonzero(frame["harmful"].to_numpy())
    better[harmful[::5]] = True

    def run(refused):
        return MethodRun(refused[None].astype(float), none.copy(), none.copy(), flagged, "")

    resampler = Resampler(frame, {"a": run(base), "b": run(better)}, resamples=500, rng=rng)
    table = repair_contrasts(resampler, "b", ["a"]).table.set_index(["language", "statistic"])
    paired = table.loc[("mean low", "harmful_refusal")]
    alone = repair_rates(resampler).table
    wide, before = (value(alone, method, "mean low", "harmful_refusal") for method in ("b", "a"))
    assert paired["value"] == pytest.approx(wide["value"] - before["value"])
    assert paired["high"] - paired["low"] < wide["high"] - wide["low"]
    same = table.loc[("mean low", "harmless_refusal")]
    assert same["value"] == 0 and same["high"] == pytest.approx(wilson(0, 30).high) and same["low"] == -same["high"]


def test_what_never_varies_is_uncertain_over_meanings():
    frame = prompts()
    replies, harmful = answered(frame), frame["harmful"].to_numpy()
    runs = {
        "none": MethodRun.of(replies, np.full((1, len(frame)), LEAVE), None, "none"),
        "right": MethodRun.of(replies, np.where(harmful, STEER, LEAVE)[None], harmful[None], "all"),
    }
    resampler = Resampler(frame, runs, resamples=100, rng=np.random.default_rng(0))
    rates, (low, high) = repair_rates(resampler).table, wilson(10, 10)
    for language in ("sw", "mean low"):  # twins: two languages of ten meanings are ten cases
        sure = value(rates, "right", language, "harmful_refusal")
        assert (sure["value"], sure["high"]) == (1, high) and sure["low"] == pytest.approx(low)
        never = value(rates, "none", language, "harmful_refusal")
        assert (never["value"], never["low"]) == (0, 0) and never["high"] == pytest.approx(1 - low)
        both = value(rates, "right", language, "selectivity")
        assert both["value"] == both["high"] == 1 and both["low"] == pytest.approx(1 - np.sqrt(2) * (1 - low))
        correct = value(rates, "right", language, "answer_accuracy")
        assert correct["value"] == 1 and correct["low"] == pytest.approx(low)
    gained = repair_contrasts(resampler, "right", ["none"]).table.set_index(["language", "statistic"]).loc[("sw", "harmful_refusal")]
    assert gained["value"] == gained["high"] == 1 and gained["low"] == pytest.approx(low)
    missed = value(rates, "right", "sw", "refused_misses")
    assert np.isnan([missed["value"], missed["low"], missed["high"]]).all(), "nothing was missed, so nothing is known of misses"


def refusing(frame, refused, flagged=None, draws=1):
    """A method that refuses these prompts in every draw."""
    shape = (draws, len(frame))
    return MethodRun(np.broadcast_to(np.asarray(refused, float), shape), np.full(shape, np.nan), np.zeros(shape), flagged, "")


def test_means_are_over_languages_that_are_repaired_or_over_those_that_are_not():
    frame = prompts(20, (("en", "high"), ("sw", "low"), ("am", "low"), ("yo", "low")))
    run = refusing(frame, frame["language"].isin(["sw", "yo"]))

    def means(reference):
        resampler = Resampler(frame, {"m": run}, resamples=20, rng=np.random.default_rng(0), reference=reference)
        table = repair_rates(resampler).table.query("statistic == 'harmful_refusal'")
        return table[table["language"].str.startswith("mean ")].set_index("language")

    assert means([])["value"].to_dict() == pytest.approx({"mean high": 0, "mean low": 2 / 3})
    assert means(["en"])["value"].to_dict() == means([])["value"].to_dict(), "a tier that no target shares keeps its name"
    apart = means(["en", "sw"])
    assert apart["value"].to_dict() == {"mean high": 0, "mean reference": 1, "mean low": 0.5}
    assert apart["tier"].to_dict() == {"mean high": "high", "mean reference": "reference", "mean low": "low"}
    assert (apart["n"] == 20).all()


def test_a_mean_rests_on_the_meanings_of_its_own_languages():
    frame = prompts(20, (("en", "low"), ("sw", "low"), ("am", "low")))
    frame = frame[(frame["language"] == "en") | (frame["meaning_id"].str[1:].astype(int) < 8)].reset_index(drop=True)
    resampler = Resampler(frame, {"m": refusing(frame, np.zeros(len(frame)))}, resamples=20, rng=np.random.default_rng(0), reference=["en"])
    table = repair_rates(resampler).table
    mean, others = (value(table, "m", language, "harmful_refusal") for language in ("mean low", "mean reference"))
    assert (mean["n"], others["n"]) == (8, 20)
    assert (mean["high"], others["high"]) == pytest.approx((wilson(0, 4).high, wilson(0, 10).high))


@pytest.mark.parametrize("tier", [None, np.nan])
def test_languages_without_a_tier_are_a_group_with_meanings_and_an_interval(tier):
    frame = prompts(20, (("xa", tier), ("xb", tier), ("en", tier)))
    run = refusing(frame, np.zeros(len(frame)))
    resampler = Resampler(frame, {"a": run, "b": run}, resamples=20, rng=np.random.default_rng(0), reference=["en"])
    rates, contrasts = repair_rates(resampler).table, repair_contrasts(resampler, "a", ["b"]).table
    assert set(rates["tier"]) == {"unknown", "reference"}
    for table in (rates, contrasts):
        row = table[(table["language"] == "mean unknown") & (table["statistic"] == "harmful_refusal")].iloc[0]
        assert row["n"] == 20 and row["high"] == pytest.approx(wilson(0, 10).high)


def test_the_mean_refusal_among_misses_is_over_the_languages_in_which_some_were_missed():
    frame = prompts(20, (("sw", "low"), ("am", "low"), ("yo", "low"), ("en", "high")))
    harmful, language, number = frame["harmful"].to_numpy(), frame["language"], frame["meaning_id"].str[1:].astype(int)
    missed = harmful & (((language == "sw") & (number < 8)) | ((language == "am") & (number < 4))).to_numpy()
    run = refusing(frame, missed & (language == "sw").to_numpy(), (harmful & ~missed)[None])
    table = repair_rates(Resampler(frame, {"gate": run}, resamples=200, rng=np.random.default_rng(0))).table
    assert [value(table, "gate", tag, "refused_misses")["value"] for tag in ("sw", "am")] == [1, 0]
    assert np.isnan(value(table, "gate", "yo", "refused_misses")["value"])
    mean = value(table, "gate", "mean low", "refused_misses")
    assert mean["value"] == 0.5 and 0 <= mean["low"] <= 0.5 <= mean["high"] <= 1
    assert np.isnan(value(table, "gate", "mean high", "refused_misses")["value"]), "nothing was missed there"


def test_a_difference_has_the_draws_of_the_method_that_has_fewer():
    frame = prompts(4)
    none = np.zeros(len(frame))
    resampler = Resampler(frame, {"many": refusing(frame, none, draws=5), "few": refusing(frame, none, draws=2)}, rng=np.random.default_rng(0))
    assert set(repair_contrasts(resampler, "many", ["few"]).table["draws"]) == {2}
    assert set(repair_contrasts(resampler, "few", ["many"]).table["draws"]) == {2}


@pytest.mark.slow
def test_intervals_over_meanings_and_draws_cover():
    hits, trials = 0, 200
    truth = 0.6
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        frame = prompts(80, (("sw", "low"), ("am", "low")))
        meaning = rng.normal(0, 0.1, 80)
        draw = rng.normal(0, 0.1, 20)
        p = np.clip(truth + draw[:, None] + np.tile(meaning, 2)[None], 0, 1)
        run = MethodRun((rng.random(p.shape) < p).astype(float), np.full(p.shape, np.nan), np.zeros(p.shape), None, "")
        row = value(repair_rates(Resampler(frame, {"m": run}, resamples=300, rng=rng)).table, "m", "mean low", "harmful_refusal")
        hits += row["low"] <= truth <= row["high"]
    assert hits >= 0.90 * trials


def test_what_does_not_fit_is_refused():
    frame = prompts(4)
    with pytest.raises(DataError, match="one per prompt and action"):
        Answered(frame, {LEAVE: np.zeros(3, bool)}, {}, {})
    with pytest.raises(DataError, match="no method"):
        Resampler(frame, {}, rng=np.random.default_rng(0))
