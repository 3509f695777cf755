"""DPO and KTO equal TRL's and LASA's released code on the same numbers, gradients too; a policy that has not moved costs ln 2 and one half."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.alignment.logprobs import sequence_logprobs, token_logprobs
from workbench.alignment.losses import dpo_loss, kl_estimate, kto_loss
from workbench.errors import DataError

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def trl(shared_dir):
    """What TRL 1.16.0 made of stored log-probabilities, with the cases by key."""
    return stored(shared_dir / "reference" / "trl_losses.npz")


@pytest.fixture(scope="module")
def lasa(shared_dir):
    """What LASA's released trainer made of stored log-probabilities."""
    return stored(shared_dir / "reference" / "lasa.npz")


def stored(path):
    arrays = np.load(path, allow_pickle=False)
    return {name: torch.from_numpy(arrays[name]) for name in arrays if name != "meta_json"}, json.loads(str(arrays["meta_json"]))


def same(found, expected, **close):
    torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float32), torch.as_tensor(expected, dtype=torch.float32), **(CLOSE | close))


def sums(policy, mask):
    """Sum stored token log-probabilities, whose entry t scores token t + 1."""
    return sequence_logprobs(policy, mask[:, 1:])


# --- log-probabilities -------------------------------------------------------------------------------------------------


def test_token_logprobs_are_those_of_a_categorical_distribution(rng):
    logits, ids = torch.from_numpy(rng.normal(0, 4, (3, 5, 11))), torch.from_numpy(rng.integers(0, 11, (3, 5)))
    torch.testing.assert_close(token_logprobs(logits, ids), torch.distributions.Categorical(logits=logits).log_prob(ids))


def test_token_and_sequence_logprobs_of_a_real_model_are_trls(trl):
    arrays, _ = trl
    ids, mask = arrays["tiny/input_ids"], arrays["tiny/completion_mask"][:, 1:]
    found = token_logprobs(arrays["tiny/policy_logits"][:, :-1], ids[:, 1:])
    same(found * mask, arrays["tiny/policy_token_logps"] * mask)


def test_half_precision_logits_are_computed_in_float32(rng):
    logits = torch.from_numpy(rng.normal(0, 4, (2, 200, 50))).bfloat16()
    ids, mask = torch.from_numpy(rng.integers(0, 50, (2, 200))), torch.ones(2, 200, dtype=torch.bool)
    found = token_logprobs(logits, ids)
    assert found.dtype == torch.float32
    same(found, token_logprobs(logits.float(), ids), atol=0)
    exact = logits.double().log_softmax(-1).gather(-1, ids[..., None])[..., 0].sum(-1)
    assert (sequence_logprobs(found, mask) - exact).abs().max() < 1e-3
    assert (logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0].sum(-1) - exact).abs().max() > 0.05  # what bfloat16 would have given


def test_rewards_of_half_precision_sums_are_taken_in_float32():
    policy, reference = torch.tensor([-200.0], dtype=torch.bfloat16), torch.tensor([-100.5], dtype=torch.bfloat16)
    for loss in (dpo_loss(policy, reference, policy, policy), kto_loss(policy, reference, torch.tensor([True]), torch.tensor(0.0))):
        assert all(part.dtype == torch.float32 for part in loss)
    same(kto_loss(policy, reference, torch.tensor([True]), torch.tensor(0.0)).rewards, [-9.95])


def test_tokens_outside_of_the_mask_neither_count_nor_get_a_gradient(rng):
    logits = torch.from_numpy(rng.normal(size=(2, 6, 7))).requires_grad_()
    ids = torch.from_numpy(rng.integers(0, 7, (2, 6)))
    mask = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]])
    total = sequence_logprobs(token_logprobs(logits, ids), mask)
    total.sum().backward()
    assert (logits.grad.abs().sum(-1) > 0).equal(mask.bool())
    changed = logits.detach().clone()
    changed[~mask.bool()] = torch.nan  # some models leave nan at padding
    torch.testing.assert_close(sequence_logprobs(token_logprobs(changed, ids), mask), total.detach())


