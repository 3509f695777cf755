"""Shared arrangements: one panel per position, one row per language, bands over layers, and a slider over layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.plots.style import INK, MUTED, NULL, colour_of, f32, faded, languages_of

ROW_HEIGHT = 30
_TAG = 14  # pixels that the tag of a language needs


class Cell(NamedTuple):
    """Where a panel is, counted from 1."""

    row: int
    col: int


def panels(titles: Sequence[str], *, columns: int = 2, **options: Any) -> tuple[go.Figure, list[Cell]]:
    """Make a grid of panels, two abreast at notebook width.

    Parameters
    ----------
    titles : sequence of str
        One per panel.
    columns : int
        Panels abreast.
    **options
        Passed to ``make_subplots``.

    Returns
    -------
    tuple of (Figure, list of Cell)
    """
    across = min(columns, len(titles))
    down = math.ceil(len(titles) / across)
    defaults: dict[str, Any] = dict(horizontal_spacing=0.06 if options.get("shared_yaxes") else 0.11, vertical_spacing=0.16 / down if down > 1 else 0)
    fig = make_subplots(rows=down, cols=across, subplot_titles=list(titles), **(defaults | options))
    fig.update_annotations(font=dict(size=12.5, color=INK))
    return fig, [Cell(i // across + 1, i % across + 1) for i in range(len(titles))]


class Rows(NamedTuple):
    """One row per language, the reference tiers on top."""

    languages: dict[str, str]

    @classmethod
    def of(cls, table: pd.DataFrame) -> Rows:
        """Take the languages of a table."""
        return cls(languages_of(table))

    def y(self, languages: Sequence[str]) -> np.ndarray:
        """Return the height of each language's row."""
        place = {language: len(self.languages) - 1 - i for i, language in enumerate(self.languages)}
        return f32([place[language] for language in languages])

    @property
    def height(self) -> int:
        """Pixels that the rows and their frame need."""
        return 190 + ROW_HEIGHT * max(len(self.languages), 3)

    def label(self, fig: go.Figure, *, marks: dict[str, str] | None = None, below: float = 0.6, above: float = 0.6) -> None:
        """Write the language tags on the vertical axes, in the hue of their tier."""
        marks = marks or {}
        fig.update_yaxes(
            tickmode="array",
            tickvals=self.y(list(self.languages)),
            ticktext=[f'<span style="color:{colour_of(tier)}"><b>{tag}</b></span>{marks.get(tag, "")}' for tag, tier in self.languages.items()],
            range=[-below, len(self.languages) - 1 + above],
            showgrid=True,
            ticks="",
        )


def dots(
    fig: go.Figure,
    rows: Rows,
    table: pd.DataFrame,
    cell: Cell,
    *,
    name: str,
    symbol: str,
    value: str = "value",
    low: str = "low",
    high: str = "high",
    offset: float = 0.0,
    legend: bool = True,
    form: str = ".2f",
    opacity: float = 1.0,
    extra: str = "",
) -> None:
    """Draw one dot with its interval per language; hue is the tier, one trace per series.

    ``extra`` names one more column to show when hovering.
    """
    if legend:
        fig.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=name,
            legendgroup=name,
            marker=dict(symbol=symbol, size=9, color=MUTED, line=dict(width=1.6)),
            row=cell.row,
            col=cell.col,
        )
    for tier, part in table.groupby("tier", sort=False):
        x, n = f32(part[value]), part["n"] if "n" in part else pd.Series(["?"] * len(part))
        hover = np.stack(
            [
                part["language"].astype(str),
                part[low].map(lambda v: format(v, form)),
                part[high].map(lambda v: format(v, form)),
                n.astype(str),
                part[extra].astype(str) if extra else [""] * len(part),
            ],
            axis=-1,
        )
        fig.add_scatter(
            x=x,
            y=rows.y(list(part["language"])) + np.float32(offset),
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=False,
            opacity=opacity,
            marker=dict(symbol=symbol, size=9, color=colour_of(str(tier)), line=dict(width=1.6, color=colour_of(str(tier)))),
            error_x=dict(
                type="data",
                symmetric=False,
                array=f32(part[high]) - x,
                arrayminus=x - f32(part[low]),
                thickness=1.4,
                width=3,
                color=faded(colour_of(str(tier)), 0.75),
            ),
            customdata=hover,
            hovertemplate=f"%{{customdata[0]}}<br>{name}: %{{x:{form}}} [%{{customdata[1]}}, %{{customdata[2]}}]<br>n = %{{customdata[3]}}"
            + ("<br>%{customdata[4]}" if extra else "")
            + "<extra></extra>",
            row=cell.row,
            col=cell.col,
        )


def connectors(fig: go.Figure, rows: Rows, table: pd.DataFrame, cell: Cell, start: str, end: str) -> None:
    """Join two values of each language by a pale line, so that their distance is what the eye reads."""
    for tier, part in table.groupby("tier", sort=False):
        y = rows.y(list(part["language"]))
        gaps = np.full(len(part), np.nan, dtype=np.float32)
        fig.add_scatter(
            x=np.stack([f32(part[start]), f32(part[end]), gaps], axis=1).ravel(),
            y=np.stack([y, y, gaps], axis=1).ravel(),
            mode="lines",
            line=dict(color=faded(colour_of(str(tier)), 0.28), width=6),
            hoverinfo="skip",
            showlegend=False,
            name="difference",
            row=cell.row,
            col=cell.col,
        )


