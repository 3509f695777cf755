"""How far judges agree, per language: kappa with its interval and, where one is the truth, what the other finds and leaves alone."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Cell, Rows, dots, panels
from workbench.plots.style import INK, MUTED, in_order, languages_of, table_of, titled
from workbench.results import Result

_SYMBOLS = ("square", "square-open", "triangle-up", "triangle-up-open", "cross", "x")
_NEEDED = (
    "language", "tier", "first", "second", "n", "kappa", "kappa_low", "kappa_high", "truth", "sensitivity", "sensitivity_low", "sensitivity_high",
    "n_refusals", "specificity", "specificity_low", "specificity_high", "n_others", "pooled",
)  # fmt: skip


def judge_agreement(result: Result | pd.DataFrame) -> go.Figure:
    """Draw the agreement of judges, one row per language.

    Parameters
    ----------
    result : Result or DataFrame
        From :func:`workbench.behavior.agreement.judge_agreement` or ``marker_judge_agreement``.

    Returns
    -------
    Figure
        Left: Cohen's kappa (0 is chance). Right, where the second judge is the truth: shares of its refusals found and of its other replies left
        alone. Counts stand beside the rows; languages with few replies of either kind are one row, named in the note.
    """
    table = table_of(result, _NEEDED, figure="judge_agreement")
    pairs = in_order(zip(table["first"], table["second"], strict=True))
    labelled = bool(table["truth"].all())
    known, pools = languages_of(table[table["pooled"] == ""]), languages_of(table[table["pooled"] != ""])
    rows = Rows(known | pools)  # what is pooled stands below
    titles = ["agreement beyond chance", "against the labels"] if labelled else ["agreement beyond chance"]
    fig, cells = panels(titles, shared_yaxes=True)
    step = 0.66 / max(len(pairs), 1)
    for i, (first, second) in enumerate(pairs):
        part = table[(table["first"] == first) & (table["second"] == second)]
        offset, name = step * ((len(pairs) - 1) / 2 - i), f"{first} and {second}"
        _kappa(fig, rows, part, cells[0], name, i, offset)
        if labelled:
            _shares(fig, rows, part, cells[1], name if len(pairs) > 1 else "", offset)
    rows.label(fig)
    fig.update_xaxes(title_text="Cohen's κ (0 is chance)", row=cells[0].row, col=cells[0].col)
    fig.update_xaxes(range=[min(-0.05, float(table["kappa_low"].min()) - 0.03), 1.03], row=cells[0].row, col=cells[0].col)
    fig.add_vline(x=0, line=dict(color=MUTED, width=1, dash="dot"), row=cells[0].row, col=cells[0].col)
    if labelled:
        fig.update_xaxes(title_text="share of labelled replies", range=[-0.03, 1.03], tickformat=".0%", row=cells[1].row, col=cells[1].col)
    _counts(fig, rows, table, cells[-1], labelled, alone=len(pairs) == 1)
    return titled(
        fig,
        _title(table, pairs),
        tiers=rows.languages.values(),
        note=_note(table),
        height=rows.height + 10 + 9 * (len(pairs) - 1) * len(rows.languages),
    )


def _kappa(fig: go.Figure, rows: Rows, part: pd.DataFrame, cell: Cell, name: str, i: int, offset: float) -> None:
    dots(
        fig, rows, part, cell, name=f"κ, {name}", symbol=_SYMBOLS[i % len(_SYMBOLS)], value="kappa", low="kappa_low", high="kappa_high",
        offset=offset, extra="pooled",
    )  # fmt: skip


def _shares(fig: go.Figure, rows: Rows, part: pd.DataFrame, cell: Cell, name: str, offset: float) -> None:
    told = f", {name}" if name else ""
    for share, count, label, symbol, up in (
        ("sensitivity", "n_refusals", "refusals found", "triangle-up", 0.13),
        ("specificity", "n_others", "others left alone", "circle-open", -0.13),
    ):
        dots(
            fig, rows, part.assign(n=part[count]), cell, name=f"{label}{told}", symbol=symbol, value=share, low=f"{share}_low", high=f"{share}_high",
            offset=offset + up, extra="pooled",
        )  # fmt: skip


def _counts(fig: go.Figure, rows: Rows, table: pd.DataFrame, cell: Cell, labelled: bool, *, alone: bool) -> None:
    """Write the counts at the right edge: an agreement without them says nothing."""
    if alone:
        told = [f"{a} + {b}" for a, b in zip(table["n_refusals"], table["n_others"], strict=True)] if labelled else table["n"].astype(str).tolist()
        where, above = rows.y(list(table["language"])), "refusals + others" if labelled else "replies"
    else:
        most = table.groupby("language", sort=False)["n"].agg(["min", "max"])
        told = [str(low) if low == high else f"{low} to {high}" for low, high in most.itertuples(index=False)]
        where, above = rows.y(list(most.index)), "replies"
    last = f"{cell.col if cell.col > 1 else ''}"
    beside = dict(x=1.0, xref=f"x{last} domain", showarrow=False, xanchor="left", xshift=8)
    for y, text in zip(where, told, strict=True):
        fig.add_annotation(**beside, y=float(y), yref=f"y{last}", text=text, font=dict(size=11, color=MUTED))
    fig.add_annotation(**beside, y=1.0, yref=f"y{last} domain", yanchor="bottom", text=above, font=dict(size=11, color=INK))
    fig.update_layout(margin=dict(r=112))


def _title(table: pd.DataFrame, pairs: list[tuple[str, str]]) -> str:
    known = table[table["kappa"].notna() & (table["pooled"] == "")]
    if known.empty:
        known = table[table["kappa"].notna()]
    who = f"{pairs[0][0]} and {pairs[0][1]}" if len(pairs) == 1 else "the judges"
    if known.empty:
        return f"Agreement of {who}: not measured"
    low, high = known.loc[known["kappa"].idxmin()], known.loc[known["kappa"].idxmax()]
    spread = f"κ {low['kappa']:.2f} ({low['language']}) to {high['kappa']:.2f} ({high['language']})".replace("-", "\u2212")
    return f"Agreement of {who}: {spread}"


def _note(table: pd.DataFrame) -> str:
    pools = in_order(text for text in table["pooled"] if text)
    return f"small ones, pooled: {'; '.join(pools)}" if pools else ""
