"""Does a prompt find its own translation among the others? Evidence that it was understood, where no answer key exists.

P@1: a prompt's nearest neighbour (cosine) among all prompts of another language is its translation; both directions,
averaged, and over the reference languages. Each language's mean is subtracted first: it is the same for all meanings of
a language, so it carries none, and without this a constant language shift hides meaning. Unlike a silhouette, retrieval
gains nothing on noise by that (each language is centred on its own). The uncentred value stands beside it.

Chance is 1/n. The null permutes which prompts are translations and takes the maximum over layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import complete_cells, each_layer, labels_of, provenance_of
from workbench.results import Result
from workbench.statistics import jackknife_influence, max_quantile, wilson


@dataclass(frozen=True)
class Retrieval(Result):
    """Translation retrieval: position, layer, language, tier, value, low, high, n, chance, null_95, control, chosen."""

    required: ClassVar[tuple[str, ...]] = ("position", "layer", "language", "tier", "value", "low", "high", "n", "chance", "null_95", "control")

    def summary(self) -> pd.DataFrame:
        """Return the rows of the layer chosen on the select split (all layers if none was chosen)."""
        return self.table[self.table["chosen"]] if self.table["chosen"].any() else self.table


def unit_states(states: Float[np.ndarray, "language meaning hidden"], *, centre: bool = True) -> Float[np.ndarray, "language meaning hidden"]:
    """Return states at norm 1, each language's mean subtracted first if asked; a state of norm zero stays zero."""
    if centre:
        states = states - states.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(states, axis=-1, keepdims=True)
    return np.divide(states, norms, out=np.zeros_like(states), where=norms > 1e-12)


def precision_at_1(similar: Float[np.ndarray, "meaning meaning"]) -> tuple[Float[np.ndarray, "meaning meaning"], Float[np.ndarray, " meaning"]]:
    """Return the credit each pair gets (1 for the nearest, shared among ties) and the gain without each meaning.

    Parameters
    ----------
    similar : array (meaning, meaning)
        Similarity of each query (row) to each candidate (column).

    Returns
    -------
    credit : array (meaning, meaning)
        Rows sum to one; the mean of the diagonal is P@1. Which meaning counts as right is up to the caller.
    gain : array (meaning,)
        Queries that would become right if this meaning were no candidate (for the jackknife).
    """
    best = similar.max(axis=1, keepdims=True)
    nearest = similar >= best - 1e-9
    credit = nearest / nearest.sum(axis=1, keepdims=True)
    winner = similar.argmax(axis=1)
    at = np.arange(len(similar))
    wrong = (winner != at) & (nearest.sum(axis=1) == 1)
    without = similar.copy()
    without[at, winner] = -np.inf
    gain = np.bincount(winner[wrong & (without.argmax(axis=1) == at)], minlength=len(similar)).astype(np.float64)
    return credit, gain


def _one_language(units: np.ndarray, a: int, references: list[int], shuffles: np.ndarray) -> tuple[float, float, float, np.ndarray]:
    """Return value, low, high and the null draws of one language against the references, both ways."""
    n = units.shape[1]
    at = np.arange(n)
    hits, gains, null, pairs = np.zeros(n), np.zeros(n), np.zeros(len(shuffles)), 0
    for r in references:
        if r == a:
            continue
        similar = units[a] @ units[r].T
        for queries in (similar, similar.T):
            credit, gain = precision_at_1(queries)
            hits, gains, pairs = hits + np.diag(credit), gains + gain, pairs + 1
            null += credit[at, shuffles].mean(axis=1)
    if not pairs:
        return np.nan, np.nan, np.nan, np.full(len(shuffles), np.nan)
    hits, gains = hits / pairs, gains / pairs
    value = float(hits.mean())
    without = (hits.sum() - hits + gains) / (n - 1)
    low, high = _interval(value, without, n)
    return value, low, high, null / pairs


def _interval(value: float, without: Float[np.ndarray, " meaning"], n: int) -> tuple[float, float]:
    """Wilson's interval for as many independent trials as the jackknife variance is worth.

    Hits of one meaning are averaged over directions and references, so n meanings are worth more than n trials. Where
    the jackknife sees no variance (all right, or all wrong) they count as n.
    """
    influence = jackknife_influence(np.asarray(value), without)
    variance = float((influence**2).sum()) / (n * (n - 1))
    trials = float(np.clip(value * (1 - value) / variance, n / 2, 4 * n)) if variance > 0 and 0 < value < 1 else float(n)
    low, high = wilson(value * trials, trials)
    return low, high


