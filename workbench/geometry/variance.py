"""How much of the spread of hidden states is language, how much is meaning, and how much is neither.

Two-way analysis of variance on the complete grid of L languages x N meanings, per layer and position::

    h[a, i] = g + A[a] + B[i] + C[a, i]
    SS_total = N sum|A|^2 + L sum|B|^2 + sum|C|^2          (exact)

A share is one sum of squares over the total. Shares of pure noise are not zero ((L-1)/(LN-1) for language), so each
row carries that null share and a component freed of the bias: (MS_A - MS_C)/N, (MS_B - MS_C)/L, MS_C, cut at zero and
normalised to one. The interaction holds language-specific meaning and noise, which one prompt per cell cannot separate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import all_one_state, complete_cells, each_layer, provenance_of
from workbench.results import Result
from workbench.statistics import jackknife_influence, jackknife_interval

FACTORS = ("language", "meaning", "interaction")
SCALINGS = ("raw", "unit", "standardised")
FEW_STATES = 8


@dataclass(frozen=True)
class VarianceShares(Result):
    """Shares of variance: position, scaling, layer, factor, share, low, high, component, null_share, ..."""

    required: ClassVar[tuple[str, ...]] = ("position", "scaling", "layer", "factor", "share", "low", "high", "component", "null_share")

    def summary(self) -> pd.DataFrame:
        """Return the shares of unit-norm states as one row per position and layer."""
        unit = self.table[self.table["scaling"] == "unit"] if (self.table["scaling"] == "unit").any() else self.table
        return unit.pivot_table(index=["position", "layer"], columns="factor", values="share", observed=True).reset_index()

    def bottleneck_index(self) -> pd.DataFrame:
        """Return v_meaning / (v_meaning + v_language) from the bias-free components (0 language only, 1 meaning only).

        Returns
        -------
        DataFrame
            position, scaling, layer, index; NaN where neither component is above zero.
        """
        wide = self.table.pivot_table(index=["position", "scaling", "layer"], columns="factor", values="component", dropna=False)
        total = wide["meaning"] + wide["language"]
        return (wide["meaning"] / total.where(total > 0)).rename("index").reset_index()


def null_shares(n_languages: int, n_meanings: int) -> dict[str, float]:
    """Return the shares that independent noise has on average.

    Examples
    --------
    >>> {k: round(v, 3) for k, v in null_shares(7, 10).items()}
    {'language': 0.087, 'meaning': 0.13, 'interaction': 0.783}
    """
    total = n_languages * n_meanings - 1
    language, meaning = (n_languages - 1) / total, (n_meanings - 1) / total
    return {"language": language, "meaning": meaning, "interaction": 1 - language - meaning}


def scale_states(states: Float[np.ndarray, "language meaning hidden"], scaling: str) -> Float[np.ndarray, "language meaning hidden"]:
    """Apply one of the scalings: raw, unit (each row of norm 1) or standardised (each dimension of variance 1).

    Raises
    ------
    DataError
        Unknown scaling, a row of norm zero (unit), or a dimension without variance (standardised; left out instead where
        there are fewer than 8 distinct states).
    """
    if scaling == "raw":
        return states
    if scaling == "unit":
        norms = np.linalg.norm(states, axis=-1, keepdims=True)
        if (norms == 0).any():
            raise DataError(
                f"{int((norms == 0).sum())} states are all zero and have no direction. Expected non-zero states; "
                "use scaling 'raw' or check the capture."
            )
        return states / norms
    if scaling == "standardised":
        flat = states.reshape(-1, states.shape[-1])
        spread = flat.std(axis=0)
        constant = np.flatnonzero(spread <= 1e-9 * np.maximum(np.abs(flat).max(axis=0), 1e-30))
        # with two or three distinct tokens, 16-bit embeddings agree in some dimension by chance: that is no broken capture
        if len(constant) and len(np.unique(flat, axis=0)) < FEW_STATES:
            return np.delete((flat - flat.mean(axis=0)) / np.where(spread > 0, spread, 1.0), constant, axis=1).reshape(*states.shape[:-1], -1)
        if len(constant):
            raise DataError(
                f"{len(constant)} of {len(spread)} features are constant over all prompts (first: {constant[:5].tolist()}) "
                "and cannot be standardised. "
                "Expected variance in each; pass scalings=('raw', 'unit')."
            )
        return (states - flat.mean(axis=0)) / spread
    raise DataError(f"Unknown scaling {scaling!r}; expected one of {list(SCALINGS)}.{did_you_mean(scaling, SCALINGS)}")


def sums_of_squares(states: Float[np.ndarray, "language meaning hidden"]) -> Float[np.ndarray, " factor"]:
    """Return SS of language, meaning and interaction; they sum to the total about the grand mean."""
    n_languages, n_meanings, _ = states.shape
    centred = states - states.mean(axis=(0, 1))
    by_language, by_meaning = centred.mean(axis=1), centred.mean(axis=0)
    rest = centred - by_language[:, None] - by_meaning[None]
    return np.array([n_meanings * (by_language**2).sum(), n_languages * (by_meaning**2).sum(), (rest**2).sum()])


def shares_without_each_meaning(states: Float[np.ndarray, "language meaning hidden"]) -> Float[np.ndarray, "meaning factor"]:
    """Return the shares with each meaning left out in turn, from dot products with the sums (no meaning x meaning table)."""
    n_languages, n, _ = states.shape
    states = states - states.mean(axis=(0, 1))
    by_meaning = states.mean(axis=0)
    rest = states - by_meaning
    own = np.einsum("id,id->i", by_meaning, by_meaning)
    own_squares = np.einsum("aid,aid->i", rest, rest, optimize=True)
    total_meaning, total_rest = by_meaning.sum(axis=0), rest.sum(axis=1)
    # |sum without i|^2 = |sum|^2 - 2 <sum, i> + |i|^2
    left_meaning = total_meaning @ total_meaning - 2 * by_meaning @ total_meaning + own
    left_rest = (total_rest**2).sum() - 2 * np.einsum("aid,ad->i", rest, total_rest, optimize=True) + own_squares

    language = left_rest / (n - 1)
    meaning = n_languages * (own.sum() - own - left_meaning / (n - 1))
    return _shares(np.stack([language, meaning, own_squares.sum() - own_squares - language], axis=1))


def shares_without_each_language(states: Float[np.ndarray, "language meaning hidden"]) -> Float[np.ndarray, "language factor"]:
    """Return the shares with each language left out in turn, in the same way."""
    n_languages, n, _ = states.shape
    states = states - states.mean(axis=(0, 1))
    by_language, by_meaning = states.sum(axis=1), states.sum(axis=0)
    squares = np.einsum("aid,aid->ai", states, states, optimize=True)
    across = np.einsum("aid,id->ai", states, by_meaning, optimize=True)
    left_meaning = ((by_meaning**2).sum(axis=1) - 2 * across + squares).sum(axis=1) / (n_languages - 1)
    sums = (by_language**2).sum(axis=1)
    grand = ((by_language.sum(axis=0) - by_language) ** 2).sum(axis=1) / ((n_languages - 1) * n)
    language = (sums.sum() - sums) / n - grand
    meaning = left_meaning - grand
    total = squares.sum() - squares.sum(axis=1) - grand
    return _shares(np.stack([language, meaning, total - language - meaning], axis=1))


def _shares(squares: Float[np.ndarray, "case factor"]) -> Float[np.ndarray, "case factor"]:
    squares = np.maximum(squares, 0.0)
    total = squares.sum(axis=1, keepdims=True)
    return squares / np.where(total > 0, total, np.nan)


def components(squares: Float[np.ndarray, " factor"], n_languages: int, n_meanings: int) -> Float[np.ndarray, " factor"]:
    """Return bias-free variance components of language, meaning and interaction, summing to one."""
    mean_squares = squares / np.array([n_languages - 1, n_meanings - 1, (n_languages - 1) * (n_meanings - 1)])
    free = np.array([(mean_squares[0] - mean_squares[2]) / n_meanings, (mean_squares[1] - mean_squares[2]) / n_languages, mean_squares[2]])
    free = np.maximum(free, 0.0)
    return free / free.sum()


def _rows(states: np.ndarray) -> list[dict[str, float | str]]:
    n_languages, n_meanings, _ = states.shape
    squares = sums_of_squares(states)
    share = squares / squares.sum()
    low, high = jackknife_interval(share, jackknife_influence(share, shares_without_each_meaning(states)))
    free, null = components(squares, n_languages, n_meanings), null_shares(n_languages, n_meanings)
    left = np.full((1, 3), np.nan)
    if n_languages > 2:
        left = shares_without_each_language(states)
    return [
        {
            "factor": factor,
            "share": share[f],
            "low": max(low[f], 0.0) if np.isfinite(low[f]) else np.nan,
            "high": min(high[f], 1.0) if np.isfinite(high[f]) else np.nan,
            "component": free[f],
            "null_share": null[factor],
            "leave_out_low": left[:, f].min(),
            "leave_out_high": left[:, f].max(),
        }
        for f, factor in enumerate(FACTORS)
    ]


def variance_shares(
    acts: xr.Dataset, *, split: str | None = None, scalings: Sequence[str] = SCALINGS, positions: Sequence[str] | None = None
) -> VarianceShares:
    """Measure how much of the variance belongs to language, to meaning and to neither, layer by layer.

    Parameters
    ----------
    acts : Dataset
        Activations (prompt, layer, position, hidden) of a complete grid; may be lazy, one layer is read at a time.
    split : str, optional
        Only the meanings of this split; default all.
    scalings : sequence of str
        Of "raw", "unit", "standardised". A few dimensions of large variance dominate "raw".

    Returns
    -------
    VarianceShares
        ``low`` and ``high`` are jackknife intervals over meanings, given these languages; ``leave_out_low`` and
        ``leave_out_high`` the range over leaving out one language. Where all states are one constant token, the shares
        are NaN and ``defined`` is False.

    Raises
    ------
    DataError
        Missing cells (named), fewer than two languages or meanings, states that are not finite, constant features
        under "standardised".
    """
    for scaling in scalings:
        if scaling not in SCALINGS:
            raise DataError(f"Unknown scaling {scaling!r}; expected one of {list(SCALINGS)}.{did_you_mean(scaling, SCALINGS)}")
    cells = complete_cells(acts, split=split)
    n_languages, n_meanings = cells.rows.shape
    null = null_shares(n_languages, n_meanings)
    undefined = [
        {
            "factor": f,
            "share": np.nan,
            "low": np.nan,
            "high": np.nan,
            "component": np.nan,
            "null_share": null[f],
            "leave_out_low": np.nan,
            "leave_out_high": np.nan,
        }
        for f in FACTORS
    ]
    rows = []
    for layer, position, states in each_layer(acts, cells.rows, positions=positions):
        defined = not all_one_state(states)
        for scaling in scalings:
            scaled = scale_states(states, scaling) if defined else states
            # rows that differ in length only are one state at unit norm
            found = undefined if all_one_state(scaled) else _rows(scaled)
            rows += [
                {"position": position, "scaling": scaling, "layer": layer, **row, "n": n_meanings, "defined": found is not undefined} for row in found
            ]
    table = pd.DataFrame(rows).sort_values(["position", "scaling", "layer"], kind="stable", ignore_index=True)
    return VarianceShares(
        table, provenance_of(acts, split=split, languages=cells.languages, n_meanings=n_meanings, interval="jackknife over meanings, 95 %")
    )
