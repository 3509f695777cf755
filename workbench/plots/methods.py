"""What each repair does: selectivity, harmless refusal and right answers per method, mean over a tier's languages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError
from workbench.plots.panels import panels
from workbench.plots.style import colour_of, f32, table_of, titled
from workbench.results import Result

_SHOWN = {
    "selectivity": "selectivity",
    "harmless_refusal": "harmless refused",
    "answer_accuracy": "answered right",
}
_ROW, _HEAD = 24, 190  # pixels


def selectivity_by_method(result: Result | pd.DataFrame, *, tier: str = "low") -> go.Figure:
    """Draw every method's rates over a tier's languages, best selectivity on top.

    Parameters
    ----------
    result : RepairRates or DataFrame
        ``method, language, tier, statistic, value, low, high, n, draws, labels``.
    tier : str
        Which languages' mean is drawn first and sorted by; the high tier stands beside it, paler, where there is one.

    Returns
    -------
    Figure
        Shares, with intervals over meanings and draws. A statistic nobody has (no key for answers) has no panel.
    """
    columns = ("method", "language", "tier", "statistic", "value", "low", "high", "n", "draws", "labels")
    table = table_of(result, columns, figure="selectivity_by_method")
    means = table[table["language"].astype(str).str.startswith("mean ")]
    first = means[(means["tier"] == tier) & (means["statistic"] == "selectivity")].sort_values("value", kind="stable")
    if first.empty:
        known = sorted(set(means["tier"].astype(str)))
        raise DataError(f"No method has a mean over languages of tier {tier!r}; there are {known}. Expected one of them.")
    rows = {str(method): i for i, method in enumerate(first["method"])}
    shown = [name for name in _SHOWN if means.loc[means["statistic"] == name, "value"].notna().any()]
    fig, cells = panels([_SHOWN[name] for name in shown], columns=len(shown), shared_yaxes=True)
    tiers = [tier, *[t for t in dict.fromkeys(means["tier"].astype(str)) if t != tier]]
    for statistic, cell in zip(shown, cells, strict=True):
        for place, one in enumerate(tiers):
            part = means[(means["tier"] == one) & (means["statistic"] == statistic) & means["method"].isin(list(rows))]
            x = f32(part["value"])
            ends = [part[end].map("{:.2f}".format) for end in ("low", "high")]
            hover = np.stack([part["method"].astype(str), *ends, part["labels"].astype(str)], axis=-1)
            fig.add_scatter(
                x=x,
                y=np.array([rows[str(method)] for method in part["method"]], dtype=np.float32) - np.float32(0.18 * place),
                mode="markers",
                name=f"{one} tier",
                legendgroup=one,
                showlegend=False,
                opacity=1.0 if place == 0 else 0.45,
                marker=dict(symbol="circle", size=8 if place == 0 else 6, color=colour_of(one)),
                error_x=dict(type="data", symmetric=False, array=f32(part["high"]) - x, arrayminus=x - f32(part["low"]), thickness=1.4, width=3),
                customdata=hover,
                hovertemplate=f"%{{customdata[0]}}, {one} tier: %{{x:.2f}} [%{{customdata[1]}}, %{{customdata[2]}}]<br>"
                "labels of the language: %{customdata[3]}<extra></extra>",
                row=cell.row,
                col=cell.col,
            )
        low = -0.25 if statistic == "selectivity" else -0.03
        fig.update_xaxes(range=[low, 1.03], tickformat=".0%", title_text="share of prompts", row=cell.row, col=cell.col)
    fig.update_yaxes(tickvals=list(rows.values()), ticktext=list(rows), range=[-0.8, len(rows) - 0.4])
    best = first.iloc[-1]
    title = f"Selectivity in {tier}-tier languages: {first['value'].min():.2f} to {best['value']:.2f} ({best['method']})"
    return titled(fig, title, tiers=tiers, height=_HEAD + _ROW * len(rows))
