"""Batches by token budget: similar lengths together, so that little padding is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def batches(lengths: Sequence[int], token_budget: int) -> Iterator[np.ndarray]:
    """Group prompts of similar length: longest first, at most ``token_budget`` tokens each, padding included.

    Parameters
    ----------
    lengths : sequence of int
        Tokens per prompt.
    token_budget : int
        Rows times longest row; a single longer row makes a batch of its own.

    Yields
    ------
    int array
        Row numbers; every row comes exactly once.

    Examples
    --------
    >>> [rows.tolist() for rows in batches([3, 9, 4, 10], 20)]
    [[3, 1], [2, 0]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        rows = max(token_budget // max(int(lengths[order[start]]), 1), 1)
        yield order[start : start + rows]
        start += rows
