"""Whether prompts lie nearest to their translations or to their own language, layer by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, band, panels
from workbench.plots.style import FACTOR_COLOURS, LAYER_AXIS, MUTED, NULL, f32, faded, position_name, positions_of, table_of, titled
from workbench.plots.variance import mark_bottleneck
from workbench.results import Result

_NAMES = {"language": "by language", "meaning": "by meaning", "difference": "meaning minus language"}
_PERMUTED = "permuted meanings"


def silhouettes(result: Result | pd.DataFrame, *, bottleneck: Result | pd.DataFrame | None = None) -> go.Figure:
    """Draw the silhouettes by language, by meaning and their difference, one panel per position.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``position, layer, statistic, value, low, high``; ``model``, ``defined``, ``null_95``, ``low_languages`` and
        ``high_languages`` where there are any.
    bottleneck : Result or DataFrame, optional
        Marks the layers of a bottleneck where the verdict says that there is one.

    Returns
    -------
    Figure
        Silhouettes are unitless, -1 to 1, and their difference -2 to 2; above 0, meaning organises the layer. Dark bands are intervals
        over meanings, the pale one around the difference over meanings and languages; what permuted meanings reach is grey. Undefined
        layers are gaps.
    """
    table = table_of(result, ("position", "layer", "statistic", "value", "low", "high"), figure="silhouettes")
    if "model" not in table:
        table["model"] = "after"
    if "defined" in table:
        table.loc[~table["defined"].astype(bool), ["value", "low", "high"]] = float("nan")
    positions = positions_of(table)
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True)
    drawn = table[["low", "high", "value"]].to_numpy(dtype=float)
    finite = drawn[np.isfinite(drawn)] if np.isfinite(drawn).any() else np.array([-1.0, 1.0])
    lowest, highest = float(finite.min()), float(finite.max())
    floor = lowest - 0.06 * (highest - lowest)
    for position, cell in zip(positions, cells, strict=True):
        differences = table[(table["position"] == position) & (table["statistic"] == "difference") & (table["model"] == "after")].sort_values("layer")
        _permuted(fig, differences, floor, cell)
        if "low_languages" in differences:
            both = differences.assign(low=differences["low_languages"], high=differences["high_languages"])
            band(fig, both, "value", cell, colour=FACTOR_COLOURS["difference"], group=_NAMES["difference"], alpha=0.08)
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
    fig.update_yaxes(range=[floor, highest + 0.12 * (highest - lowest)])
    fig.update_yaxes(title_text="silhouette (-1 to 1); difference (-2 to 2)", col=1)
    after = table[(table["model"] == "after") & (table["statistic"] == "difference") & table["value"].notna()]
    title = "Silhouette by meaning minus by language"
    if not after.empty:
        peak = after.loc[after["value"].idxmax()]
        title += f": at most {peak['value']:+.2f}, layer {int(peak['layer'])} of {peak['position']}"
    notes = (
        ("dotted: before alignment", (table["model"] == "before").any()),
        ("grey: 95 % of permuted meanings lie there", "null_95" in table and table["null_95"].notna().any()),
        ("palest: interval over languages too", "low_languages" in table and table["low_languages"].notna().any()),
    )
    return titled(fig, title, note=" &nbsp;·&nbsp; ".join(text for text, shown in notes if shown), height=430)


def _permuted(fig: go.Figure, differences: pd.DataFrame, floor: float, cell: Cell) -> None:
    """Shade what the difference reaches by chance: meaning labels permuted within languages."""
    if "null_95" not in differences or differences["null_95"].isna().all():
        return
    band(fig, differences.assign(low=floor, high=differences["null_95"]), "null_95", cell, colour=NULL, group=_PERMUTED, alpha=0.4)
    fig.add_scatter(
        x=f32(differences["layer"]),
        y=f32(differences["null_95"]),
        mode="lines",
        connectgaps=False,
        line=dict(color=NULL, width=2),
        name=_PERMUTED,
        showlegend=False,  # the note below the title names it
        hovertemplate="difference that permuted meanings stay below in 95 % of draws, layer %{x}: %{y:.3f}<extra></extra>",
        row=cell.row,
        col=cell.col,
    )
