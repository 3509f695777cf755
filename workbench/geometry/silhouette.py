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
between layers, share the same leave-one-out values, so comparisons are paired. ``interval="bootstrap"`` resamples by
weights, never by copies of rows, and moves the distribution back to the value: its shift is that bias.
docs/coverage.md has the coverage of all of them.

The target of the interval is the expected silhouette of N meanings drawn like these, given these languages. A
silhouette depends on N (more meanings, nearer neighbours), so compare models on the same meanings. Meanings may crowd
around topics as long as the topics are given; ``unit="category"`` makes topics the unit, for a claim about other topics.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import DataError, did_you_mean, writing
from workbench.geometry.cells import Cells, complete_cells, each_layer, labels_of, provenance_of
from workbench.geometry.distances import (
    cosine_distances,
    grid_silhouettes,
    permuted_meaning_silhouettes,
    silhouettes_without_each_language,
    weighted_silhouettes,
)
from workbench.results import Result
from workbench.statistics import bootstrap_weights, grouped_influence, jackknife_influence, jackknife_interval, max_quantile, two_way_interval

STATISTICS = ("language", "meaning", "difference")
#: Fewest languages for an interval that speaks of languages in general.
ENOUGH_LANGUAGES = 12
_INTERVALS = {"jackknife": "jackknife", "bootstrap": "recentred bootstrap by weights"}
_KEY, _DIGEST = "workbench.silhouettes", "beside_sha256"
_LEAST, _MOST = np.array([-1.0, -1.0, -2.0]), np.array([1.0, 1.0, 2.0])


