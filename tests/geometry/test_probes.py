"""The probe is scikit-learn's logistic regression on unseen meanings; twins never straddle, and noise is at chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_score

from workbench.geometry.components import row_space
from workbench.geometry.probes import (
    PENALTY,
    auroc_placements,
    fit_logistic,
    folds_by_unit,
    permuted_labels,
    permuted_probe_aurocs,
    probe_auroc,
    probe_interval,
)
from workbench.statistics import auroc


def two_classes(rng, n, hidden, apart):
    harmful = np.arange(2 * n) % 2 == 0
    states = rng.normal(size=(2 * n, hidden)) / np.sqrt(np.arange(1, hidden + 1))
    states[:, 3] += apart * harmful
    return states, harmful


@pytest.mark.parametrize(("n", "hidden", "apart"), [(12, 200, 1.0), (40, 30, 0.5), (60, 20, 3.0)])
def test_the_probe_on_rotated_states_equals_scikit_learn_on_full_ones(n, hidden, apart, rng):
    states, harmful = two_classes(rng, n, hidden, apart)
    units = np.arange(2 * n)
    folds = folds_by_unit(units, harmful, rng.permutation(2 * n))
    found = probe_auroc(row_space(states), harmful, units, folds)
    centred = states - states.mean(axis=0)
    scaled = centred / np.sqrt((centred**2).sum(axis=1).mean())
    model = LogisticRegression(C=PENALTY, tol=1e-8, max_iter=20_000)
    expected = cross_val_score(model, scaled, harmful, cv=PredefinedSplit(folds), scoring="roc_auc")
    assert found.auroc == pytest.approx(expected.mean(), abs=1e-5)


def test_many_fits_at_once_are_the_same_weights_as_one_by_one(rng):
    states, _ = two_classes(rng, 25, 40, 1.0)
    features = row_space(states)
    targets, used = rng.random(size=(50, 3)) < 0.5, rng.random(size=(50, 3)) < 0.8
    found = fit_logistic(features, targets, used, penalty=2.0, tolerance=1e-8)
    for k in range(3):
        model = LogisticRegression(C=2.0, tol=1e-10, max_iter=20_000).fit(features[used[:, k]], targets[used[:, k], k])
        assert found[:, k] == pytest.approx(model.coef_[0], abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 10), st.integers(0, 2**16))
def test_folds_hold_both_classes_and_never_split_a_pair(n_harmful, n_harmless, n_pairs, seed):
    rng = np.random.default_rng(seed)
    units = np.concatenate([np.repeat(np.arange(n_pairs), 2), n_pairs + np.arange(n_harmful + n_harmless)])
    harmful = np.concatenate([np.tile([True, False], n_pairs), np.arange(n_harmful + n_harmless) < n_harmful])
    folds = folds_by_unit(units, harmful, rng.permutation(units.max() + 1))
    assert folds is not None
    for unit in range(n_pairs):
        assert len(set(folds[units == unit])) == 1
    for fold in range(folds.max() + 1):
        assert set(harmful[folds == fold]) == {True, False}
    drawn = permuted_labels(harmful, units, 7, rng, within=folds)
    for fold in range(folds.max() + 1):
        assert (drawn[:, folds == fold].sum(axis=1) == harmful[folds == fold].sum()).all()
    for unit in range(n_pairs):
        assert (drawn[:, units == unit].sum(axis=1) == 1).all()


def test_one_prompt_of_a_class_cannot_be_cross_validated():
    assert folds_by_unit(np.arange(6), np.arange(6) < 1, np.arange(6)) is None


def test_a_fold_agrees_between_languages_with_the_same_meanings(rng):
    rank, harmful = rng.permutation(20), np.arange(20) < 10
    order = rng.permutation(20)
    first, second = folds_by_unit(np.arange(20), harmful, rank), folds_by_unit(order, harmful[order], rank)
    assert (second == first[order]).all()


def test_a_probe_that_sees_the_twin_would_cheat_and_ours_does_not(rng):
    """Twins share a topic that says nothing of the class, except that one twin's class tells the other's."""
    n = 40
    topic = np.repeat(4 * rng.normal(size=(n, 60)), 2, axis=0)
    states, harmful = topic + 0.05 * rng.normal(size=topic.shape), np.tile([True, False], n)
    pairs, rank = np.repeat(np.arange(n), 2), rng.permutation(n)
    features = row_space(states)
    honest = probe_auroc(features, harmful, pairs, folds_by_unit(pairs, harmful, rank)).auroc
    straddling = folds_by_unit(np.arange(2 * n), harmful, rng.permutation(2 * n))
    cheating = probe_auroc(features, harmful, np.arange(2 * n), straddling).auroc
    assert 0.3 < honest < 0.7 and cheating < 0.3  # fitting one twin puts the other on the wrong side


def test_noise_is_at_chance_and_permuted_labels_say_so(rng):
    states, harmful = two_classes(rng, 60, 100, 0.0)
    units, features = np.arange(120), row_space(states)
    folds = folds_by_unit(units, harmful, rng.permutation(120))
    null = permuted_probe_aurocs(features, permuted_labels(harmful, units, 60, rng, within=folds), folds)
    assert abs(null.mean() - 0.5) < 0.04 and 0.03 < null.std() < 0.12
    value = probe_auroc(features, harmful, units, folds).auroc
    low, high = probe_interval(value, null, 60, 60)
    assert low < 0.5 < high and abs(value - 0.5) < 4 * null.std()


def test_a_permuted_probe_is_the_probe_on_permuted_labels(rng):
    states, harmful = two_classes(rng, 30, 50, 0.8)
    units, features = np.arange(60), row_space(states)
    folds = folds_by_unit(units, harmful, rng.permutation(60))
    drawn = permuted_labels(harmful, units, 8, rng, within=folds)
    quick = permuted_probe_aurocs(features, drawn, folds)
    slow = [probe_auroc(features, each, units, folds).auroc for each in drawn]
    assert quick == pytest.approx(slow, abs=0.02)


def test_the_interval_is_wider_than_that_of_a_fixed_score_and_keeps_a_width_at_one(rng):
    assert probe_interval(0.6, 0.5 + 0.1 * rng.normal(size=400), 50, 50) != probe_interval(0.6, np.array([0.5, 0.5]), 50, 50)
    wide, narrow = probe_interval(0.6, 0.5 + 0.1 * rng.normal(size=400), 50, 50), probe_interval(0.6, np.array([0.5, 0.5]), 50, 50)
    assert wide.high - wide.low > 1.4 * (narrow.high - narrow.low)
    perfect = probe_interval(1.0, 0.5 + 0.06 * rng.normal(size=400), 50, 50)
    assert perfect.high == 1.0 and perfect.low < 0.98


def test_placements_average_to_the_auroc_in_both_classes(rng):
    harmful, scores = rng.random(30) < 0.4, rng.integers(0, 9, size=30).astype(float)
    placed = auroc_placements(harmful, scores)
    assert placed[harmful].mean() == pytest.approx(auroc(harmful, scores))
    assert placed[~harmful].mean() == pytest.approx(roc_auc_score(harmful, scores))


def test_influence_values_are_centred_and_point_to_the_rows_that_rank_wrongly(rng):
    states, harmful = two_classes(rng, 30, 10, 1.5)
    units = np.arange(60)
    folds = folds_by_unit(units, harmful, rng.permutation(60))
    found = probe_auroc(row_space(states), harmful, units, folds)
    assert abs(found.influence.mean()) < 1e-12 and found.influence.std() > 0
    along = states[:, 3] - states[:, 3].mean()
    assert np.corrcoef(found.influence[harmful], along[harmful])[0, 1] > 0.3
    assert np.corrcoef(found.influence[~harmful], along[~harmful])[0, 1] < -0.3
