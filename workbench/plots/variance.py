"""How the variance of the residual stream divides between language, meaning and their interaction, layer by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, band, panels
from workbench.plots.style import FACTOR_COLOURS, LAYER_AXIS, MUTED, f32, faded, in_order, position_name, positions_of, table_of, titled
from workbench.results import Result

_FACTORS = ("language", "meaning", "interaction")
_HEIGHT = 430
_SCALINGS = {"raw": "as they are", "unit": "rows scaled to unit norm", "standardised": "columns standardised"}


def variance_shares(
    shares: Result | pd.DataFrame, *, bottleneck: Result | pd.DataFrame | None = None, scaling: str | None = None, component: bool = False
) -> go.Figure:
    """Draw the share of each factor by layer, one panel per position, with intervals and the share noise would have.

    Parameters
    ----------
    shares : Result or DataFrame
        Rows of ``position, scaling, layer, factor, share, low, high``; ``null_share`` and ``model`` where there are any.
    bottleneck : Result or DataFrame, optional
        Marks the layer range of a position whose verdict is ``"bottleneck"``; nothing is marked otherwise.
    scaling : str, optional
        The scaling shown first; a menu offers the others. Default: raw.
    component : bool
        Draw the components instead: shares freed of what noise adds to each, without intervals.

    Returns
    -------
    Figure
        Shares are unitless, 0 to 1. Solid: the model; dotted: the model before alignment.

    Examples
    --------
    >>> table = pd.DataFrame(dict(position="t_inst", scaling="raw", layer=[0, 1], factor="meaning", share=[.1, .4], low=[.0, .3], high=[.2, .5]))
    >>> variance_shares(table).layout.yaxis.title.text
    'share of variance (0 to 1)'
    """
    table = table_of(shares, ("position", "scaling", "layer", "factor", "share", "low", "high"), figure="variance_shares")
    if "model" not in table:
        table["model"] = "after"
    if component:
        table = _components(table)
    positions, scalings = positions_of(table), scalings_of(table)
    shown = scaling or scalings[0]
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True)
    owner: list[str] = []
    for kind in scalings:
        for position, cell in zip(positions, cells, strict=True):
            part = table[(table["position"] == position) & (table["scaling"] == kind)]
            _one_panel(fig, part, cell, legend=cell == cells[0])
            owner += [kind] * (len(fig.data) - len(owner))
    if bottleneck is not None:
        mark_bottleneck(fig, bottleneck, positions, cells)
    scaling_menu(fig, owner, scalings, shown, height=_HEIGHT)
    fig.update_xaxes(title_text=LAYER_AXIS)
    lowest = min(0.0, float(table["low"].min())) if table["low"].notna().any() else 0.0
    fig.update_yaxes(range=[lowest - 0.02, 1.02])
    fig.update_yaxes(title_text=f"{'component' if component else 'share'} of variance (0 to 1)", col=1)
    after = table[(table["model"] == "after") & (table["factor"] == "meaning") & (table["scaling"] == shown)]
    peak = after.loc[after["share"].idxmax()] if after["share"].notna().any() else None
    quantity = "" if peak is None else f": meaning reaches {peak['share']:.2f} at layer {int(peak['layer'])}"
    noise = "null_share" in table and table["null_share"].notna().any()
    notes = ["dotted: before alignment"] * bool((table["model"] == "before").any()) + ["pale dots: expected of noise"] * bool(noise)
    note = " &nbsp;·&nbsp; ".join(notes)
    return titled(fig, f"{'Component' if component else 'Share'} of variance by factor{quantity}", note=note, height=_HEIGHT)


def scalings_of(table: pd.DataFrame) -> list[str]:
    """Return the scalings of a table: raw, unit, standardised, then others."""
    known = list(_SCALINGS)
    return sorted(in_order(table["scaling"]), key=lambda kind: known.index(kind) if kind in known else len(known))


def scaling_menu(fig: go.Figure, owner: list[str], scalings: list[str], shown: str, *, height: int) -> None:
    """Show the traces of one scaling and offer the others above the panels; ``owner`` names the scaling of each trace."""
    for trace, kind in zip(fig.data, owner, strict=True):
        trace.visible = kind == shown
    if len(scalings) < 2:
        return
    buttons = [dict(method="restyle", label=_SCALINGS.get(k, k), args=[{"visible": [o == k for o in owner]}]) for k in scalings]
    place = dict(x=1, xanchor="right", y=1 + 43 / (height - 176), yanchor="bottom")  # pixels, whatever the height between the margins
    look = dict(font=dict(size=11.5), bgcolor="white", bordercolor=MUTED)
    fig.update_layout(updatemenus=[dict(buttons=buttons, active=scalings.index(shown), **place, **look)])


def _components(table: pd.DataFrame) -> pd.DataFrame:
    table = table_of(table, ("component",), figure="variance_shares(component=True)")
    # noise adds nothing to a component, and the intervals are those of the shares
    return table.assign(share=table["component"], low=np.nan, high=np.nan, null_share=np.nan)


def _one_panel(fig: go.Figure, part: pd.DataFrame, cell: Cell, *, legend: bool) -> None:
    for factor in [f for f in _FACTORS if f in set(part["factor"])]:
        colour = FACTOR_COLOURS[factor]
        for model in ("before", "after"):
            rows = part[(part["factor"] == factor) & (part["model"] == model)].sort_values("layer")
            if rows.empty:
                continue
            x, after = f32(rows["layer"]), model == "after"
            if after:
                band(fig, rows, "share", cell, colour=colour, group=factor)
            hover = pd.concat([rows["low"], rows["high"]], axis=1).to_numpy(dtype="float32")
            fig.add_scatter(
                x=x,
                y=f32(rows["share"]),
                mode="lines+markers" if after else "lines",
                line=dict(color=colour if after else faded(colour, 0.6), width=2.4 if after else 1.4, dash="solid" if after else "dot"),
                marker=dict(size=5),
                name=factor if after else f"{factor}, before",
                legendgroup=factor,
                showlegend=legend and after,
                customdata=hover,
                hovertemplate=f"{factor}, {model}, layer %{{x}}<br>%{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]<extra></extra>",
                row=cell.row,
                col=cell.col,
            )
            if after and "null_share" in rows and rows["null_share"].notna().any():
                fig.add_scatter(
                    x=x,
                    y=f32(rows["null_share"]),
                    mode="lines",
                    line=dict(color=faded(colour, 0.55), width=1, dash="2px,3px"),
                    name=f"{factor}, expected of noise",
                    legendgroup=factor,
                    showlegend=False,
                    hovertemplate=f"{factor}, expected of noise: %{{y:.3f}}<extra></extra>",
                    row=cell.row,
                    col=cell.col,
                )


def mark_bottleneck(fig: go.Figure, bottleneck: Result | pd.DataFrame, positions: list[str], cells: list[Cell]) -> None:
    """Shade the layers of a bottleneck, only where the verdict says that there is one."""
    table = table_of(bottleneck, ("position", "layer", "low", "high", "verdict"), figure="the bottleneck band")
    if "model" in table:
        table = table[table["model"] == "after"]
    for position, cell in zip(positions, cells, strict=True):
        for row in table[(table["position"] == position) & (table["verdict"] == "bottleneck")].itertuples():
            fig.add_vrect(
                x0=float(row.low) - 0.5,
                x1=float(row.high) + 0.5,
                fillcolor=FACTOR_COLOURS["meaning"],
                opacity=0.09,
                line_width=0,
                layer="below",
                row=cell.row,
                col=cell.col,
                annotation_text=f"bottleneck, layer {int(row.layer)}",
                annotation_position="top left",
                annotation_font=dict(size=11, color=FACTOR_COLOURS["meaning"]),
            )
