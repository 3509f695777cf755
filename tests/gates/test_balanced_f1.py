"""The paper's threshold rule, against its authors' code and against a slow, exact reading of the card."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import DataError
from workbench.gates.balanced_f1 import BalancedF1, candidate_thresholds, f1_curve
from workbench.gates.policy import Context, Scores

NUMBERS = st.lists(st.integers(-8, 8).map(float), min_size=1, max_size=9).map(np.array)


@pytest.fixture(scope="module")
def cases(shared_dir):
    """Outputs of rashadaziz/low-resource-safety 42e8707, executed (see the reference's README, section 1)."""
    path = shared_dir / "reference" / "lrs_thresholds.json"
    if not path.exists():
        pytest.skip(f"no reference outputs at {path}")
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


def groups_of(case):
    return [Scores(np.array(s["harmful"]), np.array(s["harmless"])) for s in case["scores"].values()]


@pytest.mark.parametrize(("objective", "theirs"), [("balanced", "balanced_macro_f1"), ("plain", "macro_f1")])
def test_as_released_reproduces_every_case_of_the_authors_to_the_bit(cases, objective, theirs):
    assert len(cases) == 93 and {c["kind"] for c in cases} > {"k1_ordered", "k1_inverted", "k1_tied", "unequal_n", "roundoff_tie", "multi_language"}
    for case in cases:
        expected, curve = case["out"][theirs], f1_curve(groups_of(case), objective=objective, as_released=True)
        assert curve.candidates[curve.chosen] == expected["threshold"], case["id"]
        assert len(curve.candidates) == case["n_candidates"] and curve.candidates[0] == case["cand_first"]
        if "curve" in expected:
            assert curve.f1.tolist() == expected["curve"] and curve.chosen == expected["argmax_index"], case["id"]


@pytest.mark.parametrize(("objective", "theirs"), [("balanced", "balanced_macro_f1"), ("plain", "macro_f1")])
def test_the_default_is_the_exact_rule_and_departs_where_round_off_decided(cases, objective, theirs):
    departures = []
    for case in cases:
        expected, curve = case["out"][theirs], f1_curve(groups_of(case), objective=objective)
        assert curve.candidates[curve.chosen] == expected["exact_rule_threshold"], case["id"]
        if curve.candidates[curve.chosen] != expected["threshold"]:
            departures.append(expected["threshold"] - curve.candidates[curve.chosen])
            assert expected["roundoff_departure"]
    assert departures and min(departures) > 0  # round-off only ever moved the authors' threshold up


def test_the_gate_fires_as_theirs_does(cases):
    for case in (c for c in cases if "gate_ge" in c):
        (scores,) = groups_of(case)
        chosen = BalancedF1(as_released=True).choose(*scores, Context()).threshold
        assert (scores.harmful >= chosen).astype(int).tolist() == case["gate_ge"]["harmful"], case["id"]
        assert (scores.harmless >= chosen).astype(int).tolist() == case["gate_ge"]["harmless"], case["id"]


@given(NUMBERS, NUMBERS)
def test_the_choice_is_the_lowest_of_the_best_by_fractions(harmful, harmless):
    def f1(t):
        tpr, fpr = Fraction(int((harmful > t).sum()), len(harmful)), Fraction(int((harmless > t).sum()), len(harmless))
        return 2 * tpr / (1 + tpr + fpr)

    best = max(candidate_thresholds(np.concatenate([harmful, harmless])), key=lambda t: (f1(t), -t))
    assert BalancedF1().choose(harmful, harmless, Context()).threshold == best


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.lists(st.integers(0, 7), min_size=1, max_size=6), st.sampled_from([1.0, -1.0, 0.3]))
def test_among_neighbouring_numbers_the_gate_fires_on_what_was_counted(harmful, harmless, start):
    ladder = [start]
    for _ in range(7):
        ladder.append(float(np.nextafter(ladder[-1], np.inf)))
    high, low = np.array(ladder)[harmful], np.array(ladder)[harmless]
    chosen = f1_curve([Scores(high, low)])
    caught, false = (np.mean(part >= chosen.candidates[chosen.chosen]) for part in (high, low))
    assert chosen.f1[chosen.chosen] == pytest.approx(2 * caught / (1 + caught + false))
    plain = f1_curve([Scores(np.array(harmful, dtype=float), np.array(harmless, dtype=float))])
    assert (chosen.chosen, chosen.f1.tolist()) == (plain.chosen, plain.f1.tolist()), "how far apart the scores are must not matter"


