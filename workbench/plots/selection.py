"""What removing and adding each candidate direction does, layer by layer, and which one the rule took."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import DataError, did_you_mean
from workbench.plots.style import DASHES, INK, LAYER_AXIS, MUTED, NULL, f32, faded, in_order, position_name, positions_of, table_of, titled
from workbench.results import Result

_COLUMNS = ("position", "layer", "bypass", "induce", "kl")
_PANELS = {
    "bypass": "harmful prompts, direction removed",
    "induce": "harmless prompts, direction added",
    "kl": "harmless prompts, direction removed: change of the next token",
}
_UNITS = {"refusal_tokens": "refusal score (log-odds)", "token_free": "harmless \u22121 to harmful +1"}
#: First and last position: a hue that no tier has, from pale to dark along the prompt.
_PALE, _DARK = (222, 165, 210), (62, 16, 58)
_LEAST_KL = 1e-4  # drawn there, if it is less


def selection_curves(result: Result | pd.DataFrame, *, language: str = "all") -> go.Figure:
    """Draw bypass, induce and KL by layer, a line per position; what a filter drops is hollow, its side of the bound shaded.

    Parameters
    ----------
    result : Selection, DirectionScores or DataFrame
        ``position, layer, bypass, induce, kl``; of a Selection also ``removed_by``, ``selected`` and the rule; ``bypass_low`` and so
        on where there are intervals over meanings.
    language : str
        Whose scores, where there are several languages.

    Returns
    -------
    Figure
        Scores in log-odds of a refusal (natural logarithm; 0 is even odds), or between harmless (-1) and harmful (+1) for the
        token-free criterion; KL in nats on a logarithmic axis that ends at 0.0001 or above. Dotted: the scores without any edit. Undefined
        candidates (a direction that is zero) are gaps.

    Raises
    ------
    DataError
        A column that is missing, no rows, or a language that was not scored.
    """
    table, about = _rows(table_of(result, _COLUMNS, figure="selection_curves"), language), result.provenance if isinstance(result, Result) else {}
    if "removed_by" not in table:
        table["removed_by"] = np.where(np.isfinite(table[["bypass", "induce", "kl"]]).all(axis=1), "", "nan")
    positions = in_order(sorted(table["position"])) if pd.api.types.is_integer_dtype(table["position"]) else positions_of(table)
    fig = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.075, subplot_titles=list(_PANELS.values()))
    fig.update_annotations(font=dict(size=12.5, color=INK), x=0, xanchor="left")
    for row, name in enumerate(_PANELS, start=1):
        for i, position in enumerate(positions):
            _line(fig, table[table["position"] == position].sort_values("layer"), name, _hue(i, len(positions)), DASHES[i % len(DASHES)], row)
        _shade(fig, table, name, about, row)  # after the lines: plotly puts no shape into an empty panel
    _mark_selected(fig, table)
    unit = _UNITS.get(str(table["criterion"].iloc[0]) if "criterion" in table else "refusal_tokens", "score")
    fig.update_xaxes(range=[table["layer"].min() - 0.4, table["layer"].max() + 0.4])
    fig.update_xaxes(title_text=LAYER_AXIS, row=3)
    fig.update_yaxes(title_text=f"bypass<br>{unit}", row=1)
    fig.update_yaxes(title_text=f"induce<br>{unit}", row=2)
    ticks = {1e-4: "\u22640.0001", 1e-3: "0.001", 1e-2: "0.01", 0.1: "0.1", 1: "1", 10: "10"}
    fig.update_yaxes(title_text="KL (nats)", type="log", tickvals=list(ticks), ticktext=list(ticks.values()), row=3)
    values = table[[name for name in ("kl", "kl_low", "kl_high") if name in table]].to_numpy(dtype=float)
    least, most = (float(end(values, initial=start, where=np.isfinite(values))) for end, start in ((np.min, 0.01), (np.max, 1.0)))
    fig.update_yaxes(range=[np.log10(max(least, _LEAST_KL)) - 0.15, np.log10(most) + 0.15], row=3)
    passing = f"filled: {int((table['removed_by'] == '').sum())} of {len(table)} that pass every filter"
    shaded = any(about.get(name) is not None for name in ("depth", "induce_min", "kl_max"))
    notes = [passing, f"hollow{', shaded' if shaded else ''}: dropped"] if "selected" in table else []
    notes += ["dotted: no edit"] if about.get("without_edit") else []
    titled(fig, _title(table), note=" &nbsp;·&nbsp; ".join(notes), height=760)
    return fig.update_layout(margin=dict(l=76, t=150))


def _rows(table: pd.DataFrame, language: str) -> pd.DataFrame:
    if "language" not in table or table["language"].nunique() == 1:
        return table
    known = in_order(table["language"])
    if language not in known:
        raise DataError(f"Nothing was scored for language {language!r}; expected one of {known}.{did_you_mean(language, known)}")
    return table[table["language"] == language].reset_index(drop=True)


def _hue(i: int, n: int) -> str:
    along = i / max(n - 1, 1)
    return "#" + "".join(f"{round(a + (b - a) * along):02X}" for a, b in zip(_PALE, _DARK, strict=True))


def _name(position: Any) -> str:
    return f"token {position} from the end".replace("-", "\u2212") if isinstance(position, int | np.integer) else position_name(str(position))


def _line(fig: go.Figure, rows: pd.DataFrame, name: str, colour: str, dash: str, row: int) -> None:
    if rows.empty:
        return
    kept = (rows["removed_by"] == "").to_numpy()
    shown = f32(rows[name].clip(lower=_LEAST_KL) if name == "kl" else rows[name])
    label = _name(rows["position"].iloc[0])
    bars = {}
    if f"{name}_low" in rows:
        low = rows[f"{name}_low"].clip(lower=_LEAST_KL) if name == "kl" else rows[f"{name}_low"]
        ends = dict(array=f32(rows[f"{name}_high"]) - shown, arrayminus=shown - f32(low))
        bars["error_y"] = dict(type="data", symmetric=False, thickness=1, width=0, color=faded(colour, 0.5), **ends)
    reasons = ["passes" if not why else f"dropped by: {why}" for why in rows["removed_by"]]
    fig.add_scatter(
        x=f32(rows["layer"]),
        y=shown,
        mode="lines+markers",
        connectgaps=False,
        line=dict(color=colour, width=1.6, dash=dash),
        marker=dict(size=7, color=[colour if k else "white" for k in kept], line=dict(color=colour, width=1.3)),
        name=label,
        legendgroup=label,
        showlegend=row == 1,
        customdata=np.stack([f32(rows[name]).astype(str), reasons], axis=-1),
        hovertemplate=f"{label}, layer %{{x}}<br>{name}: %{{customdata[0]}}<br>%{{customdata[1]}}<extra></extra>",
        row=row,
        col=1,
        **bars,
    )


def _shade(fig: go.Figure, table: pd.DataFrame, name: str, about: dict[str, Any], row: int) -> None:
    """Shade what the rule drops, and draw the score without any edit."""
    grey = dict(fillcolor=faded(NULL, 0.35), line_width=0, layer="below", row=row, col=1)
    depth, n_layers = about.get("depth"), about.get("n_layers")
    if depth is not None and n_layers is not None:
        fig.add_vrect(x0=int(depth * n_layers) - 0.5, x1=float(table["layer"].max()) + 0.5, **grey)
    bound = about.get({"induce": "induce_min", "kl": "kl_max"}.get(name, ""))
    if bound is not None:
        far = float(np.nanmin([table["induce"].min(), bound])) - 50 if name == "induce" else 1e6
        fig.add_hrect(y0=min(bound, far), y1=max(bound, far), **grey)
        values = table.get(f"{name}_low", table[name])
        if name == "induce":  # the shade must not stretch the axis
            low, high = float(np.nanmin([values.min(), bound])), float(table.get("induce_high", table[name]).max())
            fig.update_yaxes(range=[low - 0.06 * (high - low), high + 0.08 * (high - low)], row=row)
    if name != "kl":
        fig.add_hline(y=0, line=dict(color=MUTED, width=0.8), row=row, col=1)
        plain = about.get("without_edit", {}).get("harmful" if name == "bypass" else "harmless")
        if plain is not None:
            fig.add_hline(y=plain, line=dict(color=INK, width=1.2, dash="dot"), row=row, col=1)


def _mark_selected(fig: go.Figure, table: pd.DataFrame) -> None:
    if "selected" not in table or not table["selected"].any():
        return
    chosen = table[table["selected"]].iloc[0]
    for row, name in enumerate(_PANELS, start=1):
        fig.add_vline(x=float(chosen["layer"]), line=dict(color=INK, width=0.8), row=row, col=1)
        fig.add_scatter(
            x=f32([chosen["layer"]]),
            y=f32([max(chosen[name], _LEAST_KL) if name == "kl" else chosen[name]]),
            mode="markers",
            marker=dict(symbol="circle-open", size=16, color=INK, line=dict(width=2.2)),
            name="selected",
            legendgroup="selected",
            showlegend=row == 1,
            hovertemplate=f"selected: {_name(chosen['position'])}, layer %{{x}}<br>{name}: {chosen[name]:.3g}<extra></extra>",
            row=row,
            col=1,
        )


def _title(table: pd.DataFrame) -> str:
    tried = table.dropna(subset=["bypass"])
    if "selected" not in table or not table["selected"].any():
        if tried.empty:
            return "No candidate has scores"
        best = tried.loc[tried["bypass"].idxmin()]
        return f"Lowest bypass: {best['bypass']:.1f}, {_short(best['position'])}, layer {int(best['layer'])}".replace("-", "\u2212")
    chosen = table[table["selected"]].iloc[0]
    scores = f"bypass {chosen['bypass']:.1f}, induce {chosen['induce']:.1f}, KL {chosen['kl']:.2f}".replace("-", "\u2212")
    return f"Selected: {_short(chosen['position'])}, layer {int(chosen['layer'])} ({scores})"


def _short(position: Any) -> str:
    return f"token {position}".replace("-", "\u2212") if isinstance(position, int | np.integer) else str(position)
