"""How much a model is about to refuse, read off its next-token distribution, and how far an edit moves that distribution.

The score looks at the first token of the reply only, so it needs the first tokens of refusals
(:class:`~workbench.interventions.refusal_tokens.RefusalTokens`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import DataError


def refusal_score(
    logits: Float[Tensor, "prompt vocab"] | Float[Tensor, "prompt token vocab"], token_ids: Sequence[int], *, eps: float = 1e-8
) -> Float[Tensor, " prompt"]:
    """Return the log-odds that a reply opens with a token typical of refusals, in natural-logarithm units.

    Parameters
    ----------
    logits : Tensor [prompt vocab] or [prompt token vocab]
        Of the next token; of a whole sequence the last position counts.
    token_ids : sequence of int
        First tokens of refusals; one given twice counts once.
    eps : float
        Keeps the score finite: it saturates at +-log((1 + eps) / eps), 18.42.

    Returns
    -------
    float64 Tensor [prompt]
        log(p + eps) - log(1 - p + eps) with p the summed probability of the tokens. 0 is even odds.

    Raises
    ------
    DataError
        No tokens, or tokens outside of the vocabulary.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717, section 2.4 and released code (float64, eps 1e-8).

    Examples
    --------
    >>> refusal_score(torch.zeros(1, 4), [0, 1])
    tensor([0.], dtype=torch.float64)
    """
    ids = sorted({int(token) for token in token_ids})
    size = logits.shape[-1]
    if not ids or ids[0] < 0 or ids[-1] >= size:
        raise DataError(f"token_ids are {ids[:8]}. Expected at least one, each from 0 to {size - 1}: first tokens of refusals in this vocabulary.")
    last = logits[:, -1] if logits.ndim == 3 else logits
    p = last.double().softmax(dim=-1)[:, ids].sum(dim=-1)
    return torch.log(p + eps) - torch.log(1 - p + eps)


def next_token_kl(base: Float[Tensor, "prompt vocab"], edited: Float[Tensor, "prompt vocab"], *, eps: float = 1e-6) -> Float[Tensor, " prompt"]:
    """Return how far an edit moves the next-token distribution, KL(base || edited) per prompt, in nats.

    Parameters
    ----------
    base, edited : Tensor [prompt vocab]
        Logits without and with the edit.
    eps : float
        Added to the probabilities inside both logarithms.

    Returns
    -------
    float64 Tensor [prompt]
        0 where nothing moved. Selection uses the mean over prompts.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717, released code (float64, eps 1e-6).

    Examples
    --------
    >>> next_token_kl(torch.zeros(1, 4), torch.zeros(1, 4))
    tensor([0.], dtype=torch.float64)
    """
    if base.shape != edited.shape:
        raise DataError(f"Logits of shape {tuple(base.shape)} and {tuple(edited.shape)}. Expected those of the same prompts and model.")
    p, q = base.double().softmax(dim=-1), edited.double().softmax(dim=-1)
    return (p * (torch.log(p + eps) - torch.log(q + eps))).sum(dim=-1)
