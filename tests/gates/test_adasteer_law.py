"""The released ramps give what the card says they give, and a planted law is found again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import DataError
from workbench.gates.adasteer_law import RELEASED, Ramp, fit_ramp, position, released_law, smallest_sufficient, sufficient_by_bin


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), hidden=st.integers(1, 20), scale=st.floats(1e-3, 1e3))
def test_positions_are_0_and_100_at_the_anchors_and_the_scale_of_the_stream_does_not_matter(seed, hidden, scale):
    rng = np.random.default_rng(seed)
    zero, hundred = rng.normal(size=(2, hidden)) * scale
    ends = position(np.stack([zero, hundred, (zero + hundred) / 2]), zero, hundred)
    np.testing.assert_allclose(ends, [0, 100, 50], atol=1e-8)
    states = rng.normal(size=(5, hidden)) * scale
    found = position(states, zero, hundred)
    np.testing.assert_allclose(position(7 * states, 7 * zero, 7 * hundred), found, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(position(states, hundred, zero), 100 - found, rtol=1e-8, atol=1e-6)
    order = rng.permutation(5)
    assert (position(states[order], zero, hundred) == found[order]).all() and position(states[2:3], zero, hundred)[0] == found[2]


@pytest.mark.parametrize(
    ("model", "at_zero", "at_hundred"), [("qwen2.5-7b-instruct", 0.2, -0.8), ("gemma-2-9b-it", -0.08, 0.08), ("llama-3.1-8b-instruct", -0.83, -0.83)]
)
def test_one_shared_vector_with_the_released_constants_gives_the_cards_net_coefficients(model, at_zero, at_hundred):
    """Card 1.11, fairness flag 2: what the adapted port adds at its two class centroids."""
    law = released_law(model)
    net = law.rejection(np.array([0.0, 100.0])) + law.harmfulness(np.array([0.0, 100.0]))
    np.testing.assert_allclose(net, [at_zero, at_hundred], atol=1e-12)


def test_the_released_ramps_turn_where_they_are_said_to_turn():
    """Reference README 4: Qwen's alpha changes over 2 hundredths (138 to 140), Llama's over 7 (-71 to -64); Llama's beta has no upper clamp."""
    qwen, llama = RELEASED["qwen2.5-7b-instruct"], RELEASED["llama-3.1-8b-instruct"]
    np.testing.assert_allclose(qwen.rejection(np.array([0, 138, 139, 140, 200])), [-0.2, -0.2, -0.1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(llama.rejection(np.array([-80, -71, -64, 0])), [-0.22, -0.22, -0.08, -0.08], atol=1e-12)
    assert qwen.rejection.width == pytest.approx(2) and llama.rejection.width == pytest.approx(7)
    assert llama.harmfulness(np.array([-120.0]))[0] == pytest.approx(5.25)
    assert (qwen.rejection_layer, qwen.harmfulness_layer) == (6, 14)  # blocks 5 and 13


def test_a_planted_law_is_found_from_what_sufficed_on_a_grid(rng):
    planted, grid = Ramp(-0.002, 0.0, 0.2, 0.0, 0.2), np.linspace(0, 0.3, 61)
    where = rng.uniform(-50, 150, size=400)
    needed = smallest_sufficient(grid, grid >= planted(where)[:, None] - 1e-12)
    inside = (where > 0) & (where < 100)
    found = fit_ramp(where[inside], needed[inside])
    assert found.ramp.slope == pytest.approx(planted.slope, rel=0.03) and found.correlation < -0.99 and found.unreached == 0
    np.testing.assert_allclose(found.ramp(where), planted(where), atol=0.01)
    shuffled = fit_ramp(where[inside], rng.permutation(needed[inside]))
    assert abs(shuffled.ramp.slope) < 0.2 * abs(planted.slope)


def test_bins_ask_for_a_share_of_their_prompts(rng):
    where, grid = rng.uniform(0, 100, size=200), [0.0, 0.1, 0.2]
    noisy = (np.array(grid) >= 0.2 * (where[:, None] < 50)) & (rng.random((200, 1)) < 0.97)
    centres, needed = sufficient_by_bin(where, grid, noisy, bins=4, share=0.8)
    assert needed.tolist() == [0.2, 0.2, 0.0, 0.0] and (np.diff(centres) > 0).all()
    assert np.isnan(sufficient_by_bin(where, grid, noisy & False, bins=4)[1]).all()


def test_prompts_that_nothing_sufficed_for_are_left_out_and_counted():
    found = fit_ramp(np.array([0.0, 50.0, 100.0, 10.0]), np.array([0.2, 0.1, 0.0, np.nan]))
    assert found.unreached == 0.25 and found.ramp(np.array([0.0]))[0] == pytest.approx(0.2)
    assert smallest_sufficient([0.1, -0.2, 0.0], np.array([[True, True, False]])).tolist() == [0.1]


def test_what_is_no_law_is_refused():
    with pytest.raises(DataError, match=r"Did you mean 'qwen2\.5-7b-instruct'"):
        released_law("qwen2.5-7b")
    with pytest.raises(DataError, match="low <= high"):
        Ramp(1.0, low=1.0, high=0.0)
    with pytest.raises(DataError, match="nothing lies between"):
        position(np.ones((2, 3)), np.ones(3), np.ones(3))
    with pytest.raises(DataError, match=r"twice \(hidden,\)"):
        position(np.ones((2, 3)), np.ones(3), np.zeros(4))
    with pytest.raises(DataError, match="0 among"):
        smallest_sufficient([0.1], np.array([[True]]))
    with pytest.raises(DataError, match="no more bins"):
        sufficient_by_bin(np.zeros(2), [0.0], np.ones((2, 1), dtype=bool), bins=3)
    for where, needed, message in (([0.0, 1.0], [np.nan, 1.0], "1 of 2"), ([1.0, 1.0], [0.0, 1.0], "all at one position")):
        with pytest.raises(DataError, match=message):
            fit_ramp(np.array(where), np.array(needed))
