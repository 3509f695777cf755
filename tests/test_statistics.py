"""Intervals agree with published values and references, and cover; thresholds and AUROC treat ties as documented."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from workbench.errors import DataError
from workbench.statistics import (
    auroc,
    auroc_from_ranks,
    auroc_interval,
    auroc_p_value,
    auroc_score_interval,
    balanced_accuracy,
    balanced_accuracy_gap,
    balanced_accuracy_interval,
    best_threshold,
    bootstrap_weights,
    grouped_influence,
    holm,
    jackknife_influence,
    jackknife_interval,
    max_quantile,
    newcombe,
    newcombe_paired,
    two_way_interval,
    wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 7), (1, 10), (5, 12), (12, 12), (81, 263), (3, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_agrees_with_scipy(k, n, confidence):
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_refuses_more_successes_than_cases_and_is_undefined_without_cases():
    assert np.isnan(wilson(0, 0)).all()
    with pytest.raises(DataError, match="12 successes of 10"):
        wilson(12, 10)


@pytest.mark.parametrize(
    ("counts", "published"),
    [((56, 70, 48, 80), (0.0524, 0.3339)), ((9, 10, 3, 10), (0.1705, 0.8090)), ((6, 7, 2, 7), (0.0582, 0.8062)), ((10, 10, 0, 10), (0.6075, 1.0))],
)
def test_newcombe_reproduces_his_table(counts, published):
    """Newcombe 1998, Stat. Med. 17:873, table II, method 10."""
    _, low, high = newcombe(*counts)
    assert (low, high) == pytest.approx(published, abs=5e-5)


def test_newcombe_paired_reproduces_his_value_and_keeps_a_width_at_the_ends():
    """Newcombe 1998, Stat. Med. 17:2635, method 10."""

    def paired(*cells):
        return newcombe_paired(np.repeat([1, 1, 0, 0], cells).astype(bool), np.repeat([1, 0, 1, 0], cells).astype(bool))

    assert paired(36, 12, 2, 0) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)
    assert paired(54, 0, 0, 0).low < 0 < paired(54, 0, 0, 0).high
    assert 0.7 < paired(0, 30, 0, 0).low < paired(0, 30, 0, 0).high <= 1.0 + 1e-12
    assert np.isnan(paired(0, 0, 0, 0)).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
def test_auroc_agrees_with_scikit_learn_also_with_ties(rows):
    labels, scores = np.array([a for a, _ in rows]), np.array([float(b) for _, b in rows])
    if labels.all() or not labels.any():
        with pytest.raises(DataError, match="same label"):
            auroc(labels, scores)
        return
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auroc(labels, scores * 3 + 7) == pytest.approx(auroc(labels, scores), abs=1e-12)
    assert auroc(~labels, scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)


def test_auroc_of_equal_scores_is_one_half_and_further_axes_are_scored_separately(rng):
    labels = np.arange(20) < 8
    assert auroc(labels, np.ones(20)) == 0.5
    scores = rng.normal(size=(20, 3, 2))
    found = auroc(labels, scores)
    assert found.shape == (3, 2)
    assert found[1, 1] == pytest.approx(roc_auc_score(labels, scores[:, 1, 1]))
    draws = np.stack([rng.permutation(labels) for _ in range(5)])
    from scipy.stats import rankdata

    assert auroc_from_ranks(draws, rankdata(scores, axis=0))[3, 1, 1] == pytest.approx(roc_auc_score(draws[3], scores[:, 1, 1]))


def test_auroc_refuses_scores_that_are_not_finite_or_do_not_match():
    with pytest.raises(DataError, match="not finite"):
        auroc(np.array([True, False]), np.array([np.nan, 1.0]))
    with pytest.raises(DataError, match="one label per row"):
        auroc(np.array([True, False]), np.array([1.0, 2.0, 3.0]))


def test_a_perfect_auroc_still_has_an_interval_and_more_rows_narrow_it():
    few, many = auroc_score_interval(1.0, 16, 16), auroc_score_interval(1.0, 160, 160)
    assert few.high == many.high == 1.0
    assert 0.75 < few.low < many.low < 1.0
    assert auroc_score_interval(0.0, 16, 16).high == pytest.approx(1 - few.low, abs=1e-6)
    assert np.isnan(auroc_score_interval(float("nan"), 5, 5).low)


@pytest.mark.parametrize("value", [0.6, 0.8, 0.95, 1.0])
def test_the_p_value_of_an_auroc_crosses_the_level_where_the_interval_crosses_the_limit(value):
    low = auroc_score_interval(value, 24, 30).low
    assert auroc_p_value(value, low - 1e-3, 24, 30) < 0.05 < auroc_p_value(value, low + 1e-3, 24, 30)
    assert auroc_p_value(value, 1.0, 24, 30) == 1.0
    assert auroc_p_value(value, float("nan"), 24, 30) == 1.0


def test_balanced_accuracy_agrees_with_scikit_learn(rng):
    labels, flagged = rng.random(50) < 0.3, rng.random(50) < 0.6
    assert balanced_accuracy(labels, flagged) == pytest.approx(balanced_accuracy_score(labels, flagged))
    found = balanced_accuracy_interval(labels, flagged)
    assert found.low < found.value < found.high


def test_no_wrong_decision_is_not_certainty():
    labels = np.arange(20) < 10
    found = balanced_accuracy_interval(labels, labels)
    assert found.value == found.high == 1.0 and found.low < 0.9
    gap = balanced_accuracy_gap(labels, labels, labels)
    assert gap.difference == 0 and gap.low < 0 < gap.high


def test_the_gap_of_two_decisions_has_the_right_sign_and_excludes_zero_when_it_is_large():
    labels = np.arange(60) < 30
    always = np.ones(60, dtype=bool)
    gap = balanced_accuracy_gap(labels, labels, always)
    assert gap.difference == 0.5 and gap.low > 0.2
    assert balanced_accuracy_gap(labels, always, labels).difference == -0.5


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=30))
def test_no_threshold_beats_the_chosen_one(rows):
    labels, scores = np.array([a for a, _ in rows]), np.array([float(b) for _, b in rows])
    if labels.all() or not labels.any():
        return
    found = best_threshold(labels, scores)
    assert balanced_accuracy(labels, scores > found.threshold) == pytest.approx(found.balanced_accuracy)
    assert all(balanced_accuracy(labels, scores > t) <= found.balanced_accuracy + 1e-12 for t in np.arange(-6, 6, 0.5))


def test_the_threshold_lies_midway_and_a_tie_goes_to_the_widest_gap_then_the_lowest():
    assert best_threshold(np.array([False, True]), np.array([1.0, 2.0])).threshold == 1.5
    # below 2 and below 9 decide equally well; the second gap is wider
    labels, scores = np.array([False, True, False, True]), np.array([1.0, 2.0, 3.0, 9.0])
    assert best_threshold(labels, scores).threshold == 6.0
    assert best_threshold(labels, np.array([1.0, 2.0, 3.0, 4.0])).threshold == 1.5


def test_bootstrap_weights_sum_to_the_number_of_groups(rng):
    weights = bootstrap_weights(12, 200, rng)
    assert (weights.sum(axis=1) == 12).all()
    assert weights.mean() == 1.0
    assert weights.var() == pytest.approx(11 / 12, rel=0.15)


def test_the_jackknife_of_a_mean_is_the_t_interval(rng):
    rows = rng.normal(size=(15, 2))
    influence = jackknife_influence(rows.mean(axis=0), (rows.sum(axis=0) - rows) / 14)
    assert influence == pytest.approx(rows - rows.mean(axis=0))
    low, high = jackknife_interval(rows.mean(axis=0), influence)
    half = 2.1448 * rows.std(axis=0, ddof=1) / np.sqrt(15)
    assert high - low == pytest.approx(2 * half, rel=1e-4)
    assert np.isnan(jackknife_interval(0.5, influence[:2])).all()


def test_holm_steps_down_and_never_exceeds_one():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]).max() == 1.0
    assert holm([0.2]).tolist() == [0.2]


def test_the_null_quantile_errs_upwards():
    assert max_quantile(np.arange(10.0)) == 9.0


@pytest.mark.slow
@pytest.mark.parametrize("n", [16, 32])
@pytest.mark.parametrize("truth", [0.5, 0.75, 0.9, 0.95, 0.99])
def test_auroc_intervals_cover_where_delong_fails(n, truth, rng):
    """DeLong covers .58 (n = 16) and .77 (n = 32) at .99; the score interval at least .93 everywhere."""
    labels, shift, inside = np.arange(2 * n) < n, norm.ppf(truth) * np.sqrt(2), 0
    for _ in range(300):
        _, low, high = auroc_interval(labels, rng.normal(size=2 * n) + shift * labels)
        inside += low <= truth <= high
    assert inside / 300 >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("shares", [(0.9, 0.9, 0.9, 0.9, 0.5), (0.95, 0.95, 0.6, 0.99, 0.5), (0.8, 0.7, 0.8, 0.7, 0.9)])
def test_balanced_accuracy_and_gap_intervals_cover(shares, rng):
    first_yes, first_no, second_yes, second_no, correlation = shares
    labels, inside, inside_gap = np.arange(64) < 32, 0, 0
    for _ in range(300):
        z = rng.normal(size=(2, 64))
        z[1] = correlation * z[0] + np.sqrt(1 - correlation**2) * z[1]
        right = norm.cdf(z) < np.stack([np.where(labels, first_yes, first_no), np.where(labels, second_yes, second_no)])
        decided = np.where(right, labels, ~labels)
        _, low, high = balanced_accuracy_interval(labels, decided[0])
        inside += low <= (first_yes + first_no) / 2 <= high
        _, low, high = balanced_accuracy_gap(labels, decided[0], decided[1])
        inside_gap += low <= (first_yes + first_no - second_yes - second_no) / 2 <= high
    assert inside / 300 >= 0.9 and inside_gap / 300 >= 0.92


def test_groups_of_one_keep_their_influence_and_equal_groups_add_up(rng):
    influence = rng.normal(size=(12, 3))
    influence -= influence.mean(axis=0)
    assert grouped_influence(influence, np.arange(12)) == pytest.approx(influence)
    twins = np.repeat(influence, 2, axis=0)  # a copy of every case adds no information: the interval must not shrink
    interval = jackknife_interval(np.zeros(3), grouped_influence(twins, np.repeat(np.arange(12), 2)))
    assert np.array(interval) == pytest.approx(np.array(jackknife_interval(np.zeros(3), influence)))


def test_the_grouped_jackknife_of_a_mean_leaves_out_whole_groups(rng):
    rows, group_of = rng.normal(size=(20, 1)) + np.repeat(rng.normal(size=(5, 1)), 4, axis=0), np.repeat(np.arange(5), 4)
    influence = jackknife_influence(rows.mean(axis=0), (rows.sum(axis=0) - rows) / 19)
    without = np.array([rows[group_of != k].mean(axis=0) for k in range(5)])
    assert grouped_influence(influence, group_of) == pytest.approx(jackknife_influence(rows.mean(axis=0), without))


def test_the_two_way_interval_covers_the_mean_of_a_crossed_grid(rng):
    """Rows, columns and cells all vary; over rows alone the interval misses, and twelve rows weigh as twelve."""
    covered = np.zeros(2)
    for _ in range(400):
        grid = rng.normal(size=(12, 1)) + 0.3 * rng.normal(size=(1, 40)) + rng.normal(size=(12, 40))
        value = grid.mean()
        rows, columns = grid.mean(axis=1) - value, grid.mean(axis=0) - value
        bounds = two_way_interval(value, columns, rows), jackknife_interval(value, columns)
        covered += [bool(low <= 0 <= high) for low, high in bounds]
    assert 0.93 <= covered[0] / 400 <= 0.99 and covered[1] / 400 < 0.6
    assert np.isnan(two_way_interval(0.5, np.array([0.1, -0.1]), rows)).all()
    assert two_way_interval(0.5, np.zeros(4), np.zeros(5)) == (0.5, 0.5)
