"""Where harm lies in a run: the reference's direction, the layers it is read at, its nulls, and whether its threshold transfers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from workbench.diagnosis import measure
from workbench.directions import AurocTable, HarmNulls, LayerChoice
from workbench.directions.transfer import NEARLY_BEST
from workbench.runs.asked import Asked
from workbench.runs.folder import Run

#: A decision is compared with its threshold before this share of the depth: deeper, a state is already the reply (as in the choice of a direction).
DEPTH = 0.8


@dataclass(frozen=True, eq=False)
class Harm:
    """What was read.

    Attributes
    ----------
    layers : dict
        Position -> layer, chosen on the reference languages' select rows.
    scores : DataArray (prompt, layer, position)
        Projections on the reference's direction.
    auroc : AurocTable
    nulls : HarmNulls
    choice : LayerChoice
    represented, both, thresholds : DataFrame
        Tables as saved; ``both`` holds the AUROC of the model before as well.
    """

    layers: dict[str, int]
    scores: xr.DataArray
    auroc: AurocTable
    nulls: HarmNulls
    choice: LayerChoice
    represented: pd.DataFrame
    both: pd.DataFrame
    thresholds: pd.DataFrame

    def deciding_layer(self, position: str, n_layers: int) -> int:
        """Return the layer that the rule of :func:`workbench.directions.choose_layer` chooses before the last fifth of the depth."""
        table = self.choice.table
        part = table[(table["position"] == position) & (table["layer"] < max(DEPTH * n_layers, 1))]
        near = part[part["auroc"] >= part["auroc"].max() - NEARLY_BEST]
        return int(near.loc[near["d_prime"].idxmax(), "layer"])


def measure_harm(run: Run, asked: Asked, acts: xr.Dataset, earlier: xr.Dataset | None, untrained: Sequence[xr.Dataset], seed: int) -> Harm:
    """Measure and save where harm lies, whether the claim survives its nulls, and whether the threshold transfers."""
    from workbench.directions import choose_layer, harm_direction, harm_nulls, harm_represented, project, projections, thresholds, transfer_auroc

    reference = asked.reference
    directions = harm_direction(acts, reference, split="fit")
    directions.save(run.folder / "results" / "harm_direction.safetensors")
    scores = project(acts, directions)
    auroc = transfer_auroc(scores, reference, split="score")
    choice = choose_layer(scores, reference, split="select")
    layers = choice.layers()
    nulls = harm_nulls(acts, reference, untrained=untrained, surface=measure.surface_features(asked.grid, acts), rng=np.random.default_rng(seed))
    represented = harm_represented(auroc, nulls, layers)
    moved = thresholds(scores, reference, layers)
    run.save("layer_choice", choice)
    run.save("nulls", nulls)
    run.save("harm_represented", represented)
    run.save("thresholds", moved)
    run.save("projections", projections(scores, layers))
    tables = [auroc.table.assign(model="after")]
    if earlier is not None:
        own = harm_direction(earlier, reference, split="fit")
        tables.append(transfer_auroc(project(earlier, own), reference, split="score").table.assign(model="before"))
    both = pd.concat(tables, ignore_index=True)
    run.save("auroc", both, auroc.provenance)
    return Harm(layers, scores, auroc, nulls, choice, represented.table, both, moved.table)


def read_at(
    harm: Harm, reference: Sequence[str], represented: Sequence[tuple[str, int]], decided: Sequence[tuple[str, int]]
) -> Mapping[str, pd.DataFrame]:
    """Return the tables that stages are read from: ``represented``, ``calibration`` and ``readings`` (scored prompts), at the places given.

    Parameters
    ----------
    represented, decided : sequence of (position, layer)
        Where the direction's AUROC is read, and where thresholds are compared.
    """
    from workbench.directions import harm_represented, projections, thresholds

    counts = harm.auroc.table[["position", "layer", "language", "n_harmful", "n_harmless"]]
    tables = [harm_represented(harm.auroc, harm.nulls, {position: layer}).table for position, layer in dict.fromkeys(represented)]
    compared = [thresholds(harm.scores, reference, {position: layer}).table for position, layer in dict.fromkeys(decided)]
    scored = harm.scores.isel(prompt=np.flatnonzero(harm.scores["split"].values.astype(str) == "score"))
    read = [projections(scored.sel(position=[position]), {position: layer}).table for position, layer in dict.fromkeys(decided)]
    return {
        "represented": pd.concat(tables, ignore_index=True).merge(counts, on=["position", "layer", "language"], how="left"),
        "calibration": pd.concat(compared, ignore_index=True),
        "readings": pd.concat(read, ignore_index=True),
    }
