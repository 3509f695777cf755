"""MPO is zero exactly where nothing is to be learnt, MLC sees agreement between translations, and the spread sees what MLC cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.alignment.multilingual import between_prompt_spread, masked_mean_state, mlc_loss, mpo_loss, reward_gap
from workbench.errors import DataError


def drawn(rng, *shape):
    return torch.from_numpy(rng.normal(size=shape))


# --- MPO ---------------------------------------------------------------------------------------------------------------


def test_a_reward_gap_is_the_difference_of_the_mean_logprobs_and_changes_sign_with_the_sides(rng):
    chosen, rejected = drawn(rng, 5), drawn(rng, 5)
    long, short = torch.tensor([4, 1, 9, 2, 2]), torch.tensor([3, 3, 1, 7, 2])
    found = reward_gap(chosen, long, rejected, short)
    torch.testing.assert_close(found, torch.tensor([float(chosen[i]) / int(long[i]) - float(rejected[i]) / int(short[i]) for i in range(5)]).double())
    torch.testing.assert_close(reward_gap(rejected, short, chosen, long), -found)


def test_a_reward_gap_does_not_grow_with_length_alone():
    per_token = torch.tensor([-2.0, -2.0])
    lengths = torch.tensor([3, 300])
    assert reward_gap(per_token * lengths, lengths, per_token * 5, torch.tensor([5, 5])).equal(torch.zeros(2))


def test_mpo_costs_nothing_where_the_scaled_gaps_agree_and_no_state_moved(rng):
    gaps, states = drawn(rng, 6), drawn(rng, 8, 16)
    found = mpo_loss(gaps, 1.5 * gaps, states, states.clone(), beta=1.5)
    assert found.loss == 0 and found.gap_term == 0 and found.state_term == 0
    assert mpo_loss(gaps, gaps, states, states, beta=1.5).gap_term > 0
    assert mpo_loss(gaps, 1.5 * gaps, states + 0.1, states, beta=1.5).state_term > 0


def test_mpo_is_the_sum_of_two_plain_means_of_squares(rng):
    target, dominant, mine, theirs = (drawn(rng, *shape).numpy() for shape in ((6,), (6,), (8, 16), (8, 16)))
    found = mpo_loss(*(torch.from_numpy(part) for part in (target, dominant, mine, theirs)), beta=1.3)
    expected = np.mean((1.3 * target - dominant) ** 2) + np.mean((mine - theirs) ** 2)
    assert float(found.loss) == pytest.approx(expected)
    assert float(found.gap_term + found.state_term) == pytest.approx(expected)


def test_mpo_gives_the_reference_no_gradient(rng):
    target, dominant, mine, theirs = (drawn(rng, *shape).requires_grad_() for shape in ((6,), (6,), (8, 16), (8, 16)))
    mpo_loss(target, dominant, mine, theirs).loss.backward()
    assert target.grad.abs().min() > 0 and mine.grad.abs().min() > 0
    assert dominant.grad is None and theirs.grad is None


def test_a_step_down_mpo_raises_a_target_gap_that_is_too_small(rng):
    target = torch.full((4,), 0.1, dtype=torch.float64, requires_grad=True)
    states = drawn(rng, 4, 8)
    mpo_loss(target, torch.full((4,), 1.6, dtype=torch.float64), states, states).loss.backward()
    assert (target.grad < 0).all()


def test_a_mean_state_leaves_padding_out_and_minds_no_batch_mate(rng):
    states, lengths = drawn(rng, 3, 7, 5), torch.tensor([2, 7, 4])
    mask = torch.arange(7) < lengths[:, None]
    padded = states.masked_fill(~mask.unsqueeze(-1), torch.nan)
    found = masked_mean_state(padded, mask)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row], states[row, :length].mean(dim=0))
    assert masked_mean_state(states.bfloat16(), mask).dtype == torch.float32


# --- MLC ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [2, 5, 8])
def test_identical_translations_have_one_singular_value_and_the_loss_vanishes_with_the_temperature(rng, m):
    line = drawn(rng, 12).expand(m, 12) * torch.arange(1, m + 1)[:, None]  # length is normalised away
    singular = torch.linalg.svdvals(F.normalize(line, dim=-1))
    assert float(singular[0]) == pytest.approx(math.sqrt(m)) and float(singular[1:].abs().max()) < 1e-7
    for temperature in (1.0, 0.5, 0.1):
        assert float(mlc_loss(line, temperature)) == pytest.approx(math.log1p((m - 1) * math.exp(-math.sqrt(m) / temperature)), rel=1e-6)
    assert mlc_loss(line, 0.05) < 1e-6


def test_orthogonal_translations_cost_the_most(rng):
    m = 6
    apart = torch.linalg.qr(drawn(rng, 10, m))[0].T
    assert float(mlc_loss(apart, 0.3)) == pytest.approx(math.log(m))
    near = F.normalize(drawn(rng, 1, 10) + 0.1 * drawn(rng, m, 10), dim=-1)
    assert mlc_loss(near, 0.3) < mlc_loss(drawn(rng, m, 10), 0.3) < math.log(m)


def test_several_prompts_are_averaged(rng):
    states = drawn(rng, 4, 3, 9)
    torch.testing.assert_close(mlc_loss(states, 0.7), torch.stack([mlc_loss(one, 0.7) for one in states]).mean())


def test_the_order_of_translations_and_a_rotation_of_space_do_not_matter(rng):
    states, turn = drawn(rng, 5, 7), torch.linalg.qr(drawn(rng, 7, 7))[0]
    torch.testing.assert_close(mlc_loss(states[[3, 0, 4, 1, 2]] @ turn, 0.4), mlc_loss(states, 0.4))


def test_descending_the_consistency_loss_lines_translations_up_and_its_gradient_is_right(rng):
    states = drawn(rng, 2, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mlc_loss(x, 0.5), (states,))
    start = mlc_loss(states, 0.5).detach()
    for _ in range(60):
        (gradient,) = torch.autograd.grad(mlc_loss(states, 0.5), states)
        states = (states - 0.5 * gradient).detach().requires_grad_()
    assert mlc_loss(states, 0.5).detach() < 0.3 * start


def test_the_gradient_stays_finite_where_translations_already_agree():
    states = torch.ones(4, 6, requires_grad=True)
    mlc_loss(states, 0.1).backward()
    assert states.grad.isfinite().all() and states.grad.abs().max() < 1e-5


def test_half_precision_states_are_computed_in_float32(rng):
    states = drawn(rng, 3, 4, 6).bfloat16()
    torch.testing.assert_close(mlc_loss(states, 0.5), mlc_loss(states.float(), 0.5), rtol=0, atol=0)


def test_the_spread_sees_a_collapse_that_the_consistency_loss_rewards(rng):
    meanings = drawn(rng, 20, 1, 16)
    healthy = meanings.expand(20, 4, 16)
    signs = torch.where(torch.arange(20) % 2 == 0, 1.0, -1.0)[:, None, None]
    collapsed = signs * drawn(rng, 1, 1, 16).expand(20, 4, 16)
    torch.testing.assert_close(mlc_loss(healthy, 0.1), mlc_loss(collapsed, 0.1))  # the loss cannot tell
    assert between_prompt_spread(healthy[:, 0]) > 0.9
    assert between_prompt_spread(collapsed[:, 0]) == pytest.approx(0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(2, 10), st.integers(0, 10**6))
def test_the_spread_is_the_plain_mean_over_pairs_and_ignores_length_and_sign(n, d, seed):
    rng = np.random.default_rng(seed)
    states, scale = drawn(rng, n, d), torch.from_numpy(rng.choice([-3.0, 0.2, 5.0], size=(n, 1)))
    cosine = F.normalize(states, dim=-1) @ F.normalize(states, dim=-1).T
    expected = 1 - float(cosine[~torch.eye(n, dtype=torch.bool)].square().mean())
    assert between_prompt_spread(states) == pytest.approx(expected, abs=1e-9)
    assert between_prompt_spread(states * scale) == pytest.approx(expected, abs=1e-9)


def test_random_directions_have_the_spread_that_is_promised(rng):
    assert between_prompt_spread(drawn(rng, 400, 25)) == pytest.approx(1 - 1 / 25, abs=0.003)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 8), st.floats(0.05, 3), st.integers(0, 10**6))
def test_the_consistency_loss_lies_between_nothing_and_the_logarithm_of_the_rank(m, d, temperature, seed):
    found = float(mlc_loss(drawn(np.random.default_rng(seed), m, d), temperature))
    assert -1e-9 <= found <= math.log(min(m, d)) + 1e-9


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: mlc_loss(x[:1], 0.1), r"shape \[1, 3\].*at least two languages"),
        (lambda x: mlc_loss(x, 0.0), "temperature=0.0"),
        (lambda x: between_prompt_spread(x[:1]), "states of 1 prompts"),
        (lambda x: mpo_loss(x[0], x[0][:1], x, x), r"gap_target_policy \[3\], gap_dominant_reference \[1\]"),
        (lambda x: mpo_loss(x[0], x[0], x, x[:2]), r"states_policy \[4, 3\], states_reference \[2, 3\]"),
        (lambda x: mpo_loss(x[0][:0], x[0][:0], x, x), "Got 0 pairs"),
        (lambda x: reward_gap(x[0], torch.tensor([1, 0, 2]), x[0], torch.tensor([1, 1, 1])), r"Rows \[1\] of 3 have no chosen token"),
        (lambda x: masked_mean_state(x[None], torch.zeros(1, 4)), r"Rows \[0\] of 1 have no sequence token"),
    ],
)
def test_what_would_broadcast_or_mean_nothing_is_refused(call, says):
    with pytest.raises(DataError, match=says):
        call(torch.ones(4, 3))
