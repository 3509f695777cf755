"""How far apart the classes lie in each language, before and after alignment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError, did_you_mean
from workbench.plots.panels import Cell, Rows, connectors, dots, layer_slider, panels, ticks
from workbench.plots.style import extremes, in_order, position_name, positions_of, table_of, titled
from workbench.results import Result


class Look(NamedTuple):
    """How a separation statistic is called, its axis, the range shown (None: the data's), and whether the axis is logarithmic."""

    name: str
    axis: str
    low: float | None = None
    high: float | None = None
    log: bool = False


LOOKS = {
    "between_class_share": Look("share of variance", "between-class share of variance (0 to 1)", 0.0, 1.0),
    "bhattacharyya": Look("Bhattacharyya distance", "Bhattacharyya distance (nats, log axis)", log=True),
    "silhouette": Look("silhouette", "silhouette by class (-1 to 1)"),
    "probe_auroc": Look("probe AUROC", "AUROC of a linear probe (0.5 is chance)", 0.4, 1.0),
}
_BASES = {"common": "axes common to both models", "own": "own axes of each model"}


def look_of(statistic: str) -> Look:
    """Return how a statistic is drawn; one that is not known keeps its name."""
    return LOOKS.get(statistic, Look(statistic.replace("_", " "), f"{statistic.replace('_', ' ')} (as measured)"))


def basis_name(statistic: str, basis: str) -> str:
    """Say in words on which axes a statistic was measured."""
    return "full state" if statistic == "probe_auroc" else _BASES.get(basis, basis)


def compared(table: pd.DataFrame, statistic: str | None = None, basis: str | None = None) -> tuple[pd.DataFrame, str, str]:
    """Pick one statistic in one basis: unless asked otherwise the share of variance, on common axes where two models have them.

    Parameters
    ----------
    table : DataFrame
        Of a separation, a change or a contrast; ``statistic`` and ``basis`` may be missing in old tables.

    Returns
    -------
    tuple
        The rows, the statistic and the basis.

    Raises
    ------
    DataError
        A statistic or basis that the table does not hold.
    """
    known = in_order(table["statistic"]) if "statistic" in table else ["between_class_share"]
    chosen = statistic or ("between_class_share" if "between_class_share" in known else known[0])
    part = table[table["statistic"] == chosen] if "statistic" in table else table
    bases = in_order(part["basis"]) if "basis" in part else ["own"]
    both = "model" not in part or {"before", "after"} <= set(part["model"])
    axes = basis or ("common" if both and "common" in bases else "own" if "own" in bases else bases[0] if bases else "own")
    for given, options in ((chosen, known), (axes, bases)):
        if given not in options:
            raise DataError(f"The table holds no rows of {given!r}; present: {options}.{did_you_mean(given, options)} Expected one of these.")
    return part[part["basis"] == axes] if "basis" in part else part, chosen, axes


def separation(result: Result | pd.DataFrame, *, layer: int | None = None, statistic: str | None = None, basis: str | None = None) -> go.Figure:
    """Draw each language's separation before (open) and after alignment (filled), with a slider over layers.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``model, position, layer, language, tier, value, low, high, n``; ``statistic``, ``basis`` and ``null_95`` where there are any.
    layer : int, optional
        The layer shown first; default the one with the largest value after alignment.
    statistic, basis : str, optional
        Default the share of variance, on axes common to both models where there are two, so that the pairs compare.

    Returns
    -------
    Figure
        Shares are unitless, 0 (classes coincide) to 1; Bhattacharyya distances stand on a logarithmic axis. Grey ticks: what 5 % of
        permuted labels reach.
    """
    table = table_of(result, ("model", "position", "layer", "language", "tier", "value", "low", "high", "n"), figure="separation")
    table, statistic, basis = compared(table, statistic, basis)
    look = look_of(statistic)
    if look.log:
        table.loc[table["low"] <= 0, "low"] = np.nan  # no place on a logarithmic axis
    positions, layers = positions_of(table), sorted(table["layer"].unique().tolist())
    after = table[table["model"] == "after"]
    if layer is None or layer not in layers:
        layer = int(after.loc[after["value"].idxmax(), "layer"]) if after["value"].notna().any() else layers[-1]
    rows = Rows.of(table)
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True)
    _draw(fig, rows, table, positions, cells, layer)
    rows.label(fig)
    fig.update_xaxes(title_text=look.axis, **_axis(table, look))
    fig.frames = [_frame(rows, table, positions, cells, k, statistic) for k in layers]
    layer_slider(fig, layers, layer)
    note = basis_name(statistic, basis) if "basis" in table else ""
    return titled(fig, _title(table, positions[-1], layer, statistic), tiers=rows.languages.values(), note=note, height=rows.height + 80)


