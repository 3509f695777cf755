"""Self-distillation: draws that can be repeated, logits that are aligned, a loss that is the formula's, teachers that hold still or follow."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, softmax

from workbench.alignment.distillation import Query
from workbench.alignment.ema import MovingAverage
from workbench.alignment.msd import MSD, msd_batch_loss, msd_step, reply_logits, sample_replies
from workbench.alignment.reply_monitor import COLUMNS, collapse_notes, reply_parts, token_weight_rows
from workbench.alignment.sampling import Sampled, sample
from workbench.alignment.weighting import DPSW, TokenWeights
from workbench.behavior.generate import reply_to
from workbench.errors import DataError, ModelCheckError
from workbench.interventions.refusal_tokens import RefusalTokens

PROMPTS = [[5, 9, 12, 40, 41], [7, 8], [30, 31, 32, 33, 34, 35, 36, 37]]
QUERIES = [
    Query("m0:sw", "sw", True, (5, 9, 12), (60, 61, 62, 5, 9)),
    Query("m1:sw", "sw", False, (7, 8), (60, 61, 62, 63, 64, 7)),
    Query("m0:yo", "yo", True, (30, 31, 32, 33), (61, 30)),
]


def own(chat):
    """A copy of a chat model whose weights may be changed."""
    return replace(chat, model=copy.deepcopy(chat.model).requires_grad_(True))


def ending_with(chat, tokens):
    """The same model, where any of these tokens ends a reply."""
    model = copy.deepcopy(chat.model)
    model.generation_config.eos_token_id = list(tokens)
    return replace(chat, model=model)


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_replies_whatever_was_drawn_before_and_leaves_the_global_generator_alone(tiny_model):
    chat, state = tiny_model("llama"), torch.get_rng_state()
    first = sample(chat, PROMPTS, max_new_tokens=6, seed=(0, 3, 1))
    sample(chat, PROMPTS, max_new_tokens=6, seed=(0, 4, 1))
    torch.rand(5)
    again = sample(chat, PROMPTS, max_new_tokens=6, seed=(0, 3, 1))
    assert torch.equal(first.ids, again.ids) and torch.equal(first.mask, again.mask)
    assert not torch.equal(first.ids, sample(chat, PROMPTS, max_new_tokens=6, seed=(0, 4, 1)).ids)
    torch.set_rng_state(state)
    sample(chat, PROMPTS, max_new_tokens=2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_reply_does_not_depend_on_what_is_batched_behind_it(tiny_model):
    chat = tiny_model("llama")
    whole = sample(chat, PROMPTS, max_new_tokens=6, seed=5)
    part = sample(chat, PROMPTS[:2], max_new_tokens=6, seed=5)
    assert torch.equal(whole.ids[:2], part.ids)


def test_tokens_come_as_often_as_the_model_says(tiny_model):
    chat = tiny_model("llama")
    logits = chat.model(input_ids=torch.tensor([PROMPTS[1]])).logits[0, -1].double().numpy()
    for temperature in (1.0, 0.6):
        drawn = sample(chat, [PROMPTS[1]] * 3000, max_new_tokens=1, seed=0, temperature=temperature).ids[:, 0].numpy()
        p = softmax(logits / temperature)
        found = np.bincount(drawn, minlength=len(p)) / len(drawn)
        likely = np.argsort(-p)[:20]
        errors = np.sqrt(p[likely] * (1 - p[likely]) / len(drawn))
        assert (np.abs(found - p)[likely] < 4 * errors).all()
        assert np.abs(found - p).sum() / 2 < 0.15  # total variation; that of another temperature is far above


def test_at_temperature_zero_the_reply_is_the_greedy_one(tiny_model):
    chat = tiny_model("qwen2")
    drawn = sample(chat, PROMPTS, max_new_tokens=5, seed=0, temperature=0)
    greedy = reply_to(chat, PROMPTS, 5)
    assert [chat.tokenizer.decode(row[kept], skip_special_tokens=True).strip() for row, kept in zip(drawn.ids, drawn.mask, strict=True)] == [
        reply.reply for reply in greedy
    ]


def test_a_reply_holds_the_token_that_ends_it_and_nothing_after(tiny_model):
    ends = {2, *range(0, 400, 5)}  # 2 is the tokenizer's own
    drawn = sample(ending_with(tiny_model("llama"), ends), PROMPTS * 10, max_new_tokens=8, seed=2)
    assert drawn.finished.any() and not drawn.finished.all()
    for ids, mask, finished in zip(drawn.ids.tolist(), drawn.mask.tolist(), drawn.finished.tolist(), strict=True):
        length = sum(mask)
        assert mask == [True] * length + [False] * (len(mask) - length) and length >= 1
        assert not set(ids[: length - 1]) & ends
        assert (ids[length - 1] in ends) == finished and (finished or length == len(mask))
    assert drawn.lengths.tolist() == drawn.mask.sum(dim=1).tolist()


def test_logits_that_are_not_finite_and_calls_that_make_no_sense_are_refused(tiny_model):
    broken = own(tiny_model("llama"))
    with torch.no_grad():
        broken.model.lm_head.weight[3] = float("nan")
    with pytest.raises(ModelCheckError, match=r"logits of rows \[0, 1, 2\] are not finite at token 0"):
        sample(broken, PROMPTS, max_new_tokens=2, seed=0)
    for bad in ({"prompts": []}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(DataError, match="Expected at least one prompt and one token"):
            sample(tiny_model("llama"), **({"prompts": PROMPTS, "max_new_tokens": 2, "seed": 0} | bad))


def test_on_policy_continues_the_students_prompt_and_off_policy_the_teachers(tiny_model):
    chat, options = tiny_model("llama"), {"max_new_tokens": 4, "seed": 1}
    for on_policy, prompts in ((True, [q.prompt_ids for q in QUERIES]), (False, [q.teacher_ids for q in QUERIES])):
        assert torch.equal(sample_replies(chat, QUERIES, on_policy=on_policy, **options).ids, sample(chat, prompts, **options).ids)


# --- logits and loss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_each_rows_logits_are_those_of_its_own_pass_at_its_own_places(tiny_model, family):
    chat = tiny_model(family)
    replies = Sampled(torch.tensor([[11, 12, 13], [14, 2, 0], [15, 16, 17]]), torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]]).bool(), None)
    with torch.no_grad():
        together = reply_logits(chat.model, PROMPTS, replies)
        assert together.shape == (3, 3, chat.model.get_output_embeddings().weight.shape[0])
        for row, prompt in enumerate(PROMPTS):
            length = int(replies.lengths[row])
            alone = chat.model(input_ids=torch.tensor([prompt + replies.ids[row, :length].tolist()])).logits[0]
            expected = alone[len(prompt) - 1 : len(prompt) - 1 + length]
            torch.testing.assert_close(together[row, :length], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
def test_the_loss_is_the_mean_over_replies_of_their_mean_weighted_divergence(rng, divergence):
    student, teacher = (torch.from_numpy(rng.normal(0, 2, (2, 4, 7))) for _ in range(2))
    sampled, mask = torch.from_numpy(rng.integers(0, 7, (2, 4))), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    loss, apart, weights = msd_batch_loss(student, teacher, sampled, mask, divergence, None)
    log_s, log_t = log_softmax(student.numpy(), -1), log_softmax(teacher.numpy(), -1)
    mixed = np.log((np.exp(log_s) + np.exp(log_t)) / 2)

    def kl(a, b):
        return (np.exp(a) * (a - b)).sum(-1)

    expected = {"forward": kl(log_t, log_s), "reverse": kl(log_s, log_t), "js": (kl(log_t, mixed) + kl(log_s, mixed)) / 2}[divergence]
    np.testing.assert_allclose(float(loss), (expected[0, :3].mean() + expected[1, 0]) / 2, rtol=1e-9)
    np.testing.assert_allclose(apart.numpy(), np.where(mask, expected, 0.0), rtol=1e-9)
    assert torch.equal(weights.weight, mask.float())
    weighted, _, dpsw = msd_batch_loss(student, teacher, sampled, mask, divergence, DPSW(k=3))
    by_hand = (dpsw.weight.numpy() * expected * mask.numpy()).sum(-1) / mask.sum(-1).numpy()
    np.testing.assert_allclose(float(weighted), by_hand.mean(), rtol=1e-6)


def test_a_student_that_agrees_has_neither_loss_nor_gradient_and_the_teacher_never_has_one(rng):
    logits = torch.from_numpy(rng.normal(size=(2, 3, 6))).requires_grad_()
    teacher = logits.detach().clone().requires_grad_()
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
    for divergence in ("forward", "reverse", "js"):
        loss, _, _ = msd_batch_loss(logits, teacher, ids, mask, divergence, None)
        (gradient,) = torch.autograd.grad(loss, [logits])
        assert abs(float(loss.detach())) < 1e-9 and float(gradient.abs().max()) < 1e-9
    other = (2 * teacher.detach()).requires_grad_()
    loss, _, weights = msd_batch_loss(logits, other, ids, mask, "forward", DPSW())
    loss.backward()
    assert other.grad is None and float(logits.grad.abs().max()) > 1e-3 and not weights.weight.requires_grad


def test_what_a_model_leaves_beyond_a_reply_changes_nothing(rng):
    student, teacher = (torch.from_numpy(rng.normal(size=(2, 4, 6))) for _ in range(2))
    ids, mask = torch.from_numpy(rng.integers(0, 6, (2, 4))), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    noisy = torch.where(mask[..., None], student, float("nan")).requires_grad_()
    clean, _, _ = msd_batch_loss(student[:, :3], teacher[:, :3], ids[:, :3], mask[:, :3], "forward", DPSW())
    loss, apart, _ = msd_batch_loss(noisy, torch.where(mask[..., None], teacher, float("nan")), ids, mask, "forward", DPSW())
    assert float(loss.detach()) == pytest.approx(float(clean), rel=1e-9) and not apart.isnan().any()


def test_replies_without_a_token_and_shapes_that_differ_are_refused(rng):
    logits = torch.from_numpy(rng.normal(size=(2, 3, 6)))
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [0, 0, 0]]).bool()
    with pytest.raises(DataError, match="1 of 2 replies have no token"):
        msd_batch_loss(logits, logits, ids, mask, "forward", None)
    with pytest.raises(DataError, match="shapes differ"):
        msd_batch_loss(logits, logits, ids[:, :2], mask, "forward", None)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"divergence": "reversed"}, "Did you mean 'reverse'"),
        ({"teacher": "fixed"}, "expected one of frozen, ema, live"),
        ({"decay": 1.0}, "decay 1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, told):
    with pytest.raises(DataError, match=told):
        MSD(**wrong)


# --- a step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("weighting", [DPSW(k=5), None])
def test_steps_bring_the_student_to_what_the_teacher_says_in_its_own_context(tiny_model, on_policy, weighting):
    chat = tiny_model("llama", n_layers=2)
    student = own(chat).model.train()
    options = MSD(on_policy=on_policy, weighting=weighting, temperature=0.5, max_new_tokens=2)
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3, weight_decay=0)
    apart = []
    for step in range(25):
        found = msd_step(chat, student, lambda: nullcontext(chat.model), QUERIES, options, seed=(0, step))
        optimiser.zero_grad()
        found.loss.backward()
        optimiser.step()
        apart.append(reply_parts(found, QUERIES)["divergence"])
        assert student.training and not chat.model.training
    assert np.mean(apart[-5:]) < 0.5 * np.mean(apart[:3])


def test_a_teacher_that_reads_what_the_student_reads_teaches_nothing(tiny_model):
    chat = tiny_model("llama")
    alike = [query._replace(teacher_ids=query.prompt_ids) for query in QUERIES]
    student = own(chat).model
    found = msd_step(chat, student, lambda: nullcontext(chat.model), alike, MSD(max_new_tokens=4), seed=0)
    assert abs(float(found.loss.detach())) < 1e-5


def test_the_wrapped_student_is_called_where_gradients_are_wanted(tiny_model):
    chat = tiny_model("llama")
    student, calls = own(chat).model, []

    def forward(**inputs):
        calls.append(torch.is_grad_enabled())
        return student(**inputs)

    msd_step(chat, student, lambda: nullcontext(chat.model), QUERIES, MSD(max_new_tokens=2), seed=0, forward=forward).loss.backward()
    assert calls == [True] and all(p.grad is not None for p in student.parameters())


# --- the teacher that follows -------------------------------------------------------------------------------------------


def test_the_average_is_what_the_closed_form_says_and_is_exchanged_for_the_while_only(tiny_model):
    student = own(tiny_model("llama", n_layers=2)).model
    name = "model.norm.weight"
    start, moved = dict(student.named_parameters())[name].detach().clone(), []
    average = MovingAverage(student, 0.9)
    for step in range(3):
        with torch.no_grad():
            for weight in student.parameters():
                weight.add_(0.1 * (step + 1))
        moved.append(dict(student.named_parameters())[name].detach().clone())
        average.update()
    expected = 0.9**3 * start + 0.1 * (0.9**2 * moved[0] + 0.9 * moved[1] + moved[2])
    torch.testing.assert_close(average.tensors()[name], expected)
    pointers = {key: weight.data_ptr() for key, weight in student.named_parameters()}
    with average.exchanged() as teacher:
        torch.testing.assert_close(dict(teacher.named_parameters())[name].data, expected)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(dict(student.named_parameters())[name].detach(), moved[-1])
    assert {key: weight.data_ptr() for key, weight in student.named_parameters()} == pointers
    with pytest.raises(RuntimeError, match="planted"), average.exchanged():
        raise RuntimeError("planted")
    torch.testing.assert_close(dict(student.named_parameters())[name].detach(), moved[-1])


def test_a_step_with_an_exchanged_teacher_gives_the_students_own_gradients(tiny_model):
    chat = tiny_model("llama", n_layers=2)
    student = own(chat).model
    average = MovingAverage(student, 0.5)  # still the start
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.1)
    gradients = []
    for teacher in (average.exchanged, lambda: nullcontext(chat.model)):
        student.zero_grad()
        msd_step(chat, student, teacher, QUERIES, MSD(max_new_tokens=3), seed=0).loss.backward()
        gradients.append([p.grad.clone() for p in student.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_an_average_goes_on_where_it_was_saved_and_refuses_another_models(tiny_model):
    student = own(tiny_model("llama", n_layers=2)).model
    first, second = MovingAverage(student, 0.9), MovingAverage(student, 0.9)
    with torch.no_grad():
        student.model.norm.weight.add_(1.0)
    first.update()
    second.load(first.tensors())
    assert all(torch.equal(first.tensors()[key], value) for key, value in second.tensors().items())
    with pytest.raises(DataError, match=r"averages do not fit the model, such as .*layers\.2"):
        MovingAverage(own(tiny_model("llama", n_layers=4)).model, 0.9).load(first.tensors())
    with pytest.raises(DataError, match="no weight with requires_grad"):
        MovingAverage(tiny_model("llama").model, 0.9)
    with pytest.raises(DataError, match="between 0 and 1"):
        MovingAverage(student, 1.0)


# --- monitors --------------------------------------------------------------------------------------------------------


def planted_loss():
    """Three replies of 3, 1 and 2 tokens; the first and the second open with token 90."""
    from workbench.alignment.msd import MSDLoss

    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()
    replies = Sampled(torch.tensor([[90, 4, 2], [90, 0, 0], [5, 6, 0]]), mask, torch.tensor([True, False, False]))
    part = mask * torch.tensor([[0.1], [0.2], [0.3]])
    return MSDLoss(torch.tensor(0.5), mask * torch.tensor([[1.0], [2.0], [6.0]]), TokenWeights(2 * part, part, part), replies)


def test_the_monitors_count_lengths_and_refusing_openings_by_class():
    tokens = RefusalTokens({"sw": (90,)}, {"sw": "given"}, {90: "no"})
    parts = reply_parts(planted_loss(), QUERIES, tokens)
    assert parts == pytest.approx(
        {"divergence": 3.0, "length": 2.0, "finished": 1 / 3, "opens_refusing_harmful": 1.0, "opens_refusing_harmless": 1.0}
    )
    assert set(reply_parts(planted_loss(), QUERIES)) == {"divergence", "length", "finished"}
    assert "opens_refusing_harmless" not in reply_parts(planted_loss(), [q._replace(harmful=True) for q in QUERIES], tokens)


def test_the_table_of_token_weights_holds_a_row_per_token_and_no_text():
    table = token_weight_rows(planted_loss(), QUERIES)
    assert tuple(table.columns) == COLUMNS and len(table) == 6
    assert list(table["token_index"]) == [0, 1, 2, 0, 0, 1] and list(table["prompt_id"]) == ["m0:sw"] * 3 + ["m1:sw"] + ["m0:yo"] * 2
    np.testing.assert_allclose(table["weight"], [0.2, 0.2, 0.2, 0.4, 0.6, 0.6], rtol=1e-6)
    np.testing.assert_allclose(table["divergence"], [1, 1, 1, 2, 6, 6])


def test_collapse_and_over_refusal_are_named_and_a_sound_training_is_not():
    def history(lengths, openings):
        rows = [(step, "length", value) for step, value in enumerate(lengths)]
        rows += [(step, "opens_refusing_harmless", value) for step, value in enumerate(openings)]
        return pd.DataFrame(rows, columns=["step", "statistic", "value"])

    assert collapse_notes(history([20, 21, 19, 20], [0.0, 0.01, 0.01, 0.0])) == []
    short, refusing = collapse_notes(history([20, 20, 6, 6], [0.0, 0.0, 0.1, 0.1]))
    assert "shrank from 20.0 to 6.0 tokens" in short and "rose from 0.000 to 0.100" in refusing
    assert collapse_notes(history([20], [])) == []
    judged = [(step, "harmless_refusal", rate) for step, rates in ((0, (0.0, 0.02)), (9, (0.0, 0.1))) for rate in rates]
    (judged_note,) = collapse_notes(pd.DataFrame(judged, columns=["step", "statistic", "value"]))
    assert "Refusals of harmless requests rose from 0.010 to 0.050" in judged_note
