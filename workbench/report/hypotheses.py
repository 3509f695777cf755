"""Every hypothesis that was tested, grouped by statement: effect, interval and corrected p per language and place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from workbench.report.record import RunRecord
from workbench.report.wording import interval, number

_SHOWN = {True: "shown", False: "contrary shown", None: "open"}
_TESTS = {"difference": "differs", "superiority": "is better", "equivalence": "is as good"}


@dataclass(frozen=True)
class Tested:
    """One hypothesis: its statement, and a row per language and place (language, place, value, interval, effect, p, shown, n)."""

    id: str
    statement: str
    how: str
    told: str
    rows: list[list[str]] = field(default_factory=list)


COLUMNS = ("language", "place", "value", "95 % interval", "effect (value − null)", "p, corrected", "decided", "n")


def tested(run: RunRecord) -> list[Tested]:
    """Return the hypotheses of the run in their order; none where the table is missing."""
    table = run.table("hypotheses")
    if table is None:
        return []
    found = []
    for id, part in table.groupby("id", sort=False):
        first = part.iloc[0]
        margin = f", margin {number(first['margin'])}" if first["margin"] else ""
        how = f"{first['statistic']}; {first['test']}: {_TESTS.get(str(first['test']), '')}{margin}"
        words = [_decided(value) for value in part["shown"]]
        told = ", ".join(f"{words.count(word)} {word}" for word in _SHOWN.values() if word in words)
        rows = [_cells(row, word) for (_, row), word in zip(part.iterrows(), words, strict=True)]
        found.append(Tested(str(id), str(first["statement"]), how, f"{told} of {len(part)}", rows))
    return found


def _decided(value: Any) -> str:
    if value is None or pd.isna(value):
        return "open"
    return _SHOWN[str(value).lower() in ("true", "1", "1.0")]


def _cells(row: pd.Series, decided: str) -> list[str]:
    place = "" if pd.isna(row["place"]) else str(row["place"])
    p = float(row["p_corrected"])
    shown = "–" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
    n = "–" if pd.isna(row["n"]) else f"{int(row['n'])}"
    return [str(row["language"]), place, number(row["value"]), interval(row["low"], row["high"]), number(row["effect"], "+.2f"), shown, decided, n]
