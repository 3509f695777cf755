"""AdaSteer's law: how far a prompt lies between two groups decides how hard it is pushed.

The position of a state h between the means a and b of two groups is x = 100 (h - a).(b - a) / |b - a|^2: 0 at a, 100 at b. A strength is a
clamped affine ramp of it. The released constants are kept as :data:`RELEASED`; :func:`fit_ramp` fits a ramp to the user's data.

References
----------
Zhao et al. 2025, AdaSteer, arXiv:2504.09466, and the released code (MuyuenLP/AdaSteer), which ships the constants and no fitting code.
:func:`fit_ramp` is therefore **inferred**: from a re-implementation that fits a least-squares line to the smallest sufficient strength found
on a grid, and then clamps. The abstract says the coefficients are learned by logistic regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from workbench.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Ramp:
    """Strength = slope (x + offset) + bias, held between ``low`` and ``high``.

    Examples
    --------
    >>> Ramp(0.1, -140.0, low=-0.2, high=0.0)(np.array([0.0, 139.0, 150.0])).round(3).tolist()
    [-0.2, -0.1, 0.0]
    """

    slope: float
    offset: float = 0.0
    bias: float = 0.0
    low: float = float("-inf")
    high: float = float("inf")

    def __post_init__(self) -> None:
        if not np.isfinite([self.slope, self.offset, self.bias]).all() or not self.low <= self.high:
            raise DataError(f"{self} is no ramp. Expected a finite slope, offset and bias, and low <= high.")

    def __call__(self, x: Float[np.ndarray, " *shape"]) -> Float[np.ndarray, " *shape"]:
        """Return the strength at positions x."""
        return np.clip(self.slope * (np.asarray(x, dtype=np.float64) + self.offset) + self.bias, self.low, self.high)

    @property
    def width(self) -> float:
        """Positions over which the strength changes, in hundredths of the distance between the groups; a small one is a switch."""
        return abs((self.high - self.low) / self.slope) if self.slope else float("inf")


@dataclass(frozen=True)
class Law:
    """The released constants of one model: the two probe layers, and the ramp at each.

    Layers count blocks passed: the release's "block l" is layer l + 1.
    """

    rejection_layer: int
    rejection: Ramp
    harmfulness_layer: int
    harmfulness: Ramp


#: The released constants (card: positions 0 at complied and 100 at refused prompts; 0 at harmful complied and 100 at benign ones).
#: Strengths are multiples of each layer's raw released vector, which points towards complying: negative ones push towards refusal.
RELEASED = {
    "llama-3.1-8b-instruct": Law(9, Ramp(0.02, 60.0, 0.0, -0.22, -0.08), 14, Ramp(-0.05, 5.0, -0.5, -0.75)),
    "qwen2.5-7b-instruct": Law(6, Ramp(0.1, -140.0, 0.0, -0.2, 0.0), 14, Ramp(-0.06, -50.0, 0.0, -0.6, 0.4)),
    "gemma-2-9b-it": Law(13, Ramp(0.004, -35.0, 0.0, -0.02, 0.06), 20, Ramp(0.01, -50.0, 0.0, -0.06, 0.02)),
}


def released_law(model: str) -> Law:
    """Return the released constants of a model.

    Raises
    ------
    DataError
        A model without released constants; they do not carry over to another, since they multiply vectors of its own length.
    """
    if model not in RELEASED:
        raise DataError(
            f"AdaSteer has no released constants for {model!r}; known: {list(RELEASED)}.{did_you_mean(model, RELEASED)} "
            "For another model fit its own law: fit_ramp(positions, smallest_sufficient(...))."
        )
    return RELEASED[model]


def position(
    states: Float[np.ndarray, "prompt hidden"], zero: Float[np.ndarray, " hidden"], hundred: Float[np.ndarray, " hidden"]
) -> Float[np.ndarray, " prompt"]:
    """Return where states lie between two anchors, in percent of the way: 0 at ``zero``, 100 at ``hundred``.

    Each row by itself: what else is in the batch does not matter. No unit of the residual stream is left in it.

    Raises
    ------
    DataError
        Anchors that are the same, or of another width than the states.

    Examples
    --------
    >>> position(np.array([[1.0, 7.0], [3.0, 0.0]]), np.array([1.0, 0.0]), np.array([3.0, 0.0])).tolist()
    [0.0, 100.0]
    """
    states, zero, hundred = (np.ascontiguousarray(v, dtype=np.float64) for v in (states, zero, hundred))
    if states.ndim != 2 or not states.shape[1:] == zero.shape == hundred.shape:
        raise DataError(f"Got states {states.shape} and anchors {zero.shape} and {hundred.shape}. Expected (prompt, hidden) and twice (hidden,).")
    across = hundred - zero
    length = float(across @ across)
    if not np.sqrt(length) > 1e-7 * max(float(np.linalg.norm(zero)), float(np.linalg.norm(hundred))):
        raise DataError("The two anchors are the same state, so nothing lies between them. Expected two groups that differ; take another layer.")
    return 100.0 * ((states - zero) * across).sum(axis=1) / length


def smallest_sufficient(strengths: Sequence[float], sufficed: Bool[np.ndarray, "prompt strength"]) -> Float[np.ndarray, " prompt"]:
    """Return the smallest strength in absolute value at which each prompt came out right; NaN where none did.

    Parameters
    ----------
    strengths : sequence of float
        The grid, with 0 in it.
    sufficed : bool array (prompt, strength)
        Whether the reply was right (refused for a harmful prompt, answered for a harmless one).

    Raises
    ------
    DataError
        Shapes that do not fit, or a grid without 0.

    Examples
    --------
    >>> smallest_sufficient([0.0, -0.1, -0.2], np.array([[True, True, True], [False, False, True], [False, False, False]])).tolist()
    [0.0, -0.2, nan]
    """
    grid, right = np.asarray(strengths, dtype=np.float64), np.asarray(sufficed, dtype=bool)
    if right.ndim != 2 or grid.shape != right.shape[1:] or 0.0 not in grid:
        raise DataError(f"Got {grid.shape} strengths and outcomes {right.shape}. Expected outcomes (prompt, strength), and 0 among the strengths.")
    order = np.argsort(np.abs(grid), kind="stable")
    first = right[:, order].argmax(axis=1)
    return np.where(right.any(axis=1), grid[order][first], np.nan)


def sufficient_by_bin(
    positions: Float[np.ndarray, " prompt"],
    strengths: Sequence[float],
    sufficed: Bool[np.ndarray, "prompt strength"],
    *,
    bins: int = 8,
    share: float = 0.9,
) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Return mean position and smallest strength at which at least ``share`` of a bin's prompts came out right (*ours*; NaN where none did).

    Bins hold equally many prompts. One prompt's smallest strength is noisy; a bin's is less so, and asks for the same share everywhere.

    Raises
    ------
    DataError
        As :func:`smallest_sufficient`; or fewer prompts than bins.
    """
    right, where = np.asarray(sufficed, dtype=bool), np.asarray(positions, dtype=np.float64)
    if where.shape != right.shape[:1] or not 1 <= bins <= len(where):
        raise DataError(f"Got {where.shape} positions, outcomes {right.shape}, bins={bins}. Expected one position per prompt, and no more bins.")
    parts = np.array_split(np.argsort(where, kind="stable"), bins)
    rates = np.stack([right[rows].mean(axis=0) for rows in parts])
    return np.array([where[rows].mean() for rows in parts]), smallest_sufficient(strengths, rates >= share)


