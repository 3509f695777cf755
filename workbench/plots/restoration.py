"""What exchanging a coordinate or a state with the high-resource twin does to refusal, layer by layer: levels, and increments beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import DataError, did_you_mean
from workbench.plots.panels import ROW_HEIGHT, Cell, band, panels
from workbench.plots.style import INK, MUTED, TIERS, colour_of, dash_of, f32, faded, languages_of, position_name, table_of, titled
from workbench.results import Result

_COLUMNS = (
    "language", "tier", "kind", "matched", "pair", "way", "layer", "position", "outcome", "value", "low", "high", "increment", "increment_low",
    "increment_high", "n", "trivial", "peak", "peak_share",
)  # fmt: skip
_WAYS = {"restore": "restore: the prompt receives its twin's", "break": "break: the twin receives the prompt's"}
_KINDS = {"harm_coordinate": "Harm coordinate", "refusal_coordinate": "Refusal coordinate", "state": "Whole state"}
_CONTROLS = {"control_random": ("random directions", "dot"), "control_permuted": ("permuted", "dash")}
#: Unit, axis title, how numbers are written in cells and elsewhere.
_UNITS = {"log_odds": ("log-odds of refusal", "log-odds", "+.1f", "+.2f"), "refusal": ("points of refusal", "points", "+.0f", "+.0f")}
_PARTS = ("value", "low", "high", "increment", "increment_low", "increment_high")
#: Less refusal brown, none near white, more teal: as for AUROC, told apart without red and green.
_SCALE = [(0.0, "#8C510A"), (0.25, "#D8B365"), (0.5, "#F7F7F5"), (0.75, "#5AB4AC"), (1.0, "#01504A")]


def restoration(result: Result | pd.DataFrame, *, kind: str = "harm_coordinate", outcome: str = "log_odds") -> go.Figure:
    """Draw one kind of exchange: a heat map of levels, layer by language, and beside it the increments between layers, for both ways.

    Parameters
    ----------
    result : Restoration or DataFrame
        Its table.
    kind : {"harm_coordinate", "refusal_coordinate", "state"}
    outcome : {"log_odds", "refusal"}

    Returns
    -------
    Figure
        Levels and increments are changes of the outcome (refusal in points); 0 is no effect. A frame marks each language's peak (largest
        increment below the last layer), hatching the trivial cell, a double dagger the reference's exchanges between its own classes, grey
        what is undefined. The lowest rows are controls of the same length, mean over the languages of the lowest tier. Increments are drawn
        with their interval for the mean over a tier, thin for its languages, grey for the controls; the number at a peak says in how many
        resamples of meanings it is there.

    Raises
    ------
    DataError
        If the table has no such kind or outcome.
    """
    table = table_of(result, _COLUMNS, figure="restoration")
    for name, given in (("kind", kind), ("outcome", outcome)):
        known = sorted(set(table[name]) - set(_CONTROLS))
        if given not in known:
            raise DataError(f"{name}={given!r}: the map has {', '.join(known)}.{did_you_mean(given, known)}")
    table = table[(table["outcome"] == outcome) & ((table["kind"] == kind) | (table["matched"] == kind))]
    if outcome == "refusal":  # shares as points
        table = table.assign(**{column: 100 * table[column] for column in _PARTS})
    ways = [way for way in _WAYS if way in set(table["way"])]
    layers = sorted(table["layer"].unique().tolist())
    groups = _groups(table)
    tags = _rows(table, kind)
    fig, cells = panels(
        [title for way in ways for title in (_WAYS[way], "increment over the layer before")],
        column_widths=[0.57, 0.43], shared_xaxes=True, horizontal_spacing=0.13, vertical_spacing=0.13,
    )  # fmt: skip
    told = []
    for i, way in enumerate(ways):
        here, left, right = table[table["way"] == way], cells[2 * i], cells[2 * i + 1]
        _levels(fig, here, kind, outcome, tags, layers, groups, left)
        _increments(fig, here, kind, outcome, groups, right, legend=i == 0)
        told.append(_told(here, kind, outcome, way, groups))
    reach = float(table.loc[(table["kind"] == kind) & (table["pair"] == "twin") & ~table["trivial"], "value"].abs().max())
    reach = reach if np.isfinite(reach) and reach > 0 else 1.0
    height = 220 + len(ways) * (70 + ROW_HEIGHT * max(len(tags), 5))
    _axes(fig, layers, cells, outcome)
    unit, _, form, _ = _UNITS[outcome]
    ends = [_signed(end, form) for end in (-reach, reach)]
    bar = dict(orientation="h", thickness=9, len=0.4, x=0, xanchor="left", xpad=4, y=1 - 122 / height, yref="container", yanchor="top", ypad=0)
    ticks = dict(tickvals=[-reach, 0, reach], ticktext=[ends[0], f"0 ({unit})", ends[1]], tickfont=dict(size=10.5))
    fig.update_layout(coloraxis=dict(colorscale=_SCALE, cmin=-reach, cmax=reach, colorbar={**bar, **ticks}))
    twins = result.provenance.get("twins") if isinstance(result, Result) else None
    notes = [position_name(str(table["position"].iloc[0])), *([f"twins: {twins}"] if twins else [])]
    below = " &nbsp;·&nbsp; ".join([_beside(table, kind, outcome, groups), *_notes(table, kind)])
    titled(fig, f"{_KINDS[kind]}: " + ", ".join(told), tiers=set(groups.values()), note=f"{' · '.join(notes)}<br>{below}", height=height)
    fig.update_layout(legend=dict(x=0, xref="paper", xanchor="left", y=1 - 82 / height))
    return fig.update_layout(margin=dict(t=190, l=112, b=58))


def _groups(table: pd.DataFrame) -> dict[str, str]:
    """Return what stands for each tier, highest first: the mean over its languages, or its only language."""
    twins = table[table["pair"] == "twin"]
    found = {}
    for tier in (tier for tier in TIERS if tier in set(twins["tier"])):
        known = list(dict.fromkeys(twins.loc[twins["tier"] == tier, "language"]))
        found[f"mean {tier}" if f"mean {tier}" in known else known[0]] = tier
    return found


def _rows(table: pd.DataFrame, kind: str) -> dict[str, str]:
    """Return the rows of the heat map from top to bottom, with their labels: reference, languages, controls."""
    own = table[(table["kind"] == kind) & ~table["language"].str.startswith("mean ")]
    marks = {tag: " ‡" if pair == "class" else "" for tag, pair in zip(own["language"], own["pair"], strict=True)}
    tags = {tag: f'<span style="color:{colour_of(tier)}"><b>{tag}</b></span>{marks[tag]}' for tag, tier in languages_of(own).items()}
    controls = {name: f'<span style="color:{MUTED}">{label}</span>' for name, (label, _) in _CONTROLS.items() if name in set(table["kind"])}
    return tags | controls


def _of_row(table: pd.DataFrame, tag: str, kind: str, groups: dict[str, str]) -> pd.DataFrame:
    """Return the rows of one line of the heat map; a control's are those of the lowest tier."""
    lowest = list(groups)[-1] if groups else None
    wanted = (lowest, tag) if tag in _CONTROLS else (tag, kind)
    return table[(table["language"] == wanted[0]) & (table["kind"] == wanted[1])]


