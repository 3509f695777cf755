"""How far apart harmful and harmless prompts lie, per language and layer, before and after alignment.

Separation is the share of variance between the two classes on the first ten principal components of one language's
prompts (arXiv:2504.02708)::

    eta^2 = tr(S_B) / (tr(S_B) + tr(S_W))

For two equal Gaussian classes at distance delta in one dimension: eta^2 = delta^2 / (delta^2 + 4), Bhattacharyya
distance = delta^2 / 8, AUROC = Phi(delta / sqrt 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from workbench.errors import DataError
from workbench.geometry.cells import all_one_state, each_layer, labels_of, provenance_of, rows_of, tiers_of
from workbench.results import Result
from workbench.statistics import jackknife_influence, jackknife_interval

N_COMPONENTS = 10


@dataclass(frozen=True)
class Separation(Result):
    """Class separation: model, position, layer, language, tier, statistic, value, low, high, n."""

    required: ClassVar[tuple[str, ...]] = ("model", "position", "layer", "language", "tier", "statistic", "value", "low", "high", "n")

    def change(self) -> pd.DataFrame:
        """Return after minus before per position, layer and language (empty without a model before)."""
        wide = self.table.pivot_table(index=["position", "layer", "language"], columns="model", values="value")
        if not {"before", "after"} <= set(wide.columns):
            return pd.DataFrame(columns=["position", "layer", "language", "change"])
        return (wide["after"] - wide["before"]).rename("change").reset_index()


def principal_components(
    states: Float[np.ndarray, "prompt hidden"], n: int
) -> tuple[Float[np.ndarray, "prompt component"], Float[np.ndarray, " component"], Float[np.ndarray, "component hidden"]]:
    """Return scores, explained shares of variance and axes; each axis has its largest loading positive.

    Directions without variance are left out, so fewer than ``n`` may come back.
    """
    centred = np.asarray(states, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    short = centred.shape[0] <= centred.shape[1]
    values, vectors = np.linalg.eigh(centred @ centred.T if short else centred.T @ centred)
    total = float(np.maximum(values, 0.0).sum())
    order = np.argsort(values)[::-1][:n]
    order = order[values[order] > 1e-12 * max(total, 1e-300)]
    axes = vectors[:, order].T
    if short:
        axes = axes @ centred / np.sqrt(values[order])[:, None]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    return centred @ axes.T, values[order] / total if total > 0 else values[order], axes


def between_class_share(scores: Float[np.ndarray, "prompt component"], harmful: Bool[np.ndarray, " prompt"]) -> float:
    """Return eta^2: the share of variance that lies between harmful and harmless (0 to 1).

    Raises
    ------
    DataError
        One class only, or no variance at all.
    """
    harmful = np.asarray(harmful, dtype=bool)
    if harmful.all() or not harmful.any():
        raise DataError(f"All {len(harmful)} prompts carry the same label. Expected harmful and harmless ones.")
    centred = scores - scores.mean(axis=0)
    total = float((centred**2).sum())
    if total == 0:
        raise DataError("All prompts have the same state, so there is no variance to share out. Choose another layer or position.")
    return float(sum(part.sum() * (centred[part].mean(axis=0) ** 2).sum() for part in (harmful, ~harmful))) / total


def shares_without_each_prompt(scores: Float[np.ndarray, "prompt component"], harmful: Bool[np.ndarray, " prompt"]) -> Float[np.ndarray, " prompt"]:
    """Return eta^2 with each prompt left out in turn, on unchanged axes."""
    n = len(scores)
    sums, squares = scores.sum(axis=0), (scores**2).sum()
    left, left_squares = sums - scores, squares - (scores**2).sum(axis=1)
    grand = (left**2).sum(axis=1) / (n - 1)
    between = np.zeros(n)
    for part in (harmful, ~harmful):
        of_class = scores[part].sum(axis=0) - scores * part[:, None]
        between += (of_class**2).sum(axis=1) / (part.sum() - part)
    return (between - grand) / (left_squares - grand)


def bhattacharyya(first: Float[np.ndarray, "prompt component"], second: Float[np.ndarray, "prompt component"], shrinkage: float = 0.0) -> float:
    """Return the distance between Gaussian fits of two classes (0 = the same; no upper end).

    Parameters
    ----------
    shrinkage : float
        Part of each covariance replaced by its mean variance times the identity; needed with few rows.
    """

    def covariance(rows: np.ndarray) -> np.ndarray:
        found = np.atleast_2d(np.cov(rows, rowvar=False))
        return (1 - shrinkage) * found + shrinkage * np.trace(found) / len(found) * np.eye(len(found))

    one, two = covariance(first), covariance(second)
    both, apart = (one + two) / 2, first.mean(axis=0) - second.mean(axis=0)
    log_det = [np.linalg.slogdet(m)[1] for m in (both, one, two)]
    return float(apart @ np.linalg.solve(both, apart) / 8 + (log_det[0] - (log_det[1] + log_det[2]) / 2) / 2)


def separation(
    acts: xr.Dataset,
    before: xr.Dataset | None = None,
    *,
    split: str | None = "score",
    n_components: int = N_COMPONENTS,
    positions: Sequence[str] | None = None,
) -> Separation:
    """Measure per language and layer how much of the variance lies between harmful and harmless prompts.

    Parameters
    ----------
    acts, before : Dataset
        Activations of the model diagnosed ("after") and, optionally, of the model before alignment.
    split : str or None
        Meanings scored; None uses all.
    n_components : int
        Principal components kept, fitted per model, language, layer and position on the scored prompts.

    Returns
    -------
    Separation
        ``statistic`` is "between_class_share"; ``low``, ``high``: jackknife over meanings on fixed axes; ``null_share``:
        1/(n-1), what labels without any meaning give on average. NaN where all states are one constant token.

    Raises
    ------
    DataError
        A language with fewer than two prompts of a class.

    References
    ----------
    Verma and Bharadwaj 2025, arXiv:2504.02708.
    """
    rows = []
    for model, data in (("before", before), ("after", acts)):
        if data is None:
            continue
        labels = labels_of(data)
        tiers = tiers_of(labels)
        kept = rows_of(labels, split=split)
        part = labels.iloc[kept]
        groups = {language: np.flatnonzero(part["language"] == language) for language in dict.fromkeys(part["language"])}
        harmful = part["harmful"].to_numpy()
        for language, group in groups.items():
            if min(harmful[group].sum(), (~harmful[group]).sum()) < 2:
                raise DataError(
                    f"Language {language!r} has {int(harmful[group].sum())} harmful and {int((~harmful[group]).sum())} harmless "
                    f"prompts in split {split!r}. Expected at least two of each."
                )
        for layer, position, states in each_layer(data, kept, positions=positions):
            for language, group in groups.items():
                rows.append(
                    {
                        "model": model,
                        "position": position,
                        "layer": layer,
                        "language": language,
                        "tier": tiers[language],
                        "statistic": "between_class_share",
                        **_share(states[group], harmful[group], n_components),
                    }
                )
    table = pd.DataFrame(rows).sort_values(["model", "position", "layer"], kind="stable", ignore_index=True)
    return Separation(table, provenance_of(acts, split=split, n_components=n_components, interval="jackknife over meanings, fixed axes"))


def _share(states: np.ndarray, harmful: np.ndarray, n_components: int) -> dict[str, float | int]:
    n = len(states)
    if all_one_state(states):
        return {"value": np.nan, "low": np.nan, "high": np.nan, "n": n, "null_share": 1 / (n - 1)}
    scores, _, _ = principal_components(states, n_components)
    value = between_class_share(scores, harmful)
    low, high = jackknife_interval(value, jackknife_influence(np.asarray(value), shares_without_each_prompt(scores, harmful)))
    return {"value": value, "low": max(0.0, float(low)), "high": min(1.0, float(high)), "n": n, "null_share": 1 / (n - 1)}
