"""Intervals of separations and of weighted sums of them, paired over meanings.

One separation
--------------
The share of variance and the Bhattacharyya distance are squares of a distance between the classes, so near 0 their
jackknife error vanishes with them and the interval misses. Their intervals are formed on the scale of that distance,
delta = 2 sqrt(share / (1 - share)) and sqrt(8 D_B) (the identities of equal Gaussians, arXiv:2504.02708), and
mapped back; a silhouette keeps its own scale; an AUROC has its score interval, which keeps a width at 1.

Sums of them
------------
A change is after - before, a contrast a mean over some languages minus a mean over others. Each term's distance to its
bound counts with the term's weight, and the distances add as errors do, with the correlation of the terms' influence
values over the resampling units they share (MOVER: Zou and Donner 2008, Stat. Med. 27:1693; with equal bounds it is the
jackknife interval of the summed influence values). Influence values of two terms on the same meaning add before
they are squared; units that a term does not have count 0 there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t

from workbench.statistics import Estimate, Interval, jackknife_influence, jackknife_interval


def _share_to_distance(share: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 2 * np.sqrt(share / (1 - share))


def _distance_to_share(distance: np.ndarray) -> np.ndarray:
    return distance**2 / (distance**2 + 4)


#: Statistic -> (to the scale the interval is formed on, back, lowest, highest there).
SCALES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray], float, float]] = {
    "between_class_share": (_share_to_distance, _distance_to_share, 0.0, np.inf),
    "bhattacharyya": (lambda v: np.sqrt(8 * np.maximum(v, 0.0)), lambda d: d**2 / 8, 0.0, np.inf),
    "silhouette": (lambda v: v, lambda v: v, -1.0, 1.0),
}


def separation_interval(
    statistic: str, value: float, without: Float[np.ndarray, " group"], confidence: float = 0.95
) -> tuple[Interval, Float[np.ndarray, " group"]]:
    """Return the interval of one separation from its values without each group of units, and its influence values.

    Both are NaN where the statistic is undefined without some group.
    """
    influence = jackknife_influence(np.asarray(value), without)
    forward, back, lowest, highest = SCALES[statistic]
    at, left = forward(np.asarray(value, dtype=np.float64)), forward(np.asarray(without, dtype=np.float64))
    if not (np.isfinite(at) and np.isfinite(left).all()):
        return Interval(float("nan"), float("nan")), np.full(len(without), np.nan)
    low, high = jackknife_interval(at, jackknife_influence(at, left), confidence)
    return Interval(float(back(np.maximum(low, lowest))), float(back(np.minimum(high, highest)))), influence


def spread_over_units(
    influence: Float[np.ndarray, " group"], groups: Int[np.ndarray, " prompt"], units: Int[np.ndarray, " prompt"]
) -> Float[np.ndarray, " unit"]:
    """Give the units of a group equal parts of its influence, scaled so that the sum of squares / (n (n - 1)) stays the squared error."""
    n, n_groups = int(units.max()) + 1, len(influence)
    group_of_unit = np.empty(n, dtype=int)
    group_of_unit[units] = groups
    members = np.bincount(group_of_unit, minlength=n_groups)
    return (influence * np.sqrt(n * (n - 1) / (n_groups * max(n_groups - 1, 1)) / members))[group_of_unit]


def shared_contributions(influences: Sequence[Float[np.ndarray, " unit"]], units: Sequence[np.ndarray]) -> Float[np.ndarray, "unit term"]:
    """Lay influence values out over the union of all units, scaled so that their squares sum to a squared error."""
    alike = all(len(each) == len(units[0]) and (each is units[0] or np.array_equal(each, units[0])) for each in units)
    codes = np.tile(np.arange(len(units[0])), len(units)) if alike else np.unique(np.concatenate(units), return_inverse=True)[1]
    out, first = np.zeros((int(codes.max()) + 1, len(units))), 0
    for term, influence in enumerate(influences):
        n = len(influence)
        out[codes[first : first + n], term] = influence / np.sqrt(n * max(n - 1, 1))
        first += n
    return out


def weighted_sum(weights: Float[np.ndarray, " term"], terms: Sequence[Estimate], contributions: Float[np.ndarray, "unit term"]) -> Estimate:
    """Return the weighted sum of estimates with its paired interval (see the module for the rule).

    Examples
    --------
    >>> alike = np.array([[0.1, 0.1], [-0.1, -0.1]])
    >>> weighted_sum(np.array([1.0, -1.0]), [Estimate(0.6, 0.5, 0.7), Estimate(0.2, 0.1, 0.3)], alike).low.round(6)
    np.float64(0.4)
    """
    value, low, high = (np.array(column, dtype=np.float64) for column in zip(*terms, strict=True))
    down = np.where(weights > 0, weights * (value - low), weights * (high - value))
    up = np.where(weights > 0, weights * (high - value), weights * (value - low))
    size = np.sqrt((contributions**2).sum(axis=0))
    together = contributions / np.where(size > 0, size, 1.0)
    correlation = together.T @ together
    np.fill_diagonal(correlation, 1.0)  # also of a term whose influence values are all 0 (a perfect AUROC)
    total = float(weights @ value)
    below, above = (np.sqrt(max(float(side @ correlation @ side), 0.0)) if np.isfinite(side).all() else np.nan for side in (down, up))
    return Estimate(total, total - below, total + above)


def p_of_zero(estimate: Estimate, n: int, confidence: float = 0.95) -> float:
    """Return the two-sided p value of "the true value is 0" that belongs to an interval: below 1 - confidence where it excludes 0."""
    value, low, high = estimate
    reach = value - low if value > 0 else high - value
    if not np.isfinite(reach) or n < 3:
        return float("nan")
    if reach <= 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * t.sf(abs(value) / reach * t.ppf(0.5 + confidence / 2, n - 1), n - 1))
