"""How alike the languages' directions are, and how much of it noise, shared meanings or chance would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError, did_you_mean
from workbench.plots.panels import Cell, Rows, layer_slider, panels
from workbench.plots.style import INK, MUTED, NULL, colour_of, extremes, f32, faded, in_order, position_name, positions_of, table_of, titled
from workbench.results import Result

_NEEDED: tuple[str, ...] = ("across", "contrast", "language", "tier", "other_language", "other_tier", "position", "layer", "value", "low", "high")
_NEEDED += ("ceiling", "disattenuated", "random_95", "permuted_95", "permuted_same_95")
_RELABELLED, _PERMUTED = "same meanings relabelled (95 %)", "random, permuted labels (95 %)"
_MEASURED, _CEILING, _CORRECTED = "measured", "equal directions, unrelated noise", "corrected for noise"


def direction_cosines(result: Result | pd.DataFrame, *, reference: str | None = None, layer: int | None = None) -> go.Figure:
    """Draw each language's cosine with the direction of one language: a row per language, a panel per position, a slider over layers.

    Parameters
    ----------
    result : Result or DataFrame
        ``compare_directions(across="languages")``.
    reference : str, optional
        The language all others are compared with; default the first of the table.
    layer : int, optional
        The layer shown first; default the middle one.

    Returns
    -------
    Figure
        Filled: the cosine with its interval. Hollow: corrected for noise, where the reliabilities allow it. Upright stroke: what equal
        directions would show if their noise were unrelated; a cosine beyond it shares meanings. Grey: what 5 % of random or permuted-label
        directions exceed; pale grey: the same where the same meanings were relabelled in both languages. An undefined direction leaves its
        row empty.

    Raises
    ------
    DataError
        A comparison that is not across languages, an unknown reference or layer.
    """
    table = table_of(result, _NEEDED, figure="direction_cosines")
    if not (table["across"] == "languages").all():
        raise DataError(
            f"direction_cosines was given a comparison across {in_order(table['across'])}. Expected languages; "
            "pass compare_directions(across='languages')."
        )
    known = in_order([*table["language"], *table["other_language"]])
    reference = known[0] if reference is None else reference
    if reference not in known:
        raise DataError(f"No direction of {reference!r}; present: {known}.{did_you_mean(reference, known)}")
    table = _against(table, reference)
    layers = sorted(int(k) for k in table["layer"].unique())
    if layer is not None and layer not in layers:
        raise DataError(f"Layer {layer} was not compared; present: {layers}.")
    shown = layers[len(layers) // 2] if layer is None else layer
    positions, rows = positions_of(table), Rows.of(table)
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True, horizontal_spacing=0.05)
    drawn = {k: [_panel(table[(table["layer"] == k) & (table["position"] == p)], rows, legend=p == positions[0]) for p in positions] for k in layers}
    for traces, cell in zip(drawn[shown], cells, strict=True):
        for trace in traces:
            fig.add_trace(trace, row=cell.row, col=cell.col)
    fig.frames = [
        go.Frame(
            name=str(k),
            data=[trace for panel in found for trace in panel],
            traces=list(range(len(fig.data))),
            layout=dict(title=dict(text=_headline(table, k, reference))),
        )
        for k, found in drawn.items()
    ]
    _axes(fig, table, rows, cells)
    tiers = rows.languages.values()
    titled(fig, _headline(table, shown, reference), tiers=tiers, height=rows.height * cells[-1].row + (150 if len(layers) > 1 else 70))
    if len(layers) > 1:
        layer_slider(fig, layers, shown)
    return fig.update_layout(margin=dict(t=158, r=20), barmode="overlay", bargap=0)


def _against(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the pairs of one language, named by the other."""
    second = table[table["other_language"] == reference]
    first = table[table["language"] == reference].assign(language=lambda t: t["other_language"], tier=lambda t: t["other_tier"])
    both = pd.concat([first, second], ignore_index=True)
    return both.assign(tier=both["tier"].astype(object).where(both["tier"].notna(), "unknown"))


