"""What else a direction could be: the language itself, or a topic.

A language-identity direction is the mean of a language's harmless states minus the mean over the other languages of theirs. A topic
direction is the mean of one category minus the mean of the rest of the same class, in the same language. A harm direction that lies
along either is not (only) about harm. ``shared`` says how alike a topic's directions are across languages: harm is special only as far
as it is more shared than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from workbench.directions.compare import random_cosine_95, z_interval
from workbench.directions.contrast import Classes, Contrast, classes_of
from workbench.directions.grouped import groups_of_units
from workbench.errors import DataError
from workbench.geometry.cells import each_layer, labels_of, positions_of, provenance_of, tiers_of
from workbench.geometry.matching import units_of
from workbench.results import Result

IDENTITY = "language identity"
FEWEST_IN_TOPIC = 4


@dataclass(frozen=True)
class DirectionControls(Result):
    """Cosine of each language's direction with control directions: position, layer, language, tier, control, value, low, high.

    ``shared``: mean cosine of the control's directions between this language and the others (topics only). random_95: what 5 %
    of random directions exceed. n: meanings behind the control direction.
    """

    required: ClassVar[tuple[str, ...]] = ("position", "layer", "language", "tier", "control", "value", "low", "high", "shared", "random_95", "n")

    def summary(self) -> pd.DataFrame:
        """Return the largest absolute cosine of each control, over languages, per place."""
        groups = self.table.assign(size=self.table["value"].abs()).groupby(["position", "layer", "control"], sort=False)
        return groups.agg(largest=("size", "max"), shared=("shared", "mean"), random_95=("random_95", "max")).reset_index()


class _Weights(NamedTuple):
    """Weights on one language's rows, without any group and then without each: its direction, and each topic's."""

    rows: Int[np.ndarray, " row"]
    contrast: Float[np.ndarray, "left row"]
    negative: Float[np.ndarray, "left row"]
    topics: dict[str, Float[np.ndarray, "left row"]]


def direction_controls(
    acts: xr.Dataset,
    languages: Sequence[str],
    *,
    contrast: Contrast | str = "harm",
    split: str | None = "fit",
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
) -> DirectionControls:
    """Measure the cosine of each language's difference in means with its language-identity and topic directions.

    Parameters
    ----------
    acts : Dataset
        Activations; one layer is read at a time. Topics are the coordinate ``category``, where prompts have one.
    languages : sequence of str
        Two or more: identity is relative to the others.
    contrast : Contrast or "harm"
    split : str or None
        Meanings used.

    Returns
    -------
    DirectionControls
        Intervals by the jackknife over groups of meanings, on Fisher's z. Topics with fewer than four meanings in or beside them are
        left out.

    Raises
    ------
    DataError
        Fewer than two languages, unknown names, a language with fewer than four meanings of a class.
    """
    tags = list(dict.fromkeys(languages))
    if len(tags) < 2:
        raise DataError(f"Language identity needs two languages or more; got {tags}. Expected more; give all languages that were captured.")
    classes = classes_of(acts, tags, contrast, split)
    weights = _weights(acts, classes, tags, rng or np.random.default_rng(0))
    counts = {tag: {name: int((w.topics[name][0] > 0).sum()) for name in w.topics} for tag, w in weights.items()}
    tiers, rows = tiers_of(labels_of(acts)), []
    limit = random_cosine_95(acts.sizes["hidden"])
    for layer, position, states in each_layer(acts, classes.rows, layers=layers, positions=positions_of(acts, positions)):
        for tag, control, values, shared in _compared(states, weights):
            low, high = z_interval(values, confidence) if np.isfinite(values).all() else (float("nan"), float("nan"))
            n = int((weights[tag].negative[0] > 0).sum()) if control == IDENTITY else counts[tag][control]
            row = {"position": position, "layer": layer, "language": tag, "tier": tiers[tag], "control": control}
            rows.append(row | {"value": float(values[0]), "low": low, "high": high, "shared": shared, "random_95": limit, "n": n})
    options = {"languages": tags, "split": split, "confidence": confidence, **classes.recorded, "interval": "jackknife over groups of meanings"}
    return DirectionControls(pd.DataFrame(rows)[list(DirectionControls.required)], provenance_of(acts, **options))


def _weights(acts: xr.Dataset, classes: Classes, tags: list[str], rng: np.random.Generator) -> dict[str, _Weights]:
    spoken = classes.labels["language"].to_numpy()
    group_of = groups_of_units(units_of(acts)[classes.rows], classes.positive, spoken, rng)
    kept = np.concatenate([[np.full(len(group_of), True)], [group_of != g for g in range(group_of.max() + 1)]])
    found = {}
    for tag in tags:
        rows = np.flatnonzero(spoken == tag)
        positive, here, category = classes.positive[rows], kept[:, rows], classes.labels["category"].to_numpy()[rows]
        negative = _share(here & ~positive)
        found[tag] = _Weights(rows, _share(here & positive) - negative, negative, dict(_topics(category, positive, here)))
    return found


def _topics(category: np.ndarray, positive: Bool[np.ndarray, " row"], kept: Bool[np.ndarray, "left row"]) -> Iterator[tuple[str, np.ndarray]]:
    for name in sorted({str(c) for c in category if c is not None}):
        for side in (True, False):
            inside = np.array([c is not None and str(c) == name for c in category]) & (positive == side)
            beside = ~inside & (positive == side)
            if min(inside.sum(), beside.sum()) >= FEWEST_IN_TOPIC:
                told = (
                    name
                    if not (inside.any() and ((positive != side) & (category == name)).any())
                    else f"{name}, {'positive' if side else 'negative'}"
                )
                yield f"topic: {told}", _share(kept & inside) - _share(kept & beside)


def _share(used: Bool[np.ndarray, "left row"]) -> Float[np.ndarray, "left row"]:
    total = used.sum(axis=1, keepdims=True)
    return np.divide(used, total, out=np.full(used.shape, np.nan), where=total > 0)


def _compared(states: np.ndarray, weights: dict[str, _Weights]) -> Iterator[tuple[str, str, np.ndarray, float]]:
    """Yield language, control, cosine (on all groups, then without each), and how shared the control is."""
    states = states - states.mean(axis=0)
    size = float(np.sqrt((states**2).sum(axis=1).mean()))
    found = {tag: w.contrast @ states[w.rows] for tag, w in weights.items()}
    centres = {tag: w.negative @ states[w.rows] for tag, w in weights.items()}
    topics = {tag: {name: v @ states[w.rows] for name, v in w.topics.items()} for tag, w in weights.items()}
    everywhere = np.sum(list(centres.values()), axis=0)
    for tag, own in found.items():
        identity = centres[tag] - (everywhere - centres[tag]) / (len(weights) - 1)
        yield tag, IDENTITY, _cosine(own, identity, size), float("nan")
        for name, vectors in topics[tag].items():
            others = [topics[other][name][0] for other in weights if other != tag and name in topics[other]]
            shared = [_cosine(vectors[:1], other[None], size)[0] for other in others]
            yield tag, name, _cosine(own, vectors, size), float(np.mean(shared)) if shared else float("nan")


def _cosine(one: np.ndarray, other: np.ndarray, size: float) -> np.ndarray:
    """Return cosines row by row; NaN where either is only rounding."""
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    known = (lengths[0] > 1e-7 * size) & (lengths[1] > 1e-7 * size)
    return np.divide((one * other).sum(axis=1), lengths[0] * lengths[1], out=np.full(len(one), np.nan), where=known)