def _levels(
    fig: go.Figure, table: pd.DataFrame, kind: str, outcome: str, tags: dict[str, str], layers: list[int], groups: dict[str, str], cell: Cell
) -> None:
    lines = {tag: _of_row(table, tag, kind, groups).set_index("layer").reindex(layers) for tag in tags}
    value, low, high = (np.stack([line[c].to_numpy(dtype=np.float32) for line in lines.values()]) for c in ("value", "low", "high"))
    unit, _, form, fine = _UNITS[outcome]
    labels = [tag if tag not in _CONTROLS else _CONTROLS[tag][0] for tag in tags]
    names = np.broadcast_to(np.asarray(labels, dtype=object)[:, None], value.shape)
    hover = np.stack([names, *(np.vectorize(lambda v: _signed(v, fine), otypes=[object])(part) for part in (value, low, high))], axis=-1)
    numbers: dict[str, Any] = {}
    if len(layers) <= 10:
        numbers = dict(text=np.vectorize(lambda v: _signed(v, form), otypes=[object])(value), texttemplate="%{text}", textfont=dict(size=9.5))
    y = np.arange(len(tags), dtype=np.float32)[::-1]
    fig.add_heatmap(
        x=f32(layers), y=y, z=value, customdata=hover, coloraxis="coloraxis", xgap=1, ygap=1, name=f"levels, {table['way'].iloc[0]}",
        hovertemplate=f"%{{customdata[0]}}, layer %{{x}}<br>{unit} %{{customdata[1]}} [%{{customdata[2]}}, %{{customdata[3]}}]<extra></extra>",
        row=cell.row, col=cell.col, **numbers,
    )  # fmt: skip
    at = dict(row=cell.row, col=cell.col)
    frame = dict(x0=layers[0] - 0.5, x1=layers[-1] + 0.5, y0=-0.5, y1=len(tags) - 0.5)  # shows through where nothing is defined
    fig.add_shape(type="rect", fillcolor="#ECEDF0", line_width=0, layer="below", name="undefined", **frame, **at)
    for height, line in zip(y.tolist(), lines.values(), strict=True):
        for layer in line.index[line["peak"].eq(True)]:
            box = dict(x0=layer - 0.48, x1=layer + 0.48, y0=height - 0.46, y1=height + 0.46)
            fig.add_shape(type="rect", line=dict(color=INK, width=2), name="peak", **box, **at)
        for layer in line.index[line["trivial"].eq(True)]:
            fig.add_shape(type="path", path=_hatch(layer, height), line=dict(color=faded(INK, 0.6), width=1), name="trivial", **at)
    fig.update_yaxes(tickmode="array", tickvals=y, ticktext=list(tags.values()), range=[-0.5, len(tags) - 0.5], showgrid=False, ticks="", **at)


