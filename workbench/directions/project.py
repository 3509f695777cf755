"""How far each prompt lies along a direction, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from workbench.directions.direction import Directions
from workbench.errors import DataError
from workbench.geometry.cells import ALONG_PROMPT, each_layer, labels_of
from workbench.results import Result


def project(acts: xr.Dataset, directions: Directions, *, other_model: bool = False) -> xr.DataArray:
    """Return how far each prompt lies along the direction of its layer and position, in units of the residual stream.

    Parameters
    ----------
    acts : Dataset
        Activations; one layer is read at a time.
    other_model : bool
        Allow directions of another model (for example before and after alignment).

    Returns
    -------
    DataArray (prompt, layer, position)
        With the labels of the prompts as coordinates.

    Raises
    ------
    DataError
        Directions of another model, or of layers and positions that were not captured.
    """
    mine, theirs = acts.attrs.get("fingerprint"), directions.metadata.get("fingerprint")
    if mine != theirs and not other_model:
        raise DataError(
            f"The directions come from model {theirs!r}, the activations from {mine!r}. Expected the same model; "
            "pass other_model=True if the difference is the point."
        )
    layers, positions = [int(k) for k in directions.unit["layer"].values], [str(p) for p in directions.unit["position"].values]
    found = np.empty((acts.sizes["prompt"], len(layers), len(positions)))
    for layer, position, states in each_layer(acts, np.arange(acts.sizes["prompt"]), positions=positions, layers=layers):
        k, p = layers.index(layer), positions.index(position)
        found[:, k, p] = states @ directions.unit.values[k, p]
    coords = {name: acts[name] for name in ("prompt", *ALONG_PROMPT) if name in acts.coords}
    attrs = {**acts.attrs, "direction_languages": directions.metadata.get("languages", []), "direction_split": directions.metadata.get("split")}
    return xr.DataArray(
        found, dims=("prompt", "layer", "position"), coords={**coords, "layer": layers, "position": positions}, name="projection", attrs=attrs
    )


@dataclass(frozen=True)
class Projections(Result):
    """One row per prompt, layer and position: prompt_id, position, layer, language, tier, harmful, split, projection."""

    required: ClassVar[tuple[str, ...]] = ("prompt_id", "position", "layer", "language", "tier", "harmful", "split", "projection")


def projections(scores: xr.DataArray, layers: dict[str, int] | None = None) -> Projections:
    """Lay projections out as a tidy table, for all layers or for one layer per position.

    Parameters
    ----------
    scores : DataArray (prompt, layer, position)
        From :func:`project`.
    layers : dict, optional
        Position -> layer to keep.
    """
    labels = labels_of(scores)[["prompt_id", "language", "tier", "harmful", "split"]]
    tables = []
    for position in (str(p) for p in scores["position"].values):
        for layer in [layers[position]] if layers is not None else [int(k) for k in scores["layer"].values]:
            values = scores.sel(layer=layer, position=position).values
            tables.append(labels.assign(position=position, layer=layer, projection=values))
    columns = ["prompt_id", "position", "layer", "language", "tier", "harmful", "split", "projection"]
    return Projections(pd.concat(tables, ignore_index=True)[columns], {str(k): v for k, v in scores.attrs.items()})
