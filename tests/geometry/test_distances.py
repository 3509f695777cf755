"""Sums over one distance matrix equal scikit-learn, deleting rows, and going through every pair by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import additive
from sklearn.metrics import silhouette_score

from tests.benchmarks.coverage import copied_rows
from workbench.errors import DataError
from workbench.geometry import distances as module
from workbench.geometry.distances import (
    cosine_distances,
    grid_silhouettes,
    label_silhouette,
    permuted_meaning_silhouettes,
    silhouettes_without_each_language,
    weighted_silhouettes,
)
from workbench.statistics import bootstrap_weights


def grid(rng, language, meaning, *, n_languages=7, n=10, hidden=64):
    return additive(rng, [language], [meaning], n_languages=n_languages, n=n, hidden=hidden)[:, :, 0, 0]


def distances_of(states):
    return cosine_distances(states.reshape(-1, states.shape[-1]))


@pytest.fixture
def in_float32(monkeypatch):
    monkeypatch.setattr(module, "_SMALL", 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(2, 8), st.integers(0, 10_000))
def test_both_silhouettes_agree_with_scikit_learn(n_languages, n, seed):
    states = grid(np.random.default_rng(seed), 0.6, 0.6, n_languages=n_languages, n=n, hidden=9)
    flat = states.reshape(n_languages * n, -1)
    language, meaning = np.repeat(np.arange(n_languages), n), np.tile(np.arange(n), n_languages)
    values, _ = grid_silhouettes(distances_of(states), n_languages)
    expected = [silhouette_score(flat, labels, metric="cosine") for labels in (language, meaning)]
    assert values == pytest.approx([*expected, expected[1] - expected[0]], abs=1e-9)
    assert [label_silhouette(distances_of(states), labels) for labels in (language, meaning)] == pytest.approx(expected, abs=1e-9)


def test_uneven_clusters_and_singletons_agree_with_scikit_learn(rng):
    rows, labels = rng.normal(size=(11, 6)), np.array(list("aaaabbbccdd"))
    labels[-1] = "alone"
    assert label_silhouette(cosine_distances(rows), labels) == pytest.approx(silhouette_score(rows, labels, metric="cosine"))
    with pytest.raises(DataError, match="Expected between 2 and 10"):
        label_silhouette(cosine_distances(rows), np.arange(11))


def shapes_of_states(rng):
    """States that float32 products get wrong when rounding is relative to the states instead of their spread."""
    language, meaning, noise = rng.normal(size=(4, 1, 96)), rng.normal(size=(1, 12, 96)), rng.normal(size=(4, 12, 96))
    shared, dialect = 5000 * rng.normal(size=96), language.copy()
    dialect[1] = dialect[0] + 1e-3 * rng.normal(size=(1, 96))
    outlier = shared + 0.1 * (language + meaning + noise)
    outlier[0, 0] = rng.normal(size=96)
    return {
        "alike in length": language + meaning + noise,
        "one direction holds nearly all": shared + language + meaning + noise,
        "towers with little inside": language + 1e-3 * (meaning + noise),
        "two dialects": dialect + 1e-3 * (meaning + noise),
        "an outlier beside close rows": outlier,
        "one token per language": np.repeat(language, 12, axis=1),
    }


@pytest.mark.parametrize("name", list(shapes_of_states(np.random.default_rng(0))))
def test_float32_products_give_the_silhouettes_of_float64(name, rng, monkeypatch):
    states = shapes_of_states(rng)[name].astype(np.float32)
    exact, without = grid_silhouettes(distances_of(states), 4)
    monkeypatch.setattr(module, "_SMALL", 0)
    rounded = distances_of(states)
    values, left = grid_silhouettes(rounded, 4)
    assert rounded.dtype == np.float32
    assert values == pytest.approx(exact, abs=1e-7) and left == pytest.approx(without, abs=1e-6)


def test_a_shared_direction_needs_no_second_product_in_float64(rng, in_float32, monkeypatch):
    used, once = [], module._distances
    monkeypatch.setattr(module, "_distances", lambda states, precision: used.append(precision) or once(states, precision))
    shapes = shapes_of_states(rng)
    cosine_distances(shapes["one direction holds nearly all"].reshape(48, -1))
    assert used == [np.float32]
    cosine_distances(shapes["two dialects"].reshape(48, -1))
    assert used == [np.float32, np.float32, np.float64]


def test_equal_rows_are_at_exactly_zero_in_either_precision(rng, in_float32):
    rows = rng.normal(size=(6, 500)) + 40
    rows[3] = 2.5 * rows[1]
    distances = cosine_distances(rows)
    assert distances[1, 3] == 0 and (np.diag(distances) == 0).all() and (distances[np.triu_indices(6, 1)] > 0).sum() == 14
    assert (cosine_distances(np.ones((5, 7))) == 0).all()
    assert (cosine_distances(np.ones((5, 7)) + 1e-7 * rng.normal(size=(5, 7))) == 0).all()  # one token, computed in two batches


def test_distances_are_scipys(rng):
    from scipy.spatial.distance import cdist

    rows = rng.normal(size=(200, 17)) + 1
    assert cosine_distances(rows) == pytest.approx(cdist(rows, rows, "cosine"), abs=1e-12)


@pytest.mark.parametrize("hidden", [12, 48])
def test_leaving_out_a_meaning_or_a_language_equals_computing_without_it(hidden, rng):
    states = grid(rng, 0.7, 0.7, n_languages=4, n=9, hidden=hidden)
    distances = distances_of(states)
    _, without = grid_silhouettes(distances, 4)
    for i in range(9):
        assert without[i] == pytest.approx(grid_silhouettes(distances_of(np.delete(states, i, axis=1)), 4)[0], abs=1e-12)
    left = silhouettes_without_each_language(distances, 4)
    for a in range(4):
        assert left[a] == pytest.approx(grid_silhouettes(distances_of(np.delete(states, a, axis=0)), 3)[0], abs=1e-12)
    assert np.isnan(silhouettes_without_each_language(distances_of(states[:2]), 2)).all()


def by_hand(distances, n_languages, weights):
    """Every copy a row of its own; a copy of one's own meaning is no neighbour, one's own translation is."""
    n = len(weights)
    copies = np.repeat(np.arange(n), weights.astype(int)).tolist()

    def distance(a, i, b, j):
        return distances[a * n + i, b * n + j]

    by_language, by_meaning = [], []
    for a in range(n_languages):
        for i in copies:
            others = [j for j in copies if j != i]
            to = [np.mean([distance(a, i, b, j) for j in [*others, i]]) for b in range(n_languages) if b != a]
            own, near = np.mean([distance(a, i, a, j) for j in others]), min(to)
            by_language.append((near - own) / max(near, own))
            own = np.mean([distance(a, i, b, i) for b in range(n_languages) if b != a])
            near = min(np.mean([distance(a, i, b, j) for b in range(n_languages)]) for j in others)
            by_meaning.append((near - own) / max(near, own))
    language, meaning = np.mean(by_language), np.mean(by_meaning)
    return [language, meaning, meaning - language]


def test_weights_equal_copies_counted_by_hand(rng, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 60)  # three resamples at a time
    distances = distances_of(grid(rng, 0.6, 0.6, n_languages=3, n=6, hidden=10))
    weights = np.array([*bootstrap_weights(6, 7, rng), [5, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 1]], dtype=float)
    assert weighted_silhouettes(distances, 3, weights) == pytest.approx(np.array([by_hand(distances, 3, w) for w in weights]), abs=1e-12)


def test_weights_of_one_and_of_zero_are_the_plain_and_the_left_out_silhouettes(rng):
    distances = distances_of(grid(rng, 0.5, 0.8, n_languages=5, n=8, hidden=16))
    values, without = grid_silhouettes(distances, 5)
    found = weighted_silhouettes(distances, 5, np.array([np.ones(8), *(1 - np.eye(8))]))
    assert found == pytest.approx(np.array([values, *without]), abs=1e-12)
    assert np.isnan(weighted_silhouettes(distances, 5, np.array([[8.0, 0, 0, 0, 0, 0, 0, 0], np.zeros(8)]))).all()


def test_weights_in_float32_give_what_float64_gives(rng, in_float32):
    states = grid(rng, 0.5, 0.8, n_languages=4, n=20, hidden=16)
    rounded, weights = distances_of(states), bootstrap_weights(20, 30, rng)
    assert rounded.dtype == np.float32
    assert weighted_silhouettes(rounded, 4, weights) == pytest.approx(weighted_silhouettes(rounded.astype(np.float64), 4, weights), abs=1e-5)


def test_counting_copies_as_neighbours_is_what_scikit_learn_says_of_copied_rows(rng):
    """The bootstrap that does not cover, as the coverage table computes it."""
    states = grid(rng, 0.4, 0.4, n_languages=3, n=7, hidden=12)
    weights = bootstrap_weights(7, 4, rng)
    for w, found in zip(weights, copied_rows(distances_of(states), 3, weights), strict=True):
        drawn = np.repeat(np.arange(7), w.astype(int))
        copied = states[:, drawn].reshape(21, -1)
        language, meaning = (silhouette_score(copied, labels, metric="cosine") for labels in (np.repeat(np.arange(3), 7), np.tile(drawn, 3)))
        assert found == pytest.approx(meaning - language, abs=1e-9)


@pytest.mark.parametrize("chunk", [2**19, 40])
def test_permuted_meanings_equal_permuting_the_rows(chunk, rng, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    states = grid(rng, 0.5, 0.8, n_languages=3, n=6, hidden=12)
    orders = np.stack([[rng.permutation(6) for _ in range(3)] for _ in range(4)])
    fast = permuted_meaning_silhouettes(distances_of(states), orders)
    slow = [grid_silhouettes(distances_of(np.stack([states[a][o[a]] for a in range(3)])), 3)[0][1] for o in orders]
    assert fast == pytest.approx(slow, abs=1e-5)


def test_rows_without_direction_are_counted(rng):
    rows = rng.normal(size=(300, 4))
    rows[[5, 200]] = 0
    with pytest.raises(DataError, match="2 states are all zero"):
        cosine_distances(rows)
