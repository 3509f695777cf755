"""How far apart the classes lie in each language, before and after alignment."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, Rows, connectors, dots, layer_slider, panels
from workbench.plots.style import extremes, position_name, positions_of, table_of, titled
from workbench.results import Result


def separation(result: Result | pd.DataFrame, *, layer: int | None = None) -> go.Figure:
    """Draw each language's between-class share of variance before (open) and after alignment (filled), with a slider over layers.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``model, position, layer, language, tier, value, low, high, n``.
    layer : int, optional
        The layer shown first; default the one with the largest value after alignment.

    Returns
    -------
    Figure
        Shares are unitless, 0 (classes coincide) to 1.
    """
    table = table_of(result, ("model", "position", "layer", "language", "tier", "value", "low", "high", "n"), figure="separation")
    if "statistic" in table and (table["statistic"] == "between_class_share").any():
        table = table[table["statistic"] == "between_class_share"]
    positions, layers = positions_of(table), sorted(table["layer"].unique().tolist())
    after = table[table["model"] == "after"]
    if layer is None or layer not in layers:
        layer = int(after.loc[after["value"].idxmax(), "layer"]) if after["value"].notna().any() else layers[-1]
    rows = Rows.of(table)
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True)
    _draw(fig, rows, table, positions, cells, layer)
    rows.label(fig)
    fig.update_xaxes(title_text="between-class share of variance (0 to 1)", range=[-0.02, 1.02], dtick=0.25)
    fig.frames = [_frame(rows, table, positions, cells, k) for k in layers]
    layer_slider(fig, layers, layer)
    return titled(fig, _title(table, positions[-1], layer), tiers=rows.languages.values(), height=rows.height + 80)


def _title(table: pd.DataFrame, position: str, layer: int) -> str:
    shown = table[(table["model"] == "after") & (table["layer"] == layer) & (table["position"] == position)]
    return f"Separation of the classes at {position}, layer {layer}: {extremes(shown, 'value')}"


class _Traces:
    """Stands in for a figure and keeps the traces added to it: building a whole figure per layer would take seconds."""

    def __init__(self) -> None:
        self.added: list[dict[str, Any]] = []

    def add_scatter(self, *, row: int, col: int, **trace: Any) -> None:
        """Keep one trace."""
        self.added.append(trace)


def _draw(fig: Any, rows: Rows, table: pd.DataFrame, positions: list[str], cells: list[Cell], layer: int) -> None:
    """Draw one layer. Every layer has the same traces in the same order, which is what frames need."""
    for position, cell in zip(positions, cells, strict=True):
        here = table[(table["position"] == position) & (table["layer"] == layer)]
        wide = here.pivot_table(index=["language", "tier"], columns="model", values="value", sort=False, dropna=False).reset_index()
        if {"before", "after"} <= set(wide.columns):
            connectors(fig, rows, wide, cell, "before", "after")
        for model, symbol in (("before", "square-open"), ("after", "square")):
            if (table["model"] == model).any():
                dots(fig, rows, here[here["model"] == model], cell, name=f"{model} alignment", symbol=symbol, legend=cell == cells[0])


def _frame(rows: Rows, table: pd.DataFrame, positions: list[str], cells: list[Cell], layer: int) -> go.Frame:
    """Return what moves when the slider goes to a layer."""
    traces = _Traces()
    _draw(traces, rows, table, positions, cells, layer)
    moving = [{key: trace[key] for key in ("x", "y", "error_x", "customdata") if key in trace} for trace in traces.added]
    data, title = [{"type": "scatter", **trace} for trace in moving], _title(table, positions[-1], layer)
    return go.Frame(name=str(layer), data=data, traces=list(range(len(data))), layout=dict(title=dict(text=title)))
