"""What a repair gains and what it costs: selectivity gained against right answers lost and harmless prompts refused, a point per method."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError
from workbench.plots.method_lines import Look, end_labels
from workbench.plots.panels import Cell, panels
from workbench.plots.style import FACTOR_COLOURS, INK, MUTED, NULL, f32, faded, in_order, table_of, titled
from workbench.repair.kinds import UNREPAIRED, kind_of
from workbench.results import Result

_COLUMNS = ("method", "other", "language", "tier", "statistic", "value", "low", "high", "n")
_POINTS = 100.0
_PANEL = 300  # pixels
_LABELS = 0.3  # of the width, for names
#: What a repair can be, beside trained ones: symbol and colour; hues of tiers are no method's.
_LOOKS = {"trained": ("circle", INK), "gate": ("square", FACTOR_COLOURS["meaning"]), "rival": ("square-open", MUTED), "ceiling": ("star", MUTED)}
_NAMES = {"trained": "repair by training", "gate": "gate", "rival": "rival of the gate", "ceiling": "true labels decide"}


class _Cost(NamedTuple):
    """A statistic that pays for a repair, and which way it does."""

    axis: str
    sign: float


_COSTS = {
    "answer_accuracy": _Cost("right answers to harmless prompts lost (points)", -1.0),
    "harmless_refusal": _Cost("refusals of harmless prompts added (points)", 1.0),
}


def repair_cost(result: Result | pd.DataFrame, *, language: str = "mean of all", start: str = UNREPAIRED, budget: float = 2.0) -> go.Figure:
    """Draw each repair's gain in selectivity against its cost to harmless use, a panel per cost.

    Parameters
    ----------
    result : RepairContrasts or DataFrame
        ``method, other, language, tier, statistic, value, low, high, n``: paired differences, method minus other.
    language : str
        A tag, or a mean such as "mean unseen in training".
    start : str
        The other: the model as it is.
    budget : float
        The most that a repair may cost, in points; what is beyond is shaded.

    Returns
    -------
    Figure
        Points of a hundred, with 95 % intervals both ways. Left of the line and high up is good, as the mark in that corner says; a cost below 0
        is a gain.

    Raises
    ------
    DataError
        No difference in selectivity to ``start`` in that language, or no cost.
    """
    table = table_of(result, _COLUMNS, figure="repair_cost")
    known = table[(table["other"] == start) & table["value"].notna()]
    rows = known[known["language"] == language]
    gains = rows[rows["statistic"] == "selectivity"].drop_duplicates("method").set_index("method")
    costs = [name for name in _COSTS if (rows["statistic"] == name).any()]
    if gains.empty or not costs:
        places = ", ".join(in_order(known["language"].astype(str))) or "nowhere"
        raise DataError(
            f"repair_cost: no gain or no cost in {language!r} against {start!r}; measured: {places}. Expected differences in selectivity and in "
            "answer_accuracy or harmless_refusal."
        )
    height = 160 + _PANEL * len(costs)
    fig, cells = panels([""] * len(costs), columns=1, vertical_spacing=70 / (height - 160) if len(costs) > 1 else 0)
    between = _range(_POINTS * gains["low"], _POINTS * gains["high"])
    told = {}
    for name, cell in zip(costs, cells, strict=True):
        cost = _prices(rows[rows["statistic"] == name], _COSTS[name].sign)
        told[name] = cost
        _panel(fig, gains, cost, cell, between=between, budget=budget)
        fig.update_xaxes(title_text=_COSTS[name].axis, row=cell.row, col=cell.col)
    kinds = dict.fromkeys(_kind(str(method)) for method in gains.index)
    for kind in [kind for kind in _LOOKS if kind in kinds] if len(kinds) > 1 else []:
        symbol, colour = _LOOKS[kind]
        fig.add_scatter(x=[None], y=[None], mode="markers", marker=dict(symbol=symbol, size=9, color=colour), name=_NAMES[kind], row=1, col=1)
    fig.update_yaxes(title_text="selectivity gained (points)", range=between)
    within = [method for method in gains.index if all(method in cost.index and cost.loc[method, "value"] <= budget for cost in told.values())]
    where = {"mean of all": "mean of all languages"}.get(language, language)
    title = f"No repair costs at most {budget:g} points"
    if within:
        best = _POINTS * gains.loc[within, "value"].max()
        title = f"Selectivity gained at a cost of at most {budget:g} points: up to {best:+.0f}".replace("-", "\u2212")
    note = f"{where} · {len(within)} of {len(gains)} within the budget · bars: 95 % intervals"
    return titled(fig, title, note=note, height=height)


def _kind(method: str) -> str:
    found = kind_of(method.partition(" (")[0])  # a folder's name tells runs of one method apart
    return found if found in _LOOKS else "trained"


def _prices(rows: pd.DataFrame, sign: float) -> pd.DataFrame:
    """Return points of cost with its interval, by method; an answer lost is a cost."""
    by = rows.drop_duplicates("method").set_index("method")
    ends = pd.DataFrame({end: sign * _POINTS * by[end] for end in ("value", "low", "high")})
    return ends if sign > 0 else ends.rename(columns={"low": "high", "high": "low"})


def _panel(fig: go.Figure, gains: pd.DataFrame, cost: pd.DataFrame, cell: Cell, *, between: tuple[float, float], budget: float) -> None:
    methods = [str(method) for method in gains.index if method in cost.index]
    gain = _POINTS * gains.loc[methods, ["value", "low", "high"]]
    cost = cost.loc[methods]
    at = dict(row=cell.row, col=cell.col)
    low, high = _range([*cost["low"], 0.0], [*cost["high"], 2 * budget])
    name_at = high + 0.03 * (high - low)
    ends, looks = {}, {}
    for method in methods:
        symbol, colour = _LOOKS[_kind(method)]
        y, x = gain.loc[method], cost.loc[method]
        fig.add_scatter(
            x=f32([x["value"]]),
            y=f32([y["value"]]),
            mode="markers",
            marker=dict(symbol=symbol, size=10, color=colour, line=dict(width=1.5, color=colour)),
            error_x=_bars(x, colour),
            error_y=_bars(y, colour),
            name=method,
            showlegend=False,
            hovertemplate=f"{method}<br>gain %{{y:.1f}} [{y['low']:.1f}, {y['high']:.1f}]<br>cost %{{x:.1f}} [{x['low']:.1f}, {x['high']:.1f}]"
            f"<br>n = {int(gains.loc[method, 'n'])} meanings<extra></extra>",
            **at,
        )
        ends[method], looks[method] = (float(x["value"]), float(y["value"])), Look(colour, "solid", 1.0, "gate" if symbol == "square" else "")
    end_labels(fig, ends, looks, cell, x=name_at, between=between, pixels=_PANEL - 60)
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (high - low) / step <= 8 or step == 50)
    marks = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]  # none where the names are
    reach = [low, high + (high - low) * _LABELS / (1 - _LABELS)]
    fig.update_xaxes(range=reach, tickvals=marks, zeroline=True, zerolinecolor=NULL, **at)
    fig.add_vrect(x0=budget, x1=name_at, fillcolor=faded(NULL, 0.22), line_width=0, layer="below", **at)
    fig.add_vline(x=budget, line=dict(color=MUTED, width=1.4, dash="dash"), **at)
    fig.add_annotation(
        x=budget, y=1, yref=f"y{cell.row if cell.row > 1 else ''} domain", text=f"budget: {budget:g} points", showarrow=False, xanchor="left",
        yanchor="bottom", xshift=-3, font=dict(size=10.5, color=MUTED), **at,
    )  # fmt: skip
    fig.add_annotation(  # left of every other label, above the axis: nothing is ever drawn there
        x=0, xref=f"x{cell.row if cell.row > 1 else ''} domain", y=1, yref=f"y{cell.row if cell.row > 1 else ''} domain", text="<b>better ↖</b>",
        showarrow=False, xanchor="right", yanchor="bottom", xshift=-2, font=dict(size=10.5, color=MUTED),
    )  # fmt: skip
    fig.add_shape(type="line", x0=low, x1=name_at, y0=0, y1=0, line=dict(color=MUTED, width=1), **at)  # not through the names


def _bars(row: pd.Series, colour: str) -> dict[str, object]:
    return dict(
        type="data", symmetric=False, array=f32([row["high"] - row["value"]]), arrayminus=f32([row["value"] - row["low"]]), thickness=1.4, width=3,
        color=faded(colour, 0.75),
    )  # fmt: skip


def _range(lows: pd.Series | list[float], highs: pd.Series | list[float]) -> tuple[float, float]:
    low, high = min(0.0, *map(float, lows)), max(1.0, *map(float, highs))
    room = 0.06 * (high - low)
    return low - room, high + room


__all__ = ["repair_cost"]
