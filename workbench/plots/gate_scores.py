"""How prompts of each language score on a gate, with the sources' threshold and the one set with a few examples."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import Rows, panels, ticks
from workbench.plots.ridges import class_key, ridges
from workbench.plots.style import INK, MUTED, f32, table_of, titled
from workbench.results import Result

_COLUMNS = ("prompt_id", "language", "tier", "harmful", "score", "source_threshold", "threshold", "own_threshold")
_LINES = (
    ("source_threshold", "source threshold", "2px,2px", INK),
    ("threshold", "recalibrated threshold", "solid", INK),
    ("own_threshold", "best in hindsight", "solid", MUTED),
)


def gate_ridges(scores: Result | pd.DataFrame, *, max_points: int = 3000) -> go.Figure:
    """Draw one ridge per language and class over the gate's score, with the old and the new threshold.

    Parameters
    ----------
    scores : Result or DataFrame
        ``prompt_id, language, tier, harmful, score``, and per language ``source_threshold, threshold`` (recalibrated with the first draw's examples),
        ``own_threshold`` (best on the scored prompts themselves, in hindsight). With a ``split``, only "score" rows are drawn.
    max_points : int
        Above this many prompts, ridges are drawn without their points.

    Returns
    -------
    Figure
        Filled ridge: harmful; outlined: harmless. What scores at or above a threshold is flagged. Each point's hover is its prompt id.
    """
    table = table_of(scores, _COLUMNS, figure="gate_ridges")
    held_out = "split" in table and (table["split"] == "score").any()
    if held_out:
        table = table[table["split"] == "score"]
    rows = Rows.of(table)
    fig, (cell,) = panels([""])
    ridges(fig, rows, table, cell, value="score", with_points=len(table) <= max_points)
    lines = table.drop_duplicates("language")
    for column, name, dash, colour in _LINES:
        if lines[column].notna().any():
            reach = (0.15, 0.72) if column != "own_threshold" else (0.15, 0.2)
            ticks(fig, rows, lines, cell, value=column, name=name, legend=True, dash=dash, colour=colour, reach=reach)
    class_key(fig)
    rows.label(fig, below=0.4, above=1.05)
    low, high = _range(table)
    fig.update_xaxes(title_text="score of the gate (log-odds that a prompt is harmful)", range=[low, high])
    note = "held-out meanings" if held_out else "all prompts"
    return titled(fig, f"Score of the gate{_shift(lines)}", tiers=rows.languages.values(), note=note, height=200 + 44 * max(len(rows.languages), 3))


def _range(table: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of what is drawn: every score and finite threshold, with some room."""
    values = pd.concat([table[column] for column in ("score", "source_threshold", "threshold", "own_threshold")])
    known = f32(values[values.abs() < float("inf")].dropna())
    room = 0.06 * float(known.max() - known.min() or 1.0)
    return float(known.min()) - room, float(known.max()) + room


def _shift(lines: pd.DataFrame) -> str:
    moved = lines["threshold"] - lines["source_threshold"]
    moved = moved[moved.abs() < float("inf")]
    if moved.empty:
        return ""
    at = moved.abs().idxmax()
    return f": a few examples move the threshold by up to {moved[at]:+.3g} ({lines.loc[at, 'language']})".replace("-", "\u2212")
