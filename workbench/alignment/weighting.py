"""Which tokens of a reply to learn from: those the teacher is sure of and the student is not (DPSW)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.alignment.logprobs import in_float32, require_same_shape, token_logprobs
from workbench.errors import DataError, did_you_mean

#: Replies whose weights are all below this keep them: scaling them up would train on rounding errors.
SMALLEST_SCALE = 1e-6
_CHOICES = {"student_ref": ("teacher_argmax", "sampled"), "entropy_sign": ("confidence", "raw"), "normalise": ("mean", "max", "none")}


@dataclass(frozen=True)
class DPSW:
    """How tokens are weighted: w = teacher's part x student's part, then scaled within each reply.

    Neither formula nor settings are published; these are switches of a reconstruction (inferred).

    Parameters
    ----------
    k : int
        The teacher's likeliest tokens, over which its entropy is taken; the published value is unknown, 5 to 50 is sensible.
    student_ref : str
        The token whose probability the student is asked for: the teacher's likeliest (``teacher_argmax``) or the one in the reply (``sampled``).
        On-policy, ``sampled`` gives little weight exactly where the student confidently starts to comply.
    entropy_sign : str
        ``confidence``: weight where the teacher is sure (1 - entropy / log k); ``raw``: where it is not (entropy / log k).
    normalise : str
        ``mean``: weights of a reply average 1, so the loss keeps its scale; ``max``: its largest is 1; ``none``.

    Raises
    ------
    DataError
        An unknown choice, or k below 2.

    References
    ----------
    Dual-Perspective Safety Weighting in MSD, arXiv:2605.02971.
    """

    k: int = 20
    student_ref: str = "teacher_argmax"
    entropy_sign: str = "confidence"
    normalise: str = "mean"

    def __post_init__(self) -> None:
        if int(self.k) != self.k or self.k < 2:
            raise DataError(f"k={self.k}: expected a whole number, 2 or more, such as 20; one token has no entropy.")
        for name, choices in _CHOICES.items():
            given = getattr(self, name)
            if given not in choices:
                raise DataError(f"{name}={given!r}: expected one of {', '.join(choices)}.{did_you_mean(str(given), choices)}")


class TokenWeights(NamedTuple):
    """What each token of a reply counts, without gradient; 0 where the mask is False.

    Attributes
    ----------
    weight : Tensor [batch token]
        What the divergence is multiplied by.
    teacher : Tensor [batch token]
        How sure the teacher is (or is not, by the sign), 0 to 1.
    student : Tensor [batch token]
        How unlikely the student finds the token it should say, 0 to 1.
    """

    weight: Float[Tensor, "batch token"]
    teacher: Float[Tensor, "batch token"]
    student: Float[Tensor, "batch token"]


@torch.no_grad()
def dpsw_weights(
    student_logits: Float[Tensor, "batch token vocab"],
    teacher_logits: Float[Tensor, "batch token vocab"],
    sampled: Int[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"] | Int[Tensor, "batch token"],
    config: DPSW,
) -> TokenWeights:
    """Weight the tokens of replies by the teacher's confidence and the student's risk.

    Teacher's part: 1 - H / log k, with H the entropy of its distribution over its k likeliest tokens, renormalised. Student's part: 1 - p of the
    token named by ``config.student_ref``.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor [batch token vocab]
        Aligned: entry i of both predicts ``sampled[:, i]``. Computed in float32 at least.
    sampled : int Tensor [batch token]
        The reply's tokens, padded with any id of the vocabulary.
    mask : bool or 0/1 Tensor [batch token]
        True on tokens of the reply.
    config : DPSW

    Returns
    -------
    TokenWeights
        With ``normalise="mean"`` the weights of a reply average 1 over its own tokens, whatever is batched beside it. A reply where teacher and
        student agree throughout (mean or largest below 1e-6) keeps weights near 0.

    Raises
    ------
    DataError
        Shapes that differ.

    References
    ----------
    MSD, arXiv:2605.02971; the formula is a reconstruction from notes on the paper (inferred).
    """
    require_same_shape(student_logits=student_logits, teacher_logits=teacher_logits)
    require_same_shape(sampled=sampled, mask=mask, logits=student_logits[..., 0])
    kept = mask.bool()
    top = teacher_logits.topk(min(config.k, teacher_logits.shape[-1]), dim=-1)
    entropy = torch.special.entr(in_float32(top.values).softmax(dim=-1)).sum(dim=-1) / math.log(top.values.shape[-1])
    teacher = 1 - entropy if config.entropy_sign == "confidence" else entropy
    asked = top.indices[..., 0] if config.student_ref == "teacher_argmax" else sampled
    student = -torch.expm1(token_logprobs(student_logits, asked))
    # rounding may leave either an ulp outside of its range
    teacher, student = (torch.where(kept, part.clamp(0.0, 1.0), 0.0) for part in (teacher, student))
    return TokenWeights(_scaled(teacher * student, kept, config.normalise), teacher, student)


def uniform_weights(mask: Bool[Tensor, "batch token"] | Int[Tensor, "batch token"]) -> TokenWeights:
    """Weight every token of a reply alike: the control beside :func:`dpsw_weights`.

    Examples
    --------
    >>> uniform_weights(torch.tensor([[1, 1, 0]])).weight
    tensor([[1., 1., 0.]])
    """
    ones = mask.bool().float()
    return TokenWeights(ones, ones, ones)


def _scaled(weight: Tensor, kept: Tensor, normalise: str) -> Tensor:
    if normalise == "none":
        return weight
    scale = weight.amax(dim=-1) if normalise == "max" else weight.sum(dim=-1) / kept.sum(dim=-1).clamp(min=1)
    return weight / torch.where(scale < SMALLEST_SCALE, 1.0, scale).unsqueeze(-1)
