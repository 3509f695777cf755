"""Angles and residuals agree with scipy, find what was planted, and give chance on noise however wide it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes, subspace_angles

from workbench.errors import DataError
from workbench.geometry.subspaces import (
    angle_between,
    held_out_residual,
    leading,
    mean_angle,
    principal_angle,
    procrustes_residual,
    random_angles,
    split_half_angle,
    subset_interval,
)


def centred(states):
    return states - states.mean(axis=0)


def axes_of(states, k):
    return np.linalg.svd(centred(states), full_matrices=False)[2][:k].T


def rotation_of(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


@pytest.mark.parametrize(("n", "hidden", "k"), [(20, 8, 3), (12, 60, 4), (40, 40, 1)])
def test_angles_are_those_of_scipy(n, hidden, k, rng):
    first, second = rng.normal(size=(2, n, hidden)) + rng.normal(size=(2, 1, hidden))
    expected = np.degrees(subspace_angles(axes_of(first, k), axes_of(second, k))).mean()
    assert principal_angle(first, second, k) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_angles_ignore_scale_shift_order_and_a_common_rotation_but_not_a_rotation_of_one(seed, scale):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(30, 12)) * np.linspace(3, 0.3, 12)
    second = first + rng.normal(size=(30, 12))
    rotation = rotation_of(rng, 12)
    value = principal_angle(first, second, 3)
    assert principal_angle(first @ rotation, (scale * second + 5) @ rotation, 3) == pytest.approx(value, abs=1e-5)
    assert principal_angle(first, second[rng.permutation(30)], 3) == pytest.approx(value, abs=1e-5)
    assert principal_angle(first, first, 3) == pytest.approx(0, abs=1e-4)
    assert principal_angle(first, first @ rotation, 3) > 10


def test_a_planted_angle_is_found(rng):
    scores = rng.normal(size=(50, 2)) @ np.diag([3, 2])
    tilted = np.zeros((2, 6))
    tilted[0, 0], tilted[0, 2] = np.cos(np.radians(30)), np.sin(np.radians(30))
    tilted[1, 1] = 1
    assert principal_angle(np.pad(scores, ((0, 0), (0, 4))), scores @ tilted, 2) == pytest.approx(15, abs=1e-4)


def test_random_subspaces_have_the_angles_of_explicitly_drawn_ones(rng):
    for k, hidden in ((3, 40), (4, 9), (4, 6), (5, 5)):
        drawn = []
        for _ in range(300):
            one, two = (np.linalg.qr(rng.normal(size=(hidden, k)))[0] for _ in range(2))
            drawn.append(mean_angle(np.linalg.svd(one.T @ two, compute_uv=False)))
        fast = random_angles(k, hidden, 300, rng)
        error = np.hypot(np.std(drawn), fast.std()) / np.sqrt(300)
        assert abs(np.mean(drawn) - fast.mean()) < 4 * error + 1e-6 and fast.std() == pytest.approx(np.std(drawn), rel=0.25, abs=1e-5)


def test_halves_of_one_language_lie_closer_than_random_subspaces_when_it_varies_in_few_directions(rng):
    few = rng.normal(size=(60, 4)) @ (5 * rng.normal(size=(4, 80))) + rng.normal(size=(60, 80))
    halves = np.stack([rng.permutation(np.arange(60) < 30) for _ in range(4)])
    states = centred(few)
    value = split_half_angle(states @ states.T, 4, halves)
    expected = np.mean([principal_angle(few[h], few[~h], 4) for h in halves])
    assert value == pytest.approx(expected) and value < 15 < random_angles(4, 80, 50, rng).mean() - 50
    assert np.isnan(split_half_angle(states @ states.T, 4, halves[:0]))


def test_directions_without_variance_are_no_components(rng):
    flat = rng.normal(size=(20, 2)) @ rng.normal(size=(2, 9))
    gram = centred(flat) @ centred(flat).T
    assert leading(gram, 2) is not None and leading(gram, 3) is None
    assert leading(np.zeros((5, 5)), 1) is None and leading(gram[:3, :3], 3) is None
    assert np.isnan(principal_angle(flat, rng.normal(size=(20, 9)), 3))
    with pytest.raises(DataError, match="widths 9 and 8"):
        principal_angle(flat, flat[:, :8], 1)


def test_scores_and_axes_are_those_of_a_singular_value_decomposition(rng):
    states = rng.normal(size=(15, 30)) + 7
    found = leading(states @ states.T, 4)  # centring is done inside
    u, s, vt = np.linalg.svd(centred(states), full_matrices=False)
    assert found.values == pytest.approx(s[:4] ** 2)
    assert np.abs(found.scores.T @ (u[:, :4] * s[:4])) == pytest.approx(np.diag(s[:4] ** 2), abs=1e-8)
    other = leading(states[::-1] @ states[::-1].T, 4)
    assert angle_between(found, other, centred(states) @ centred(states)[::-1].T) == pytest.approx(0, abs=1e-4)
    assert vt.shape == (15, 30)


def test_the_residual_in_sample_is_that_of_scipys_map(rng):
    one, two = (centred(s) / np.linalg.norm(centred(s)) for s in rng.normal(size=(2, 25, 4)))
    q, _ = orthogonal_procrustes(one, two)
    assert procrustes_residual(3 * one + 1, two) == pytest.approx(np.linalg.norm(one @ q - two) ** 2 / 2)


def test_the_residual_held_out_is_that_of_scipys_map_fold_by_fold(rng):
    first, folds = rng.normal(size=(23, 3)), np.arange(23) % 4
    second = np.stack([first @ rotation_of(rng, 3) + 0.5 * rng.normal(size=(23, 3)), rng.normal(size=(23, 3))])
    for case in range(2):
        left = total = 0.0
        for fold in range(4):
            fit = folds != fold
            scaled = []
            for states in (first, second[case]):
                mean = states[fit].mean(axis=0)
                norm = np.linalg.norm(states[fit] - mean)
                scaled.append(((states[fit] - mean) / norm, (states[~fit] - mean) / norm))
            (one, one_test), (two, two_test) = scaled
            q, _ = orthogonal_procrustes(one, two)
            left += np.linalg.norm(one_test @ q - two_test) ** 2
            total += np.linalg.norm(one_test) ** 2 + np.linalg.norm(two_test) ** 2
        assert held_out_residual(first, second, folds)[case] == pytest.approx(left / total)
        assert held_out_residual(first, second[case], folds) == pytest.approx(left / total)


def test_a_rotation_leaves_nothing_and_noise_leaves_everything_where_the_plain_residual_is_fooled(rng):
    folds = np.arange(60) % 5
    residuals = []
    for _ in range(40):
        first, second = rng.normal(size=(2, 60, 300))
        scores = [leading(centred(s) @ centred(s).T, 10).scores for s in (first, second)]
        residuals.append((procrustes_residual(*scores), float(held_out_residual(*scores, folds))))
    in_sample, held_out = np.mean(residuals, axis=0)
    assert procrustes_residual(first, second) < 0.15
    assert 0.5 < in_sample < 0.8 and held_out == pytest.approx(1, abs=0.03)
    turned = (4 * first + 2) @ rotation_of(rng, 300)  # its own components, so nothing of the rotated copy is cut off
    scores = [leading(centred(s) @ centred(s).T, 10).scores for s in (first, turned)]
    assert held_out_residual(*scores, folds) == pytest.approx(0, abs=1e-8)
    assert held_out_residual(scores[0], scores[1][rng.permutation(60)], folds) > 0.8


def test_one_meaning_that_holds_all_variance_gives_a_finite_residual():
    lone = np.zeros((10, 1))
    lone[3] = 5.0
    assert np.isfinite(held_out_residual(lone, lone, np.arange(10) % 5))


def test_an_interval_from_subsets_grows_with_their_spread_and_needs_three(rng):
    low, high = subset_interval(2.0, np.array([1.0, 2.0, 3.0]), n=30, left_out=10)
    assert (low + high) / 2 == pytest.approx(2) and high - low == pytest.approx(2 * 4.302653 * np.sqrt(2), rel=1e-5)
    assert np.isnan(subset_interval(2.0, np.ones(2), 30, 10)).all() and np.isnan(subset_interval(2.0, np.array([1, np.nan, 2]), 30, 10)).all()
    means = rng.normal(size=(200, 60))
    covered = []
    for sample in means:
        subsets = np.array([sample[rng.permutation(60)[20:]].mean() for _ in range(20)])
        low, high = subset_interval(sample.mean(), subsets, 60, 20)
        covered.append(low <= 0 <= high)
    assert 0.9 <= np.mean(covered) <= 0.99
