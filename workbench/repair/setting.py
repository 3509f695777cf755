"""What gates are fitted on, shown and scored on: the rows of every method at the place where it reads, and the same examples for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool

from workbench.errors import DataError
from workbench.gates import GateData, gate_data
from workbench.prompts.grid import PromptGrid
from workbench.repair.contestants import READERS, Contestant
from workbench.repair.methods import Draws, decisions, draw_examples
from workbench.repair.place import ReadingPlaces, reading_place
from workbench.results import Result


@dataclass(frozen=True, eq=False)
class GateSetting:
    """Rows at one place.

    Attributes
    ----------
    source : GateData
        Fit split of the reference languages.
    pool : GateData
        Fit split of the target languages, from which examples are drawn.
    select, score : GateData
        Those splits of all languages, in the order of the grid.
    targets : list of str
    examples : Draws
    """

    source: GateData
    pool: GateData
    select: GateData
    score: GateData
    targets: list[str]
    examples: Draws

    def decide(self, one: Contestant, rows: GateData) -> Bool[np.ndarray, "draw prompt"]:
        """Let a method decide every row in every draw; a rule that needs no labels gets the pool, unlabelled, once."""
        if one.policy is None or one.policy.needs_labels:
            return decisions(one.gate, rows, self.examples, policy=one.policy)
        seen = {tag: self.pool.select(languages=tag) for tag in self.targets}
        return decisions(one.gate, rows, Draws(0, [seen]), policy=one.policy)

    def no_examples(self) -> Draws:
        """Return one draw without examples: a language never seen gets the source languages' threshold."""
        return Draws(0, [{tag: self.pool.select(languages=tag).take(np.empty(0, dtype=int)) for tag in self.targets}])


def gate_setting(
    acts: xr.Dataset, grid: PromptGrid, layer: int, position: str, *, reference: Sequence[str], k: int = 4, draws: int = 20, seed: int = 0
) -> GateSetting:
    """Read the states at one place and draw the examples; the same seed draws the same meanings at any place.

    Parameters
    ----------
    acts : Dataset
        Activations of (at least) the grid.
    grid : PromptGrid
        With splits; all languages that are not in ``reference`` are targets.

    Raises
    ------
    DataError
        No target language, or fewer than k examples in one.
    """
    targets = [tag for tag in grid.languages if tag not in set(reference)]
    if not targets:
        raise DataError(f"All languages ({', '.join(grid.languages)}) are reference languages. Expected others to repair; pass reference=[...].")
    if k < 1:
        raise DataError(f"k={k}. Expected at least one harmful and one harmless example per language; what none gives is among the rows anyway.")
    fit = gate_data(acts, layer, position, split="fit")
    select, score = (_as_in(grid, gate_data(acts, layer, position, split=split), split) for split in ("select", "score"))
    pool = fit.select(languages=targets)
    examples = draw_examples(pool, targets, k, draws, seed=seed)
    return GateSetting(fit.select(languages=list(reference)), pool, select, score, targets, examples)


def _as_in(grid: PromptGrid, data: GateData, split: str) -> GateData:
    return data.take(pd.Index(data.prompt_id).get_indexer(grid.select(split=split).frame["prompt_id"]))


@dataclass(frozen=True, eq=False)
class GateSettings:
    """A setting for each reader, at its own place.

    Attributes
    ----------
    by : mapping of reader to GateSetting
    places : Result
        ``reader, layer, position, balanced_accuracy, separation, chosen``: how each place was chosen.
    """

    by: Mapping[str, GateSetting]
    places: Result

    @property
    def ours(self) -> GateSetting:
        """The rows that our gate reads."""
        return self.by["gate"]

    @property
    def sources(self) -> dict[str, GateData]:
        """What each reader is fitted on."""
        return {name: one.source for name, one in self.by.items()}


def gate_settings(
    acts: xr.Dataset, grid: PromptGrid, *, reference: Sequence[str], deepest: int, k: int = 4, draws: int = 20, seed: int = 0
) -> GateSettings:
    """Choose where each method reads, on source languages alone, and read the states there.

    Parameters
    ----------
    deepest : int
        Layer of the push: a route decides at that layer or before.
    """
    layers = [int(layer) for layer in acts["layer"].values if 0 < layer <= deepest]
    chosen: dict[str, ReadingPlaces] = {name: reading_place(acts, make, reference, layers=layers) for name, make in READERS.items()}
    at: dict[tuple[int, str], GateSetting] = {}
    for place in chosen.values():
        key = (place.layer, place.position)
        if key not in at:
            at[key] = gate_setting(acts, grid, *key, reference=reference, k=k, draws=draws, seed=seed)
    tables = [place.table.assign(reader=name) for name, place in chosen.items()]
    told = {"source": list(reference), "deepest": deepest, "readers": {name: place.provenance for name, place in chosen.items()}}
    return GateSettings({name: at[place.layer, place.position] for name, place in chosen.items()}, Result(pd.concat(tables, ignore_index=True), told))


__all__ = ["GateSetting", "GateSettings", "gate_setting", "gate_settings"]
