"""How far the decision comes in each language: the stages from left to right, where it stops, and what that is called."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows
from workbench.plots.style import INK, MUTED, NULL, colour_of, f32, faded, in_order, table_of, titled
from workbench.results import Result

_STATES = {"passed": "passed", "failed": "shown to fail", "open": "open", "none": "not assessed"}
_MARKS = {"passed": "✓", "failed": "✕", "open": "?", "none": "–"}
#: Right of its mark a score covers the line.
_BESIDE = dict(showarrow=False, xanchor="left", xshift=11, align="left", bgcolor="white", borderpad=0)
_ROW, _HEAD = 42, 184  # pixels
_HEALTHY = "healthy"


def verdicts(result: Result | pd.DataFrame, *, stages: Result | pd.DataFrame) -> go.Figure:
    """Draw, per language, the five stages from left to right with score and interval, and the verdict at the end.

    Parameters
    ----------
    result : Verdicts or DataFrame
        ``language, tier, verdict, subtype, stage, reason``.
    stages : StageScores or DataFrame
        ``language, stage, statistic, value, low, high, criterion, passed, assessed, n, reason``.

    Returns
    -------
    Figure
        A line in the hue of the tier runs to the stage that the verdict rests on, and through all of them where nothing fails. Filled square: shown
        to fail; tick: passed; open square: an interval reaches across the criterion; no mark: not assessed. Statistics differ by stage and stand
        in the heading; criteria when hovering. A stage that fails right of where the line ends, or where refusal does not, decides nothing.
    """
    table = table_of(result, ("language", "tier", "verdict", "subtype", "stage", "reason"), figure="verdicts")
    needed = ("language", "stage", "statistic", "value", "low", "high", "criterion", "passed", "assessed", "n", "reason")
    scores = table_of(stages, needed, figure="verdicts")
    rows, names = Rows.of(table), in_order(scores["stage"])
    fig = go.Figure()
    _key(fig)
    notes: list[dict[str, Any]] = []
    for tag, tier in rows.languages.items():
        row = table[table["language"] == tag].iloc[0]
        part = scores[scores["language"] == tag].drop_duplicates("stage").set_index("stage").reindex(names)
        notes += _row(fig, part, row, names, float(rows.y([tag])[0]), colour_of(tier))
    fig.update_layout(annotations=notes)  # at once: one by one is slow
    rows.label(fig, below=0.55, above=0.6)
    fig.update_yaxes(showgrid=False)
    heads = [f"<b>{name}</b><br>{_short(scores, name)}" for name in names]
    fig.update_xaxes(tickvals=list(range(len(names))), ticktext=heads, side="top", range=[-0.3, len(names) - 0.4], showgrid=False, ticks="")
    fig.update_xaxes(tickfont=dict(size=11.5), showline=False, tickangle=0)
    titled(fig, _title(table), tiers=rows.languages.values(), height=_HEAD + _ROW * max(2, len(rows.languages)))
    return fig.update_layout(margin=dict(t=140, r=124, b=12))


def _row(fig: go.Figure, part: pd.DataFrame, row: pd.Series, names: list[str], y: float, colour: str) -> list[dict[str, Any]]:
    """Draw one language: the line as far as the decision comes and a mark per stage; return what is written there."""
    tag, healthy = str(row["language"]), row["verdict"] == _HEALTHY
    end = len(names) - 0.4 if healthy else float(names.index(row["stage"])) if row["stage"] in names else None
    at = dict(showlegend=False, name=tag)
    if end is not None:
        fig.add_scatter(x=f32([-0.25, end]), y=f32([y, y]), mode="lines", line=dict(color=faded(colour, 0.45), width=3), hoverinfo="skip", **at)
    states = [_state(part.loc[name]) for name in names]
    fig.add_scatter(
        x=np.arange(len(names), dtype=np.float32), y=np.full(len(names), y, dtype=np.float32), mode="markers",
        marker=dict(
            opacity=1,
            symbol=["square-open" if state == "open" else "square" for state in states],
            size=[23 if state == "passed" else 19 for state in states],
            color=[{"failed": colour, "open": colour, "passed": "white", "none": "white"}[state] for state in states],
            line=dict(width=[2 if state == "open" else 0 for state in states], color=colour),
        ), customdata=[_told(tag, name, part.loc[name], state) for name, state in zip(names, states, strict=True)],
        hovertemplate="%{customdata}<extra></extra>", **at,
    )  # fmt: skip
    notes = []
    for i, (name, state) in enumerate(zip(names, states, strict=True)):
        ink = {"failed": "white", "open": colour, "passed": INK, "none": MUTED}[state]
        notes.append(dict(x=i, y=y, text=f"<b>{_MARKS[state]}</b>", showarrow=False, font=dict(size=12, color=ink)))
        if state != "none" and pd.notna(part.loc[name, "value"]):
            notes.append(dict(x=i, y=y, text=_score(part.loc[name]), font=dict(size=10.5), **_BESIDE))
    said = f"<b>{str(row['verdict']).replace('not enough ', 'not enough<br>')}</b>" + (f"<br>{row['subtype']}" if row["subtype"] else "")
    last = dict(x=1.0, xref="paper", xshift=6, y=y, showarrow=False, xanchor="left", align="left", hovertext=f"{tag}: {row['reason']}")
    return [*notes, dict(last, text=said, font=dict(size=12.5, color=INK if healthy else colour))]


def _key(fig: go.Figure) -> None:
    look: dict[str, dict[str, Any]] = {
        "failed": dict(symbol="square", color=MUTED),
        "open": dict(symbol="square-open", color=MUTED, line=dict(width=2)),
    }
    fig.add_scatter(x=[None], y=[None], mode="lines", line=dict(color=NULL, width=3), name="the decision comes this far")
    for state, marker in look.items():
        fig.add_scatter(x=[None], y=[None], mode="markers", marker=dict(size=11, **marker), name=_STATES[state])


def _state(score: pd.Series) -> str:
    if pd.isna(score["assessed"]) or not bool(score["assessed"]):
        return "none"
    return "open" if pd.isna(score["passed"]) else "passed" if bool(score["passed"]) else "failed"


def _score(score: pd.Series) -> str:
    form = "+.2f" if "gap" in str(score["statistic"]) else ".2f"
    value, low, high = (format(float(score[name]) + 0.0, form).replace("-", "\u2212") for name in ("value", "low", "high"))
    return f'{value}<br><span style="font-size:9px;color:{MUTED}">[{low}, {high}]</span>'


def _told(tag: str, stage: str, score: pd.Series, state: str) -> str:
    if state == "none":
        return f"<b>{tag}</b>, {stage}: not assessed"
    return f"<b>{tag}</b>, {stage}: {_STATES[state]}<br>{score['statistic']}, n = {score['n']:.0f}<br>criterion: {score['criterion']}"


def _short(scores: pd.DataFrame, stage: str) -> str:
    """Return what the scores of a stage are; several, where languages were scored differently."""
    found = in_order(scores.loc[(scores["stage"] == stage) & scores["value"].notna(), "statistic"])
    found = [line for name in found for line in wrap(str(name), 16)]
    return f'<span style="font-size:10px;color:{MUTED}">{"<br>".join(found)}</span>'


def _title(table: pd.DataFrame) -> str:
    counts = table["verdict"].value_counts()
    said = ", ".join(f"{name} in {n}" for name, n in sorted(counts.items(), key=lambda pair: (pair[0] == _HEALTHY, -pair[1])))
    return f"Verdicts of {len(table)} languages: {said}"
