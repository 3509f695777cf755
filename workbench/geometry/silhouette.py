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

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import DataError
from workbench.geometry.cells import complete_cells, each_layer, provenance_of
from workbench.geometry.distances import cosine_distances, grid_silhouettes, permuted_meaning_silhouettes, silhouettes_without_each_language
from workbench.results import Result
from workbench.statistics import jackknife_influence, jackknife_interval, max_quantile

STATISTICS = ("language", "meaning", "difference")


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
            left = silhouettes_without_each_language(distances, n_languages)
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
