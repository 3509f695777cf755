"""How much of the spread of hidden states is harm, and is harm the same axis in every language?

The two-factor decomposition (:mod:`workbench.geometry.variance`) with the meanings nested in their class: language a, class k
(harmful, harmless), meaning i within class k::

    h[a, k, i] = g + A[a] + H[k] + AH[a, k] + M[k, i] + R[a, k, i]

Harm and meaning within harm together are the two-factor meaning, language x harm and the rest together its interaction. The
components of harm, v_H, and of language x harm, v_LH, give one number for "safety does not transfer"::

    transfer index = v_LH / (v_H + v_LH) = 1 - (mean product of the harm vectors of two languages) / (their mean squared length)

where the harm vector of a language leads from its harmless to its harmful mean, and both means are freed of what the draw of
meanings adds (:mod:`workbench.geometry.nested`). No published decomposition of this form was found: it is this workbench's
own, and so are the index and its interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.stats import t

from workbench.errors import DataError
from workbench.geometry.cells import complete_cells, each_layer, provenance_of
from workbench.geometry.nested import FACTORS, ClassSums, squares_of_labels
from workbench.geometry.sums import MeaningProducts
from workbench.geometry.tiles import SCALINGS, one_state, require_scalings
from workbench.geometry.variance import shares_of
from workbench.results import Result
from workbench.statistics import jackknife_influence, jackknife_interval, max_quantile

_OF_HARM = [1, 2]  # places of the factors that the labels of harm decide
_COLUMNS = ("share", "low", "high", "component", "null_share", "null_95", "p", "index", "index_low", "index_high")


@dataclass(frozen=True)
class HarmVariance(Result):
    """Shares of variance with a harm factor: position, scaling, layer, factor, share, low, high, component, ..."""

    required: ClassVar[tuple[str, ...]] = ("position", "scaling", "layer", "factor", *_COLUMNS)

    def summary(self) -> pd.DataFrame:
        """Return the shares of unit-norm states as one row per position and layer, with the transfer index."""
        unit = self.table[self.table["scaling"] == "unit"] if (self.table["scaling"] == "unit").any() else self.table
        wide = unit.pivot_table(index=["position", "layer"], columns="factor", values="share", observed=True)[list(FACTORS)]
        index = unit[unit["factor"] == "language x harm"].set_index(["position", "layer"])["index"].rename("transfer index")
        return wide.join(index).reset_index()

    def transfer_index(self) -> pd.DataFrame:
        """Say in one number per layer how far harm fails to transfer between languages.

        Returns
        -------
        DataFrame
            position, scaling, layer, index, low, high. 0: the vector from harmless to harmful is the same in every language;
            1: each language has its own. NaN where neither component is above zero; ``low`` and ``high`` NaN below three
            meanings in a class.
        """
        rows = self.table[self.table["factor"] == "language x harm"]
        renamed = rows[["position", "scaling", "layer", "index", "index_low", "index_high"]]
        return renamed.rename(columns={"index_low": "low", "index_high": "high"}).reset_index(drop=True)


def _influence(value: np.ndarray, without: np.ndarray, harmful: np.ndarray) -> np.ndarray:
    """Centre the jackknife's influences within each class: class sizes are given, not drawn."""
    influence = jackknife_influence(value, without)
    for of_class in (harmful, ~harmful):
        influence[of_class] -= influence[of_class].mean(axis=0)
    return influence


