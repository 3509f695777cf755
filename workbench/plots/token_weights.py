"""Which tokens a student learns from: the teacher's and the student's part of each token's weight, along single replies and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.alignment.token_profiles import token_profiles
from workbench.errors import DataError
from workbench.plots.panels import Cell, band, panels
from workbench.plots.style import CLASS_NAMES, FACTOR_COLOURS, INK, MUTED, TIERS, colour_of, f32, faded, in_order, table_of, tiered, titled
from workbench.results import Result

_COLUMNS = ("prompt_id", "language", "harmful", "token_index", "teacher", "student", "weight")
_PARTS = {"teacher": "teacher's part", "student": "student's part", "weight": "weight"}
_SCALES = {"coloraxis": FACTOR_COLOURS["meaning"], "coloraxis2": INK}
_NUMBERED = 24  # tokens up to which cells have room for their numbers
_PANEL, _STRIP = 205, 104  # pixels


def token_weights(result: Result | pd.DataFrame, *, tiers: Mapping[str, str] | None = None, least: int = 5, singles: int = 5) -> go.Figure:
    """Draw the parts of the weights by place in the reply, averaged over replies: a line per tier, a row per class of prompt.

    Parameters
    ----------
    result : Result or DataFrame
        ``prompt_id, language, harmful, token_index, teacher, student, weight``: a row per token, and no text; ``tier`` where it is there.
    tiers : mapping of language to tier, optional
        For tables without tiers.
    least : int
        Places that fewer replies of a tier reach are left out; where none reaches so many, those that most reach are drawn.
    singles : int
        How many single replies per tier to draw thinly behind the mean, the first ones of the table.

    Returns
    -------
    Figure
        The parts are shares, 0 to 1. Weights are scaled within each reply, by default to a mean of 1. Shaded: the middle half of the replies,
        which is a spread and no interval.
    """
    table = tiered(table_of(result, _COLUMNS, figure="token_weights"), tiers)
    profiles = token_profiles(table).table
    classes = [label for label in (True, False) if (table["harmful"].astype(bool) == label).any()]
    headings = [f"{CLASS_NAMES[label]}: {name}" for label in classes for name in _PARTS.values()]
    height = 150 + _PANEL * len(classes)
    spacing = dict(horizontal_spacing=0.07, vertical_spacing=56 / (_PANEL * len(classes)) if len(classes) > 1 else 0)
    fig, cells = panels(headings, columns=len(_PARTS), shared_xaxes=True, **spacing)
    known = [tier for tier in TIERS if tier in set(table["tier"])]
    for i, cell in enumerate(cells):
        label, part = classes[i // len(_PARTS)], list(_PARTS)[i % len(_PARTS)]
        for tier in known:
            own = table[(table["tier"] == tier) & (table["harmful"].astype(bool) == label)]
            rows = profiles[(profiles["tier"] == tier) & (profiles["harmful"].astype(bool) == label) & (profiles["part"] == part)]
            if len(rows):
                _line(fig, rows[rows["n"] >= min(least, rows["n"].max())], own, part, tier, cell, singles=singles)
    longest = max((float(np.nanmax(np.asarray(trace.x, dtype=float))) for trace in fig.data if trace.mode == "lines+markers"), default=1.0)
    fig.update_xaxes(range=[0.5, longest + 0.5], tick0=1, dtick=max(1, round(longest / 6)))
    fig.update_xaxes(title_text="token of the reply", row=len(classes))
    fig.update_yaxes(rangemode="tozero")
    for column in (1, 2):
        fig.update_yaxes(range=[-0.03, 1.03], tickvals=[0, 0.5, 1], col=column)
    return titled(
        fig,
        _title(profiles, known, least),
        tiers=known,
        note="line: mean over replies · shaded: their middle half · thin: single replies",
        height=height,
    ).update_layout(margin=dict(t=104, b=56))


def token_weight_strips(result: Result | pd.DataFrame, *, tiers: Mapping[str, str] | None = None, prompts: Sequence[str] | None = None) -> go.Figure:
    """Draw single replies as strips: the teacher's part, the student's part and the weight of each token, one below the other.

    Parameters
    ----------
    result, tiers
        As for :func:`token_weights`.
    prompts : sequence of str, optional
        Ids of the prompts whose replies to draw; default the first harmful one of each tier, and the first harmless one of the last of these.

    Returns
    -------
    Figure
        The parts are shares, 0 to 1; a token counts where both are high. Weights are scaled within a reply, by default to a mean of 1.

    Raises
    ------
    DataError
        A prompt that is not in the table.
    """
    table = tiered(table_of(result, _COLUMNS, figure="token_weight_strips"), tiers)
    table = table.assign(prompt_id=table["prompt_id"].astype(str), harmful=table["harmful"].astype(bool))
    shown = _first_ones(table) if prompts is None else list(prompts)
    missing = [one for one in shown if one not in set(table["prompt_id"])]
    if missing:
        raise DataError(
            f"token_weight_strips: no weights of {', '.join(missing[:5])}. Expected ids of the table, such as {table['prompt_id'].iloc[0]}."
        )
    replies = {one: table[table["prompt_id"] == one].sort_values("token_index") for one in shown}
    heads = [rows.iloc[0] for rows in replies.values()]
    headings = [f"{row['language']}, {row['tier']} tier, {CLASS_NAMES[bool(row['harmful'])]} ({row['prompt_id']})" for row in heads]
    longest = max(len(rows) for rows in replies.values())
    height = 170 + _STRIP * len(shown)
    spacing = 36 / (height - 150) if len(shown) > 1 else 0
    fig, cells = panels(headings, columns=1, shared_xaxes=True, vertical_spacing=spacing)
    for rows, cell in zip(replies.values(), cells, strict=True):
        _strips(fig, rows, cell, numbered=longest <= _NUMBERED)
    fig.update_annotations(x=0, xanchor="left", font=dict(size=11.5))
    fig.update_xaxes(range=[0.5, longest + 0.5], showgrid=False, ticks="", nticks=min(longest + 1, 20))
    fig.update_xaxes(title_text="token of the reply", showticklabels=True, row=len(shown))
    fig.update_yaxes(tickvals=[0, 1, 2.15], ticktext=list(_PARTS.values()), range=[2.7, -0.55], showgrid=False, ticks="")
    largest = max(float(rows["weight"].max()) for rows in replies.values())
    _bars(fig, height, largest)
    top = max(replies.values(), key=lambda rows: float(rows["weight"].max()))
    place, peak = int(top.loc[top["weight"].idxmax(), "token_index"]) + 1, top.iloc[0]
    title = f"Largest weight of {len(shown)} replies: {largest:.1f}, token {place} in {peak['language']}"
    return titled(fig, title, note="a token counts where both parts are high", height=height).update_layout(margin=dict(t=126, b=52))


def _line(fig: go.Figure, rows: pd.DataFrame, tokens: pd.DataFrame, part: str, tier: str, cell: Cell, *, singles: int) -> None:
    colour, at = colour_of(tier), dict(row=cell.row, col=cell.col)
    last = int(rows["token_index"].max())
    thin, name = dict(color=faded(colour, 0.28), width=0.8), f"{tier}, replies"
    for one in in_order(tokens["prompt_id"])[:singles]:
        reply = tokens[(tokens["prompt_id"] == one) & (tokens["token_index"] <= last)].sort_values("token_index")
        fig.add_scatter(
            x=f32(reply["token_index"] + 1), y=f32(reply[part]), mode="lines", line=thin, name=name, legendgroup=tier, showlegend=False,
            hovertemplate=f"{one}, token %{{x}}: %{{y:.2f}}<extra></extra>", **at,
        )  # fmt: skip
    spread = rows.assign(layer=rows["token_index"] + 1, low=rows["quarter"], high=rows["three_quarters"])
    band(fig, spread, "value", cell, colour=colour, group=tier, alpha=0.14)
    fig.add_scatter(
        x=f32(spread["layer"]),
        y=f32(rows["value"]),
        mode="lines+markers",
        line=dict(color=colour, width=2.2),
        marker=dict(size=4, color=colour),
        name=tier,
        legendgroup=tier,
        showlegend=False,
        customdata=np.stack([f32(spread["low"]), f32(spread["high"]), f32(rows["n"])], axis=-1),
        hovertemplate=f"{tier} tier, token %{{x}}<br>mean %{{y:.2f}}, middle half %{{customdata[0]:.2f}} to %{{customdata[1]:.2f}}"
        "<br>n = %{customdata[2]:.0f} replies<extra></extra>",
        **at,
    )


def _strips(fig: go.Figure, rows: pd.DataFrame, cell: Cell, *, numbered: bool) -> None:
    """Two maps, as the parts and the weight have scales of their own."""
    x, words = f32(rows["token_index"] + 1), list(_PARTS.values())
    parts = rows[["teacher", "student"]].to_numpy(dtype=np.float32).T
    weight = rows[["weight"]].to_numpy(dtype=np.float32).T
    for z, y, axis, names in ((parts, [0.0, 1.0], "coloraxis", words[:2]), (weight, [2.15], "coloraxis2", words[2:])):
        fig.add_heatmap(
            x=x, y=f32(y), z=z, dy=1, coloraxis=axis, xgap=1, ygap=1, texttemplate="%{z:.1f}" if numbered else None, textfont=dict(size=9.5),
            customdata=np.array([[name] * len(x) for name in names]), name=str(rows["language"].iloc[0]),
            hovertemplate="token %{x}, %{customdata}: %{z:.2f}<extra></extra>", row=cell.row, col=cell.col,
        )  # fmt: skip


def _bars(fig: go.Figure, height: int, largest: float) -> None:
    top = max(1.0, largest)
    ends = {"coloraxis": (1.0, ["0", "part of teacher or student: 1"]), "coloraxis2": (top, ["0", f"weight: {top:.1f}"])}
    for i, (axis, colour) in enumerate(_SCALES.items()):
        most, told = ends[axis]
        bar = dict(
            orientation="h", thickness=9, len=0.3, x=0.5 * i, xanchor="left", xpad=4, y=1 - 62 / height, yref="container", yanchor="top", ypad=0
        )
        bar |= dict(tickvals=[0, most], ticktext=told, tickfont=dict(size=10.5, color=MUTED))
        fig.update_layout({axis: dict(colorscale=[[0, "#FFFFFF"], [1, colour]], cmin=0, cmax=most, colorbar=bar)})


def _first_ones(table: pd.DataFrame) -> list[str]:
    """Return the first harmful reply of each tier and, for contrast, the first harmless one of the last tier."""
    tiers = [tier for tier in TIERS if tier in set(table["tier"])]
    wanted = [(tier, True) for tier in tiers] + [(tiers[-1], False)]
    parts = [table[(table["tier"] == tier) & (table["harmful"] == label)] for tier, label in wanted]
    return [str(part["prompt_id"].iloc[0]) for part in parts if len(part)]


def _title(profiles: pd.DataFrame, tiers: Sequence[str], least: int) -> str:
    """Say where the mean weight of harmful replies is largest in the last tier, which is the one that is repaired."""
    rows = profiles[(profiles["part"] == "weight") & (profiles["tier"] == tiers[-1]) & profiles["harmful"].astype(bool)]
    rows = rows[rows["n"] >= min(least, rows["n"].max())] if len(rows) else rows
    if rows.empty:
        return "Token weights along a reply"
    peak = rows.loc[rows["value"].idxmax()]
    return f"Mean token weight, harmful, {tiers[-1]} tier: up to {peak['value']:.1f}, at token {int(peak['token_index']) + 1}"


__all__ = ["token_weight_strips", "token_weights"]