def ticks(
    fig: go.Figure,
    rows: Rows,
    table: pd.DataFrame,
    cell: Cell,
    *,
    value: str,
    name: str,
    legend: bool,
    dash: str = "solid",
    colour: str = MUTED,
    reach: tuple[float, float] = (0.32, 0.32),
) -> None:
    """Draw a short upright line per language: a criterion, a null or a threshold."""
    x, y = f32(table[value]), rows.y(list(table["language"]))
    gaps = np.full(len(table), np.nan, dtype=np.float32)
    fig.add_scatter(
        x=np.stack([x, x, gaps], axis=1).ravel(),
        y=np.stack([y - np.float32(reach[0]), y + np.float32(reach[1]), gaps], axis=1).ravel(),
        mode="lines",
        line=dict(color=colour, width=2, dash=dash),
        name=name,
        legendgroup=name,
        showlegend=legend,
        hovertemplate=f"{name}: %{{x:.3g}}<extra></extra>",
        row=cell.row,
        col=cell.col,
    )


def bars(fig: go.Figure, rows: Rows, table: pd.DataFrame, cell: Cell, *, start: float, value: str, name: str, legend: bool) -> None:
    """Draw a pale bar per language from ``start`` to a value: what chance alone reaches."""
    fig.add_bar(
        base=start,
        x=f32(table[value]) - np.float32(start),
        y=rows.y(list(table["language"])),
        orientation="h",
        width=0.62,
        marker=dict(color=faded(NULL, 0.55), line=dict(width=0)),
        name=name,
        legendgroup=name,
        showlegend=legend,
        customdata=f32(table[value]),
        hovertemplate=f"{name}: %{{customdata:.2f}}<extra></extra>",
        row=cell.row,
        col=cell.col,
    )


def band(fig: go.Figure, rows: pd.DataFrame, value: str, cell: Cell, *, colour: str, group: str, alpha: float = 0.16) -> None:
    """Shade an interval over layers; layers where it is undefined are left open."""
    x, middle, low, high = (f32(rows[column]) for column in ("layer", value, "low", "high"))
    defined = np.isfinite(middle) & np.isfinite(low) & np.isfinite(high)
    if not defined.any():
        return
    outlines: list[np.ndarray] = []
    for run in np.split(np.flatnonzero(defined), np.flatnonzero(np.diff(np.flatnonzero(defined)) > 1) + 1):
        xs, lo, hi = (values[run] for values in (x, low, high))
        if len(run) == 1:  # a layer alone between undefined ones still shows its interval
            xs, lo, hi = xs + np.array([-0.12, 0.12], dtype=np.float32), lo.repeat(2), hi.repeat(2)
        outline = np.stack([np.concatenate([xs, xs[::-1]]), np.concatenate([hi, lo[::-1]])], axis=1)
        outlines += [np.full((1, 2), np.nan, dtype=np.float32), outline]
    around = np.concatenate(outlines[1:])
    fig.add_scatter(
        x=around[:, 0],
        y=around[:, 1],
        fill="toself",
        fillcolor=faded(colour, alpha),
        line=dict(width=0),
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=group,
        name=f"{group}, interval",
        row=cell.row,
        col=cell.col,
    )


def apart(values: Sequence[float], gap: float, *, lowest: float = 0.0, highest: float = 1.0) -> list[float]:
    """Move label heights apart until neighbours are at least ``gap`` away, keeping their order, within the given bounds.

    Examples
    --------
    >>> [round(v, 2) for v in apart([0.5, 0.5, 0.02], 0.1)]
    [0.45, 0.55, 0.02]
    """
    order = np.argsort(values, kind="stable")
    placed = np.asarray(values, dtype=float)[order]
    for _ in range(200):
        steps = np.diff(placed)
        tight = np.flatnonzero(steps < gap - 1e-9)
        if not len(tight):
            break
        for i in tight:
            push = (gap - (placed[i + 1] - placed[i])) / 2
            if push > 0:
                placed[i], placed[i + 1] = placed[i] - push, placed[i + 1] + push
    room = gap * np.arange(len(placed))
    placed = np.maximum.accumulate(np.maximum(placed, lowest) - room) + room
    placed = np.minimum(placed, highest - room[::-1])
    out = np.empty_like(placed)
    out[order] = placed
    return out.tolist()


def tag_ends(
    fig: go.Figure, ends: Mapping[str, tuple[float, float]], languages: Mapping[str, str], cell: Cell, *, between: tuple[float, float], pixels: float
) -> None:
    """Write the tag of each language at the end of its line, moved apart where they meet.

    Parameters
    ----------
    ends : mapping of language to (x, y)
        Where each line ends.
    between : tuple of float
        The ends of the vertical axis.
    pixels : float
        Height of the panel.
    """
    gap = _TAG / pixels * (between[1] - between[0])
    heights = apart([y for _, y in ends.values()], gap, lowest=between[0] + gap / 2, highest=between[1] - gap / 2)
    for (language, (x, _)), y in zip(ends.items(), heights, strict=True):
        font = dict(size=10.5, color=colour_of(languages[language]))
        fig.add_annotation(
            x=x, y=y, text=f"<b>{language}</b>", showarrow=False, xanchor="left", xshift=5, font=font, row=cell.row, col=cell.col
        )  # fmt: skip


def layer_slider(fig: go.Figure, layers: Sequence[int], active: int) -> None:
    """Add a slider that shows the frame of one layer; frames are named by their layer."""
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    fig.update_layout(
        sliders=[
            dict(
                active=list(layers).index(active),
                currentvalue=dict(prefix="layer ", font=dict(size=13, color=INK)),
                pad=dict(t=44, b=6),
                len=1.0,
                x=0,
                tickcolor=MUTED,
                font=dict(size=10.5, color=MUTED),
                steps=[dict(method="animate", label=str(layer), args=[[str(layer)], now]) for layer in layers],
            )
        ]
    )
