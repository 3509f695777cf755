"""How alike the languages are: by layer against the references, and each against each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, apart, band, layer_slider, panels
from workbench.plots.style import (
    LAYER_AXIS,
    MUTED,
    colour_of,
    dash_of,
    f32,
    in_order,
    languages_of,
    position_name,
    positions_of,
    table_of,
    titled,
)
from workbench.results import Result


class _Look(NamedTuple):
    """How a statistic is called, its axis, the range shown at least, and whether small means alike."""

    name: str
    axis: str
    low: float
    high: float
    small_is_alike: bool = False


_LOOKS = {
    "mexa": _Look("MEXA", "meanings that stand out (0 to 1)", 0, 1),
    "p_at_1": _Look("retrieval, means removed", "precision at 1 (0 to 1)", 0, 1),
    "p_at_1_uncentred": _Look("retrieval as it is", "precision at 1 (0 to 1)", 0, 1),
    "adjusted_cosine": _Look("adjusted cosine", "cosine, pairs minus the rest", 0, 0.1),
    "cka": _Look("unbiased CKA", "CKA (0 chance, 1 same shape)", 0, 1),
    "procrustes": _Look("Procrustes residual", "residual (0 same, 1 unrelated)", 0, 1, True),
    "principal_angle": _Look("principal angle", "mean angle (degrees, 0 same)", 0, 90, True),
}
#: Pale where unlike, dark where alike; one hue, readable without colour vision and distinct from the tiers'.
ALIKE_SCALE = [(0.0, "#F7F6FA"), (0.25, "#D5CDE3"), (0.5, "#A594C4"), (0.75, "#6F5499"), (1.0, "#35185E")]
_PANEL = 205


def _look(statistic: str) -> _Look:
    return _LOOKS.get(statistic, _Look(statistic.replace("_", " "), "value (as measured)", 0, 0))


def similarity_by_layer(result: Result | pd.DataFrame, *, position: str | None = None) -> go.Figure:
    """Draw each statistic's similarity to the reference languages by layer: a panel per statistic, a line per language.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``position, layer, language, tier, statistic, value, low, high, null_95``; ``control`` and ``ceiling``
        where there are any. Of ``model`` only "after" is drawn.
    position : str, optional
        The position shown first; a menu offers the others.

    Returns
    -------
    Figure
        Bands: intervals. Grey: what 5 % of permuted translations reach in the most favourable language, the untrained
        model's most similar language, and for the angle two halves of one language's meanings.
    """
    needed = ("position", "layer", "language", "tier", "statistic", "value", "low", "high", "null_95")
    table = table_of(result, needed, figure="similarity_by_layer")
    if "model" in table:
        table = table[table["model"] == "after"]
    languages, positions = languages_of(table), positions_of(table)
    shown = position if position in positions else positions[0]
    present = in_order(table["statistic"])
    statistics = [s for s in _LOOKS if s in present] + [s for s in present if s not in _LOOKS]
    down = -(-len(statistics) // min(2, len(statistics)))
    titles = [f"<b>{_look(s).name}</b>" + (" · low is alike" if _look(s).small_is_alike else "") for s in statistics]
    fig, cells = panels(titles, horizontal_spacing=0.15, vertical_spacing=0.26 / down if down > 1 else 0)
    owner: list[str] = []
    for place in positions:
        for statistic, cell in zip(statistics, cells, strict=True):
            part = table[(table["position"] == place) & (table["statistic"] == statistic)].sort_values("layer", kind="stable")
            _panel(fig, part, statistic, cell, languages)
            owner += [place] * (len(fig.data) - len(owner))
    for trace, place in zip(fig.data, owner, strict=True):
        trace.visible = place == shown
    _name_references(fig, owner)
    for statistic, cell in zip(statistics, cells, strict=True):
        low, high = _range(table[table["statistic"] == statistic], _look(statistic))
        fig.update_yaxes(title_text=_look(statistic).axis, range=[low, high], row=cell.row, col=cell.col)
    layers = table["layer"]
    fig.update_xaxes(range=[layers.min() - 0.2, layers.max() + max(0.5, 0.09 * (layers.max() - layers.min()))], tick0=0, tickformat="d")
    for cell in cells[-2:]:
        fig.update_xaxes(title_text=LAYER_AXIS, row=cell.row, col=cell.col)
    titled(fig, _headline(table, statistics[0]), tiers=languages.values(), height=190 + (_PANEL + 45) * down)
    if len(positions) > 1:
        _menu(fig, positions, shown, owner)
    return fig.update_layout(margin=dict(t=152, r=20))


def _panel(fig: go.Figure, part: pd.DataFrame, statistic: str, cell: Cell, languages: dict[str, str]) -> None:
    """Draw one statistic at one position: references below, then bands, lines and labels."""
    alike = "min" if _look(statistic).small_is_alike else "max"
    for column, name, dash, how in (
        ("null_95", "5 % of permuted translations (angle: random subspaces)", "solid", alike),
        ("control", "untrained model", "dot", alike),
        ("ceiling", "two halves of one language (angle)", "dash", "mean"),
    ):
        if column in part and part[column].notna().any():
            line = part.groupby("layer")[column].agg(how)
            fig.add_scatter(
                x=f32(line.index),
                y=f32(line),
                mode="lines",
                line=dict(color=MUTED, width=1.6, dash=dash),
                name=name,
                legendgroup=name,
                showlegend=False,
                hovertemplate=f"{name}: %{{y:.3g}}<extra></extra>",
                row=cell.row,
                col=cell.col,
            )
    ends: list[tuple[str, float, float]] = []
    for language, tier in languages.items():
        rows = part[part["language"] == language]
        if not rows["value"].notna().any():
            continue
        band(fig, rows, "value", cell, colour=colour_of(tier), group=language, alpha=0.07)
        fig.add_scatter(
            x=f32(rows["layer"]),
            y=f32(rows["value"]),
            mode="lines",
            line=dict(color=colour_of(tier), width=1.8, dash=dash_of(language, languages)),
            name=language,
            legendgroup=language,
            showlegend=False,
            customdata=rows[["low", "high"]].to_numpy(dtype=np.float32),
            hovertemplate=f"{language}, layer %{{x}}<br>%{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]<extra></extra>",
            row=cell.row,
            col=cell.col,
        )
        end = rows[rows["value"].notna()].iloc[-1]
        ends.append((language, float(end["layer"]), float(end["value"])))
    if ends:
        _labels(fig, ends, _range(part, _look(statistic)), cell, languages)


def _labels(fig: go.Figure, ends: list[tuple[str, float, float]], between: tuple[float, float], cell: Cell, languages: dict[str, str]) -> None:
    """Write the language tags at the ends of their lines, as a trace, so that the menu hides them with their lines."""
    size = 10.5 if len(ends) <= 9 else 8.5
    low, high = between
    gap = min((size + 2) / _PANEL, 0.96 / len(ends)) * (high - low)
    heights = apart([y for _, _, y in ends], gap, lowest=low + gap / 2, highest=high - gap / 2)
    fig.add_scatter(
        x=f32([x for _, x, _ in ends]),
        y=f32(heights),
        mode="text",
        text=[f" <b>{language}</b>" for language, _, _ in ends],
        textposition="middle right",
        textfont=dict(size=size, color=[colour_of(languages[language]) for language, _, _ in ends]),
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
        name="labels",
        row=cell.row,
        col=cell.col,
    )


def _range(part: pd.DataFrame, look: _Look) -> tuple[float, float]:
    """Return the range of an axis: that of the values and their references, and what the statistic asks for at least.

    Intervals may reach beyond, so that one wide band does not flatten all lines.
    """
    columns = [c for c in ("value", "null_95", "control", "ceiling") if c in part]
    values = part[columns].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    low, high = (min(look.low, values.min()), max(look.high, values.max())) if len(values) else (look.low, look.high)
    room = 0.04 * ((high - low) or 1.0)
    return float(low - room), float(high + room)


def _name_references(fig: go.Figure, owner: list[str]) -> None:
    """Let the first grey line of each kind and position stand in the legend."""
    named = set()
    for trace, place in zip(fig.data, owner, strict=True):
        if trace.line.color == MUTED and (trace.name, place) not in named:
            trace.showlegend = True
            named.add((trace.name, place))


def _headline(table: pd.DataFrame, statistic: str) -> str:
    title, part, look = "Similarity to the references", table[table["statistic"] == statistic], _look(statistic)
    mean = part.groupby(["position", "layer"])["value"].mean()
    if not mean.notna().any():
        return f"{title}: not measured"
    place, layer = mean.idxmin() if look.small_is_alike else mean.idxmax()
    return f"{title}: mean {look.name} {mean[place, layer]:.2f} at layer {int(layer)} of {place}".replace("-", "\u2212")


def _menu(fig: go.Figure, positions: list[str], shown: str, owner: list[str]) -> None:
    buttons = [dict(method="restyle", label=position_name(p), args=[{"visible": [o == p for o in owner]}]) for p in positions]
    menu = dict(buttons=buttons, active=positions.index(shown), x=1, xanchor="right", y=1, yanchor="bottom", pad=dict(b=30))
    fig.update_layout(updatemenus=[dict(menu, font=dict(size=11.5), bgcolor="white", bordercolor=MUTED)])


def similarity_matrix(result: Result | pd.DataFrame, *, layer: int | None = None) -> go.Figure:
    """Draw a language x language map of one statistic, a panel per position, with a slider over layers.

    Parameters
    ----------
    result : Result or DataFrame
        Rows of ``position, layer, language, other, tier, statistic, value, low, high``; ``null_95`` where there is one.
    layer : int, optional
        The layer shown first; default the middle one.

    Returns
    -------
    Figure
        Dark is alike, whichever way the statistic runs; the scale is the same in all layers. The diagonal is empty: a
        language is not compared with itself. Title and numbers follow the slider.
    """
    needed = ("position", "layer", "language", "other", "tier", "statistic", "value", "low", "high")
    table = table_of(result, needed, figure="similarity_matrix")
    statistic = str(table["statistic"].iloc[0])
    table, look = table[table["statistic"] == statistic], _look(statistic)
    languages, positions = languages_of(table), positions_of(table)
    tags, layers = list(languages), sorted(table["layer"].unique().tolist())
    shown = layer if layer is not None and layer in layers else layers[len(layers) // 2]
    side = max(230, 34 * len(tags)) if len(positions) > 1 else max(300, (40 if len(tags) <= 12 else 28) * len(tags))
    fig, cells = panels([position_name(p) for p in positions], shared_yaxes=True, horizontal_spacing=0.06)
    frames = {k: [_map(table[(table["layer"] == k) & (table["position"] == p)], tags) for p in positions] for k in layers}
    for traces, cell in zip(frames[shown], cells, strict=True):
        fig.add_heatmap(**traces, row=cell.row, col=cell.col)
    fig.frames = [
        go.Frame(
            name=str(k),
            data=[go.Heatmap(**t) for t in traces],
            traces=list(range(len(cells))),
            layout=dict(title=dict(text=_pairs_title(table, look, k))),
        )
        for k, traces in frames.items()
    ]
    at, marks = np.arange(len(tags), dtype=np.float32), [f'<span style="color:{colour_of(languages[t])}"><b>{t}</b></span>' for t in tags]
    room = dict(tickmode="array", tickvals=at, ticktext=marks, showgrid=False, ticks="")
    fig.update_xaxes(**room, range=[-0.5, len(tags) - 0.5], tickangle=0 if len(tags) <= 9 else -90, title_text="language (compared with)")
    fig.update_yaxes(**room, range=[len(tags) - 0.5, -0.5])
    fig.update_yaxes(title_text="language (compared)", col=1)
    down = cells[-1].row
    height = 270 + (side + 60) * down
    low, high = _scale_of(table, look)
    bar = dict(orientation="h", thickness=9, len=0.5, x=0, xanchor="left", xpad=4, y=1 - 70 / height, yref="container", yanchor="top", ypad=0)
    bar |= dict(outlinewidth=0, tickfont=dict(size=10.5), title=dict(text=look.axis, side="right", font=dict(size=11)), nticks=4)
    scale = [(1 - at, colour) for at, colour in reversed(ALIKE_SCALE)] if look.small_is_alike else ALIKE_SCALE
    fig.update_layout(coloraxis=dict(colorscale=scale, cmin=low, cmax=high, colorbar=bar))
    titled(fig, _pairs_title(table, look, shown), tiers=languages.values(), note=_null_note(table, look), height=height)
    if len(layers) > 1:
        layer_slider(fig, layers, shown)
    return fig.update_layout(margin=dict(t=150, r=20), plot_bgcolor="#ECEDF0")


def _map(part: pd.DataFrame, tags: list[str]) -> dict[str, Any]:
    """Return what a heat map needs to show one layer at one position."""
    indexed = part.set_index(["language", "other"])
    value, low, high = (indexed[c].unstack().reindex(index=tags, columns=tags).to_numpy(dtype=np.float32) for c in ("value", "low", "high"))
    degrees = np.nanmax(value, initial=0) > 2
    form = "%.0f" if degrees else "%.2f"
    names = np.array([[f"{a} and {b}" for b in tags] for a in tags])
    hover = np.stack([names, np.char.mod(form, low), np.char.mod(form, high)], axis=-1)
    at = np.arange(len(tags), dtype=np.float32)
    out: dict[str, Any] = dict(x=at, y=at, z=value, customdata=hover, coloraxis="coloraxis", xgap=1, ygap=1, name="pairs")
    out["hovertemplate"] = f"%{{customdata[0]}}<br>%{{z:{form[1:]}}} [%{{customdata[1]}}, %{{customdata[2]}}]<extra></extra>"
    if len(tags) <= 10:
        out |= dict(text=np.where(np.isfinite(value), np.char.mod(form, value), ""), texttemplate="%{text}", textfont=dict(size=9.5))
    return out


def _scale_of(table: pd.DataFrame, look: _Look) -> tuple[float, float]:
    """Return the ends of the colour scale, the same for all layers and positions."""
    values = table["value"].dropna()
    if look.small_is_alike or look.high >= 1 or values.empty:
        return look.low, look.high or 1.0
    return min(look.low, float(values.min())), max(look.high, float(values.max()))


def _pairs_title(table: pd.DataFrame, look: _Look, layer: int) -> str:
    """Name the least and the most alike pair of a layer, over its positions."""
    rows = table[(table["layer"] == layer) & table["value"].notna()]
    if rows.empty:
        return f"{look.name[0].upper()}{look.name[1:]}, layer {layer}: undefined"
    ends = rows.loc[rows["value"].idxmin()], rows.loc[rows["value"].idxmax()]
    form = ".0f" if look.high > 2 else ".2f"
    told = [f"{format(row['value'], form)} ({'–'.join(sorted((row['language'], row['other'])))})".replace("-", "\u2212") for row in ends]
    return f"{look.name[0].upper()}{look.name[1:]}, layer {layer}: {told[0]} to {told[1]}"


def _null_note(table: pd.DataFrame, look: _Look) -> str:
    if "null_95" not in table or not table["null_95"].notna().any():
        return ""
    null = table["null_95"].min() if look.small_is_alike else table["null_95"].max()
    what = "random subspaces" if look.high > 2 else "permuted translations, any pair and layer"
    return f"{what}: {'down to' if look.small_is_alike else 'up to'} {null:.2g}".replace("-", "\u2212")
