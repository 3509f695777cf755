"""How alike are two directions, as far as the prompts allow to say?

A cosine of two estimated directions is pulled towards zero by the noise of both, and pushed up where both were estimated on the
same meanings: what those meanings have in common beside the contrast is then in both. So beside each cosine stand

* ``reliability``: the cosine between two halves of the meanings, mean over seeded halvings, stepped up to all meanings by the
  Spearman-Brown formula 2r / (1 + r); ``ceiling``, the root of the two reliabilities' product, is what two equal directions
  would show if their noise were unrelated;
* ``apart``: the cosine between halves that share no meaning, and ``disattenuated``: the same divided by the root of the two
  half reliabilities, which estimates the cosine of the directions that ever more prompts would give;
* controls: random directions, and directions from permuted labels, drawn for each side (``permuted_95``) or the same meanings
  relabelled on both (``permuted_same_95``).

Intervals: jackknife over at most twenty groups of meanings (pairs of twins stay together), on Fisher's z for cosines and
reliabilities. They say what other meanings of the same kind would give at this number of them, not what other languages would.

Source of the correction: Spearman 1904, Am. J. Psychol. 15:72; its use on vectors, with halves kept apart, is ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.stats import beta

from workbench.directions.contrast import Classes, Contrast, as_contrast, classes_of
from workbench.directions.grouped import Design, Item, Parts, cells_of_rows, cosines, groups_of_units
from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import each_layer, labels_of, positions_of, provenance_of, tiers_of
from workbench.geometry.matching import units_of
from workbench.results import Result
from workbench.statistics import jackknife_influence, jackknife_interval, max_quantile

ACROSS = ("languages", "layers", "positions")
LEAST_RELIABLE = 0.5
POOLED = "pooled"
SIDE = ("contrast", "method", "language", "tier", "position", "layer")


@dataclass(frozen=True)
class DirectionCosines(Result):
    """Cosines of directions, one row per pair of them.

    The first direction is told by contrast, method, language ("pooled" for all together), tier, position and layer, the second by
    the same names with ``other_`` before. value, low, high: the cosine (-1 to 1) and its interval. apart, disattenuated (with _low
    and _high), ``reason`` (why there is none), reliability, other_reliability, ceiling: see the module. random_95, permuted_95,
    permuted_same_95: what 5 % of the controls' absolute cosines exceed. n: meanings.
    """

    required: ClassVar[tuple[str, ...]] = (
        "across",
        *SIDE,
        *(f"other_{name}" for name in SIDE),
        "value",
        "low",
        "high",
        "apart",
        "disattenuated",
        "disattenuated_low",
        "disattenuated_high",
        "reason",
        "reliability",
        "other_reliability",
        "ceiling",
        "random_95",
        "permuted_95",
        "permuted_same_95",
        "n",
    )

    def summary(self) -> pd.DataFrame:
        """Return the mean cosine, its range and the controls, per place (and per position where layers are compared)."""
        by = ["across", "position"] if (self.table["across"] == "layers").all() else ["across", "position", "layer"]
        groups = self.table.groupby(by, sort=False)
        return groups.agg(
            mean=("value", "mean"),
            lowest=("value", "min"),
            highest=("value", "max"),
            reliability=("reliability", "mean"),
            permuted_95=("permuted_95", "max"),
            random_95=("random_95", "max"),
            pairs=("value", "size"),
        ).reset_index()


class _Set(NamedTuple):
    """Rows that give one direction per place, and what they are called."""

    told: dict[str, Any]
    rows: np.ndarray
    cells: np.ndarray
    design: Design


def compare_directions(
    acts: xr.Dataset,
    languages: Sequence[str],
    *,
    across: str = "languages",
    contrast: Contrast | str | Sequence[Contrast | str] = "harm",
    split: str | None = "fit",
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    halvings: int = 30,
    draws: int = 200,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> DirectionCosines:
    """Measure the cosines of differences in means, with reliabilities, intervals and controls.

    Parameters
    ----------
    acts : Dataset
        Activations (prompt, layer, position, hidden); one layer is read at a time.
    languages : sequence of str
        Compared with each other, or pooled.
    across : {"languages", "layers", "positions"}
        "languages": every two languages, at each layer and position. "layers": every two layers, languages pooled. "positions": every
        two of (contrast, position), languages pooled, at each layer: with ``contrast=["harm", Contrast("refusal", outcomes)]`` this
        holds harm at t_inst against refusal at t_post_inst. Methods: :func:`workbench.directions.compare_methods`.
    contrast : Contrast, str or sequence
        Several only for ``across="positions"``.
    split : str or None
        Meanings used. Halves and controls are made of these.
    halvings, draws : int
        Halvings of the meanings, and draws of permuted labels.

    Returns
    -------
    DirectionCosines
        NaN where a direction is undefined (one constant state).

    Raises
    ------
    DataError
        Unknown names, fewer than two directions to compare, a language with fewer than four meanings of a class.

    References
    ----------
    Cosines between languages' refusal directions by layer: Wang et al. 2025, arXiv:2505.17306; harm and refusal at two positions:
    Zhao et al. 2025, arXiv:2507.11878.
    """
    if across not in ACROSS:
        raise DataError(f"Unknown comparison {across!r}; expected one of {list(ACROSS)}.{did_you_mean(across, ACROSS)}")
    contrasts = [as_contrast(c) for c in ([contrast] if isinstance(contrast, str | Contrast) else contrast)]
    if not contrasts or (len(contrasts) > 1 and across != "positions"):
        raise DataError(f"{len(contrasts)} contrasts for across={across!r}. Expected one; across='positions' takes several.")
    if halvings < 1 or draws < 2:
        raise DataError(f"halvings={halvings}, draws={draws}: expected at least 1 and 2.")
    rng, deep = rng or np.random.default_rng(0), [int(k) for k in (acts["layer"].values if layers is None else layers)]
    wide, tags = positions_of(acts, positions), list(dict.fromkeys(languages))
    classes = [classes_of(acts, tags, c, split) for c in contrasts]
    sets, parts, n = _sets(acts, classes, tags, across == "languages", halvings, draws, rng)
    sizes = {"languages": len(sets), "layers": len(deep), "positions": len(sets) * len(wide)}
    if sizes[across] < 2:
        raise DataError(f"Only one direction to compare across {across}. Expected two or more; give more {across}.")
    limits = {"random_95": random_cosine_95(acts.sizes["hidden"]), "n": n}
    rows = [
        {
            "across": across,
            **_named(first),
            **_named(second, "other_"),
            **_pair(first[1], second[1], _names(across, first, second), confidence),
            **limits,
        }
        for block in _blocks(_items(acts, sets, deep, wide), across)
        for first, second in itertools.combinations(block, 2)
    ]
    table = pd.DataFrame(rows)[list(DirectionCosines.required)]
    options = {
        "languages": tags,
        "across": across,
        "split": split,
        "halvings": halvings,
        "draws": draws,
        "confidence": confidence,
        "contrasts": [c.recorded for c in classes],
        "interval": f"jackknife over {parts.kept.shape[1]} groups of meanings",
        "reliability": "two halves of the meanings, stepped up by Spearman-Brown",
    }
    return DirectionCosines(table, provenance_of(acts, **options))


def random_cosine_95(hidden: int) -> float:
    """Return what 5 % of the absolute cosines of random directions exceed; their mean is about sqrt(2 / (pi hidden)).

    The square of such a cosine follows Beta(1/2, (hidden - 1)/2).

    Examples
    --------
    >>> round(random_cosine_95(4096), 4)
    0.0306
    """
    if hidden < 2:
        raise DataError(f"A width of {hidden} has no random directions to speak of. Expected at least 2.")
    return float(np.sqrt(beta.ppf(0.95, 0.5, (hidden - 1) / 2)))


def spearman_brown(half: Float[np.ndarray, "*batch"] | float) -> np.ndarray:
    """Return the reliability of all meanings from that of halves, 2r / (1 + r); 0 where halves do not agree at all.

    References
    ----------
    Spearman 1910 and Brown 1910, Brit. J. Psychol. 3:271 and 3:296. For differences in means it holds for cosines: halving the
    meanings doubles the variance of the noise and leaves the direction.
    """
    r = np.maximum(np.asarray(half, dtype=np.float64), 0.0)
    return 2 * r / (1 + r)


def z_interval(values: Float[np.ndarray, " left"], confidence: float) -> tuple[float, float]:
    """Jackknife interval of a cosine on Fisher's z; ``values`` are the cosine on all groups and then without each."""
    z = np.arctanh(np.clip(values, -1 + 1e-12, 1 - 1e-12))
    low, high = jackknife_interval(z[0], jackknife_influence(z[0], z[1:]), confidence)
    return float(np.tanh(low)), float(np.tanh(high))


