"""How prompts of each language fall on the harm direction, and on which side of the thresholds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, Rows, panels, ticks
from workbench.plots.style import CLASS_NAMES, CLASS_SYMBOLS, INK, MUTED, colour_of, f32, faded, position_name, positions_of, table_of, titled
from workbench.results import Result


def projection_ridges(projections: Result | pd.DataFrame, *, thresholds: Result | pd.DataFrame | None = None, max_points: int = 3000) -> go.Figure:
    """Draw one ridge per language and class over the projection, with the transferred and the own threshold.

    Parameters
    ----------
    projections : Result or DataFrame
        Rows of ``prompt_id, position, layer, language, tier, harmful, projection``; with a ``split``, only "score" rows are drawn.
    thresholds : Result or DataFrame, optional
        ``position, language, transferred_threshold, own_threshold``, in the units of the projection.
    max_points : int
        Above this many prompts, ridges are drawn without their points.

    Returns
    -------
    Figure
        Filled ridge: harmful; outlined: harmless. Each point's hover is its prompt id.
    """
    needed = ("prompt_id", "position", "layer", "language", "tier", "harmful", "projection")
    table = table_of(projections, needed, figure="projection_ridges")
    held_out = "split" in table and (table["split"] == "score").any()
    if held_out:
        table = table[table["split"] == "score"]
    positions, rows = positions_of(table), Rows.of(table)
    layers = table.groupby("position", sort=False)["layer"].first()
    fig, cells = panels([f"{position_name(p)}, layer {int(layers[p])}" for p in positions], shared_yaxes=True)
    with_points = len(table) <= max_points
    for position, cell in zip(positions, cells, strict=True):
        ridges(fig, rows, table[table["position"] == position], cell, value="projection", with_points=with_points)
        if thresholds is not None:
            lines = table_of(thresholds, ("position", "language", "tier", "transferred_threshold", "own_threshold"), figure="projection_ridges")
            lines = lines[(lines["position"] == position) & lines["language"].isin(rows.languages)]
            first = cell == cells[0]
            ticks(fig, rows, lines, cell, value="transferred_threshold", name="reference threshold", legend=first, colour=INK, reach=(0.15, 0.72))
            ticks(fig, rows, lines, cell, value="own_threshold", name="own threshold", legend=first, dash="2px,2px", colour=INK, reach=(0.15, 0.72))
    class_key(fig)
    rows.label(fig, below=0.4, above=1.05)
    fig.update_xaxes(title_text="projection (activation units)")
    own = (
        ""
        if thresholds is None
        else _shift(
            table_of(thresholds, ("own_threshold", "transferred_threshold", "language", "position"), figure="projection_ridges"), positions[-1]
        )
    )
    note = "held-out meanings" if held_out else "all prompts"
    return titled(
        fig, f"Projection on the harm direction{own}", tiers=rows.languages.values(), note=note, height=200 + 44 * max(len(rows.languages), 3)
    )


def ridges(fig: go.Figure, rows: Rows, table: pd.DataFrame, cell: Cell, *, value: str, with_points: bool) -> None:
    """Draw one ridge per language and class over a column, filled for harmful prompts; each point's hover is its prompt id."""
    for (language, harmful), part in table.groupby(["language", "harmful"], sort=False):
        colour, name = colour_of(rows.languages[str(language)]), CLASS_NAMES[bool(harmful)]
        fig.add_violin(
            x=f32(part[value]),
            y=np.full(len(part), rows.y([str(language)])[0], dtype=np.float32),
            orientation="h",
            side="positive",
            width=1.5,
            scalemode="width",
            spanmode="soft",
            points="all" if with_points else False,
            pointpos=-0.1,
            jitter=0.12,
            marker=dict(symbol=CLASS_SYMBOLS[bool(harmful)], size=4, color=colour, opacity=0.7),
            line=dict(color=colour, width=1.3),
            fillcolor=faded(colour, 0.45 if harmful else 0.06),
            customdata=part["prompt_id"].to_numpy(dtype=str),
            hoveron="points" if with_points else "violins",
            hovertemplate=f"%{{customdata}}<br>{name}: %{{x:.3g}}<extra>{language}</extra>",
            name=f"{language}, {name}",
            showlegend=False,
            row=cell.row,
            col=cell.col,
        )
    fig.update_layout(violinmode="overlay", violingap=0)


def class_key(fig: go.Figure) -> None:
    """Name the two kinds of ridge in the legend."""
    for harmful in (True, False):
        fig.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=CLASS_NAMES[harmful] + (" (filled)" if harmful else " (outlined)"),
            marker=dict(symbol="square" if harmful else "square-open", size=11, color=faded(MUTED, 0.7)),
        )


def _shift(table: pd.DataFrame, position: str) -> str:
    shift = (table["own_threshold"] - table["transferred_threshold"])[table["position"] == position]
    if not shift.notna().any():
        return ""
    at = shift.abs().idxmax()
    amount = f"{shift[at]:+.3g}".replace("-", "\u2212")
    return f": own threshold differs by up to {amount} ({table.loc[at, 'language']})"
