"""Do the methods find the same direction?

Every method is run anew without each group of meanings (jackknife) and on halves of the meanings (reliability), because only
differences in means follow from sums. That costs some fifty fits per method and place: name the layers that matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from workbench.directions.compare import POOLED, DirectionCosines, random_cosine_95, spearman_brown, z_interval
from workbench.directions.contrast import Classes, Contrast, classes_of
from workbench.directions.extract import METHODS, Sample, find_unit, require_method, sample_of
from workbench.directions.grouped import Parts, groups_of_units
from workbench.directions.paired import Pairs, pairs_of
from workbench.errors import DataError
from workbench.geometry.cells import each_layer, positions_of, provenance_of
from workbench.geometry.matching import units_of
from workbench.statistics import max_quantile


class _Fits(NamedTuple):
    """Unit vectors of one method: on all groups and then without each, on halves, and under permuted labels."""

    whole: Float[np.ndarray, "left hidden"]
    halves: Float[np.ndarray, "halving 2 hidden"]
    permuted: Float[np.ndarray, "draw hidden"]


def compare_methods(
    acts: xr.Dataset,
    languages: Sequence[str],
    *,
    methods: Sequence[str] = tuple(METHODS),
    contrast: Contrast | str = "harm",
    split: str | None = "fit",
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    halvings: int = 5,
    draws: int = 20,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> DirectionCosines:
    """Measure the cosines between the directions of every two methods, languages pooled, per layer and position.

    Parameters
    ----------
    methods : sequence of str
        Two or more of ``METHODS``.
    halvings, draws : int
        Halvings for the reliability, and draws of permuted labels; each is a fit per method (two per halving).

    Returns
    -------
    DirectionCosines
        ``across="methods"``. Both methods saw the same prompts, so ``apart`` and ``disattenuated`` are left open; the ceiling is
        that of two sets of prompts. ``permuted_same_95`` relabels the same meanings in both, ``permuted_95`` is not defined: two
        methods on the same prompts have their noise in common.

    Raises
    ------
    DataError
        Unknown or fewer than two methods, and whatever :func:`extract_directions` refuses.
    """
    wanted, tags = list(dict.fromkeys(methods)), list(dict.fromkeys(languages))
    for method in wanted:
        require_method(method)
    if halvings < 1 or draws < 2:
        raise DataError(f"halvings={halvings}, draws={draws}: expected at least 1 and 2.")
    if len(wanted) < 2:
        raise DataError(f"Only {wanted} to compare. Expected two methods or more of {list(METHODS)}.")
    rng, classes = rng or np.random.default_rng(0), classes_of(acts, tags, contrast, split)
    units = units_of(acts)[classes.rows]
    groups = groups_of_units(units, classes.positive, np.full(len(units), POOLED), rng)
    parts, seed = Parts.drawn(int(groups.max()) + 1, halvings, draws, rng), int(rng.integers(2**63))
    # pairs stay within a group, so that leaving one out or halving breaks none
    inside = classes.labels.assign(language=[f"{tag} {group}" for tag, group in zip(classes.labels["language"], groups, strict=True)])
    pairs = pairs_of(inside, classes.positive, rng, acts["pair_id"].values[classes.rows] if "pair_id" in acts.coords else None)
    limits = {"random_95": random_cosine_95(acts.sizes["hidden"]), "n": len(np.unique(units))}
    rows = []
    for layer, position, states in each_layer(acts, classes.rows, layers=layers, positions=positions_of(acts, positions)):
        fits = {m: _fits(m, states, classes, tags, groups, parts, pairs, seed) for m in wanted}
        told = {"contrast": classes.recorded["contrast"], "language": POOLED, "tier": None, "position": position, "layer": layer}
        both = {**told, **{f"other_{name}": value for name, value in told.items()}}
        for one, other in itertools.combinations(wanted, 2):
            rows.append({"across": "methods", **both, "method": one, "other_method": other, **limits, **_pair(fits[one], fits[other], confidence)})
    options = {"languages": tags, "split": split, "halvings": halvings, "draws": draws, "confidence": confidence, **classes.recorded}
    options |= {"interval": f"jackknife over {parts.kept.shape[1]} groups of meanings, every method fitted anew"}
    return DirectionCosines(pd.DataFrame(rows)[list(DirectionCosines.required)], provenance_of(acts, **options))


def _fits(method: str, states: np.ndarray, classes: Classes, tags: list[str], groups: np.ndarray, parts: Parts, pairs: Pairs, seed: int) -> _Fits:
    spoken, true = classes.labels["language"].to_numpy(), classes.positive

    def fit(kept: np.ndarray) -> np.ndarray:
        return find_unit(method, states[kept], Sample(true[kept], spoken[kept], tags, _inside(pairs, kept)))

    def relabelled(positive: np.ndarray) -> np.ndarray:
        # pairs belong to the true labels, so others are drawn
        return find_unit(method, states, sample_of(classes.labels, positive, tags, method, np.random.default_rng(seed), None))

    whole = [fit(part[groups]) for part in parts.kept]
    halves = [[fit(part[groups]), fit(~part[groups])] for part in parts.halves]
    drawn = [relabelled(np.where(true, draw[0][groups], draw[1][groups])) for draw in parts.relabelled]
    return _Fits(np.stack(whole), np.array(halves), np.array(drawn))


def _inside(pairs: Pairs, kept: np.ndarray) -> Pairs:
    """Return the pairs of which both members are kept, numbered among the kept rows."""
    whole, number = kept[pairs.positive] & kept[pairs.negative], np.cumsum(kept) - 1
    return Pairs(number[pairs.positive[whole]], number[pairs.negative[whole]], pairs.drawn)


def _pair(one: _Fits, other: _Fits, confidence: float) -> dict[str, Any]:
    nan = float("nan")
    empty = dict.fromkeys(("value", "low", "high", "apart", "disattenuated", "disattenuated_low", "disattenuated_high", "permuted_95"), nan)
    if not (one.whole[0].any() and other.whole[0].any()):
        nothing = dict.fromkeys(("reliability", "other_reliability", "ceiling", "permuted_same_95"), nan)
        return {**empty, **nothing, "reason": "no difference between the classes"}
    values = (one.whole * other.whole).sum(axis=1)
    low, high = z_interval(values, confidence)
    reliability = [float(spearman_brown((fits.halves[:, 0] * fits.halves[:, 1]).sum(axis=1).mean())) for fits in (one, other)]
    return {
        **empty,
        "value": float(values[0]),
        "low": low,
        "high": high,
        "reason": "both methods saw the same prompts",
        "reliability": reliability[0],
        "other_reliability": reliability[1],
        "ceiling": float(np.sqrt(reliability[0] * reliability[1])),
        "permuted_same_95": float(max_quantile(np.abs((one.permuted * other.permuted).sum(axis=1)))),
    }
