"""Does the threshold transfer with the direction, or does a language need its own?

Transferred: best balanced accuracy on the pooled select rows of the reference languages. Own: the same rule on the
language's own select rows. Both decide the language's score rows; the gap own - transferred is what a wrong threshold
costs. Intervals are over meanings, given the two thresholds: a decision is right or wrong per meaning, so the class
shares get Wilson intervals and the gap Newcombe's paired ones (a bootstrap has no width when nothing is wrong).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from workbench.directions.transfer import LayerChoice, language_rows
from workbench.errors import DataError
from workbench.geometry.cells import labels_of, tiers_of
from workbench.results import Result
from workbench.statistics import balanced_accuracy_gap, balanced_accuracy_interval, best_threshold


@dataclass(frozen=True)
class Thresholds(Result):
    """Thresholds and what they achieve: one row per position and language."""

    required: ClassVar[tuple[str, ...]] = (
        "position",
        "layer",
        "language",
        "tier",
        "transferred_threshold",
        "own_threshold",
        "balanced_accuracy_transferred",
        "transferred_low",
        "transferred_high",
        "balanced_accuracy_own",
        "own_low",
        "own_high",
        "gap",
        "gap_low",
        "gap_high",
        "n",
    )

    def summary(self) -> pd.DataFrame:
        """Return both balanced accuracies and the gap with its interval."""
        return self.table[["position", "language", "tier", "balanced_accuracy_transferred", "balanced_accuracy_own", "gap", "gap_low", "gap_high"]]


def thresholds(
    scores: xr.DataArray,
    reference: Sequence[str],
    layers: Mapping[str, int] | LayerChoice,
    *,
    select: str | None = "select",
    split: str | None = "score",
    confidence: float = 0.95,
) -> Thresholds:
    """Compare the reference languages' threshold with each language's own, per position.

    Parameters
    ----------
    scores : DataArray (prompt, layer, position)
        Projections on the harm direction.
    reference : sequence of str
        Languages whose pooled select rows set the transferred threshold.
    layers : mapping or LayerChoice
        Position -> layer, from :func:`choose_layer`.
    select, split : str
        Meanings that set thresholds, and meanings that are decided. They must differ.

    Raises
    ------
    DataError
        The same split twice, a position or layer that was not captured, one class only.
    """
    if select == split:
        raise DataError(
            f"Thresholds would be set and scored on the same meanings (split {split!r}). Expected two splits, such as select='select', split='score'."
        )
    labels = labels_of(scores)
    harmful, tiers = labels["harmful"].to_numpy(), tiers_of(labels)
    chosen_on, decided = language_rows(labels, select), language_rows(labels, split)
    pooled = np.concatenate(list(language_rows(labels, select, reference).values()))
    known = [int(k) for k in scores["layer"].values]
    rows = []
    for position, layer in (layers.layers() if isinstance(layers, LayerChoice) else layers).items():
        if position not in scores["position"].values or layer not in known:
            raise DataError(
                f"No projections at layer {layer}, position {position!r}. Expected layers {known} and positions {list(scores['position'].values)}."
            )
        values = scores.sel(layer=layer, position=position).values
        transferred = best_threshold(harmful[pooled], values[pooled]).threshold
        for language, kept in decided.items():
            if language not in chosen_on:
                raise DataError(
                    f"Language {language!r} has no prompts in split {select!r}. Expected the same splits in all languages; see grid.with_splits()."
                )
            mine = chosen_on[language]
            own = best_threshold(harmful[mine], values[mine]).threshold
            flagged, flagged_own = values[kept] > transferred, values[kept] > own
            first = balanced_accuracy_interval(harmful[kept], flagged, confidence)
            second = balanced_accuracy_interval(harmful[kept], flagged_own, confidence)
            gap = balanced_accuracy_gap(harmful[kept], flagged_own, flagged, confidence)
            rows.append(
                {
                    "position": position,
                    "layer": layer,
                    "language": language,
                    "tier": tiers[language],
                    "transferred_threshold": transferred,
                    "own_threshold": own,
                    "balanced_accuracy_transferred": first.value,
                    "transferred_low": first.low,
                    "transferred_high": first.high,
                    "balanced_accuracy_own": second.value,
                    "own_low": second.low,
                    "own_high": second.high,
                    "gap": gap.difference,
                    "gap_low": gap.low,
                    "gap_high": gap.high,
                    "n": len(kept),
                    "n_select": len(mine),
                }
            )
    provenance = {
        **{str(k): v for k, v in scores.attrs.items()},
        "reference": list(reference),
        "select": select,
        "split": split,
        "confidence": confidence,
    }
    return Thresholds(pd.DataFrame(rows), {**provenance, "interval": "over meanings, given the thresholds (Wilson, Newcombe paired)"})
