"""What a repair does on prompts of other sets: refusal without it and with it, language by language."""

from __future__ import annotations

import itertools

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.method_lines import kinds_of
from workbench.plots.panels import Rows, connectors, dots, panels
from workbench.plots.style import CLASS_SYMBOLS, in_order, span, table_of, titled
from workbench.results import Result

#: Marks of methods other than the model itself and the first gate; the ceiling is a stroke.
_CEILING, _MARKS = "line-ns-open", ("triangle-up-open", "square-open", "star-open", "hexagon-open", "pentagon-open")
_SHOWN = {"harmful_refusal": ("harmful refused", True), "harmless_refusal": ("harmless refused", False)}


def elsewhere(result: Result | pd.DataFrame) -> go.Figure:
    """Draw refusal without a repair and with each method on every other set of prompts, a panel per set and class.

    Parameters
    ----------
    result : ElsewhereRates or DataFrame
        ``set, language, tier, method, statistic, value, low, high, n``.

    Returns
    -------
    Figure
        Shares of prompts, with intervals; the pale line joins what a language had to what it gets from the first gate. A class that a set does not
        have has no panel.
    """
    columns = ("set", "language", "tier", "method", "statistic", "value", "low", "high", "n")
    table = table_of(result, columns, figure="elsewhere")
    table = table[~table["language"].astype(str).str.startswith("mean ")]
    kinds = kinds_of(table["method"])
    plain = next((method for method, kind in kinds.items() if kind == "model"), None)
    first = next((method for method, kind in kinds.items() if kind == "gate"), None)
    rows = Rows.of(table)
    known = table[table["value"].notna()]
    shown = [(s, name) for s in in_order(known["set"]) for name in _SHOWN if ((known["set"] == s) & (known["statistic"] == name)).any()]
    fig, cells = panels([f"{one}: {_SHOWN[name][0]}" for one, name in shown], shared_yaxes=True)
    others = [method for method in kinds if method not in (plain, first)]
    turns = itertools.cycle(_MARKS)
    marks = {method: _CEILING if kinds[method] == "ceiling" else next(turns) for method in others}
    for (one, name), cell in zip(shown, cells, strict=True):
        here = known[(known["set"] == one) & (known["statistic"] == name)]
        if plain and first:
            wide = here[here["method"].isin([plain, first])].pivot_table(index=["language", "tier"], columns="method", values="value", observed=True)
            if {plain, first} <= set(wide.columns):
                connectors(fig, rows, wide.reset_index(), cell, plain, first)
        legend, symbol = cell == cells[0], CLASS_SYMBOLS[_SHOWN[name][1]]
        looks = {plain: ("x-thin-open", 0.2), first: (symbol, -0.2)} | {method: (mark, 0.0) for method, mark in marks.items()}
        for method, (mark, offset) in looks.items():
            if method is not None:
                dots(
                    fig, rows, here[here["method"] == method], cell, name=method, symbol=mark, offset=offset, legend=legend, form=".0%",
                    opacity=1.0 if method == first else 0.65,
                )  # fmt: skip
    rows.label(fig)
    fig.update_xaxes(title_text="refused (share of prompts)", range=[-0.03, 1.03], tickformat=".0%")
    down = cells[-1].row if cells else 1
    height = 182 + (rows.height - 100) * down
    title, note = _title(known, plain, first)
    titled(fig, title, tiers=rows.languages.values(), note=note, height=height)
    return fig.update_layout(margin_t=146)  # a legend of two lines


def _title(table: pd.DataFrame, plain: str | None, first: str | None) -> tuple[str, str]:
    """Return the title, which has room for one class, and the other class for the line below it."""
    told = []
    for name, (what, _) in _SHOWN.items():
        rows = table[table["statistic"] == name]
        before, after = (rows.loc[rows["method"] == method, "value"] for method in (plain, first))
        if len(before) and len(after):
            told.append(f"{what} {span(before, '.0%')}, then {span(after, '.0%')}")
    return "Other prompts: " + (told[0] if told else "refusal by method"), "; ".join(told[1:])
