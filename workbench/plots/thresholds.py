"""What a language loses by being judged with the reference languages' threshold."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, connectors, dots, panels
from workbench.plots.style import MUTED, extremes, position_name, positions_of, table_of, titled
from workbench.results import Result


def threshold_transfer(result: Result | pd.DataFrame) -> go.Figure:
    """Draw balanced accuracy at the transferred and at the own threshold, per language, one panel per position.

    Parameters
    ----------
    result : Result or DataFrame
        ``position, layer, language, tier, balanced_accuracy_transferred, transferred_low, transferred_high,
        balanced_accuracy_own, own_low, own_high, gap, n``.

    Returns
    -------
    Figure
        Balanced accuracy is unitless; .5 is chance. The pale bar is the gap.
    """
    needed = (
        "position",
        "layer",
        "language",
        "tier",
        "balanced_accuracy_transferred",
        "transferred_low",
        "transferred_high",
        "balanced_accuracy_own",
        "own_low",
        "own_high",
        "gap",
        "n",
    )
    table = table_of(result, needed, figure="threshold_transfer")
    positions, rows = positions_of(table), Rows.of(table)
    layers = table.groupby("position", sort=False)["layer"].first()
    fig, cells = panels([f"{position_name(p)}, layer {int(layers[p])}" for p in positions], shared_yaxes=True)
    for position, cell in zip(positions, cells, strict=True):
        part = table[table["position"] == position]
        connectors(fig, rows, part, cell, "balanced_accuracy_transferred", "balanced_accuracy_own")
        for which, name, symbol, offset in (
            ("transferred", "reference threshold", "triangle-down", 0.14),
            ("own", "own threshold", "triangle-up-open", -0.14),
        ):
            dots(
                fig,
                rows,
                part,
                cell,
                name=name,
                symbol=symbol,
                value=f"balanced_accuracy_{which}",
                low=f"{which}_low",
                high=f"{which}_high",
                offset=offset,
                legend=cell == cells[0],
            )
    rows.label(fig)
    low = float(table[["transferred_low", "own_low"]].min().min())
    fig.update_xaxes(title_text="balanced accuracy (.5 is chance)", range=[min(0.45, low - 0.03), 1.02])
    fig.add_vline(x=0.5, line=dict(color=MUTED, width=1, dash="dot"))
    last = table[table["position"] == positions[-1]]
    title = f"Gain of an own threshold at {positions[-1]}: {extremes(last, 'gap', '+.2f')}"
    return titled(fig, title, tiers=rows.languages.values(), height=rows.height)
