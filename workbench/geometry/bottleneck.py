"""Is there a layer in the middle that is organised by meaning, and between which layers does it lie?

The curve judged is difference = S_meaning - S_language (see :mod:`workbench.geometry.silhouette`). A bottleneck is its
maximum over the layers between 25 % and 75 % of depth, if

1. it is an extremum: no layer outside that window, the ends apart, is higher (paired intervals, Bonferroni over those
   layers: one clearly higher rules a bottleneck out, one higher within its interval leaves it open),
2. it beats both ends (the first layer where the statistic is defined, and the last layer) by at least ``margin``, and
   the paired intervals of both differences exclude zero,
3. it beats the permutation null: meaning labels permuted within each language, maximum over the same layers.

"Best layer" is always found by an argmax, also in noise, so a layer without these three is not reported. The layer
range reaches from the first to the last candidate that may be the best: multiple comparisons with the best (Hsu 1984,
Ann. Stat. 12:1136), whose critical value is the quantile of the largest paired t over candidates under meaning weights.
Neighbouring layers are nearly the same states, which this uses and a Bonferroni correction does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import DataError
from workbench.geometry.silhouette import Silhouettes, silhouettes
from workbench.results import Result
from workbench.statistics import bootstrap_weights, jackknife_interval, max_quantile

WINDOW = (0.25, 0.75)
MARGIN = 0.05


@dataclass(frozen=True)
class Bottleneck(Result):
    """One row per position: layer, low, high (layer range), verdict, difference, beats_first, beats_last, null_95, p, reason."""

    required: ClassVar[tuple[str, ...]] = (
        "position",
        "layer",
        "low",
        "high",
        "verdict",
        "difference",
        "beats_first",
        "beats_first_low",
        "beats_first_high",
        "beats_last",
        "beats_last_low",
        "beats_last_high",
        "null_95",
        "p",
        "reason",
    )

    def summary(self) -> pd.DataFrame:
        """Return position, verdict, layer range and reason."""
        return self.table[["position", "verdict", "layer", "low", "high", "reason"]]


def _undefined(position: str, reason: str) -> dict[str, Any]:
    empty = {c: np.nan for c in Bottleneck.required}
    return {**empty, "position": position, "verdict": "undefined", "reason": reason}


def _layer_range(
    curve: np.ndarray, influence: np.ndarray, candidates: np.ndarray, confidence: float, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the indices of the candidates that no other one clearly beats; the highest is always among them."""
    n, own = len(influence), influence[:, candidates]
    shared = own.T @ own / (n * (n - 1))
    drawn = (bootstrap_weights(n, resamples, rng) - 1) @ own / np.sqrt(n * (n - 1))
    drawn /= np.sqrt(rng.chisquare(n - 1, size=(resamples, 1)) / (n - 1))  # the errors are estimated: multivariate t, not normal
    near = []
    for m, candidate in enumerate(candidates):
        error = np.sqrt(np.maximum(np.diag(shared) + shared[m, m] - 2 * shared[m], 0.0))
        others = error > 1e-12
        lead = ((curve[candidates] - curve[candidate])[others] / error[others]).max(initial=0.0)
        under_weights = ((drawn - drawn[:, [m]])[:, others] / error[others]).max(axis=1, initial=0.0)
        if lead <= np.quantile(under_weights, confidence):
            near.append(candidate)
    return np.array(near)


def _rival(layers: np.ndarray, curve: np.ndarray, influence: np.ndarray, candidates: np.ndarray, best: int, confidence: float) -> tuple[str, bool]:
    """Return the layer between the ends but outside the window that is higher than the best one (or ""), and whether clearly."""
    outer = np.setdiff1d(np.arange(1, len(curve) - 1), candidates)
    if not len(outer):
        return "", False
    above, level = curve[outer] - curve[best], 1 - (1 - confidence) / len(outer)
    low, high = jackknife_interval(above, influence[:, outer] - influence[:, [best]], level)
    clear = low > 0
    at = int(np.where(clear, above, -np.inf).argmax() if clear.any() else above.argmax())
    if not above[at] > 0:
        return "", False
    return f"layer {layers[outer[at]]} is above layer {layers[best]} by {above[at]:+.2f} [{low[at]:+.2f}, {high[at]:+.2f}]", bool(clear[at])


