"""How far apart harmful and harmless prompts lie, per language and layer, before and after alignment (arXiv:2504.02708).

Four statistics, each between the two classes of one language at one layer::

    between_class_share   eta^2 = tr(S_B) / (tr(S_B) + tr(S_W)), 0 to 1
    bhattacharyya         distance of two Gaussian fits, Ledoit-Wolf shrinkage in each class, 0 and up
    silhouette            by class, Euclidean distance, -1 to 1
    probe_auroc           cross-validated logistic probe on the full state, chance 0.5

The first three are taken on the first ten principal components, in one of two bases. "own": fitted per model, language
and layer on the prompts scored, as in the paper; absolute values of two models then stand on different axes. "common":
fitted once per layer on the states of both models and all languages, each model centred first; absolute values compare.

For two equal Gaussian classes at distance delta in one dimension: eta^2 = delta^2 / (delta^2 + 4), Bhattacharyya
distance = delta^2 / 8, AUROC = Phi(delta / sqrt 2).

Intervals are jackknife intervals over resampling units: a unit is a meaning, or a pair of twins where the prompts carry a
``pair_id``. Twenty groups of units are left out in turn, and the axes are fitted anew without each: on fixed axes the
intervals missed as often as 36 times in 100 where the classes lie along a component near the tenth
(``tests/benchmarks/separation_coverage.py`` measures the coverage). The target is the expected statistic of as many
prompts drawn like these; Bhattacharyya distances in particular fall as prompts grow in number, so compare them on the
same prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from threadpoolctl import threadpool_limits

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import each_layer, labels_of, provenance_of, rows_of
from workbench.geometry.class_distances import between_class_share, bhattacharyya
from workbench.geometry.components import principal_components
from workbench.geometry.matching import drawn_units, matched_rows, units_of
from workbench.geometry.probes import FOLDS, PENALTY
from workbench.geometry.separation_cells import GROUPS, Group, cells_of, groups_of
from workbench.geometry.separation_change import SeparationChange, SeparationContrast, change_of, contrast_of
from workbench.results import Result

__all__ = [
    "Separation",
    "between_class_share",
    "bhattacharyya",
    "principal_components",
    "separation",
]

N_COMPONENTS = 10
STATISTICS = ("between_class_share", "bhattacharyya", "silhouette", "probe_auroc")
BASES = ("own", "common")
PERMUTATIONS = 100
MAX_UNITS = 1000


@dataclass(frozen=True)
class Separation(Result):
    """Class separation: model, basis, position, layer, language, tier, statistic, value, low, high, n, null_share, null_95, ...

    ``influence`` maps each language to its influence values (model, basis, statistic, position, layer, unit). It stays in
    memory; a loaded file has the table alone.
    """

    influence: dict[str, xr.DataArray] | None = None

    required: ClassVar[tuple[str, ...]] = ("model", "position", "layer", "language", "tier", "statistic", "value", "low", "high", "n")

    def summary(self) -> pd.DataFrame:
        """Return the last layer, the models side by side."""
        last = self.table[self.table["layer"] == self.table["layer"].max()]
        keys = [c for c in ("basis", "position", "layer", "statistic", "language", "tier") if c in last]
        return last.set_index([*keys, "model"])["value"].unstack("model").reset_index()

    def change(self) -> SeparationChange:
        """Return after minus before on the same prompts, with a paired interval (no rows without a model before).

        Returns
        -------
        SeparationChange
            One row per basis, position, layer, language and statistic. The interval shares the influence values of each
            meaning between the two models.

        Raises
        ------
        DataError
            A result loaded from a file.
        """
        return change_of(self)

    def contrast(self, tuned: Sequence[str], others: Sequence[str]) -> SeparationContrast:
        """Return the mean change over the tuned languages minus the mean change over the others.

        Parameters
        ----------
        tuned, others : sequence of str
            Two disjoint sets of languages measured.

        Returns
        -------
        SeparationContrast
            One row per basis, position, layer and statistic. Meanings that languages share are resampled together: their
            influence values add before they are squared.

        Raises
        ------
        DataError
            Unknown, overlapping or no languages, no model before, or a result loaded from a file.
        """
        return contrast_of(self, tuned, others)


def _known(given: Sequence[str], options: Sequence[str], name: str) -> tuple[str, ...]:
    given = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    for each in given:
        if each not in options:
            raise DataError(f"Unknown {name} {each!r}; expected some of {list(options)}.{did_you_mean(each, options)}")
    if not given:
        raise DataError(f"No {name} was asked for. Expected some of {list(options)}.")
    return given


# products of many small matrices: BLAS threads would spend four times the work on waiting for each other
@threadpool_limits.wrap(limits=1, user_api="blas")
def separation(
    acts: xr.Dataset,
    before: xr.Dataset | None = None,
    *,
    split: str | None = "score",
    n_components: int = N_COMPONENTS,
    statistics: Sequence[str] = STATISTICS,
    bases: Sequence[str] = BASES,
    positions: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    permutations: int = PERMUTATIONS,
    max_units: int | None = MAX_UNITS,
    rng: np.random.Generator | None = None,
) -> Separation:
    """Measure per language and layer how far harmful and harmless prompts lie apart, in one model or in two.

    Parameters
    ----------
    acts, before : Dataset
        Activations of the model diagnosed ("after") and, optionally, of the model before alignment, on the same prompts.
        Any labelled texts will do: ``harmful`` is the class (also toxic against neutral), and languages may have texts
        of their own.
    split : str or None
        Meanings scored; None uses all.
    n_components : int
        Principal components kept (fewer where the prompts span fewer).
    statistics, bases : sequence of str
        See the module. The probe reads the full state, which needs no basis; its rows carry "own".
    layers, positions : sequence, optional
        Default all that were captured.
    permutations : int
        Draws of labels without meaning, the same in both models: twins swap labels, other units are permuted. 0 leaves
        the null out. The probe has 40, each within folds.
    max_units : int or None
        More meanings (or pairs of twins) of a language than this are drawn down with ``rng``, the same in both models: the
        cost of silhouettes grows with the square. None keeps all.
    rng : Generator, optional
        For draws, folds and permutations; default ``default_rng(0)``.

    Returns
    -------
    Separation
        ``null_share``: what labels without meaning give on average (exactly 1 / (n - 1) for the share of variance over
        single meanings, 0.5 for the AUROC, else the mean over draws); ``null_95``: the 95 % quantile of the draws.
        ``low``, ``high``: 95 % intervals over ``n_units`` resampling units. ``n_components`` is the number used; the
        probe uses all. ``defined`` is False, and the values NaN, where all states are one constant token.

    Raises
    ------
    DataError
        A language with fewer than two prompts of a class; states that are not finite; unknown names; two models with
        different prompts, labels, positions, layers or widths.

    References
    ----------
    Verma and Bharadwaj 2025, arXiv:2504.02708 (formula of the share and the fit of the axes are inferred).
    """
    statistics, bases = _known(statistics, STATISTICS, "statistic"), _known(bases, BASES, "basis")
    if bases == ("common",) and statistics == ("probe_auroc",):
        raise DataError("The probe reads the full state and has no basis but 'own'. Expected bases with 'own' in them, or other statistics.")
    if n_components < 1 or permutations < 0:
        raise DataError(
            f"Got n_components={n_components}, permutations={permutations}. Expected at least one component and 0 or more draws of labels."
        )
    kept = {"after": rows_of(labels_of(acts), split=split)}
    if before is not None:
        shared = "common" in bases
        first, second = matched_rows(acts, before, split=split, positions=positions, layers=layers, same_width=shared)
        kept = {"before": second, "after": first}
    rng = rng or np.random.default_rng(0)
    kept = _drawn(acts, kept, max_units, rng)
    groups = groups_of(acts, kept["after"], split, permutations, rng)
    stores = {"before": before, "after": acts}
    readers = [each_layer(stores[model], rows, positions=positions, layers=layers) for model, rows in kept.items()]
    rows, influence = [], {}
    for read in zip(*readers, strict=True):
        layer, position = read[0][:2]
        states = {model: found for model, (_, _, found) in zip(kept, read, strict=True)}
        for model, basis, group, statistic, used, found in cells_of(states, groups, n_components, statistics, bases):
            key = {"model": model, "basis": basis, "position": position, "layer": layer, "language": group.language, "tier": group.tier}
            counts = {"n": len(group.rows), "n_units": len(group.names), "n_components": used}
            rows.append(key | {"statistic": statistic} | found._asdict() | counts | {"defined": bool(np.isfinite(found.value))})
            influence[group.language, model, basis, statistic, position, layer] = found.influence
    table = pd.DataFrame(rows).drop(columns="influence").sort_values(["model", "basis", "position", "layer"], kind="stable", ignore_index=True)
    options: dict[str, Any] = dict(
        split=split,
        n_components=n_components,
        statistics=list(statistics),
        bases=list(bases),
        permutations=permutations,
        max_units=max_units,
        interval=f"jackknife over {GROUPS} groups of meanings (of pairs where there are any), axes refitted; AUROC: score interval",
        shrinkage="Ledoit-Wolf, per class",
        probe=f"logistic, C={PENALTY:g} on states over their root mean squared distance from the mean, {FOLDS} folds by meaning or pair",
    )
    if before is not None:
        options["before"] = {str(k): before.attrs[k] for k in ("model", "fingerprint") if k in before.attrs}
    return Separation(table, provenance_of(acts, **options), influence=_labelled(influence, groups))


def _drawn(acts: xr.Dataset, kept: dict[str, np.ndarray], most: int | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw large languages down to ``most`` units, the same prompts in both models."""
    labels, units = labels_of(acts).iloc[kept["after"]], units_of(acts)[kept["after"]]
    if most is None or pd.Series(units).groupby(labels["language"].to_numpy()).nunique().max() <= most:
        return kept
    if most < 3:
        raise DataError(f"Got max_units={most}. Expected at least 3 to resample; None keeps all.")
    chosen = drawn_units(units, labels["language"].to_numpy(), labels["harmful"].to_numpy(), most, rng)
    return {model: rows[chosen] for model, rows in kept.items()}


def _labelled(influence: dict[tuple[Any, ...], np.ndarray], groups: Sequence[Group]) -> dict[str, xr.DataArray]:
    """Lay the influence values of each language out as one array; NaN where a statistic was not measured in a basis."""
    names = ("model", "basis", "statistic", "position", "layer")
    known = [list(dict.fromkeys(key[i + 1] for key in influence)) for i in range(len(names))]
    out = {}
    for group in groups:
        values = np.full((*[len(k) for k in known], len(group.names)), np.nan)
        for key, found in influence.items():
            if key[0] == group.language:
                values[tuple(k.index(v) for k, v in zip(known, key[1:], strict=True))] = found
        coords = dict(zip(names, known, strict=True)) | {"unit": group.names}
        out[group.language] = xr.DataArray(values, dims=(*names, "unit"), coords=coords)
    return out
