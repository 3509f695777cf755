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
