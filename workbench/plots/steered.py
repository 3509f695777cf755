"""What removing a direction and adding it does to refusal in each language, beside control directions of the same length."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, connectors, dots, panels
from workbench.plots.style import CLASS_SYMBOLS, span, table_of, titled
from workbench.results import Result

_PANELS = {
    "ablate": ("harmful prompts, direction removed", "harmful_refusal", True),
    "add": ("harmless prompts, direction added", "harmless_refusal", False),
}


def steered(result: Result | pd.DataFrame) -> go.Figure:
    """Draw refusal per language without an edit, under it, and under control directions (random, of permuted labels, between languages) in its place.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``edit`` ("ablate" or "add"), ``strength``, ``kind`` ("direction", "random", "control"), ``language``, ``tier``,
        ``statistic``, ``value``, ``low``, ``high``, ``n``, ``validated`` where known; strength 0 is the model without an edit.

    Returns
    -------
    Figure
        Rates are shares of prompts, 0 to 1; the pale line spans the control directions. A dagger marks languages in which the judge was not
        validated.
    """
    columns = ("edit", "strength", "kind", "language", "tier", "statistic", "value", "low", "high", "n")
    table = table_of(result, columns, figure="steered")
    rows, edits = Rows.of(table), [edit for edit in _PANELS if edit in set(table["edit"])]
    fig, cells = panels([_PANELS[edit][0] for edit in edits], shared_yaxes=True)
    told = []
    for edit, cell in zip(edits, cells, strict=True):
        _, statistic, harmful = _PANELS[edit]
        here = table[(table["edit"] == edit) & (table["statistic"] == statistic)]
        plain = here[(here["kind"] == "direction") & (here["strength"] == 0)]
        own, others = (here[(here["strength"] != 0) & one] for one in (here["kind"] == "direction", here["kind"] != "direction"))
        if len(others):
            range_of = others.groupby(["language", "tier"], sort=False)["value"].agg(["min", "max"]).reset_index()
            connectors(fig, rows, range_of, cell, "min", "max")
            dots(
                fig, rows, others, cell, name="control direction, same length", symbol="line-ns-open", opacity=0.35, legend=cell == cells[0],
                offset=0.0, form=".0%", low="value", high="value", extra="direction" if "direction" in others else "",
            )  # fmt: skip
        dots(fig, rows, plain, cell, name="no edit", symbol="x-thin-open", offset=0.24, legend=cell == cells[0], form=".0%", opacity=0.7)
        name = "direction removed" if edit == "ablate" else "direction added"
        dots(fig, rows, own, cell, name=name, symbol=CLASS_SYMBOLS[harmful], offset=-0.24, form=".0%")
        told.append(f"{span(own['value'], '.0%')} of {'harmful without it' if harmful else 'harmless with it'}")
    doubtful = set(table.loc[~table["validated"].astype(bool), "language"]) if "validated" in table else set()
    rows.label(fig, marks={tag: " †" for tag in doubtful})
    fig.update_xaxes(title_text="refused (share of prompts)", range=[-0.03, 1.03], tickformat=".0%")
    note = "† judge not validated in this language" if doubtful else ""
    return titled(fig, "Refused: " + ", ".join(told), tiers=rows.languages.values(), note=note, height=rows.height)
