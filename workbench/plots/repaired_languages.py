"""What each repair does to refusal, language by language: from the model as it is to the repaired one, harmful and harmless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError
from workbench.plots.panels import Cell, Rows, dots, panels
from workbench.plots.style import CLASS_NAMES, NULL, colour_of, f32, faded, in_order, span, table_of, titled
from workbench.repair.kinds import UNREPAIRED
from workbench.results import Result

_CLASSES = {"harmful_refusal": True, "harmless_refusal": False}
#: Hollow is the model as it is, filled the repaired one; the shape is the class.
_SYMBOLS = {True: ("diamond-open", "diamond"), False: ("circle-open", "circle")}
#: Heights of a class in its row, before and after, so that the intervals of both can be read.
_HEIGHTS = {True: (0.32, 0.12), False: (-0.12, -0.32)}
_ROW, _SHORTEST = 32, 0.06
_COLUMNS = ("method", "language", "tier", "statistic", "value", "low", "high", "n")
_EVERY, _UNSEEN = "mean of all", "mean unseen in training"


def repaired_languages(
    result: Result | pd.DataFrame,
    *,
    start: str = UNREPAIRED,
    seen: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    methods: Sequence[str] | None = None,
) -> go.Figure:
    """Draw refusal by language before and after each repair, a panel per repair.

    Parameters
    ----------
    result : RepairRates or DataFrame
        ``method, language, tier, statistic, value, low, high, n``.
    start : str
        The method that stands for the model as it is.
    seen : sequence of str, or mapping of method to such, optional
        Languages that training texts were in; the others are shaded. A method that a mapping lacks was not trained, and nothing is shaded.
    methods : sequence of str, optional
        The repairs to draw, in this order; default all.

    Returns
    -------
    Figure
        Shares of prompts, 0 to 1, with 95 % intervals. Hollow: the model as it is; filled: the repaired one; the arrow leads from one to the
        other where they are at least .06 apart. Diamonds are harmful prompts, circles harmless ones.

    Raises
    ------
    DataError
        No rates of ``start``, of a method asked for, or of any other method.
    """
    table = table_of(result, _COLUMNS, figure="repaired_languages")
    table = table[table["statistic"].isin(list(_CLASSES))]
    known = [str(method) for method in in_order(table["method"]) if method != start]
    shown = list(methods) if methods is not None else known
    lacking = [method for method in [start, *shown] if (method != start and method not in known) or not (table["method"] == method).any()]
    if lacking or not shown:
        raise DataError(
            f"repaired_languages: no refusal of {', '.join(map(repr, lacking)) or 'any repair'}; there are {', '.join(map(repr, [start, *known]))}. "
            "Expected rates of the model as it is and of at least one repair."
        )
    own = table[~table["language"].astype(str).str.startswith("mean ")]
    rows = Rows.of(own)
    trained = dict.fromkeys(shown, seen) if seen is not None and not isinstance(seen, Mapping) else dict(seen or {})
    unseen = {method: [tag for tag in rows.languages if tag not in set(trained[method])] for method in shown if method in trained}
    down = -(-len(shown) // 2)
    panel = 46 + _ROW * len(rows.languages)
    fig, cells = panels(
        shown,
        shared_yaxes=True,
        shared_xaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=44 / (panel * down) if down > 1 else 0,
    )
    for method, cell in zip(shown, cells, strict=True):
        _panel(fig, rows, own, (start, method), cell, unseen=unseen.get(method, []), legend=cell == cells[0])
    if any(unseen.values()):
        square = dict(symbol="square", size=12, color=faded(NULL, 0.5))
        fig.add_scatter(x=[None], y=[None], mode="markers", marker=square, name="unseen in training", row=1, col=1)
    rows.label(fig)
    fig.update_xaxes(range=[-0.05, 1.05], tickformat=".0%", tickvals=[0, 0.5, 1])
    for cell in cells:
        if not any(c.row > cell.row and c.col == cell.col for c in cells):
            fig.update_xaxes(title_text="refused (share of prompts)", showticklabels=True, row=cell.row, col=cell.col)
    title, note = _title(table, rows, start, shown)
    titled(fig, title, tiers=rows.languages.values(), note=note, height=196 + panel * down)
    return fig.update_layout(margin=dict(t=146, b=56))


def _panel(fig: go.Figure, rows: Rows, table: pd.DataFrame, methods: tuple[str, str], cell: Cell, *, unseen: Sequence[str], legend: bool) -> None:
    for statistic, harmful in _CLASSES.items():
        here = table[table["statistic"] == statistic]
        before, after = (here[here["method"] == method] for method in methods)
        _arrows(fig, rows, before.merge(after[["language", "value"]], on="language", suffixes=("_before", "_after")), cell, _HEIGHTS[harmful])
        for i, (part, told) in enumerate(((before, "as it is"), (after, "repaired"))):
            dots(
                fig, rows, part, cell, name=f"{CLASS_NAMES[harmful]}, {told}", symbol=_SYMBOLS[harmful][i], offset=_HEIGHTS[harmful][i],
                legend=legend, form=".0%", opacity=1.0 if i else 0.75,
            )  # fmt: skip
    for y in rows.y(unseen):  # after the marks: plotly puts no shape into a panel that is empty so far
        fig.add_hrect(y0=float(y) - 0.5, y1=float(y) + 0.5, fillcolor=faded(NULL, 0.28), line_width=0, layer="below", row=cell.row, col=cell.col)


def _arrows(fig: go.Figure, rows: Rows, both: pd.DataFrame, cell: Cell, heights: tuple[float, float]) -> None:
    """Lead from before to after; the head stops short of the mark, and a change too short for one has none."""
    for tier, part in both.groupby("tier", sort=False):
        row = rows.y(list(part["language"]))
        y_start, y_end = (row + np.float32(height) for height in heights)
        start, end = f32(part["value_before"]), f32(part["value_after"])
        gaps = np.full(len(part), np.nan, dtype=np.float32)
        heads = np.where(np.abs(end - start) >= _SHORTEST, 9.0, 0.0).astype(np.float32)
        nothing = np.zeros(len(part), dtype=np.float32)
        fig.add_scatter(
            x=np.stack([start, end, gaps], axis=1).ravel(),
            y=np.stack([y_start, y_end, gaps], axis=1).ravel(),
            mode="lines+markers",
            line=dict(color=faded(colour_of(str(tier)), 0.45), width=2),
            marker=dict(
                symbol="arrow", angleref="previous", standoff=6, opacity=1, color=colour_of(str(tier)),
                size=np.stack([nothing, heads, nothing], axis=1).ravel(), line=dict(width=0),
            ),
            hoverinfo="skip",
            showlegend=False,
            name="change",
            row=cell.row,
            col=cell.col,
        )  # fmt: skip


def _title(table: pd.DataFrame, rows: Rows, start: str, shown: Sequence[str]) -> tuple[str, str]:
    """Say how far harmful refusal goes, over all languages; below, over those unseen in training, and what becomes of harmless refusal."""
    places = set(table["language"].astype(str))

    def told(place: str, statistic: str) -> str:
        here = table[
            (table["statistic"] == statistic) & (table["language"] == place if place in places else table["language"].isin(list(rows.languages)))
        ]
        before, after = here.loc[here["method"] == start, "value"], here.loc[here["method"].isin(shown), "value"]
        return f"{span(before, '.0%')}, then {span(after, '.0%')}" if len(before) else f"{span(after, '.0%')} after"

    every = "mean of all languages" if _EVERY in places else "all languages"
    notes = [f"unseen in training: {told(_UNSEEN, 'harmful_refusal')}"] if _UNSEEN in places else []
    notes.append(f"harmless refused: {told(_EVERY, 'harmless_refusal')}")
    return f"Harmful refused, {every}: {told(_EVERY, 'harmful_refusal')}", " · ".join(notes)


__all__ = ["repaired_languages"]
