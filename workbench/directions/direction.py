"""A direction that remembers where it is from: model, template, layer, position, rows.

Unit length, positive towards harm or refusal; beside it the class difference along it, the gap that strengths are counted
in, and where the negative class lies. Combining vectors of different models or places is refused. Saved as safetensors
with the metadata in the header.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from workbench.directions import files
from workbench.errors import DataError

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
        Difference of the two class means along the unit vector (for a difference in means: its length). Units of the residual stream.
    layer : int
        Residual stream after that many blocks.
    position : str
    metadata : dict
        Model, fingerprint, template, languages, counts, split, method, ``toward`` ("harmful" or "refusal"), and where known ``gap``
        and ``baseline`` (see :class:`Directions`).
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
        """Return the cosine with another direction of the same model and site; NaN where either is zero.

        Raises
        ------
        DataError
            Another model, template, layer, position or width.
        """
        self._refuse_unlike(other)
        if not (np.any(self.unit) and np.any(other.unit)):
            return float("nan")
        return float(self.unit @ other.unit)

    def pooled(self, *others: Direction) -> Direction:
        """Return the unit vector of the sum with others of the same model and site.

        ``norm`` becomes the mean class difference along it (exact for differences in means); gap and baseline are dropped, since
        they belong to the projections on the single directions.

        Raises
        ------
        DataError
            Another model, template, layer, position, width or ``toward``.
        """
        for other in others:
            self._refuse_unlike(other, "toward")
        parts = (self, *others)
        total = np.sum([d.unit for d in parts], axis=0)
        length = float(np.linalg.norm(total))
        unit = total / length if length > 0 else total
        languages = [language for d in parts for language in d.metadata.get("languages", [])]
        kept = {name: value for name, value in self.metadata.items() if name not in ("gap", "baseline")}
        norm = float(np.mean([d.norm * float(d.unit @ unit) for d in parts]))
        return Direction(unit, norm, self.layer, self.position, {**kept, "method": "pooled", "languages": languages})

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; where the direction is from travels in its header as JSON. Replaced only when complete."""
        header = {"norm": self.norm, "layer": self.layer, "position": self.position, "metadata": self.metadata}
        return files.write(path, {"unit": np.asarray(self.unit)}, "workbench.direction", header)

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """Read what :meth:`save` wrote.

        Raises
        ------
        StoreError
            No such file, or a safetensors file without a direction (``Directions.load`` reads those of all layers).
        """
        tensors, header = files.read(path, "workbench.direction", "direction")
        return cls(tensors["unit"], header["norm"], header["layer"], header["position"], header["metadata"])

    def _refuse_unlike(self, other: Direction, *more: str) -> None:
        mine, theirs = (
            {**{k: d.metadata.get(k) for k in (*_IDENTITY, *more)}, "layer": d.layer, "position": d.position, "width": len(d.unit)}
            for d in (self, other)
        )
        unlike = [name for name in mine if mine[name] != theirs[name]]
        if unlike:
            told = ", ".join(f"{name} {mine[name]!r} and {theirs[name]!r}" for name in unlike)
            raise DataError(
                f"These directions come from different places: {told}. Expected the same model and site; extract both from the same activations."
            )


@dataclass(frozen=True)
class Directions:
    """Unit vectors for each layer and position, with what edits need to know about them and where they come from.

    Parameters
    ----------
    unit : DataArray (layer, position, hidden)
    norm : DataArray (layer, position)
        Mean of the positive class minus mean of the negative class, along the unit vector, so that adding ``norm x unit`` adds one
        class difference whatever the method. 0 where the classes do not differ (one constant token); the unit vector is 0 there too.
    metadata : dict
        ``toward`` says what the positive class is, ``sign`` how the sign was fixed, ``method`` how the vectors were found.
    gap : DataArray (layer, position), optional
        75th percentile of the positive class's training projections minus 25th percentile of the negative class's (linear
        interpolation), the unit of strength of arXiv:2606.01196.
    baseline : DataArray (layer, position), optional
        Mean training projection of the negative class (harmless or accepted): what mean ablation sets the coordinate to.
    """

    unit: xr.DataArray
    norm: xr.DataArray
    metadata: dict[str, Any]
    gap: xr.DataArray | None = None
    baseline: xr.DataArray | None = None

    def at(self, layer: int, position: str) -> Direction:
        """Return the direction of one layer and position; gap and baseline, where known, are in its metadata.

        Raises
        ------
        DataError
            A layer or position without a direction.
        """
        layers, positions = [int(k) for k in self.unit["layer"].values], [str(p) for p in self.unit["position"].values]
        if layer not in layers or position not in positions:
            raise DataError(f"No direction at layer {layer}, position {position!r}. Expected one of layers {layers} and positions {positions}.")
        place = {"layer": layer, "position": position}
        known = {name: float(values.sel(place)) for name, values in self._measured().items()}
        return Direction(self.unit.sel(place).values, float(self.norm.sel(place)), layer, position, {**self.metadata, **known})

    def to_frame(self) -> pd.DataFrame:
        """Return layer, position, norm, gap and baseline (where known) and TransformerLens site, one row per direction."""
        frame = self.norm.rename("norm").to_dataframe().reset_index()[["layer", "position", "norm"]]
        for name, values in self._measured().items():
            frame[name] = values.values.ravel()
        return frame.assign(site=[site(int(k)) for k in frame["layer"]])

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, border=0)

    def _measured(self) -> dict[str, xr.DataArray]:
        return {name: values for name, values in (("gap", self.gap), ("baseline", self.baseline)) if values is not None}

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file; metadata travel in its header as JSON. Replaced only when complete."""
        header = {**self.metadata, "layers": [int(k) for k in self.unit["layer"].values], "positions": [str(p) for p in self.unit["position"].values]}
        tensors = {"unit": self.unit.values, "norm": self.norm.values, **{name: values.values for name, values in self._measured().items()}}
        return files.write(path, tensors, "workbench.directions", header)

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Read what :meth:`save` wrote, also before gaps and baselines were kept (they are None then).

        Raises
        ------
        StoreError
            No such file, or a safetensors file without directions.
        """
        tensors, metadata = files.read(path, "workbench.directions", "directions")
        places = metadata.pop("layers"), metadata.pop("positions")
        return labelled(tensors["unit"], tensors["norm"], *places, metadata, gap=tensors.get("gap"), baseline=tensors.get("baseline"))


def labelled(
    unit: Float[np.ndarray, "layer position hidden"],
    norm: Float[np.ndarray, "layer position"],
    layers: list[int],
    positions: list[str],
    metadata: dict[str, Any],
    *,
    gap: Float[np.ndarray, "layer position"] | None = None,
    baseline: Float[np.ndarray, "layer position"] | None = None,
) -> Directions:
    """Put names on plain arrays."""
    coords = {"layer": layers, "position": positions}

    def place(values: np.ndarray) -> xr.DataArray:
        return xr.DataArray(values, dims=("layer", "position"), coords=coords)

    return Directions(
        xr.DataArray(unit, dims=("layer", "position", "hidden"), coords=coords),
        place(norm),
        metadata,
        gap=None if gap is None else place(gap),
        baseline=None if baseline is None else place(baseline),
    )
