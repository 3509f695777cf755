"""What preference training minimises: DPO on pairs, KTO on single completions, from log-probabilities alone.

No model and no text: a trainer sums the log-probabilities of completions under the policy (which is trained) and under the
reference (the frozen start), and these functions say what that costs. A completion is the part of a sequence that counts:
an inserted sentence is left out of the sums of both models. The losses of several languages at once
(:mod:`~workbench.alignment.multilingual`) and of distillation (:mod:`~workbench.alignment.divergence`) can be had here too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.alignment.divergence import token_divergence
from workbench.alignment.logprobs import in_float32, require_positive, require_same_shape, sequence_logprobs, token_logprobs
from workbench.alignment.multilingual import MPOLoss, between_prompt_spread, masked_mean_state, mlc_loss, mpo_loss, reward_gap
from workbench.errors import DataError

__all__ = [
    "KTOLoss",
    "MPOLoss",
    "PreferenceLoss",
    "between_prompt_spread",
    "dpo_loss",
    "kl_estimate",
    "kto_loss",
    "masked_mean_state",
    "mlc_loss",
    "mpo_loss",
    "reward_gap",
    "sequence_logprobs",
    "token_divergence",
    "token_logprobs",
]


class PreferenceLoss(NamedTuple):
    """A loss per pair and what it says of either side.

    Attributes
    ----------
    loss : Tensor [pair]
        Not yet averaged; a policy equal to the reference has ln 2.
    chosen_rewards, rejected_rewards : Tensor [pair]
        beta x (policy - reference) in nats, without gradient; 0 where the policy has not moved.
    """

    loss: Float[Tensor, " pair"]
    chosen_rewards: Float[Tensor, " pair"]
    rejected_rewards: Float[Tensor, " pair"]


class KTOLoss(NamedTuple):
    """A loss per completion, in the order given.

    Attributes
    ----------
    loss : Tensor [batch]
        Not yet averaged, between 0 and the weight of its class; a policy equal to the reference has half of that.
    rewards : Tensor [batch]
        beta x (policy - reference) in nats, without gradient.
    kl : Tensor []
        The reference point that was used, without gradient.
    """

    loss: Float[Tensor, " batch"]
    rewards: Float[Tensor, " batch"]
    kl: Float[Tensor, ""]


def dpo_loss(
    policy_chosen: Float[Tensor, " pair"],
    policy_rejected: Float[Tensor, " pair"],
    ref_chosen: Float[Tensor, " pair"],
    ref_rejected: Float[Tensor, " pair"],
    beta: float = 0.1,
) -> PreferenceLoss:
    """Prefer the chosen completion of each pair more than the reference does.

    loss = -log sigmoid(beta x ((policy - reference of the chosen) - (policy - reference of the rejected)))

    Parameters
    ----------
    policy_chosen, policy_rejected, ref_chosen, ref_rejected : Tensor [pair]
        Summed log-probabilities of completions, in nats. No gradient reaches the reference.
    beta : float
        Per nat; the larger, the nearer the policy stays to the reference.

    Raises
    ------
    DataError
        Shapes that differ, or beta not above 0.

    References
    ----------
    Rafailov et al. 2023, arXiv:2305.18290, equation 7.

    Examples
    --------
    >>> same = torch.tensor([-3.0])
    >>> dpo_loss(same, same, same, same).loss
    tensor([0.6931])
    """
    require_same_shape(policy_chosen=policy_chosen, policy_rejected=policy_rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    require_positive(beta=beta)
    chosen = beta * (in_float32(policy_chosen) - in_float32(ref_chosen).detach())
    rejected = beta * (in_float32(policy_rejected) - in_float32(ref_rejected).detach())
    return PreferenceLoss(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())


def kto_loss(
    policy: Float[Tensor, " batch"],
    reference: Float[Tensor, " batch"],
    desirable: Bool[Tensor, " batch"],
    kl: Float[Tensor, ""],
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> KTOLoss:
    """Make desirable completions likelier than the reference point, undesirable ones less likely.

    With r = policy - reference: weight x (1 - sigmoid(beta x (r - kl))) where desirable, weight x (1 - sigmoid(beta x (kl - r))) elsewhere.
    Conditioned on a sentence between prompt and completion (LASA), it is the same loss: both models read the sentence, neither sum counts it.

    Parameters
    ----------
    policy, reference : Tensor [batch]
        Summed log-probabilities of completions, in nats. No gradient reaches the reference.
    desirable : bool Tensor [batch]
    kl : Tensor []
        From :func:`kl_estimate`, averaged over processes where there are several; treated as a constant.
    beta : float
        Per nat.
    desirable_weight, undesirable_weight : float
        0 leaves a class out.

    Raises
    ------
    DataError
        Shapes that differ, beta not above 0, or a weight below 0.

    References
    ----------
    Ethayarajh et al. 2024, arXiv:2402.01306, section 4; conditioned: LASA, arXiv:2604.12710, after the released code.

    Examples
    --------
    >>> same = torch.tensor([-3.0, -5.0])
    >>> kto_loss(same, same, torch.tensor([True, False]), torch.tensor(0.0)).loss
    tensor([0.5000, 0.5000])
    """
    require_same_shape(policy=policy, reference=reference, desirable=desirable)
    require_positive(beta=beta)
    if not (desirable_weight >= 0 and undesirable_weight >= 0):
        raise DataError(f"The weights are {desirable_weight} and {undesirable_weight}. Expected 0 or more, such as 1 and 1.")
    point = in_float32(kl).detach()
    ratio = in_float32(policy) - in_float32(reference).detach()
    gain = beta * torch.where(desirable, ratio - point, point - ratio)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    # 1 - sigmoid(x), without the cancellation where x is large
    return KTOLoss(weight * torch.sigmoid(-gain), beta * ratio.detach(), point)


def kl_estimate(policy_mismatched: Float[Tensor, " pair"], reference_mismatched: Float[Tensor, " pair"]) -> Float[Tensor, ""]:
    """Estimate how far the policy has moved from the reference: KTO's reference point, at least 0 and without gradient.

    Parameters
    ----------
    policy_mismatched, reference_mismatched : Tensor [pair]
        Summed log-probabilities of completions after prompts of other rows (rotated by one within the batch), in nats.

    Raises
    ------
    DataError
        No pair, or shapes that differ.

    References
    ----------
    Ethayarajh et al. 2024, arXiv:2402.01306, section 4 (the estimate is biased upwards: clamped).

    Examples
    --------
    >>> kl_estimate(torch.tensor([-4.0, -2.0]), torch.tensor([-5.0, -2.0]))
    tensor(0.5000)
    """
    require_same_shape(policy_mismatched=policy_mismatched, reference_mismatched=reference_mismatched)
    if not policy_mismatched.numel():
        raise DataError(
            "There is no mismatched pair. Expected at least one: completions are rotated within a batch, so take a batch size of 2 or more."
        )
    return (in_float32(policy_mismatched) - in_float32(reference_mismatched)).mean().clamp(min=0).detach()
