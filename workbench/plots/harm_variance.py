"""How much of the variance of the residual stream is harm, and whether harm is one axis in all languages, layer by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, band, panels
from workbench.plots.style import INK, LAYER_AXIS, f32, faded, position_name, positions_of, table_of, titled
from workbench.plots.variance import scaling_menu, scalings_of
from workbench.results import Result

#: Factors of the left panels, in colours that neither a tier nor a factor of the two-factor figure has.
_COLOURS = {"harm": "#882255", "language x harm": "#B58900"}
_INDEX = "transfer index"
_LEVEL = 0.05


def harm_variance(result: Result | pd.DataFrame, *, scaling: str | None = None) -> go.Figure:
    """Draw the shares of harm and of language x harm by layer, and beside them the transfer index, one row per position.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``position, scaling, layer, factor, share, low, high, null_95, p, index, index_low, index_high``; ``model`` where
        there is one.
    scaling : str, optional
        The scaling shown first; a menu offers the others. Default: raw.

    Returns
    -------
    Figure
        Shares are unitless, 0 to 1. Transfer index: 0 where harm is the same axis in every language, 1 where each has its own.
        Hollow markers: no more than shuffled labels of harm reach at some layer (p above .05; of the index, for both factors).
        Solid: the model; dotted: before alignment. Undefined layers are gaps.
    """
    columns = ("position", "scaling", "layer", "factor", "share", "low", "high", "null_95", "p", "index", "index_low", "index_high")
    table = table_of(result, columns, figure="harm_variance")
    if "model" not in table:
        table["model"] = "after"
    positions, scalings = positions_of(table), scalings_of(table)
    shown = scaling or scalings[0]
    titles = [title for p in positions for title in (position_name(p), f"the same harm everywhere? ({p})")]
    fig, cells = panels(titles, horizontal_spacing=0.13, vertical_spacing=0.24 / len(positions))
    owner: list[str] = []
    for kind in scalings:
        for i, position in enumerate(positions):
            part = table[(table["position"] == position) & (table["scaling"] == kind)]
            for factor, colour in _COLOURS.items():
                _line(fig, part[part["factor"] == factor], cells[2 * i], name=factor, colour=colour, legend=i == 0)
            _line(fig, _index_rows(part), cells[2 * i + 1], name=_INDEX, colour=INK, legend=i == 0)
            owner += [kind] * (len(fig.data) - len(owner))
    height = 150 + 290 * len(positions)
    scaling_menu(fig, owner, scalings, shown, height=height)
    fig.update_xaxes(title_text=LAYER_AXIS, row=len(positions))
    fig.update_yaxes(rangemode="tozero")
    fig.update_yaxes(title_text="share of variance (0 to 1)", col=1)
    fig.update_yaxes(title_text="transfer index (0 shared, 1 own axes)", range=[-0.03, 1.03], col=2)
    notes = ["pale dots: shuffled labels, 95 %", "hollow: p > .05"]
    if (table["model"] == "before").any():
        notes.append("dotted: before alignment")
    return titled(
        fig, _title(table[(table["model"] == "after") & (table["scaling"] == shown)]), note=" · ".join(notes), height=150 + 290 * len(positions)
    )


def _index_rows(part: pd.DataFrame) -> pd.DataFrame:
    rows = part[part["factor"] == "language x harm"].drop(columns=["share", "low", "high", "null_95"])
    smallest = part[part["factor"].isin(list(_COLOURS))].groupby(["model", "layer"], as_index=False)["p"].min()
    renamed = rows.rename(columns={"index": "share", "index_low": "low", "index_high": "high"}).drop(columns="p")
    return renamed.merge(smallest, on=["model", "layer"], how="left")


def _line(fig: go.Figure, part: pd.DataFrame, cell: Cell, *, name: str, colour: str, legend: bool) -> None:
    for model in ("before", "after"):
        rows = part[part["model"] == model].sort_values("layer")
        if rows.empty:
            continue
        x, after = f32(rows["layer"]), model == "after"
        if after:
            band(fig, rows, "share", cell, colour=colour, group=name)
        fig.add_scatter(
            x=x,
            y=f32(rows["share"]),
            mode="lines+markers" if after else "lines",
            connectgaps=False,
            line=dict(color=colour if after else faded(colour, 0.6), width=2.4 if after else 1.4, dash="solid" if after else "dot"),
            marker=dict(size=6, symbol=np.where(rows["p"] > _LEVEL, "circle-open", "circle"), color=colour),
            name=name if after else f"{name}, before",
            legendgroup=name,
            showlegend=legend and after,
            customdata=rows[["low", "high", "p"]].to_numpy(dtype="float32"),
            hovertemplate=f"{name}, {model}, layer %{{x}}<br>%{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]"
            "<br>p = %{customdata[2]:.3f}<extra></extra>",
            row=cell.row,
            col=cell.col,
        )
        if after and "null_95" in rows and rows["null_95"].notna().any():
            fig.add_scatter(
                x=x,
                y=f32(rows["null_95"]),
                mode="lines",
                line=dict(color=faded(colour, 0.6), width=1.2, dash="2px,3px"),
                name=f"{name}, shuffled labels",
                legendgroup=name,
                showlegend=False,
                hovertemplate=f"{name}: 95 % of shuffled labels stay below %{{y:.4f}} at every layer<extra></extra>",
                row=cell.row,
                col=cell.col,
            )


def _title(rows: pd.DataFrame) -> str:
    harm = rows[(rows["factor"] == "harm") & rows["share"].notna()]
    if harm.empty:
        return "Variance that is harm: not measured"
    peak = harm.loc[harm["share"].idxmax()]
    both = rows[(rows["factor"] == "language x harm") & (rows["position"] == peak["position"]) & (rows["layer"] == peak["layer"])].iloc[0]
    title = f"Harm: {peak['share']:.2f} of the variance at layer {int(peak['layer'])} of {peak['position']}"
    return title if not np.isfinite(both["index"]) else f"{title}; transfer index {both['index']:.2f}"
