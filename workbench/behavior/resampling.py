"""Intervals of shares over prompts that come in meanings: one request in several languages is one case, not several."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Shaped
from scipy.stats import norm, t

from workbench.statistics import Estimate, Interval, bootstrap_weights, wilson

_CHUNK = 256

#: Yes or no per prompt, and the meaning of each.
Share = tuple[Bool[np.ndarray, " prompt"], Shaped[np.ndarray, " prompt"]]


def _per_meaning(hits: np.ndarray, meanings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (hits, prompts) per meaning."""
    _, group = np.unique(meanings, return_inverse=True)
    return np.bincount(group, weights=hits.astype(np.float64)), np.bincount(group).astype(np.float64)


def bootstrap_interval(*shares: Share, resamples: int, rng: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Percentile bootstrap over meanings of a share, or of the first share minus the second (drawn independently).

    Parameters
    ----------
    *shares : (hits, meanings)
        One or two.
    resamples : int
        Draws of meanings with replacement.

    Returns
    -------
    Interval
        Without width where all hits are alike; NaN where a share has no prompts.

    References
    ----------
    Efron 1979, Ann. Stat. 7:1.
    """
    drawn = []
    for hits, meanings in shares:
        if not len(hits):
            return Interval(float("nan"), float("nan"))
        k, n = _per_meaning(hits, meanings)
        values = []
        for start in range(0, resamples, _CHUNK):
            weights = bootstrap_weights(len(k), min(_CHUNK, resamples - start), rng)
            values.append((weights @ k) / (weights @ n))
        drawn.append(np.concatenate(values))
    values_of = drawn[0] if len(drawn) == 1 else drawn[0] - drawn[1]
    low, high = np.quantile(values_of, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def pooled_share(hits: np.ndarray, meanings: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Give a share over prompts with Wilson's interval on as many cases as its meanings are worth.

    The variance of the share under resampling of meanings says how many independent prompts would vary as much; that number, between
    the number of meanings and of prompts, and corrected for its degrees of freedom, stands for n. So "all of 8 meanings in 5 languages"
    counts as 8 and keeps a width.

    References
    ----------
    Korn & Graubard 1998, Survey Methodology 24:193 (effective sample size with the t correction; there with Clopper-Pearson, here with
    Wilson: inferred, coverage tested).

    Examples
    --------
    >>> alike = np.repeat([True, False], [30, 30])
    >>> [round(v, 2) for v in pooled_share(alike, np.arange(60))], [round(v, 2) for v in pooled_share(alike, np.repeat(np.arange(12), 5))]
    ([0.5, 0.37, 0.63], [0.5, 0.23, 0.77])
    """
    if not len(hits):
        return Estimate(float("nan"), float("nan"), float("nan"))
    k, n = _per_meaning(hits, meanings)
    m, total = len(k), float(n.sum())
    value = float(k.sum() / total)
    worth = float(m)
    if m > 1 and 0 < value < 1:
        variance = float(((k - value * n) ** 2).sum()) * m / (m - 1) / total**2
        if variance > 0:
            worth = min(max(value * (1 - value) / variance, float(m)), total)
    if m > 2:
        worth *= float(norm.ppf(0.5 + confidence / 2) / t.ppf(0.5 + confidence / 2, m - 1)) ** 2
    low, high = wilson(value * worth, worth, confidence)
    return Estimate(value, min(low, value), max(high, value))


def mover_sum(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """Return a weighted sum of independent estimates with its interval (MOVER, Zou & Donner 2008, Stat. Med. 27:1693).

    Examples
    --------
    >>> [round(v, 2) for v in mover_sum([(1.0, Estimate(0.5, 0.2, 0.8)), (-1.0, Estimate(0.1, 0.1, 0.5))])]
    [0.4, -0.1, 0.7]
    """
    value = sum(weight * part.value for weight, part in parts)
    down = [weight * (part.value - (part.low if weight > 0 else part.high)) for weight, part in parts]
    up = [weight * ((part.high if weight > 0 else part.low) - part.value) for weight, part in parts]
    return Estimate(value, value - math.hypot(*down), value + math.hypot(*up))
