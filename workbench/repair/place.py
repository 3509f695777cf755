"""Where a method reads: the layer and position at which it tells harm best in a source language it was not fitted on.

Every method chooses by the same rule from the same rows: source languages only, fitted on the fit split without one of them, asked in that one
on the select split, at the threshold of the others. No label of a language that will be repaired is looked at. A route decides at the layer
of its push or before, so deeper layers are not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from workbench.errors import DataError
from workbench.gates import Gate, GateData, gate_data
from workbench.results import Result
from workbench.statistics import balanced_accuracy

#: Balanced accuracies this close to the best count as equal; the clearer separation then decides.
CLOSE = 0.02


@dataclass(frozen=True)
class ReadingPlaces(Result):
    """One row per layer and position.

    ``balanced_accuracy`` (chance .5) and ``separation`` (difference of class means of the score over the pooled standard deviation) are means
    over the source languages, each left out of the fit in turn, on the select split; ``chosen`` marks the place: the largest separation
    among those whose balanced accuracy is within .02 of the best. With one source language nothing can be left out, and it is asked itself.
    """

    required: ClassVar[tuple[str, ...]] = ("layer", "position", "balanced_accuracy", "separation", "chosen")

    @property
    def layer(self) -> int:
        """The layer chosen."""
        return int(self.table.loc[self.table["chosen"], "layer"].iloc[0])

    @property
    def position(self) -> str:
        """The position chosen."""
        return str(self.table.loc[self.table["chosen"], "position"].iloc[0])


def reading_place(acts: xr.Dataset, make: Callable[[], Gate], reference: Sequence[str], *, layers: Sequence[int]) -> ReadingPlaces:
    """Choose where a method reads.

    Parameters
    ----------
    acts : Dataset
        With the splits fit and select.
    make : callable
        Returns an unfitted gate.
    reference : sequence of str
        Source languages.
    layers : sequence of int
        Captured ones.

    Raises
    ------
    DataError
        No layer.
    """
    if not layers:
        known = [int(k) for k in acts["layer"].values]
        raise DataError(f"There is no layer to read. Expected some of those captured ({known}), above 0 and not deeper than the push.")
    rows: list[dict[str, Any]] = []
    for position in (str(p) for p in acts["position"].values):
        for layer in layers:
            fit, select = (gate_data(acts, layer, position, split=split, languages=list(reference)) for split in ("fit", "select"))
            found = [_asked(make, fit, select, tag) for tag in fit.languages]
            rows.append({"layer": layer, "position": position, **{key: float(np.mean([one[key] for one in found])) for key in found[0]}})
    table = pd.DataFrame(rows)
    near = table[table["balanced_accuracy"] >= table["balanced_accuracy"].max() - CLOSE]
    table["chosen"] = table.index == near["separation"].idxmax()
    return ReadingPlaces(table, {"source": list(reference), "gate": type(make()).__name__, "close": CLOSE})


def _asked(make: Callable[[], Gate], fit: GateData, select: GateData, tag: str) -> dict[str, float]:
    """Fit without one language (unless it is the only one) and ask in it."""
    others = [name for name in fit.languages if name != tag] or [tag]
    gate, asked = make().fit(fit.select(languages=others)), select.select(languages=tag)
    scores = gate.decision_function(asked)
    return {"balanced_accuracy": float(balanced_accuracy(asked.y, scores >= gate.fallback_)), "separation": separation(asked.y, scores)}


def separation(harmful: Bool[np.ndarray, " prompt"], scores: Float[np.ndarray, " prompt"]) -> float:
    """Return the difference of the class means over the pooled standard deviation; 0 where scores do not vary."""
    high, low = scores[harmful], scores[~harmful]
    spread = np.sqrt((high.var() + low.var()) / 2)
    return float((high.mean() - low.mean()) / spread) if spread > 0 else 0.0


__all__ = ["ReadingPlaces", "reading_place", "separation"]
