"""One language at one layer: each separation statistic with its interval, its null and its influence values.

Everything that must be the same in both models, all layers and both bases is drawn once per language: which prompts are
resampled together, the probe's folds, and the permuted labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from workbench.errors import DataError
from workbench.geometry.cells import all_one_state, labels_of, tiers_of
from workbench.geometry.class_distances import (
    bhattacharyya_of_sums,
    euclidean,
    moment_sums,
    moments,
    share_of_sums,
    standardised,
    two_class_silhouettes,
)
from workbench.geometry.components import axes_without, common_components, row_space
from workbench.geometry.matching import units_of
from workbench.geometry.paired_intervals import separation_interval, spread_over_units
from workbench.geometry.probes import deal, folds_by_unit, permuted_labels, permuted_probe_aurocs, probe_auroc, probe_interval
from workbench.statistics import max_quantile

_PROBE_DRAWS = 40  # of labels for the probe, whose fits cost most and whose interval rests on them
GROUPS = 20  # of units left out in turn; each unit alone where there are at most twice as many
_SPARE = 30  # more common components than are used, into which refitted axes may turn
_NAN = float("nan")


class Group(NamedTuple):
    """The scored prompts of one language.

    ``rows`` are their places among the scored prompts, ``units`` which of the resampling units ``names`` each belongs to;
    ``groups`` are the parts left out in turn for the intervals; ``draws`` and ``fold_draws`` are permuted labels (the latter
    within folds), ``folds`` is None where two are impossible.
    """

    language: str
    tier: str | None
    rows: Int[np.ndarray, " prompt"]
    harmful: Bool[np.ndarray, " prompt"]
    units: Int[np.ndarray, " prompt"]
    names: np.ndarray
    groups: Int[np.ndarray, " prompt"]
    draws: Bool[np.ndarray, "draw prompt"]
    folds: Int[np.ndarray, " prompt"] | None
    fold_draws: Bool[np.ndarray, "draw prompt"]


class Found(NamedTuple):
    """One statistic of one language: what becomes a row, and its influence values."""

    value: float
    low: float
    high: float
    null_share: float
    null_95: float
    influence: Float[np.ndarray, " unit"]


def groups_of(data: xr.Dataset, kept: Int[np.ndarray, " row"], split: str | None, permutations: int, rng: np.random.Generator) -> list[Group]:
    """Split the scored prompts by language.

    Raises
    ------
    DataError
        A language with fewer than two prompts of a class.
    """
    labels, unit_names = labels_of(data), units_of(data)[kept]
    tiers, part = tiers_of(labels), labels.iloc[kept]
    known = np.unique(unit_names)
    rank, of_row = rng.permutation(len(known)), np.searchsorted(known, unit_names)
    out = []
    for language in dict.fromkeys(part["language"]):
        rows = np.flatnonzero(part["language"] == language)
        harmful = part["harmful"].to_numpy()[rows]
        if min(harmful.sum(), (~harmful).sum()) < 2:
            raise DataError(
                f"Language {language!r} has {int(harmful.sum())} harmful and {int((~harmful).sum())} harmless "
                f"prompts in split {split!r}. Expected at least two of each; add prompts, or leave the language out."
            )
        present, units = np.unique(of_row[rows], return_inverse=True)
        groups = units if len(present) <= 2 * GROUPS else deal(units, harmful, rank[present], GROUPS)
        folds = folds_by_unit(units, harmful, rank[present])
        draws = permuted_labels(harmful, units, permutations, rng)
        fold_draws = draws[:0] if folds is None else permuted_labels(harmful, units, _PROBE_DRAWS, rng, within=folds)
        out.append(Group(language, tiers[language], rows, harmful, units, known[present], groups, draws, folds, fold_draws))
    return out


def _nothing(group: Group) -> Found:
    return Found(_NAN, _NAN, _NAN, _NAN, _NAN, np.full(len(group.names), np.nan))


def _values(scores: np.ndarray, harmful: np.ndarray, statistics: Sequence[str]) -> dict[str, float | np.ndarray]:
    """Return the silhouette, and the moment sums of both classes from which the other statistics follow."""
    x = standardised(scores)
    out: dict[str, float | np.ndarray] = {"harmful": moment_sums(x[harmful]), "harmless": moment_sums(x[~harmful])}
    if "silhouette" in statistics:
        out["silhouette"] = float(two_class_silhouettes(euclidean(x), harmful)[0])
    return out


def _of_sums(statistic: str, harmful: np.ndarray, harmless: np.ndarray) -> np.ndarray:
    return share_of_sums(harmful, harmless) if statistic == "between_class_share" else bhattacharyya_of_sums(harmful, harmless)


def on_components(
    scores: Float[np.ndarray, "prompt component"], without: Sequence[Float[np.ndarray, "prompt component"]], group: Group, statistics: Sequence[str]
) -> Iterator[tuple[str, Found]]:
    """Measure the statistics that live on principal components.

    Parameters
    ----------
    scores : array (prompt, component)
        Coordinates of one language's prompts.
    without : sequence of array
        Coordinates of the prompts left, without each group of units in turn.
    """
    if not scores.shape[1]:
        yield from ((statistic, _nothing(group)) for statistic in statistics)
        return
    harmful = group.harmful
    parts = [_values(scores, harmful, statistics)]
    parts += [_values(left, harmful[group.groups != g], statistics) for g, left in enumerate(without)]
    x = standardised(scores)
    features, distances = moments(x), euclidean(x) if "silhouette" in statistics else x
    drawn = group.draws @ features
    for statistic in statistics:
        if statistic == "silhouette":
            measured, null = np.array([part["silhouette"] for part in parts]), two_class_silhouettes(distances, group.draws)
        else:
            sums = [np.array([part[c] for part in parts]) for c in ("harmful", "harmless")]
            measured, null = _of_sums(statistic, *sums), _of_sums(statistic, drawn, features.sum(axis=0) - drawn)
        value, n = float(measured[0]), len(harmful)
        (low, high), influence = separation_interval(statistic, value, measured[1:])
        exact = statistic == "between_class_share" and len(group.names) == n
        average = 1 / (n - 1) if exact else float(null.mean()) if len(null) else _NAN
        null_95 = float(max_quantile(null)) if len(null) else _NAN
        yield statistic, Found(value, low, high, average, null_95, spread_over_units(influence, group.groups, group.units))


def on_full_state(states: Float[np.ndarray, "prompt component"], group: Group) -> Found:
    """Measure the probe on states in their row space."""
    if group.folds is None or not states.shape[1]:
        return _nothing(group)
    found = probe_auroc(states, group.harmful, group.units, group.folds)
    null = permuted_probe_aurocs(states, group.fold_draws, group.folds)
    low, high = probe_interval(found.auroc, null, int(group.harmful.sum()), int((~group.harmful).sum()))
    return Found(found.auroc, low, high, 0.5, float(max_quantile(null)) if len(group.draws) else _NAN, found.influence)


class Cell(NamedTuple):
    """One row of the result before it is labelled with its layer and position."""

    model: str
    basis: str
    group: Group
    statistic: str
    n_components: int
    found: Found


def cells_of(
    models: dict[str, Float[np.ndarray, "prompt hidden"]], groups: Sequence[Group], n_components: int, statistics: Sequence[str], bases: Sequence[str]
) -> Iterator[Cell]:
    """Measure all languages of all models at one layer and position, in each basis."""
    on_axes = [s for s in statistics if s != "probe_auroc"]
    probed = "probe_auroc" in statistics and "own" in bases
    common = _Common(list(models.values()), groups, n_components) if "common" in bases and on_axes else None
    for number, (model, states) in enumerate(models.items()):
        for group in groups:
            here = states[group.rows]
            constant, left = all_one_state(here), [group.groups != g for g in range(int(group.groups.max()) + 1)]
            if common is not None:
                scores = here[:, :0] if constant else common.scores[number][group.rows]
                refitted = [scores[kept] @ common.axes(g) for g, kept in enumerate(left)] if scores.shape[1] else []
                scores = scores[:, :n_components]
                for statistic, found in on_components(scores, refitted, group, on_axes):
                    yield Cell(model, "common", group, statistic, scores.shape[1], found)
            if "own" in bases:
                full = here[:, :0] if constant else row_space(here)
                scores = full[:, :n_components]
                refitted = [full[kept] @ axes_without(full, ~kept, n_components) for kept in left] if on_axes and not constant else []
                for statistic, found in on_components(scores, refitted, group, on_axes):
                    yield Cell(model, "own", group, statistic, scores.shape[1], found)
            if probed:
                yield Cell(model, "own", group, "probe_auroc", full.shape[1], on_full_state(full, group))


class _Common:
    """Coordinates of all models on their leading common axes, and those axes fitted anew without each group of units."""

    def __init__(self, models: Sequence[np.ndarray], groups: Sequence[Group], n: int) -> None:
        self.scores, self.n = common_components(models, n + _SPARE)[0], n
        self._pooled, self._fitted = np.concatenate(self.scores), dict[int, np.ndarray]()
        self._model = np.repeat(np.arange(len(models)), [len(scores) for scores in self.scores])
        group_of = np.full(len(self.scores[0]), -1)
        for group in groups:
            group_of[group.rows] = group.groups
        self._group = np.tile(group_of, len(models))

    def axes(self, left_out: int) -> np.ndarray:
        """Return the axes without a group, which leaves all languages and both models at once."""
        if left_out not in self._fitted:
            self._fitted[left_out] = axes_without(self._pooled, self._group == left_out, self.n, centred_together=self._model)
        return self._fitted[left_out]
