"""What was measured per language, in numbers alone: the verdicts on them stand in the table above."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from workbench.report.parts import Line
from workbench.report.record import RunRecord
from workbench.report.wording import interval, number


@dataclass(frozen=True)
class LanguageRow:
    """One language: its stages in reading order."""

    language: str
    name: str
    tier: str
    reference: bool
    understood: list[Line] = field(default_factory=list)
    represented: list[Line] = field(default_factory=list)
    transferred: list[Line] = field(default_factory=list)
    own: list[Line] = field(default_factory=list)
    harmful_refusal: list[Line] = field(default_factory=list)
    harmless_refusal: list[Line] = field(default_factory=list)
    selectivity: list[Line] = field(default_factory=list)


def language_rows(run: RunRecord) -> list[LanguageRow]:
    """Return the rows; a measure whose table is missing has no lines. A dagger marks rates of a judge that was not validated in the language."""
    reference = set(run.reference)
    return [
        LanguageRow(
            language=tag,
            name=run.name_of(tag),
            tier=tier,
            reference=tag in reference,
            understood=_understood(run, tag),
            represented=_represented(run, tag),
            transferred=_accuracy(run, tag, "transferred"),
            own=_accuracy(run, tag, "own"),
            harmful_refusal=_rate(run, tag, "harmful_refusal"),
            harmless_refusal=_rate(run, tag, "harmless_refusal"),
            selectivity=_rate(run, tag, "selectivity", points=True),
        )
        for tag, tier in run.tiers.items()
    ]


def not_validated(run: RunRecord) -> set[str]:
    """Return the languages in which the judge was not validated: its rates are shown there and decide nothing."""
    table = run.table("refusal")
    return set() if table is None or "validated" not in table else set(table.loc[~table["validated"].astype(bool), "language"])


def _of(run: RunRecord, name: str, language: str) -> pd.DataFrame:
    table = run.table(name)
    return pd.DataFrame() if table is None or "language" not in table else table[table["language"] == language]


def _understood(run: RunRecord, tag: str) -> list[Line]:
    lines = []
    for _, row in _of(run, "understanding", tag).iterrows():
        measured = "" if pd.isna(row["value"]) else f"{number(row['value'])} {interval(row['low'], row['high'])}"
        lines.append(Line(str(row["understood"]), measured, str(row["statistic"]).replace("_", " "), note=str(row.get("reason", ""))))
    return lines


def _represented(run: RunRecord, tag: str) -> list[Line]:
    lines = []
    for _, row in _of(run, "harm_represented", tag).iterrows():
        where = f"{row['position']}, layer {int(row['layer'])}"
        lines.append(Line(number(row["auroc"]), interval(row["low"], row["high"]), where, note=str(row.get("reason", ""))))
    return lines


def _accuracy(run: RunRecord, tag: str, which: str) -> list[Line]:
    lines = []
    for _, row in _of(run, "thresholds", tag).iterrows():
        note = f"own minus reference threshold: {number(row['gap'], '+.2f')} {interval(row['gap_low'], row['gap_high'], '+.2f')}"
        value = number(row[f"balanced_accuracy_{which}"])
        shown = interval(row[f"{which}_low"], row[f"{which}_high"])
        lines.append(Line(value, shown, str(row["position"]), note=note if which == "transferred" else ""))
    return lines


def _rate(run: RunRecord, tag: str, statistic: str, *, points: bool = False) -> list[Line]:
    table = _of(run, "refusal", tag)
    lines = []
    for _, row in (table[table["statistic"] == statistic] if len(table) else table).iterrows():
        doubtful = " †" if "validated" in row and not bool(row["validated"]) else ""
        form = "+.0f" if points else ".0f"
        note = f"n = {int(row['n'])}" + (f", judge: {row['judge']}" if "judge" in row else "")
        note += "; not validated in this language, so it decides nothing" if doubtful else ""
        lines.append(Line(f"{number(100 * row['value'], form)}{doubtful}", interval(100 * row["low"], 100 * row["high"], form), note=note))
    return lines