def _sets(
    acts: xr.Dataset, classes: list[Classes], tags: list[str], each: bool, halvings: int, draws: int, rng: np.random.Generator
) -> tuple[list[_Set], Parts, int]:
    """Deal the meanings to groups and lay out the rows of each direction."""
    tiers, all_units = tiers_of(labels_of(acts)), units_of(acts)
    every = np.unique(np.concatenate([c.rows for c in classes]))
    spoken = acts["language"].values.astype(str)
    group_of = np.full(acts.sizes["prompt"], -1)
    for c in classes:  # each must be large enough; the first deals, later ones add the units it lacks
        who = spoken[c.rows] if each else np.full(len(c.rows), POOLED)
        dealt = groups_of_units(all_units[c.rows], c.positive, who, rng)
        group_of[c.rows] = np.where(group_of[c.rows] >= 0, group_of[c.rows], dealt)
    if len(classes) > 1:
        group_of = _one_group_per_unit(group_of, all_units, every)
    n = int(group_of[every].max()) + 1
    parts = Parts.drawn(n, halvings, draws, rng)
    sets = []
    for c in classes:
        for tag in tags if each else [POOLED]:
            here = spoken[c.rows] == tag if each else np.ones(len(c.rows), dtype=bool)
            cells = cells_of_rows(group_of[c.rows[here]], c.positive[here], n)
            told = {"contrast": c.recorded["contrast"], "method": "difference_in_means", "language": tag, "tier": tiers[tag] if each else None}
            sets.append(_Set(told, c.rows[here], cells, Design.of(cells, parts)))
    return sets, parts, len(np.unique(all_units[every]))


