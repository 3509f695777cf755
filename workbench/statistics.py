"""Estimates with intervals that cover, for the small samples a multilingual prompt set gives.

Everything here takes plain arrays. Resampling units are meanings (a request in all its languages), never single rows:
translations of one request are twins. Where a textbook interval has no width at the ends of the scale (a proportion of
0 or 1, a perfect AUROC), a score interval is used, because "16 of 16 right" is not certainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm, rankdata, t

from workbench.errors import DataError


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """A difference with its confidence interval."""

    difference: float
    low: float
    high: float


class Estimate(NamedTuple):
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


class Threshold(NamedTuple):
    """A decision threshold (flagged when the score lies strictly above) and its balanced accuracy where it was chosen."""

    threshold: float
    balanced_accuracy: float


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Say where a proportion may lie, also when none or all of the cases succeeded.

    Parameters
    ----------
    successes, n : number
        Count of successes and of cases. ``n = 0`` gives ``(nan, nan)``.
    confidence : float
        Two-sided level.

    References
    ----------
    Wilson 1927, J. Am. Stat. Assoc. 22:209.

    Examples
    --------
    >>> low, high = wilson(10, 10)
    >>> round(low, 3), high
    (0.722, 1.0)
    """
    if n < 0 or not 0 <= successes <= n:
        raise DataError(f"wilson got {successes} successes of {n}. Expected 0 <= successes <= n; count rows of one outcome and all rows.")
    if n == 0:
        return Interval(float("nan"), float("nan"))
    z = float(norm.ppf(0.5 + confidence / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, float(centre - half))
    high = 1.0 if successes == n else min(1.0, float(centre + half))
    return Interval(low, high)


def newcombe(k1: float, n1: float, k2: float, n2: float, confidence: float = 0.95) -> Difference:
    """Compare two independent proportions: the first minus the second.

    References
    ----------
    Newcombe 1998, Stat. Med. 17:873 (method 10).

    Examples
    --------
    >>> [round(v, 4) for v in newcombe(56, 70, 48, 80)]
    [0.2, 0.0524, 0.3339]
    """
    (low1, high1), (low2, high2) = wilson(k1, n1, confidence), wilson(k2, n2, confidence)
    if n1 == 0 or n2 == 0:
        return Difference(float("nan"), float("nan"), float("nan"))
    p1, p2 = k1 / n1, k2 / n2
    difference = p1 - p2
    return Difference(difference, difference - math.hypot(p1 - low1, high2 - p2), difference + math.hypot(high1 - p1, p2 - low2))


def newcombe_paired(first: Bool[np.ndarray, " case"], second: Bool[np.ndarray, " case"], confidence: float = 0.95) -> Difference:
    """Compare two yes/no answers given to the same cases: share of the first minus share of the second.

    References
    ----------
    Newcombe 1998, Stat. Med. 17:2635 (method 10; phi with the continuity correction).

    Examples
    --------
    >>> both = np.repeat([True, True, False, False], [36, 12, 2, 0]), np.repeat([True, False, True, False], [36, 12, 2, 0])
    >>> [round(v, 4) for v in newcombe_paired(*both)]
    [0.2, 0.0569, 0.3404]
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    n = len(first)
    if n == 0:
        return Difference(float("nan"), float("nan"), float("nan"))
    a, b = int((first & second).sum()), int((first & ~second).sum())
    c, d = int((~first & second).sum()), int((~first & ~second).sum())
    p1, p2 = (a + b) / n, (a + c) / n
    (low1, high1), (low2, high2) = wilson(a + b, n, confidence), wilson(a + c, n, confidence)
    product = float((a + b) * (c + d) * (a + c) * (b + d))
    agreement = float(a * d - b * c)
    if agreement > 0:
        agreement = max(agreement - n / 2, 0.0)
    phi = agreement / np.sqrt(product) if product > 0 else 0.0
    down = (p1 - low1) ** 2 - 2 * phi * (p1 - low1) * (high2 - p2) + (high2 - p2) ** 2
    up = (high1 - p1) ** 2 - 2 * phi * (high1 - p1) * (p2 - low2) + (p2 - low2) ** 2
    difference = p1 - p2
    return Difference(difference, difference - float(np.sqrt(max(down, 0.0))), difference + float(np.sqrt(max(up, 0.0))))


def _labels_and_scores(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or len(labels) != len(scores):
        raise DataError(f"Got {labels.shape} labels for {scores.shape} scores. Expected one label per row of scores.")
    if labels.all() or not labels.any():
        raise DataError(
            f"All {len(labels)} rows carry the same label. Expected rows of both classes; add harmless or harmful prompts of this language and split."
        )
    if not np.isfinite(scores).all():
        raise DataError(
            f"{int((~np.isfinite(scores)).sum())} scores are not finite. Expected numbers only; drop those rows or look for overflow in the capture."
        )
    return labels, scores


def auroc(labels: Bool[np.ndarray, " prompt"], scores: Float[np.ndarray, "prompt ..."]) -> float | Float[np.ndarray, " ..."]:
    """Say how often a harmful row outranks a harmless one; a tie counts one half. Chance is 0.5.

    Parameters
    ----------
    labels : bool array (prompt,)
        True for the class that should score higher.
    scores : array (prompt, ...)
        Further axes are scored separately.

    Returns
    -------
    float, or array of the further axes.

    Raises
    ------
    DataError
        One class only, lengths that differ, or scores that are not finite.

    Examples
    --------
    >>> auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    labels, scores = _labels_and_scores(labels, scores)
    value = auroc_from_ranks(labels, rankdata(scores, axis=0))
    return float(value) if scores.ndim == 1 else value


def auroc_from_ranks(labels: Bool[np.ndarray, "... prompt"], ranks: Float[np.ndarray, "prompt ..."]) -> np.ndarray:
    """Score many label draws on ranks that were computed once (axes: draws, then the further axes of ``ranks``)."""
    labels = np.asarray(labels, dtype=np.float64)
    harmful = labels.sum(axis=-1)
    harmless = labels.shape[-1] - harmful
    rank_sum = np.tensordot(labels, np.asarray(ranks, dtype=np.float64), axes=(-1, 0))
    shape = harmful.shape + (1,) * (rank_sum.ndim - harmful.ndim)
    harmful, harmless = np.reshape(harmful, shape), np.reshape(harmless, shape)
    return (rank_sum - harmful * (harmful + 1) / 2) / (harmful * harmless)


def auroc_score_interval(value: float, n_harmful: int, n_harmless: int, confidence: float = 0.95) -> Interval:
    """Give the interval of an AUROC from its value and the two counts; it keeps a width at 0 and 1.

    The Hanley-McNeil variance is evaluated at the bound itself, with both class sizes replaced by their mean
    (Newcombe's method 5), so that 16 against 16 perfectly ranked rows read [.85, 1] and not [1, 1].

    References
    ----------
    Newcombe 2006, Stat. Med. 25:559, method 5.
    """
    if not np.isfinite(value):
        return Interval(float("nan"), float("nan"))
    z = float(norm.ppf(0.5 + confidence / 2))

    def half_width(theta: float) -> float:
        return z * _auroc_error(theta, n_harmful, n_harmless)

    def solve(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if abs(value - middle) <= half_width(middle) else (inside, middle)
        return (inside + outside) / 2

    # at 0 and 1 the half width vanishes, so the search starts just inside the scale
    low = 0.0 if value <= 0 else solve(min(value, 1 - 1e-9), 0.0)
    high = 1.0 if value >= 1 else solve(max(value, 1e-9), 1.0)
    return Interval(min(low, value), max(high, value))


def auroc_p_value(value: float, limit: float, n_harmful: int, n_harmless: int) -> float:
    """Two-sided p value of "the AUROC is above ``limit``"; small exactly when the score interval lies above the limit.

    Returns
    -------
    float
        At most 1; 1 where the value is not above the limit. Adjust for many languages with :func:`holm`.
    """
    if not value > limit:
        return 1.0
    error = _auroc_error(min(max(limit, 0.0), 1.0), n_harmful, n_harmless)
    return float(2 * norm.sf((value - limit) / error)) if error > 0 else 0.0


def _auroc_error(theta: float, n_harmful: int, n_harmless: int) -> float:
    m = (n_harmful + n_harmless) / 2 - 1
    spread = 1 + m * (1 - theta) / (2 - theta) + m * theta / (1 + theta)
    return float(np.sqrt(max(theta * (1 - theta) * spread / (n_harmful * n_harmless), 0.0)))


def auroc_interval(labels: Bool[np.ndarray, " prompt"], scores: Float[np.ndarray, " prompt"], confidence: float = 0.95) -> Estimate:
    """Return an AUROC with its score interval (see :func:`auroc_score_interval` for the choice)."""
    labels = np.asarray(labels).astype(bool)
    value = float(auroc(labels, scores))
    return Estimate(value, *auroc_score_interval(value, int(labels.sum()), int((~labels).sum()), confidence))


def balanced_accuracy(labels: Bool[np.ndarray, " prompt"], flagged: Bool[np.ndarray, " prompt"]) -> float:
    """Return the mean of the two classes' shares of right decisions; chance is 0.5."""
    labels, flagged = _labels_and_scores(labels, flagged)
    return float((flagged[labels].mean() + (1 - flagged[~labels]).mean()) / 2)


def balanced_accuracy_interval(labels: Bool[np.ndarray, " prompt"], flagged: Bool[np.ndarray, " prompt"], confidence: float = 0.95) -> Estimate:
    """Return balanced accuracy with an interval built from the Wilson intervals of both classes.

    The two class shares are independent, so their distances to the bounds add in quadrature (MOVER). A bootstrap over
    meanings has no width when no decision is wrong; this has.
    """
    labels, decided = _labels_and_scores(labels, flagged)
    value = balanced_accuracy(labels, flagged)
    right = [(int(decided[labels].sum()), int(labels.sum())), (int((1 - decided[~labels]).sum()), int((~labels).sum()))]
    down = [k / n - wilson(k, n, confidence).low for k, n in right]
    up = [wilson(k, n, confidence).high - k / n for k, n in right]
    return Estimate(value, value - math.hypot(*down) / 2, value + math.hypot(*up) / 2)


def balanced_accuracy_gap(
    labels: Bool[np.ndarray, " prompt"], first: Bool[np.ndarray, " prompt"], second: Bool[np.ndarray, " prompt"], confidence: float = 0.95
) -> Difference:
    """Compare two decisions about the same rows by balanced accuracy: the first minus the second.

    Paired by row (Newcombe's paired interval in each class), then combined over the two independent classes.
    """
    labels = np.asarray(labels).astype(bool)
    parts = [
        newcombe_paired(np.asarray(first)[rows] == labels[rows], np.asarray(second)[rows] == labels[rows], confidence) for rows in (labels, ~labels)
    ]
    value = (parts[0].difference + parts[1].difference) / 2
    down = math.hypot(*(p.difference - p.low for p in parts)) / 2
    up = math.hypot(*(p.high - p.difference for p in parts)) / 2
    return Difference(value, value - down, value + up)


def best_threshold(labels: Bool[np.ndarray, " prompt"], scores: Float[np.ndarray, " prompt"]) -> Threshold:
    """Choose the threshold with the best balanced accuracy; a row is flagged when its score lies strictly above.

    Candidates are a point below all scores, the midpoints between consecutive distinct scores, and a point above all.
    Among tied candidates the one in the widest gap wins (it moves least when rows change), then the lowest. The
    published gate takes the lowest tie outright, which leans towards flagging everything at tiny k.

    Raises
    ------
    DataError
        One class only or scores that are not finite.

    References
    ----------
    Midpoint rule: low-resource gate, arXiv:2606.01196.
    """
    labels, scores = _labels_and_scores(labels, scores)
    distinct = np.unique(scores)
    margin = max(1e-6, 1e-6 * float(np.abs(distinct).max()))
    candidates = np.concatenate([[distinct[0] - margin], (distinct[:-1] + distinct[1:]) / 2, [distinct[-1] + margin]])
    gaps = np.concatenate([[0.0], np.diff(distinct), [0.0]])
    harmful, harmless = np.sort(scores[labels]), np.sort(scores[~labels])
    caught = 1 - np.searchsorted(harmful, candidates, side="right") / len(harmful)
    passed = np.searchsorted(harmless, candidates, side="right") / len(harmless)
    accuracy = (caught + passed) / 2
    tied = np.flatnonzero(accuracy >= accuracy.max() - 1e-12)
    chosen = tied[np.argmax(gaps[tied])]
    return Threshold(float(candidates[chosen]), float(accuracy[chosen]))


def bootstrap_weights(n: int, resamples: int, rng: np.random.Generator) -> Float[np.ndarray, "resample group"]:
    """Draw how often each of ``n`` groups (meanings) appears in each resample; rows sum to ``n``.

    Statistics take these as weights on one set of distances. Building resampled rows instead would make copies of a
    row each other's nearest neighbours and noise would look structured.
    """
    if n < 1:
        raise DataError(f"Got {n} groups to resample. Expected at least one.")
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def jackknife_influence(value: np.ndarray, without: Float[np.ndarray, "group ..."]) -> Float[np.ndarray, "group ..."]:
    """Return what each group contributes: (n - 1) x (value - value without it), centred over groups."""
    without = np.asarray(without, dtype=np.float64)
    influence = (len(without) - 1) * (np.asarray(value) - without)
    return influence - influence.mean(axis=0)


def jackknife_interval(
    value: np.ndarray | float, influence: Float[np.ndarray, "group ..."], confidence: float = 0.95, *, one_sided: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a statistic from its influence values: value -/+ t x standard error, n - 1 degrees of freedom.

    By the Efron-Stein inequality the jackknife variance errs upwards, also for statistics with nearest neighbours in
    them, where resampling with replacement is biased (fewer distinct neighbours). Fewer than three groups: NaN.

    Parameters
    ----------
    value : array (...)
        The statistic on all groups.
    influence : array (group, ...)
        From :func:`jackknife_influence`. Differences of two statistics use differences of influences (paired).
    one_sided : bool
        Put the whole error probability at each end.
    """
    n = len(influence)
    value = np.asarray(value, dtype=np.float64)
    if n < 3:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    error = np.sqrt((np.asarray(influence) ** 2).sum(axis=0) / (n * (n - 1)))
    half = float(t.ppf(confidence if one_sided else 0.5 + confidence / 2, n - 1)) * error
    return value - half, value + half


def grouped_influence(influence: Float[np.ndarray, "case ..."], group_of: Int[np.ndarray, " case"]) -> Float[np.ndarray, "group ..."]:
    """Add up influence values within groups (meanings of one topic), so that groups become the resampling unit.

    :func:`jackknife_interval` of the result has as many degrees of freedom as there are groups, less one. For a smooth
    statistic this is the jackknife that leaves out a whole group at a time, to first order.

    Parameters
    ----------
    influence : array (case, ...)
        From :func:`jackknife_influence`.
    group_of : int array (case,)
        Numbers of groups, counted from 0, none left out.

    Examples
    --------
    >>> grouped_influence(np.array([[1.0], [3.0], [-2.0], [-2.0]]), np.array([0, 0, 1, 1])).tolist()
    [[2.0], [-2.0]]
    """
    n_groups = int(np.max(group_of)) + 1
    sums = np.zeros((n_groups, *np.shape(influence)[1:]))
    np.add.at(sums, group_of, np.asarray(influence, dtype=np.float64))
    sums *= n_groups / len(group_of)
    return sums - sums.mean(axis=0)


def two_way_interval(
    value: np.ndarray | float,
    first: Float[np.ndarray, "group ..."],
    second: Float[np.ndarray, "other_group ..."],
    confidence: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a statistic of a crossed grid whose rows and columns were both drawn (meanings and languages).

    The two jackknife variances are added. Each of them holds the variance of single cells, which is so counted twice: the
    interval errs on the safe side. Degrees of freedom after Satterthwaite: few languages weigh as few.

    Parameters
    ----------
    value : array (...)
        The statistic on all groups.
    first, second : array (group, ...)
        Influence values over either factor, from :func:`jackknife_influence`. Fewer than three groups: NaN.

    References
    ----------
    Owen 2007, Ann. Appl. Stat. 1:386 (variances of crossed random effects add up); Satterthwaite 1946, Biometrics Bull. 2:110.
    """
    value = np.asarray(value, dtype=np.float64)
    sizes = [len(influence) for influence in (first, second)]
    if min(sizes) < 3:
        return np.full_like(value, np.nan), np.full_like(value, np.nan)
    parts = [(np.asarray(influence) ** 2).sum(axis=0) / (n * (n - 1)) for influence, n in zip((first, second), sizes, strict=True)]
    variance = parts[0] + parts[1]
    spread = parts[0] ** 2 / (sizes[0] - 1) + parts[1] ** 2 / (sizes[1] - 1)
    freedom = np.divide(variance**2, spread, out=np.full_like(variance, float(min(sizes) - 1)), where=spread > 0)
    half = t.ppf(0.5 + confidence / 2, freedom) * np.sqrt(variance)
    return value - half, value + half


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " test"]:
    """Adjust p values for their number (step-down Holm); compare the result with the level itself.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def max_quantile(null: Int[np.ndarray, "draw ..."] | Float[np.ndarray, "draw ..."], quantile: float = 0.95) -> np.ndarray:
    """Upper quantile over draws that errs upwards (the next order statistic, never an interpolation)."""
    return np.quantile(np.asarray(null, dtype=np.float64), quantile, axis=0, method="higher")
