"""Whether the ranking of harmful above harmless beats everything that could rank them without representing harm."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, bars, dots, panels
from workbench.plots.style import MUTED, extremes, f32, position_name, positions_of, table_of, titled
from workbench.results import Result

_NULLS = {
    "null_labels_95": ("test labels permuted, 95th percentile", "line-ns-open"),
    "null_direction_95": ("direction from permuted labels, 95th percentile", "x-thin-open"),
    "untrained_high": ("untrained model, upper bound", "triangle-up-open"),
    "surface": ("length and final character", "hourglass-open"),
}


def auroc_with_nulls(result: Result | pd.DataFrame) -> go.Figure:
    """Draw each language's AUROC with its interval against a bar that reaches to the strongest of its nulls.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``position, layer, language, tier, auroc, low, high, represented`` and the nulls ``null_labels_95``,
        ``null_direction_95``, ``untrained_high``, ``surface`` (each may be missing).

    Returns
    -------
    Figure
        AUROC is unitless; .5 is chance. Filled: the table's verdict is that harm is represented; open: it is not.
    """
    table = table_of(result, ("position", "layer", "language", "tier", "auroc", "low", "high", "represented"), figure="auroc_with_nulls")
    known = {column: look for column, look in _NULLS.items() if column in table and table[column].notna().any()}
    table["strongest"] = table[list(known)].max(axis=1) if known else 0.5
    table["bar"] = table["strongest"].clip(lower=0.5)
    positions, rows = positions_of(table), Rows.of(table)
    layers = table.groupby("position", sort=False)["layer"].first()
    fig, cells = panels([f"{position_name(p)}, layer {int(layers[p])}" for p in positions], shared_yaxes=True)
    for position, cell in zip(positions, cells, strict=True):
        part, first = table[table["position"] == position], cell == cells[0]
        if known:
            bars(fig, rows, part, cell, start=0.5, value="bar", name="reached by the strongest null", legend=first)
        for column, (name, symbol) in known.items():
            fig.add_scatter(
                x=f32(part[column]),
                y=rows.y(list(part["language"])),
                mode="markers",
                marker=dict(symbol=symbol, size=8, color=MUTED, line=dict(width=1.4, color=MUTED)),
                name=name,
                legendgroup=name,
                showlegend=first,
                hovertemplate=f"{name}: %{{x:.2f}}<extra></extra>",
                row=cell.row,
                col=cell.col,
            )
        represented = part["represented"].astype(bool)
        for verdict, name, symbol in ((True, "harm represented", "square"), (False, "not represented", "square-open")):
            dots(
                fig,
                rows,
                part[represented == verdict],
                cell,
                name=name,
                symbol=symbol,
                value="auroc",
                legend=first,
                extra="reason" if "reason" in part else "",
            )
    rows.label(fig)
    lowest = min(0.4, float(table[["low", *known]].min().min()) - 0.03)
    fig.update_xaxes(title_text="AUROC (.5 is chance)", range=[lowest, 1.02])
    fig.add_vline(x=0.5, line=dict(color=MUTED, width=1, dash="dot"))
    last = table[table["position"] == positions[-1]]
    titled(
        fig,
        f"AUROC of the transferred direction at {positions[-1]}: {extremes(last, 'auroc')}",
        tiers=rows.languages.values(),
        height=rows.height + 50,
    )
    return fig.update_layout(margin=dict(t=166), barmode="overlay")
