"""Products and lengths of states, each row by itself.

A matrix product may sum in another order for another number of rows, so that a score changes in its last bit with the batch around it.
Here it does not: decisions at a threshold are the same for any batch and order.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def row_dots(states: Float[np.ndarray, "prompt hidden"], other: Float[np.ndarray, " hidden"] | Float[np.ndarray, "prompt hidden"]) -> np.ndarray:
    """Return the product of each row with one vector, or with the same row of another table, in float64.

    Examples
    --------
    >>> row_dots(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, -1.0])).tolist()
    [-1.0, -1.0]
    """
    return (np.ascontiguousarray(states, dtype=np.float64) * np.asarray(other, dtype=np.float64)).sum(axis=1)


def row_cosines(states: Float[np.ndarray, "prompt hidden"], other: Float[np.ndarray, " hidden"] | Float[np.ndarray, "prompt hidden"]) -> np.ndarray:
    """Return the cosine of each row with one vector, or with the same row of another table; NaN where either is zero."""
    others = np.atleast_2d(np.asarray(other, dtype=np.float64))
    lengths = np.sqrt(row_dots(states, states)) * np.sqrt(row_dots(others, others))
    return np.divide(row_dots(states, other), lengths, out=np.full(len(states), np.nan), where=lengths > 0)
