"""Unbiased CKA equals its definition, ignores rotation and scale, and does not mistake many dimensions for similarity."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import DataError
from workbench.geometry.cka import centred_gram, cka_without, cosine_of, hsic_without, linear_cka, permuted, u_centred


def unbiased_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The U-statistic itself: a mean over all ordered quadruples of distinct meanings."""
    found = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(len(k)), 4)]
    return float(np.mean(found))


def plain_cka(x: np.ndarray, y: np.ndarray) -> float:
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return unbiased_hsic(k, l) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(l, l))


@pytest.mark.parametrize("n", [4, 5, 7])
def test_it_equals_the_mean_over_all_quadruples(n, rng):
    x, y = rng.normal(size=(n, 6)), rng.normal(size=(n, 3))
    assert linear_cka(x, y) == pytest.approx(plain_cka(x, y))
    k, l = u_centred(centred_gram(x)), u_centred(centred_gram(y))  # noqa: E741
    assert (k * l).sum() / (n * (n - 3)) == pytest.approx(unbiased_hsic(x @ x.T, y @ y.T))


def test_leaving_out_a_meaning_equals_computing_without_it(rng):
    x = rng.normal(size=(7, 5))
    y = x[:, :3] + rng.normal(size=(7, 3))
    one, two = centred_gram(x), centred_gram(y)
    for i in range(7):
        rest = np.arange(7) != i
        assert hsic_without(one, two)[i] == pytest.approx(unbiased_hsic((x @ x.T)[np.ix_(rest, rest)], (y @ y.T)[np.ix_(rest, rest)]))
        assert cka_without(one, two)[i] == pytest.approx(linear_cka(x[rest], y[rest]))
    assert np.isnan(cka_without(one[:4, :4], two[:4, :4])).all()


def test_the_biased_form_is_the_textbook_formula(rng):
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(12, 4))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    textbook = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(x, y, unbiased=False) == pytest.approx(textbook)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.integers(4, 15))
def test_rotation_scale_shift_and_the_order_of_meanings_change_nothing(seed, scale, n):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 6)), rng.normal(size=(n, 6))
    y = y + x
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    order = rng.permutation(n)
    value = linear_cka(x, y)
    assert linear_cka(x, scale * y @ rotation + 3) == pytest.approx(value, abs=1e-8)
    assert linear_cka(x[order], y[order]) == pytest.approx(value, abs=1e-8)
    assert linear_cka(y, x) == pytest.approx(value, abs=1e-8)
    assert linear_cka(x, 2 * x @ rotation - 1) == pytest.approx(1)
    assert -1 - 1e-9 <= value <= 1 + 1e-9


def test_many_dimensions_make_noise_similar_to_the_biased_form_only(rng):
    biased, unbiased = [], []
    for _ in range(10):
        x, y = rng.normal(size=(2, 40, 2000))
        biased.append(linear_cka(x, y, unbiased=False))
        unbiased.append(linear_cka(x, y))
    assert min(biased) > 0.97
    assert abs(np.mean(unbiased)) < 0.04 and np.max(np.abs(unbiased)) < 0.15


def test_permuting_a_matrix_equals_permuting_the_meanings(rng):
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 4))
    shuffles = np.stack([rng.permutation(9) for _ in range(3)])
    one, two = u_centred(centred_gram(x)), u_centred(centred_gram(y))
    fast = permuted(two, shuffles) @ one.ravel() / (np.linalg.norm(one) * np.linalg.norm(two))
    assert fast == pytest.approx([linear_cka(x, y[s]) for s in shuffles], abs=1e-5)
    assert permuted(two, shuffles[:0]).shape == (0, 81)


def test_one_state_has_no_shape_and_too_few_meanings_are_refused(rng):
    assert np.isnan(linear_cka(np.zeros((6, 3)), rng.normal(size=(6, 3))))
    assert np.isnan(cosine_of(np.zeros((2, 2)), np.eye(2)))
    with pytest.raises(DataError, match="at least 4"):
        linear_cka(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(DataError, match="5 and 6 meanings"):
        linear_cka(np.zeros((5, 2)), np.zeros((6, 2)))
