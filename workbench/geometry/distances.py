"""Silhouettes from one matrix of cosine distances: any labels, or a complete language x meaning grid at once.

On a grid all three silhouettes, their values without each meaning or language, with any weights on the meanings and with
any number of label permutations come from sums over that one matrix; no distance is computed twice, no row is copied.
Rows are language-major: row a * n + i is meaning i in language a. Statistics are language, meaning, difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import DataError

_SAME = 1e-11  # states that agree to five digits: one token, in batches of different shape
_SMALL = 2**28  # multiply-adds up to which the product is taken in float64
_CHUNK = 2**19  # values held at once per row of work: a few megabytes


def cosine_distances(states: Float[np.ndarray, "row hidden"]) -> Float[np.ndarray, "row row"]:
    """Return 1 - cosine between all rows; equal rows are at exactly 0.

    The distance of unit vectors, |u - v|^2 / 2, does not change when one point is subtracted from all of them. So their
    mean is, in float64, and the rounding of the product is relative to how far states lie apart, not to the direction
    they share (which holds nearly all of a residual stream). Small grids are multiplied in float64, large ones in
    float32 unless some rows lie so close together that float32 would round them. The result of a large grid is float32.

    Raises
    ------
    DataError
        A row of norm zero.

    Examples
    --------
    >>> cosine_distances(np.array([[2.0, 0.0], [5.0, 0.0], [0.0, 3.0]])).round(12).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    if states.size * len(states) <= _SMALL:
        return _distances(states, np.float64)[0]
    distances, closest = _distances(states, np.float32)
    if closest < 1e-4:  # float32 keeps seven digits of the largest distance
        distances = _distances(states, np.float64)[0].astype(np.float32)
    return distances


def _distances(states: np.ndarray, precision: type) -> tuple[np.ndarray, float]:
    """Return the distances, and the smallest of them relative to the spread of the rows."""
    parts = [slice(first, first + 128) for first in range(0, len(states), 128)]  # a few rows at a time stay in the cache
    units: np.ndarray = np.empty(states.shape, dtype=precision)
    mean, norms = np.zeros(states.shape[1]), np.empty(len(states))
    for part in parts:
        rows = states[part].astype(np.float64)
        norms[part] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        mean += (1 / np.where(norms[part] > 0, norms[part], 1)) @ rows / len(states)
    if (norms == 0).any():
        raise DataError(f"{int((norms == 0).sum())} states are all zero and have no direction. Expected non-zero states; check the capture.")
    for part in parts:
        units[part] = states[part] / norms[part, None] - mean
    half = (np.einsum("ij,ij->i", units, units, dtype=np.float64) / 2).astype(precision)
    spread = float(half.max())
    distances = units @ units.T
    np.subtract(half[:, None], distances, out=distances)
    distances += half
    np.fill_diagonal(distances, np.inf)
    closest = float(distances.min()) / spread if spread > _SAME else 1.0
    distances[distances < max(16 * np.finfo(precision).eps * spread, _SAME)] = 0.0  # rounding between equal states
    np.fill_diagonal(distances, 0.0)
    return distances, closest


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