def test_the_mean_of_a_sequence_is_its_sum_by_its_tokens_and_undefined_for_none():
    values, mask = torch.tensor([[-1.0, -2.0, -7.0]]), torch.tensor([[True, True, False]])
    same(sequence_logprobs(values, mask, mean=True), [-1.5])
    with pytest.raises(DataError, match=r"Rows \[0\] of 1 have no completion token"):
        sequence_logprobs(values, torch.zeros_like(mask), mean=True)


# --- DPO ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["00_sigmoid_b0.1", "01_sigmoid_b0.5", "02_sigmoid_b0.01"])
def test_dpo_is_trls_with_its_gradient_and_rewards(trl, key):
    arrays, meta = trl
    case = next(c for c in meta["dpo"]["cases"] if c["key"] == key)
    tokens, mask = arrays["dpo/policy_token_logps"].clone().requires_grad_(), arrays["dpo/completion_mask"]
    policy, reference = sums(tokens, mask), sums(arrays["dpo/ref_token_logps"], mask)
    found = dpo_loss(policy[:5], policy[5:], reference[:5], reference[5:], beta=case["params"].get("beta", 0.1))
    found.loss.mean().backward()
    same(found.loss.mean().detach(), case["loss"])
    same(found.loss.detach(), case["per_pair_loss_from_single_pair_batches"])
    same(tokens.grad, arrays[f"dpo/grad_policy_token_logps/{key}"])
    same(found.chosen_rewards.mean(), case["metrics"]["rewards/chosen"])
    same(found.rejected_rewards.mean(), case["metrics"]["rewards/rejected"])


def test_dpo_and_kto_of_a_real_models_logits_are_trls(trl):
    arrays, meta = trl
    ids, mask, tiny = arrays["tiny/input_ids"], arrays["tiny/completion_mask"], meta["tiny"]
    policy, reference = (sums(token_logprobs(arrays[f"tiny/{who}_logits"][:, :-1], ids[:, 1:]), mask) for who in ("policy", "ref"))
    same(dpo_loss(policy[:3], policy[3:], reference[:3], reference[3:]).loss.mean(), tiny["dpo_sigmoid_loss_b0.1"])
    kl = kl_estimate(policy.roll(1), reference.roll(1))
    same(kto_loss(policy, reference, torch.tensor(tiny["kto_label"]).bool(), kl).loss.mean(), tiny["kto_loss_b0.1"])


# --- KTO ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["0_default", "1_kl_clamped", "2_beta0.5", "3_weights", "5_chosen_only", "6_rejected_only", "7_batch2", "policy_equals_ref"]
)
def test_kto_is_trls_with_its_gradient_rewards_and_reference_point(trl, key):
    arrays, meta = trl
    case = next(c for c in meta["kto"]["cases"] if c["key"] == key)
    alike, rows = key == "policy_equals_ref", case.get("rows", list(range(6)))
    mask, other = arrays["kto/completion_mask"][rows], arrays["kto/KL_completion_mask"][rows]
    label = arrays["kto/label"][rows]
    tokens = arrays["kto/policy_token_logps"][rows].clone().requires_grad_()
    against = tokens.detach() if alike else arrays["kto/ref_token_logps"][rows]
    mismatched = arrays["kto/policy_KL_token_logps"][rows]
    theirs = mismatched if alike else arrays[f"kto/ref_KL_token_logps_kl{case['kl_ref']}"][rows]
    kl = kl_estimate(sums(mismatched, other), sums(theirs, other))
    found = kto_loss(sums(tokens, mask), sums(against, mask), label, kl, **case.get("params", {}))
    found.loss.mean().backward()
    same(found.loss.mean().detach(), case["loss"])
    same(found.kl, case["metrics"]["kl"])
    for wanted, name in ((True, "chosen"), (False, "rejected")):
        if (label == wanted).any():
            same(found.rewards[label == wanted].mean(), case["metrics"][f"rewards/{name}"])
    if not alike:
        same(tokens.grad, arrays[f"kto/grad_policy_token_logps/{key}"])


