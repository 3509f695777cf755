"""Divergences equal scipy's and torch.distributions', stop at the teacher, and a short list of tokens never overstates the whole."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax
from torch.distributions import Categorical, kl_divergence

from workbench.alignment.divergence import KINDS, token_divergence
from workbench.errors import DataError


def pair(rng, v=12, scale=3.0, shape=(2, 4)):
    return tuple(torch.from_numpy(rng.normal(0, scale, (*shape, v))) for _ in range(2))


seeds = st.integers(0, 10**6)


def test_forward_and_reverse_are_the_two_kl_divergences(rng):
    student, teacher = pair(rng)
    s, t = Categorical(logits=student), Categorical(logits=teacher)
    torch.testing.assert_close(token_divergence(student, teacher, "forward"), kl_divergence(t, s))
    torch.testing.assert_close(token_divergence(student, teacher, "reverse"), kl_divergence(s, t))


def test_jensen_shannon_is_scipys_and_generalises_as_stated(rng):
    student, teacher = pair(rng)
    s, t = softmax(student.numpy(), axis=-1), softmax(teacher.numpy(), axis=-1)
    np.testing.assert_allclose(token_divergence(student, teacher, "js"), jensenshannon(s, t, axis=-1) ** 2)
    for beta in (0.1, 0.8):
        m = beta * t + (1 - beta) * s
        expected = beta * rel_entr(t, m).sum(-1) + (1 - beta) * rel_entr(s, m).sum(-1)
        np.testing.assert_allclose(token_divergence(student, teacher, "js", beta=beta), expected)


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.1, 30), st.floats(0.02, 0.98))
def test_jensen_shannon_is_bounded_by_ln_2_symmetric_at_one_half_and_mirrored_elsewhere(seed, scale, beta):
    student, teacher = pair(np.random.default_rng(seed), scale=scale)
    found = token_divergence(student, teacher, "js")
    assert found.max() <= math.log(2) + 1e-9
    torch.testing.assert_close(found, token_divergence(teacher, student, "js"))
    torch.testing.assert_close(token_divergence(student, teacher, "js", beta=beta), token_divergence(teacher, student, "js", beta=1 - beta))


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(KINDS), st.floats(-20, 20), st.sampled_from([None, 1, 3, 12, 99]))
def test_a_divergence_is_zero_for_equal_distributions_only_and_ignores_a_constant_added_to_logits(seed, kind, shift, top_k):
    student, teacher = pair(np.random.default_rng(seed))
    assert token_divergence(teacher + shift, teacher, kind, top_k=top_k).abs().max() < 1e-9
    assert token_divergence(student, teacher, kind).min() > 1e-4
    assert token_divergence(student, teacher, kind, top_k=top_k).min() > -1e-12


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(KINDS))
def test_fewer_tokens_bound_the_whole_from_below_and_the_whole_vocabulary_is_the_whole(seed, kind):
    student, teacher = pair(np.random.default_rng(seed))
    whole = token_divergence(student, teacher, kind)
    cut = [token_divergence(student, teacher, kind, top_k=k) for k in (1, 4, 11, 12, 50)]
    for fewer, more in pairwise(cut):
        assert (fewer <= more + 1e-9).all()
    torch.testing.assert_close(cut[2], whole)  # eleven of twelve and the rest is a list of all
    assert cut[3].equal(whole) and cut[4].equal(whole)


def test_a_student_that_says_something_outside_of_the_list_is_seen():
    teacher = torch.tensor([[[5.0, 4.0, -5.0, -5.0]]])
    student = torch.tensor([[[5.0, 4.0, 30.0, -5.0]]])  # alike on the teacher's two tokens, sure of a third
    assert token_divergence(student, teacher, "forward", top_k=2) > 10
    student.requires_grad_()
    token_divergence(student, teacher, "forward", top_k=2).sum().backward()
    assert student.grad[0, 0, 2] > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [None, 5])
def test_only_the_student_gets_a_gradient_and_it_is_right(rng, kind, top_k):
    student, teacher = pair(rng, shape=(1, 2))
    student.requires_grad_()
    teacher.requires_grad_()
    token_divergence(student, teacher, kind, top_k=top_k).sum().backward()
    assert teacher.grad is None and student.grad.abs().max() > 0
    assert torch.autograd.gradcheck(lambda x: token_divergence(x, teacher.detach(), kind, top_k=top_k), (student,))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_down_brings_the_student_to_the_teacher(rng, kind):
    student, teacher = pair(rng, scale=1.0)
    start = token_divergence(student, teacher, kind).mean()
    for _ in range(200):
        student.requires_grad_()
        (gradient,) = torch.autograd.grad(token_divergence(student, teacher, kind).sum(), student)
        student = (student - gradient).detach()
    assert token_divergence(student, teacher, kind).mean() < 0.02 * start


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [None, 2])
def test_tokens_ruled_out_in_both_models_leave_numbers_and_gradients_finite(rng, kind, top_k):
    student, teacher = pair(rng, v=8)
    open_to_both = token_divergence(student[..., :6], teacher[..., :6], kind, top_k=top_k)
    for logits in (student, teacher):
        logits[..., 6:] = -torch.inf
    student.requires_grad_()
    found = token_divergence(student, teacher, kind, top_k=top_k)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), open_to_both)
    assert student.grad.isfinite().all()


def test_everything_outside_of_the_list_may_be_ruled_out(rng):
    student, teacher = pair(rng, v=6)
    for logits in (student, teacher):
        logits[..., 2:] = -torch.inf
    student.requires_grad_()
    found = token_divergence(student, teacher, top_k=2)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), token_divergence(student.detach()[..., :2], teacher[..., :2]))
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_logits_are_computed_in_float32(rng, kind):
    student, teacher = (logits.bfloat16() for logits in pair(rng))
    found = token_divergence(student, teacher, kind)
    assert found.dtype == torch.float32
    assert found.equal(token_divergence(student.float(), teacher.float(), kind))


def test_a_token_minds_no_other_token_and_no_other_row(rng):
    student, teacher = pair(rng, shape=(3, 5))
    together = token_divergence(student, teacher, "js", top_k=4)
    for row in range(3):
        torch.testing.assert_close(token_divergence(student[[row], :2], teacher[[row], :2], "js", top_k=4), together[[row], :2])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "revers"}, "kind='revers'.*Did you mean 'reverse'"),
        ({"kind": "js", "beta": 1.0}, "beta=1.0.*kind='forward'"),
        ({"top_k": 0}, "top_k=0: expected 1 or more"),
    ],
)
def test_options_that_mean_nothing_are_refused(rng, options, says):
    with pytest.raises(DataError, match=says):
        token_divergence(*pair(rng), **options)


def test_vocabularies_of_different_size_are_refused(rng):
    student, teacher = pair(rng)
    with pytest.raises(DataError, match=r"student_logits \[2, 4, 12\], teacher_logits \[2, 4, 11\]"):
        token_divergence(student, teacher[..., :11])
