"""Does a direction found in high-resource languages rank harmful above harmless prompts in another language?

AUROC of the projections, per layer, language and position; ties count one half. Layers are chosen on the "select"
split and on reference languages only, never on rows that are scored or on the languages in question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import DataError
from workbench.geometry.cells import labels_of, rows_of, tiers_of
from workbench.results import Result
from workbench.statistics import auroc, auroc_score_interval

NEARLY_BEST = 0.005


@dataclass(frozen=True)
class AurocTable(Result):
    """AUROC by place and language: position, layer, language, tier, value, low, high, n_harmful, n_harmless."""

    required: ClassVar[tuple[str, ...]] = ("position", "layer", "language", "tier", "value", "low", "high", "n_harmful", "n_harmless")

    def summary(self) -> pd.DataFrame:
        """Return the best layer of each position and language (a look, not a choice: use choose_layer)."""
        best = self.table.groupby(["position", "language"], sort=False)["value"].idxmax()
        return self.table.loc[best]


@dataclass(frozen=True)
class LayerChoice(Result):
    """Which layer is read at each position: position, layer, auroc, d_prime, chosen."""

    required: ClassVar[tuple[str, ...]] = ("position", "layer", "auroc", "d_prime", "chosen")

    def layers(self) -> dict[str, int]:
        """Return position -> chosen layer."""
        chosen = self.table[self.table["chosen"]]
        return {str(p): int(k) for p, k in zip(chosen["position"], chosen["layer"], strict=True)}

    def summary(self) -> pd.DataFrame:
        """Return the chosen rows."""
        return self.table[self.table["chosen"]]


def language_rows(labels: pd.DataFrame, split: str | None, languages: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return the row numbers of each language in a split; each must have both classes.

    Raises
    ------
    DataError
        A language without harmful or without harmless prompts there.
    """
    kept = rows_of(labels, split=split, languages=languages)
    part = labels.iloc[kept]
    found = {}
    for language in dict.fromkeys(part["language"]):
        rows = kept[(part["language"] == language).to_numpy()]
        harmful = labels["harmful"].to_numpy()[rows]
        if harmful.all() or not harmful.any():
            raise DataError(
                f"Language {language!r} has {int(harmful.sum())} harmful and {int((~harmful).sum())} harmless prompts in split {split!r}. "
                "Expected both; add prompts of the missing class or leave the language out."
            )
        found[str(language)] = rows
    return found


def transfer_auroc(scores: xr.DataArray, reference: Sequence[str], *, split: str | None = "score", confidence: float = 0.95) -> AurocTable:
    """Measure how well projections rank harmful above harmless prompts, per layer, language and position.

    Parameters
    ----------
    scores : DataArray (prompt, layer, position)
        From :func:`workbench.directions.project`.
    reference : sequence of str
        Languages the direction comes from; marked in the extra column ``is_reference``. Their scored meanings are
        others than the fitted ones.
    split : str or None
        Meanings scored.

    Returns
    -------
    AurocTable
        0.5 is chance. ``low``, ``high``: Newcombe's score interval, not corrected for the number of rows.
    """
    labels = labels_of(scores)
    groups = language_rows(labels, split)
    rows_of(labels, languages=reference)
    tiers, harmful = tiers_of(labels), labels["harmful"].to_numpy()
    values = scores.transpose("prompt", "layer", "position").values
    rows = []
    for language, kept in groups.items():
        found = np.asarray(auroc(harmful[kept], values[kept]))
        n_harmful, n_harmless = int(harmful[kept].sum()), int((~harmful[kept]).sum())
        for k, layer in enumerate(scores["layer"].values):
            for p, position in enumerate(scores["position"].values):
                low, high = auroc_score_interval(float(found[k, p]), n_harmful, n_harmless, confidence)
                rows.append(
                    {
                        "position": str(position),
                        "layer": int(layer),
                        "language": language,
                        "tier": tiers[language],
                        "value": float(found[k, p]),
                        "low": low,
                        "high": high,
                        "n_harmful": n_harmful,
                        "n_harmless": n_harmless,
                        "is_reference": language in reference,
                    }
                )
    table = pd.DataFrame(rows).sort_values(["position", "layer"], kind="stable", ignore_index=True)
    return AurocTable(table, _provenance(scores, reference=list(reference), split=split, interval="Newcombe score interval", confidence=confidence))


def d_prime(harmful: np.ndarray, harmless: np.ndarray) -> np.ndarray:
    """Return the distance of two class means in pooled standard deviations (0 without spread), along axis 0."""
    apart = harmful.mean(axis=0) - harmless.mean(axis=0)
    spread = np.sqrt((harmful.var(axis=0) + harmless.var(axis=0)) / 2)
    return np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 1e-12)


def choose_layer(scores: xr.DataArray, reference: Sequence[str], *, split: str | None = "select") -> LayerChoice:
    """Choose the layer to read at each position, on the reference languages' select rows.

    The rule: mean AUROC over reference languages; among layers within .005 of the best (on an easy set many reach 1.0)
    the largest mean d-prime, which still grows where AUROC is saturated; then the earliest.

    Raises
    ------
    DataError
        Unknown reference language, no such split, one class only.
    """
    if not len(reference):
        raise DataError("No reference language given to choose a layer with. Expected the high-resource ones; pass reference=['en'].")
    labels = labels_of(scores)
    groups, harmful = language_rows(labels, split, reference), labels["harmful"].to_numpy()
    values = scores.transpose("prompt", "layer", "position").values
    area = np.mean([np.asarray(auroc(harmful[rows], values[rows])) for rows in groups.values()], axis=0)
    apart = np.mean([d_prime(values[rows[harmful[rows]]], values[rows[~harmful[rows]]]) for rows in groups.values()], axis=0)
    near = area >= area.max(axis=0) - NEARLY_BEST
    chosen = np.where(near, apart, -np.inf).argmax(axis=0)
    rows = [
        {"position": str(position), "layer": int(layer), "auroc": area[k, p], "d_prime": apart[k, p], "chosen": bool(chosen[p] == k)}
        for p, position in enumerate(scores["position"].values)
        for k, layer in enumerate(scores["layer"].values)
    ]
    rule = f"best mean AUROC of reference languages, within {NEARLY_BEST} the largest d-prime"
    return LayerChoice(pd.DataFrame(rows), _provenance(scores, reference=list(reference), split=split, rule=rule))


def _provenance(scores: xr.DataArray, **options: Any) -> dict[str, Any]:
    return {**{str(k): v for k, v in scores.attrs.items()}, **options}
