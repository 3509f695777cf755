"""What happens while a model is trained: its loss, and by language what it refuses and answers, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError
from workbench.plots.method_lines import range_of
from workbench.plots.panels import Cell, band, panels, tag_ends
from workbench.plots.style import INK, colour_of, dash_of, f32, in_order, languages_of, span, table_of, tiered, titled
from workbench.results import Result

_COLUMNS = ("step", "statistic", "language", "value")
_PANEL = 250  # pixels


class _Panel(NamedTuple):
    """What a statistic is called, its unit, and whether it is a share of prompts."""

    heading: str
    unit: str
    share: bool


_SHOWN = {
    "loss": _Panel("loss", "loss (nats)", False),
    "harmful_refusal": _Panel("harmful prompts refused", "share (0 to 1)", True),
    "harmless_refusal": _Panel("harmless prompts refused", "share (0 to 1)", True),
    "answer_accuracy": _Panel("harmless prompts answered right", "share (0 to 1)", True),
    "length_harmful": _Panel("length of replies to harmful prompts", "tokens", False),
    "length_harmless": _Panel("length of replies to harmless prompts", "tokens", False),
    "length": _Panel("length of replies", "tokens", False),
    "reward_gap": _Panel("refusal preferred, harmful prompts", "reward gap (nats per token)", False),
    "reward_gap_harmless": _Panel("answer preferred, harmless prompts", "reward gap (nats per token)", False),
    "divergence": _Panel("teacher and student apart", "divergence (nats)", False),
    "kl": _Panel("distance to the start", "KL (nats)", False),
    "spread": _Panel("spread of states between prompts", "distance", False),
}


def training_curves(result: Result | pd.DataFrame, *, tiers: Mapping[str, str] | None = None, method: str | None = None) -> go.Figure:
    """Draw what was measured during a training by step, a panel per statistic and a line per language.

    Parameters
    ----------
    result : Result or DataFrame
        ``step, statistic, language`` ("" for what no language has, such as the loss) and ``value``; ``tier``, ``low``, ``high`` and ``method``
        where there are any.
    tiers : mapping of language to tier, optional
        For tables without tiers.
    method : str, optional
        Which training to draw, of a table of several; default the first.

    Returns
    -------
    Figure
        Rates are shares, 0 to 1, of the few held-out prompts that are asked while training, so that they are rough.

    Raises
    ------
    DataError
        None of the statistics, or no such method.
    """
    table = table_of(result, _COLUMNS, figure="training_curves")
    table["language"] = table["language"].astype(object).where(table["language"].notna(), "").astype(str)
    if "method" in table:
        known = [str(one) for one in in_order(table["method"])]
        if method is not None and method not in known:
            raise DataError(f"training_curves: no training called {method!r}. Expected one of {', '.join(known)}.")
        table = table[table["method"] == (method or known[0])]
    table = tiered(table, tiers)
    shown = [name for name in _SHOWN if table.loc[table["statistic"] == name, "value"].notna().any()]
    if {"length_harmful", "length_harmless"} & set(shown) and "length" in shown:
        shown.remove("length")  # of the replies that were trained on: both classes in one line
    if not shown:
        raise DataError(f"training_curves: none of {', '.join(_SHOWN)} was measured. Expected the training_curve of a repair by training.")
    own = table[(table["language"] != "") & table["statistic"].isin(shown)]
    languages = languages_of(own)
    down = -(-len(shown) // 2)
    height = 110 + _PANEL * down
    spacing: dict[str, Any] = dict(horizontal_spacing=0.13, vertical_spacing=52 / (_PANEL * down) if down > 1 else 0)
    fig, cells = panels([_SHOWN[name].heading for name in shown], **spacing)
    last = float(table["step"].max())
    for name, cell in zip(shown, cells, strict=True):
        _panel(fig, table[table["statistic"] == name].sort_values("step"), languages, _SHOWN[name], cell)
        fig.update_yaxes(title_text=_SHOWN[name].unit, row=cell.row, col=cell.col)
        if not any(c.row > cell.row and c.col == cell.col for c in cells):
            fig.update_xaxes(title_text="step", row=cell.row, col=cell.col)
    fig.update_xaxes(range=[-0.02 * last, 1.14 * last], nticks=6)
    return titled(fig, _title(table), tiers=languages.values(), height=height).update_layout(margin=dict(t=104, b=56))


def _panel(fig: go.Figure, rows: pd.DataFrame, languages: dict[str, str], look: _Panel, cell: Cell) -> None:
    ends: dict[str, tuple[float, float]] = {}
    for language in ["", *languages]:
        part = rows[(rows["language"] == language) & rows["value"].notna()]
        if part.empty:
            continue
        colour = colour_of(languages[language]) if language else INK
        if {"low", "high"} <= set(part.columns):
            band(fig, part.assign(layer=part["step"]), "value", cell, colour=colour, group=language or look.heading, alpha=0.07)
        few = len(part) <= 30
        fig.add_scatter(
            x=f32(part["step"]),
            y=f32(part["value"]),
            mode="lines+markers" if few else "lines",
            line=dict(color=colour, width=1.8 if language else 1.2, dash=dash_of(language, languages) if language else "solid"),
            marker=dict(size=4.5, color=colour),
            name=language or look.heading,
            legendgroup=language or look.heading,
            showlegend=False,
            hovertemplate=f"{language or look.heading}, step %{{x}}: %{{y:.3g}}<extra></extra>",
            row=cell.row,
            col=cell.col,
        )
        if language:
            ends[language] = (float(part["step"].iloc[-1]), float(part["value"].iloc[-1]))
    if not ends:
        return
    low, high = _range(rows, look)
    fig.update_yaxes(range=[low, high], nticks=5, row=cell.row, col=cell.col)
    tag_ends(fig, ends, languages, cell, between=(low, high), pixels=_PANEL - 60)


def _range(rows: pd.DataFrame, look: _Panel) -> tuple[float, float]:
    """Return the ends of an axis: a quarter of all prompts at least, as a point or two is what harmless refusal may cost; and of all else a third."""
    values = rows["value"]
    ends = rows.assign(low=rows["low"] if "low" in rows else values, high=rows["high"] if "high" in rows else values)
    return range_of(ends, least=0.25 if look.share else 1e-6 + 0.3 * abs(float(values.max())))


def _title(table: pd.DataFrame) -> str:
    """Say where harmful refusal starts and ends, over languages; without it, the loss."""
    steps = int(table["step"].max())
    for name, told, form in (("harmful_refusal", "Harmful refused", ".0%"), ("loss", "Loss", ".2f")):
        rows = table[(table["statistic"] == name) & table["value"].notna()]
        if len(rows):
            first, last = (rows.loc[rows["step"] == step, "value"] for step in (rows["step"].min(), rows["step"].max()))
            return f"{told}: {span(first, form)}, after {steps} steps {span(last, form)}"
    return f"Training, {steps} steps"


__all__ = ["training_curves"]
