"""Is harm represented in a language, beyond what chance, an untrained model and the prompt's surface explain?

An AUROC of .9 says little alone: an untrained model can reach it where harmless prompts end in a full stop. The claim
holds only if the AUROC at the chosen layer is above all of the following with its lower bound, corrected for the number
of languages (Holm):

* the 95 % quantile with test labels permuted (maximum over layers),
* the 95 % quantile of directions from permuted training labels at that layer,
* the highest of at least three untrained models (one seed alone may lie low by chance),
* the surface baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from workbench.directions.nulls import SURFACE, TEST_LABELS, TRAINING_LABELS, UNTRAINED, HarmNulls
from workbench.directions.transfer import AurocTable, LayerChoice
from workbench.errors import DataError
from workbench.results import Result
from workbench.statistics import auroc_p_value, auroc_score_interval, holm, max_quantile

#: Untrained seeds that a claim needs.
UNTRAINED_SEEDS = 3
#: What the AUROC must beat, and its name in a sentence.
CONTROLS = {
    "null_labels_95": "permuted test labels",
    "null_direction_95": "directions from permuted training labels",
    "untrained_high": "the untrained model",
    "surface": "prompt length and final character",
}


@dataclass(frozen=True)
class HarmRepresented(Result):
    """One row per position and language: AUROC at the chosen layer, the four nulls, represented or not, and why."""

    required: ClassVar[tuple[str, ...]] = (
        "position",
        "layer",
        "language",
        "tier",
        "auroc",
        "low",
        "high",
        "null_labels_95",
        "null_direction_95",
        "untrained",
        "untrained_high",
        "surface",
        "represented",
        "reason",
    )

    def summary(self) -> pd.DataFrame:
        """Return position, language, AUROC with interval, verdict and reason."""
        return self.table[["position", "language", "tier", "auroc", "low", "high", "represented", "reason"]]


def harm_represented(auroc: AurocTable, nulls: HarmNulls, layers: Mapping[str, int] | LayerChoice, *, confidence: float = 0.95) -> HarmRepresented:
    """Decide for each position and language whether harm is represented at the chosen layer.

    Parameters
    ----------
    auroc : AurocTable
        From :func:`transfer_auroc` on the "score" split.
    nulls : HarmNulls
    layers : mapping or LayerChoice
        Position -> layer, chosen on the "select" split.

    Returns
    -------
    HarmRepresented
        ``low`` and ``high`` are at ``confidence`` for one language. ``p_holm`` decides: the two-sided p value against the
        highest of the four nulls, adjusted for the number of languages.

    Raises
    ------
    DataError
        A position or layer without AUROC.
    """
    chosen = layers.layers() if isinstance(layers, LayerChoice) else dict(layers)
    rows = []
    for position, layer in chosen.items():
        part = auroc.table[(auroc.table["position"] == position) & (auroc.table["layer"] == layer)]
        if part.empty:
            raise DataError(
                f"The AUROC table has no row at layer {layer}, position {position!r}. Expected the layers of choose_layer() on the same activations."
            )
        cases = list(part.itertuples())
        limits = [_limits(nulls.table, position, layer, str(case.language)) for case in cases]
        highest = [float(np.max([limit[name] for name in CONTROLS])) for limit in limits]  # NaN (not measured) is never beaten
        p_values = holm([auroc_p_value(case.value, high, case.n_harmful, case.n_harmless) for case, high in zip(cases, highest, strict=True)])
        for case, limit, p in zip(cases, limits, p_values, strict=True):
            low, high = auroc_score_interval(case.value, case.n_harmful, case.n_harmless, confidence)
            represented, reason = _decide(float(case.value), low, float(p), limit, 1 - confidence)
            row = {"position": position, "layer": layer, "language": case.language, "tier": case.tier, "auroc": case.value, "low": low, "high": high}
            rows.append({**row, **limit, "p_holm": float(p), "represented": represented, "reason": reason})
    return HarmRepresented(pd.DataFrame(rows), {**auroc.provenance, "confidence": confidence, "correction": "Holm over languages, per position"})


def _limits(nulls: pd.DataFrame, position: str, layer: int, language: str) -> dict[str, float]:
    def values(null: str, *, everywhere: bool = False, here: bool = False) -> np.ndarray:
        keep = (nulls["null"] == null) & (nulls["language"] == language)
        if not everywhere:
            keep &= nulls["position"] == position
        if here:
            keep &= (nulls["layer"] == layer).fillna(False).astype(bool)
        return nulls.loc[keep, "value"].to_numpy(dtype=np.float64)

    labels, direction = values(TEST_LABELS), values(TRAINING_LABELS, here=True)
    untrained, surface = values(UNTRAINED), values(SURFACE, everywhere=True)
    untrained = untrained[np.isfinite(untrained)]
    nan = float("nan")
    return {
        "null_labels_95": float(max_quantile(labels)) if len(labels) else nan,
        "null_direction_95": float(max_quantile(direction)) if len(direction) else nan,
        "untrained": float(untrained.mean()) if len(untrained) else nan,
        "untrained_high": float(untrained.max()) if len(untrained) else nan,
        "untrained_seeds": len(untrained),
        "surface": float(surface[0]) if len(surface) else nan,
    }


def _decide(value: float, low: float, p: float, limits: Mapping[str, float], level: float) -> tuple[bool, str]:
    absent = [told for name, told in CONTROLS.items() if not np.isfinite(limits[name]) and name != "untrained_high"]
    if limits["untrained_seeds"] < UNTRAINED_SEEDS:
        absent.append(f"the untrained model ({limits['untrained_seeds']:.0f} of {UNTRAINED_SEEDS} seeds)")
    if absent:
        return False, f"AUROC {value:.2f}, but these controls are missing or too few: {', '.join(absent)}. The claim needs all four."
    highest = max(limits[name] for name in CONTROLS)
    if p <= level:
        return (
            True,
            f"AUROC {value:.2f} [lower bound {low:.2f}] is above all four nulls (highest {highest:.2f}; p = {p:.2g}, corrected for the languages).",
        )
    beaten_by = [f"{told} ({limits[name]:.2f})" for name, told in CONTROLS.items() if not low > limits[name]]
    if beaten_by:
        return False, f"AUROC {value:.2f}, but its lower bound {low:.2f} is not above {', '.join(beaten_by)}."
    return (
        False,
        f"AUROC {value:.2f} [lower bound {low:.2f}] is above the nulls (highest {highest:.2f}) "
        f"only before correcting for the languages (p = {p:.2g}).",
    )
