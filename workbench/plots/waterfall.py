"""What would bring refusal back, language by language: the decision handed from the model to a gate, to the truth, and the push made to fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, panels
from workbench.plots.style import INK, MUTED, NULL, colour_of, f32, faded, languages_of, table_of, tier_key, titled
from workbench.results import Result

_COLUMNS = (
    "language", "tier", "step", "share", "share_low", "share_high", "value", "net", "net_low", "net_high", "random_low", "random_high",
    "total", "gap", "gap_low", "gap_high", "labels", "n", "draws",
)  # fmt: skip
#: How a step is called below its bar, and when hovering.
STEP_NAMES = {
    "own": ("own", "the model decides, no edit"),
    "transferred": ("gate", "a gate with the reference's threshold decides"),
    "recalibrated": ("recal.", "the same gate, its threshold set by labelled examples"),
    "oracle": ("truth", "the true labels decide"),
    "fitted": ("fitted", "the true labels decide, strength fitted on other prompts"),
}
_PANEL, _HEAD = 215, 170  # pixels
_TOP = 124  # points: where shares are written, above every interval


def waterfall(result: Result | pd.DataFrame) -> go.Figure:
    """Draw, per language, how selectivity rises from the model's own decision to that of true labels at a fitted strength.

    Parameters
    ----------
    result : Waterfall or DataFrame
        Its table, with the columns for the gap, the shares' intervals and the running total.

    Returns
    -------
    Figure
        One panel per language. The first bar is the model's own selectivity (harmful minus harmless refused, points); every further bar is a
        step's gain net of random directions at the same strength, standing on the one before, with its 95 % interval; full colour where that
        excludes 0, pale where it does not. The number is the step's share of the gap, missing where the gap's interval reaches 0. The grey band is
        the range that random directions gain at that step. The dotted line is the reference languages' selectivity.
    """
    table = table_of(result, _COLUMNS, figure="waterfall")
    languages = languages_of(table)
    across = min(3, len(languages))
    titles = [f'<span style="color:{colour_of(tier)}"><b>{tag}</b></span>' for tag, tier in languages.items()]
    fig, cells = panels(titles, columns=across, shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.2 / max(1, -(-len(titles) // across)))
    _key(fig, cells[0])
    for (tag, tier), cell in zip(languages.items(), cells, strict=True):
        rows = table[table["language"] == tag].set_index("step").reindex([s for s in STEP_NAMES if s in set(table["step"])])
        _panel(fig, rows, tag, tier, cell)
    names = [short for step, (short, _) in STEP_NAMES.items() if step in set(table["step"])]
    fig.update_xaxes(tickvals=list(range(len(names))), ticktext=names, tickangle=0, tickfont=dict(size=11), range=[-0.6, len(names) - 0.4])
    fig.update_xaxes(showgrid=False, ticks="", showticklabels=True)
    for cell in cells:
        if cell.col == 1:
            fig.update_yaxes(title_text="selectivity, points", row=cell.row, col=1)
    lowest = 100 * _lowest(table)
    fig.update_yaxes(zeroline=True, zerolinecolor=MUTED, zerolinewidth=1, range=[lowest - 3, _TOP + 10], tickvals=[-100, -50, 0, 50, 100])
    down = max(cell.row for cell in cells)
    titled(fig, _title(table), tiers=languages.values(), height=_HEAD + _PANEL * down)
    fig.update_layout(barmode="overlay", bargap=0, margin=dict(t=132))
    note = "full colour: interval excludes 0 &nbsp;·&nbsp; numbers: share of the gap"
    return fig.update_layout(title_subtitle_text=f"{tier_key(languages.values())} &nbsp;·&nbsp; {note}")


def _key(fig: go.Figure, cell: Cell) -> None:
    """Explain bars, band and line once, in no language's colour."""
    at = dict(x=[None], y=[None], row=cell.row, col=cell.col)
    square = dict(symbol="square", size=11)
    fig.add_scatter(name="own decision", mode="markers", marker=dict(color=NULL, **square), **at)
    fig.add_scatter(name="gain net of random directions", mode="markers", marker=dict(color=MUTED, **square), **at)
    pale = dict(color=faded(MUTED, 0.3), line=dict(color=MUTED, width=1), **square)
    fig.add_scatter(name="range of random directions", mode="markers", marker=pale, **at)
    fig.add_scatter(name="reference languages", mode="lines", line=dict(color=INK, dash="dot", width=1.5), **at)