@pytest.mark.parametrize("name", ["basic", "kl_negative_clamped", "weights", "beta0.5", "only_chosen", "only_rejected", "identical", "batch2"])
def test_kto_is_lasas_with_its_gradient(lasa, name):
    arrays, meta = lasa
    params = next(c["params"] for c in meta["kto"] if c["name"] == name)
    case = {key.split("/")[-1]: value for key, value in arrays.items() if key.startswith(f"kto/{name}/")}
    policy = torch.cat([case["policy_chosen"], case["policy_rejected"]]).requires_grad_()
    reference = torch.cat([case["ref_chosen"], case["ref_rejected"]])
    desirable = torch.arange(len(policy)) < len(case["policy_chosen"])
    kl = kl_estimate(case["policy_KL"], case["ref_KL"])
    found = kto_loss(policy, reference, desirable, kl, params["beta"], params["wd"], params["wu"])
    found.loss.mean().backward()
    same(found.loss.detach(), case["losses"])
    same(found.kl, case["kl"])
    same(found.rewards[desirable], case["chosen_rewards"])
    same(found.rewards[~desirable], case["rejected_rewards"])
    for part, grad in (("policy_chosen", policy.grad[desirable]), ("policy_rejected", policy.grad[~desirable])):
        if f"grad_{part}" in case:
            same(grad, case[f"grad_{part}"])


def test_conditioned_kto_is_lasas_from_logits_to_loss_and_the_inserted_sentence_gets_no_gradient(lasa):
    arrays, meta = lasa
    case = {key.removeprefix("e2e/"): value for key, value in arrays.items() if key.startswith("e2e/")}
    ids, labels, seen = case["selected_ids"], case["selected_labels"], case["selected_mask"]
    kl_ids, kl_labels = case["selected_KL_ids"], case["selected_KL_labels"]

    def logits(who, tokens, mask):
        return 0.3 * (case[f"{who}_E"][tokens] * mask[..., None]).cumsum(1) @ case[f"{who}_W"]

    def logp(raw, tokens, targets):
        return sequence_logprobs(token_logprobs(raw[:, :-1], tokens[:, 1:]), targets[:, 1:] != -100)

    mine = logits("policy", ids, seen).requires_grad_()
    policy, reference = logp(mine, ids, labels), logp(logits("ref", ids, seen), ids, labels)
    point = kl_estimate(*(logp(logits(who, kl_ids, kl_ids != 0), kl_ids, kl_labels) for who in ("policy", "ref")))
    desirable = torch.tensor(meta["e2e"]["label"])
    found = kto_loss(policy, reference, desirable, point, meta["e2e"]["beta"])
    found.loss.mean().backward()
    same(policy[desirable].detach(), case["policy_chosen_logps"])
    same(torch.cat([found.loss[desirable], found.loss[~desirable]]).detach(), case["losses"])
    same(found.kl, case["kl"])
    same(found.loss.mean().detach(), case["loss"])
    touched = mine.grad.abs().sum(-1)[:, :-1] > 0  # entry i predicts token i + 1
    assert touched.equal(labels[:, 1:] != -100)


def test_a_policy_that_has_not_moved_costs_ln_2_under_dpo_and_one_half_under_kto(rng):
    chosen, rejected = (torch.from_numpy(rng.normal(-30, 8, 6)) for _ in range(2))
    torch.testing.assert_close(dpo_loss(chosen, rejected, chosen, rejected).loss, torch.full((6,), math.log(2), dtype=torch.float64))
    point = kl_estimate(rejected, rejected)
    found = kto_loss(chosen, chosen, torch.arange(6) < 2, point)
    assert point == 0 and (found.loss == 0.5).all() and (found.rewards == 0).all()