def _grid(distances: np.ndarray, n_languages: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the distances as (row, language, meaning), and each row's number, language and meaning."""
    n_rows = len(distances)
    n = n_rows // n_languages
    at = np.arange(n_rows)
    return distances.reshape(n_rows, n_languages, n), at, at // n, at % n


def grid_silhouettes(
    distances: Float[np.ndarray, "row row"], n_languages: int, *, jackknife: bool = True
) -> tuple[Float[np.ndarray, " statistic"], Float[np.ndarray, "meaning statistic"] | None]:
    """Return the three silhouettes of a complete grid and, if asked, without each meaning (None below three meanings).

    Meaning clusters: leaving out meaning k changes a point only if k was its nearest, then the second nearest counts.
    Language clusters: subtract one distance from each sum. Both follow from the one distance matrix.
    """
    blocks, at, language_of, meaning_of = _grid(distances, n_languages)
    n_rows, _, n = blocks.shape

    to_language = blocks.sum(axis=2, dtype=np.float64)
    own = to_language[at, language_of] / (n - 1)
    means = to_language / n
    means[at, language_of] = np.inf
    by_language = _silhouette(own, means.min(axis=1))

    to_meaning = blocks.sum(axis=1, dtype=np.float64)
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


def silhouettes_without_each_language(distances: Float[np.ndarray, "row row"], n_languages: int) -> Float[np.ndarray, "language statistic"]:
    """Return the three silhouettes with each language left out in turn (one row of NaN for fewer than three languages)."""
    if n_languages < 3:
        return np.full((1, 3), np.nan)
    blocks, at, language_of, meaning_of = _grid(distances, n_languages)
    n = blocks.shape[2]

    to_language = blocks.sum(axis=2, dtype=np.float64)
    own = to_language[at, language_of] / (n - 1)
    means = to_language / n
    means[at, language_of] = np.inf
    first, nearest, second = _sorted_two(means)
    by_language, changed = _silhouette(own, first), _silhouette(own, second)

    to_meaning = blocks.sum(axis=1, dtype=np.float64)
    own_meaning = to_meaning[at, meaning_of]
    found = np.empty((n_languages, 3))
    for a in range(n_languages):
        kept = language_of != a
        language = np.where(nearest == a, changed, by_language)[kept].mean()
        others = (to_meaning - blocks[:, a]) / (n_languages - 1)
        others[at, meaning_of] = np.inf
        own_without = (own_meaning - blocks[at, a, meaning_of]) / (n_languages - 2)
        meaning = _silhouette(own_without, others.min(axis=1))[kept].mean()
        found[a] = language, meaning, meaning - language
    return found


def weighted_silhouettes(
    distances: Float[np.ndarray, "row row"], n_languages: int, weights: Float[np.ndarray, "resample meaning"]
) -> Float[np.ndarray, "resample statistic"]:
    """Return the three silhouettes of a complete grid for many sets of weights on its meanings (bootstrap resamples).

    A meaning of weight w counts w times, but its copies are never each other's neighbours: each prompt sees its own
    meaning once (its translations) and every other meaning with that one's weight, and its nearest other meaning is
    sought among those of positive weight. Weights of one give :func:`grid_silhouettes`.

    Parameters
    ----------
    weights : array (resample, meaning)
        Not negative, for instance from :func:`workbench.statistics.bootstrap_weights`.

    Returns
    -------
    array (resample, statistic)
        NaN where fewer than two meanings have weight.
    """
    blocks, at, language_of, meaning_of = _grid(distances, n_languages)
    n_rows = len(blocks)
    translations = blocks[at, :, meaning_of]
    others = blocks.copy()
    others[at, :, meaning_of] = 0.0
    # the silhouette that each row has when its k-th nearest other meaning is the nearest one present
    to_meaning = others.sum(axis=1) / n_languages
    own_meaning = translations.sum(axis=1, dtype=np.float64) / (n_languages - 1)
    to_meaning[at, meaning_of] = np.inf
    order = to_meaning.argsort(axis=1)[:, :-1]
    ranked = _silhouette(own_meaning[:, None], np.take_along_axis(to_meaning, order, axis=1).astype(np.float64))

    found = np.empty((len(weights), 3))
    step = max(1, _CHUNK // n_rows)
    for first in range(0, len(weights), step):
        part = slice(first, first + step)
        counts = np.ascontiguousarray(np.asarray(weights[part]).T, dtype=distances.dtype)
        share = counts / (n_languages * np.maximum(counts.sum(axis=0), 1e-12))
        language = _by_language(others, translations, counts, language_of, meaning_of)
        meaning = _by_nearest_present(ranked, order, counts > 0)
        found[part, 0] = np.einsum("ij,ij->j", language, share[meaning_of], dtype=np.float64)
        found[part, 1] = np.einsum("ij,ij->j", meaning, share[meaning_of], dtype=np.float64)
    found[:, 2] = found[:, 1] - found[:, 0]
    found[(np.asarray(weights) > 0).sum(axis=1) < 2] = np.nan
    return found


def _by_language(others: np.ndarray, translations: np.ndarray, counts: np.ndarray, language_of: np.ndarray, meaning_of: np.ndarray) -> np.ndarray:
    """Return the language silhouette of each row for each resample."""
    _, n_languages, n = others.shape
    rest = counts.sum(axis=0) - counts[meaning_of]  # weight of the other meanings
    own = np.empty_like(rest)
    nearest = np.full_like(rest, np.inf)
    for b in range(n_languages):
        sums = others[:, b] @ counts
        mine = slice(b * n, (b + 1) * n)
        own[mine] = sums[mine]
        sums += translations[:, b, None]
        sums[mine] = np.inf
        np.minimum(nearest, sums, out=nearest)
    own /= np.maximum(rest, 1e-12)
    nearest /= rest + 1
    return _silhouette(own, nearest)


def _by_nearest_present(ranked: np.ndarray, order: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return ranked[row, k] for the first k whose meaning order[row, k] is present, per row and resample."""
    values = np.repeat(ranked[:, :1], present.shape[1], axis=1)
    row, draw = np.nonzero(~present[order[:, 0]])
    for k in range(1, order.shape[1]):
        if not len(row):
            break
        values[row, draw] = ranked[row, k]
        absent = ~present[order[row, k], draw]
        row, draw = row[absent], draw[absent]
    return values


def permuted_meaning_silhouettes(
    distances: Float[np.ndarray, "row row"], permutations: Int[np.ndarray, "draw language meaning"]
) -> Float[np.ndarray, " draw"]:
    """Return the meaning silhouette with meaning labels permuted within each language (language labels untouched).

    The distances do not change, only which rows form a cluster, so each draw is a gather and a sum (float32: a null
    distribution needs no more), a block of columns at a time so that it stays in the cache.
    """
    n_draws, n_languages, n = permutations.shape
    n_rows = n_languages * n
    rows = permutations + np.arange(n_languages)[:, None] * n
    cluster_of = np.argsort(permutations, axis=2).reshape(n_draws, n_rows)
    found = np.zeros(n_draws)
    width = min(n_rows, max(n, _CHUNK // 4 // n))
    step = max(1, _CHUNK // 4 // (n * width))
    for first in range(0, n_rows, width):
        columns = np.ascontiguousarray(distances[:, first : first + width], dtype=np.float32)
        at = np.arange(columns.shape[1])
        for start in range(0, n_draws, step):
            part = slice(start, min(start + step, n_draws))
            sums = columns[rows[part, 0]]  # (draw, cluster, column)
            buffer = np.empty_like(sums)
            for language in range(1, n_languages):
                np.take(columns, rows[part, language], axis=0, out=buffer, mode="clip")  # "clip" writes straight into the buffer
                sums += buffer
            draw, mine = np.arange(len(sums))[:, None], cluster_of[part, first : first + width]
            own = sums[draw, mine, at] / (n_languages - 1)
            sums[draw, mine, at] = np.inf
            found[part] += _silhouette(own, sums.min(axis=1) / n_languages).sum(axis=1, dtype=np.float64)
    return found / n_rows
