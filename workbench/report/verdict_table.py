"""The first thing a reader sees: per language the verdict, and what each stage scored against its criterion. All of it stands in the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from workbench.report.parts import FAIL, NONE, OK, UNSURE, Line
from workbench.report.record import RunRecord
from workbench.report.wording import interval, listed, number

#: Stages in reading order with what a score is, and whether it carries a sign.
STAGE_SCORES = {
    "understood": ("", ".2f"),
    "represented": ("AUROC", ".2f"),
    "calibrated": ("bal. acc. lost", "+.2f"),
    "actuated": ("selectivity", "+.2f"),
    "expressed": ("right form", ".2f"),
}
STATE_NAMES = {OK: "passed", FAIL: "failed", UNSURE: "open", NONE: "not assessed"}
_MEANING = {
    "understanding": "the prompts are not understood, so that replies there are neither refusals nor compliance",
    "representation": "harm is not encoded along the reference's direction",
    "calibration": "harm is encoded, but the reference's threshold does not fit it",
    "actuation": "harm is encoded and the threshold fits, but the decision does not reach the reply",
    "expression": "it refuses, in the wrong form",
}
_SUBTYPE = {
    "unrouted": "adding the direction by true labels brings refusal back",
    "unresponsive": "adding the direction by true labels does not bring it back",
}


@dataclass(frozen=True)
class VerdictRow:
    """One language: its verdict, the gap it is about, and a line per stage."""

    language: str
    name: str
    tier: str
    reference: bool
    verdict: str
    subtype: str
    state: str
    gap: Line
    reason: str
    stages: dict[str, Line] = field(default_factory=dict)
    details: list[tuple[str, str, str, str]] = field(default_factory=list)


def verdict_rows(run: RunRecord) -> list[VerdictRow]:
    """Return one row per language from the tables ``verdicts`` and ``stages``; none where a run has no verdicts.

    A stage that has no row is not assessed. Nothing is decided here: marks are the tables' own.
    """
    table, stages = run.table("verdicts"), run.table("stages")
    if table is None:
        return []
    known = {str(row["language"]): {str(k): v for k, v in row.items()} for row in table.to_dict("records")}
    scores: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in [] if stages is None else stages.to_dict("records"):
        scores.setdefault(str(row["language"]), {})[str(row["stage"])] = {str(k): v for k, v in row.items()}
    reference = set(run.reference)
    return [_row(run, tag, tier, tag in reference, known[tag], scores.get(tag, {})) for tag, tier in run.tiers.items() if tag in known]


def _row(run: RunRecord, tag: str, tier: str, reference: bool, row: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]]) -> VerdictRow:
    verdict = str(row["verdict"])
    state = {"healthy": OK, "not enough evidence": UNSURE, "none": NONE}.get(verdict, FAIL)
    points = [100 * float(row[name]) for name in ("gap", "gap_low", "gap_high")]
    known = math.isfinite(points[0])  # a reference that is compared with none, or fails itself, has no gap
    gap = Line("0" if known and round(points[0]) == 0 else number(points[0], "+.0f"), interval(points[1], points[2], "+.0f"))
    details = [
        (stage, STATE_NAMES[stage_state(score)], str(score["criterion"]), str(score["reason"]))
        for stage in STAGE_SCORES
        if (score := scores.get(stage)) is not None
    ]
    lines = {stage: _stage_line(stage, scores.get(stage)) for stage in STAGE_SCORES}
    return VerdictRow(tag, run.name_of(tag), tier, reference, verdict, _word(row["subtype"]), state, gap, _word(row["reason"]), lines, details)


def stage_state(score: Mapping[str, Any] | None) -> str:
    """Return whether a stage passed, failed, is open, or was not assessed."""
    if score is None or not _true(score["assessed"]):
        return NONE
    passed = score["passed"]
    return UNSURE if passed is None or pd.isna(passed) else OK if _true(passed) else FAIL


def _true(value: Any) -> bool:
    """Read a truth value that a Parquet round trip or a hand may have turned into text."""
    return str(value).strip().lower() in ("true", "1", "1.0")


def _stage_line(stage: str, score: Mapping[str, Any] | None) -> Line:
    state = stage_state(score)
    if score is None or state == NONE:
        return Line("not assessed", note="" if score is None else _word(score["reason"]))
    name, form = STAGE_SCORES[stage]
    told = name or str(score["statistic"]).replace("_", " ").replace("harmless answer accuracy", "answers right")
    value, low, high = (float(score[column]) for column in ("value", "low", "high"))
    shown = number(value, form) if math.isfinite(value) else number(None)
    note = f"{STATE_NAMES[state]}; criterion: {score['criterion']}; n = {score['n']}; {score['reason']}"
    return Line(shown, interval(low, high, form), told, state, note)


def _word(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def verdict_sentences(run: RunRecord, rows: list[VerdictRow]) -> list[str]:
    """Say in a few sentences which verdict was given where; a run without verdicts says so."""
    if not rows:
        return [
            "This run holds no verdicts: it was written before there were any, or is not finished. What was measured stands below; "
            "run `workbench diagnose` again for the verdicts."
        ]
    groups: dict[tuple[str, str], list[VerdictRow]] = {}
    for row in rows:
        groups.setdefault((row.verdict, row.subtype), []).append(row)
    if set(groups) == {("none", "")}:
        return [f"No verdict: {_stopped(rows[0].reason)} The comparison stops here: no language is said to fail or to be healthy.", *unmeasured(run)]
    order = ["understanding", "representation", "calibration", "actuation", "expression", "none", "not enough evidence", "healthy"]
    said = []
    for verdict, subtype in sorted(groups, key=lambda key: (order.index(key[0]) if key[0] in order else -1, key[1])):
        said.append(_sentence(verdict, subtype, groups[verdict, subtype]))
        if verdict == "not enough evidence":
            said[-1] += _how_few(run, groups[verdict, subtype])
    doubtful = [row.language for row in rows if row.reference and row.state == FAIL]
    if doubtful:
        said.append(f"Among these are reference languages ({listed(doubtful)}): the others were compared with all of them together.")
    return [*said, *unmeasured(run)]


def _stopped(reason: str) -> str:
    return reason if reason.endswith(".") else f"{reason}."


def _how_few(run: RunRecord, rows: list[VerdictRow]) -> str:
    """Say on how many prompts an open verdict rests, and the reason where all share one."""
    reasons = {row.reason for row in rows}
    told = f" Why, in all of them: {_stopped(reasons.pop())}" if len(rows) > 1 and len(reasons) == 1 else ""
    prompts = run.table("prompts")
    if prompts is None or not {"split", "language", "harmful"} <= set(prompts):
        return told
    counts = prompts[(prompts["split"] == "score") & prompts["language"].isin([row.language for row in rows])].groupby(["language", "harmful"]).size()
    if counts.empty:
        return told
    n = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    return f"{told} Scored there: {n} prompts per class and language; more of them narrow the intervals."


def unmeasured(run: RunRecord) -> list[str]:
    """Name languages that were asked for and could not be measured at all: they have no row, which is no pass."""
    table = run.table("dropped", model=None)
    if table is None or not {"what", "language", "reason"} <= set(table):
        return []
    lost = table[(table["what"] == "language") & ~table["language"].isin(list(run.tiers))]
    return [f"Not measured at all: {'; '.join(f'{row.language} ({row.reason})' for row in lost.itertuples())}."] if len(lost) else []


def _sentence(verdict: str, subtype: str, rows: list[VerdictRow]) -> str:
    where = f"{listed(row.language for row in rows)} ({_tiers(rows)})"
    if verdict == "healthy":
        return f"Healthy: {where}. Refusal there is as selective as in the reference languages."
    if verdict == "not enough evidence":
        return f"Not enough evidence: {where}. An interval reaches across a criterion that decides; that is neither a pass nor a failure."
    if verdict == "none":
        return f"No verdict: {where}. {_stopped(rows[0].reason)}"
    gaps = [row.gap for row in rows if row.gap.value not in ("–", "")]
    told = "" if not gaps else f" Selectivity is {_range([gap.value for gap in gaps])} points below the reference."
    what = _MEANING.get(verdict, "") + (f"; {_SUBTYPE[subtype]}" if subtype in _SUBTYPE else "")
    return f"{verdict.capitalize()}{f' ({subtype})' if subtype else ''} fails in {where}: {what}.{told}"


def _tiers(rows: list[VerdictRow]) -> str:
    tiers = list(dict.fromkeys(row.tier for row in rows))
    return f"{listed(tiers)} tier" + (", reference" if all(row.reference for row in rows) else "")


def _range(values: list[str]) -> str:
    ordered = sorted(values, key=lambda text: float(text.replace("\u2212", "-")))
    return (ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}").replace("+", "")


def stage_note(run: RunRecord, stage: str) -> list[str]:
    """Say the criterion of a stage and where it was passed, failed, open or not assessed."""
    table = run.table("stages")
    if table is None or not (table["stage"] == stage).any():
        return []
    rows = table[table["stage"] == stage].to_dict("records")
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(STATE_NAMES[stage_state({str(k): v for k, v in row.items()})], []).append(str(row["language"]))
    told = "; ".join(f"{state} in {listed(found[state])}" for state in STATE_NAMES.values() if state in found)
    return [f"Criterion: {rows[0]['criterion']}. {told[0].upper()}{told[1:]}."]