def retrieval(
    acts: xr.Dataset,
    reference: Sequence[str],
    *,
    control: xr.Dataset | None = None,
    split: str | None = "score",
    select: str | None = "select",
    centre: bool = True,
    permutations: int = 200,
    max_meanings: int = 256,
    positions: Sequence[str] | None = None,
    rng: np.random.Generator | None = None,
) -> Retrieval:
    """Measure per language and layer how often a prompt finds its translation in the reference languages, and back.

    Parameters
    ----------
    acts : Dataset
        Activations of a complete grid; harmful and harmless meanings are pooled.
    reference : sequence of str
        High-resource languages. Each language is compared with all others of them; a sole reference has value NaN.
    control : Dataset, optional
        The same prompts in an untrained model; its value at the same place goes into ``control``.
    split, select : str or None
        Meanings scored, and meanings on which the layer (mean over languages, earliest of equals) is chosen; None for
        ``split`` uses all meanings and chooses no layer.
    centre : bool
        Subtract each language's mean first (``value_uncentred`` has the other way).

    Returns
    -------
    Retrieval
        ``low``, ``high``: Wilson's interval with the jackknife variance over meanings; ``null_95``: 95 % quantile of the
        maximum over layers with permuted translations; ``chosen``: the layer chosen on ``select``.

    References
    ----------
    Baseline-adjusted similarity and retrieval: arXiv:2411.04986, arXiv:2410.05873.
    """
    rng = rng or np.random.default_rng(0)
    known = list(dict.fromkeys(labels_of(acts)["language"]))
    for language in reference:
        if language not in known:
            raise DataError(f"Reference language {language!r} is not in these activations; present: {known}.{did_you_mean(language, known)}")
    if not reference:
        raise DataError("No reference language given. Expected at least one language known to be understood; pass reference=['en'].")
    measured = _measure(acts, reference, split, centre, permutations, max_meanings, positions, rng)
    table = measured.table
    chosen: dict[str, int] = {}
    if split is not None and select is not None:
        on_select = _measure(acts, reference, select, centre, 0, max_meanings, positions, rng).table
        for position, part in on_select.groupby("position", sort=False):
            mean = part.groupby("layer")["value"].mean()
            chosen[str(position)] = int(mean.idxmax())
    table["chosen"] = [chosen.get(p) == k for p, k in zip(table["position"], table["layer"], strict=True)]
    table["control"] = np.nan
    if control is not None:
        other = _measure(control, reference, split, centre, 0, max_meanings, positions, np.random.default_rng(0)).table
        key = ["position", "layer", "language"]
        table["control"] = table[key].merge(other[[*key, "value"]], on=key, how="left")["value"].to_numpy()
    return replace(measured, table=table, provenance={**measured.provenance, "select": select, "chosen": chosen, "has_control": control is not None})


def _measure(
    acts: xr.Dataset,
    reference: Sequence[str],
    split: str | None,
    centre: bool,
    permutations: int,
    max_meanings: int,
    positions: Sequence[str] | None,
    rng: np.random.Generator,
) -> Retrieval:
    cells = complete_cells(acts, split=split, max_meanings=max_meanings, rng=rng)
    n = cells.rows.shape[1]
    references = [cells.languages.index(r) for r in reference]
    shuffles = rng.permuted(np.broadcast_to(np.arange(n), (permutations, n)), axis=1)
    none = np.zeros((0, n), dtype=int)
    rows: list[dict[str, object]] = []
    highest: dict[tuple[str, str], np.ndarray] = {}
    for layer, position, states in each_layer(acts, cells.rows, positions=positions):
        units, others = unit_states(states, centre=centre), unit_states(states, centre=not centre)
        for a, language in enumerate(cells.languages):
            value, low, high, null = _one_language(units, a, references, shuffles)
            other = _one_language(others, a, references, none)[0]
            key = position, language
            highest[key] = np.maximum(highest.get(key, -np.inf), null)
            rows.append(
                {
                    "position": position,
                    "layer": layer,
                    "language": language,
                    "tier": cells.tiers[language],
                    "value": value,
                    "low": low,
                    "high": high,
                    "n": n,
                    "chance": 1 / n,
                    "value_uncentred": other if centre else value,
                }
            )
    table = pd.DataFrame(rows).sort_values(["position", "layer"], kind="stable", ignore_index=True)
    quantiles = {key: float(max_quantile(null)) if len(null) else np.nan for key, null in highest.items()}
    table["null_95"] = [quantiles[p, language] for p, language in zip(table["position"], table["language"], strict=True)]
    table["control"], table["chosen"] = np.nan, False
    return Retrieval(
        table,
        provenance_of(
            acts,
            split=split,
            reference=list(reference),
            n_meanings=n,
            permutations=permutations,
            centred=centre,
            null="permuted translations, maximum over layers",
        ),
    )
