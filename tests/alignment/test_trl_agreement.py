"""TRL's own trainers, given logits that were drawn here, compute the losses and gradients that ours compute."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from workbench.alignment.logprobs import sequence_logprobs, token_logprobs
from workbench.alignment.losses import dpo_loss, kl_estimate, kto_loss

# importing TRL takes seconds of processor time
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed (pip install '.[train]')"),
]

V = 17


class Stand(torch.nn.Module):
    """Answers as TRL's fused head does, from a table of the logits after each token."""

    is_gradient_checkpointing = False

    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(table)

    def logits(self, ids):
        return self.table[ids]

    def forward(self, input_ids, labels, **_):
        from trl.trainer.utils import selective_log_softmax

        shifted, targets = self.logits(input_ids)[:, :-1], labels[:, 1:]
        log_probs = selective_log_softmax(shifted, targets.clamp(min=0)).masked_fill(targets == -100, 0.0)
        zeros = torch.zeros_like(log_probs).detach()
        return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def as_trainer(policy, reference, **options):
    """Return what ``_compute_loss`` reads of a trainer on one process."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    args = SimpleNamespace(gradient_checkpointing_kwargs=None)
    shared = {"aux_loss_enabled": False, "precompute_ref_logps": False, "_metrics": defaultdict(lambda: defaultdict(list)), "_tp_size": 1}
    return SimpleNamespace(
        model=policy, ref_model=reference, accelerator=accelerator, args=args, _total_train_tokens=0, beta=0.1, **(shared | options)
    )


@pytest.fixture
def setting(rng):
    """Policy and reference, ids of six rows, and their completion masks."""
    tables = [torch.from_numpy(rng.normal(0, 2, (V, V))).float() for _ in range(2)]
    ids = torch.from_numpy(rng.integers(0, V, (6, 9)))
    starts, ends = torch.from_numpy(rng.integers(1, 5, 6)), torch.from_numpy(rng.integers(5, 10, 6))
    place = torch.arange(9)
    return Stand(tables[0]), Stand(tables[1]), ids, ((place >= starts[:, None]) & (place < ends[:, None])).long()


def logp(model, ids, mask):
    return sequence_logprobs(token_logprobs(model.logits(ids)[:, :-1], ids[:, 1:]), mask[:, 1:])


def gradient(model, loss):
    return torch.autograd.grad(loss, model.table, retain_graph=True)[0]


def test_dpo_is_what_trls_trainer_computes(setting):
    from trl.trainer.dpo_trainer import DPOTrainer

    policy, reference, ids, mask = setting
    only_dpo = {"loss_types": ["sigmoid"], "loss_weights": [1.0], "ld_alpha": None, "f_divergence_type": "reverse_kl", "use_weighting": False}
    trainer = as_trainer(policy, reference, label_smoothing=0.0, **only_dpo)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    theirs = DPOTrainer._compute_loss(trainer, policy, batch, False)
    mine, start = logp(policy, ids, mask), logp(reference, ids, mask)
    found = dpo_loss(mine[:3], mine[3:], start[:3], start[3:])
    torch.testing.assert_close(found.loss.mean(), theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient(policy, found.loss.mean()), gradient(policy, theirs), rtol=0, atol=1e-6)
    assert found.chosen_rewards.mean() == pytest.approx(trainer._metrics["train"]["rewards/chosen"][0], abs=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.7)])
def test_kto_is_what_trls_trainer_computes(setting, weights):
    from trl.trainer.kto_trainer import KTOTrainer

    policy, reference, ids, mask = setting
    desirable = torch.tensor([True, False, True, True, False, False])
    weighted = {"desirable_weight": weights[0], "undesirable_weight": weights[1]}
    trainer = as_trainer(policy, reference, calculate_KL=True, loss_type="kto", **weighted)
    trainer._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(trainer, model, batch)
    other, other_mask = ids.roll(1, 0), mask.roll(1, 0)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask, "label": desirable}
    mismatched = {"KL_input_ids": other, "KL_attention_mask": torch.ones_like(ids), "KL_completion_mask": other_mask}
    theirs = KTOTrainer._compute_loss(trainer, policy, batch | mismatched, False)
    kl = kl_estimate(logp(policy, other, other_mask), logp(reference, other, other_mask))
    found = kto_loss(logp(policy, ids, mask), logp(reference, ids, mask), desirable, kl, 0.1, *weights)
    torch.testing.assert_close(found.loss.mean(), theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient(policy, found.loss.mean()), gradient(policy, theirs), rtol=0, atol=1e-6)
    assert float(kl) == pytest.approx(trainer._metrics["train"]["kl"][0], abs=1e-5)