def _panel(part: pd.DataFrame, rows: Rows, *, legend: bool) -> list[Any]:
    """Return one position's traces at one layer; as many in every layer, so that frames fit."""
    y = rows.y(part["language"].tolist())
    chance = part[["random_95", "permuted_95"]].max(axis=1).where(part["value"].notna())
    traces: list[Any] = [_bars(part["permuted_same_95"], y, faded(NULL, 0.4), _RELABELLED, legend), _bars(chance, y, NULL, _PERMUTED, legend)]
    gaps, ceiling = np.full(len(part), np.nan, dtype=np.float32), f32(part["ceiling"])
    upright = dict(
        x=np.stack([ceiling, ceiling, gaps], axis=1).ravel(),
        y=np.stack([y - np.float32(0.37), y + np.float32(0.37), gaps], axis=1).ravel(),
    )
    told = f"{_CEILING}: %{{x:.2f}}<extra></extra>"
    traces.append(go.Scatter(**upright, mode="lines", line=dict(width=2, color=INK), name=_CEILING, hovertemplate=told, showlegend=legend))
    for name, symbol in ((_MEASURED, "circle"), (_CORRECTED, "circle-open")):
        marker = dict(symbol=symbol, size=10, color=MUTED, line=dict(width=1.8))
        traces.append(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, showlegend=legend))
    for tier in in_order(rows.languages.values()):
        traces += _dots(part[part["tier"] == tier], rows, colour_of(tier))
    return traces


def _bars(half: pd.Series, y: np.ndarray, colour: str, name: str, legend: bool) -> go.Bar:
    return go.Bar(
        x=f32(2 * half),
        base=f32(-half),
        y=y,
        width=0.74,
        orientation="h",
        marker=dict(color=colour, line=dict(width=0)),
        name=name,
        customdata=f32(half),
        hovertemplate=f"{name}: ±%{{customdata:.2f}}<extra></extra>",
        showlegend=legend,
    )


def _dots(part: pd.DataFrame, rows: Rows, colour: str) -> list[go.Scatter]:
    """Return the measured and the corrected cosines of one tier's languages."""
    x, y = f32(part["value"]), rows.y(part["language"].tolist())
    hover = part[["language", "low", "high", "disattenuated"]].to_numpy(dtype=object)
    bars = dict(type="data", symmetric=False, array=f32(part["high"]) - x, arrayminus=x - f32(part["low"]), thickness=1.6, width=4, color=colour)
    told = "%{customdata[0]}: %{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]<br>corrected for noise: %{customdata[3]:.3f}<extra></extra>"
    measured = go.Scatter(
        x=x, y=y, mode="markers", marker=dict(size=8, color=colour), error_x=bars, customdata=hover, hovertemplate=told, showlegend=False
    )
    hollow = dict(symbol="circle-open", size=12, color=colour, line=dict(width=1.8))
    corrected = go.Scatter(x=f32(part["disattenuated"]), y=y, mode="markers", marker=hollow, hoverinfo="skip", showlegend=False)
    return [measured, corrected]


def _axes(fig: go.Figure, table: pd.DataFrame, rows: Rows, cells: list[Cell]) -> None:
    """Name the languages and give all panels one range, which holds every layer's dots; the bands may reach beyond on the left."""
    rows.label(fig)
    fig.update_yaxes(showgrid=False)
    values = table[["value", "low", "disattenuated", "ceiling"]].to_numpy(dtype=np.float64)
    seen = np.append(values[np.isfinite(values)], -0.1)
    low, high = max(float(seen.min()), -1.0), max(1.0, min(float(seen.max()), 1.3))
    fig.update_xaxes(range=[low - 0.04, high + 0.04], title_text="cosine (0 unrelated, 1 same direction)", zeroline=True, zerolinecolor=MUTED)
    for cell in cells:
        fig.add_vline(x=1, line=dict(color=MUTED, width=1, dash="dot"), row=cell.row, col=cell.col)


def _headline(table: pd.DataFrame, layer: int, reference: str) -> str:
    part = table[table["layer"] == layer]
    what = "/".join(in_order(part["contrast"]))
    return f"Cosine with {reference}'s {what} direction, layer {layer}: {extremes(part, 'value')}"