def test_a_midpoint_that_rounds_onto_the_lower_score_still_parts_the_two():
    low, high = 1.0, float(np.nextafter(1.0, 2.0))
    assert (low + high) / 2 == low
    threshold = BalancedF1().choose(np.array([high]), np.array([low]), Context()).threshold
    assert high >= threshold > low
    assert BalancedF1(as_released=True).choose(np.array([high]), np.array([low]), Context()).threshold == low, "the authors' gate fires on both"


@given(NUMBERS, NUMBERS, st.integers(-3, 3), st.randoms())
def test_the_choice_ignores_order_and_follows_shift_and_scale(harmful, harmless, power, random):
    def decided(h, s):
        t = BalancedF1().choose(h, s, Context()).threshold
        return [*(h >= t), *(s >= t)]

    before = decided(harmful, harmless)
    assert decided(harmful * 2.0**power + 5, harmless * 2.0**power + 5) == before
    mixed = list(harmful)
    random.shuffle(mixed)
    assert BalancedF1().choose(np.array(mixed), harmless, Context()) == BalancedF1().choose(harmful, harmless, Context())


def test_one_ordered_pair_gives_the_midpoint_and_an_inverted_one_warns():
    assert BalancedF1().choose(np.array([3.0]), np.array([1.0]), Context()).threshold == 2.0
    inverted = BalancedF1().choose(np.array([1.0]), np.array([3.0]), Context(language="qad"))
    assert inverted.threshold == 1.0 - 1e-6 and "best F1 0.667" in inverted.reason
    assert "'qad' are not in order" in inverted.caution and "flag nearly everything" in inverted.caution
    assert "draw other or more examples" in inverted.caution and "MomentMatching()" in inverted.caution and "Shrinkage" not in inverted.caution
    assert BalancedF1().choose(np.array([2.0]), np.array([2.0]), Context()).threshold == 2.0 - 1e-6


def test_without_examples_the_rule_runs_on_the_pooled_sources():
    sources = {"qaa": Scores(np.array([2.0, 3.0]), np.array([0.0])), "qab": Scores(np.array([5.0]), np.array([1.0, -1.0]))}
    chosen = BalancedF1().choose(np.empty(0), np.empty(0), Context(sources))
    assert chosen.threshold == 1.5 and "source scores" in chosen.reason and not chosen.caution
    with pytest.raises(DataError, match="needs the source languages' scores, and got 0 harmful and 0 harmless"):
        BalancedF1().choose(np.empty(0), np.empty(0), Context())


def test_the_margin_survives_scores_where_it_would_vanish():
    chosen = BalancedF1().choose(np.array([1e12]), np.array([3e12]), Context()).threshold
    assert chosen < 1e12


def test_bad_examples_are_refused():
    with pytest.raises(DataError, match=r"All 2 examples of 'qad' carry the same label"):
        BalancedF1().choose(np.array([1.0, 2.0]), np.empty(0), Context(language="qad"))
    with pytest.raises(DataError, match="1 of them not finite"):
        BalancedF1().choose(np.array([1.0, np.nan]), np.array([0.0]), Context())
    with pytest.raises(DataError, match="Did you mean 'balanced'"):
        BalancedF1(objective="balance").choose(np.array([1.0]), np.array([0.0]), Context())


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5))
def test_plain_and_balanced_agree_on_equal_classes(n, seed):
    rng = np.random.default_rng(seed)
    scores = Scores(rng.normal(1, 1, n), rng.normal(0, 1, n))
    assert f1_curve([scores]).chosen == f1_curve([scores], objective="plain").chosen
