"""Where prompts lie in the two main directions of a layer, before and after alignment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import layer_slider, panels
from workbench.plots.separated import basis_name, compared
from workbench.plots.style import CLASS_NAMES, CLASS_SYMBOLS, MUTED, TIERS, colour_of, f32, position_name, positions_of, table_of, titled
from workbench.results import Result

_MODELS = {"before": "before alignment", "after": "after alignment"}


def clusters(
    result: Result | pd.DataFrame,
    *,
    axes: Result | pd.DataFrame | None = None,
    positions: list[str] | None = None,
    layer: int | None = None,
    basis: str | None = None,
    max_points: int = 1500,
) -> go.Figure:
    """Draw the prompts on the first two principal components, with a slider over layers; a row per position, a column per model.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``model, position, layer, prompt_id, language, tier, harmful, pc1, pc2``; ``basis`` where there is one.
    axes : Result or DataFrame, optional
        ``model, position, layer, component, ratio``: the share of variance per component, shown when hovering over a panel's title row.
    positions : list of str, optional
        Which positions to show; default all.
    layer : int, optional
        The layer shown first; default the middle one.
    basis : str, optional
        "own" or "common"; default the axes common to both models where the table has them. On common axes the panels of a position
        share their ranges, so before and after compare.
    max_points : int
        Points per panel; above it every n-th prompt is drawn and the subtitle says so.

    Returns
    -------
    Figure
        Hue is the tier, the marker the class, hover the prompt's id and language. Components are in activation units.
    """
    needed = ("model", "position", "layer", "prompt_id", "language", "tier", "harmful", "pc1", "pc2")
    table = table_of(result, needed, figure="clusters")
    table, _, chosen = compared(table, basis=basis)
    explained = None if axes is None else table_of(axes, ("model", "position", "layer", "component", "ratio"), figure="clusters")
    if explained is not None and "basis" in explained:
        explained = explained[explained["basis"] == chosen]
    wanted = positions or positions_of(table)
    models = [m for m in _MODELS if m in set(table["model"])]
    table = table[table["position"].isin(wanted)]
    prompts = sorted(table["prompt_id"].unique())
    thinning = -(-len(prompts) // max_points)
    table = table[table["prompt_id"].isin(prompts[::thinning])].sort_values("prompt_id", kind="stable")
    layers = sorted(table["layer"].unique().tolist())
    shown = layers[len(layers) // 2] if layer is None or layer not in layers else layer

    keys = [(position, model) for position in wanted for model in models]
    fig, cells = panels(
        [f"{_MODELS[m]}<br>{position_name(p)}" for p, m in keys],
        columns=len(models),
        horizontal_spacing=0.14,
        vertical_spacing=0.17 if len(wanted) > 1 else 0,
    )
    groups = [(tier, harmful) for harmful in (True, False) for tier in TIERS if tier in set(table["tier"])]
    by_key = {key: part for key, part in table.groupby(["layer", "position", "model", "tier", "harmful"], sort=False)}
    nothing = table.iloc[:0]
    frames = []
    for each in layers:
        traces = []
        for position, model in keys:
            for tier, harmful in groups:
                part = by_key.get((each, position, model, tier, harmful), nothing)
                traces.append(dict(x=f32(part["pc1"]), y=f32(part["pc2"]), customdata=part[["prompt_id", "language"]].to_numpy(dtype=str)))
        frames.append((each, traces))

    first = dict(frames)[shown]
    for i, (key, cell) in enumerate(zip(keys, cells, strict=True)):
        for j, (tier, harmful) in enumerate(groups):
            data, colour = first[i * len(groups) + j], colour_of(tier)
            fig.add_scatter(
                **data,
                mode="markers",
                name=f"{CLASS_NAMES[harmful]}, {tier}",
                legendgroup=f"{CLASS_NAMES[harmful]}, {tier}",
                showlegend=key == keys[0],
                marker=dict(
                    symbol=CLASS_SYMBOLS[harmful], size=7, color=colour, opacity=0.75, line=dict(width=1 if not harmful else 0, color=colour)
                ),
                hovertemplate="%{customdata[0]} (%{customdata[1]})<br>%{x:.2f}, %{y:.2f}<extra>" + f"{CLASS_NAMES[harmful]}, {tier}" + "</extra>",
                row=cell.row,
                col=cell.col,
            )
    fig.frames = [
        go.Frame(
            name=str(each),
            data=[go.Scatter(**t) for t in traces],
            traces=list(range(len(traces))),
            layout=_axes(explained, keys, each, traces, chosen),
        )
        for each, traces in frames
    ]
    fig.update_layout(_axes(explained, keys, shown, first, chosen))
    fig.update_xaxes(zeroline=True, zerolinecolor=MUTED, zerolinewidth=0.5)
    fig.update_yaxes(zeroline=True, zerolinecolor=MUTED, zerolinewidth=0.5)
    layer_slider(fig, layers, shown)
    note = f"every {thinning}. prompt of {len(prompts)}" if thinning > 1 else f"{len(prompts)} prompts"
    note += f" &nbsp;·&nbsp; {basis_name('', chosen)}" if "basis" in table else ""
    titled(
        fig, "Residual stream on its first two principal components, by layer", tiers=set(table["tier"]), note=note, height=240 + 300 * len(wanted)
    )
    return fig.update_layout(margin=dict(t=152), legend=dict(entrywidthmode="pixels", entrywidth=116, font=dict(size=11.5)))


def _axes(
    explained: pd.DataFrame | None, keys: list[tuple[str, str]], layer: int, traces: list[dict[str, Any]], basis: str
) -> dict[str, dict[str, Any]]:
    """Return axis ranges that fit this layer, and titles with the share of variance that each component explains there."""
    out = {}
    per_panel = len(traces) // len(keys)
    for i, (position, model) in enumerate(keys):
        together = [j for j, (other, _) in enumerate(keys) if j == i or (basis == "common" and other == position)]
        for axis, component in (("x", 1), ("y", 2)):
            text = f"PC{component} (activation units)"
            if explained is not None:
                match = (explained["position"] == position) & (explained["model"] == model) & (explained["layer"] == layer)
                ratio = explained.loc[match & (explained["component"] == component), "ratio"].to_numpy(dtype=np.float64)
                if len(ratio) and np.isfinite(ratio[0]):
                    text = f"PC{component}, {ratio[0]:.0%} of variance"
            values = np.concatenate([t[axis] for j in together for t in traces[j * per_panel : (j + 1) * per_panel]])
            values = values[np.isfinite(values)]
            low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
            room = 0.06 * (high - low) or 1.0
            out[f"{axis}axis{i + 1 if i else ''}"] = dict(title=dict(text=text), range=[low - room, high + room])
    return out
