"""DPSW weights are zero where there is nothing to learn, average one over a reply, and are largest where a sure teacher meets a wrong student."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from workbench.alignment.weighting import DPSW, dpsw_weights, uniform_weights
from workbench.errors import DataError

V = 12
PLAIN = DPSW(k=5, normalise="none")


def drawn(rng, b=3, t=6, scale=3.0):
    """Student, teacher, sampled tokens and a mask of right-padded replies."""
    student, teacher = (torch.from_numpy(rng.normal(0, scale, (b, t, V))) for _ in range(2))
    lengths = torch.from_numpy(rng.integers(1, t + 1, b))
    return student, teacher, torch.from_numpy(rng.integers(0, V, (b, t))), torch.arange(t) < lengths[:, None]


def sure_of(tokens, by=40.0):
    """Logits [1 token vocab] with all mass on the tokens given."""
    return torch.nn.functional.one_hot(torch.tensor([tokens]), V).double() * by


def whole(t):
    return torch.ones(1, t, dtype=torch.bool)


def test_the_parts_are_what_the_formula_says(rng):
    student, teacher, sampled, mask = drawn(rng)
    p_s, p_t = softmax(student.numpy(), -1), softmax(teacher.numpy(), -1)
    top = -np.sort(-p_t, axis=-1)[..., :5]
    confidence = 1 - entropy(top, axis=-1) / np.log(5)
    kept = mask.numpy()
    for reference, token in (("teacher_argmax", p_t.argmax(-1)), ("sampled", sampled.numpy())):
        risk = 1 - np.take_along_axis(p_s, token[..., None], -1)[..., 0]
        for sign, part in (("confidence", confidence), ("raw", 1 - confidence)):
            found = dpsw_weights(student, teacher, sampled, mask, DPSW(5, reference, sign, "none"))
            np.testing.assert_allclose(found.teacher, part * kept, atol=1e-12)
            np.testing.assert_allclose(found.student, risk * kept, atol=1e-12)
            np.testing.assert_allclose(found.weight, part * risk * kept, atol=1e-12)


@pytest.mark.parametrize("normalise", ["mean", "max", "none"])
def test_a_student_that_is_as_sure_as_the_teacher_has_nothing_to_learn(normalise):
    teacher = sure_of([3, 1, 4])
    found = dpsw_weights(teacher, teacher, torch.tensor([[3, 1, 4]]), whole(3), DPSW(k=5, normalise=normalise))
    assert found.teacher.min() > 1 - 1e-9  # sure
    assert found.weight.max() < 1e-6  # and not scaled up to an average of one


def test_a_teacher_that_does_not_know_teaches_nothing(rng):
    student, _, sampled, _ = drawn(rng, b=1)
    found = dpsw_weights(student, torch.zeros_like(student), sampled, whole(6), PLAIN)
    assert found.teacher.max() < 1e-12 and found.weight.max() < 1e-12
    assert dpsw_weights(student, torch.zeros_like(student), sampled, whole(6), DPSW(5, entropy_sign="raw")).teacher.min() > 1 - 1e-12


@pytest.mark.parametrize("reference", ["teacher_argmax", "sampled"])
def test_a_student_that_already_says_the_token_has_nothing_to_learn(rng, reference):
    _, teacher, sampled, _ = drawn(rng, b=1)
    token = teacher.argmax(-1) if reference == "teacher_argmax" else sampled
    found = dpsw_weights(sure_of(token[0].tolist(), by=80.0), teacher, sampled, whole(6), DPSW(5, reference, normalise="none"))
    assert found.teacher.min() > 0.01 and found.weight.max() < 1e-12


def test_where_the_student_confidently_starts_to_comply_the_two_reference_tokens_disagree():
    teacher, student, sampled = sure_of([2, 5]), sure_of([7, 5]), torch.tensor([[7, 5]])  # token 0: refuse (2) against comply (7)
    by_teacher, by_sample = (dpsw_weights(student, teacher, sampled, whole(2), DPSW(5, ref)).weight[0] for ref in ("teacher_argmax", "sampled"))
    assert by_teacher[0] == pytest.approx(2.0) and by_teacher[1] < 1e-9
    assert by_sample[0] < 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["teacher_argmax", "sampled"]), st.sampled_from(["confidence", "raw"]), st.integers(2, 30))
def test_weights_of_a_reply_average_one_and_every_part_is_a_share(seed, reference, sign, k):
    student, teacher, sampled, mask = drawn(np.random.default_rng(seed))
    found = dpsw_weights(student, teacher, sampled, mask, DPSW(k, reference, sign))
    torch.testing.assert_close(found.weight.sum(-1) / mask.sum(-1), torch.ones(3, dtype=torch.float64))
    for part in (found.teacher, found.student):
        assert ((part >= 0) & (part <= 1)).all()
    assert all((part[~mask] == 0).all() for part in found)
    highest = dpsw_weights(student, teacher, sampled, mask, DPSW(k, reference, sign, "max")).weight
    torch.testing.assert_close(highest.amax(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(highest / highest.sum(-1, keepdim=True), found.weight / found.weight.sum(-1, keepdim=True))


@pytest.mark.parametrize("normalise", ["mean", "max", "none"])
def test_padding_and_batch_mates_do_not_change_a_replys_weights(rng, normalise):
    student, teacher, sampled, mask = drawn(rng)
    student[~mask] = torch.nan  # whatever stands at padding
    config = DPSW(5, "sampled", normalise=normalise)
    together = dpsw_weights(student, teacher, sampled, mask, config)
    for row, length in enumerate(mask.sum(-1)):
        alone = dpsw_weights(student[[row], :length], teacher[[row], :length], sampled[[row], :length], whole(length), config)
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one, all_of_them[[row], :length])


def test_weights_carry_no_gradient(rng):
    student, teacher, sampled, mask = drawn(rng)
    found = dpsw_weights(student.requires_grad_(), teacher.requires_grad_(), sampled, mask, DPSW())
    assert not any(part.requires_grad for part in found)


def test_half_precision_logits_are_computed_in_float32(rng):
    student, teacher, sampled, mask = drawn(rng)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    found = dpsw_weights(student, teacher, sampled, mask, DPSW())
    assert all(part.dtype == torch.float32 for part in found)
    assert all(one.equal(other) for one, other in zip(found, dpsw_weights(student.float(), teacher.float(), sampled, mask, DPSW()), strict=True))


def test_a_row_without_a_token_has_no_weight_and_no_nan(rng):
    student, teacher, sampled, mask = drawn(rng)
    mask[1] = False
    for config in (DPSW(), DPSW(normalise="max")):
        weight = dpsw_weights(student, teacher, sampled, mask, config).weight
        assert weight.isfinite().all() and (weight[1] == 0).all()


def test_uniform_weights_are_one_on_the_reply(rng):
    *_, mask = drawn(rng)
    assert all(part.equal(mask.float()) for part in uniform_weights(mask))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": 1}, "k=1: expected a whole number, 2 or more"),
        ({"student_ref": "teacher_max"}, "student_ref='teacher_max'.*Did you mean 'teacher_argmax'"),
        ({"entropy_sign": "+"}, r"entropy_sign='\+': expected one of confidence, raw"),
        ({"normalise": "sum"}, "normalise='sum': expected one of mean, max, none"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, says):
    with pytest.raises(DataError, match=says):
        DPSW(**options)


def test_shapes_that_differ_are_refused(rng):
    student, teacher, sampled, mask = drawn(rng)
    with pytest.raises(DataError, match=r"sampled \[3, 6\], mask \[3, 5\]"):
        dpsw_weights(student, teacher, sampled, mask[:, :5], DPSW())