def _one_group_per_unit(group_of: np.ndarray, units: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Give all rows of a unit its first row's group, so that contrasts with different rows still leave out the same meanings."""
    _, first, of_row = np.unique(units[rows], return_index=True, return_inverse=True)
    out = group_of.copy()
    out[rows] = group_of[rows][first][of_row]
    return out


def _items(acts: xr.Dataset, sets: list[_Set], layers: list[int], positions: list[str]) -> Iterator[tuple[dict[str, Any], Item]]:
    union = np.unique(np.concatenate([s.rows for s in sets]))
    places = [np.searchsorted(union, s.rows) for s in sets]
    for layer, position, states in each_layer(acts, union, layers=layers, positions=positions):
        for s, at in zip(sets, places, strict=True):
            yield {**s.told, "position": position, "layer": layer}, Item.of(states[at], s.cells, s.design)


def _blocks(items: Iterator[tuple[dict[str, Any], Item]], across: str) -> Iterator[list[tuple[dict[str, Any], Item]]]:
    """Collect the items that are compared with each other; only a comparison across layers keeps more than one layer."""
    key = {"languages": ("layer", "position"), "positions": ("layer",), "layers": ()}[across]
    for _, block in itertools.groupby(items, key=lambda item: [item[0][name] for name in key]):
        found = list(block)
        if across != "layers":
            yield found
            continue
        for position in dict.fromkeys(told["position"] for told, _ in found):
            yield [item for item in found if item[0]["position"] == position]


def _named(item: tuple[dict[str, Any], Item], before: str = "") -> dict[str, Any]:
    return {before + name: item[0][name] for name in SIDE}


def _names(across: str, *items: tuple[dict[str, Any], Item]) -> list[str]:
    form = {"languages": "{language}", "layers": "layer {layer}", "positions": "{contrast} at {position}"}[across]
    return [form.format(**told) for told, _ in items]


def _pair(one: Item, other: Item, names: list[str], confidence: float) -> dict[str, Any]:
    nan = float("nan")
    if not (one.defined and other.defined):
        nothing = [name for name, item in zip(names, (one, other), strict=True) if not item.defined]
        empty = dict.fromkeys(("value", "low", "high", "apart", "disattenuated", "disattenuated_low", "disattenuated_high"), nan)
        empty |= dict.fromkeys(("reliability", "other_reliability", "ceiling", "permuted_95", "permuted_same_95"), nan)
        return {**empty, "reason": f"no difference between the classes: {', '.join(nothing)}"}
    found = cosines(one, other)
    low, high = z_interval(found.whole, confidence)
    reliability = [float(spearman_brown(item.reliability[0])) for item in (one, other)]
    return {
        "value": float(found.whole[0]),
        "low": low,
        "high": high,
        "apart": float(found.apart[0]),
        "reliability": reliability[0],
        "other_reliability": reliability[1],
        "ceiling": float(np.sqrt(reliability[0] * reliability[1])),
        "permuted_95": float(max_quantile(np.abs(found.permuted))),
        "permuted_same_95": float(max_quantile(np.abs(found.permuted_same))),
        **disattenuated(found.apart, one.reliability, other.reliability, names, confidence),
    }


def disattenuated(
    apart: Float[np.ndarray, " left"],
    mine: Float[np.ndarray, " left"],
    theirs: Float[np.ndarray, " left"],
    names: Sequence[str],
    confidence: float,
) -> Mapping[str, Any]:
    """Divide a cosine between halves by the root of both half reliabilities, where these allow it.

    Parameters
    ----------
    apart, mine, theirs : array (left,)
        Cosine between halves without a common meaning, and the two reliabilities of halves: on all groups, then without each.
    names : two str
        For the reason.

    Returns
    -------
    dict
        disattenuated, disattenuated_low, disattenuated_high (may exceed 1), reason (None where it was done). Not done where a
        reliability of all meanings lies below .50, or its interval reaches 0: the quotient of two small numbers is anything.
    """
    nan = float("nan")
    for name, halves in zip(names, (mine, theirs), strict=True):
        whole, low = float(spearman_brown(halves[0])), z_interval(halves, confidence)[0]
        told = f"the reliability of {name} is {whole:.2f}"
        reason = f"{told}, below {LEAST_RELIABLE:.2f}" if not whole >= LEAST_RELIABLE else f"{told}, but its interval reaches 0" if low <= 0 else None
        if reason or (halves <= 0).any():
            return {"disattenuated": nan, "disattenuated_low": nan, "disattenuated_high": nan, "reason": reason or f"{told}, 0 without some meanings"}
    values = apart / np.sqrt(mine * theirs)
    ends = jackknife_interval(values[0], jackknife_influence(values[0], values[1:]), confidence)
    return {"disattenuated": float(values[0]), "disattenuated_low": float(ends[0]), "disattenuated_high": float(ends[1]), "reason": None}
