"""What training on translations minimises: reward gaps carried from a dominant language (MPO), one state for all translations (MLC)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.alignment.logprobs import in_float32, require_positive, require_same_shape, require_tokens
from workbench.errors import DataError


class MPOLoss(NamedTuple):
    """The loss over a batch and its two parts.

    Attributes
    ----------
    loss, gap_term, state_term : Tensor []
        ``loss`` is the sum of the two: the target language's gaps, and how far the dominant language's states moved.
    """

    loss: Float[Tensor, ""]
    gap_term: Float[Tensor, ""]
    state_term: Float[Tensor, ""]


def reward_gap(
    chosen_sum: Float[Tensor, " pair"],
    chosen_len: Int[Tensor, " pair"] | Float[Tensor, " pair"],
    rejected_sum: Float[Tensor, " pair"],
    rejected_len: Int[Tensor, " pair"] | Float[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """Say by how much a model prefers the chosen completion to the rejected one, per token and without a reference model.

    Parameters
    ----------
    chosen_sum, rejected_sum : Tensor [pair]
        Summed log-probabilities of completions, in nats.
    chosen_len, rejected_len : Tensor [pair]
        Tokens counted in each sum.

    Returns
    -------
    Tensor [pair]
        Nats per token; 0 is no preference, above 0 the chosen one is likelier.

    Raises
    ------
    DataError
        Shapes that differ, or a completion without a token.

    References
    ----------
    MPO, arXiv:2505.16869 and released code; the length-normalised reward is SimPO's, arXiv:2405.14734.

    Examples
    --------
    >>> reward_gap(torch.tensor([-4.0]), torch.tensor([4]), torch.tensor([-6.0]), torch.tensor([3]))
    tensor([1.])
    """
    require_same_shape(chosen_sum=chosen_sum, chosen_len=chosen_len, rejected_sum=rejected_sum, rejected_len=rejected_len)
    require_tokens(chosen=chosen_len, rejected=rejected_len)
    return in_float32(chosen_sum) / chosen_len - in_float32(rejected_sum) / rejected_len


def mpo_loss(
    gap_target_policy: Float[Tensor, " pair"],
    gap_dominant_reference: Float[Tensor, " pair"],
    states_policy: Float[Tensor, "sequence hidden"],
    states_reference: Float[Tensor, "sequence hidden"],
    beta: float = 1.0,
) -> MPOLoss:
    """Bring a target language's reward gap to that of the dominant language, whose own states are held in place.

    loss = mean (beta x target gap - dominant gap)^2 + mean (state - reference state)^2, without a coefficient between the two.

    Parameters
    ----------
    gap_target_policy : Tensor [pair]
        :func:`reward_gap` of the policy on pairs in the target language.
    gap_dominant_reference : Tensor [pair]
        :func:`reward_gap` of the frozen reference on the same pairs in the dominant language. No gradient reaches it.
    states_policy, states_reference : Tensor [sequence hidden]
        Final-layer states of dominant-language sequences (chosen and rejected), from :func:`masked_mean_state`.
    beta : float
        Factor on the target gap; published 1 (Llama 3.1) and 1.5 (Gemma 2, Qwen 2.5).

    Returns
    -------
    MPOLoss
        All zero where beta times the target gap is the dominant gap and no state moved.

    Raises
    ------
    DataError
        Shapes that differ, nothing in the batch, or beta not above 0.

    References
    ----------
    MPO, arXiv:2505.16869; the mean over dimensions and the pooling follow the released code, the mask over padding is ours.
    """
    require_same_shape(gap_target_policy=gap_target_policy, gap_dominant_reference=gap_dominant_reference)
    require_same_shape(states_policy=states_policy, states_reference=states_reference)
    require_positive(beta=beta)
    if not gap_target_policy.numel() or not states_policy.numel():
        raise DataError(f"Got {gap_target_policy.numel()} pairs and states of shape {list(states_policy.shape)}. Expected at least one of each.")
    gap_term = (beta * in_float32(gap_target_policy) - in_float32(gap_dominant_reference).detach()).square().mean()
    state_term = F.mse_loss(in_float32(states_policy), in_float32(states_reference).detach())
    return MPOLoss(gap_term + state_term, gap_term, state_term)


def masked_mean_state(
    states: Float[Tensor, "batch token hidden"], mask: Bool[Tensor, "batch token"] | Int[Tensor, "batch token"]
) -> Float[Tensor, "batch hidden"]:
    """Average each sequence's states over its own tokens, so that padding does not count.

    Parameters
    ----------
    states : Tensor [batch token hidden]
        One layer of the residual stream.
    mask : bool or 0/1 Tensor [batch token]
        True on tokens that are not padding.

    Raises
    ------
    DataError
        A mask of another shape, or a row without a token.

    Examples
    --------
    >>> masked_mean_state(torch.tensor([[[1.0], [3.0], [50.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    require_same_shape(mask=mask, states=states[..., 0])
    kept = mask.bool()
    lengths = kept.sum(dim=-1)
    require_tokens(sequence=lengths)
    return torch.where(kept.unsqueeze(-1), in_float32(states), 0.0).sum(dim=1) / lengths.unsqueeze(-1)


def mlc_loss(projected: Float[Tensor, "translation hidden"] | Float[Tensor, "prompt translation hidden"], temperature: float) -> Float[Tensor, ""]:
    """Pull the translations of one prompt onto one line: the share of the first singular value, as a cross-entropy.

    With s the singular values of the normalised rows: -log(exp(s_1 / temperature) / sum over j of exp(s_j / temperature)).

    Parameters
    ----------
    projected : Tensor [translation hidden] or [prompt translation hidden]
        Last-token states after the learnt projection; rows are normalised here. Several prompts are averaged.
    temperature : float
        The smaller, the nearer to 0 the loss of translations that agree.

    Returns
    -------
    Tensor []
        At least 0, at most log min(translations, hidden). Equal unit rows have s_1 = sqrt(translations), the others 0.

    Raises
    ------
    DataError
        Fewer than two translations, no prompt, or a temperature not above 0.

    Notes
    -----
    One line for all prompts is a trivial optimum: watch :func:`between_prompt_spread`.

    References
    ----------
    MLC, arXiv:2602.16660, as secondary notes state it (the paper could not be read).
    """
    require_positive(temperature=temperature)
    if projected.ndim not in (2, 3) or projected.shape[-2] < 2 or not projected.numel():
        raise DataError(
            f"The states have the shape {list(projected.shape)}. Expected [translation, hidden] or [prompt, translation, hidden] with two or more "
            "translations: give the prompt in at least two languages."
        )
    singular = torch.linalg.svdvals(F.normalize(in_float32(projected), dim=-1))
    return -F.log_softmax(singular / temperature, dim=-1)[..., 0].mean()


def between_prompt_spread(states: Float[Tensor, "prompt hidden"]) -> float:
    """Say how differently states of different prompts point: the monitor for collapse under :func:`mlc_loss`.

    Parameters
    ----------
    states : Tensor [prompt hidden]
        One state per prompt: one language's, or the mean over translations.

    Returns
    -------
    float
        1 minus the mean squared cosine over pairs of prompts. 0: all on one line, whichever way they point; random directions: 1 - 1 / hidden.
        States of language models share a direction from the start, so compare with the value before training.

    Raises
    ------
    DataError
        Fewer than two prompts.

    Examples
    --------
    >>> between_prompt_spread(torch.tensor([[1.0, 0.0], [0.0, 2.0]])), between_prompt_spread(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
    (1.0, 0.0)
    """
    n = len(states)
    if n < 2:
        raise DataError(f"Got states of {n} prompts. Expected two or more: spread is between prompts.")
    units = F.normalize(states.detach().double(), dim=-1)
    # the sum of squared cosines, from the smaller of the two Gram matrices
    gram = units @ units.T if n <= units.shape[-1] else units.T @ units
    lengths = units.square().sum(dim=-1).square().sum()  # 1 each, 0 for a zero state
    return 1.0 - float((gram.square().sum() - lengths) / (n * (n - 1)))
