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
from workbench.report.repair_verdict import ahead_of, points, rate, repair_verdict, target_tier
from workbench.report.wording import interval, number

_Caption = Callable[[RunRecord, pd.DataFrame], str]


@dataclass(frozen=True)
class Repair:
    """What the page shows of a repair by a gate."""

    section: Section
    verdict: list[str] = field(default_factory=list)
    rows: list[RepairRow] = field(default_factory=list)


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

    rates, tier = found.table("repair_rates"), target_tier(found) or "low"
    wanted: list[tuple[str, str, Callable[[pd.DataFrame], Any], _Caption]] = [
        ("selectivity_by_method", "repair_rates", lambda t: plots.selectivity_by_method(t, tier=tier), repair_captions.methods),
        ("few_shot", "few_shot", lambda t: plots.few_shot_curve(t, rates=rates, language=f"mean {tier}"), repair_captions.few_shot),
        ("gate_scores", "gate_scores", plots.gate_ridges, repair_captions.scores),
        ("gate_roc", "gate_roc", plots.gate_roc, repair_captions.roc),
        ("gate_transfer", "gate_transfer", plots.gate_transfer, repair_captions.transfer),
        ("strength_by_method", "repair_strength", lambda t: plots.strength_by_method(t, language=f"mean {tier}"), repair_captions.strength),
        ("elsewhere", "elsewhere", plots.elsewhere, repair_captions.elsewhere),
    ]
    if run.is_repair:  # a diagnosis has its own
        wanted.append(("selection_curves", "selection", plots.selection_curves, steering_captions.selection))
    return [
        drawing.figure(found, name, needs, draw, caption, None, into=run.folder)
        for name, needs, draw, caption in wanted
        if found.table(needs) is not None
    ]


def _methods(run: RunRecord) -> Table | None:
    """List every method with the labels it used and how far the gate is ahead of it."""
    from workbench.plots.method_lines import KIND_NAMES, kinds_of

    compared, tier, rates = Compared.of(run), target_tier(run), run.table("repair_rates")
    if compared is None or tier is None or rates is None:
        return None
    kinds, labels = kinds_of(rates["method"]), rates.drop_duplicates("method").set_index("method")["labels"]
    ahead = {one.other: one for one in ahead_of(run, compared, list(kinds), tier)}
    rows = []
    for method in sorted(kinds, key=lambda name: list(KIND_NAMES).index(kinds[name])):
        own = rate(run, method, f"mean {tier}", "selectivity")
        apart = ahead.get(method)
        told = "–" if apart is None else f"{number(100 * apart.value, '+.1f')} {interval(100 * apart.low, 100 * apart.high, '+.1f')}"
        shown = "–" if own is None else points(own, signed=False)
        rows.append([method, KIND_NAMES[kinds[method]], str(labels[method]), shown, told])
    columns = ["method", "what it is", "labels of the language", f"selectivity, {tier} tier, points", "the gate minus it, points"]
    note = "Labels: harmful + harmless examples per language. Differences are taken within the same meanings and draws; brackets are 95 % intervals."
    return Table("Every method", columns, rows, note)


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