def ratio_interval(
    part: float, whole: float, part_influence: Float[np.ndarray, " meaning"], whole_influence: Float[np.ndarray, " meaning"], confidence: float = 0.95
) -> tuple[float, float]:
    """Give the interval of part / whole within 0 to 1: all ratios r for which part - r whole does not differ from zero.

    It widens to the whole scale where ``whole`` itself may be zero, where value -/+ error would be too narrow.

    References
    ----------
    Fieller 1954, J. R. Stat. Soc. B 16:175, with jackknife variances.
    """
    n = len(part_influence)
    if n < 3 or not np.isfinite([*part_influence, *whole_influence]).all():
        return float("nan"), float("nan")
    quantile = float(t.ppf(0.5 + confidence / 2, n - 1)) ** 2 / (n * (n - 1))
    square = whole**2 - quantile * float(whole_influence @ whole_influence)
    linear = part * whole - quantile * float(part_influence @ whole_influence)
    constant = part**2 - quantile * float(part_influence @ part_influence)
    ends = np.array([0.0, 1.0, *np.clip(np.real(np.roots([square, -2 * linear, constant])), 0.0, 1.0)])
    rounding = 1e-9 * (abs(square) + abs(linear) + abs(constant))
    inside = ends[square * ends**2 - 2 * linear * ends + constant <= rounding]
    if len(inside):
        return float(inside.min()), float(inside.max())
    nearest = float(np.clip(part / whole, 0.0, 1.0)) if whole > 0 else float("nan")
    return nearest, nearest


def _transfer(variances: np.ndarray, without: np.ndarray, harmful: np.ndarray) -> tuple[float, float, float]:
    """Return the transfer index with its interval; NaN where neither variance is above zero (and the rounding of float32)."""
    harm, both = np.maximum(variances[[1, 2]], 0.0)
    if not harm + both > 1e-7 * np.maximum(variances, 0.0).sum():
        return (np.nan,) * 3
    index = both / (harm + both)
    influence = _influence(variances, without, harmful)
    low, high = ratio_interval(variances[2], variances[1] + variances[2], influence[:, 2], influence[:, 1] + influence[:, 2])
    return index, np.fmin(low, index) if np.isfinite(low) else np.nan, np.fmax(high, index) if np.isfinite(high) else np.nan


