"""In which languages alignment moved the classes apart, layer by layer, and whether the tuned ones gained more."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, apart, band, panels
from workbench.plots.separated import basis_name, compared, look_of
from workbench.plots.style import (
    INK,
    LAYER_AXIS,
    MUTED,
    colour_of,
    dash_of,
    extremes,
    f32,
    in_order,
    languages_of,
    position_name,
    positions_of,
    table_of,
    titled,
)
from workbench.results import Result

_TOP, _BOTTOM, _FRAME = 300, 150, 260  # pixels of the changes, of the contrast, and of all around them
_KNEE = 0.1  # of a signed logarithmic axis: below it, equal steps are nearly equal lengths


class _Choice(NamedTuple):
    """One entry of the menu: a statistic in a basis."""

    statistic: str
    basis: str

    @property
    def label(self) -> str:
        """What the menu says."""
        return f"{look_of(self.statistic).name}, {basis_name(self.statistic, self.basis)}"


def separation_change(
    result: Result | pd.DataFrame,
    *,
    contrast: Result | pd.DataFrame | None = None,
    statistic: str | None = None,
    basis: str | None = None,
) -> go.Figure:
    """Draw after minus before by layer, one line per language, above the contrast of tuned languages and others.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``basis, position, layer, language, tier, statistic, change, low, high``; ``p_adjusted`` where there is one.
    contrast : Result or DataFrame, optional
        Rows of ``basis, position, layer, statistic, tuned, others, contrast, low, high``.
    statistic, basis : str, optional
        What is shown first; a menu offers the others. Default the share of variance on common axes.

    Returns
    -------
    Figure
        Bands and bars are intervals. Beside each language an arrow says whether it rises or falls at the last layer: by ``p_adjusted``
        below .05, else by an interval without 0. Changes of the Bhattacharyya distance stand on a signed logarithmic axis.
    """
    columns = ("basis", "position", "layer", "language", "tier", "statistic", "change", "low", "high")
    table = table_of(result, columns, figure="separation_change")
    compare = None
    if contrast is not None:
        columns = ("basis", "position", "layer", "statistic", "tuned", "others", "contrast", "low", "high")
        compare = table_of(contrast, columns, figure="separation_change(contrast=...)")
    _, first, axes = compared(table, statistic, basis)
    choices = _choices(table)
    shown = _Choice(first, axes)
    positions, languages = positions_of(table), languages_of(table)
    titles = [position_name(p) for p in positions] + ([_contrast_title(compare)] * len(positions) if compare is not None else [])
    down = {"row_heights": [_TOP, _BOTTOM], "vertical_spacing": 0.15} if compare is not None else {}
    fig, cells = panels(titles, columns=len(positions), horizontal_spacing=0.13, **down)
    owner: list[_Choice] = []
    for choice in choices:
        part = table[(table["statistic"] == choice.statistic) & (table["basis"] == choice.basis)].sort_values("layer", kind="stable")
        for i, position in enumerate(positions):
            _changes(fig, part[part["position"] == position], cells[i], languages, choice, _limits(part, choice))
            if compare is not None:
                rows = compare[(compare["statistic"] == choice.statistic) & (compare["basis"] == choice.basis) & (compare["position"] == position)]
                _contrast(fig, rows.sort_values("layer", kind="stable"), cells[len(positions) + i], choice)
        owner += [choice] * (len(fig.data) - len(owner))
    height = _TOP + _FRAME + (_BOTTOM if compare is not None else 0)
    layers = table["layer"]
    fig.update_xaxes(range=[layers.min() - 0.2, layers.max() + max(0.6, 0.16 * (layers.max() - layers.min()))], tickformat="d")
    for cell in cells[-len(positions) :]:
        fig.update_xaxes(title_text=LAYER_AXIS, row=cell.row, col=cell.col)
    fig.update_yaxes(zeroline=True, zerolinecolor=INK, zerolinewidth=1.2)
    titled(fig, "", tiers=languages.values(), note="▲ rises, ▼ falls, · neither at the last layer", height=height)
    fig.update_layout(margin=dict(t=136, r=16))
    views = {choice: _view(table, compare, choice, positions, cells) for choice in choices}
    for trace, choice in zip(fig.data, owner, strict=True):
        trace.visible = choice == shown
    fig.update_layout(views[shown])
    if len(choices) > 1:
        _menu(fig, owner, choices, shown, views, height)
    return fig


def _choices(table: pd.DataFrame) -> list[_Choice]:
    """List what the table holds: per statistic the common axes first."""
    pairs = set(zip(table["statistic"], table["basis"], strict=True))
    rank = {"common": 0, "own": 1}
    order = in_order(table.sort_values("statistic", key=lambda s: s.map({n: i for i, n in enumerate(_ORDER)}), kind="stable")["statistic"])
    return [_Choice(s, b) for s in order for b in sorted((b for known, b in pairs if known == s), key=lambda b: (rank.get(b, 2), b))]


_ORDER = ("between_class_share", "bhattacharyya", "silhouette", "probe_auroc")


def _contrast_title(compare: pd.DataFrame) -> str:
    tuned, others = (str(compare[c].iloc[0]).split(", ") for c in ("tuned", "others"))
    first, second = (", ".join(names) if len(names) <= 4 else f"{len(names)} languages" for names in (tuned, others))
    return f"{first} minus {second}"


def _placed(values: Any, choice: _Choice) -> np.ndarray:
    """Return heights: the values, or their signed logarithm."""
    found = f32(values)
    return np.sign(found) * np.log10(1 + np.abs(found) / np.float32(_KNEE)) if look_of(choice.statistic).log else found


def _limits(part: pd.DataFrame, choice: _Choice) -> tuple[float, float]:
    """Return the range of the vertical axis: all intervals and 0, with some room."""
    ends = np.concatenate([_placed(part[c], choice) for c in part.columns.intersection(["change", "contrast", "low", "high"])])
    ends = np.append(ends[np.isfinite(ends)], 0.0)
    room = 0.06 * float(ends.max() - ends.min()) or 0.1
    return float(ends.min()) - room, float(ends.max()) + room


def _ticks(limits: tuple[float, float]) -> dict[str, Any]:
    """Label a signed logarithmic axis with the numbers themselves."""
    numbers = [s * 10.0**k for s in (-1, 1) for k in range(-1, 4)] + [0.0]
    heights = {float(_placed([v], _Choice("bhattacharyya", ""))[0]): v for v in numbers}
    kept = {h: v for h, v in sorted(heights.items()) if limits[0] <= h <= limits[1]}
    return dict(tickmode="array", tickvals=list(kept), ticktext=[f"{v:+g}".replace("-", "\u2212") if v else "0" for v in kept.values()])


def _band(fig: go.Figure, rows: pd.DataFrame, value: str, cell: Cell, choice: _Choice, **look: Any) -> None:
    placed = rows.assign(**{c: _placed(rows[c], choice) for c in (value, "low", "high")})
    band(fig, placed, value, cell, **look)


def _hover(rows: pd.DataFrame, value: str) -> np.ndarray:
    return rows[[value, "low", "high"]].to_numpy(dtype=np.float32)


def _clear(rows: pd.DataFrame) -> np.ndarray:
    """Say which rows differ from 0: by the adjusted p value where there is one, else by the interval."""
    if "p_adjusted" in rows:
        return (pd.to_numeric(rows["p_adjusted"]) < 0.05).to_numpy()
    return ((rows["low"] > 0) | (rows["high"] < 0)).to_numpy()


def _changes(fig: go.Figure, part: pd.DataFrame, cell: Cell, languages: dict[str, str], choice: _Choice, limits: tuple[float, float]) -> None:
    """Draw the lines of one position, with a label and an arrow at the end of each."""
    ends: list[tuple[str, float, float, str]] = []
    for language, tier in languages.items():
        rows = part[part["language"] == language]
        if not rows["change"].notna().any():
            continue
        _band(fig, rows, "change", cell, choice, colour=colour_of(tier), group=language, alpha=0.08)
        fig.add_scatter(
            x=f32(rows["layer"]),
            y=_placed(rows["change"], choice),
            mode="lines",
            connectgaps=False,
            line=dict(color=colour_of(tier), width=2, dash=dash_of(language, languages)),
            name=language,
            legendgroup=language,
            showlegend=False,
            customdata=_hover(rows, "change"),
            hovertemplate=f"{language}, layer %{{x}}<br>%{{customdata[0]:+.3f}} [%{{customdata[1]:+.3f}}, %{{customdata[2]:+.3f}}]<extra></extra>",
            row=cell.row,
            col=cell.col,
        )
        last = rows[rows["change"].notna()].iloc[-1:]
        arrow = ("▲" if last["change"].iloc[0] > 0 else "▼") if _clear(last)[0] else "·"
        ends.append((language, float(last["layer"].iloc[0]), float(_placed(last["change"], choice)[0]), arrow))
    span = limits[1] - limits[0]
    heights = apart([end[2] for end in ends], gap=15 / _TOP * span, lowest=limits[0], highest=limits[1])
    for tier in in_order(languages.values()):
        own = [(end, y) for end, y in zip(ends, heights, strict=True) if languages[end[0]] == tier]
        fig.add_scatter(
            x=f32([end[1] for end, _ in own]),
            y=f32([y for _, y in own]),
            mode="text",
            text=[f" {arrow} <b>{language}</b>" for (language, _, _, arrow), _ in own],
            textposition="middle right",
            textfont=dict(size=11, color=colour_of(tier)),
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
            name=f"labels, {tier}",
            row=cell.row,
            col=cell.col,
        )


def _contrast(fig: go.Figure, rows: pd.DataFrame, cell: Cell, choice: _Choice) -> None:
    """Draw the contrast of one position; filled where it differs from 0."""
    y, clear = _placed(rows["contrast"], choice), _clear(rows)
    fig.add_scatter(
        x=f32(rows["layer"]),
        y=y,
        error_y=dict(
            type="data",
            symmetric=False,
            array=_placed(rows["high"], choice) - y,
            arrayminus=y - _placed(rows["low"], choice),
            thickness=1.4,
            width=3,
            color=MUTED,
        ),
        mode="lines+markers",
        connectgaps=False,
        line=dict(color=INK, width=1.6),
        marker=dict(size=8, symbol=["circle" if c else "circle-open" for c in clear], color=INK, line=dict(width=1.6, color=INK)),
        name="tuned minus others",
        legendgroup="contrast",
        showlegend=False,
        customdata=_hover(rows, "contrast"),
        hovertemplate="tuned minus others, layer %{x}<br>%{customdata[0]:+.3f} [%{customdata[1]:+.3f}, %{customdata[2]:+.3f}]<extra></extra>",
        row=cell.row,
        col=cell.col,
    )


def _view(table: pd.DataFrame, compare: pd.DataFrame | None, choice: _Choice, positions: list[str], cells: list[Cell]) -> dict[str, Any]:
    """Return the layout that belongs to one entry of the menu: title, axis titles, ranges and ticks."""
    part = table[(table["statistic"] == choice.statistic) & (table["basis"] == choice.basis)]
    look, wide = look_of(choice.statistic), len(positions)
    tables = [part] * wide
    if compare is not None:
        tables += [compare[(compare["statistic"] == choice.statistic) & (compare["basis"] == choice.basis)]] * wide
    out: dict[str, Any] = {"title.text": _title(part, positions[-1])}
    unit = "signed log axis" if look.log else "AUROC points" if choice.statistic == "probe_auroc" else "unitless"
    for i, (rows, cell) in enumerate(zip(tables, cells, strict=True)):
        axis, limits = f"yaxis{i + 1 if i else ''}", _limits(rows, choice)
        out[f"{axis}.range"] = list(limits)
        plain = dict(tickmode="auto", tickvals=None, ticktext=None)
        out |= {f"{axis}.{key}": value for key, value in (_ticks(limits) if look.log else plain).items()}
        if cell.col == 1:
            out[f"{axis}.title.text"] = f"{look.name}<br>after − before ({unit})" if i < wide else "mean change,<br>tuned − others"
    return out


def _title(part: pd.DataFrame, position: str) -> str:
    here = part[(part["position"] == position) & part["change"].notna()]
    if here.empty:
        return "Separation gained: not measured"
    last = here[here["layer"] == here["layer"].max()]
    return f"Separation gained, layer {int(last['layer'].iloc[0])} of {position}: {extremes(last, 'change', '+.2f')}"


def _menu(fig: go.Figure, owner: list[_Choice], choices: list[_Choice], shown: _Choice, views: dict[_Choice, dict[str, Any]], height: int) -> None:
    buttons = [dict(method="update", label=c.label, args=[{"visible": [o == c for o in owner]}, views[c]]) for c in choices]
    place = dict(x=1, xanchor="right", y=1 + 34 / (height - 196), yanchor="bottom")
    look = dict(font=dict(size=11.5), bgcolor="white", bordercolor=MUTED)
    fig.update_layout(updatemenus=[dict(buttons=buttons, active=choices.index(shown), **place, **look)])
