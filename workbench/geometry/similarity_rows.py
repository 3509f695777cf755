"""What every similarity result does with measured pairs: average them, give them an interval, a null and a provenance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import Cells, provenance_of
from workbench.geometry.pairs import DISTANCES, FITTED, FOLDS, SHARES, STATISTICS, SUBSETS, Draws, Measured
from workbench.geometry.retrieval import proportion_interval
from workbench.geometry.subspaces import subset_interval
from workbench.statistics import jackknife_influence, jackknife_interval, max_quantile

_RANGES = {"adjusted_cosine": (-2.0, 2.0), "cka": (-1.0, 1.0), "procrustes": (0.0, np.inf), "principal_angle": (0.0, 90.0)}


def check_statistics(statistics: Sequence[str], permutations: int) -> None:
    """Refuse unknown statistics and a negative number of draws."""
    for statistic in statistics:
        if statistic not in STATISTICS:
            raise DataError(f"Unknown statistic {statistic!r}; expected any of {list(STATISTICS)}.{did_you_mean(statistic, STATISTICS)}")
    if not statistics or permutations < 0:
        raise DataError(f"Got {len(statistics)} statistics and {permutations} permutations. Expected at least one statistic and 0 or more draws.")


def draws_for(acts: xr.Dataset, cells: Cells, n_components: int, permutations: int, rng: np.random.Generator) -> Draws:
    """Draw folds, subsets, permutations and random subspaces for a grid."""
    if n_components < 1:
        raise DataError(f"n_components={n_components}: expected at least 1; the default is 10.")
    return Draws.of(cells.rows.shape[1], n_components, permutations, acts.sizes["layer"], acts.sizes["hidden"], rng)


def averaged(found: dict[tuple[str, int, int], Measured], statistic: str, pairs: Iterable[tuple[int, int]], draws: Draws) -> Measured:
    """Average a statistic over pairs; undefined if any pair is, since the mean over fewer is another quantity."""
    every = [found.get((statistic, a, b)) for a, b in pairs]
    defined = [one for one in every if one is not None]
    if not defined or len(defined) < len(every):
        return Measured(np.nan, np.full(len(draws.folds), np.nan), np.full(len(draws.shuffles), np.nan), np.nan)
    value, chance, ceiling = (float(np.mean([getattr(one, name) for one in defined])) for name in ("value", "chance", "ceiling"))
    return Measured(value, np.mean([one.without for one in defined], axis=0), np.mean([one.null for one in defined], axis=0), chance, ceiling)


def row_of(statistic: str, one: Measured, cells: Cells) -> dict[str, Any]:
    """Return a statistic with its interval as the fields of a table row."""
    n = cells.rows.shape[1]
    if statistic in SHARES:
        low, high = proportion_interval(one.value, one.without)
    else:
        if statistic in FITTED:
            low, high = subset_interval(one.value, one.without, n, n // 3)
        else:
            low, high = (float(v) for v in jackknife_interval(one.value, jackknife_influence(np.asarray(one.value), one.without)))
        least, most = _RANGES[statistic]
        low, high = np.maximum(low, least), np.minimum(high, most)  # NaN stays NaN
    return {
        "statistic": statistic,
        "value": one.value,
        "low": low,
        "high": high,
        "n": n,
        "chance": one.chance,
        "ceiling": one.ceiling,
    }


def nearer(statistic: str, best: np.ndarray | None, null: np.ndarray) -> np.ndarray:
    """Keep the more similar of two sets of null draws, draw by draw; undefined layers do not count."""
    if best is None:
        return null
    return np.fmin(best, null) if statistic in DISTANCES else np.fmax(best, null)


def extreme(statistic: str, null: np.ndarray, draws: Draws) -> float:
    """Return what 5 % of the null draws reach."""
    if not len(draws.shuffles):
        return float("nan")
    if statistic == "principal_angle":
        null = draws.angles.min(axis=1)
    return -float(max_quantile(-null)) if statistic in DISTANCES else float(max_quantile(null))


def provenance_with(
    acts: xr.Dataset, cells: Cells, split: str | None, permutations: int, draws: Draws, statistics: Sequence[str], **more: Any
) -> dict[str, Any]:
    """Return the provenance that all similarity results share."""
    n = cells.rows.shape[1]
    return provenance_of(
        acts,
        split=split,
        languages=cells.languages,
        statistics=list(statistics),
        n_meanings=n,
        permutations=permutations,
        n_components=draws.n_components,
        folds=FOLDS,
        interval=f"jackknife over meanings; procrustes and principal_angle: a third left out, {SUBSETS} times",
        null="permuted translations, best layer; principal_angle: random subspaces",
        too_few_meanings={s: f"needs {STATISTICS[s]}" for s in statistics if n < STATISTICS[s]},
        **more,
    )