def _axis(table: pd.DataFrame, look: Look) -> dict[str, Any]:
    """Return one range for all layers, so that moving the slider moves only the dots."""
    values = _finite(table[c] for c in ("value", "low", "high", "null_95") if c in table)
    if look.log:
        values = values[values > 0]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.1, 1.0)
        return dict(type="log", range=[np.log10(low / 1.25), np.log10(high * 1.25)], dtick=1, minor=dict(showgrid=False))
    low = look.low if look.low is not None else min(0.0, float(values.min()) if len(values) else 0.0)
    high = look.high if look.high is not None else max(0.0, float(values.max()) if len(values) else 1.0)
    low = min(low, float(values.min())) if len(values) else low
    room = 0.02 * (high - low) or 0.02
    whole = (look.low, look.high) == (0.0, 1.0)
    return dict(range=[low - room, high + room], **(dict(dtick=0.25) if whole else {}))


def _finite(columns: Iterable[pd.Series]) -> np.ndarray:
    values = np.concatenate([pd.to_numeric(column).to_numpy(dtype=np.float64) for column in columns])
    return values[np.isfinite(values)]


def _title(table: pd.DataFrame, position: str, layer: int, statistic: str) -> str:
    shown = table[(table["model"] == "after") & (table["layer"] == layer) & (table["position"] == position)]
    name = "Separation" if statistic == "between_class_share" else look_of(statistic).name
    return f"{name[0].upper()}{name[1:]}, layer {layer} of {position}: {extremes(shown, 'value')}"


class _Traces:
    """Stands in for a figure and keeps the traces added to it: building a whole figure per layer would take seconds."""

    def __init__(self) -> None:
        self.added: list[dict[str, Any]] = []

    def add_scatter(self, *, row: int, col: int, **trace: Any) -> None:
        """Keep one trace."""
        self.added.append(trace)


def _draw(fig: Any, rows: Rows, table: pd.DataFrame, positions: list[str], cells: list[Cell], layer: int) -> None:
    """Draw one layer. Every layer has the same traces in the same order, which is what frames need."""
    for position, cell in zip(positions, cells, strict=True):
        here = table[(table["position"] == position) & (table["layer"] == layer)]
        if "null_95" in table and table["null_95"].notna().any():
            null = here.groupby("language", sort=False, as_index=False)["null_95"].max()
            ticks(fig, rows, null, cell, value="null_95", name="permuted labels, 95 %", legend=cell == cells[0], reach=(0.24, 0.24))
        wide = here.pivot_table(index=["language", "tier"], columns="model", values="value", sort=False, dropna=False).reset_index()
        if {"before", "after"} <= set(wide.columns):
            connectors(fig, rows, wide, cell, "before", "after")
        for model, symbol in (("before", "square-open"), ("after", "square")):
            if (table["model"] == model).any():
                dots(fig, rows, here[here["model"] == model], cell, name=f"{model} alignment", symbol=symbol, legend=cell == cells[0])


def _frame(rows: Rows, table: pd.DataFrame, positions: list[str], cells: list[Cell], layer: int, statistic: str) -> go.Frame:
    """Return what moves when the slider goes to a layer."""
    traces = _Traces()
    _draw(traces, rows, table, positions, cells, layer)
    moving = [{key: trace[key] for key in ("x", "y", "error_x", "customdata") if key in trace} for trace in traces.added]
    data, title = [{"type": "scatter", **trace} for trace in moving], _title(table, positions[-1], layer, statistic)
    return go.Frame(name=str(layer), data=data, traces=list(range(len(data))), layout=dict(title=dict(text=title)))
