"""Two runs side by side: harmful and harmless refusal and selectivity per language, in the first run and in the second."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, connectors, dots, panels
from workbench.plots.style import in_order, span, table_of, titled
from workbench.results import Result

_SHOWN = {"harmful_refusal": "harmful refused", "harmless_refusal": "harmless refused", "selectivity": "selectivity"}
_SYMBOLS = ("circle-open", "circle")


def two_runs(result: Result | pd.DataFrame) -> go.Figure:
    """Draw the rates of two runs per language, the second filled, joined by a pale line.

    Parameters
    ----------
    result : Result or DataFrame
        ``run`` (two names, the first one first), ``language, tier, statistic, value, low, high, n``; only what both runs have.

    Returns
    -------
    Figure
        Shares, 0 to 1, with 95 % intervals; one panel per statistic.
    """
    table = table_of(result, ("run", "language", "tier", "statistic", "value", "low", "high", "n"), figure="two_runs")
    rows, shown = Rows.of(table), [name for name in _SHOWN if (table["statistic"] == name).any()]
    fig, cells = panels([_SHOWN[name] for name in shown], columns=3, shared_yaxes=True)
    runs = in_order(table["run"])
    for statistic, cell in zip(shown, cells, strict=True):
        here = table[table["statistic"] == statistic]
        parts = [here[here["run"] == run] for run in runs]
        both = parts[0].merge(parts[-1][["language", "value"]], on="language", suffixes=("_first", "_second"))
        connectors(fig, rows, both, cell, "value_first", "value_second")
        for run, part, symbol, offset in zip(runs, parts, _SYMBOLS, (0.14, -0.14), strict=False):
            dots(fig, rows, part, cell, name=str(run), symbol=symbol, offset=offset, legend=cell == cells[0], form=".0%")
        low = min(-0.03, float(here["low"].min()) - 0.03)
        what = "harmful minus harmless" if statistic == "selectivity" else "share of prompts"
        fig.update_xaxes(range=[low, 1.03], tickformat=".0%", title_text=what, row=cell.row, col=cell.col)
    rows.label(fig)
    main = table[table["statistic"] == shown[-1]]
    told = " and ".join(span(main.loc[main["run"] == run, "value"], ".0%") for run in runs)
    return titled(fig, f"{_SHOWN[shown[-1]].capitalize()}: {told}", tiers=rows.languages.values(), height=rows.height)
