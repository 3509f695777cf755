"""Where single prompts lie on the first two principal components, per layer, before and after alignment.

A picture's data, not evidence. Basis "own": each model, layer and position has its own axes, fitted on all languages
pooled, so distances do not compare across panels. Basis "common": one set of axes per layer and position, fitted on the
states of both models with each model centred first, so "before against after" can be read off. Axes are flipped so that a
prompt stays on its side from layer to layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import all_one_state, each_layer, labels_of, provenance_of, rows_of
from workbench.geometry.components import common_components, principal_components
from workbench.geometry.matching import matched_rows
from workbench.results import Result

BASES = ("own", "common")


@dataclass(frozen=True)
class Clusters(Result):
    """Principal coordinates: model, basis, position, layer, prompt_id, language, tier, harmful, pc1, pc2.

    ``explained`` has one row per model, basis, position, layer and component with the share of that model's variance
    (``ratio``).
    """

    explained: pd.DataFrame = field(default_factory=pd.DataFrame)

    required: ClassVar[tuple[str, ...]] = ("model", "position", "layer", "prompt_id", "language", "tier", "harmful", "pc1", "pc2")

    def axes(self) -> Result:
        """Return the explained shares as a result of their own, ready to be saved."""
        return Result(self.explained, self.provenance)


def _drawn_meanings(labels: pd.DataFrame, max_meanings: int, rng: np.random.Generator) -> set[str]:
    """Draw the meanings shown, the same in all languages and both models."""
    first, drawn = labels.drop_duplicates("meaning_id"), set()
    for harmful in (True, False):
        known = first.loc[first["harmful"] == harmful, "meaning_id"].to_numpy()
        drawn |= set(rng.permutation(known)[:max_meanings])
    return drawn


def _two_axes(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if all_one_state(states):
        return np.zeros((len(states), 0)), np.zeros(0)
    return principal_components(states, 2)[:2]


def _coordinates(models: Sequence[np.ndarray], basis: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return two scores per prompt and the two explained shares, for each model; 0 where there is no second axis."""
    if basis == "own":
        found = [_two_axes(states) for states in models]
    elif all(all_one_state(states) for states in models):
        found = [(np.zeros((len(states), 0)), np.zeros(0)) for states in models]
    else:
        found = list(zip(*common_components(models, 2), strict=True))
    out = []
    for scores, shares in found:
        padded = np.zeros((len(scores), 2)), np.zeros(2)
        padded[0][:, : scores.shape[1]], padded[1][: len(shares)] = scores, shares
        out.append(padded)
    return out


def _on_the_same_side(scores: list[np.ndarray], basis: str, position: str, previous: dict[tuple[str, str, int], np.ndarray]) -> list[np.ndarray]:
    """Flip axes so that prompts stay on the side they had a layer before; models on common axes turn together."""
    out = []
    for i, each in enumerate([np.concatenate(scores)] if basis == "common" else scores):
        before = previous.get((basis, position, i), each)
        previous[basis, position, i] = each * np.where((each * before).sum(axis=0) < 0, -1.0, 1.0)
        out.append(previous[basis, position, i])
    return np.split(out[0], np.cumsum([len(each) for each in scores])[:-1]) if basis == "common" else out


def clusters(
    acts: xr.Dataset,
    *,
    before: xr.Dataset | None = None,
    basis: str | Sequence[str] = "own",
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
        Activations after and, optionally, before alignment, on the same prompts.
    basis : "own", "common" or both
        See the module.
    max_meanings : int
        Meanings per class, drawn with ``rng`` and the same in all languages and both models.

    Returns
    -------
    Clusters
        pc1 and pc2 are 0 where all states are one constant token.

    Raises
    ------
    DataError
        Unknown basis; two models with different prompts, labels, positions or layers, or, for a common basis, widths.
    """
    bases = (basis,) if isinstance(basis, str) else tuple(dict.fromkeys(basis))
    for each in bases or ("",):
        if each not in BASES:
            raise DataError(f"Unknown basis {each!r}; expected some of {list(BASES)}.{did_you_mean(each, BASES)}")
    if max_meanings < 1:
        raise DataError(f"max_meanings={max_meanings}: expected at least one meaning per class; the default is 40.")
    labels = labels_of(acts)
    rows = {"after": rows_of(labels, split=split)}
    if before is not None:
        options: dict[str, Any] = dict(split=split, positions=positions, layers=layers, same_width="common" in bases)
        after, earlier = matched_rows(acts, before, **options)
        rows = {"before": earlier, "after": after}
    drawn = _drawn_meanings(labels.iloc[rows["after"]], max_meanings, rng or np.random.default_rng(0))
    shown = labels["meaning_id"].iloc[rows["after"]].isin(drawn).to_numpy()
    part = labels.iloc[rows["after"][shown]]
    stores = {"before": before, "after": acts}
    readers = [each_layer(stores[model], kept[shown], positions=positions, layers=layers) for model, kept in rows.items()]
    tables, explained = [], []
    previous: dict[tuple[str, str, int], np.ndarray] = {}
    for read in zip(*readers, strict=True):
        layer, position = read[0][:2]
        for each in bases:
            found = _coordinates([states for _, _, states in read], each)
            turned = _on_the_same_side([scores for scores, _ in found], each, position, previous)
            for model, scores, (_, shares) in zip(rows, turned, found, strict=True):
                where = {"model": model, "basis": each, "position": position, "layer": layer}
                tables.append(pd.DataFrame(where | {c: part[c].to_numpy() for c in ("prompt_id", "language", "tier", "harmful")}))
                tables[-1]["pc1"], tables[-1]["pc2"] = scores[:, 0], scores[:, 1]
                explained += [where | {"component": c + 1, "ratio": shares[c]} for c in range(2)]
    axes = {"own": "per model, layer and position", "common": "per layer and position, both models, each centred first"}
    provenance = provenance_of(
        acts, split=split, max_meanings=max_meanings, n_meanings=len(drawn), axes="; ".join(f"{each}: {axes[each]}" for each in bases)
    )
    return Clusters(pd.concat(tables, ignore_index=True), provenance, explained=pd.DataFrame(explained))
