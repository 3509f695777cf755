"""What a gate of one language knows about another: its ranking and its decisions, source by target."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, panels
from workbench.plots.ranking import AUROC_SCALE
from workbench.plots.style import TIERS, colour_of, f32, in_order, languages_of, table_of, titled
from workbench.results import Result

ALL = "all others"
_PANELS = {"auroc": "ranking: AUROC", "balanced_accuracy": "decision: balanced accuracy"}
_CELL, _APART = 34, 0.45  # pixels a row; rows between "all others" and the rest


def gate_transfer(result: Result | pd.DataFrame) -> go.Figure:
    """Draw a map of source by target languages: how well a gate ranks prompts it was not fitted on, and how well its threshold fits them.

    Parameters
    ----------
    result : GateTransfer or DataFrame
        ``source`` (a tag, or "all others": every language but the target), ``target, tier`` (the target's), ``statistic`` (auroc,
        balanced_accuracy), ``value, low, high, null`` (gates of permuted labels), ``n``.

    Returns
    -------
    Figure
        Both unitless, .5 is chance. In brackets: the interval reaches the null, so nothing was carried over.
    """
    columns = ("source", "target", "tier", "statistic", "value", "low", "high", "null", "n")
    table = table_of(result, columns, figure="gate_transfer").rename(columns={"target": "language"})
    languages = languages_of(table)
    shown = [name for name in _PANELS if (table["statistic"] == name).any()]
    sources = [*([ALL] if (table["source"] == ALL).any() else []), *_ordered(table, languages)]
    height = 236 + _CELL * max(len(sources), 4)
    fig, cells = panels([_PANELS[name] for name in shown], shared_yaxes=True, horizontal_spacing=0.04)
    for statistic, cell in zip(shown, cells, strict=True):
        _map(fig, table[table["statistic"] == statistic], sources, list(languages), cell)
    at = _heights(sources)
    tiers = languages | {source: languages.get(source, "unknown") for source in sources}
    marks = [source if source == ALL else f'<span style="color:{colour_of(tiers[source])}"><b>{source}</b></span>' for source in sources]
    fig.update_yaxes(tickvals=at, ticktext=marks, range=[max(at) + 0.55, -0.55], showgrid=False, ticks="")
    fig.update_yaxes(title_text="fitted on", col=1)
    tags = [f'<span style="color:{colour_of(tier)}"><b>{tag}</b></span>' for tag, tier in languages.items()]
    fig.update_xaxes(tickvals=list(range(len(tags))), ticktext=tags, showgrid=False, ticks="", title_text="applied to", tickangle=0)
    bar = dict(orientation="h", thickness=9, len=0.42, x=0, xanchor="left", xpad=4, y=1 - 72 / height, yref="container", yanchor="top", ypad=0)
    bar |= dict(tickvals=[0, 0.5, 1], ticktext=["0", ".5 chance", "1"], tickfont=dict(size=10.5))
    fig.update_layout(coloraxis=dict(colorscale=AUROC_SCALE, cmin=0, cmax=1, colorbar=bar))
    note = "threshold of the source · in brackets: interval reaches that of permuted labels"
    titled(fig, _title(table), tiers=[tier for tier in TIERS if tier in languages.values()], note=note, height=height)
    return fig.update_layout(margin=dict(r=24, t=138), plot_bgcolor="white")


def _ordered(table: pd.DataFrame, languages: dict[str, str]) -> list[str]:
    known = [source for source in in_order(table["source"]) if source != ALL]
    return [tag for tag in languages if tag in known] + [source for source in known if source not in languages]


def _heights(sources: list[str]) -> list[float]:
    """Return where each source's row is: "all others" apart from the rest."""
    return [i + (_APART if sources[0] == ALL and i else 0.0) for i in range(len(sources))]


def _map(fig: go.Figure, part: pd.DataFrame, sources: list[str], targets: list[str], cell: Cell) -> None:
    indexed = part.set_index(["source", "language"])
    value, low, high, null = (
        indexed[c].unstack().reindex(index=sources, columns=targets).to_numpy(dtype=np.float32) for c in ("value", "low", "high", "null")
    )
    told = np.where(low > null, np.char.mod("%.2f", value), np.char.mod("(%.2f)", value))
    told = np.where(np.isfinite(value), told, "")
    names = np.array([[f"{source} to {target}" for target in targets] for source in sources])
    hover = np.stack([names, *(np.char.mod("%.2f", x) for x in (low, high, null))], axis=-1)
    at = _heights(sources)
    for rows in ([0], list(range(1, len(sources)))) if sources[0] == ALL else (list(range(len(sources))),):
        if rows:  # two maps: rows of one map touch each other
            fig.add_heatmap(
                x=f32(range(len(targets))), y=f32([at[i] for i in rows]), z=value[rows], text=told[rows], texttemplate="%{text}",
                textfont=dict(size=9.5 if len(targets) > 6 else 11), customdata=hover[rows], coloraxis="coloraxis", xgap=1.5, ygap=1.5,
                name="transfer", hovertemplate="%{customdata[0]}<br>%{z:.2f} [%{customdata[1]}, %{customdata[2]}]<br>"
                "permuted labels: %{customdata[3]}<extra></extra>", row=cell.row, col=cell.col, **({"dy": 1} if len(rows) == 1 else {}),
            )  # fmt: skip


def _title(table: pd.DataFrame) -> str:
    """Say what is carried over between different languages, from the least to the most."""
    apart = table[table["source"] != table["language"]]
    told = []
    for statistic, name in (("auroc", "AUROC"), ("balanced_accuracy", "balanced accuracy")):
        rows = apart[apart["statistic"] == statistic]
        if rows["value"].notna().any():
            told.append(f"{name} {rows['value'].min():.2f} to {rows['value'].max():.2f}")
    return "Gate in another language: " + (", ".join(told) or "not measured")
