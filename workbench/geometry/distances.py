"""Silhouettes from one matrix of cosine distances: any labels, or a complete language x meaning grid at once.

On a grid all three silhouettes, their values without each meaning or language, and any number of label permutations
come from sums over that one matrix; no distance is computed twice and no row is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import DataError

_SAME = 1e-10  # cosine distances below this are rounding between equal states


def cosine_distances(states: Float[np.ndarray, "row hidden"]) -> Float[np.ndarray, "row row"]:
    """Return 1 - cosine between all rows; equal rows are at exactly 0.

    Raises
    ------
    DataError
        A row of norm zero.
    """
    norms = np.linalg.norm(states, axis=1, keepdims=True)
    if (norms == 0).any():
        raise DataError(f"{int((norms == 0).sum())} states are all zero and have no direction. Expected non-zero states; check the capture.")
    unit = states / norms
    distances = 1 - unit @ unit.T
    distances[distances < _SAME] = 0.0
    np.fill_diagonal(distances, 0.0)
    return distances


def _silhouette(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    larger = np.maximum(own, other)
    return np.divide(other - own, larger, out=np.zeros_like(larger), where=larger > 0)


def label_silhouette(distances: Float[np.ndarray, "row row"], labels: Sequence[object] | np.ndarray) -> float:
    """Return the mean silhouette for any labels; a point alone in its cluster counts 0 (as in scikit-learn).

    Raises
    ------
    DataError
        Fewer than two labels, or as many labels as rows.
    """
    _, codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    counts = np.bincount(codes)
    if not 2 <= len(counts) < len(codes):
        raise DataError(f"{len(counts)} labels for {len(codes)} rows. Expected between 2 and {len(codes) - 1} clusters.")
    sums = np.asarray(distances, dtype=np.float64) @ np.eye(len(counts))[codes]
    at = np.arange(len(codes))
    own = sums[at, codes] / np.maximum(counts[codes] - 1, 1)
    means = sums / counts
    means[at, codes] = np.inf
    values = _silhouette(own, means.min(axis=1))
    values[counts[codes] == 1] = 0.0
    return float(values.mean())


def _sorted_two(sums: Float[np.ndarray, "row meaning"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the smallest value of each row, where it is, and the second smallest."""
    nearest = sums.argmin(axis=1)
    at = np.arange(len(sums))
    first = sums[at, nearest]
    rest = sums.copy()
    rest[at, nearest] = np.inf
    return first, nearest, rest.min(axis=1)


def grid_silhouettes(
    distances: Float[np.ndarray, "row row"], n_languages: int, *, jackknife: bool = True
) -> tuple[Float[np.ndarray, " statistic"], Float[np.ndarray, "meaning statistic"] | None]:
    """Return the three silhouettes of a complete grid (rows language-major) and, if asked, without each meaning.

    Meaning clusters: leaving out meaning k changes a point only if k was its nearest, then the second nearest counts.
    Language clusters: subtract one distance from each sum. Both follow from the one distance matrix.
    """
    n_rows = len(distances)
    n = n_rows // n_languages
    blocks = distances.reshape(n_rows, n_languages, n)
    language_of, meaning_of, at = np.repeat(np.arange(n_languages), n), np.tile(np.arange(n), n_languages), np.arange(n_rows)

    to_language = blocks.sum(axis=2)
    own = to_language[at, language_of] / (n - 1)
    means = to_language / n
    means[at, language_of] = np.inf
    by_language = _silhouette(own, means.min(axis=1))

    to_meaning = blocks.sum(axis=1)
    own_meaning = to_meaning[at, meaning_of] / (n_languages - 1)
    others = to_meaning / n_languages
    others[at, meaning_of] = np.inf
    first, nearest, second = _sorted_two(others)
    by_meaning = _silhouette(own_meaning, first)
    language, meaning = float(by_language.mean()), float(by_meaning.mean())
    values = np.array([language, meaning, meaning - language])
    if not jackknife or n < 3:
        return values, None

    changed = _silhouette(own_meaning, second) - by_meaning
    left = by_meaning.sum() - np.bincount(meaning_of, by_meaning, n) + np.bincount(nearest, changed, n)
    meaning_without = left / (n_rows - n_languages)

    sums = to_language[:, :, None] - blocks  # (row, language, meaning left out)
    own_without = sums[at, language_of] / (n - 2)
    sums[at, language_of] = np.inf
    each = _silhouette(own_without, sums.min(axis=1) / (n - 1))
    each[at, meaning_of] = 0.0
    language_without = each.sum(axis=0) / (n_rows - n_languages)
    return values, np.stack([language_without, meaning_without, meaning_without - language_without], axis=1)


def permuted_meaning_silhouettes(
    distances: Float[np.ndarray, "row row"], permutations: Int[np.ndarray, "draw language meaning"]
) -> Float[np.ndarray, " draw"]:
    """Return the meaning silhouette with meaning labels permuted within each language (language labels untouched).

    The distances do not change, only which rows form a cluster, so each draw is a gather and a sum (float32: a null
    distribution needs no more).
    """
    n_draws, n_languages, n = permutations.shape
    compact = distances.astype(np.float32)
    rows = permutations + np.arange(n_languages)[:, None] * n
    at = np.arange(n_languages * n)
    cluster_of = np.argsort(permutations, axis=2).reshape(n_draws, -1)
    found = np.empty(n_draws)
    for draw in range(n_draws):
        sums = compact[rows[draw, 0]]
        for language in range(1, n_languages):
            sums += compact[rows[draw, language]]  # (cluster, row): distances are symmetric, and rows are contiguous
        own = sums[cluster_of[draw], at] / (n_languages - 1)
        sums[cluster_of[draw], at] = np.inf
        found[draw] = _silhouette(own, sums.min(axis=0) / n_languages).mean()
    return found


def silhouettes_without_each_language(distances: np.ndarray, n_languages: int) -> Float[np.ndarray, "language statistic"]:
    """Return the three silhouettes with each language left out in turn (NaN for fewer than three languages)."""
    if n_languages < 3:
        return np.full((1, 3), np.nan)
    n = len(distances) // n_languages
    kept = [np.flatnonzero(np.repeat(np.arange(n_languages), n) != a) for a in range(n_languages)]
    return np.array([grid_silhouettes(distances[np.ix_(k, k)], n_languages - 1, jackknife=False)[0] for k in kept])
