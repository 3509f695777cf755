"""How refusal moves with the strength of an edit, language by language, beside random directions of the same length."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, band, panels
from workbench.plots.style import CLASS_NAMES, CLASS_SYMBOLS, INK, MUTED, NULL, colour_of, f32, faded, languages_of, table_of, titled
from workbench.results import Result

_COLUMNS = ("strength", "direction", "kind", "language", "tier", "statistic", "value", "low", "high", "n")
_CLASSES = {"harmful_refusal": True, "harmless_refusal": False}
_COSTS = {("answer_accuracy",): ("harmless answered right", "dot"), ("garbled", "off_language"): ("garbled or in another language", "dash")}
_CONTROL = "controls, lowest to highest"
_ABREAST, _PANEL, _ONLY = 4, 190, 270  # pixels; a single line of panels is taller
_UNITS = {"raw": "class differences", "unit": "unit vectors", "norm": "lengths of the state", "gap": "gaps"}


def strength_curve(result: Result | pd.DataFrame, *, chosen: float | None = None) -> go.Figure:
    """Draw refusal of harmful and harmless prompts by strength, one panel per language.

    Parameters
    ----------
    result : StrengthSweep or DataFrame
        ``strength, direction, kind, language, tier, statistic, value, low, high, n``.
    chosen : float, optional
        A strength to mark, and of which the title speaks; else it speaks of the one that moves refusal most.

    Returns
    -------
    Figure
        Shares of prompts, 0 to 1, with their intervals. Grey: the lowest to the highest that the controls of that strength reach, darker
        for harmful prompts. Thin: answers that are right, and replies that are garbled or in another language, where they were counted. A
        strength at which the model broke down ends a line. A dagger marks languages in which the judge was not validated.
    """
    table = table_of(result, _COLUMNS, figure="strength_curve")
    about: dict[str, Any] = result.provenance if isinstance(result, Result) else {}
    languages = languages_of(table)
    doubtful = set(table.loc[~table["validated"].astype(bool), "language"]) if "validated" in table else set()
    unit = "share removed" if about.get("edit") == "ablate" else f"strength ({_UNITS.get(about.get('scale', ''), 'of the edit')})"
    fig, cells = panels(
        [f'<span style="color:{colour_of(tier)}"><b>{tag}</b></span>{" †" if tag in doubtful else ""}' for tag, tier in languages.items()],
        columns=_ABREAST,
        shared_yaxes=True,
        shared_xaxes=True,
        horizontal_spacing=0.025,
        x_title=unit,
        **_spacing(len(languages)),
    )
    for i, ((tag, tier), cell) in enumerate(zip(languages.items(), cells, strict=True)):
        rows = table[table["language"] == tag]
        _panel(fig, rows, colour_of(tier), cell, legend=i == 0)
        if chosen is not None:
            fig.add_vline(x=chosen, line=dict(color=INK, width=1), row=cell.row, col=cell.col)
    broken = [f"{entry['strength']:g}" for entry in about.get("stopped", []) if entry["direction"] == "direction"]
    fig.update_yaxes(range=[-0.03, 1.03], tickvals=[0, 0.5, 1])
    fig.update_xaxes(nticks=6, zeroline=True, zerolinecolor=NULL, zerolinewidth=1)
    down = cells[-1].row
    for cell in cells:
        if cell.col == 1:
            fig.update_yaxes(title_text="share of prompts (0 to 1)", row=cell.row, col=cell.col)
        if not any(c.row > cell.row and c.col == cell.col for c in cells):
            fig.update_xaxes(showticklabels=True, row=cell.row, col=cell.col)
    height = 208 + (_PANEL * down if down > 1 else _ONLY)
    strength = _told(table, chosen)
    notes = [_beside(table, strength), *([f"from {', '.join(broken)} on the model breaks down"] if broken else [])]
    notes += ["† judge not validated in this language"] if doubtful else []
    titled(fig, _title(table, strength), tiers=languages.values(), note=" &nbsp;·&nbsp; ".join(note for note in notes if note), height=height)
    return fig.update_layout(margin=dict(t=150, b=58))


def _spacing(n: int) -> dict[str, float]:
    down = math.ceil(n / _ABREAST)
    return {"vertical_spacing": 44 / (_PANEL * down)} if down > 1 else {}


def _panel(fig: go.Figure, rows: pd.DataFrame, colour: str, cell: Cell, *, legend: bool) -> None:
    at = dict(row=cell.row, col=cell.col)
    own, others = rows[rows["kind"] == "direction"], rows[rows["kind"] != "direction"]
    for statistic, harmful in _CLASSES.items():
        ends = others[others["statistic"] == statistic].groupby("strength")["value"].agg(low="min", high="max").reset_index()
        limits = ends.assign(layer=ends["strength"], value=ends["high"])
        band(fig, limits, "value", cell, colour=NULL if not harmful else MUTED, group=_CONTROL, alpha=0.45 if not harmful else 0.32)
        gap = np.full(1, np.nan, dtype=np.float32)
        fig.add_scatter(  # the edges show where the controls agree and the band has no width
            x=np.concatenate([f32(ends["strength"]), gap, f32(ends["strength"])]),
            y=np.concatenate([f32(ends["low"]), gap, f32(ends["high"])]),
            mode="lines",
            line=dict(color=faded(MUTED, 0.7 if harmful else 0.4), width=0.8),
            hoverinfo="skip",
            name=_CONTROL,
            legendgroup=_CONTROL,
            showlegend=False,
            **at,
        )
    for statistics, (name, dash) in _COSTS.items():  # outcomes that exclude each other add up
        part = own[own["statistic"].isin(statistics)].groupby("strength", as_index=False)["value"].sum(min_count=1)
        fig.add_scatter(
            x=f32(part["strength"]),
            y=f32(part["value"]),
            mode="lines",
            line=dict(color=MUTED, width=1.3, dash=dash),
            name=name,
            legendgroup=name,
            showlegend=legend and len(part) > 0,
            hovertemplate=f"{name}, strength %{{x}}: %{{y:.2f}}<extra></extra>",
            **at,
        )
    for statistic, harmful in _CLASSES.items():
        part = own[own["statistic"] == statistic].sort_values("strength")
        name = f"{CLASS_NAMES[harmful]}: refused"
        band(fig, part.assign(layer=part["strength"]), "value", cell, colour=colour, group=name, alpha=0.11)
        fig.add_scatter(
            x=f32(part["strength"]),
            y=f32(part["value"]),
            mode="lines+markers",
            connectgaps=False,
            line=dict(color=colour, width=2),
            marker=dict(symbol=CLASS_SYMBOLS[harmful], size=7, color=colour, line=dict(width=1.5, color=colour)),
            name=name,
            legendgroup=name,
            showlegend=False,
            customdata=np.stack([f32(part["low"]), f32(part["high"]), f32(part["n"])], axis=-1),
            hovertemplate=f"{name}, strength %{{x}}<br>%{{y:.2f}} [%{{customdata[0]:.2f}}, %{{customdata[1]:.2f}}]"
            "<br>n = %{customdata[2]:.0f}<extra></extra>",
            **at,
        )
        if legend:  # in no tier's hue
            marker = dict(symbol=CLASS_SYMBOLS[harmful], size=8, color=INK, line=dict(width=1.5, color=INK))
            fig.add_scatter(x=[None], y=[None], mode="markers+lines", marker=marker, line=dict(color=INK), name=name, legendgroup=name, **at)
    if legend and len(others):
        square = dict(symbol="square", size=11, color=faded(MUTED, 0.4))
        fig.add_scatter(x=[None], y=[None], mode="markers", marker=square, name=_CONTROL, legendgroup=_CONTROL, **at)


def _told(table: pd.DataFrame, chosen: float | None) -> float | None:
    """Return the strength that the title speaks of: the chosen one, else the smallest of those that move refusal most."""
    if chosen is not None:
        return chosen
    own = table[(table["kind"] == "direction") & table["statistic"].isin(list(_CLASSES))]
    if own.empty:
        return None
    means = own.groupby(["strength", "statistic"])["value"].mean().unstack("statistic")
    moved = (means - means.loc[0.0]).abs().sum(axis=1) if 0.0 in means.index else means.index.to_series().abs()
    return float(min(moved.index[moved >= moved.max() - 1e-9], key=abs))


def _title(table: pd.DataFrame, strength: float | None) -> str:
    if strength is None:
        return "Refusal by strength: controls only"
    told = []
    for statistic, harmful in _CLASSES.items():
        rows = table[(table["kind"] == "direction") & (table["statistic"] == statistic)]
        plain, pushed = (rows.loc[rows["strength"] == s, "value"].mean() for s in (0, strength))
        told.append(f"{CLASS_NAMES[harmful]} {plain:.2f} to {pushed:.2f}")
    return f"Refusal at strength {strength:g}: {', '.join(told)}".replace("-", "\u2212")


def _beside(table: pd.DataFrame, strength: float | None) -> str:
    rows = table[(table["kind"] != "direction") & (table["strength"] == strength) & (table["statistic"] == "harmful_refusal")]
    means = rows.groupby("direction")["value"].mean()
    return f"controls there, harmful: {means.min():.2f} to {means.max():.2f}" if len(means) else ""
