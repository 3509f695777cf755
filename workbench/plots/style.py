"""One look for all figures: what a colour, a dash and a marker mean, and how positions and layers are called.

Hue is the tier of a language, dash and a direct label are the language, the marker is the class of the prompt (harmful or
harmless). The three tier hues are from the Okabe-Ito set, told apart under the common colour blindnesses; there are no
fourteen such hues, which is why a language has none of its own. Nothing here changes plotly's default template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from jaxtyping import Float

from workbench.errors import DataError
from workbench.results import Result

TEMPLATE = "workbench"
TIERS = ("high", "mid", "low", "unknown")
TIER_COLOURS = {"high": "#0072B2", "mid": "#009E73", "low": "#D55E00", "unknown": "#6E6E6E"}
#: What is neither a language nor a class: factors of a decomposition, in colours that no tier has.
FACTOR_COLOURS = {"language": "#4A4A4A", "meaning": "#AA4499", "interaction": "#A39BB0", "difference": "#111111"}
CLASS_SYMBOLS = {True: "diamond", False: "circle-open"}
CLASS_NAMES = {True: "harmful", False: "harmless"}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "2px,2px,8px,2px", "12px,3px,3px,3px,3px,3px", "1px,4px", "16px,4px")
INK = "#1F2430"
MUTED = "#6B7280"
GRID = "#E6E8EC"
NULL = "#C9CDD4"
LAYER_AXIS = "layer k (residual stream after k blocks)"
_POSITION_NAMES = {
    "t_inst": "last token of the request",
    "t_post_inst": "last token of the prompt",
    "mean_inst": "mean over the request",
}


def _template() -> go.layout.Template:
    axis = dict(
        gridcolor=GRID,
        zeroline=False,
        linecolor=MUTED,
        ticks="outside",
        ticklen=4,
        tickcolor=GRID,
        automargin=True,
        title=dict(standoff=8, font=dict(size=12.5)),
    )
    return go.layout.Template(
        layout=dict(
            font=dict(family="system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif", size=12.5, color=INK),
            paper_bgcolor="white",
            plot_bgcolor="white",
            title=dict(x=0, xref="container", xanchor="left", pad=dict(l=12, t=12), y=1, yref="container", yanchor="top", font=dict(size=16)),
            margin=dict(l=60, r=24, t=116, b=60),
            legend=dict(orientation="h", x=0, xanchor="left", y=1.02, yanchor="bottom", bgcolor="rgba(0,0,0,0)", font=dict(size=12)),
            modebar=dict(
                bgcolor="rgba(0,0,0,0)",
                color=GRID,
                activecolor=MUTED,
                remove=["zoom", "pan", "select", "lasso", "zoomIn", "zoomOut", "autoScale", "sendDataToCloud"],
            ),
            hoverlabel=dict(bgcolor="white", bordercolor=MUTED, font=dict(size=12, color=INK)),
            colorway=list(TIER_COLOURS.values()),
            xaxis=axis,
            yaxis=axis,
        )
    )


pio.templates[TEMPLATE] = _template()


def table_of(result: Result | pd.DataFrame, columns: Sequence[str], *, figure: str) -> pd.DataFrame:
    """Return the result's table with tiers filled in, or say which columns the figure misses.

    Parameters
    ----------
    result : Result or DataFrame
        What an analysis returned, or its table.
    columns : sequence of str
        What the figure needs.
    figure : str
        The figure's name, for the message.

    Returns
    -------
    DataFrame
        A copy; ``tier`` is ``"unknown"`` where it was missing.

    Raises
    ------
    DataError
        If a column is missing or there are no rows.
    """
    table = (result if isinstance(result, pd.DataFrame) else result.table).copy()
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise DataError(
            f"{figure} needs the columns {list(columns)}; {missing} missing from {list(table.columns)}. "
            "Pass the result that the analysis of the same name returned."
        )
    if table.empty:
        raise DataError(f"{figure} was given a table without rows; expected at least one. Check which languages and layers the analysis measured.")
    if "tier" in table:
        table["tier"] = table["tier"].astype(object).where(table["tier"].notna(), "unknown")
    return table


def tiered(table: pd.DataFrame, tiers: Mapping[str, str] | None) -> pd.DataFrame:
    """Return a table with a column ``tier``: its own, else from a mapping; "unknown" where neither knows one."""
    if "tier" in table:
        return table
    found = table["language"].astype(str).map(dict(tiers or {})).astype(object)
    return table.assign(tier=found.where(found.notna(), "unknown"))


def f32(values: Iterable[Any]) -> Float[np.ndarray, " n"]:
    """Return float32 values, which plotly sends as a compact binary block."""
    return np.asarray(pd.to_numeric(pd.Series(list(values), dtype=object)), dtype=np.float32)


def languages_of(table: pd.DataFrame) -> dict[str, str]:
    """Return language -> tier, ordered high, mid, low, unknown and by tag within: the order of all figures."""
    pairs = table[["language", "tier"]].drop_duplicates("language")
    rank = {tier: i for i, tier in enumerate(TIERS)}
    ordered = sorted(zip(pairs["language"], pairs["tier"], strict=True), key=lambda pair: (rank.get(pair[1], len(TIERS)), pair[0]))
    return dict(ordered)


def colour_of(tier: str) -> str:
    """Return the hue of a tier."""
    return TIER_COLOURS.get(tier, TIER_COLOURS["unknown"])


def dash_of(language: str, languages: dict[str, str]) -> str:
    """Return a language's dash: its place among the languages of its tier, so that dash and hue together name it."""
    peers = [other for other, tier in languages.items() if tier == languages[language]]
    return DASHES[peers.index(language) % len(DASHES)]