def _hatch(x: float, y: float) -> str:
    """Return the strokes that cross out a cell."""
    strokes = [((-0.48, -0.1), (0.02, 0.44)), ((-0.48, -0.44), (0.38, 0.44)), ((-0.12, -0.44), (0.48, 0.16))]
    return " ".join(f"M {x + a} {y + b} L {x + c} {y + d}" for (a, b), (c, d) in strokes)


def _increments(fig: go.Figure, table: pd.DataFrame, kind: str, outcome: str, groups: dict[str, str], cell: Cell, *, legend: bool) -> None:
    at, fine = dict(row=cell.row, col=cell.col), _UNITS[outcome][3]
    own = table[(table["kind"] == kind) & (table["pair"] == "twin")]
    fig.add_hline(y=0, line=dict(color=MUTED, width=0.8), **at)
    for name, (label, dash) in _CONTROLS.items():
        part = _of_row(table, name, kind, groups)
        if len(part):
            line = dict(color=MUTED, width=1.4, dash=dash)
            _line(fig, part, f"control: {label}", line, at, fine, showlegend=legend)
    languages = languages_of(own[~own["language"].str.startswith("mean ")])
    for tag, tier in languages.items():
        if tag not in groups:
            line = dict(color=faded(colour_of(tier), 0.5), width=1, dash=dash_of(tag, languages))
            _line(fig, own[own["language"] == tag], tag, line, at, fine, showlegend=False)
    for tag, tier in groups.items():
        part = own[own["language"] == tag]
        ends = part.assign(value=part["increment"], low=part["increment_low"], high=part["increment_high"])
        band(fig, ends, "value", cell, colour=colour_of(tier), group=tag)
        _line(fig, part, tag, dict(color=colour_of(tier), width=2.4), at, fine, showlegend=legend)
        peak = part[part["peak"].eq(True)]
        if len(peak):
            low = float(peak["increment"].iloc[0]) < 0
            fig.add_scatter(
                x=f32(peak["layer"]), y=f32(peak["increment"]), mode="markers+text", showlegend=False, name=f"peak, {tag}",
                marker=dict(symbol="circle-open", size=13, color=INK, line=dict(width=2)), text=[f"{peak['peak_share'].iloc[0]:.0%}"],
                textposition="bottom center" if low else "top center", textfont=dict(size=11, color=INK), cliponaxis=False,
                hovertemplate=f"peak of {tag}: layer %{{x}}, in %{{text}} of resamples of meanings<extra></extra>", **at,
            )  # fmt: skip


