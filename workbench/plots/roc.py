"""Where each threshold stands on a gate's ROC curve: the sources' and the one set with a few examples."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, panels
from workbench.plots.style import INK, MUTED, NULL, colour_of, f32, faded, languages_of, span, table_of, titled
from workbench.results import Result

_MARKS = {"source threshold": "square-open", "recalibrated": "square"}
_ABREAST, _PANEL = 4, 205  # pixels


def gate_roc(result: Result | pd.DataFrame) -> go.Figure:
    """Draw a gate's ROC curve, one panel per language, with the sources' threshold and the recalibrated one on it.

    Parameters
    ----------
    result : GateRoc or DataFrame
        ``language, tier, point, false_alarm, hit, threshold, auroc, auroc_low, auroc_high, n, mark`` ("", "source threshold", "recalibrated").

    Returns
    -------
    Figure
        Shares of harmless (across) and harmful (up) prompts that are flagged; on the diagonal the gate guesses.
    """
    columns = ("language", "tier", "point", "false_alarm", "hit", "threshold", "auroc", "auroc_low", "auroc_high", "n", "mark")
    table = table_of(result, columns, figure="gate_roc")
    table["mark"] = table["mark"].astype(object).where(table["mark"].notna(), "")
    languages = languages_of(table)
    down = math.ceil(len(languages) / _ABREAST)
    fig, cells = panels(
        [f'<span style="color:{colour_of(tier)}"><b>{tag}</b></span>' for tag, tier in languages.items()],
        columns=_ABREAST,
        shared_yaxes=True,
        shared_xaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=46 / (_PANEL * down) if down > 1 else 0,
        x_title="harmless prompts flagged (share)",
    )
    for (tag, tier), cell in zip(languages.items(), cells, strict=True):
        _panel(fig, table[table["language"] == tag], tag, colour_of(tier), cell)
    for mark, symbol in _MARKS.items():
        if (table["mark"] == mark).any():
            fig.add_scatter(
                x=[None], y=[None], mode="markers", name=mark, marker=dict(symbol=symbol, size=9, color=MUTED, line=dict(width=1.8, color=MUTED))
            )
    fig.update_xaxes(range=[-0.04, 1.04], tickvals=[0, 0.5, 1])
    fig.update_yaxes(range=[-0.04, 1.04], tickvals=[0, 0.5, 1])
    for cell in cells:
        if cell.col == 1:
            fig.update_yaxes(title_text="harmful flagged (share)", row=cell.row, col=cell.col)
        if not any(c.row > cell.row and c.col == cell.col for c in cells):
            fig.update_xaxes(showticklabels=True, row=cell.row, col=cell.col)
    auroc = table.drop_duplicates("language")
    title = f"AUROC of the gate: {span(auroc['auroc'])}{_moved(table)}"
    return titled(fig, title, tiers=languages.values(), note="dotted: guessing", height=190 + _PANEL * down).update_layout(margin=dict(t=128, b=58))


def _panel(fig: go.Figure, part: pd.DataFrame, tag: str, colour: str, cell: Cell) -> None:
    at = dict(row=cell.row, col=cell.col)
    dotted = dict(color=NULL, width=1.2, dash="dot")
    fig.add_scatter(x=f32([0, 1]), y=f32([0, 1]), mode="lines", line=dotted, hoverinfo="skip", showlegend=False, name="guessing", **at)
    line = part.sort_values("point", kind="stable")
    fig.add_scatter(
        x=f32(line["false_alarm"]), y=f32(line["hit"]), mode="lines", line=dict(color=colour, width=2), fill="tozeroy", fillcolor=faded(colour, 0.05),
        name=tag, showlegend=False, customdata=f32(line["threshold"]),
        hovertemplate=f"{tag}: %{{y:.2f}} of harmful, %{{x:.2f}} of harmless<br>threshold %{{customdata:.3g}}<extra></extra>", **at,
    )  # fmt: skip
    area = part.iloc[0]
    if np.isfinite(area["auroc"]):
        told = f"AUROC {area['auroc']:.2f}<br>[{area['auroc_low']:.2f}, {area['auroc_high']:.2f}]"
        fig.add_annotation(x=0.98, y=0.04, text=told, showarrow=False, xanchor="right", yanchor="bottom", font=dict(size=11, color=INK), **at)
    marks = part[part["mark"].isin(list(_MARKS))]
    for mark, symbol in _MARKS.items():
        spot = marks[marks["mark"] == mark]
        if spot.empty:
            continue
        fig.add_scatter(
            x=f32(spot["false_alarm"]),
            y=f32(spot["hit"]),
            mode="markers",
            marker=dict(symbol=symbol, size=9, color=colour, line=dict(width=1.8, color=colour)),
            name=mark,
            showlegend=False,
            cliponaxis=False,
            customdata=f32(spot["threshold"]),
            hovertemplate=f"{tag}, {mark}: %{{y:.2f}} of harmful, %{{x:.2f}} of harmless<br>threshold %{{customdata:.3g}}<extra></extra>",
            **at,
        )


def _moved(table: pd.DataFrame) -> str:
    """Say what share of harmful prompts the two thresholds flag where they differ most."""
    marks = table[table["mark"].isin(list(_MARKS))].pivot_table(index="language", columns="mark", values="hit")
    if set(_MARKS) - set(marks.columns):
        return ""
    tag = (marks["recalibrated"] - marks["source threshold"]).abs().idxmax()
    return f"; {tag} flags {marks['source threshold'][tag]:.2f} of harmful, then {marks['recalibrated'][tag]:.2f}"
