"""Whether the model understands the requests of each language."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, dots, panels, ticks
from workbench.plots.style import INK, MUTED, extremes, in_order, table_of, titled
from workbench.results import Result

_UNITS = {
    "answer_accuracy": "harmless answers that are right (share)",
    "retrieval": "translations retrieved (share of meanings)",
    "bits_per_byte": "bits per byte (8: guessing)",
}
_VERDICTS = {"yes": ("understood", "square"), "no": ("not understood", "square-open"), "not assessed": ("not assessed", "square-x-open")}


def understanding(result: Result | pd.DataFrame) -> go.Figure:
    """Draw the measure of understanding per language with its criterion and its control, one panel per measure.

    Parameters
    ----------
    result : Result or DataFrame
        ``language, tier, statistic, value, low, high, n, control, criterion, understood``.

    Returns
    -------
    Figure
        Filled: the table's verdict is that the language is understood; open: it is not, or it was not assessed.
    """
    needed = ("language", "tier", "statistic", "value", "low", "high", "n", "control", "criterion", "understood")
    table = table_of(result, needed, figure="understanding")
    rows, statistics = Rows.of(table), in_order(table["statistic"].astype(str))
    fig, cells = panels([s.replace("_", " ") for s in statistics] if len(statistics) > 1 else [""], shared_yaxes=True)
    for statistic, cell in zip(statistics, cells, strict=True):
        part, first = table[table["statistic"].astype(str) == statistic], cell == cells[0]
        for column, name, dash, colour in (("criterion", "criterion", "solid", INK), ("control", "control", "2px,2px", MUTED)):
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
        shares = statistic != "bits_per_byte"
        fig.update_xaxes(
            title_text=_UNITS.get(statistic, statistic.replace("_", " ")),
            **(dict(range=[-0.03, 1.03]) if shares else dict(rangemode="tozero")),
            row=cell.row,
            col=cell.col,
        )
    rows.label(fig)
    first_part = table[table["statistic"].astype(str) == statistics[0]]
    return titled(
        fig, f"Understanding, {statistics[0].replace('_', ' ')}: {extremes(first_part, 'value')}", tiers=rows.languages.values(), height=rows.height
    )
