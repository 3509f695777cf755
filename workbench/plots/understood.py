"""Whether the model understands the requests of each language."""

from __future__ import annotations

import re

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, dots, panels, ticks
from workbench.plots.style import INK, MUTED, extremes, in_order, table_of, titled
from workbench.results import Result

_UNITS = {
    "harmless answer accuracy": "harmless requests answered right (share)",
    "translation retrieval": "translations retrieved (share of meanings)",
    "bits per byte": "bits per byte (8: guessing)",
}
_VERDICTS = {
    "yes": ("understood", "square"),
    "no": ("not understood", "square-open"),
    "not enough evidence": ("not enough evidence", "square-cross-open"),
    "not assessed": ("not assessed", "square-x-open"),
}


def understanding(result: Result | pd.DataFrame) -> go.Figure:
    """Draw the measure of understanding per language with its criterion and its control, one panel per measure.

    Parameters
    ----------
    result : Result or DataFrame
        ``language, tier, statistic, value, low, high, n, control, criterion, understood``.

    Returns
    -------
    Figure
        Filled: the table's verdict is that the language is understood; open: it is not, or that is undecided or was not assessed.
        The criterion is drawn where it is a number or a sentence with exactly one.
    """
    needed = ("language", "tier", "statistic", "value", "low", "high", "n", "control", "criterion", "understood")
    table = table_of(result, needed, figure="understanding")
    table["bar"] = _bars(table["criterion"])
    table["statistic"] = table["statistic"].astype(str).str.replace("_", " ")
    rows = Rows.of(table)
    measured = table[table["value"].notna()]
    statistics = in_order(measured["statistic"]) or ["not measured"]
    fig, cells = panels(statistics if len(statistics) > 1 else [""], shared_yaxes=True)
    for statistic, cell in zip(statistics, cells, strict=True):
        part, first = table[table["statistic"] == statistic], cell == cells[0]
        for column, name, dash, colour in (("bar", "criterion", "solid", INK), ("control", "control", "2px,2px", MUTED)):
            if part[column].notna().any():
                ticks(fig, rows, part, cell, value=column, name=name, legend=first, dash=dash, colour=colour)
        for verdict, (name, symbol) in _VERDICTS.items():
            chosen = part[part["understood"].astype(str) == verdict]
            dots(
                fig,
                rows,
                chosen,
                cell,
                name=name,
                symbol=symbol,
                legend=first and not table[table["understood"].astype(str) == verdict].empty,
                extra="reason" if "reason" in part else "",
            )
        shares = statistic != "bits per byte"
        fig.update_xaxes(
            title_text=_UNITS.get(statistic, statistic),
            **(dict(range=[-0.03, 1.03]) if shares else dict(rangemode="tozero")),
            row=cell.row,
            col=cell.col,
        )
    rows.label(fig)
    first_part = table[table["statistic"] == statistics[0]]
    return titled(fig, f"Understanding, {statistics[0]}: {extremes(first_part, 'value')}", tiers=rows.languages.values(), height=rows.height)


def _bars(criteria: pd.Series) -> pd.Series:
    """Return the number that a criterion states, NaN where it states none or several."""

    def stated(criterion: object) -> float:
        found = re.findall(r"-?\d+(?:\.\d+)?|-?\.\d+", str(criterion))
        return float(found[0]) if len(found) == 1 else float("nan")

    return criteria.map(stated)
