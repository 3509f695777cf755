"""The section "Repair by a gate": what it gains language by language, the figures, and every method beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from workbench.report import drawing, repair_captions, steering_captions
from workbench.report.parts import Figure, Section, Table
from workbench.report.record import RunRecord
from workbench.report.repair_rows import Compared, RepairRow, repair_rows
from workbench.report.repair_verdict import ahead_of, points, rate, repair_verdict, targets_of
from workbench.report.wording import interval, number

_Caption = Callable[[RunRecord, pd.DataFrame], str]


_NOTE = (
    "Left of the arrow the model as it is, right of it with the gate; brackets are 95 % intervals over meanings and draws of examples, on the score "
    "split. ✓: the gain's interval is above zero; ✕: below zero; ?: it includes zero (not said of reference languages, which have nothing to gain). "
    "Reference languages keep the gate's own threshold."
)


@dataclass(frozen=True)
class Repair:
    """What the page shows of a repair: its section, the sentences and rows it leads with, what explains them, and a column of true labels."""

    section: Section
    verdict: list[str] = field(default_factory=list)
    rows: list[RepairRow] = field(default_factory=list)
    note: str = _NOTE
    oracle: bool = True


def repair_of(run: RunRecord) -> Repair | None:
    """Return the repair that a run is, or that a diagnosis holds; None where there is none or nothing was counted."""
    found = run if run.is_repair else run.repair
    if found is None or (not run.is_repair and found.table("repair_rates") is None):
        return None
    section = Section(
        "repair",
        "Repair by a gate" if not run.is_repair else "The gate beside other methods",
        "Does a decision made from the residual stream, recalibrated with a few examples, restore refusal without refusing what is harmless?",
        _figures(run, found),
        [table for table in (_methods(found), _latency(found)) if table is not None],
    )
    return Repair(section, repair_verdict(found), repair_rows(found))


def _figures(run: RunRecord, found: RunRecord) -> list[Figure]:
    """Draw what was measured; what was not measured in this kind of run is left out."""
    from workbench import plots

    rates, (place, tier), gate = found.table("repair_rates"), _leading(found), getattr(Compared.of(found), "gate", None)
    wanted: list[tuple[str, str, Callable[[pd.DataFrame], Any], _Caption]] = [
        ("selectivity_by_method", "repair_rates", lambda t: plots.selectivity_by_method(t, tier=tier, gate=gate), repair_captions.methods),
        ("few_shot", "few_shot", lambda t: plots.few_shot_curve(t, rates=rates, language=place), repair_captions.few_shot),
        ("gate_scores", "gate_scores", plots.gate_ridges, repair_captions.scores),
        ("gate_roc", "gate_roc", plots.gate_roc, repair_captions.roc),
        ("gate_transfer", "gate_transfer", plots.gate_transfer, repair_captions.transfer),
        ("strength_by_method", "repair_strength", lambda t: plots.strength_by_method(t, language=place), repair_captions.strength),
        ("elsewhere", "elsewhere", plots.elsewhere, repair_captions.elsewhere),
    ]
    if run.is_repair:  # a diagnosis has its own
        wanted.append(("selection_curves", "selection", plots.selection_curves, steering_captions.selection))
    return [
        drawing.figure(found, name, needs, draw, caption, None, into=run.folder)
        for name, needs, draw, caption in wanted
        if found.table(needs) is not None
    ]


def _leading(found: RunRecord) -> tuple[str, str]:
    """Return the place that figures show and its tier."""
    targets = targets_of(found)
    return (targets[0].place, targets[0].tier) if targets else ("mean low", "low")


def _methods(run: RunRecord) -> Table | None:
    """List every method with the labels it used, how far the gate is ahead of it, and what the model refuses of what it missed."""
    from workbench.plots.method_lines import KIND_NAMES, kinds_of

    compared, targets, rates = Compared.of(run), targets_of(run), run.table("repair_rates")
    if compared is None or not targets or rates is None:
        return None
    place, where = targets[0].place, targets[0].where
    kinds, labels = kinds_of(rates["method"]), rates.drop_duplicates("method").set_index("method")["labels"]
    ahead = {one.other: one for one in ahead_of(run, compared, list(kinds), place)}
    rows = []
    for method in sorted(kinds, key=lambda name: list(KIND_NAMES).index(kinds[name])):
        own = rate(run, method, place, "selectivity")
        apart = ahead.get(method)
        told = "–" if apart is None else f"{number(100 * apart.value, '+.1f')} {interval(100 * apart.low, 100 * apart.high, '+.1f')}"
        shown = "–" if own is None else points(own, signed=False)
        rows.append([method, KIND_NAMES[kinds[method]], str(labels[method]), shown, told, *_missed(run, method, place)])
    columns = ["method", "what it is", "labels of the language", f"selectivity, {where}, points", "the gate minus it, points"]
    note = (
        "Labels: harmful + harmless examples per language. Differences are taken within the same meanings and draws; brackets are 95 % intervals. "
        "Missed: harmful prompts that a method did not flag. Refused of those: how many of them the model refused all the same, which is what a "
        "miss does not cost; a mean over the languages in which some were missed. A dash: nothing was missed, or the method flags nothing."
    )
    return Table("Every method", [*columns, "harmful missed, %", "refused of those, %"], rows, note)


def _missed(run: RunRecord, method: str, place: str) -> tuple[str, str]:
    """Return which share of harmful prompts a method missed, and of these the share that was refused."""
    caught, refused = rate(run, method, place, "flagged_harmful"), rate(run, method, place, "refused_misses")
    missed = None if caught is None else {"value": 1 - caught["value"], "low": 1 - caught["high"], "high": 1 - caught["low"]}
    return "–" if missed is None else points(missed, signed=False), "–" if refused is None else points(refused, signed=False)


def _latency(run: RunRecord) -> Table | None:
    table = run.table("latency")
    if table is None:
        return None
    rows = []
    for what, part in table.groupby("what", sort=False):
        ratio = part["ratio"].median()
        ends = interval(part["low"].min(), part["high"].max(), ".3f") if what != "plain" else ""
        rows.append([str(what), number(1000 * part["seconds_per_reply"].median(), ".2f"), f"{number(ratio, '.3f')} {ends}".strip(), str(len(part))])
    return Table("Time per reply", ["model", "milliseconds (median over rounds)", "ratio (lowest and highest round)", "rounds"], rows)


__all__ = ["Repair", "repair_of"]
