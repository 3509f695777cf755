"""At which layers a small reader of the frozen model's state tells harm, in languages that it was trained in and in others."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError
from workbench.plots.panels import Cell, band, panels, tag_ends
from workbench.plots.style import FACTOR_COLOURS, INK, LAYER_AXIS, MUTED, colour_of, dash_of, f32, languages_of, span, table_of, titled
from workbench.results import Result

_SHOWN = {"accuracy": "accuracy", "tpr": "harmful flagged (TPR)", "fpr": "harmless flagged (FPR)"}
_SIDES = {True: "its own languages", False: "other languages"}
_COLUMNS = ("layer", "language", "tier", "seen", "statistic", "value", "low", "high", "n")
_PANEL, _RANGE = 215, (-0.03, 1.05)  # pixels, share
_NULL = "permuted labels"


def interpreter_layers(result: Result | pd.DataFrame, *, layer: int | None = None, bottleneck: tuple[float, float] | None = None) -> go.Figure:
    """Draw accuracy, true and false positive rate of interpreters by layer, in languages that they were trained in and in others.

    Parameters
    ----------
    result : Result or DataFrame
        ``layer, language, tier, seen, statistic`` (accuracy, tpr, fpr), ``value, low, high, n``; ``null`` (labels permuted) where it was measured.
        Of several sets (column ``set``) the first is drawn.
    layer : int, optional
        The layer that is used: marked, and what the title speaks of.
    bottleneck : tuple of float, optional
        First and last layer of the semantic bottleneck, which is shaded.

    Returns
    -------
    Figure
        Shares of prompts, 0 to 1, with intervals; accuracy .5 is chance where classes are equally many. Dotted, of accuracy: interpreters
        trained on permuted labels, the highest of the languages.

    Raises
    ------
    DataError
        None of the statistics.
    """
    table = table_of(result, _COLUMNS, figure="interpreter_layers")
    if "set" in table:
        table = table[table["set"] == table["set"].iloc[0]]
    shown = [name for name in _SHOWN if table.loc[table["statistic"] == name, "value"].notna().any()]
    if not shown:
        known = ", ".join(sorted(set(table["statistic"].astype(str))))
        raise DataError(f"interpreter_layers: none of {', '.join(_SHOWN)} was measured, only {known}. Expected what interpreter_by_layer returns.")
    sides = [side for side in _SIDES if (table["seen"].astype(bool) == side).any()]
    headings = [f"{_SHOWN[name]}, {_SIDES[side]}" for name in shown for side in sides]
    height = 170 + _PANEL * len(shown)
    spacing = dict(horizontal_spacing=0.07, vertical_spacing=46 / (_PANEL * len(shown)) if len(shown) > 1 else 0)
    fig, cells = panels(headings, columns=len(sides), shared_xaxes=True, shared_yaxes=True, **spacing)
    languages, known_null = languages_of(table), False
    for i, cell in enumerate(cells):
        name, side = shown[i // len(sides)], sides[i % len(sides)]
        rows = table[(table["statistic"] == name) & (table["seen"].astype(bool) == side)].sort_values("layer")
        if name == "accuracy":  # what an interpreter of permuted labels flags depends on its threshold alone
            known_null |= _null(fig, rows, cell, legend=not known_null)
        _lines(fig, rows, languages, cell)
        if layer is not None:
            fig.add_vline(x=layer, line=dict(color=INK, width=1, dash="dot"), row=cell.row, col=cell.col)
        if bottleneck is not None:
            grey = dict(fillcolor=FACTOR_COLOURS["meaning"], opacity=0.1, line_width=0, layer="below")
            fig.add_vrect(x0=bottleneck[0] - 0.5, x1=bottleneck[1] + 0.5, row=cell.row, col=cell.col, **grey)
    layers = sorted({int(one) for one in table["layer"]})
    room = 0.1 * max(1, layers[-1] - layers[0])
    fig.update_xaxes(range=[layers[0] - room / 2, layers[-1] + room], **(dict(tickvals=layers) if len(layers) <= 12 else dict(nticks=8)))
    fig.update_xaxes(title_text=LAYER_AXIS if len(sides) == 1 else "layer k (after k blocks)", row=len(shown))
    fig.update_yaxes(range=_RANGE, tickvals=[0, 0.5, 1])
    fig.update_yaxes(title_text="share (0 to 1)", col=1)
    notes = {"dotted: the layer used": layer is not None, "shaded: semantic bottleneck": bottleneck is not None}
    note = " · ".join(text for text, there in notes.items() if there)
    return titled(fig, _title(table, shown[0], layer), tiers=languages.values(), note=note, height=height).update_layout(margin=dict(t=124, r=40))


def _lines(fig: go.Figure, rows: pd.DataFrame, languages: dict[str, str], cell: Cell) -> None:
    ends: dict[str, tuple[float, float]] = {}
    for language, tier in languages.items():
        part = rows[rows["language"] == language]
        if not part["value"].notna().any():
            continue
        colour = colour_of(tier)
        band(fig, part, "value", cell, colour=colour, group=language, alpha=0.07)
        fig.add_scatter(
            x=f32(part["layer"]),
            y=f32(part["value"]),
            mode="lines+markers",
            connectgaps=False,
            line=dict(color=colour, width=1.8, dash=dash_of(language, languages)),
            marker=dict(size=4.5, color=colour),
            name=language,
            legendgroup=language,
            showlegend=False,
            customdata=part[["low", "high", "n"]].to_numpy(dtype="float32"),
            hovertemplate=f"{language}, layer %{{x}}<br>%{{y:.2f}} [%{{customdata[0]:.2f}}, %{{customdata[1]:.2f}}]<br>n = %{{customdata[2]:.0f}}"
            "<extra></extra>",
            row=cell.row,
            col=cell.col,
        )
        end = part[part["value"].notna()].iloc[-1]
        ends[language] = (float(end["layer"]), float(end["value"]))
    tag_ends(fig, ends, languages, cell, between=_RANGE, pixels=_PANEL - 46)


def _null(fig: go.Figure, rows: pd.DataFrame, cell: Cell, *, legend: bool) -> bool:
    """Draw what permuted labels reach, the highest of the languages; return whether there is any."""
    if "null" not in rows or not rows["null"].notna().any():
        return False
    worst = rows.groupby("layer")["null"].max()
    fig.add_scatter(
        x=f32(worst.index), y=f32(worst), mode="lines", line=dict(color=MUTED, width=1.6, dash="2px,3px"), name=_NULL, legendgroup=_NULL,
        showlegend=legend, hovertemplate=f"{_NULL}, layer %{{x}}: %{{y:.2f}}<extra></extra>", row=cell.row, col=cell.col,
    )  # fmt: skip
    return True


def _title(table: pd.DataFrame, statistic: str, layer: int | None) -> str:
    """Say what the interpreter of the layer used reaches, in its own languages and in others; of no layer, the whole range."""
    rows = table[table["statistic"] == statistic]
    at = rows[rows["layer"] == layer] if layer is not None else rows
    told = [f"{'own languages' if side else 'others'} {span(part['value'])}" for side in _SIDES if len(part := at[at["seen"].astype(bool) == side])]
    where = f"at layer {layer}" if layer is not None else "by layer"
    return f"{statistic.capitalize() if len(statistic) > 3 else statistic.upper()} {where}: {', '.join(told) or 'not measured'}"


__all__ = ["interpreter_layers"]
