"""What a completion's tokens cost: log-probabilities in float32 whatever the model's precision, summed where a mask says so."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import DataError


def in_float32(values: Tensor) -> Tensor:
    """Return half-precision values in float32; float32 and float64 stay as they are.

    A sum of 200 log-probabilities in bfloat16 is off by whole nats, more than the rewards that are compared.
    """
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def require_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors that would broadcast where they should match element by element.

    Raises
    ------
    DataError
        Naming every shape.
    """
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise DataError(f"The shapes differ: {shapes}. Expected one value per case in each, in the same order; build them from the same batch.")


def require_positive(**options: float) -> None:
    """Refuse options that must lie above zero, NaN included.

    Raises
    ------
    DataError
        Naming the option.
    """
    for name, value in options.items():
        if not value > 0:
            raise DataError(f"{name}={value}: expected a number above 0, such as 0.1.")


def token_logprobs(logits: Float[Tensor, "batch token vocab"], ids: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token"]:
    """Return the log-probability of each token under the logits that predict it, in nats.

    Parameters
    ----------
    logits : Tensor [batch token vocab]
        Already shifted: ``logits[:, i]`` predicts ``ids[:, i]``. Computed in float32 at least.
    ids : int Tensor [batch token]
        Ids of the vocabulary, at padding too (mask those afterwards).

    Returns
    -------
    Tensor [batch token]
        At most 0; a uniform model gives minus the logarithm of the vocabulary's size.

    Examples
    --------
    >>> token_logprobs(torch.zeros(1, 2, 4), torch.tensor([[0, 3]]))
    tensor([[-1.3863, -1.3863]])
    """
    require_same_shape(ids=ids, logits=logits[..., 0])
    computed = in_float32(logits)
    return computed.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - computed.logsumexp(dim=-1)


def sequence_logprobs(
    token_logprobs: Float[Tensor, "batch token"], mask: Bool[Tensor, "batch token"] | Int[Tensor, "batch token"], mean: bool = False
) -> Float[Tensor, " batch"]:
    """Return the log-probability of each completion: the sum over its tokens, or their mean.

    Parameters
    ----------
    token_logprobs : Tensor [batch token]
        From :func:`token_logprobs`, in nats.
    mask : bool or 0/1 Tensor [batch token]
        True on the tokens of the completion: neither prompt nor inserted sentence nor padding.
    mean : bool
        Divide by the number of tokens counted.

    Raises
    ------
    DataError
        Shapes that differ; with ``mean``, a row without a token.

    Examples
    --------
    >>> sequence_logprobs(torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[True, True, False]]))
    tensor([-3.])
    """
    require_same_shape(token_logprobs=token_logprobs, mask=mask)
    kept = mask.bool()
    # not a product: 0 times the nan that some models leave at padding is nan
    total = torch.where(kept, in_float32(token_logprobs), 0.0).sum(dim=-1)
    if not mean:
        return total
    lengths = kept.sum(dim=-1)
    require_tokens(completion=lengths)
    return total / lengths


def require_tokens(**lengths: Tensor) -> None:
    """Refuse completions without a token: their mean is undefined.

    Raises
    ------
    DataError
        Naming the rows of the batch.
    """
    for name, counts in lengths.items():
        empty = torch.nonzero(counts <= 0).flatten().tolist()
        if empty:
            raise DataError(
                f"Rows {empty[:8]} of {len(counts)} have no {name} token. Expected at least one; "
                "drop empty completions, or raise the longest length allowed if they were cut off."
            )
