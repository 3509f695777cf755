"""CAST's search for a condition point: at which layers, above or below which similarity, does a gate fire?

Every subset of layers, every threshold of a grid and both comparators are tried in the released order, and only a strictly better F1
replaces what was found. Several layers are joined by "or".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from workbench.errors import DataError, did_you_mean

#: "larger": the threshold is the larger of the two, so the gate fires below it. "smaller": it fires above.
COMPARATORS = ("larger", "smaller")
#: The released demo's grid: from, to (exclusive), step.
RELEASED_GRID = (0.0, 0.06, 1e-4)
#: Steps of the grid from the lowest to the highest similarity, where none is given; as many as the released one has.
STEPS = 600


@dataclass(frozen=True)
class ConditionPoint:
    """Where a condition is tested, and how well that told harmful from harmless where it was chosen.

    Attributes
    ----------
    layers : tuple of int
        Any of them suffices.
    threshold : float
        A similarity, from -1 to 1.
    comparator : {"larger", "smaller"}
        "larger" fires where the similarity is below the threshold, "smaller" where it is above.
    f1 : float
        F1 of harmful prompts in the search (0 to 1; flagging everything gives 2p / (1 + p) for a share p of harmful prompts).
    f1_running : float
        F1 of the returned threshold under the rule of :func:`condition_met`. It differs from ``f1`` where the threshold was rounded
        after the search, or a similarity is equal to it or undefined.
    """

    layers: tuple[int, ...]
    threshold: float
    comparator: str
    f1: float
    f1_running: float


def condition_met(similarity: Float[np.ndarray, " *shape"], threshold: float, comparator: str) -> Bool[np.ndarray, " *shape"]:
    """Say where a gate fires while the model runs: strictly below ("larger") or strictly above ("smaller") the threshold.

    An undefined similarity (NaN, from a state that is zero) never fires.

    Raises
    ------
    DataError
        Unknown comparator.

    Examples
    --------
    >>> condition_met(np.array([0.1, 0.2, np.nan]), 0.2, "larger").tolist()
    [True, False, False]
    """
    if comparator not in COMPARATORS:
        raise DataError(f"Unknown comparator {comparator!r}; expected one of {list(COMPARATORS)}.{did_you_mean(str(comparator), COMPARATORS)}")
    similarity = np.asarray(similarity)
    return similarity < threshold if comparator == "larger" else similarity > threshold


def f1_score(fires: Bool[np.ndarray, " prompt"], harmful: Bool[np.ndarray, " prompt"]) -> float:
    """Return F1 of the harmful class, 2 TP / (2 TP + FP + FN)."""
    return float(2 * (fires & harmful).sum() / (fires.sum() + harmful.sum()))


def condition_point(
    similarities: Float[np.ndarray, "prompt layer"],
    harmful: Bool[np.ndarray, " prompt"],
    *,
    layers: Sequence[int] | None = None,
    thresholds: Float[np.ndarray, " threshold"] | tuple[float, float, float] | None = None,
    comparators: Sequence[str] = COMPARATORS,
    combine: int = 1,
    as_released: bool = False,
) -> ConditionPoint:
    """Search layers, thresholds and comparators for the best F1.

    Parameters
    ----------
    similarities : array (prompt, layer)
        Of each prompt with the condition vector of each layer; NaN where undefined.
    harmful : bool array (prompt,)
    layers : sequence of int, optional
        Names of the columns; default 0, 1, ...
    thresholds : array, (start, stop, step) or None
        None: 600 equal steps from the lowest to the highest similarity and one below (*ours*: the released grid, 0 to 0.06 by 1e-4,
        belongs to other models' similarities).
    combine : int
        Largest subset of layers joined by "or".
    as_released : bool
        Round the threshold to three decimals **after** the search, as the released code does. What it reports is then the F1 of
        another threshold: see ``f1_running``.

    Raises
    ------
    DataError
        Shapes that do not fit, one class only, no finite similarity, an empty grid, no point that fires on anything harmful.

    Notes
    -----
    In the search "larger" means "not above" (an undefined or equal similarity counts), as in the released code; while the model runs it
    means "below". Source: Lee et al., arXiv:2409.05907; IBM/activation-steering ``find_best_condition_point``.

    Examples
    --------
    >>> found = condition_point(np.array([[0.9], [0.8], [0.2]]), np.array([True, True, False]), thresholds=(0.0, 1.0, 0.5))
    >>> found.threshold, found.comparator, found.f1
    (0.5, 'smaller', 1.0)
    """
    similarities, harmful = np.asarray(similarities, dtype=np.float64), np.asarray(harmful, dtype=bool)
    names = _checked(similarities, harmful, layers, combine)
    unknown = [name for name in comparators if name not in COMPARATORS]
    if unknown or not len(comparators):
        raise DataError(f"comparators={list(comparators)}: expected one or both of {list(COMPARATORS)}.")
    tried = [name for name in COMPARATORS if name in comparators]
    grid = _grid(similarities, thresholds)
    best: tuple[float, tuple[int, ...], float, str] | None = None
    for size in range(1, combine + 1):
        for subset in itertools.combinations(range(len(names)), size):
            scores = _f1_table(similarities[:, subset], harmful, grid, tried)
            at = int(scores.argmax())
            if scores.flat[at] > (best[0] if best else 0.0):
                best = float(scores.flat[at]), subset, float(grid[at // len(tried)]), tried[at % len(tried)]
    if best is None:
        raise DataError("No threshold of the grid fires on a harmful prompt. Expected a grid within the similarities' range; pass thresholds=None.")
    f1, subset, threshold, comparator = best
    threshold = round(threshold, 3) if as_released else threshold
    running = np.any(condition_met(similarities[:, subset], threshold, comparator), axis=1)
    return ConditionPoint(tuple(names[k] for k in subset), threshold, comparator, f1, f1_score(running, harmful))


def _checked(similarities: np.ndarray, harmful: np.ndarray, layers: Sequence[int] | None, combine: int) -> list[int]:
    if similarities.ndim != 2 or harmful.shape != (len(similarities),) or not similarities.size:
        raise DataError(f"Got similarities {similarities.shape} and labels {harmful.shape}. Expected (prompt, layer) and one label per prompt.")
    if harmful.all() or not harmful.any():
        raise DataError(f"All {len(harmful)} prompts carry the same label. Expected harmful and harmless ones.")
    names = list(range(similarities.shape[1])) if layers is None else [int(k) for k in layers]
    if len(names) != similarities.shape[1]:
        raise DataError(f"{len(names)} layers named, {similarities.shape[1]} columns of similarities. Expected one name per column.")
    if not 1 <= combine <= len(names):
        raise DataError(f"combine={combine} with {len(names)} layers. Expected a number from 1 to {len(names)}.")
    return names


def _grid(similarities: np.ndarray, thresholds: np.ndarray | tuple[float, float, float] | None) -> np.ndarray:
    if thresholds is None:
        finite = similarities[np.isfinite(similarities)]
        if not finite.size:
            raise DataError("No similarity is finite: every pooled state is zero. Expected states; capture them again.")
        low, high = float(finite.min()), float(finite.max())
        step = (high - low) / STEPS or max(1e-6, 1e-6 * abs(low))
        return np.concatenate([[low - step], np.linspace(low, high, STEPS + 1)])
    grid = np.arange(*thresholds) if isinstance(thresholds, tuple) else np.sort(np.asarray(thresholds, dtype=np.float64))
    if not grid.size or not np.isfinite(grid).all():
        raise DataError(f"The grid of thresholds has {grid.size} values, or some not finite. Expected (start, stop, step) with start < stop.")
    return grid


def _f1_table(similarities: np.ndarray, harmful: np.ndarray, grid: np.ndarray, comparators: list[str]) -> Float[np.ndarray, "threshold comparator"]:
    """F1 of each threshold and comparator; "larger" here is "not above"."""
    above = similarities[:, :, None] > grid
    columns = []
    for comparator in comparators:
        fires = (~above if comparator == "larger" else above).any(axis=1)
        caught, fired = (fires & harmful[:, None]).sum(axis=0), fires.sum(axis=0)
        columns.append(2 * caught / (fired + harmful.sum()))
    return np.stack(columns, axis=1)
