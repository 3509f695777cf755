"""Whether prompts lie nearest to their translations or to their own language, layer by layer."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import band, panels
from workbench.plots.style import FACTOR_COLOURS, LAYER_AXIS, MUTED, f32, faded, position_name, positions_of, table_of, titled
from workbench.plots.variance import mark_bottleneck
from workbench.results import Result

_NAMES = {"language": "by language", "meaning": "by meaning", "difference": "meaning minus language"}


def silhouettes(result: Result | pd.DataFrame, *, bottleneck: Result | pd.DataFrame | None = None) -> go.Figure:
    """Draw the silhouettes by language, by meaning and their difference, one panel per position.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``position, layer, statistic, value, low, high``; ``model`` and ``defined`` where there are any.
    bottleneck : Result or DataFrame, optional
        Marks the layers of a bottleneck where the verdict says that there is one.

    Returns
    -------
    Figure
        Silhouettes are unitless, -1 to 1; the difference above 0 means that meaning organises the layer. Undefined layers are gaps.
    """
    table = table_of(result, ("position", "layer", "statistic", "value", "low", "high"), figure="silhouettes")
    if "model" not in table:
        table["model"] = "after"
    if "defined" in table:
        table.loc[~table["defined"].astype(bool), ["value", "low", "high"]] = float("nan")
    positions = positions_of(table)
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True)
    for position, cell in zip(positions, cells, strict=True):
        for statistic, name in _NAMES.items():
            for model in ("before", "after"):
                rows = table[(table["position"] == position) & (table["statistic"] == statistic) & (table["model"] == model)].sort_values("layer")
                if rows.empty:
                    continue
                x, after, colour = f32(rows["layer"]), model == "after", FACTOR_COLOURS[statistic]
                if after:
                    band(fig, rows, "value", cell, colour=colour, group=name)
                hover = rows[["low", "high"]].to_numpy(dtype="float32")
                width = (3.0 if statistic == "difference" else 1.8) if after else 1.4
                fig.add_scatter(
                    x=x,
                    y=f32(rows["value"]),
                    mode="lines+markers" if after else "lines",
                    connectgaps=False,
                    line=dict(color=colour if after else faded(colour, 0.6), width=width, dash="solid" if after else "dot"),
                    marker=dict(size=5),
                    name=name if after else f"{name}, before",
                    legendgroup=name,
                    showlegend=after and cell == cells[0],
                    customdata=hover,
                    hovertemplate=f"{name}, {model}, layer %{{x}}<br>%{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]<extra></extra>",
                    row=cell.row,
                    col=cell.col,
                )
        fig.add_hline(y=0, line=dict(color=MUTED, width=1), row=cell.row, col=cell.col)
    if bottleneck is not None:
        mark_bottleneck(fig, bottleneck, positions, cells)
    fig.update_xaxes(title_text=LAYER_AXIS)
    fig.update_yaxes(title_text="silhouette (-1 to 1)", col=1)
    after = table[(table["model"] == "after") & (table["statistic"] == "difference") & table["value"].notna()]
    title = "Silhouette by meaning minus by language"
    if not after.empty:
        peak = after.loc[after["value"].idxmax()]
        title += f": at most {peak['value']:+.2f}, layer {int(peak['layer'])} of {peak['position']}"
    note = "dotted: before alignment" if (table["model"] == "before").any() else ""
    return titled(fig, title, note=note, height=430)
