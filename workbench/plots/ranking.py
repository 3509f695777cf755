"""How well the reference direction ranks harmful above harmless, by layer and language, beside how often the model refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import ROW_HEIGHT, Rows, panels
from workbench.plots.style import INK, LAYER_AXIS, extremes, position_name, positions_of, table_of, titled
from workbench.results import Result

#: Below chance brown, chance near white, perfect teal: told apart without red and green.
AUROC_SCALE = [(0.0, "#8C510A"), (0.25, "#D8B365"), (0.5, "#F7F7F5"), (0.75, "#5AB4AC"), (1.0, "#01504A")]


def auroc_by_layer(result: Result | pd.DataFrame, *, refusal: Result | pd.DataFrame | None = None, low_refusal: float = 0.5) -> go.Figure:
    """Draw a heat map of AUROC, layer by language, and outline the languages in which the model seldom refuses.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``position, layer, language, tier, value, low, high``; of ``model`` only "after" is drawn.
    refusal : Result or DataFrame, optional
        Rows of ``language, statistic, value``: rows of the map whose harmful refusal is below ``low_refusal`` are outlined, the rate written beside.
    low_refusal : float
        Share of harmful prompts refused below which a language is outlined.

    Returns
    -------
    Figure
        AUROC is unitless; .5 is chance. An outlined dark cell: harm is ranked well, yet seldom refused.
    """
    table = table_of(result, ("position", "layer", "language", "tier", "value", "low", "high"), figure="auroc_by_layer")
    if "model" in table:
        table = table[table["model"] == "after"]
    positions, rows = positions_of(table), Rows.of(table)
    height = 215 + ROW_HEIGHT * max(len(rows.languages), 4)
    tags, layers = list(rows.languages), sorted(table["layer"].unique().tolist())
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True, horizontal_spacing=0.05)
    for position, cell in zip(positions, cells, strict=True):
        part = table[table["position"] == position].set_index(["language", "layer"])
        value, low, high = (part[c].unstack().reindex(index=tags, columns=layers).to_numpy(dtype=np.float32) for c in ("value", "low", "high"))
        names = np.broadcast_to(np.asarray(tags)[:, None], value.shape)
        hover = np.stack([names, np.char.mod("%.2f", low), np.char.mod("%.2f", high)], axis=-1)
        numbers = (
            dict(text=np.where(np.isfinite(value), np.char.mod("%.2f", value), ""), texttemplate="%{text}", textfont=dict(size=9.5))
            if len(layers) <= 10
            else {}
        )
        fig.add_heatmap(
            x=np.asarray(layers, dtype=np.float32),
            y=rows.y(tags),
            z=value,
            customdata=hover,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            name=position,
            hovertemplate="%{customdata[0]}, layer %{x}<br>AUROC %{z:.2f} [%{customdata[1]}, %{customdata[2]}]<extra></extra>",
            row=cell.row,
            col=cell.col,
            **numbers,
        )
    note = "grey: undefined" if table["value"].isna().any() else ""
    if refusal is not None:
        rates = _harmful_refusal(refusal)
        low_tags = [tag for tag in tags if rates.get(tag, 1.0) < low_refusal]
        for cell in cells:
            for group in _neighbours(low_tags, tags):
                top, bottom = rows.y([group[0], group[-1]]).tolist()
                fig.add_shape(
                    type="rect",
                    x0=layers[0] - 0.5,
                    x1=layers[-1] + 0.5,
                    y0=bottom - 0.5,
                    y1=top + 0.5,
                    line=dict(color=INK, width=2.5),
                    name=" ".join(group),
                    row=cell.row,
                    col=cell.col,
                )
        beside = dict(x=1, xref="paper", xanchor="left", xshift=6, showarrow=False)
        for tag in [t for t in tags if t in rates]:
            fig.add_annotation(y=float(rows.y([tag])[0]), yref="y", text=f"{rates[tag]:.0%}", font=dict(size=12, color=INK), **beside)
        fig.add_annotation(y=1, yref="paper", yanchor="bottom", text="refused", font=dict(size=11, color=INK), **beside)
        note = f"outlined: harmful refusal below {low_refusal:.0%}" + (f" · {note}" if note else "")
    fig.update_xaxes(title_text=LAYER_AXIS, range=[layers[0] - 0.5, layers[-1] + 0.5], showgrid=False, dtick=max(1, len(layers) // 8))
    rows.label(fig, below=0.5, above=0.5)
    fig.update_yaxes(showgrid=False)
    bar = dict(
        orientation="h",
        thickness=9,
        len=0.42,
        x=0,
        xanchor="left",
        xpad=4,
        y=1 - 72 / height,
        yref="container",
        yanchor="top",
        ypad=0,
        tickvals=[0, 0.5, 1],
        ticktext=["AUROC 0", ".5 chance", "1"],
        tickfont=dict(size=10.5),
    )
    fig.update_layout(coloraxis=dict(colorscale=AUROC_SCALE, cmin=0, cmax=1, colorbar=bar))
    best = table.loc[table.groupby(["position", "layer"])["value"].transform("mean").eq(table.groupby(["position", "layer"])["value"].mean().max())]
    at = "" if best.empty else f", layer {int(best['layer'].iloc[0])} of {best['position'].iloc[0]}"
    titled(fig, f"AUROC of the reference direction: {extremes(best, 'value')}{at}", tiers=rows.languages.values(), note=note, height=height)
    return fig.update_layout(margin=dict(r=64, t=138), plot_bgcolor="#ECEDF0")


def _neighbours(chosen: list[str], order: list[str]) -> list[list[str]]:
    """Group chosen tags that are adjacent in the order, so that one outline holds them."""
    groups: list[list[str]] = []
    for before, tag in zip([None, *order], order, strict=False):
        if tag in chosen:
            if before in chosen:
                groups[-1].append(tag)
            else:
                groups.append([tag])
    return groups


def _harmful_refusal(refusal: Result | pd.DataFrame) -> dict[str, float]:
    table = table_of(refusal, ("language", "statistic", "value"), figure="auroc_by_layer")
    if "model" in table:
        table = table[table["model"] == "after"]
    table = table[table["statistic"] == "harmful_refusal"]
    return dict(zip(table["language"], table["value"].astype(float), strict=True))
