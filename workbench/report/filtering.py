"""Say of every trace, tick, label and shape of a figure which language it shows, so that the page's filter can hide the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

_MARKUP = re.compile(r"<[^>]+>|&nbsp;")
#: A row is as high as one language.
_REACH = 0.5


def tag_languages(fig: go.Figure, languages: Sequence[str]) -> go.Figure:
    """Note in ``meta`` of traces, frames and layout what belongs to one language.

    A trace that shows one language carries ``meta = {"of": tag}``; one with a language per point ``{"of": [tag or "", ...]}``, a heat map with
    a language per row ``{"rows": [...]}``. The layout's meta has ``ticks`` (tags per axis), ``annotations`` and ``shapes`` (index -> tag). What
    shows no single language (means, nulls, factors) stays unmarked and is never hidden.
    """
    tags = set(languages)
    if not tags:
        return fig
    find = _finder(tags)
    rows = _row_axes(fig, find)
    titles = [(a.x, a.y, find(a.text or "")) for a in fig.layout.annotations if a.xanchor == "center" and a.xref == "paper"]

    def meta_of(trace: Any, axes: Any) -> dict[str, Any] | None:
        return _of_trace(trace, axes, find, rows, titles, fig)

    base = [meta_of(trace, trace) for trace in fig.data]
    for trace, meta in zip(fig.data, base, strict=True):
        if meta is not None:
            trace.meta = meta
    for frame in fig.frames:
        places = frame.traces if frame.traces is not None else range(len(frame.data))
        for trace, place in zip(frame.data, places, strict=True):
            _unlike(trace, fig.data[place], base[place], meta_of(trace, fig.data[place]))
    marked = {
        "ticks": {axis: [tag or "" for _, tag in at] for axis, at in rows.items()},
        "annotations": _annotations(fig, find, rows),
        "shapes": _shapes(fig, rows),
    }
    fig.layout.meta = {name: found for name, found in marked.items() if found} or None
    return fig


def _unlike(trace: Any, shown: Any, base: dict[str, Any] | None, meta: dict[str, Any] | None) -> None:
    """Keep in a frame only what differs from the trace it replaces: ids of the same prompts once per layer would be most of the page."""
    if meta != base:
        trace.meta = meta or {}
    for name in ("customdata", "y"):
        mine, other = getattr(trace, name, None), getattr(shown, name, None)
        if mine is not None and other is not None and np.shape(mine) == np.shape(other) and _same(mine, other):
            setattr(trace, name, None)


def _same(first: Any, second: Any) -> bool:
    one, two = np.asarray(first), np.asarray(second)
    return bool(np.array_equal(one, two, equal_nan=one.dtype.kind == "f" and two.dtype.kind == "f"))


def _finder(tags: set[str]) -> Callable[[str], str | None]:
    """Return a function from a name to the language it starts with (``qad, interval``, ``<b>qad</b> ‡``); never a word that merely begins so."""
    known = re.compile(rf"^[^\w]*({'|'.join(sorted(map(re.escape, tags), key=len, reverse=True))})(?=$|[,\s†‡])")

    def find(text: str) -> str | None:
        found = known.match(_MARKUP.sub("", str(text)).strip())
        return found.group(1) if found else None

    return find


def _row_axes(fig: go.Figure, find: Callable[[str], str | None]) -> dict[str, list[tuple[float, str | None]]]:
    """Return axis name -> (height, tag) of its ticks, for vertical axes whose ticks are languages."""
    found = {}
    for axis in fig.select_yaxes():
        if axis.ticktext is not None and axis.tickvals is not None:
            at = [(float(value), find(text)) for value, text in zip(axis.tickvals, axis.ticktext, strict=False)]
            if any(tag for _, tag in at):
                found[axis.plotly_name] = at
    return found


def _axis(reference: str | None) -> str:
    """Return ``yaxis2`` for ``y2``."""
    return f"yaxis{(reference or 'y').removeprefix('y').split(' ')[0]}"


def _row_of(at: list[tuple[float, str | None]], y: Any) -> str | None:
    try:
        height = float(y)
    except (TypeError, ValueError):
        return None
    near = min(at, key=lambda pair: abs(pair[0] - height))
    return near[1] if abs(near[0] - height) < _REACH else None


def _of_trace(
    trace: Any,
    axes: Any,
    find: Callable[[str], str | None],
    rows: dict[str, list[tuple[float, str | None]]],
    titles: list[tuple[float, float, str | None]],
    fig: go.Figure,
) -> dict[str, Any] | None:
    for name in (axes.name, axes.legendgroup if hasattr(axes, "legendgroup") else None):
        if name and (tag := find(name)):
            y = trace.y if trace.y is not None else axes.y
            return {"rows": [tag] * len(y)} if axes.type == "heatmap" and y is not None else {"of": tag}
    at = rows.get(_axis(getattr(axes, "yaxis", None)))
    if axes.type == "heatmap":
        y = trace.y if trace.y is not None else axes.y
        return {"rows": [_row_of(at, one) or "" for one in y]} if at is not None and y is not None else None
    if tag := _panel_of(axes, titles, fig):
        return {"of": tag}
    n = 0 if getattr(trace, "x", None) is None else len(trace.x)
    if n == 0:
        return None
    y = trace.y if getattr(trace, "y", None) is not None else axes.y
    for found in (_by_data(trace, find), _by_text(trace, find), [_row_of(at, one) for one in y] if at is not None and y is not None else []):
        if len(found) == n and any(found):
            return {"of": [tag or "" for tag in found]}
    return None


def _by_data(trace: Any, find: Callable[[str], str | None]) -> list[str | None]:
    """Read the languages from what is shown when hovering: a column that is a tag."""
    data = getattr(trace, "customdata", None)
    if data is None or not len(data) or np.ndim(data[0]) != 1:
        return []
    return [next((tag for value in row if isinstance(value, str) and (tag := find(value)) == value), None) for row in data]


def _by_text(trace: Any, find: Callable[[str], str | None]) -> list[str | None]:
    text = getattr(trace, "text", None)
    return [] if text is None or isinstance(text, str) else [find(one) for one in text]


def _panel_of(trace: Any, titles: list[tuple[float, float, str | None]], fig: go.Figure) -> str | None:
    """Return the language in whose panel a trace is: the nearest heading above it, in the middle of its width."""
    if not titles or not hasattr(trace, "xaxis"):
        return None
    across = fig.layout[f"xaxis{(trace.xaxis or 'x').removeprefix('x')}"].domain
    up = fig.layout[_axis(trace.yaxis)].domain
    if across is None or up is None:
        return None
    above = [(y, tag) for x, y, tag in titles if abs(x - sum(across) / 2) < 0.02 and y >= up[1] - 1e-6]
    return min(above, key=lambda pair: pair[0])[1] if above else None


def _annotations(fig: go.Figure, find: Callable[[str], str | None], rows: dict[str, list[tuple[float, str | None]]]) -> dict[str, str]:
    """Return the direct labels, the headings of panels, and what stands beside a row."""
    found = {}
    for i, note in enumerate(fig.layout.annotations):
        text = _MARKUP.sub("", note.text or "").strip()
        tag = found_in if (found_in := find(text)) and (text == found_in or text.startswith(f"{found_in},")) else None
        at = rows.get(_axis(note.yref)) if note.yref and note.yref.startswith("y") and " " not in note.yref else None
        tag = tag or (_row_of(at, note.y) if at is not None else None)
        if tag:
            found[str(i)] = tag
    return found


def _shapes(fig: go.Figure, rows: dict[str, list[tuple[float, str | None]]]) -> dict[str, str]:
    """Return the boxes around cells of one row."""
    found = {}
    for i, shape in enumerate(fig.layout.shapes):
        at = rows.get(_axis(shape.yref)) if shape.yref and " " not in shape.yref else None
        if at is None or shape.type != "rect" or shape.y0 is None or abs(shape.y1 - shape.y0) > 2 * _REACH + 0.1:
            continue
        tag = _row_of(at, (shape.y0 + shape.y1) / 2)
        if tag:
            found[str(i)] = tag
    return found
