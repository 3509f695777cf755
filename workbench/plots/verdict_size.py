"""How many prompts a verdict needs: shares of verdicts and widths of intervals against the prompts that were scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, panels
from workbench.plots.style import INK, MUTED, f32, faded, in_order, table_of, titled
from workbench.results import Result

_WIDTH = "width of the 95 % interval"
#: The size that the title is about, where it was measured.
_TOLD = 100
#: Colours of outcomes, which no tier has, and of statistics.
_LOOKS = {
    "right": ("#2F6F4F", "solid", "circle"),
    "not enough evidence": ("#A8881C", "dash", "square"),
    "wrong": ("#9A3412", "dot", "x"),
    "selectivity gap": (INK, "solid", "circle"),
    "AUROC": ("#AA4499", "dash", "diamond"),
    "balanced accuracy lost": (MUTED, "dot", "square"),
}


def verdict_size(result: Result | pd.DataFrame) -> go.Figure:
    """Draw what share of verdicts is right, wrong or open, and how wide the intervals are, by the number of scored prompts.

    Parameters
    ----------
    result : Result or DataFrame
        ``scored`` (prompts per class and language), ``what`` (what was planted in the languages counted, or "width": of intervals), ``name`` (the
        outcome, or the statistic), ``value, low, high``; ``n`` counts languages over all runs.

    Returns
    -------
    Figure
        Shares, 0 to 1, with 95 % intervals over runs; medians of widths with their quartiles. The axis of prompts is logarithmic.
    """
    table = table_of(result, ("scored", "what", "name", "value", "low", "high", "n"), figure="verdict_size")
    shown = sorted(in_order(table["what"]), key=lambda what: (what == "width", what == "healthy", what))
    fig, cells = panels([_WIDTH if what == "width" else _planted(what) for what in shown], horizontal_spacing=0.1, vertical_spacing=0.2)
    explained: set[str] = set()
    for what, cell in zip(shown, cells, strict=True):
        here = table[table["what"] == what]
        for name in [name for name in _LOOKS if name in set(here["name"])]:
            _line(fig, here[here["name"] == name].sort_values("scored"), name, cell, legend=name not in explained)
            explained.add(name)
        share = what != "width"
        reach = [-0.04, 1.04] if share else [0, 1.06 * float(here["high"].max())]
        fig.update_yaxes(range=reach, title_text="share of languages (0 to 1)" if share and cell.col == 1 else "", row=cell.row, col=cell.col)
    sizes = sorted(int(size) for size in in_order(table["scored"]))
    fig.update_xaxes(type="log", tickvals=sizes, ticktext=[str(size) for size in sizes])
    fig.update_xaxes(title_text="scored prompts per class", row=cells[-1].row)
    titled(fig, _title(table, sizes), note="bars: 95 % interval over runs; of widths the quartiles", height=180 + 225 * cells[-1].row)
    return fig.update_layout(margin=dict(t=142))


def _planted(what: str) -> str:
    return "languages that are healthy" if what == "healthy" else f"languages that fail in {what}"


def _line(fig: go.Figure, rows: pd.DataFrame, name: str, cell: Cell, *, legend: bool) -> None:
    colour, dash, symbol = _LOOKS[name]
    x, y = f32(rows["scored"]), f32(rows["value"])
    fig.add_scatter(
        x=x, y=y, mode="lines+markers", name=name, legendgroup=name, showlegend=legend, line=dict(color=colour, dash=dash, width=2.2),
        marker=dict(symbol=symbol, size=8, color=colour),
        error_y=dict(
            type="data", symmetric=False, array=f32(rows["high"]) - y, arrayminus=y - f32(rows["low"]), thickness=1.2, width=3,
            color=faded(colour, 0.6),
        ),
        customdata=np.stack([f32(rows["low"]), f32(rows["high"]), f32(rows["n"])], axis=1),
        hovertemplate=f"{name}: %{{y:.2f}} [%{{customdata[0]:.2f}}, %{{customdata[1]:.2f}}]<br>%{{x:.0f}} scored prompts per class, "
        "%{customdata[2]:.0f} languages<extra></extra>",
        row=cell.row, col=cell.col,
    )  # fmt: skip


def _title(table: pd.DataFrame, sizes: list[int]) -> str:
    """Say what share of planted failures is named at one size: 100 prompts per class, else the largest."""
    size = _TOLD if _TOLD in sizes else sizes[-1]
    mine = table[(table["name"] == "right") & (table["scored"] == size) & ~table["what"].isin(["width", "healthy"])].set_index("what")["value"]
    if mine.empty:
        return "Verdicts by number of scored prompts"
    return f"Named at {size} prompts per class: " + ", ".join(f"{what} {share:.0%}" for what, share in mine.items())
