"""What each repair does: selectivity, harmless refusal and right answers per method, mean over a tier's languages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError
from workbench.plots.method_lines import KIND_NAMES, kinds_of
from workbench.plots.panels import Cell, panels
from workbench.plots.style import INK, MUTED, colour_of, f32, table_of, titled
from workbench.repair.kinds import GATE
from workbench.results import Result

_SHOWN = {
    "selectivity": "selectivity",
    "harmless_refusal": "harmless refused",
    "answer_accuracy": "answered right",
}
_REFERENCE = "reference"
_ROW, _HEAD = 22, 180  # pixels


def selectivity_by_method(result: Result | pd.DataFrame, *, tier: str = "low", gate: str | None = GATE) -> go.Figure:
    """Draw every method's rates over a tier's languages: gates, rivals, the model as it is and controls, the best of each kind on top.

    Parameters
    ----------
    result : RepairRates or DataFrame
        ``method, language, tier, statistic, value, low, high, n, draws, labels``.
    tier : str
        Which languages' mean is drawn first and sorted by; the others stand beside it, paler, the mean over reference languages that share a tier
        with others as open circles ("reference").
    gate : str, optional
        The method that the title gives as the result, whatever its rank: the best of several would be chosen on what is scored.

    Returns
    -------
    Figure
        Shares, with intervals over meanings and draws; the dotted line is the model without a repair. A statistic nobody has (no key for answers)
        has no panel. The best rival of the title is picked in its favour, on what is drawn.

    Raises
    ------
    DataError
        No mean over languages of that tier.
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
    notes = {"dotted: without a repair": bool(plain), "open: reference languages": _REFERENCE in tiers}
    note = " · ".join(text for text, there in notes.items() if there)
    rows = len(heights) + 1.25 * len(headings)
    return titled(fig, _title(first, tier, gate), tiers=tiers, note=note, height=_HEAD + round(_ROW * rows))


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
    name = "reference languages" if tier == _REFERENCE else f"{tier} tier"
    fig.add_scatter(
        x=x,
        y=np.array([heights[str(method)] for method in part["method"]], dtype=np.float32) - np.float32(0.2 * place),
        mode="markers",
        name=name,
        legendgroup=tier,
        showlegend=False,
        opacity=1.0 if place == 0 else 0.45,
        marker=dict(symbol="circle-open" if tier == _REFERENCE else "circle", size=8 if place == 0 else 6, color=colour_of(tier)),
        error_x=dict(type="data", symmetric=False, array=f32(part["high"]) - x, arrayminus=x - f32(part["low"]), thickness=1.4, width=3),
        customdata=np.stack([part["method"].astype(str), *ends, part["labels"].astype(str)], axis=-1),
        hovertemplate=f"%{{customdata[0]}}, {name}: %{{x:.2f}} [%{{customdata[1]}}, %{{customdata[2]}}]<br>"
        "labels of the language: %{customdata[3]}<extra></extra>",
        row=cell.row,
        col=cell.col,
    )


def _title(first: pd.DataFrame, tier: str, gate: str | None) -> str:
    """Say what the model has as it is, what the gate gives, the best rival, and the ceiling."""
    kinds, value = kinds_of(first["method"]), dict(zip(first["method"].astype(str), first["value"], strict=True))
    best = {kind: next((method for method, one in kinds.items() if one == kind), None) for kind in ("model", "rival", "ceiling")}
    named = {"as it is": best["model"], str(gate): gate if gate in value else None, "best rival": best["rival"], "oracle": best["ceiling"]}
    told = [f"{name} {value[method]:.2f}" for name, method in named.items() if method is not None]
    return f"Selectivity, {tier} tier: {'; '.join(told) or 'controls only'}".replace("-0.", "\u22120.")