def _panel(fig: go.Figure, rows: pd.DataFrame, tag: str, tier: str, cell: Cell) -> None:
    """Draw one language: what random directions gain, the bars on top, their intervals, and the line to reach."""
    at = dict(showlegend=False, row=cell.row, col=cell.col)
    x = np.arange(len(rows), dtype=np.float32)
    own, net = (100 * f32(rows[column]) for column in ("value", "net"))
    net = np.nan_to_num(net)  # a step that is missing adds nothing, and has no number
    base = own[0] + np.concatenate([[0.0], np.cumsum(net)[:-1]]).astype(np.float32)
    base[0], height = 0.0, np.concatenate([[own[0]], net[1:]]).astype(np.float32)
    reach = own[0] + 100 * float(rows["gap"].iloc[0])
    ends = [-0.55, len(rows) - 0.45]
    fig.add_scatter(
        x=ends, y=[reach, reach], mode="lines", line=dict(color=INK, dash="dot", width=1.5), name=f"{tag}, reference",
        hovertemplate=f"reference languages: {reach:.0f} points<extra></extra>", **at,
    )  # fmt: skip
    low, high = (100 * f32(rows[column]) for column in ("random_low", "random_high"))
    fig.add_bar(
        x=x[1:], y=(high - low)[1:], base=(base + low)[1:], width=0.92, name=f"{tag}, random directions",
        marker=dict(color=faded(MUTED, 0.3), line=dict(color=faded(MUTED, 0.6), width=1)), customdata=np.stack([low, high], axis=1)[1:],
        hovertemplate=f"{tag}, random directions: %{{customdata[0]:+.0f}} to %{{customdata[1]:+.0f}} points<extra></extra>", **at,
    )  # fmt: skip
    sure = (rows["net_low"] > 0) | (rows["net_high"] < 0)
    colours = [NULL, *(colour_of(tier) if one else faded(colour_of(tier), 0.4) for one in sure.iloc[1:])]
    hover = np.stack([_told(step, row) for step, row in rows.iterrows()])
    fig.add_bar(
        x=x, y=height, base=base, width=0.62, marker=dict(color=colours, line=dict(width=0)), name=tag, customdata=hover,
        error_y=dict(
            type="data", symmetric=False, thickness=1.3, width=3, color=INK,
            array=np.concatenate([[np.nan], 100 * f32(rows["net_high"])[1:] - net[1:]]).astype(np.float32),
            arrayminus=np.concatenate([[np.nan], net[1:] - 100 * f32(rows["net_low"])[1:]]).astype(np.float32),
        ),
        hovertemplate=f"<b>{tag}</b>: %{{customdata[0]}}<br>%{{customdata[1]}}<br>%{{customdata[2]}}<extra></extra>", **at,
    )  # fmt: skip
    shares = ["" if pd.isna(share) else _percent(share) for share in rows["share"]]
    fig.add_scatter(
        x=x, y=np.full(len(x), _TOP, dtype=np.float32), text=shares, mode="text", textfont=dict(size=10.5, color=INK), name=f"{tag}, shares",
        hoverinfo="skip", cliponaxis=False, **at,
    )  # fmt: skip


def _lowest(table: pd.DataFrame) -> float:
    """Return the lowest that a bar, its interval or the band of random directions reaches."""
    ends = [0.0, float(table["value"].min())]
    for _, rows in table.groupby("language", sort=False):
        rows = rows.set_index("step").reindex([step for step in STEP_NAMES if step in set(rows["step"])])
        base = rows["value"].iloc[0] + rows["net"].fillna(0.0).cumsum().shift(fill_value=0.0)
        ends += [float((base + rows[column]).min()) for column in ("net_low", "random_low")]
    return float(np.nanmin(ends))


def _percent(share: float) -> str:
    """Return ``+29%``, and ``0%`` without a sign."""
    told = f"{share:+.0%}"
    return "0%" if told in ("+0%", "-0%") else told.replace("-", "\u2212")


def _told(step: object, row: pd.Series) -> list[str]:
    """Say in words what a bar is: who decides, what it gains, and from which labels."""
    name = STEP_NAMES[str(step)][1]
    level = f"selectivity {100 * row['value']:.0f} points, n = {row['n']:.0f} prompts"
    if step == "own":
        return [name, level, f"gap to the reference {_points(row, 'gap')}"]
    share = "" if pd.isna(row["share"]) else f", {_percent(row['share'])} [{_percent(row['share_low'])}, {_percent(row['share_high'])}] of the gap"
    return [name, f"net gain {_points(row, 'net')}{share}", f"{level}; labels used: {row['labels']}"]


def _points(row: pd.Series, name: str) -> str:
    return f"{100 * row[name]:+.0f} [{100 * row[f'{name}_low']:+.0f}, {100 * row[f'{name}_high']:+.0f}] points"


def _title(table: pd.DataFrame) -> str:
    """Say how much of the gap the whole chain brings back, lowest and highest language."""
    last = table[(table["step"] == list(STEP_NAMES)[-1]) & table["total"].notna()]
    if last.empty:
        return "Selectivity from the model's own decision to true labels: no language with a gap to share out"
    low, high = last.loc[last["total"].idxmin()], last.loc[last["total"].idxmax()]
    told = f"{low['total']:.0%} ({low['language']})"
    told += "" if len(last) == 1 else f" to {high['total']:.0%} ({high['language']})"
    return f"Gap in selectivity brought back in all: {told}".replace("-", "\u2212")
