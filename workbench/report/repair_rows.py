"""What a repair does, language by language: rates without it and with it, the gain, and what true labels in a gate's place would give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from workbench.repair.groups import REFERENCE, language_groups
from workbench.repair.kinds import UNREPAIRED
from workbench.report.parts import FAIL, NONE, OK, UNSURE, Line
from workbench.report.record import RunRecord
from workbench.report.wording import interval, number

POINTS = 100.0
#: Means over groups of languages that only a training has.
SEEN_OR_NOT = ("mean seen in training", "mean unseen in training", "mean of all")


@dataclass(frozen=True)
class Change:
    """A rate without and with the repair, in percent or points."""

    before: str
    after: str
    interval: str = ""
    note: str = ""


@dataclass(frozen=True)
class RepairRow:
    """One language, or the mean over a group of them."""

    language: str
    name: str
    tier: str
    reference: bool
    mean: bool
    harmful_refusal: Change
    harmless_refusal: Change
    answer_accuracy: Change
    selectivity: Change
    gain: Line
    oracle: Line
    seen: bool | None = None


@dataclass(frozen=True)
class Compared:
    """Which methods of a repair stand for what; ``gate`` is the repair itself, also where it is a training."""

    gate: str
    plain: str
    oracle: str | None
    rivals: list[str]
    controls: list[str]

    @classmethod
    def of(cls, run: RunRecord) -> Compared | None:
        """Take them from the rates; None where a run has no repair or nothing to compare it with."""
        from workbench.plots.method_lines import kinds_of

        rates = run.table("repair_rates")
        if rates is None:
            return None
        if run.is_training:
            return cls._trained(run, list(dict.fromkeys(rates["method"].astype(str))))
        kinds = kinds_of(rates["method"])
        by = {kind: [method for method, one in kinds.items() if one == kind] for kind in set(kinds.values())}
        named = run.find("summary.gate")
        gate = named if named in kinds else next(iter(by.get("gate", [])), None)
        plain = next(iter(by.get("model", [])), None)
        if gate is None or plain is None:
            return None
        return cls(gate, plain, next(iter(by.get("ceiling", [])), None), by.get("rival", []), by.get("control", []))

    @classmethod
    def _trained(cls, run: RunRecord, methods: list[str]) -> Compared | None:
        """Take the method that the run is of, else the first one that was compared with the start."""
        plain = str(run.find("summary.unrepaired") or UNREPAIRED)
        others = [method for method in methods if method != plain]
        if plain not in methods or not others:
            return None
        named = run.find("summary.method", "manifest.method", "manifest.spec.method")
        method = str(named) if named in others else others[0]
        return cls(method, plain, None, [one for one in others if one != method], [])


def repair_rows(run: RunRecord) -> list[RepairRow]:
    """Return the languages in the order of all figures, each tier followed by its mean; none where rates were not counted.

    Reference languages that share a tier with languages that are repaired stand before these, and their mean at the end. After a training come the
    means over languages that it saw, over the others, and over all.
    """
    compared, rates = Compared.of(run), run.table("repair_rates")
    if compared is None or rates is None:
        return []
    known = {tag: tier for tag, tier in run.tiers.items() if (rates["language"] == tag).any()}
    reference, groups, out = set(run.reference), language_groups(known, run.reference), []
    group_of = {tag: group for group, tags in groups.items() for tag in tags}

    def mean(group: str, tier: str) -> None:
        tags = groups[group]
        if len(tags) > 1 and (rates["language"] == group).any():
            out.append(_row(run, rates, compared, group, "", tier, set(tags) <= reference, mean=True))

    for tier in dict.fromkeys(known.values()):
        tags = [tag for tag, one in known.items() if one == tier]
        for tag in sorted(tags, key=lambda tag: group_of[tag] != REFERENCE):  # a mean stands below its own languages
            out.append(_row(run, rates, compared, tag, run.name_of(tag), tier, tag in reference, mean=False))
        mean(f"mean {tier}", tier)
    if REFERENCE in groups:
        mean(REFERENCE, REFERENCE.removeprefix("mean "))
    seen = seen_in(run)
    out = [row if row.mean or seen is None else replace(row, seen=row.language in seen) for row in out]
    trained = [name for name in SEEN_OR_NOT if run.is_training and (rates["language"] == name).any()]
    return out + [_row(run, rates, compared, name, "", name.removeprefix("mean "), False, mean=True) for name in trained]


def seen_in(run: RunRecord) -> list[str] | None:
    """Return the languages that a training saw texts of; None where that is not known, or nothing was trained."""
    told = run.find("summary.languages") if run.is_training else None
    if isinstance(told, dict) and told and all(isinstance(one, dict) and "seen" in one for one in told.values()):
        return [str(tag) for tag, one in told.items() if one["seen"]]
    asked = run.find("manifest.spec.train_languages") if run.is_training else None
    return [str(tag) for tag in asked] if isinstance(asked, list) else None


def rate_of(table: pd.DataFrame | None, language: str, statistic: str, **among: str) -> dict | None:
    """Return one row of rates or differences as a record, or None where there is none or it is undefined."""
    if table is None:
        return None
    keep = (table["language"] == language) & (table["statistic"] == statistic)
    for column, value in among.items():
        keep &= table[column] == value
    rows = table[keep & table["value"].notna()]
    return None if rows.empty else rows.iloc[0].to_dict()


def _row(run: RunRecord, rates: pd.DataFrame, compared: Compared, language: str, name: str, tier: str, reference: bool, *, mean: bool) -> RepairRow:
    changes: dict[str, Any] = {
        statistic: _change(rates, compared, language, statistic)
        for statistic in ("harmful_refusal", "harmless_refusal", "answer_accuracy", "selectivity")
    }
    best = rate_of(rates, language, "selectivity", method=compared.oracle) if compared.oracle else None
    oracle = Line("–") if best is None else Line(_points(best["value"], "+"), _interval(best, "+"))
    return RepairRow(language, name, tier, reference, mean, **changes, gain=_gain(run, compared, language, reference), oracle=oracle)


def _change(rates: pd.DataFrame, compared: Compared, language: str, statistic: str) -> Change:
    sign = "+" if statistic == "selectivity" else ""
    before, after = (rate_of(rates, language, statistic, method=method) for method in (compared.plain, compared.gate))
    note = "" if before is None else f"without the repair {_points(before['value'], sign)} {_interval(before, sign)}, n = {int(before['n'])} meanings"
    told = [_points(None if row is None else row["value"], sign) for row in (before, after)]
    return Change(told[0], told[1], "" if after is None else _interval(after, sign), note)


def _gain(run: RunRecord, compared: Compared, language: str, reference: bool) -> Line:
    row = rate_of(run.table("repair_contrasts"), language, "selectivity", method=compared.gate, other=compared.plain)
    if row is None:
        return Line("–")
    state = OK if row["low"] > 0 else FAIL if row["high"] < 0 else NONE if reference else UNSURE  # a reference has nothing to gain
    return Line(_points(row["value"], "+"), _interval(row, "+"), "", state)


def _form(value: float, sign: str) -> str:
    """Return one decimal below ten points: a cost of half a point is not none."""
    return f"{sign}.1f" if abs(value) < 0.095 else f"{sign}.0f"


def _points(value: float | None, sign: str) -> str:
    return number(None) if value is None else number(POINTS * value, _form(value, sign))


def _interval(row: dict, sign: str) -> str:
    return interval(POINTS * row["low"], POINTS * row["high"], _form(row["value"], sign))
