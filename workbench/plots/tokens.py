"""How finely the tokenizer cuts each language."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, dots, panels
from workbench.plots.style import extremes, table_of, titled
from workbench.results import Result


def tokens_per_character(result: Result | pd.DataFrame) -> go.Figure:
    """Draw tokens per character of the prompts, per language.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``language, tier, value, low, high, n``.

    Returns
    -------
    Figure
    """
    table = table_of(result, ("language", "tier", "value", "low", "high", "n"), figure="tokens_per_character")
    rows = Rows.of(table)
    fig, (cell,) = panels([""])
    dots(fig, rows, table, cell, name="tokens per character", symbol="square", legend=False)
    rows.label(fig)
    fig.update_xaxes(title_text="tokens per character of the request", rangemode="tozero")
    title = f"Tokens per character: {extremes(table, 'value')}"
    return titled(fig, title, tiers=rows.languages.values(), height=rows.height - 30).update_layout(margin=dict(t=72))
