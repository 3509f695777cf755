"""What pushing harder does: rates against strength for a few methods, on the split that the strength was chosen on."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError
from workbench.plots.method_lines import Look, end_labels, looks_of, method_line, range_of
from workbench.plots.panels import Cell, panels
from workbench.plots.style import INK, table_of, titled
from workbench.results import Result

_SHOWN = {
    "selectivity": "selectivity",
    "harmful_refusal": "harmful prompts refused",
    "harmless_refusal": "harmless prompts refused",
    "answer_accuracy": "harmless prompts answered right",
}
_PANEL = 250  # pixels
_COLUMNS = ("method", "strength", "language", "tier", "statistic", "value", "low", "high", "n", "draws", "chosen")


def strength_by_method(result: Result | pd.DataFrame, *, language: str = "mean low") -> go.Figure:
    """Draw each method's rates by strength and mark the strength that all methods share.

    Parameters
    ----------
    result : StrengthByMethod or DataFrame
        ``method, strength, language, tier, statistic, value, low, high, n, draws, chosen``; select split.
    language : str
        A tag, or "mean low" and the like.

    Returns
    -------
    Figure
        Shares, 0 to 1, with intervals. The upright line is the strength chosen with the oracle gate; what was measured at strength 0 only goes
        across.

    Raises
    ------
    DataError
        If nothing was measured of that language.
    """
    table = table_of(result, _COLUMNS, figure="strength_by_method")
    rows = table[table["language"] == language]
    if rows.empty:
        known = sorted(set(table["language"].astype(str)))
        raise DataError(f"strength_by_method: nothing was measured of {language!r}. Expected one of {', '.join(known)}.")
    rows = rows.assign(layer=rows["strength"].astype(float))
    tier, strengths = str(rows["tier"].iloc[0]), sorted(set(rows["layer"]))
    looks = looks_of(rows["method"], tier)
    chosen = rows.loc[rows["chosen"].astype(bool), "layer"]
    shown = [name for name in _SHOWN if rows.loc[rows["statistic"] == name, "value"].notna().any()]
    fig, cells = panels([_SHOWN[name] for name in shown], horizontal_spacing=0.07, vertical_spacing=0.17)
    reach = (min(0.0, strengths[0]), strengths[-1])
    for statistic, cell in zip(shown, cells, strict=True):
        _panel(fig, rows[rows["statistic"] == statistic], looks, cell, reach)
        if len(chosen):
            fig.add_vline(x=float(chosen.iloc[0]), line=dict(color=INK, width=1), row=cell.row, col=cell.col)
    width = reach[1] - reach[0] or 1.0
    fig.update_xaxes(
        range=[reach[0] - 0.03 * width, reach[1] + 0.55 * width],
        tickvals=_sparse([0.0, *strengths], width / 6),
        tickangle=0,
        title_text="strength (gaps of the direction)",
    )
    fig.update_yaxes(nticks=6)
    fig.update_yaxes(title_text="share (0 to 1)", col=1)
    note = "upright line: the strength that all methods share · select split"
    return titled(fig, _title(rows, looks, chosen, language), tiers=[tier], note=note, height=130 + _PANEL * cells[-1].row).update_layout(
        margin=dict(t=96, b=56)
    )


def _sparse(values: list[float], apart: float) -> list[float]:
    """Keep values that leave room for each other's label."""
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or value - kept[-1] >= apart:
            kept.append(value)
    return kept


def _panel(fig: go.Figure, rows: pd.DataFrame, looks: dict[str, Look], cell: Cell, reach: tuple[float, float]) -> None:
    ends = {}
    for method, look in looks.items():
        part = rows[rows["method"] == method].sort_values("layer", kind="stable")
        if not part["value"].notna().any():
            continue
        method_line(fig, part, method, look, cell, at="strength", told="strength", reach=reach)
        end = part[part["value"].notna()].iloc[-1]
        ends[method] = (reach[1] if len(part) == 1 else float(end["layer"]), float(end["value"]))
    between = range_of(rows)
    fig.update_yaxes(range=between, row=cell.row, col=cell.col)
    end_labels(fig, ends, looks, cell, x=reach[1] + 0.06 * (reach[1] - reach[0]), between=between, pixels=_PANEL - 80)


def _title(rows: pd.DataFrame, looks: dict[str, Look], chosen: pd.Series, language: str) -> str:
    where = f"{language.removeprefix('mean ')} tier" if language.startswith("mean ") else language
    if not len(chosen):
        return f"Rates by strength, {where}"
    at = float(chosen.iloc[0])
    here = rows[(rows["layer"] == at) & (rows["statistic"] == "selectivity")].set_index("method")["value"]
    told = "; ".join(f"{method} {here[method]:.2f}" for method in looks if method in here.index and looks[method].kind in ("gate", "ceiling"))
    return f"Selectivity at strength {at:g}, {where}: {told}".replace("-", "\u2212")
