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

from workbench.geometry.cells import complete_cells, each_layer, provenance_of
from workbench.geometry.sums import GridSums
from workbench.geometry.tiles import SCALINGS, one_state, require_scalings
from workbench.results import Result
from workbench.statistics import jackknife_influence, jackknife_interval

FACTORS = ("language", "meaning", "interaction")
_COLUMNS = ("share", "low", "high", "component", "null_share", "leave_out_low", "leave_out_high")


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


def shares_of(squares: Float[np.ndarray, "case factor"]) -> Float[np.ndarray, "case factor"]:
    """Return the sums of squares of each row as shares of their total; NaN where there is no variance."""
    squares = np.maximum(squares, 0.0)
    total = squares.sum(axis=1, keepdims=True)
    return squares / np.where(total > 0, total, np.nan)


def components(squares: Float[np.ndarray, " factor"], n_languages: int, n_meanings: int) -> Float[np.ndarray, " factor"]:
    """Return bias-free variance components of language, meaning and interaction, summing to one (NaN without any variance)."""
    mean_squares = squares / np.array([n_languages - 1, n_meanings - 1, (n_languages - 1) * (n_meanings - 1)])
    free = np.array([(mean_squares[0] - mean_squares[2]) / n_meanings, (mean_squares[1] - mean_squares[2]) / n_languages, mean_squares[2]])
    return shares_of(free[None])[0]


def _columns(states: np.ndarray, scaling: str) -> dict[str, np.ndarray]:
    """Return the columns of one layer, one value per factor."""
    n_languages, n_meanings, _ = states.shape
    null = np.array(list(null_shares(n_languages, n_meanings).values()))
    if one_state(states, scaling):
        return {**dict.fromkeys(_COLUMNS, np.full(3, np.nan)), "null_share": null}
    sums = GridSums.of(states, scaling)
    squares = sums.squares()
    share = shares_of(squares[None])[0]
    low, high = jackknife_interval(share, jackknife_influence(share, shares_of(sums.squares_without_each_meaning())))
    left = shares_of(sums.squares_without_each_language()) if n_languages > 2 else np.full((1, 3), np.nan)
    free = components(squares, n_languages, n_meanings)
    return dict(zip(_COLUMNS, (share, np.maximum(low, 0), np.minimum(high, 1), free, null, left.min(axis=0), left.max(axis=0)), strict=True))


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
    require_scalings(scalings)
    cells = complete_cells(acts, split=split)
    rows = []
    for layer, position, states in each_layer(acts, cells.rows, positions=positions, dtype=None):
        for scaling in scalings:
            columns = _columns(states, scaling)
            where = {"position": position, "scaling": scaling, "layer": layer}
            ends = {"n": len(cells.meanings), "defined": bool(np.isfinite(columns["share"]).all())}
            rows += [{**where, "factor": factor, **{c: v[f] for c, v in columns.items()}, **ends} for f, factor in enumerate(FACTORS)]
    table = pd.DataFrame(rows).sort_values(["position", "scaling", "layer"], kind="stable", ignore_index=True)
    return VarianceShares(
        table, provenance_of(acts, split=split, languages=cells.languages, n_meanings=len(cells.meanings), interval="jackknife over meanings, 95 %")
    )
