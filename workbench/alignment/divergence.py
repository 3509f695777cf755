"""How far a student's next-token distributions lie from a teacher's, token by token."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.alignment.logprobs import in_float32, require_same_shape
from workbench.errors import DataError, did_you_mean

KINDS = ("forward", "reverse", "js")
#: Least log-probability, in nats: a token ruled out by a logit of minus infinity then gives no 0 x infinity.
_FLOOR = -1e4


def token_divergence(
    student_logits: Float[Tensor, "batch token vocab"],
    teacher_logits: Float[Tensor, "batch token vocab"],
    kind: str = "forward",
    beta: float = 0.5,
    top_k: int | None = None,
) -> Float[Tensor, "batch token"]:
    """Compare the student's distribution with the teacher's at every token; only the student gets a gradient.

    Parameters
    ----------
    student_logits, teacher_logits : Tensor [batch token vocab]
        Aligned: entry i of both predicts the same token of the reply. Computed in float32 at least.
    kind : str
        ``forward`` KL(teacher || student): cover all that the teacher would say. ``reverse`` KL(student || teacher): say nothing that it would not.
        ``js`` generalised Jensen-Shannon: beta KL(teacher || m) + (1 - beta) KL(student || m) with m = beta teacher + (1 - beta) student.
    beta : float
        Of ``js`` only, between 0 and 1; symmetric at .5.
    top_k : int, optional
        Compare on the teacher's k likeliest tokens, and all others together as one more. A lower bound of the whole, equal to it when k is the
        vocabulary. Renormalising over the k instead would not see a student that says something else altogether.

    Returns
    -------
    Tensor [batch token]
        Nats, 0 where both agree; ``js`` at most ln 2 (at beta .5; below that at others).

    Raises
    ------
    DataError
        Shapes that differ, an unknown kind, beta outside (0, 1), or top_k below 1.

    References
    ----------
    Generalised Jensen-Shannon: Agarwal et al. 2024, arXiv:2306.13649. Self-distillation: MSD, arXiv:2605.02971 (which of the three
    it takes is not settled: inferred). The bucket for the other tokens: inferred.

    Examples
    --------
    >>> sure, unsure = torch.tensor([[[9.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    >>> token_divergence(unsure, sure), token_divergence(unsure, sure, "js")
    (tensor([[0.6919]]), tensor([[0.2152]]))
    """
    require_same_shape(student_logits=student_logits, teacher_logits=teacher_logits)
    if kind not in KINDS:
        raise DataError(f"kind={kind!r}: expected one of {', '.join(KINDS)}.{did_you_mean(str(kind), KINDS)}")
    if not 0 < beta < 1:
        raise DataError(f"beta={beta}: expected a number between 0 and 1. For the ends take kind='forward' or kind='reverse'.")
    log_s, log_t = (in_float32(logits).log_softmax(dim=-1).clamp(min=_FLOOR) for logits in (student_logits, teacher_logits.detach()))
    if top_k is not None:
        log_s, log_t = _with_rest(log_s, log_t, top_k)
    if kind == "forward":
        return _kl(log_t, log_s)
    if kind == "reverse":
        return _kl(log_s, log_t)
    mixture = torch.logaddexp(log_t + math.log(beta), log_s + math.log(1 - beta))
    return beta * _kl(log_t, mixture) + (1 - beta) * _kl(log_s, mixture)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _with_rest(log_s: Tensor, log_t: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return both on the teacher's k likeliest tokens, with one entry for the rest of the vocabulary."""
    if k < 1:
        raise DataError(f"top_k={k}: expected 1 or more, or None for the whole vocabulary.")
    if k >= log_t.shape[-1]:
        return log_s, log_t
    top = log_t.topk(k, dim=-1).indices

    def cut(log_p: Tensor) -> Tensor:
        # summed directly: one minus the others has no digits left where the rest is small
        rest = log_p.scatter(-1, top, -torch.inf).logsumexp(dim=-1, keepdim=True)
        return torch.cat([log_p.gather(-1, top), rest], dim=-1)

    return cut(log_s), cut(log_t)
