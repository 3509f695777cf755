"""At which layers a request's translations are its nearest neighbours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import apart, band, panels
from workbench.plots.style import LAYER_AXIS, MUTED, colour_of, dash_of, f32, languages_of, position_name, positions_of, table_of, titled
from workbench.results import Result


def retrieval_by_layer(result: Result | pd.DataFrame) -> go.Figure:
    """Draw translation retrieval by layer, one line per language, one panel per position.

    Parameters
    ----------
    result : Result or DataFrame
        ``position, layer, language, tier, value, low, high, null_95``; ``control`` (untrained model) where there is one.

    Returns
    -------
    Figure
        Precision at 1, averaged over both directions, 0 to 1. Grey: the 95th percentile of the null and the untrained model.
    """
    table = table_of(result, ("position", "layer", "language", "tier", "value", "low", "high", "null_95"), figure="retrieval_by_layer")
    languages, positions = languages_of(table), positions_of(table)
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True, horizontal_spacing=0.1)
    height = max(430, 250 + 17 * len(languages))
    for position, cell in zip(positions, cells, strict=True):
        here = table[table["position"] == position].sort_values("layer")
        drawn: list[tuple[str, float, float]] = []
        for language, tier in languages.items():
            rows = here[here["language"] == language]
            if not rows["value"].notna().any():
                continue
            x, colour = f32(rows["layer"]), colour_of(tier)
            band(fig, rows, "value", cell, colour=colour, group=language, alpha=0.06)
            hover = rows[["low", "high"]].to_numpy(dtype=np.float32)
            fig.add_scatter(
                x=x,
                y=f32(rows["value"]),
                mode="lines",
                line=dict(color=colour, width=2, dash=dash_of(language, languages)),
                name=language,
                legendgroup=language,
                showlegend=False,
                customdata=hover,
                hovertemplate=f"{language}, layer %{{x}}<br>%{{y:.2f}} [%{{customdata[0]:.2f}}, %{{customdata[1]:.2f}}]<extra></extra>",
                row=cell.row,
                col=cell.col,
            )
            end = rows[rows["value"].notna()].iloc[-1]
            drawn.append((language, float(end["layer"]), float(end["value"])))
        heights = apart([value for _, _, value in drawn], gap=15 / (height - 190))
        for (language, x_end, _), y in zip(drawn, heights, strict=True):
            fig.add_annotation(
                x=x_end,
                y=y,
                text=f"<b>{language}</b>",
                showarrow=False,
                xanchor="left",
                xshift=5,
                font=dict(size=11, color=colour_of(languages[language])),
                row=cell.row,
                col=cell.col,
            )
        for column, name, dash in (("null_95", "null, 95th percentile", "solid"), ("control", "untrained model", "dot")):
            if column in here and here[column].notna().any():
                worst = here.groupby("layer")[column].max()
                fig.add_scatter(
                    x=f32(worst.index),
                    y=f32(worst),
                    mode="lines",
                    line=dict(color=MUTED, width=1.6, dash=dash),
                    name=name,
                    legendgroup=name,
                    showlegend=cell == cells[0],
                    hovertemplate=f"{name}: %{{y:.2f}}<extra></extra>",
                    row=cell.row,
                    col=cell.col,
                )
    fig.update_xaxes(title_text=LAYER_AXIS)
    fig.update_yaxes(range=[-0.03, 1.05])
    fig.update_yaxes(title_text="translations retrieved (precision at 1)", col=1)
    best = table.groupby(["position", "layer"])["value"].mean()
    title = "Translation retrieval"
    if best.notna().any():
        position, layer = best.idxmax()
        title += f": {best.max():.2f} averaged over languages at layer {int(layer)} of {position}"
    return titled(fig, title, tiers=languages.values(), height=height).update_layout(margin=dict(r=48))