class FittedRamp(NamedTuple):
    """A ramp, the share of prompts (or bins) that no strength sufficed for and that were left out, and the correlation it rests on."""

    ramp: Ramp
    unreached: float
    correlation: float


def fit_ramp(
    positions: Float[np.ndarray, " prompt"],
    strengths: Float[np.ndarray, " prompt"],
    *,
    low: float | None = None,
    high: float | None = None,
) -> FittedRamp:
    """Fit the line of least squares from position to smallest sufficient strength, then clamp (**inferred**: see the module).

    Give strengths in units of ``Add(scale="norm")``, multiples of a state's own length: the law then holds no length of any model.

    Parameters
    ----------
    positions : array (prompt,)
        Hundredths of the way between the anchors.
    strengths : array (prompt,)
        NaN where none sufficed: left out, and counted.
    low, high : float, optional
        The clamps; default the smallest and largest strength among the rows.

    Raises
    ------
    DataError
        Fewer than two prompts with a strength, or all at one position.

    Examples
    --------
    >>> fit_ramp(np.array([0.0, 50.0, 100.0]), np.array([0.2, 0.1, 0.0])).ramp(np.array([-100.0, 25.0])).round(3).tolist()
    [0.2, 0.15]
    """
    where, needed = np.asarray(positions, dtype=np.float64), np.asarray(strengths, dtype=np.float64)
    if where.shape != needed.shape or where.ndim != 1:
        raise DataError(f"Got positions {where.shape} and strengths {needed.shape}. Expected one of each per prompt.")
    reached = np.isfinite(needed) & np.isfinite(where)
    x, y = where[reached], needed[reached]
    if len(x) < 2 or np.ptp(x) == 0:
        raise DataError(
            f"{len(x)} of {len(where)} prompts have a strength that sufficed{', all at one position' if len(x) > 1 else ''}. Expected at least two, "
            "at different positions: take more prompts or stronger pushes."
        )
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    spread = float(np.sqrt((centred @ centred) * ((y - y.mean()) @ (y - y.mean()))))
    least, most = float(y.min()) if low is None else low, float(y.max()) if high is None else high
    ramp = Ramp(slope, 0.0, float(y.mean()) - slope * float(x.mean()), least, most)
    return FittedRamp(ramp, 1.0 - float(reached.mean()), float(centred @ y) / spread if spread > 0 else float("nan"))
