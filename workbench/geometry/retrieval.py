"""Does a prompt find its own translation among the others? Evidence that it was understood, where no answer key exists.

P@1: a prompt's nearest neighbour (cosine) among all prompts of another language is its translation; both directions,
averaged, and over the reference languages. Each language's mean is subtracted first: it is the same for all meanings of
a language, so it carries none, and without this a constant language shift hides meaning. Unlike a silhouette, retrieval
gains nothing on noise by that (each language is centred on its own). The uncentred value stands beside it, and ``shift``,
centred minus uncentred, is what the constant shift between languages costs.

Chance is 1/n. The null permutes which prompts are translations (one permutation for both directions, all references and
all layers) and takes the maximum over layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import complete_cells, each_layer, labels_of, provenance_of
from workbench.results import Result
from workbench.statistics import Difference, Interval, jackknife_influence, max_quantile, wilson

TIE = 1e-9  # cosines closer than this are equal: copies of one state differ by rounding


@dataclass(frozen=True)
class Retrieval(Result):
    """Translation retrieval: position, layer, language, tier, value, low, high, n, chance, null_95, control, chosen, ...

    ``value_uncentred``, ``uncentred_low``, ``uncentred_high``: the same without subtracting language means; ``shift``,
    ``shift_low``, ``shift_high``: centred minus uncentred.
    """

    required: ClassVar[tuple[str, ...]] = ("position", "layer", "language", "tier", "value", "low", "high", "n", "chance", "null_95", "control")

    def summary(self) -> pd.DataFrame:
        """Return the rows of the layer chosen on the select split (all layers if none was chosen)."""
        return self.table[self.table["chosen"]] if self.table["chosen"].any() else self.table


def unit_states(states: Float[np.ndarray, "language meaning hidden"], *, centre: bool = True) -> Float[np.ndarray, "language meaning hidden"]:
    """Return states at norm 1, each language's mean subtracted first if asked; a state of norm zero stays zero."""
    if centre:
        states = states - states.mean(axis=1, keepdims=True)
    norms = norms_of(states)[..., None]
    return np.divide(states, norms, out=np.zeros_like(states), where=norms > 1e-12)


def norms_of(states: Float[np.ndarray, "... hidden"]) -> Float[np.ndarray, " ..."]:
    """Return the length of each state, without the copies that ``np.linalg.norm`` makes of wide ones."""
    return np.sqrt(np.einsum("...h,...h->...", states, states))


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
    nearest = similar >= best - TIE
    credit = nearest / nearest.sum(axis=1, keepdims=True)
    winner = similar.argmax(axis=1)
    at = np.arange(len(similar))
    wrong = (winner != at) & (nearest.sum(axis=1) == 1)
    without = similar.copy()
    without[at, winner] = -np.inf
    gain = np.bincount(winner[wrong & (without.argmax(axis=1) == at)], minlength=len(similar)).astype(np.float64)
    return credit, gain


class Found(NamedTuple):
    """How often translations are found: the value, the value without each meaning, and one value per permutation."""

    value: float
    without: Float[np.ndarray, " meaning"]
    null: Float[np.ndarray, " draw"]


def translations_found(similar: Float[np.ndarray, "meaning meaning"], shuffles: Int[np.ndarray, "draw meaning"]) -> Found:
    """Return P@1 from one language (rows) to another (columns) and back, averaged.

    Parameters
    ----------
    similar : array (meaning, meaning)
        Cosines of the same meanings in two languages.
    shuffles : int array (draw, meaning)
        Each takes the meaning in the columns that stands in for the translation.
    """
    n = len(similar)
    at = np.arange(n)
    there, gain_there = precision_at_1(similar)
    back, gain_back = precision_at_1(similar.T)
    hits, gains = (np.diag(there) + np.diag(back)) / 2, (gain_there + gain_back) / 2
    without = (hits.sum() - hits + gains) / (n - 1)
    null = (there[at, shuffles].mean(axis=1) + back[shuffles, at].mean(axis=1)) / 2
    return Found(float(hits.mean()), without, null)


def _against(units: np.ndarray, a: int, references: list[int], shuffles: np.ndarray) -> Found:
    """Average one language over the references other than itself (NaN without any)."""
    found = [translations_found(units[a] @ units[r].T, shuffles) for r in references if r != a]
    if not found:
        return Found(float("nan"), np.full(units.shape[1], np.nan), np.full(len(shuffles), np.nan))
    return Found(float(np.mean([f.value for f in found])), np.mean([f.without for f in found], axis=0), np.mean([f.null for f in found], axis=0))