def faded(colour: str, alpha: float) -> str:
    """Return a ``#rrggbb`` colour with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def position_name(position: str) -> str:
    """Return a position in words, with its symbol."""
    return f"{_POSITION_NAMES[position]} ({position})" if position in _POSITION_NAMES else position


def in_order(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values in order of first appearance."""
    return list(dict.fromkeys(values))


def positions_of(table: pd.DataFrame) -> list[str]:
    """Return the positions of a table: those with a name in their order in the prompt, then the others."""
    rank = {name: i for i, name in enumerate(_POSITION_NAMES)}
    return sorted(in_order(table["position"]), key=lambda position: (rank.get(position, len(rank)), position))


def tier_key(tiers: Iterable[str]) -> str:
    """Return the colour key of the tiers as one line of text."""
    present = set(tiers)
    squares = [f'<span style="color:{colour_of(t)}">■</span> {t}' for t in TIERS if t in present]
    return "tier: " + "&nbsp; ".join(squares) if squares else ""


def titled(fig: go.Figure, title: str, *, height: int, tiers: Iterable[str] = (), note: str = "") -> go.Figure:
    """Give a figure its template, its title and, below it, the colour key with a note and the legend."""
    below = " &nbsp;·&nbsp; ".join(part for part in (tier_key(tiers), note) if part)
    return fig.update_layout(
        template=TEMPLATE,
        title=dict(text=title, subtitle=dict(text=below or None, font=dict(size=12, color=MUTED))),
        height=height,
        legend=dict(x=0.005, xref="container", y=1 - 58 / height, yref="container", yanchor="top"),
    )


def span(values: Iterable[float], form: str = ".2f") -> str:
    """Return ``"lowest to highest"`` of the finite values, or one number when they agree."""
    finite = [v for v in f32(values).tolist() if np.isfinite(v)]
    if not finite:
        return "not measured"
    low, high = format(min(finite), form), format(max(finite), form)
    return (low if low == high else f"{low} to {high}").replace("-", "\u2212")


def extremes(table: pd.DataFrame, value: str, form: str = ".2f") -> str:
    """Return ``"0.61 (qad) to 0.99 (qaa)"``: the lowest and the highest language."""
    rows = table[table[value].notna()]
    if rows.empty:
        return "not measured"
    low, high = rows.loc[rows[value].idxmin()], rows.loc[rows[value].idxmax()]
    small, large = (format(float(row[value]), form).replace("-", "\u2212") for row in (low, high))
    if small == large:
        return f"{small} in every language" if len(rows) > 1 else f"{small} ({low['language']})"
    return f"{small} ({low['language']}) to {large} ({high['language']})"