def _columns(states: np.ndarray, scaling: str, harmful: np.ndarray, shuffled: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the columns of one layer, one value per factor, and the shares of harm and language x harm under shuffled labels."""
    columns = {name: np.full(len(FACTORS), np.nan) for name in _COLUMNS}
    if one_state(states, scaling):
        return columns, np.full((len(shuffled), 2), np.nan)
    products = MeaningProducts.of(states, scaling)
    whole, without = ClassSums.of(products, harmful), ClassSums.of(products, harmful, without_each=True)
    squares, variances = whole.squares()[0], whole.variances()[0]
    total, n = squares.sum() or np.nan, len(harmful)
    columns["share"] = shares_of(squares[None])[0]
    low, high = jackknife_interval(columns["share"], _influence(columns["share"], shares_of(without.squares()), harmful))
    columns["low"], columns["high"] = np.maximum(low, 0.0), np.minimum(high, 1.0)
    columns["component"] = shares_of(variances[None])[0]
    # labels that mean nothing: each of the n - 1 contrasts between meanings is as large as any other
    columns["null_share"][_OF_HARM] = np.maximum(squares[[1, 2]] + squares[[3, 4]], 0.0) / (n - 1) / total
    index = _transfer(variances, without.variances(), harmful)
    columns["index"][2], columns["index_low"][2], columns["index_high"][2] = index
    return columns, squares_of_labels(products, shuffled) / total


def harm_variance(
    acts: xr.Dataset,
    *,
    split: str | None = None,
    scalings: Sequence[str] = SCALINGS,
    positions: Sequence[str] | None = None,
    permutations: int = 200,
    rng: np.random.Generator | None = None,
) -> HarmVariance:
    """Measure how much of the variance is harm, and how much of harm belongs to single languages, layer by layer.

    Parameters
    ----------
    acts : Dataset
        Activations (prompt, layer, position, hidden) of a complete grid with both classes; may be lazy, one layer is read at a
        time. The cost grows with the square of the number of meanings.
    split : str, optional
        Only the meanings of this split; default all.
    scalings : sequence of str
        Of "raw", "unit", "standardised". A few dimensions of large variance dominate "raw".
    permutations : int
        Draws of harm labels shuffled over meanings, the same in all languages, layers and scalings; 0 leaves the null out.
    rng : Generator, optional
        Default ``default_rng(0)``.

    Returns
    -------
    HarmVariance
        Per factor "language", "harm", "language x harm", "meaning" (within its class) and "rest": ``share`` of the sum of
        squares (0 to 1, the five sum to 1) with ``low`` and ``high``, the jackknife over meanings within their classes, given
        these languages; ``component``, free of bias, cut at zero and normalised. For harm and language x harm:
        ``null_share``, what shuffled labels reach on average; ``null_95``, the 95 % quantile of the largest share of any layer
        under shuffled labels; ``p``, how often that is at least the share here (so it is corrected for the number of layers).
        On the row of language x harm also ``index`` with ``index_low`` and ``index_high``, see :meth:`HarmVariance.transfer_index`.
        Where all states are one constant token the values are NaN and ``defined`` is False.

    Raises
    ------
    DataError
        Missing cells (named), fewer than two languages or two meanings of a class, states that are not finite, constant
        features under "standardised".

    Notes
    -----
    Shuffled labels test "no class differs in the mean over languages" (harm) and "no language's harm vector differs from the
    others'" (language x harm): the first share depends on the means of meanings alone, the second on what is left without
    them, so neither factor disturbs the other's test.
    """
    require_scalings(scalings)
    if permutations < 0:
        raise DataError(f"permutations={permutations}: expected 0 (no null) or more; the default is 200.")
    rng = rng or np.random.default_rng(0)
    cells = complete_cells(acts, split=split)
    harmful, n = cells.harmful, len(cells.meanings)
    if not 2 <= harmful.sum() <= n - 2:
        raise DataError(
            f"Got {int(harmful.sum())} harmful and {int((~harmful).sum())} harmless meanings. Expected at least two of each: harm cannot "
            "be told from a single meaning. Capture both classes, or use variance_shares."
        )
    shuffled = rng.permuted(np.broadcast_to(harmful, (permutations, n)), axis=1)
    rows: list[dict[str, Any]] = []
    highest: dict[tuple[str, str], np.ndarray] = {}
    for layer, position, states in each_layer(acts, cells.rows, positions=positions, dtype=None):
        for scaling in scalings:
            columns, drawn = _columns(states, scaling, harmful, shuffled)
            highest[position, scaling] = np.fmax(highest.get((position, scaling), np.nan), drawn)
            where = {"position": position, "scaling": scaling, "layer": layer}
            ends = {"n": n, "defined": bool(np.isfinite(columns["share"]).all())}
            rows += [{**where, "factor": factor, **{c: v[f] for c, v in columns.items()}, **ends} for f, factor in enumerate(FACTORS)]
    table = pd.DataFrame(rows).sort_values(["position", "scaling", "layer"], kind="stable", ignore_index=True)
    if permutations:
        _judge(table, highest)
    return HarmVariance(
        table,
        provenance_of(
            acts,
            split=split,
            languages=cells.languages,
            n_harmful=int(harmful.sum()),
            n_harmless=int((~harmful).sum()),
            permutations=permutations,
            interval="jackknife over meanings within class, 95 %",
            null="harm labels shuffled over meanings, maximum over layers",
        ),
    )


def _judge(table: pd.DataFrame, highest: dict[tuple[str, str], np.ndarray]) -> None:
    """Fill in ``null_95`` and ``p`` from the largest share of any layer under each shuffle."""
    for (position, scaling), drawn in highest.items():
        for column, f in enumerate(_OF_HARM):
            here = (table["position"] == position) & (table["scaling"] == scaling) & (table["factor"] == FACTORS[f]) & table["defined"]
            share = table.loc[here, "share"].to_numpy()
            table.loc[here, "null_95"] = float(max_quantile(drawn[:, column]))
            # a shuffle that gives the labels back reaches the share itself, up to rounding
            reached = drawn[:, column, None] >= share * (1 - 1e-6)
            table.loc[here, "p"] = (1 + reached.sum(axis=0)) / (1 + len(drawn))
