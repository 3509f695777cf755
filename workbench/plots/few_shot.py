"""How many labels a repair needs: every method's rates against k, the harmful and harmless examples per language."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError
from workbench.plots.method_lines import Look, end_labels, kinds_of, looks_of, method_line, range_of
from workbench.plots.panels import Cell, band, panels
from workbench.plots.style import NULL, table_of, titled
from workbench.repair.kinds import GATE, PRICED_AS_GIVEN, UNPRICED
from workbench.results import Result

_SHOWN = {
    "selectivity": "selectivity",
    "balanced_accuracy": "balanced accuracy of the gate",
    "harmless_refusal": "harmless prompts refused",
    "answer_accuracy": "harmless prompts answered right",
}
_STAR = "*"
_PANEL = 260  # pixels
_COLUMNS = ("method", "k", "language", "tier", "statistic", "value", "low", "high", "draw_10", "draw_90", "n", "draws", "labels", "abstained")


def few_shot_curve(result: Result | pd.DataFrame, *, rates: Result | pd.DataFrame | None = None, language: str = "mean low") -> go.Figure:
    """Draw each method's rates by the number of labelled examples, a panel per rate.

    Parameters
    ----------
    result : FewShot or DataFrame
        ``method, k, language, tier, statistic, value, low, high, draw_10, draw_90, n, draws, labels, abstained``.
    rates : RepairRates or DataFrame, optional
        Where the model without a repair and the oracle gate are taken from, which no number of examples changes: they go across.
    language : str
        A tag, or "mean low" and the like.

    Returns
    -------
    Figure
        Shares, 0 to 1; .5 is chance for balanced accuracy. Bars: interval of the mean over draws. Shaded: where 10 to 90 % of single draws of
        examples lie. k = 0, no labels of the language, stands at the left; the steps of the axis are even.

    Raises
    ------
    DataError
        If nothing was measured of that language.
    """
    table = table_of(result, _COLUMNS, figure="few_shot_curve")
    rows = table[table["language"] == language]
    if rows.empty:
        known = sorted(set(table["language"].astype(str)))
        raise DataError(f"few_shot_curve: nothing was measured of {language!r}. Expected one of {', '.join(known)}.")
    ks = sorted({int(k) for k in rows["k"]})
    rows = rows.assign(layer=rows["k"].map({k: i for i, k in enumerate(ks)}))
    tier = str(rows["tier"].iloc[0])
    if rates is not None:
        rows = pd.concat(
            [rows, _bounds(table_of(rates, ("method", *_COLUMNS[2:8], "n"), figure="few_shot_curve"), language, rows)], ignore_index=True
        )
    looks = _looks(rows["method"], tier)
    shown = [name for name in _SHOWN if rows.loc[rows["statistic"] == name, "value"].notna().any()]
    fig, cells = panels([_SHOWN[name] for name in shown], horizontal_spacing=0.07, vertical_spacing=0.17)
    for statistic, cell in zip(shown, cells, strict=True):
        _panel(fig, rows[rows["statistic"] == statistic], looks, cell, last=len(ks) - 1)
        if statistic == "balanced_accuracy":
            fig.add_hline(y=0.5, line=dict(color=NULL, width=1.5, dash="dot"), row=cell.row, col=cell.col)
    room = max(1.0, 0.8 * len(ks))
    fig.update_xaxes(
        tickvals=list(range(len(ks))), ticktext=[str(k) for k in ks], range=[-0.3, len(ks) - 1 + room], title_text="k harmful + k harmless examples"
    )
    fig.update_yaxes(nticks=6)
    fig.update_yaxes(title_text="share (0 to 1)", col=1)
    unpriced = f" · {_STAR} {UNPRICED.strip(', ')}" if any(method.endswith(UNPRICED) for method in looks) else ""
    note = f"bars: 95 % interval · shaded: 10 to 90 % of single draws{unpriced}"
    return titled(fig, _title(rows, looks, ks, language), tiers=[tier], note=note, height=130 + _PANEL * cells[-1].row).update_layout(
        margin=dict(t=96, b=56)
    )


def headline_of(methods: Iterable[str]) -> str:
    """Return whose curve the figure is about: our gate at the price of a miss as given, which needs no label more than k; else our gate."""
    known = list(dict.fromkeys(methods))
    gates = [method for method, kind in kinds_of(known).items() if kind == "gate"]
    return next((method for method in (PRICED_AS_GIVEN, GATE, *gates) if method in known), known[0])


def _looks(methods: Iterable[str], tier: str) -> dict[str, Look]:
    """Give the headline the look of the first gate."""
    looks = looks_of(methods, tier)
    first, headline = next((method for method, look in looks.items() if look.kind == "gate"), None), headline_of(looks)
    if first is not None and looks[headline].kind == "gate":
        looks[first], looks[headline] = looks[headline], looks[first]
    return looks


def _bounds(rates: pd.DataFrame, language: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rates that do not depend on examples, as rows of the curve at its left end."""
    kinds = kinds_of(rates["method"])
    bounds = rates[rates["method"].map(kinds).isin(["model", "ceiling"]) & (rates["language"] == language)]
    return bounds.assign(k=rows["k"].min(), layer=0, draw_10=bounds["value"], draw_90=bounds["value"])


def _panel(fig: go.Figure, rows: pd.DataFrame, looks: dict[str, Look], cell: Cell, *, last: int) -> None:
    ends = {}
    parts = {method: rows[rows["method"] == method].sort_values("layer", kind="stable") for method in looks}
    for method, look in looks.items():
        spread = parts[method].assign(low=parts[method]["draw_10"], high=parts[method]["draw_90"])
        if look.kind in ("gate", "rival") and (spread["high"] > spread["low"]).any():
            band(fig, spread, "value", cell, colour=look.colour, group=method, alpha=0.1 if look.kind == "gate" else 0.05)
    for method, look in looks.items():
        part = parts[method]
        if not part["value"].notna().any():
            continue
        method_line(fig, part, method, look, cell, at="k", told="k =", reach=(0, last))
        end = part[part["value"].notna()].iloc[-1]
        ends[method] = (float(last) if len(part) == 1 else float(end["layer"]), float(end["value"]))
    between = range_of(rows)
    fig.update_yaxes(range=between, row=cell.row, col=cell.col)
    short = {method: method.replace(UNPRICED, _STAR) for method in looks}  # a label has room for two or three words
    ends, looks = {short[method]: end for method, end in ends.items()}, {short[method]: look for method, look in looks.items()}
    end_labels(fig, ends, looks, cell, x=last + 0.35, between=between, pixels=_PANEL - 80)


def _title(rows: pd.DataFrame, looks: dict[str, Look], ks: list[int], language: str) -> str:
    """Say what the headline reaches at the smallest, the next and the largest k."""
    where = f"{language.removeprefix('mean ')} tier" if language.startswith("mean ") else language
    mine = rows[(rows["method"] == headline_of(looks)) & (rows["statistic"] == "selectivity") & rows["value"].notna()].set_index("k")["value"]
    told = [k for k in dict.fromkeys([*ks[:2], ks[-1]]) if k in mine.index]
    if not told:
        return f"Rates by number of examples, {where}"
    numbers = ", ".join(f"{mine[k]:.2f} at k = {k}" for k in told).replace("-", "\u2212")
    return f"Selectivity by examples, {where}: {numbers}"
