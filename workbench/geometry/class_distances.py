"""How far two classes of points lie apart: share of variance, Bhattacharyya distance, silhouette.

The first two follow from sums over the rows of a class, the third from one matrix of distances, so values under any number
of permuted labels cost no new fit. For two equal Gaussian classes at distance delta in one dimension: share =
delta^2 / (delta^2 + 4), Bhattacharyya distance = delta^2 / 8.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.distance import cdist

from workbench.errors import DataError


def _both_classes(harmful: np.ndarray) -> np.ndarray:
    harmful = np.asarray(harmful, dtype=bool)
    if harmful.all() or not harmful.any():
        raise DataError(f"All {len(harmful)} prompts carry the same label. Expected harmful and harmless ones; add prompts of the other class.")
    return harmful


def standardised(scores: Float[np.ndarray, "prompt component"]) -> Float[np.ndarray, "prompt component"]:
    """Centre points and divide them by their root mean squared distance from the centre: no statistic here changes."""
    x = scores - scores.mean(axis=0)
    return x / max(float(np.sqrt((x**2).sum(axis=1).mean())), 1e-300)


def moments(x: Float[np.ndarray, "prompt component"]) -> Float[np.ndarray, "prompt moment"]:
    """Return per row what the sums are taken of: 1, x, |x|^2, |x|^4, |x|^2 x, x x^T."""
    squares = (x**2).sum(axis=1, keepdims=True)
    products = np.einsum("ni,nj->nij", x, x).reshape(len(x), -1)
    return np.concatenate([np.ones_like(squares), x, squares, squares**2, squares * x, products], axis=1)


def moment_sums(x: Float[np.ndarray, "prompt component"]) -> Float[np.ndarray, " moment"]:
    """Return the column sums of :func:`moments` without its table."""
    squares = (x**2).sum(axis=1)
    return np.concatenate([[len(x)], x.sum(axis=0), [squares.sum(), (squares**2).sum()], squares @ x, (x.T @ x).ravel()])


def _width(sums: np.ndarray) -> int:
    """Number of components k that gave k^2 + 2 k + 3 moments."""
    return round(np.sqrt(sums.shape[-1] - 2)) - 1


def share_of_sums(harmful: Float[np.ndarray, "... moment"], harmless: Float[np.ndarray, "... moment"]) -> Float[np.ndarray, " ..."]:
    """Return eta^2 = tr(S_B) / (tr(S_B) + tr(S_W)) from the moment sums of both classes; NaN without variance."""
    k = _width(harmful)
    both = harmful + harmless
    grand = (both[..., 1 : k + 1] ** 2).sum(axis=-1) / both[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = sum((part[..., 1 : k + 1] ** 2).sum(axis=-1) / part[..., 0] for part in (harmful, harmless)) - grand
        total = both[..., k + 1] - grand
        return np.where(total > 0, np.clip(between / total, 0.0, 1.0), np.nan)


def _gaussian(sums: np.ndarray, shrinkage: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, shrunk covariance (divisor n) and whether it can be inverted; ``None`` shrinks as Ledoit and Wolf."""
    k = _width(sums)
    n = np.maximum(sums[..., 0], 1.0)
    first, squares, fourth = sums[..., 1 : k + 1], sums[..., k + 1], sums[..., k + 2]
    cubes, products = sums[..., k + 3 : 2 * k + 3], sums[..., 2 * k + 3 :].reshape(*sums.shape[:-1], k, k)
    mean = first / n[..., None]
    found = products / n[..., None, None] - mean[..., :, None] * mean[..., None, :]
    level = np.trace(found, axis1=-2, axis2=-1) / k
    if shrinkage is None:
        c = (mean**2).sum(axis=-1)
        spread = fourth + 4 * np.einsum("...i,...ij,...j->...", mean, products, mean) + n * c**2
        spread += -4 * (mean * cubes).sum(axis=-1) + 2 * c * squares - 4 * c * (mean * first).sum(axis=-1)
        norm = (found**2).sum(axis=(-2, -1))
        away = (norm - k * level**2) / k
        noise = np.clip((spread / n - norm) / (n * k), 0.0, np.maximum(away, 0.0))
        part = np.divide(noise, away, out=np.zeros_like(noise), where=away > 0)
    else:
        part = np.full_like(level, shrinkage)
    shrunk = (1 - part)[..., None, None] * found + (part * level)[..., None, None] * np.eye(k)
    # with fewer rows than dimensions, only shrinkage makes the covariance one that can be inverted
    usable = (level > 1e-14) & ((part > 1e-9) | (sums[..., 0] > k))
    return mean, np.where(usable[..., None, None], shrunk, np.eye(k)), usable