@dataclass(frozen=True)
class Silhouettes(Result):
    """Silhouettes by layer: position, layer, statistic, value, low, high, n, defined, ...

    ``influence`` (position, layer, statistic, unit) and ``null`` (position, permutation, layer; the difference with
    meaning labels permuted within each language) are what a bottleneck is judged on. :meth:`save` writes them beside the
    table as ``.safetensors``, so a loaded result can be judged as well; both are None where that file is missing.
    """

    influence: xr.DataArray | None = None
    null: xr.DataArray | None = None

    required: ClassVar[tuple[str, ...]] = ("position", "layer", "statistic", "value", "low", "high", "n", "defined")

    def summary(self) -> pd.DataFrame:
        """Return one row per position and layer with the three values side by side."""
        return self.table.pivot_table(index=["position", "layer"], columns="statistic", values="value", dropna=False).reset_index()

    def save(self, path: str | Path) -> Path:
        """Write the table to ``path`` (``.parquet``) and, beside it, influence and null (``.safetensors``).

        The table's provenance names the digest of the other file, so that two files of different runs are never joined.
        """
        path = Path(path)
        if self.influence is None or self.null is None:
            return super().save(path)
        from safetensors.numpy import save

        names = {name: self.influence[name].values.tolist() for name in self.influence.dims}
        tensors = {"influence": np.ascontiguousarray(self.influence.values), "null": np.ascontiguousarray(self.null.values)}
        content = save(tensors, metadata={_KEY: json.dumps(names)})
        beside = path.with_suffix(".safetensors")
        draft = beside.with_suffix(".safetensors.draft")
        with writing(beside):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.replace(beside)
        return Result.save(replace(self, provenance={**self.provenance, _DIGEST: hashlib.sha256(content).hexdigest()}), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; the table alone where the file beside it is missing or belongs to another table."""
        from safetensors import safe_open

        loaded, beside = super().load(path), Path(path).with_suffix(".safetensors")
        digest = loaded.provenance.get(_DIGEST)
        if digest is None or not beside.is_file() or hashlib.sha256(beside.read_bytes()).hexdigest() != digest:
            return loaded
        with safe_open(str(beside), framework="numpy") as file:
            names, influence, null = json.loads(file.metadata()[_KEY]), file.get_tensor("influence"), file.get_tensor("null")
        labelled = xr.DataArray(influence, dims=tuple(names), coords=names)
        return replace(loaded, influence=labelled, null=_null(null, names["position"], names["layer"]))


def _null(drawn: np.ndarray, positions: Sequence[str], layers: Sequence[int]) -> xr.DataArray:
    return xr.DataArray(drawn, dims=("position", "permutation", "layer"), coords={"position": list(positions), "layer": list(layers)})


class _Layer(NamedTuple):
    """One layer at one position: three statistics each."""

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    low_languages: np.ndarray
    high_languages: np.ndarray
    left: np.ndarray
    null_95: np.ndarray
    influence: np.ndarray
    null: np.ndarray
    defined: bool


@dataclass(frozen=True)
class _Draws:
    """What all layers share: the resampling unit of each meaning, its weights per resample and the permuted labels."""

    unit_of: np.ndarray
    names: list[str]
    weights: np.ndarray | None
    shuffles: np.ndarray
    confidence: float


def _undefined(n_units: int, n_draws: int) -> _Layer:
    no = np.full(3, np.nan)
    return _Layer(no, no, no, no, no, np.full((1, 3), np.nan), no, np.full((n_units, 3), np.nan), np.full(n_draws, np.nan), False)


def _measure(states: np.ndarray, draws: _Draws) -> _Layer:
    n_languages, n = states.shape[:2]
    distances = cosine_distances(states.reshape(n_languages * n, -1))
    n_units, n_draws = len(draws.names), len(draws.shuffles)
    if not distances.max() > 0:
        return _undefined(n_units, n_draws)
    values, without = grid_silhouettes(distances, n_languages)
    influence = np.full((n_units, 3), np.nan)
    if without is not None:
        influence = grouped_influence(jackknife_influence(values, without), draws.unit_of)
    low, high = jackknife_interval(values, influence, draws.confidence)
    if draws.weights is not None and without is not None:
        low, high = _recentred(values, weighted_silhouettes(distances, n_languages, draws.weights), draws.confidence)
    left = silhouettes_without_each_language(distances, n_languages)
    both = np.full(3, np.nan), np.full(3, np.nan)
    if n_languages >= ENOUGH_LANGUAGES:
        both = two_way_interval(values, influence, jackknife_influence(values, left), draws.confidence)
    null, null_95 = np.full(n_draws, np.nan), np.full(3, np.nan)
    if n_draws:
        meaning = permuted_meaning_silhouettes(distances, draws.shuffles)
        null = meaning - values[0]
        null_95[1:] = max_quantile(meaning), max_quantile(null)
    low, high, low_both, high_both = (np.clip(bound, _LEAST, _MOST) for bound in (low, high, *both))
    return _Layer(values, low, high, low_both, high_both, left, null_95, influence, null, True)


def _recentred(values: np.ndarray, drawn: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return percentiles of the resamples moved so that their mean is the value (a resample's neighbours are too far)."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=0) - np.nanmean(drawn, axis=0) + values
    return low, high


def _centre_by_language(states: np.ndarray, allowed: bool) -> np.ndarray:
    if not allowed:
        raise DataError(
            "Centring by language makes every layer look semantic: pure noise then has a positive difference. "
            "Expected uncentred states; pass allow_biased_centring=True only to show the effect."
        )
    wide = states.astype(np.float64)
    return wide - wide.mean(axis=1, keepdims=True)


def _units(acts: xr.Dataset, cells: Cells, unit: str) -> tuple[np.ndarray, list[str]]:
    """Return the number of the unit that each meaning belongs to, and the names of the units."""
    if unit == "meaning_id":
        return np.arange(len(cells.meanings)), cells.meanings
    if unit != "category":
        raise DataError(f"unit={unit!r}: meanings are drawn one by one ('meaning_id') or by topic ('category').{did_you_mean(unit, ['category'])}")
    every = labels_of(acts)["category"].to_numpy()[cells.rows]
    of, mixed = every[0], (every != every[0]).any(axis=0)
    if mixed.any():
        raise DataError(f"Meaning {cells.meanings[int(mixed.argmax())]!r} has several categories. Expected one in all languages; correct it.")
    without = sum(name is None for name in of)
    names, codes = np.unique(of.astype(str), return_inverse=True)
    if without or len(names) < 3:
        raise DataError(
            f"{len(of)} meanings are in {len(names) - bool(without)} categories, and {without} have none. Expected at least three categories and "
            "one for each meaning; give the prompts a category before capture(), or leave unit at 'meaning_id'."
        )
    return codes, names.tolist()


def silhouettes(
    acts: xr.Dataset,
    *,
    split: str | None = None,
    positions: Sequence[str] | None = None,
    interval: Literal["jackknife", "bootstrap"] = "jackknife",
    unit: Literal["meaning_id", "category"] = "meaning_id",
    resamples: int = 1000,
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
    interval : "jackknife" or "bootstrap"
        How ``low`` and ``high`` come about. The jackknife covers (docs/coverage.md); the bootstrap by weights, moved back
        to the value, is there to compare with.
    unit : "meaning_id" or "category"
        What was drawn: single meanings, or topics with several meanings each (wider; at least three; jackknife only).
    resamples : int
        Draws of meaning weights, for ``interval="bootstrap"`` and for the layer range of :func:`find_bottleneck`.
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
        ``low``, ``high``: over meanings, given these languages. ``low_languages``, ``high_languages``: over meanings and
        languages, for languages drawn from a population; NaN below 12 languages, where nothing is claimed about
        languages in general. ``leave_out_low``, ``leave_out_high``: range over leaving out one language. ``null_95``:
        95 % quantile with permuted meaning labels at that layer (NaN for "language"). ``defined`` is False and the values
        NaN where all states of a layer are one constant token.

    Raises
    ------
    DataError
        Missing cells (named), fewer than two languages or meanings, states that are not finite or of norm zero, an
        unknown ``interval`` or ``unit``, too few categories.

    References
    ----------
    LASA, arXiv:2604.12710, ``select_best_layer.py``.
    """
    if interval not in _INTERVALS:
        raise DataError(f"interval={interval!r}: expected one of {list(_INTERVALS)}.{did_you_mean(interval, list(_INTERVALS))}")
    if resamples < 1 or permutations < 0:
        raise DataError(f"resamples={resamples}, permutations={permutations}: expected at least 1 and 0. The defaults are 1000 and 200.")
    if not 0 < confidence < 1:
        raise DataError(f"confidence={confidence}: expected a share between 0 and 1, such as 0.95.")
    if unit == "category" and interval == "bootstrap":
        raise DataError("Topics are the unit by jackknife only: a resample without a whole topic has other neighbours. Pass interval='jackknife'.")
    rng = rng or np.random.default_rng(0)
    if centre_languages and allow_biased_centring:
        warnings.warn("Silhouettes of language-centred states: pure noise looks semantic. Draw no conclusion from them.", stacklevel=2)
    cells = complete_cells(acts, split=split, max_meanings=max_meanings, rng=rng)
    n_languages, n = cells.rows.shape
    unit_of, names = _units(acts, cells, unit)
    shuffles = rng.permuted(np.broadcast_to(np.arange(n), (permutations, n_languages, n)), axis=2)
    weights = bootstrap_weights(len(names), resamples, rng) if interval == "bootstrap" else None
    draws = _Draws(unit_of, names, weights, shuffles, confidence)
    found: dict[tuple[str, int], _Layer] = {}
    for layer, position, states in each_layer(acts, cells.rows, positions=positions, dtype=None):
        if centre_languages:
            states = _centre_by_language(states, allow_biased_centring)
        found[position, layer] = _measure(states, draws)
    return _collected(
        found,
        names,
        n,
        provenance_of(
            acts,
            split=split,
            languages=cells.languages,
            meanings=cells.meanings,
            n_meanings=n,
            permutations=permutations,
            resamples=resamples,
            confidence=confidence,
            interval=f"{_INTERVALS[interval]} over {'meanings' if unit == 'meaning_id' else 'categories'}",
            null="meaning labels permuted within language",
            centred_by_language=centre_languages,
        ),
    )


def _collected(found: dict[tuple[str, int], _Layer], names: list[str], n: int, provenance: dict[str, Any]) -> Silhouettes:
    """Lay the layers out as one table with influence and null beside it."""
    positions, layers = list(dict.fromkeys(p for p, _ in found)), list(dict.fromkeys(k for _, k in found))
    rows = [
        {
            "position": position,
            "layer": layer,
            "statistic": statistic,
            "value": here.values[k],
            "low": here.low[k],
            "high": here.high[k],
            "n": n,
            "defined": here.defined,
            "null_95": here.null_95[k],
            "leave_out_low": here.left[:, k].min(),
            "leave_out_high": here.left[:, k].max(),
            "low_languages": here.low_languages[k],
            "high_languages": here.high_languages[k],
        }
        for (position, layer), here in found.items()
        for k, statistic in enumerate(STATISTICS)
    ]
    coords = {"position": positions, "layer": layers, "statistic": list(STATISTICS), "unit": names}
    influence = np.array([[found[p, k].influence.T for k in layers] for p in positions])
    null = np.array([[found[p, k].null for k in layers] for p in positions]).transpose(0, 2, 1)
    return Silhouettes(
        pd.DataFrame(rows).sort_values(["position", "layer"], kind="stable", ignore_index=True),
        provenance,
        influence=xr.DataArray(influence, dims=tuple(coords), coords=coords),
        null=_null(null, positions, layers),
    )