def _line(fig: go.Figure, part: pd.DataFrame, name: str, line: dict[str, Any], at: dict[str, int], form: str, *, showlegend: bool) -> None:
    part = part.sort_values("layer")
    hover = [f"[{_signed(low, form)}, {_signed(high, form)}]" for low, high in zip(part["increment_low"], part["increment_high"], strict=True)]
    fig.add_scatter(
        x=f32(part["layer"]), y=f32(part["increment"]), mode="lines", line=line, name=name, legendgroup=name, showlegend=showlegend, customdata=hover,
        hovertemplate=f"{name}, layer %{{x}}<br>increment %{{y:{form}}} %{{customdata}}<extra></extra>", **at,
    )  # fmt: skip


def _axes(fig: go.Figure, layers: list[int], cells: list[Cell], outcome: str) -> None:
    below = max(cell.row for cell in cells)
    for cell in cells:
        at = dict(row=cell.row, col=cell.col)
        fig.update_xaxes(range=[layers[0] - 0.5, layers[-1] + 0.5], showgrid=False, dtick=max(1, len(layers) // 8), showticklabels=True, **at)
        if cell.row == below:
            fig.update_xaxes(title_text="layer k (after k blocks)", **at)
        if cell.col == 2:
            fig.update_yaxes(title_text=_UNITS[outcome][1], **at)


def _peak(table: pd.DataFrame, kind: str, way: str, tag: str) -> pd.DataFrame:
    return table[(table["language"] == tag) & (table["way"] == way) & (table["kind"] == kind) & table["peak"].eq(True)]


def _told(table: pd.DataFrame, kind: str, outcome: str, way: str, groups: dict[str, str]) -> str:
    """Say the level at the peak of the lowest tier."""
    peak = _peak(table, kind, way, list(groups)[-1])
    if peak.empty:
        return f"{way} undefined"
    return f"{way} {_signed(float(peak['value'].iloc[0]), _UNITS[outcome][3])} at layer {int(peak['layer'].iloc[0])}"


def _beside(table: pd.DataFrame, kind: str, outcome: str, groups: dict[str, str]) -> str:
    """Say what the controls do at these peaks: the one of each way that moves the outcome most."""
    tag, most = list(groups)[-1], []
    for way in dict.fromkeys(table["way"]):
        layers = _peak(table, kind, way, tag)["layer"]
        rows = table[(table["language"] == tag) & (table["way"] == way) & (table["matched"] == kind) & table["layer"].isin(layers)]
        if rows["value"].notna().any():
            most.append(_signed(rows.loc[rows["value"].abs().idxmax(), "value"], _UNITS[outcome][3]))
    return f"{tag}; controls there {', '.join(most)}" if most else tag


def _notes(table: pd.DataFrame, kind: str) -> list[str]:
    own = table[table["kind"] == kind]
    notes = ["frame: peak"]
    notes += ["hatched: trivial"] if own["trivial"].any() else []
    notes += ["‡ between its own classes"] if (own["pair"] == "class").any() else []
    return notes


def _signed(value: float, form: str) -> str:
    if not np.isfinite(value):
        return ""
    told = format(float(value), form)
    return told[1:] if not float(told) else told.replace("-", "\u2212")