def bhattacharyya_of_sums(
    harmful: Float[np.ndarray, "... moment"], harmless: Float[np.ndarray, "... moment"], shrinkage: float | None = None
) -> Float[np.ndarray, " ..."]:
    """Return the Bhattacharyya distance from the moment sums of both classes; NaN where a class has no spread."""
    (one_mean, one, first), (two_mean, two, second) = _gaussian(harmful, shrinkage), _gaussian(harmless, shrinkage)
    both, apart = (one + two) / 2, one_mean - two_mean
    log_det = [np.linalg.slogdet(m) for m in (both, one, two)]
    solvable = first & second & (np.min([sign for sign, _ in log_det], axis=0) > 0)
    solved = np.linalg.solve(np.where(solvable[..., None, None], both, np.eye(both.shape[-1])), apart[..., None])[..., 0]
    between = (apart * solved).sum(axis=-1) / 8
    with np.errstate(invalid="ignore"):
        return np.where(solvable, between + (log_det[0][1] - (log_det[1][1] + log_det[2][1]) / 2) / 2, np.nan)


def between_class_share(scores: Float[np.ndarray, "prompt component"], harmful: Bool[np.ndarray, " prompt"]) -> float:
    """Return eta^2: the share of variance that lies between harmful and harmless (0 to 1).

    Labels without any meaning give 1 / (n - 1) on average.

    Raises
    ------
    DataError
        One class only, or no variance at all.

    References
    ----------
    Verma and Bharadwaj 2025, arXiv:2504.02708; the formula is inferred from the statistic's name.

    Examples
    --------
    >>> round(between_class_share(np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([False, False, True, True])), 3)
    0.941
    """
    harmful = _both_classes(harmful)
    x = standardised(scores)
    value = float(share_of_sums(moment_sums(x[harmful]), moment_sums(x[~harmful])))
    if not np.isfinite(value):
        raise DataError("All prompts have the same state, so there is no variance to share out. Choose another layer or position.")
    return value


def bhattacharyya(
    first: Float[np.ndarray, "prompt component"], second: Float[np.ndarray, "prompt component"], shrinkage: float | None = 0.0
) -> float:
    """Return the distance between Gaussian fits of two classes (0 = the same; no upper end); NaN if a class has no spread.

    D_B = d' S^-1 d / 8 + ln(det S / sqrt(det S1 det S2)) / 2 with S = (S1 + S2) / 2 and covariances with divisor n. With
    few rows it lies above 0 also for equal classes, so compare it with permuted labels.

    Parameters
    ----------
    shrinkage : float or None
        Part of each covariance replaced by its mean variance times the identity; None takes the part that Ledoit and
        Wolf 2004 estimate for each class, as ``sklearn.covariance.LedoitWolf`` does.

    References
    ----------
    Bhattacharyya 1943; on principal components arXiv:2504.02708 (shrinkage: ours).
    """
    x = standardised(np.concatenate([first, second]))
    return float(bhattacharyya_of_sums(moment_sums(x[: len(first)]), moment_sums(x[len(first) :]), shrinkage))


def _silhouette_rows(own: np.ndarray, n_own: np.ndarray, other: np.ndarray, n_other: np.ndarray) -> np.ndarray:
    """Return (b - a) / max(a, b) from sums of distances; a row alone in its class counts 0 (as in scikit-learn)."""
    a, b = own / np.maximum(n_own, 1), other / np.maximum(n_other, 1)
    larger = np.maximum(a, b)
    value = np.divide(b - a, larger, out=np.zeros_like(larger), where=larger > 0)
    return np.where(n_own > 0, value, 0.0)


def two_class_silhouettes(distances: Float[np.ndarray, "prompt prompt"], labels: Bool[np.ndarray, "draw prompt"]) -> Float[np.ndarray, " draw"]:
    """Return the mean silhouette of two classes for each draw of labels, from one matrix of distances."""
    labels = np.atleast_2d(labels)
    flags, n_harmful = labels.astype(np.float64), labels.sum(axis=1, keepdims=True)
    to_harmful = flags @ distances
    to_harmless = distances.sum(axis=0) - to_harmful
    n_harmless = labels.shape[1] - n_harmful
    own, other = np.where(labels, to_harmful, to_harmless), np.where(labels, to_harmless, to_harmful)
    n_own, n_other = np.where(labels, n_harmful, n_harmless) - 1, np.where(labels, n_harmless, n_harmful)
    return _silhouette_rows(own, n_own, other, n_other).mean(axis=1)


def euclidean(scores: Float[np.ndarray, "prompt component"]) -> Float[np.ndarray, "prompt prompt"]:
    """Return the Euclidean distances between all rows."""
    return cdist(scores, scores)
