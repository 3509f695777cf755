"""Which language the layers would speak: the logit lens' probability by language, one small panel per language of the prompts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import DataError, did_you_mean
from workbench.geometry.lens import MOST_UNSEEN
from workbench.plots.panels import Cell, band
from workbench.plots.style import (
    INK,
    LAYER_AXIS,
    MUTED,
    NULL,
    colour_of,
    extremes,
    f32,
    faded,
    languages_of,
    position_name,
    positions_of,
    table_of,
    titled,
)
from workbench.results import Result

_COLUMNS = (
    *("position", "layer", "language", "tier", "kind", "spoken", "n", "attributed", "attributed_low", "attributed_high", "attributed_control_95"),
    *("unseen", "unseen_low", "unseen_high", "entropy", "entropy_low", "entropy_high", "entropy_max"),
)
_SERIES = {"own": ("own language", "solid", 2.4), "reference": ("reference languages", "dash", 1.8), "other": ("all other languages", "dot", 1.8)}
_THIN = {"own": "1px,3px", "reference": "4px,3px"}  # the controls, thinner relatives of the lines
_CONTROL = "with tokens' languages permuted (95 %)"
_UNSEEN = "tokens never seen in the texts counted"
_ABREAST = 4
_MAIN, _STRIP, _BETWEEN, _GAP, _TOP, _BOTTOM = 128, 36, 14, 40, 176, 54  # pixels; between a panel and its strip, below a strip


def language_track(result: Result | pd.DataFrame, *, position: str | None = None) -> go.Figure:
    """Draw the probability on tokens of the prompt's own language, of the reference and of all others by layer, and the entropy below.

    Parameters
    ----------
    result : Result or DataFrame
        What ``workbench.diagnosis.lens.track_languages`` returns; the rows of kind "rollup" are drawn.
    position : str, optional
        The position shown first; a menu offers the others. Default: ``t_post_inst``, where the answer begins, if it is there.

    Returns
    -------
    Figure
        Own, reference, other and the grey area (unseen tokens, hanging from the top) add up to one. Shaded: 95 % intervals over
        meanings. Thin: what own (dotted) and reference (dashed) reach when the seen tokens' languages are permuted. Entropy in bits.

    Raises
    ------
    DataError
        A column that is missing, no rows to draw, or an unknown position.
    """
    table = table_of(result, _COLUMNS, figure="language_track")
    table = table[table["kind"] == "rollup"]
    table = table_of(table, (), figure="language_track, which draws the rows of kind 'rollup',")
    languages, positions = languages_of(table), positions_of(table)
    if position is not None and position not in positions:
        raise DataError(f"The track has no position {position!r}; it has {positions}.{did_you_mean(position, positions)}")
    first = position or ("t_post_inst" if "t_post_inst" in positions else positions[-1])
    fig, cells = _small_multiples(list(languages))
    hues = {"reference": _reference_hue(result, languages), "other": MUTED}
    owner: list[str] = []
    for here in positions:
        for language, cell in zip(languages, cells, strict=True):
            rows = table[(table["position"] == here) & (table["language"] == language)].sort_values("layer")
            _panel(fig, rows, cell, {"own": colour_of(languages[language]), **hues})
            _strip(fig, rows, Cell(cell.row + 1, cell.col))
            owner += [here] * (len(fig.data) - len(owner))
    for trace, here in zip(fig.data, owner, strict=True):
        trace.visible = here == first
    for language, cell in zip(languages, cells, strict=True):
        _name(fig, language, colour_of(languages[language]), cell)
    _key(fig, hues["reference"], set(table["spoken"]))
    owner += [""] * (len(fig.data) - len(owner))
    _axes(fig, table, cells)
    if len(positions) > 1:
        _menu(fig, table, positions, owner, first)
    top = _TOP - (0 if len(positions) > 1 else 36)  # without a menu
    height = top + _BOTTOM + _height(cells[-1].row // 3 + 1)
    titled(
        fig,
        _title(table, first),
        tiers=languages.values(),
        note=f"strips: entropy of all tokens &nbsp;·&nbsp; grey below {1 - MOST_UNSEEN:g}: no language is named",
        height=height,
    )
    return fig.update_layout(margin=dict(t=top, b=_BOTTOM, r=16))


def _small_multiples(languages: list[str]) -> tuple[go.Figure, list[Cell]]:
    """One tall panel with a strip below it per language; a spacer row keeps the lines of panels apart."""
    across = min(_ABREAST, len(languages))
    down = math.ceil(len(languages) / across)
    cells = [Cell(3 * (i // across) + 1, i % across + 1) for i in range(len(languages))]
    specs: list[list[dict | None]] = []
    for row in range(3 * down - 1):
        panel = row - row % 3 + 1
        specs.append([{} if row % 3 < 2 and Cell(panel, col) in cells else None for col in range(1, across + 1)])
    fig = make_subplots(
        rows=3 * down - 1,
        cols=across,
        specs=specs,
        row_heights=([_MAIN, _STRIP, _GAP - 2 * _BETWEEN] * down)[:-1],
        vertical_spacing=_BETWEEN / _height(down),
        horizontal_spacing=0.032,
        x_title=LAYER_AXIS,
    )
    fig.update_annotations(font=dict(size=12.5, color=INK), yshift=-34)
    return fig, cells


def _height(down: int) -> int:
    return down * (_MAIN + _BETWEEN + _STRIP + _GAP) - _GAP


def _panel(fig: go.Figure, rows: pd.DataFrame, cell: Cell, hues: dict[str, str]) -> None:
    at = dict(row=cell.row, col=cell.col)
    once = rows.drop_duplicates("layer")
    x, seen = f32(once["layer"]), 1 - f32(once["unseen"])
    top = np.where(np.isfinite(seen), np.float32(1), np.float32(np.nan))
    edge = dict(line=dict(color=MUTED, width=0.8), legendgroup=_UNSEEN, showlegend=False)
    fig.add_scatter(x=x, y=top, mode="lines", line=dict(width=0), hoverinfo="skip", showlegend=False, legendgroup=_UNSEEN, name="top", **at)
    hover = once[["unseen", "unseen_low", "unseen_high"]].to_numpy(dtype=np.float32)
    words = "layer %{x}<br>unseen tokens: %{customdata[0]:.2f} [%{customdata[1]:.2f}, %{customdata[2]:.2f}]<extra></extra>"
    fig.add_scatter(
        x=x, y=seen, mode="lines", fill="tonexty", fillcolor=faded(NULL, 0.6), name=_UNSEEN, customdata=hover, hovertemplate=words, **edge, **at
    )
    uncertain = once.assign(seen=1 - once["unseen"], low=1 - once["unseen_high"], high=1 - once["unseen_low"])
    band(fig, uncertain, "seen", cell, colour=MUTED, group=_UNSEEN, alpha=0.22)
    for kind, (name, dash, width) in reversed(_SERIES.items()):
        part = rows[rows["spoken"] == kind]
        if part.empty:
            continue
        x = f32(part["layer"])
        limits = part.assign(low=part["attributed_low"], high=part["attributed_high"])
        band(fig, limits, "attributed", cell, colour=hues[kind], group=name, alpha=0.14)
        if kind in _THIN:
            fig.add_scatter(
                x=x,
                y=f32(part["attributed_control_95"]),
                mode="lines",
                line=dict(color=faded(hues[kind], 0.75), width=1, dash=_THIN[kind]),
                name=_CONTROL,
                legendgroup=_CONTROL,
                showlegend=False,
                hoverinfo="skip",
                **at,
            )
        columns = ["attributed_low", "attributed_high", "attributed_control_95", "n"]
        fig.add_scatter(
            x=x,
            y=f32(part["attributed"]),
            mode="lines",
            line=dict(color=hues[kind], width=width, dash=dash),
            name=name,
            legendgroup=name,
            showlegend=False,
            customdata=part[columns].to_numpy(dtype=np.float32),
            hovertemplate=f"{part['language'].iloc[0]}, layer %{{x}}<br>{name}: %{{y:.2f}} [%{{customdata[0]:.2f}}, %{{customdata[1]:.2f}}]"
            "<br>permuted: up to %{customdata[2]:.2f}<br>n = %{customdata[3]:.0f}<extra></extra>",
            **at,
        )


def _strip(fig: go.Figure, rows: pd.DataFrame, cell: Cell) -> None:
    once = rows.drop_duplicates("layer").assign(low=lambda t: t["entropy_low"], high=lambda t: t["entropy_high"])
    band(fig, once, "entropy", cell, colour=INK, group="entropy", alpha=0.14)
    fig.add_scatter(
        x=f32(once["layer"]),
        y=f32(once["entropy"]),
        mode="lines",
        line=dict(color=INK, width=1.4),
        name="entropy",
        showlegend=False,
        customdata=once[["low", "high"]].to_numpy(dtype=np.float32),
        hovertemplate="layer %{x}<br>entropy: %{y:.1f} bits [%{customdata[0]:.1f}, %{customdata[1]:.1f}]<extra></extra>",
        row=cell.row,
        col=cell.col,
    )


def _name(fig: go.Figure, language: str, colour: str, cell: Cell) -> None:
    fig.add_annotation(
        text=f"<b>{language}</b>",
        x=0,
        xref="x domain",
        xanchor="left",
        y=1,
        yref="y domain",
        yanchor="bottom",
        showarrow=False,
        font=dict(size=12.5, color=colour),
        row=cell.row,
        col=cell.col,
    )


def _key(fig: go.Figure, reference: str, drawn: set[str]) -> None:
    """Give the legend entries of its own: in the panels the own language has the hue of its tier."""
    hues = {"own": INK, "reference": reference, "other": MUTED}
    lines = {name: dict(color=hues[kind], width=width, dash=dash) for kind, (name, dash, width) in _SERIES.items() if kind in drawn}
    for name, line in {**lines, _CONTROL: dict(color=MUTED, width=1.2, dash=_THIN["own"])}.items():
        fig.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, legendgroup=name, row=1, col=1)
    square = dict(symbol="square", size=11, color=faded(NULL, 0.8), line=dict(color=MUTED, width=0.8))
    fig.add_scatter(x=[None], y=[None], mode="markers", marker=square, name=_UNSEEN, legendgroup=_UNSEEN, row=1, col=1)


def _axes(fig: go.Figure, table: pd.DataFrame, cells: list[Cell]) -> None:
    bits, reach = float(table["entropy_max"].max()), [table["layer"].min() - 0.2, table["layer"].max() + 0.2]
    for cell in cells:
        left, lowest = cell.col == 1, not any(c.row > cell.row and c.col == cell.col for c in cells)
        panel, strip = dict(row=cell.row, col=cell.col), dict(row=cell.row + 1, col=cell.col)
        fig.update_xaxes(range=reach, nticks=6, showticklabels=False, ticks="", **panel)
        fig.update_xaxes(range=reach, nticks=6, showticklabels=lowest, **strip)
        fig.update_yaxes(range=[-0.02, 1.02], tickvals=[0, 0.5, 1], showticklabels=left, **panel)
        fig.update_yaxes(range=[0, 1.02 * bits], tickvals=[0, bits], ticktext=["0", f"{bits:.0f}"], showticklabels=left, **strip)
        if left:
            fig.update_yaxes(title_text="probability (0 to 1)", **panel)
            fig.update_yaxes(title_text="bits", **strip)


def _menu(fig: go.Figure, table: pd.DataFrame, positions: list[str], owner: list[str], first: str) -> None:
    buttons = [
        dict(
            method="update",
            label=position_name(here),
            args=[{"visible": [o in ("", here) for o in owner]}, {"title.text": _title(table, here)}],
        )
        for here in positions
    ]
    look = dict(font=dict(size=11.5), bgcolor="white", bordercolor=MUTED)
    menu = dict(buttons=buttons, active=positions.index(first), x=1, xanchor="right", y=1, yanchor="bottom", pad=dict(b=22), **look)
    fig.update_layout(updatemenus=[menu])


def _title(table: pd.DataFrame, position: str) -> str:
    last = int(table["layer"].max())
    own = table[(table["position"] == position) & (table["layer"] == last) & (table["spoken"] == "own")]
    return f"Logit lens, layer {last} of {position}: own language {extremes(own, 'attributed')}"


def _reference_hue(result: Result | pd.DataFrame, languages: dict[str, str]) -> str:
    named = result.provenance.get("reference", []) if isinstance(result, Result) else []
    tiers = {languages[tag] for tag in named if tag in languages} or {"high"} & set(languages.values())
    return colour_of(tiers.pop()) if len(tiers) == 1 else INK
