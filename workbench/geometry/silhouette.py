"""Do states lie with their language or with their meaning? LASA's two silhouettes, with intervals and a null.

Unit-norm states, cosine distance, no centring (arXiv:2604.12710). On one distance matrix per layer, two label sets:

* language: ``a`` = mean distance to the same language, ``b`` = to the nearest other language;
* meaning:  ``a`` = mean distance to the same meaning in other languages, ``b`` = to the nearest other meaning;

silhouette = mean of (b - a) / max(a, b), between -1 and 1. difference = meaning - language: positive where states are
organised by meaning.

Why the interval is a jackknife
-------------------------------
The meaning silhouette looks for the *nearest* other meaning. A resample of N meanings holds about .63 N distinct ones,
so its nearest meaning is further away and the whole bootstrap distribution lies too high; with copies counted as
neighbours it is worse (noise at -.03 becomes [+.02, +.21]). Leaving out one meaning at a time keeps N - 1 distinct
neighbours, and by the Efron-Stein inequality its variance errs on the safe side. Both label sets, and any difference
between layers, share the same leave-one-out values, so comparisons are paired. Resamples (for the range of the best
layer) are weights on the jackknife's influence values, never copies of rows.

The target of the interval is the expected silhouette of N meanings drawn like these, given these languages. A
silhouette depends on N (more meanings, nearer neighbours), so compare models on the same meanings.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from workbench.errors import DataError
from workbench.geometry.cells import complete_cells, each_layer, provenance_of
from workbench.results import Result
from workbench.statistics import jackknife_influence, jackknife_interval, max_quantile

logger = logging.getLogger(__name__)

STATISTICS = ("language", "meaning", "difference")
_SAME = 1e-10  # cosine distances below this are rounding between equal states


@dataclass(frozen=True)
class Silhouettes(Result):
    """Silhouettes by layer: position, layer, statistic, value, low, high, n, defined, ...

    ``influence`` (position, layer, statistic, meaning) and ``null`` (position, permutation, layer; the difference with
    meaning labels permuted within each language) are what a bottleneck is judged on. They stay in memory only; a
    loaded file has the table alone.
    """

    influence: xr.DataArray | None = None
    null: xr.DataArray | None = None

    required: ClassVar[tuple[str, ...]] = ("position", "layer", "statistic", "value", "low", "high", "n", "defined")

    def summary(self) -> pd.DataFrame:
        """Return one row per position and layer with the three values side by side."""
        return self.table.pivot_table(index=["position", "layer"], columns="statistic", values="value", dropna=False).reset_index()


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


def _without_language(distances: np.ndarray, n_languages: int) -> Float[np.ndarray, "language statistic"]:
    if n_languages < 3:
        return np.full((1, 3), np.nan)
    n = len(distances) // n_languages
    kept = [np.flatnonzero(np.repeat(np.arange(n_languages), n) != a) for a in range(n_languages)]
    return np.array([grid_silhouettes(distances[np.ix_(k, k)], n_languages - 1, jackknife=False)[0] for k in kept])


def _centre_by_language(states: np.ndarray, allowed: bool) -> np.ndarray:
    if not allowed:
        raise DataError(
            "Centring by language makes every layer look semantic: pure noise then has a positive difference. "
            "Expected uncentred states; pass allow_biased_centring=True only to show the effect."
        )
    return states - states.mean(axis=1, keepdims=True)


def silhouettes(
    acts: xr.Dataset,
    *,
    split: str | None = None,
    positions: Sequence[str] | None = None,
    resamples: int = 300,
    permutations: int = 200,
    max_meanings: int = 64,
    confidence: float = 0.95,
    centre_languages: bool = False,
    allow_biased_centring: bool = False,
    rng: np.random.Generator | None = None,
) -> Silhouettes:
    """Measure per layer whether states lie with their language or with their meaning.

    Parameters
    ----------
    acts : Dataset
        Activations (prompt, layer, position, hidden) of a complete grid; may be lazy, one layer is read at a time.
    resamples : int
        Draws of meaning weights that :func:`find_bottleneck` takes for the range of the best layer.
    permutations : int
        Draws of meaning labels permuted within each language, the same in all layers; 0 leaves the null out.
    max_meanings : int
        More meanings than this are drawn down with ``rng`` (the cost grows with the square).
    centre_languages, allow_biased_centring : bool
        Subtract each language's mean first. Refused unless both are set, since it turns noise "semantic".
    rng : Generator, optional
        Default ``default_rng(0)``.

    Returns
    -------
    Silhouettes
        ``low`` and ``high``: jackknife over meanings given these languages; ``leave_out_low/high``: range over leaving
        out one language; ``null_95``: 95 % quantile with permuted meaning labels at that layer (NaN for "language").
        ``defined`` is False and the values NaN where all states of a layer are one constant token.

    Raises
    ------
    DataError
        Missing cells (named), fewer than two languages or meanings, states that are not finite.

    References
    ----------
    LASA, arXiv:2604.12710, ``select_best_layer.py``.
    """
    rng = rng or np.random.default_rng(0)
    if centre_languages and allow_biased_centring:
        warnings.warn("Silhouettes of language-centred states: pure noise looks semantic. Draw no conclusion from them.", stacklevel=2)
    cells = complete_cells(acts, split=split, max_meanings=max_meanings, rng=rng)
    n_languages, n = cells.rows.shape
    shuffles = rng.permuted(np.broadcast_to(np.arange(n), (permutations, n_languages, n)), axis=2)
    rows, influences, nulls = [], {}, {}
    for layer, position, states in each_layer(acts, cells.rows, positions=positions):
        if centre_languages:
            states = _centre_by_language(states, allow_biased_centring)
        distances = cosine_distances(states.reshape(n_languages * n, -1))
        defined = bool(distances.max() > 0)
        values, null_95 = np.full(3, np.nan), np.full(3, np.nan)
        influence, left, null = np.full((n, 3), np.nan), np.full((1, 3), np.nan), np.full(permutations, np.nan)
        if defined:
            values, without = grid_silhouettes(distances, n_languages)
            if without is not None:
                influence = jackknife_influence(values, without)
            left = _without_language(distances, n_languages)
            if permutations:
                meaning = permuted_meaning_silhouettes(distances, shuffles)
                null = meaning - values[0]
                null_95[1:] = max_quantile(meaning), max_quantile(null)
        low, high = jackknife_interval(values, influence, confidence)
        low, high = np.maximum(low, [-1, -1, -2]), np.minimum(high, [1, 1, 2])
        influences[position, layer], nulls[position, layer] = influence.T, null
        rows += [
            {
                "position": position,
                "layer": layer,
                "statistic": s,
                "value": values[k],
                "low": low[k],
                "high": high[k],
                "n": n,
                "defined": defined,
                "null_95": null_95[k],
                "leave_out_low": left[:, k].min(),
                "leave_out_high": left[:, k].max(),
            }
            for k, s in enumerate(STATISTICS)
        ]
    table = pd.DataFrame(rows).sort_values(["position", "layer"], kind="stable", ignore_index=True)
    names, layers = list(dict.fromkeys(p for p, _ in influences)), list(dict.fromkeys(k for _, k in influences))
    stacked = np.array([[influences[p, k] for k in layers] for p in names])
    drawn = np.array([[nulls[p, k] for k in layers] for p in names]).transpose(0, 2, 1)
    return Silhouettes(
        table,
        provenance_of(
            acts,
            split=split,
            languages=cells.languages,
            meanings=cells.meanings,
            n_meanings=n,
            permutations=permutations,
            resamples=resamples,
            confidence=confidence,
            interval="jackknife over meanings",
            null="meaning labels permuted within language",
            centred_by_language=centre_languages,
        ),
        influence=xr.DataArray(
            stacked,
            dims=("position", "layer", "statistic", "meaning"),
            coords={"position": names, "layer": layers, "statistic": list(STATISTICS), "meaning": cells.meanings},
        ),
        null=xr.DataArray(drawn, dims=("position", "permutation", "layer"), coords={"position": names, "layer": layers}),
    )