def _judge(
    position: str,
    layers: np.ndarray,
    depth: int,
    curve: np.ndarray,
    influence: np.ndarray,
    null: np.ndarray,
    margin: float,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    defined = np.isfinite(curve)
    if not defined.any():
        return _undefined(position, "All states at this position are one constant token in every layer, so nothing can be compared.")
    layers, curve, influence, null = layers[defined], curve[defined], influence[:, defined], null[:, defined]
    inside = (layers >= WINDOW[0] * depth) & (layers <= WINDOW[1] * depth)
    inside[[0, -1]] = False
    candidates = np.flatnonzero(inside)
    if len(candidates) == 0 or not np.isfinite(influence).all():
        return _undefined(
            position,
            "Needs a captured layer between 25 % and 75 % of depth, one on either side, and at least 3 meanings; layers where defined: "
            f"{layers.tolist()}.",
        )

    best = int(candidates[curve[candidates].argmax()])
    near = _layer_range(curve, influence, candidates, confidence, resamples, rng)
    rise = {}
    for name, end in (("first", 0), ("last", len(layers) - 1)):
        low, high = jackknife_interval(curve[best] - curve[end], influence[:, best] - influence[:, end], confidence)
        rise[name] = (float(curve[best] - curve[end]), float(low), float(high))
    rival, leaves = _rival(layers, curve, influence, candidates, best, confidence)
    highest = null[:, candidates].max(axis=1)
    p = (1 + int((highest >= curve[best]).sum())) / (1 + len(highest)) if len(highest) else float("nan")

    layer = int(layers[best])
    row: dict[str, Any] = {
        "position": position,
        "layer": layer,
        "low": int(layers[near.min()]),
        "high": int(layers[near.max()]),
        "verdict": "",
        "difference": float(curve[best]),
        "null_95": float(max_quantile(highest)) if len(highest) else float("nan"),
        "p": p,
        "reason": "",
    }
    for name, (value, bottom, top) in rise.items():
        row |= {f"beats_{name}": value, f"beats_{name}_low": bottom, f"beats_{name}_high": top}
    row["verdict"], row["reason"] = _verdict(layer, int(layers[0]), int(layers[-1]), rise, p, rival, leaves, margin)
    return row


def _verdict(
    layer: int, first: int, last: int, rise: dict[str, tuple[float, float, float]], p: float, rival: str, leaves: bool, margin: float
) -> tuple[str, str]:
    def told(name: str, end: int) -> str:
        value, low, high = rise[name]
        return f"layer {end} by {value:+.2f} [{low:+.2f}, {high:+.2f}]"

    above = all(value > 0 for value, _, _ in rise.values())
    both = f"Layer {layer} {'is above' if above else 'differs from'} {told('first', first)} and {told('last', last)}"
    if any(high < margin for _, _, high in rise.values()):
        return "no bottleneck", f"{both}; at least {margin:.2f} over both ends is asked for and ruled out."
    if leaves:
        return "no bottleneck", f"The difference is higher outside 25-75 % of depth: {rival}, so layer {layer} is no extremum."
    if not np.isfinite(p):
        return "not enough evidence", f"{both}, but no permutation null was computed; pass permutations=200."
    if p > 0.05:
        return (
            "no bottleneck",
            f"{both}, but meaning labels permuted within languages do as well there (p = {p:.3f}), so this is the language curve alone.",
        )
    if any(value < margin or low <= 0 for value, low, _ in rise.values()):
        return (
            "not enough evidence",
            f"{both}; an interval reaches across the criterion (at least {margin:.2f}, excluding zero). More meanings would decide.",
        )
    if rival:
        return "not enough evidence", f"{both}, but outside 25-75 % of depth {rival}; more meanings would decide."
    return "bottleneck", f"{both}, and above permuted meaning labels (p = {p:.3f})."


def find_bottleneck(
    source: Silhouettes | xr.Dataset,
    *,
    margin: float = MARGIN,
    confidence: float = 0.95,
    resamples: int | None = None,
    n_layers: int | None = None,
    rng: np.random.Generator | None = None,
    **options: Any,
) -> Bottleneck:
    """Decide per position whether a semantic bottleneck exists, and between which layers.

    Parameters
    ----------
    source : Silhouettes or Dataset
        What :func:`silhouettes` returned or ``Silhouettes.load`` read back, or activations (then ``options`` go to it).
    margin : float
        Least rise over both ends, in silhouette units.
    resamples : int, optional
        Draws of meaning weights for the layer range; default as in the silhouettes (1000).
    n_layers : int, optional
        Number of blocks, to which 25 % and 75 % refer; default the deepest captured layer.
    rng : Generator, optional
        Default ``default_rng(0)``.

    Returns
    -------
    Bottleneck
        ``verdict``: "bottleneck", "no bottleneck", "not enough evidence" (an interval reaches across the criterion) or
        "undefined"; ``reason`` says why in a sentence. ``layer`` is the best candidate whatever the verdict.

    Raises
    ------
    DataError
        Silhouettes of language-centred states; a result loaded from a file without the ``.safetensors`` beside it (it lacks what the decision needs).
    """
    if not (0 < confidence < 1 and margin >= 0):
        raise DataError(f"confidence={confidence}, margin={margin}: expected a share between 0 and 1, such as 0.95, and 0 or more.")
    rng = rng or np.random.default_rng(0)
    if not isinstance(source, Silhouettes):
        source = silhouettes(source, rng=rng, **options)
    if source.provenance.get("centred_by_language"):
        raise DataError("These silhouettes are of language-centred states, which look semantic even in noise. Expected uncentred ones.")
    if source.influence is None or source.null is None:
        raise DataError(
            "These silhouettes were loaded from a file that keeps the table only. Expected the .safetensors that Silhouettes.save() writes beside "
            "it, silhouettes(...) of this session, or the activations."
        )
    resamples = resamples or int(source.provenance.get("resamples", 1000))
    layers = source.influence["layer"].values.astype(int)
    depth = n_layers or int(layers.max())
    values = source.table[source.table["statistic"] == "difference"].set_index(["position", "layer"])["value"]
    rows = []
    for position in source.influence["position"].values:
        curve = np.array([values[position, k] for k in layers], dtype=np.float64)
        influence = source.influence.sel(position=position, statistic="difference").values.T
        rows.append(
            _judge(str(position), layers, depth, curve, influence, source.null.sel(position=position).values, margin, confidence, resamples, rng)
        )
    kept = {k: v for k, v in source.provenance.items() if k != "meanings"}
    return Bottleneck(pd.DataFrame(rows), {**kept, "margin": margin, "window": WINDOW, "resamples": resamples, "n_layers": depth})
