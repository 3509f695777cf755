"""Difference of two class means, and what any unit vector measures on the states it was found on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from workbench.errors import DataError


class Along(NamedTuple):
    """Class difference along a unit vector, gap of its projections, and mean projection of the negative class."""

    norm: float
    gap: float
    baseline: float


def difference_in_means(
    states: Float[np.ndarray, "prompt hidden"], harmful: Bool[np.ndarray, " prompt"]
) -> tuple[Float[np.ndarray, " hidden"], float]:
    """Return the unit vector from the mean harmless to the mean harmful state, and the distance.

    A distance that is only rounding (1e-7 of the states' size) counts as none: zero vector, norm 0.

    Raises
    ------
    DataError
        One class only.

    Examples
    --------
    >>> difference_in_means(np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([False, True]))
    (array([0., 1.]), 2.0)
    """
    harmful = np.asarray(harmful, dtype=bool)
    if harmful.all() or not harmful.any():
        raise DataError(f"All {len(harmful)} prompts carry the same label. Expected harmful and harmless ones.")
    states = np.asarray(states, dtype=np.float64)
    raw = states[harmful].mean(axis=0) - states[~harmful].mean(axis=0)
    norm = float(np.linalg.norm(raw))
    if norm <= 1e-7 * float(np.sqrt((states**2).sum(axis=1).mean())):
        return np.zeros_like(raw), 0.0
    return raw / norm, norm


def along(states: Float[np.ndarray, "prompt hidden"], positive: Bool[np.ndarray, " prompt"], unit: Float[np.ndarray, " hidden"]) -> Along:
    """Return norm, gap and baseline of a unit vector on its training states (defined at :class:`Directions`).

    Examples
    --------
    >>> along(np.array([[0.0, 9.0], [1.0, 9.0], [4.0, 0.0], [6.0, 0.0]]), np.array([False, False, True, True]), np.array([1.0, 0.0]))
    Along(norm=4.5, gap=5.25, baseline=0.5)
    """
    projected = np.asarray(states, dtype=np.float64) @ unit
    high, low = projected[positive], projected[~positive]
    baseline = float(low.mean())
    return Along(float(high.mean()) - baseline, float(np.quantile(high, 0.75) - np.quantile(low, 0.25)), baseline)