def proportion_interval(value: float, without: Float[np.ndarray, " meaning"]) -> Interval:
    """Return Wilson's interval of a share for as many independent trials as its jackknife variance is worth.

    Hits of one meaning are averaged over directions and references, so n meanings are worth more than n trials. Where
    the jackknife sees no variance (all right, or all wrong) they count as n.

    Parameters
    ----------
    value : float
        A mean over meanings of numbers between 0 and 1; NaN gives NaN.
    without : array (meaning,)
        The same without each meaning.
    """
    if not np.isfinite(value):
        return Interval(float("nan"), float("nan"))
    n = len(without)
    influence = jackknife_influence(np.asarray(value), without)
    variance = float((influence**2).sum()) / (n * (n - 1))
    trials = float(np.clip(value * (1 - value) / variance, n / 2, 4 * n)) if variance > 0 and 0 < value < 1 else float(n)
    return wilson(min(value, 1.0) * trials, trials)


def shift_of(centred: Found, uncentred: Found) -> Difference:
    """Return centred minus uncentred P@1 with its interval: what the constant shift between languages costs.

    Each bound joins the distances of both shares to their own Wilson bounds (MOVER, as in Newcombe's paired interval),
    with the correlation of their jackknife influences; so it keeps a width where all meanings are found both ways.
    """
    (low1, high1), (low2, high2) = (proportion_interval(f.value, f.without) for f in (centred, uncentred))
    one, two = (jackknife_influence(np.asarray(f.value), f.without) for f in (centred, uncentred))
    norm = float(np.sqrt((one**2).sum() * (two**2).sum()))
    rho = float((one * two).sum()) / norm if norm > 0 else 0.0
    down, up = (centred.value - low1, high2 - uncentred.value), (high1 - centred.value, uncentred.value - low2)
    half = [float(np.sqrt(max(x * x + y * y - 2 * rho * x * y, 0.0))) for x, y in (down, up)]
    value = centred.value - uncentred.value
    return Difference(value, value - half[0], value + half[1])


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
        Subtract each language's mean first (``value_uncentred`` is without that in either case).

    Returns
    -------
    Retrieval
        ``low``, ``high``: Wilson's interval with the jackknife variance over meanings; ``null_95``: 95 % quantile of the
        maximum over layers with permuted translations; ``chosen``: the layer chosen on ``select``; ``shift``: centred
        minus uncentred, paired over meanings.

    References
    ----------
    Baseline-adjusted similarity and retrieval: arXiv:2411.04986, arXiv:2410.05873.
    """
    rng = rng or np.random.default_rng(0)
    if permutations < 0:
        raise DataError(f"permutations={permutations}: expected 0 (no null) or more; the default is 200.")
    reference = [reference] if isinstance(reference, str) else reference
    known = list(dict.fromkeys(labels_of(acts)["language"]))
    for language in reference:
        if language not in known:
            raise DataError(f"Reference language {language!r} is not in these activations; present: {known}.{did_you_mean(language, known)}")
    if not reference:
        raise DataError("No reference language given. Expected at least one language known to be understood; pass reference=['en'].")
    same_draw = deepcopy(rng)  # the control is asked about the same meanings
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
        other = _measure(control, reference, split, centre, 0, max_meanings, positions, same_draw).table
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
        units, bare = unit_states(states), unit_states(states, centre=False)
        for a, language in enumerate(cells.languages):
            centred = _against(units, a, references, shuffles if centre else none)
            uncentred = _against(bare, a, references, none if centre else shuffles)
            found = centred if centre else uncentred
            key = position, language
            highest[key] = np.maximum(highest.get(key, -np.inf), found.null)
            low, high = proportion_interval(found.value, found.without)
            bare_low, bare_high = proportion_interval(uncentred.value, uncentred.without)
            shift = shift_of(centred, uncentred)
            rows.append(
                {
                    "position": position,
                    "layer": layer,
                    "language": language,
                    "tier": cells.tiers[language],
                    "value": found.value,
                    "low": low,
                    "high": high,
                    "n": n,
                    "chance": 1 / n,
                    "value_uncentred": uncentred.value,
                    "uncentred_low": bare_low,
                    "uncentred_high": bare_high,
                    "shift": shift.difference,
                    "shift_low": shift.low,
                    "shift_high": shift.high,
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