def test_neither_the_reference_nor_the_reference_point_gets_a_gradient(rng):
    policy, reference, mismatched = (torch.from_numpy(rng.normal(-30, 3, 4)).requires_grad_() for _ in range(3))
    kl = kl_estimate(mismatched, reference)
    assert not kl.requires_grad
    found = kto_loss(policy, reference, torch.tensor([True, False, True, False]), mismatched.mean())
    pairs = dpo_loss(policy, policy * 2, reference, reference)
    (found.loss.sum() + pairs.loss.sum()).backward()
    assert policy.grad.abs().min() > 0 and reference.grad is None and mismatched.grad is None
    assert not any(part.requires_grad for part in (found.rewards, found.kl, pairs.chosen_rewards, pairs.rejected_rewards))


values = st.floats(-200, 0, allow_nan=False, width=32)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(values, values, values, values), min_size=1, max_size=6), st.floats(0.01, 1))
def test_dpo_falls_as_the_chosen_gains_and_its_two_directions_differ_by_the_margin(rows, beta):
    a, b, c, d = torch.tensor(rows, dtype=torch.float64).T
    forth, back = dpo_loss(a, b, c, d, beta), dpo_loss(b, a, d, c, beta)
    # -log sigmoid(x) and -log sigmoid(-x) differ by x
    torch.testing.assert_close(back.loss - forth.loss, forth.chosen_rewards - forth.rejected_rewards)
    assert (dpo_loss(a + 1, b, c, d, beta).loss <= forth.loss).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(values, values, st.booleans()), min_size=1, max_size=6), st.floats(0, 20), st.floats(0.01, 1))
def test_a_kto_loss_lies_below_its_weight_turns_over_with_the_label_and_minds_no_batch_mate(rows, kl, beta):
    policy, reference, desirable = (torch.tensor(column) for column in zip(*rows, strict=True))
    policy, reference, point = policy.double(), reference.double(), torch.tensor(kl, dtype=torch.float64)
    found = kto_loss(policy, reference, desirable, point, beta, 2.0, 0.5).loss
    weight = torch.where(desirable, 2.0, 0.5).double()
    assert ((found >= 0) & (found <= weight)).all()
    turned = kto_loss(policy, reference, ~desirable, point, beta, 0.5, 2.0).loss
    torch.testing.assert_close(found + turned, weight)
    alone = [kto_loss(policy[[i]], reference[[i]], desirable[[i]], point, beta, 2.0, 0.5).loss for i in range(len(rows))]
    assert torch.cat(alone).equal(found)


def test_padding_and_batch_mates_do_not_move_a_completions_sum(rng):
    logits, ids = torch.from_numpy(rng.normal(size=(3, 8, 13))), torch.from_numpy(rng.integers(0, 13, (3, 8)))
    lengths = torch.tensor([3, 8, 5])
    mask = torch.arange(8) < lengths[:, None]
    together = sequence_logprobs(token_logprobs(logits, ids), mask)
    for row, length in enumerate(lengths):
        alone = token_logprobs(logits[[row], :length], ids[[row], :length])
        torch.testing.assert_close(sequence_logprobs(alone, torch.ones_like(alone, dtype=torch.bool)), together[[row]])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: dpo_loss(x, x[:1], x, x), r"policy_chosen \[3\], policy_rejected \[1\]"),
        (lambda x: kto_loss(x[:, None], x, x < 0, x.mean()), r"policy \[3, 1\], reference \[3\]"),
        (lambda x: dpo_loss(x, x, x, x, beta=0.0), "beta=0.0: expected a number above 0"),
        (lambda x: kto_loss(x, x, x < 0, x.mean(), beta=float("nan")), "beta=nan"),
        (lambda x: kto_loss(x, x, x < 0, x.mean(), undesirable_weight=-1.0), r"weights are 1.0 and -1.0"),
        (lambda x: kl_estimate(x[:0], x[:0]), "no mismatched pair.*batch size of 2"),
        (lambda x: sequence_logprobs(x[None], torch.ones(2, 3)), r"token_logprobs \[1, 3\], mask \[2, 3\]"),
    ],
)
def test_what_would_broadcast_or_mean_nothing_is_refused(call, says):
    with pytest.raises(DataError, match=says):
        call(torch.tensor([-1.0, -2.0, -3.0]))
