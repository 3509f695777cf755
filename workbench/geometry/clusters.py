"""Where single prompts lie on the first two principal components, per layer, before and after alignment.

A picture's data, not evidence: each model, layer and position has its own axes, fitted on all languages pooled, so
distances do not compare across panels. Axes are flipped so that a prompt stays on its side from layer to layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from workbench.geometry.cells import all_one_state, each_layer, labels_of, provenance_of, rows_of
from workbench.geometry.separation import principal_components
from workbench.results import Result


@dataclass(frozen=True)
class Clusters(Result):
    """Principal coordinates: model, position, layer, prompt_id, language, tier, harmful, pc1, pc2.

    ``explained`` has one row per model, position, layer and component with its share of variance (``ratio``).
    """

    explained: pd.DataFrame = field(default_factory=pd.DataFrame)

    required: ClassVar[tuple[str, ...]] = ("model", "position", "layer", "prompt_id", "language", "tier", "harmful", "pc1", "pc2")

    def axes(self) -> Result:
        """Return the explained shares as a result of their own, ready to be saved."""
        return Result(self.explained, self.provenance)


def clusters(
    acts: xr.Dataset,
    *,
    before: xr.Dataset | None = None,
    positions: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    split: str | None = None,
    max_meanings: int = 40,
    rng: np.random.Generator | None = None,
) -> Clusters:
    """Project prompts of all languages on the first two principal components of each layer.

    Parameters
    ----------
    acts, before : Dataset
        Activations after and, optionally, before alignment.
    max_meanings : int
        Meanings per class, drawn with ``rng`` and the same in all languages and both models.

    Returns
    -------
    Clusters
        pc1 and pc2 are 0 where all states are one constant token.
    """
    rng = rng or np.random.default_rng(0)
    labels = labels_of(acts)
    first = labels.iloc[rows_of(labels, split=split)].drop_duplicates("meaning_id")
    drawn: set[str] = set()
    for harmful in (True, False):
        known = first.loc[first["harmful"] == harmful, "meaning_id"].to_numpy()
        drawn |= set(rng.permutation(known)[:max_meanings])
    tables, explained = [], []
    for model, data in (("before", before), ("after", acts)):
        if data is None:
            continue
        own = labels_of(data)
        kept = np.flatnonzero(own["meaning_id"].isin(drawn))
        part = own.iloc[kept]
        previous: dict[str, np.ndarray] = {}
        for layer, position, states in each_layer(data, kept, positions=positions, layers=layers):
            scores, ratio = np.zeros((len(kept), 2)), np.zeros(2)
            if not all_one_state(states):
                found, share, _ = principal_components(states, 2)
                scores[:, : found.shape[1]], ratio[: len(share)] = found, share
            if position in previous:
                scores = scores * np.where((scores * previous[position]).sum(axis=0) < 0, -1.0, 1.0)
            previous[position] = scores
            tables.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "position": position,
                        "layer": layer,
                        "prompt_id": part["prompt_id"].to_numpy(),
                        "language": part["language"].to_numpy(),
                        "tier": part["tier"].to_numpy(),
                        "harmful": part["harmful"].to_numpy(),
                        "pc1": scores[:, 0],
                        "pc2": scores[:, 1],
                    }
                )
            )
            explained += [{"model": model, "position": position, "layer": layer, "component": c + 1, "ratio": ratio[c]} for c in range(2)]
    provenance = provenance_of(acts, split=split, max_meanings=max_meanings, n_meanings=len(drawn), axes="per model, layer and position")
    return Clusters(pd.concat(tables, ignore_index=True), provenance, explained=pd.DataFrame(explained))
