"""How far apart the classes lie in each language, before and after alignment."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, connectors, dots, layer_slider, panels
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
    positions, layers = positions_of(table), sorted(table["layer"].unique().tolist())
    after = table[table["model"] == "after"]
    if layer is None or layer not in layers:
        layer = int(after.loc[after["value"].idxmax(), "layer"]) if after["value"].notna().any() else layers[-1]
    fig = _at(table, positions, layer)
    fig.frames = [go.Frame(name=str(k), data=_at(table, positions, k).data) for k in layers]
    layer_slider(fig, layers, layer)
    shown = after[(after["layer"] == layer) & (after["position"] == positions[-1])]
    rows = Rows.of(table)
    titled(
        fig,
        f"Separation of the classes at {positions[-1]}, layer {layer}: {extremes(shown, 'value')}",
        tiers=rows.languages.values(),
        height=rows.height + 80,
    )
    return fig


def _at(table: pd.DataFrame, positions: list[str], layer: int) -> go.Figure:
    """Draw one layer. Every layer has the same traces in the same order, which is what frames need."""
    rows = Rows.of(table)
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True)
    for position, cell in zip(positions, cells, strict=True):
        here = table[(table["position"] == position) & (table["layer"] == layer)]
        wide = here.pivot_table(index=["language", "tier"], columns="model", values="value", sort=False).reset_index()
        if {"before", "after"} <= set(wide.columns):
            connectors(fig, rows, wide, cell, "before", "after")
        for model, symbol in (("before", "square-open"), ("after", "square")):
            part = here[here["model"] == model]
            if (table["model"] == model).any():
                dots(fig, rows, part, cell, name=f"{model} alignment", symbol=symbol, legend=cell == cells[0])
    rows.label(fig)
    fig.update_xaxes(title_text="between-class share of variance (0 to 1)", range=[-0.02, 1.02], dtick=0.25)
    return fig
