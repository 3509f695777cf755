"""A direction that remembers where it is from: model, template, layer, position, rows.

Unit length, positive towards harm, the raw length beside it. Combining vectors of different models or places is
refused. Saved as safetensors with the metadata in the header.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from workbench.errors import DataError, StoreError, writing

_IDENTITY = ("fingerprint", "template", "system")


def site(layer: int) -> str:
    """Return the TransformerLens name of layer k (residual stream after k blocks)."""
    return "embed.hook_out" if layer == 0 else f"blocks.{layer - 1}.hook_out"


@dataclass(frozen=True)
class Direction:
    """One unit vector at one place of one model.

    Parameters
    ----------
    unit : array (hidden,)
        Unit norm, positive towards ``toward``; all zero where harmful and harmless states do not differ.
    norm : float
        Length of the raw difference of means.
    layer : int
        Residual stream after that many blocks.
    position : str
    metadata : dict
        Model, fingerprint, template, languages, counts, split, toward.
    """

    unit: Float[np.ndarray, " hidden"]
    norm: float
    layer: int
    position: str
    metadata: dict[str, Any]

    @property
    def site(self) -> str:
        """TransformerLens hook name of the layer."""
        return site(self.layer)

    def cosine(self, other: Direction) -> float:
        """Return the cosine with another direction of the same model and site.

        Raises
        ------
        DataError
            Another model, template, layer or position.
        """
        self._refuse_unlike(other)
        return float(self.unit @ other.unit)

    def pooled(self, *others: Direction) -> Direction:
        """Return the unit vector of the sum with others of the same model and site."""
        for other in others:
            self._refuse_unlike(other)
        total = np.sum([self.unit, *(other.unit for other in others)], axis=0)
        length = float(np.linalg.norm(total))
        languages = [language for d in (self, *others) for language in d.metadata.get("languages", [])]
        return Direction(
            total / length if length > 0 else total, length, self.layer, self.position, {**self.metadata, "method": "pooled", "languages": languages}
        )

    def _refuse_unlike(self, other: Direction) -> None:
        mine, theirs = ({**{k: d.metadata.get(k) for k in _IDENTITY}, "layer": d.layer, "position": d.position} for d in (self, other))
        unlike = [name for name in mine if mine[name] != theirs[name]]
        if unlike:
            told = ", ".join(f"{name} {mine[name]!r} and {theirs[name]!r}" for name in unlike)
            raise DataError(
                f"These directions come from different places: {told}. Expected the same model and site; extract both from the same activations."
            )


@dataclass(frozen=True)
class Directions:
    """Unit vectors for each layer and position, with their raw norms and where they come from.

    Parameters
    ----------
    unit : DataArray (layer, position, hidden)
    norm : DataArray (layer, position)
        0 where harmful and harmless states do not differ (one constant token); the unit vector is 0 there too.
    metadata : dict
    """

    unit: xr.DataArray
    norm: xr.DataArray
    metadata: dict[str, Any]

    def at(self, layer: int, position: str) -> Direction:
        """Return the direction of one layer and position."""
        layers, positions = [int(k) for k in self.unit["layer"].values], [str(p) for p in self.unit["position"].values]
        if layer not in layers or position not in positions:
            raise DataError(f"No direction at layer {layer}, position {position!r}. Expected one of layers {layers} and positions {positions}.")
        place = {"layer": layer, "position": position}
        return Direction(self.unit.sel(place).values, float(self.norm.sel(place)), layer, position, dict(self.metadata))

    def to_frame(self) -> pd.DataFrame:
        """Return layer, position, norm and TransformerLens site, one row per direction."""
        frame = self.norm.rename("norm").to_dataframe().reset_index()[["layer", "position", "norm"]]
        return frame.assign(site=[site(int(k)) for k in frame["layer"]])

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, border=0)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; metadata travel in its header as JSON. Replaced only when complete."""
        from safetensors.numpy import save

        path = Path(path)
        header = {**self.metadata, "layers": [int(k) for k in self.unit["layer"].values], "positions": [str(p) for p in self.unit["position"].values]}
        draft = path.with_suffix(path.suffix + ".draft")
        tensors = {"unit": np.ascontiguousarray(self.unit.values), "norm": np.ascontiguousarray(self.norm.values)}
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(save(tensors, metadata={"workbench.directions": json.dumps(header, default=str)}))
            draft.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Read what :meth:`save` wrote.

        Raises
        ------
        StoreError
            No such file, or a safetensors file without directions.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.exists():
            raise StoreError(
                f"There are no directions at {path}. Expected a .safetensors file written by Directions.save(); extract them with harm_direction()."
            )
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = (file.metadata() or {}).get("workbench.directions")
                if header is None:
                    raise StoreError(f"{path} holds no directions. Expected a file written by Directions.save().")
                unit, norm = file.get_tensor("unit"), file.get_tensor("norm")
        except SafetensorError as broken:
            raise StoreError(
                f"{path} is not a whole safetensors file ({broken}). Expected one written by Directions.save(); extract the directions again."
            ) from broken
        metadata = json.loads(header)
        return labelled(unit, norm, metadata.pop("layers"), metadata.pop("positions"), metadata)


def labelled(unit: np.ndarray, norm: np.ndarray, layers: list[int], positions: list[str], metadata: dict[str, Any]) -> Directions:
    """Put names on plain arrays (layer, position, hidden) and (layer, position)."""
    coords = {"layer": layers, "position": positions}
    return Directions(
        xr.DataArray(unit, dims=("layer", "position", "hidden"), coords=coords),
        xr.DataArray(norm, dims=("layer", "position"), coords=coords),
        metadata,
    )
