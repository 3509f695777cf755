"""How often the model refuses harmful and harmless prompts in each language: the refusal gap."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, connectors, dots, panels
from workbench.plots.style import CLASS_SYMBOLS, extremes, table_of, titled
from workbench.results import Result

_MODELS = {"before": "before alignment", "after": "the model diagnosed"}


def refusal_gap(result: Result | pd.DataFrame) -> go.Figure:
    """Draw harmful and harmless refusal per language; the bar between them is the selectivity.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``language, tier, statistic, value, low, high, n``; ``model`` and ``validated`` where there are any.

    Returns
    -------
    Figure
        Rates are shares of prompts, 0 to 1. A dagger marks languages in which the judge was not validated.
    """
    table = table_of(result, ("language", "tier", "statistic", "value", "low", "high", "n"), figure="refusal_gap")
    if "model" not in table:
        table["model"] = "after"
    table = table[table["statistic"].isin(["harmful_refusal", "harmless_refusal"])]
    rows, models = Rows.of(table), [m for m in _MODELS if m in set(table["model"])]
    fig, cells = panels([_MODELS[m] for m in models] if len(models) > 1 else [""], shared_yaxes=True)
    for model, cell in zip(models, cells, strict=True):
        here = table[table["model"] == model]
        wide = here.pivot_table(index=["language", "tier"], columns="statistic", values="value", sort=False).reset_index()
        if {"harmful_refusal", "harmless_refusal"} <= set(wide.columns):
            connectors(fig, rows, wide, cell, "harmless_refusal", "harmful_refusal")
        for statistic, harmful in (("harmless_refusal", False), ("harmful_refusal", True)):
            part = here[here["statistic"] == statistic]
            name = "harmful prompts refused" if harmful else "harmless prompts refused"
            dots(fig, rows, part, cell, name=name, symbol=CLASS_SYMBOLS[harmful], legend=cell == cells[0], form=".0%")
    doubtful = set(table.loc[~table["validated"].astype(bool), "language"]) if "validated" in table else set()
    rows.label(fig, marks={tag: " †" for tag in doubtful})
    fig.update_xaxes(title_text="refused (share of prompts)", range=[-0.03, 1.03], tickformat=".0%")
    shown = table[(table["model"] == models[-1]) & (table["statistic"] == "harmful_refusal")]
    note = "† judge not validated in this language" if doubtful else ""
    return titled(fig, f"Harmful prompts refused: {extremes(shown, 'value', '.0%')}", tiers=rows.languages.values(), note=note, height=rows.height)
