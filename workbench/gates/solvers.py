"""Two ways to fit the gate's class-weighted logistic readout: to convergence, or with the paper's 80 optimiser steps.

Both reduce the mean over rows of the binary cross-entropy, harmful rows counted n_harmless / n_harmful times. The converged one adds
l2 |w|^2 / 2 (the intercept is free), so that the minimum exists on classes that can be told apart without error. The paper's stops
early, starts from random weights, and its decoupled decay also pulls on the intercept: its answer depends on the seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from workbench.errors import DataError
from workbench.gates.rowwise import row_dots

#: Of 1e-4, 1e-3 and 1e-2, the penalty whose logits and decisions come nearest to the paper's on the embedded organism.
L2 = 1e-2
_STEPS = 200


class Readout(NamedTuple):
    """A linear score of features: logit = (features - mean) / scale @ weights + intercept."""

    mean: Float[np.ndarray, " feature"]
    scale: Float[np.ndarray, " feature"]
    weights: Float[np.ndarray, " feature"]
    intercept: float

    def logits(self, features: Float[np.ndarray, "prompt feature"]) -> Float[np.ndarray, " prompt"]:
        """Return the logit of each row."""
        return row_dots((features - self.mean) / self.scale, self.weights) + self.intercept


def standardiser(features: Float[np.ndarray, "prompt feature"]) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    """Return mean and population standard deviation of each feature; a deviation is at least 1e-6."""
    return features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)


def converged(
    z: Float[np.ndarray, "prompt feature"], harmful: Bool[np.ndarray, " prompt"], *, l2: float = L2, tolerance: float = 1e-10
) -> tuple[Float[np.ndarray, " feature"], float]:
    """Return weights and intercept at the minimum, by damped Newton steps.

    Parameters
    ----------
    z : array (prompt, feature)
        Standardised features.
    l2 : float
        Penalty on the squared weights. The objective is ``n x l2`` times that of scikit-learn's
        ``LogisticRegression(C=1 / (n x l2))`` with sample weights.
    tolerance : float
        Largest slope of the objective at which to stop.

    Raises
    ------
    DataError
        ``l2`` not positive, or no convergence.
    """
    if not l2 > 0:
        raise DataError(f"l2={l2}: expected a positive number; without a penalty classes that are told apart without error have no best weights.")
    rows = np.column_stack([z, np.ones(len(z))])
    weight = _row_weights(harmful)
    ridge = np.append(np.full(z.shape[1], l2), 0.0)
    at = np.zeros(rows.shape[1])
    value = _objective(at, rows, harmful, weight, ridge)
    for _ in range(_STEPS):
        p = expit(rows @ at)
        slope = rows.T @ (weight * (p - harmful)) / len(rows) + ridge * at
        if np.abs(slope).max() <= tolerance:
            return at[:-1], float(at[-1])
        curvature = (rows.T * (weight * p * (1 - p))) @ rows / len(rows) + np.diag(ridge)
        step = np.linalg.lstsq(curvature, slope, rcond=None)[0]
        length = 1.0
        while (tried := _objective(at - length * step, rows, harmful, weight, ridge)) > value - 1e-4 * length * (slope @ step) and length > 1e-10:
            length /= 2
        if length <= 1e-10:  # no longer downhill within rounding
            break
        at, value = at - length * step, tried
    if np.abs(slope).max() <= 1e-6:
        return at[:-1], float(at[-1])
    raise DataError(
        f"The logistic readout did not converge at l2={l2:g} (slope {np.abs(slope).max():.2g}, expected {tolerance:g}). Pass a larger l2 or a "
        "lower rank."
    )


def paper(
    z: Float[np.ndarray, "prompt feature"],
    harmful: Bool[np.ndarray, " prompt"],
    rng: np.random.Generator,
    *,
    steps: int = 80,
    rate: float = 0.05,
    decay: float = 0.01,
    start: Float[np.ndarray, " feature"] | None = None,
) -> tuple[Float[np.ndarray, " feature"], float]:
    """Return weights and intercept after the paper's full-batch AdamW steps, in float64.

    Parameters
    ----------
    rng : Generator
        Draws the Xavier-uniform start (the authors draw theirs with torch, seeded by a hash of run names; ours differ from it as two
        of their seeds differ).
    start : array (feature,), optional
        Start here instead. The intercept starts at 0.

    References
    ----------
    arXiv:2606.01196, settings read in the authors' code; AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    bound = np.sqrt(6 / (z.shape[1] + 1))
    weights = rng.uniform(-bound, bound, size=z.shape[1]) if start is None else np.asarray(start, dtype=np.float64)
    rows, at, weight = np.column_stack([z, np.ones(len(z))]), np.append(weights, 0.0), _row_weights(harmful)
    first, second = np.zeros_like(at), np.zeros_like(at)
    for step in range(1, steps + 1):
        slope = rows.T @ (weight * (expit(rows @ at) - harmful)) / len(rows)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        at = at * (1 - rate * decay)
        at = at - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return at[:-1], float(at[-1])


def _row_weights(harmful: np.ndarray) -> np.ndarray:
    return np.where(harmful, (~harmful).sum() / harmful.sum(), 1.0)


def _objective(at: np.ndarray, rows: np.ndarray, harmful: np.ndarray, weight: np.ndarray, ridge: np.ndarray) -> float:
    logits = rows @ at
    return float((weight * np.logaddexp(0, np.where(harmful, -logits, logits))).mean() + (ridge * at**2).sum() / 2)
