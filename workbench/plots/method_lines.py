"""Methods told apart by line: what a method is decides its colour, its place among its kind the dash, and a label its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, apart, band
from workbench.plots.style import DASHES, INK, MUTED, NULL, colour_of, f32, faded, in_order

#: What a method can be, from the most that can be had to what must not work, and how a reader calls it.
KIND_NAMES = {
    "ceiling": "ceiling: true labels decide",
    "gate": "recalibrated gate",
    "rival": "rivals",
    "model": "without a repair",
    "control": "controls",
}
_LABEL = 13  # pixels that a label needs


class Look(NamedTuple):
    """How a method's line is drawn."""

    colour: str
    dash: str
    width: float
    kind: str


def kinds_of(methods: Iterable[str]) -> dict[str, str]:
    """Return what each method is: a key of ``KIND_NAMES``."""
    from workbench.repair.kinds import kind_of

    return {method: kind_of(method) for method in in_order(str(method) for method in methods)}


def looks_of(methods: Iterable[str], tier: str) -> dict[str, Look]:
    """Give gates the hue of the tier that is repaired, rivals grey, and both a dash by their place among their kind."""
    colours = {"gate": colour_of(tier), "rival": MUTED, "control": NULL, "ceiling": INK, "model": INK}
    out, seen = {}, dict.fromkeys(KIND_NAMES, 0)
    for method, kind in kinds_of(methods).items():
        dash = {"ceiling": "2px,3px", "model": "6px,3px"}.get(kind, DASHES[seen[kind] % len(DASHES)])
        out[method] = Look(colours[kind], dash, 2.6 if kind == "gate" and not seen[kind] else 1.6, kind)
        seen[kind] += 1
    return out


def method_line(fig: go.Figure, rows: pd.DataFrame, method: str, look: Look, cell: Cell, *, at: str, told: str, reach: tuple[float, float]) -> None:
    """Draw one method's rate with its intervals; what was measured at one place only, as it depends on none, goes across.

    Parameters
    ----------
    rows : DataFrame
        ``layer`` (the place on the axis), ``value, low, high, n`` and the column ``at``, sorted.
    told : str
        What ``at`` is called when hovering.
    reach : tuple of float
        The ends of the axis.
    """
    across = len(rows) == 1 and reach[0] < reach[1]
    if across:
        rows = pd.concat([rows.assign(layer=end) for end in reach])
    if look.kind in ("ceiling", "model"):
        band(fig, rows, "value", cell, colour=look.colour, group=method, alpha=0.07)
    x, y = f32(rows["layer"]), f32(rows["value"])
    ends = [rows[end].map("{:.2f}".format) for end in ("low", "high")]
    fig.add_scatter(
        x=x,
        y=y,
        mode="lines" if look.kind in ("ceiling", "model") else "lines+markers",
        connectgaps=False,
        line=dict(color=look.colour, width=look.width, dash=look.dash),
        marker=dict(size=6 if look.kind == "gate" else 4.5, color=look.colour),
        error_y=dict(
            type="data",
            symmetric=False,
            array=f32(rows["high"]) - y,
            arrayminus=y - f32(rows["low"]),
            thickness=2 if look.kind == "gate" else 1.2,
            width=3,
            color=faded(look.colour, 0.85),
            visible=look.kind not in ("ceiling", "model"),
        ),
        name=method,
        legendgroup=method,
        showlegend=False,
        customdata=np.stack([rows[at].map("{:g}".format), *ends, rows["n"].astype(str)], axis=-1),
        hovertemplate=f"{method}, {told} %{{customdata[0]}}<br>%{{y:.2f}} [%{{customdata[1]}}, %{{customdata[2]}}]<br>"
        "n = %{customdata[3]}<extra></extra>",
        row=cell.row,
        col=cell.col,
    )


def range_of(rows: pd.DataFrame, *, least: float = 0.25) -> tuple[float, float]:
    """Return the ends of a panel's axis: all rates with their intervals, at least ``least`` apart, with some room."""
    low, high = float(rows["low"].fillna(rows["value"]).min()), float(rows["high"].fillna(rows["value"]).max())
    if high - low < least:
        low, high = (high - least, high) if high > 0.5 else (low, low + least)
    room = 0.06 * (high - low)
    return low - room, high + room


def end_labels(
    fig: go.Figure,
    ends: Mapping[str, tuple[float, float]],
    looks: Mapping[str, Look],
    cell: Cell,
    *,
    x: float,
    between: tuple[float, float],
    pixels: float,
) -> None:
    """Name the lines at their right ends, moved apart where they meet.

    Parameters
    ----------
    ends : mapping of method to (x, y)
        Where each line ends.
    x : float
        Where the labels begin.
    between : tuple of float
        The ends of the vertical axis.
    pixels : float
        Height of the panel.
    """
    known = {method: end for method, end in ends.items() if np.isfinite(end[1])}
    if not known:
        return
    gap = _LABEL / pixels * (between[1] - between[0])
    heights = apart([y for _, y in known.values()], gap, lowest=between[0] + gap / 2, highest=between[1] - gap / 2)
    for (method, (x0, y0)), height in zip(known.items(), heights, strict=True):
        colour = looks[method].colour if looks[method].kind != "control" else MUTED
        fig.add_scatter(  # a leader, so that a label that was moved still finds its line
            x=f32([x0, x]),
            y=f32([y0, height]),
            mode="lines",
            line=dict(color=faded(colour, 0.35), width=0.8),
            hoverinfo="skip",
            showlegend=False,
            name="leader",
            row=cell.row,
            col=cell.col,
        )
        weight = f"<b>{method}</b>" if looks[method].kind == "gate" else method
        fig.add_annotation(
            x=x, y=height, text=weight, showarrow=False, xanchor="left", xshift=2, font=dict(size=10, color=colour), row=cell.row, col=cell.col
        )
