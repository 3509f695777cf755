"""What each repair does: selectivity, harmless refusal and right answers per method, mean over a tier's languages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError
from workbench.plots.method_lines import KIND_NAMES, kinds_of
from workbench.plots.panels import Cell, panels
from workbench.plots.style import INK, MUTED, colour_of, f32, table_of, titled
from workbench.results import Result

_SHOWN = {
    "selectivity": "selectivity",
    "harmless_refusal": "harmless refused",
    "answer_accuracy": "answered right",
}
_ROW, _HEAD = 22, 180  # pixels


def selectivity_by_method(result: Result | pd.DataFrame, *, tier: str = "low") -> go.Figure:
    """Draw every method's rates over a tier's languages: gates, rivals, the model as it is and controls, the best of each kind on top.

    Parameters
    ----------
    result : RepairRates or DataFrame
        ``method, language, tier, statistic, value, low, high, n, draws, labels``.
    tier : str
        Which languages' mean is drawn first and sorted by; the high tier stands beside it, paler, where there is one.

    Returns
    -------
    Figure
        Shares, with intervals over meanings and draws; the dotted line is the model without a repair. A statistic nobody has (no key for answers)
        has no panel.
    """
    columns = ("method", "language", "tier", "statistic", "value", "low", "high", "n", "draws", "labels")
    table = table_of(result, columns, figure="selectivity_by_method")
    means = table[table["language"].astype(str).str.startswith("mean ")]
    first = means[(means["tier"] == tier) & (means["statistic"] == "selectivity")].sort_values("value", ascending=False, kind="stable")
    if first.empty:
        known = sorted(set(means["tier"].astype(str)))
        raise DataError(f"No method has a mean over languages of tier {tier!r}; there are {known}. Expected one of them.")
    heights, headings = _places(first["method"])
    shown = [name for name in _SHOWN if means.loc[means["statistic"] == name, "value"].notna().any()]
    fig, cells = panels([_SHOWN[name] for name in shown], columns=len(shown), shared_yaxes=True)
    tiers = [tier, *[t for t in dict.fromkeys(means["tier"].astype(str)) if t != tier]]
    plain = [method for method, kind in kinds_of(first["method"]).items() if kind == "model"]
    for statistic, cell in zip(shown, cells, strict=True):
        here = means[means["statistic"] == statistic]
        for place, one in enumerate(tiers):
            _points(fig, here[(here["tier"] == one) & here["method"].isin(list(heights))], heights, cell, tier=one, place=place)
        unrepaired = here[(here["tier"] == tier) & here["method"].isin(plain)]
        if len(unrepaired):
            line = dict(color=MUTED, width=1.2, dash="dot")
            fig.add_vline(x=float(unrepaired["value"].iloc[0]), line=line, layer="below", row=cell.row, col=cell.col)
        low = min(-0.03, float(here["low"].min()) - 0.03) if len(here) else -0.03
        fig.update_xaxes(range=[low, 1.04], tickvals=[0, 0.5, 1], tickformat=".0%", title_text="share of prompts", row=cell.row, col=cell.col)
    names = {at: method for method, at in heights.items()} | {at: f'<span style="color:{INK}"><b>{text}</b></span>' for text, at in headings.items()}
    fig.update_yaxes(tickvals=list(names), ticktext=list(names.values()), range=[min(heights.values()) - 0.7, 0.7], showgrid=False, ticks="")
    note = "dotted: without a repair" if plain else ""
    rows = len(heights) + 1.25 * len(headings)
    return titled(fig, _title(first, tier), tiers=tiers, note=note, height=_HEAD + round(_ROW * rows))


def _places(methods: pd.Series) -> tuple[dict[str, float], dict[str, float]]:
    """Return the height of every method and of every kind's heading, from 0 downwards; methods come sorted."""
    kinds = kinds_of(methods)
    heights, headings, at = {}, {}, 0.0
    for kind, text in KIND_NAMES.items():
        members = [method for method, one in kinds.items() if one == kind]
        if not members:
            continue
        headings[text] = at
        for method in members:
            at -= 1.0
            heights[method] = at
        at -= 1.25
    return heights, headings


def _points(fig: go.Figure, part: pd.DataFrame, heights: dict[str, float], cell: Cell, *, tier: str, place: int) -> None:
    x = f32(part["value"])
    ends = [part[end].map("{:.2f}".format) for end in ("low", "high")]
    fig.add_scatter(
        x=x,
        y=np.array([heights[str(method)] for method in part["method"]], dtype=np.float32) - np.float32(0.2 * place),
        mode="markers",
        name=f"{tier} tier",
        legendgroup=tier,
        showlegend=False,
        opacity=1.0 if place == 0 else 0.45,
        marker=dict(symbol="circle", size=8 if place == 0 else 6, color=colour_of(tier)),
        error_x=dict(type="data", symmetric=False, array=f32(part["high"]) - x, arrayminus=x - f32(part["low"]), thickness=1.4, width=3),
        customdata=np.stack([part["method"].astype(str), *ends, part["labels"].astype(str)], axis=-1),
        hovertemplate=f"%{{customdata[0]}}, {tier} tier: %{{x:.2f}} [%{{customdata[1]}}, %{{customdata[2]}}]<br>"
        "labels of the language: %{customdata[3]}<extra></extra>",
        row=cell.row,
        col=cell.col,
    )


def _title(first: pd.DataFrame, tier: str) -> str:
    """Say what the model has as it is, what the best gate gives, the best rival, and the ceiling."""
    kinds, value = kinds_of(first["method"]), dict(zip(first["method"].astype(str), first["value"], strict=True))
    best = {kind: next((method for method, one in kinds.items() if one == kind), None) for kind in ("model", "gate", "rival", "ceiling")}
    told = [
        f"{name} {value[method]:.2f}"
        for kind, name in (("model", "as it is"), ("gate", "best gate"), ("rival", "best rival"), ("ceiling", "oracle"))
        if (method := best[kind]) is not None
    ]
    return f"Selectivity, {tier} tier: {', '.join(told) or 'controls only'}".replace("-0.", "\u22120.")
