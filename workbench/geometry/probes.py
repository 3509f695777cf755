"""How well a linear probe tells two classes apart on meanings it has not seen: cross-validated logistic AUROC.

The probe is L2-penalised logistic regression on the full state, not on principal components. Its penalty does not change
under rotation, so states are first rotated exactly to the space their rows span (at most n - 1 coordinates for n
prompts of any width). There, every fold and every draw of labels is one column of one problem with the same features.
States are divided by one number, their root mean squared distance from the mean, and the penalty is C = 10 of
scikit-learn's ``LogisticRegression`` for every model, language and layer, so models compare.

Folds are drawn by unit: a meaning, or a pair of twins where there are any. With twins on both sides of a split the probe
would be tested on all but the sentence it learnt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit
from scipy.stats import rankdata

from workbench.statistics import Interval, auroc_score_interval

PENALTY = 10.0
FOLDS = 5


class Probe(NamedTuple):
    """A cross-validated AUROC and what each unit contributes to it (influence values)."""

    auroc: float
    influence: Float[np.ndarray, " unit"]


def deal(
    units: Int[np.ndarray, " prompt"], harmful: Bool[np.ndarray, " prompt"], rank: Int[np.ndarray, " unit"], n: int
) -> Int[np.ndarray, " prompt"]:
    """Deal units into ``n`` parts in the order of their rank: twins (both classes) first, then harmful ones, then harmless ones.

    Parameters
    ----------
    units : int array (prompt,)
        Which unit each prompt belongs to, 0 to the number of units - 1.
    rank : int array (unit,)
        A random order; the same for the same units in every language and model, so that their parts agree.
    """
    has = np.stack([np.bincount(units[part], minlength=len(rank)) > 0 for part in (harmful, ~harmful)])
    part_of, dealt = np.zeros(len(rank), dtype=int), 0
    for kind in ((True, True), (True, False), (False, True)):
        members = np.flatnonzero((has[0] == kind[0]) & (has[1] == kind[1]))
        part_of[members[np.argsort(rank[members])]] = (dealt + np.arange(len(members))) % n
        dealt += len(members) if all(kind) else 0
    return part_of[units]


def folds_by_unit(
    units: Int[np.ndarray, " prompt"], harmful: Bool[np.ndarray, " prompt"], rank: Int[np.ndarray, " unit"], n_folds: int = FOLDS
) -> Int[np.ndarray, " prompt"] | None:
    """Deal units to folds (see :func:`deal`): fewer than asked for where a class is small, each with both classes.

    Returns
    -------
    int array (prompt,) or None
        None where two such folds are impossible.
    """
    for k in range(n_folds, 1, -1):
        folds = deal(units, harmful, rank, k)
        if all(np.unique(folds[part]).size == k for part in (harmful, ~harmful)):
            return folds
    return None


def fit_logistic(
    features: Float[np.ndarray, "prompt component"],
    targets: Bool[np.ndarray, "prompt problem"],
    used: Bool[np.ndarray, "prompt problem"],
    *,
    penalty: float = PENALTY,
    tolerance: float = 1e-6,
    most_steps: int = 3000,
) -> Float[np.ndarray, "component problem"]:
    """Fit many logistic probes on the same features at once; each problem has its own labels and rows.

    Minimises sum of log losses over the rows used + |w|^2 / (2 penalty) with a free intercept: the objective of
    scikit-learn's ``LogisticRegression(C=penalty)``. The columns of ``features`` must be orthogonal (see
    :func:`workbench.geometry.components.row_space`): their curvature is then bounded coordinate by coordinate, and
    accelerated gradient steps on the rescaled problem converge in tens of steps.

    Parameters
    ----------
    tolerance : float
        Largest slope of the rescaled problem at which to stop.

    Returns
    -------
    array (component, problem)
        Weights; an intercept does not change the ranking within a problem.
    """
    z = np.asarray(features)
    bound = (z**2).sum(axis=0) / 4 + 1 / penalty
    rescaled = np.concatenate([z / np.sqrt(bound), np.full((len(z), 1), 2 / np.sqrt(len(z)), dtype=z.dtype)], axis=1)
    ridge = np.append(1 / (penalty * bound), 0.0).astype(z.dtype)[:, None]
    wanted, rows = targets.astype(z.dtype), used.astype(z.dtype)
    weights = np.zeros((rescaled.shape[1], targets.shape[1]), dtype=z.dtype)
    ahead, age = weights, np.ones(targets.shape[1], dtype=z.dtype)
    for _ in range(most_steps):
        slope = rescaled.T @ (rows * (expit(rescaled @ ahead) - wanted)) + ridge * ahead
        if np.abs(slope).max() < tolerance:
            break
        stepped = ahead - slope
        # Nesterov's momentum, dropped where it points uphill
        uphill = ((stepped - weights) * slope).sum(axis=0) > 0
        age = np.where(uphill, 1, age)
        older = (1 + np.sqrt(1 + 4 * age**2)) / 2
        ahead = stepped + np.where(uphill, 0, (age - 1) / older).astype(z.dtype) * (stepped - weights)
        weights, age = stepped, older.astype(z.dtype)
    return ahead[:-1] / np.sqrt(bound)[:, None]


def _scaled(features: np.ndarray) -> np.ndarray:
    return features / max(float(np.sqrt((features**2).sum(axis=1).mean())), 1e-300)


def auroc_placements(harmful: Bool[np.ndarray, " prompt"], scores: Float[np.ndarray, " prompt"]) -> Float[np.ndarray, " prompt"]:
    """Return for each row the share of the other class that it is on the right side of (a tie counts one half).

    The mean over either class is the AUROC.

    References
    ----------
    DeLong et al. 1988, Biometrics 44:837 (structural components).

    Examples
    --------
    >>> auroc_placements(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])).tolist()
    [1.0, 0.5, 0.5, 1.0]
    """
    beaten = rankdata(scores)
    for part in (harmful, ~harmful):
        beaten[part] -= rankdata(scores[part])
    beaten /= np.where(harmful, (~harmful).sum(), harmful.sum())
    return np.where(harmful, beaten, 1 - beaten)


def probe_auroc(
    features: Float[np.ndarray, "prompt component"],
    harmful: Bool[np.ndarray, " prompt"],
    units: Int[np.ndarray, " prompt"],
    folds: Int[np.ndarray, " prompt"],
    *,
    penalty: float = PENALTY,
) -> Probe:
    """Cross-validate the probe: the mean over folds of the AUROC on the fold left out. Chance is 0.5.

    Parameters
    ----------
    features : array (prompt, component)
        From :func:`workbench.geometry.components.row_space`.
    folds : int array (prompt,)
        From :func:`folds_by_unit`.

    Returns
    -------
    Probe
        Influence values are those of the ranking by the fitted probes, centred over all rows of a class, which keeps
        their size where a fold holds one row of it. They say how far two AUROCs move together; for an interval they are
        too small (:func:`probe_interval`).

    References
    ----------
    LeDell, Petersen and van der Laan 2015, Electron. J. Stat. 9:1583 (influence values). Probes are advised beside the
    card's statistics in the pitfalls of arXiv:2504.02708; penalty and folds are ours.
    """
    n_folds, n_units = int(folds.max()) + 1, int(units.max()) + 1
    z, placed, share = _scaled(features), np.empty(len(features)), np.empty(len(features))
    weights = fit_logistic(z, np.repeat(harmful[:, None], n_folds, axis=1), folds[:, None] != np.arange(n_folds), penalty=penalty)
    scores = (z * weights.T[folds]).sum(axis=1)
    for fold in range(n_folds):
        rows = folds == fold
        placed[rows] = auroc_placements(harmful[rows], scores[rows])
        for part in (harmful & rows, ~harmful & rows):
            share[part] = 1 / (n_folds * part.sum())
    value = float((placed * share)[harmful].sum())
    influence = n_units * np.bincount(units, share * (placed - value), n_units)
    return Probe(value, influence - influence.mean())


def probe_interval(value: float, null: Float[np.ndarray, " draw"], n_harmful: int, n_harmless: int) -> Interval:
    """Return the 95 % interval of a cross-validated AUROC, given its values under permuted labels.

    Folds share training rows, so a cross-validated AUROC varies more than one of a fixed score: on states without a
    signal its variance is about twice the Mann-Whitney variance, and the usual interval covers in as few as 60 of 100
    draws. Permuted labels show by how much. The score interval of the AUROC is taken at the number of prompts whose
    Mann-Whitney variance is that of the draws (never more prompts than there are).
    """
    expected = (n_harmful + n_harmless + 1) / (12 * n_harmful * n_harmless)
    part = min(1.0, expected / max(float(((null - 0.5) ** 2).mean()), 1e-12))
    return auroc_score_interval(value, max(round(part * n_harmful), 2), max(round(part * n_harmless), 2))


def permuted_probe_aurocs(
    features: Float[np.ndarray, "prompt component"],
    labels: Bool[np.ndarray, "draw prompt"],
    folds: Int[np.ndarray, " prompt"],
    *,
    penalty: float = PENALTY,
) -> Float[np.ndarray, " draw"]:
    """Return the cross-validated AUROC for each draw of labels (each must keep the class counts of every fold).

    In single precision and to one part in a hundred of the slope: a quantile over some hundred draws needs no more.
    """
    n_folds, n_draws = int(folds.max()) + 1, len(labels)
    used = np.tile(folds[:, None] != np.arange(n_folds), (1, n_draws))
    z = _scaled(features).astype(np.float32)
    weights = fit_logistic(z, np.repeat(labels.T, n_folds, axis=1), used, penalty=penalty, tolerance=1e-2, most_steps=50)
    scores = (z @ weights).reshape(len(z), n_draws, n_folds)
    total = np.zeros(n_draws)
    for fold in range(n_folds):
        rows = folds == fold
        ranks, drawn = rankdata(scores[rows, :, fold], axis=0), labels[:, rows].T
        n_harmful = drawn.sum(axis=0)
        total += ((ranks * drawn).sum(axis=0) - n_harmful * (n_harmful + 1) / 2) / np.maximum(n_harmful * (rows.sum() - n_harmful), 1)
    return total / n_folds


def permuted_labels(
    harmful: Bool[np.ndarray, " prompt"],
    units: Int[np.ndarray, " prompt"],
    draws: int,
    rng: np.random.Generator,
    within: Int[np.ndarray, " prompt"] | None = None,
) -> Bool[np.ndarray, "draw prompt"]:
    """Draw labels without meaning: twins swap theirs at random, other units are permuted among themselves.

    Parameters
    ----------
    within : int array (prompt,), optional
        Groups (folds) that labels do not leave, so that each keeps its class counts.
    """
    group = np.zeros(len(units), dtype=int) if within is None else within
    n_units = int(units.max()) + 1
    has = np.stack([np.bincount(units[part], minlength=n_units) > 0 for part in (harmful, ~harmful)])
    twins = (has[0] & has[1])[units]
    out = np.broadcast_to(harmful, (draws, len(harmful))).copy()
    for unit in np.unique(units[twins]):
        rows = np.flatnonzero(units == unit)
        out[:, rows] = rng.permuted(out[:, rows], axis=1)
    for number in np.unique(group):
        rows = np.flatnonzero((group == number) & ~twins)
        members, first, which = np.unique(units[rows], return_index=True, return_inverse=True)
        if len(members):
            out[:, rows] = rng.permuted(out[:, rows[first]], axis=1)[:, which]
    return out
