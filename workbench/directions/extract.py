"""The direction that points from harmless to harmful, and how far each prompt lies along it.

At each layer and position: mean state of harmful prompts minus mean state of harmless ones, over the pooled rows of
the high-resource languages (arXiv:2606.01196 pools them; Arditi et al. 2024, arXiv:2406.11717 use one language). The
vector is kept at unit length with its raw norm beside it, and remembers the model, template, layer and rows it is
from: combining vectors of different models or places is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from workbench.errors import DataError, StoreError
from workbench.geometry.cells import ALONG_PROMPT, each_layer, labels_of, positions_of, rows_of
from workbench.results import Result

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
        from safetensors.numpy import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {**self.metadata, "layers": [int(k) for k in self.unit["layer"].values], "positions": [str(p) for p in self.unit["position"].values]}
        draft = path.with_suffix(path.suffix + ".draft")
        tensors = {"unit": np.ascontiguousarray(self.unit.values), "norm": np.ascontiguousarray(self.norm.values)}
        save_file(tensors, str(draft), metadata={"workbench.directions": json.dumps(header, default=str)})
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
        return _labelled(unit, norm, metadata.pop("layers"), metadata.pop("positions"), metadata)


def _labelled(unit: np.ndarray, norm: np.ndarray, layers: list[int], positions: list[str], metadata: dict[str, Any]) -> Directions:
    coords = {"layer": layers, "position": positions}
    return Directions(
        xr.DataArray(unit, dims=("layer", "position", "hidden"), coords=coords),
        xr.DataArray(norm, dims=("layer", "position"), coords=coords),
        metadata,
    )


def difference_in_means(
    states: Float[np.ndarray, "prompt hidden"], harmful: Bool[np.ndarray, " prompt"]
) -> tuple[Float[np.ndarray, " hidden"], float]:
    """Return the unit vector from the mean harmless to the mean harmful state, and the distance.

    A distance that is only rounding (1e-7 of the states' size) counts as none: zero vector, norm 0.

    Examples
    --------
    >>> difference_in_means(np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([False, True]))
    (array([0., 1.]), 2.0)
    """
    harmful = np.asarray(harmful, dtype=bool)
    if harmful.all() or not harmful.any():
        raise DataError(f"All {len(harmful)} prompts carry the same label. Expected harmful and harmless ones.")
    states = np.asarray(states, dtype=np.float64)
    raw = states[harmful].mean(axis=0) - states[~harmful].mean(axis=0)
    norm = float(np.linalg.norm(raw))
    if norm <= 1e-7 * float(np.sqrt((states**2).sum(axis=1).mean())):
        return np.zeros_like(raw), 0.0
    return raw / norm, norm


def harm_direction(acts: xr.Dataset, languages: Sequence[str], *, split: str | None = "fit") -> Directions:
    """Find the harm direction at each layer and position from the pooled prompts of some languages.

    Parameters
    ----------
    acts : Dataset
        Activations (prompt, layer, position, hidden); one layer is read at a time.
    languages : sequence of str
        High-resource languages to pool.
    split : str or None
        Meanings used; None uses all (then nothing is left to score on).

    Returns
    -------
    Directions
        Positive towards harmful.

    Raises
    ------
    DataError
        Unknown language or split, one class only, states that are not finite.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717; pooled over languages: arXiv:2606.01196.
    """
    if not len(languages):
        raise DataError("No language given to take the harm direction from. Expected the high-resource ones; pass languages=['en'].")
    labels = labels_of(acts)
    kept = rows_of(labels, split=split, languages=languages)
    harmful = labels["harmful"].to_numpy()[kept]
    layers, positions = [int(k) for k in acts["layer"].values], positions_of(acts)
    unit, norm = np.zeros((len(layers), len(positions), acts.sizes["hidden"])), np.zeros((len(layers), len(positions)))
    for layer, position, states in each_layer(acts, kept):
        place = layers.index(layer), positions.index(position)
        unit[place], norm[place] = difference_in_means(states, harmful)
    metadata = {
        **{str(k): v for k, v in acts.attrs.items()},
        "method": "difference in means, pooled languages",
        "toward": "harmful",
        "sign": 1,
        "languages": list(languages),
        "split": split,
        "n_harmful": int(harmful.sum()),
        "n_harmless": int((~harmful).sum()),
    }
    return _labelled(unit, norm, layers, positions, metadata)


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
