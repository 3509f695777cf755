"""What a gate gains, what it costs and who comes near it, in a few sentences computed from the tables."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from workbench.report.record import RunRecord
from workbench.report.repair_rows import Compared, rate_of
from workbench.report.wording import interval, listed, number


class Target(NamedTuple):
    """What the verdict speaks of: the mean over the languages of a tier that are repaired, or one such language.

    ``place`` is how the tables call it, ``where`` how a sentence does.
    """

    place: str
    tier: str
    tags: list[str]

    @property
    def mean(self) -> bool:
        """Whether it is a mean over languages."""
        return self.place.startswith("mean ")

    @property
    def where(self) -> str:
        """The languages in words."""
        if not self.mean:
            return self.place
        return "languages of unknown tier" if self.tier == "unknown" else f"{self.tier}-tier languages"


class _Ahead(NamedTuple):
    """How far the gate is ahead of another method, in selectivity."""

    other: str
    value: float
    low: float
    high: float
    selectivity: float


def targets_of(run: RunRecord) -> list[Target]:
    """Return what is repaired, the low tier first: a mean for each tier, or each language where no mean was counted."""
    rates, reference = run.table("repair_rates"), set(run.reference)
    if rates is None:
        return []
    known = set(rates["language"].astype(str))
    repaired: dict[str, list[str]] = {}
    for tag, tier in run.tiers.items():
        if tag in known and tag not in reference:
            repaired.setdefault(tier, []).append(tag)
    means = [Target(f"mean {tier}", tier, tags) for tier, tags in repaired.items() if f"mean {tier}" in known]
    alone = [Target(tag, tier, [tag]) for tier, tags in repaired.items() for tag in tags]
    return sorted(means or alone, key=lambda target: target.tier != "low")


def repair_verdict(run: RunRecord) -> list[str]:
    """Say what the gate gains over the model as it is, beside its rivals, its ceiling and its controls; numbers in points."""
    compared, targets = Compared.of(run), targets_of(run)
    if compared is None or not targets:
        return ["Rates with and without the repair were not counted in this run, so what it gains cannot be said."]
    said = [sentence for target in targets for sentence in (_gain(run, compared, target), _cost(run, compared, target))]
    said += [_rivals(run, compared, targets[0]), _others(run, compared), _controls(run, compared, targets[0])]
    return [sentence for sentence in said if sentence]


def examples_told(run: RunRecord) -> str:
    """Return how many labels of a language the gate was given."""
    k = run.find("summary.k", "manifest.spec.k")
    return "a few labelled examples" if k is None else f"{k} harmful and {k} harmless labelled examples"


def rate(run: RunRecord, method: str | None, language: str, statistic: str) -> dict | None:
    """Return one rate, or None where it was not counted."""
    return None if method is None else rate_of(run.table("repair_rates"), language, statistic, method=method)


def difference(run: RunRecord, compared: Compared, other: str, language: str, statistic: str = "selectivity") -> dict | None:
    """Return the gate minus another method, or None."""
    return rate_of(run.table("repair_contrasts"), language, statistic, method=compared.gate, other=other)


def points(row: dict, *, signed: bool = True) -> str:
    """Return ``+56 [+51, +62]``."""
    form = "+.1f" if signed else ".1f"
    return f"{number(100 * row['value'], form)} {interval(100 * row['low'], 100 * row['high'], form)}".strip()


def _gain(run: RunRecord, compared: Compared, target: Target) -> str:
    before, after = (rate(run, method, target.place, "selectivity") for method in (compared.plain, compared.gate))
    if before is None or after is None:
        return f"Selectivity was not counted in {target.where}."
    said = f"With {examples_told(run)} of each language the gate brings selectivity in {target.where} from "
    said += f"{number(100 * before['value'], '.1f')} to {number(100 * after['value'], '.1f')} points{' on average' if target.mean else ''}"
    gain, best = difference(run, compared, compared.plain, target.place), rate(run, compared.oracle, target.place, "selectivity")
    if gain is not None:
        said += f": {'a gain of ' if gain['low'] > 0 else 'no clear gain, '}{points(gain)}"
    return said + (f"; true labels in its place give {number(100 * best['value'], '.1f')}." if best is not None else ".")


def _cost(run: RunRecord, compared: Compared, target: Target) -> str:
    parts = []
    for statistic, what in (("harmless_refusal", "harmless prompts refused"), ("answer_accuracy", "harmless prompts answered right")):
        before, after = (rate(run, method, target.place, statistic) for method in (compared.plain, compared.gate))
        if before is not None and after is not None:
            parts.append(f"{what} {number(100 * before['value'], '.1f')} % without it, {points(after, signed=False)} % with it")
    return f"What it costs there: {'; '.join(parts)}." if parts else ""


def _rivals(run: RunRecord, compared: Compared, target: Target) -> str:
    ahead = ahead_of(run, compared, compared.rivals, target.place)
    if not ahead:
        return ""
    best = max(ahead, key=lambda one: one.selectivity)
    beaten = [one.other for one in ahead if one.low > 0]
    told = f"{number(100 * best.value, '+.1f')} {interval(100 * best.low, 100 * best.high, '+.1f')}"
    said = (
        f"The best of {len(ahead)} rivals in {target.where}, picked in its favour on what is scored, is “{best.other}” with "
        f"{number(100 * best.selectivity, '.1f')}: the gate minus it is {told} points"
    )
    rest = [one.other for one in ahead if one.low <= 0]
    behind = "" if not rest else f" (not above {listed(rest)})"
    return f"{said}. It is above {len(beaten)} of the {len(ahead)} with an interval that excludes zero{behind}."


def ahead_of(run: RunRecord, compared: Compared, others: list[str], place: str) -> list[_Ahead]:
    """Return how far the gate is ahead of each method that was compared with it, in a language or a mean."""
    found = []
    for other in others:
        apart, own = difference(run, compared, other, place), rate(run, other, place, "selectivity")
        if apart is not None and own is not None:
            found.append(_Ahead(other, float(apart["value"]), float(apart["low"]), float(apart["high"]), float(own["value"])))
    return found


def _others(run: RunRecord, compared: Compared) -> str:
    """Say what the reference languages lose, the worst one by name."""
    found = [(tag, row) for tag in run.reference if (row := difference(run, compared, compared.plain, tag)) is not None]
    if not found:
        return ""
    tag, worst = min(found, key=lambda pair: pair[1]["value"])
    return f"In the {len(found)} reference languages selectivity changes by {points(worst)} points at worst ({tag})."


def _controls(run: RunRecord, compared: Compared, target: Target) -> str:
    values = pd.Series(
        {method: row["value"] for method in compared.controls if (row := rate(run, method, target.place, "selectivity")) is not None}, dtype=float
    )
    random = values[values.index.str.startswith("random direction")]
    permuted = values.drop(random.index)
    told = []
    if len(random):
        told.append(f"{len(random)} random directions of the same length, added to every prompt, give {_span(random)}")
    told += [f"“{method}” {number(100 * value, '.1f')}" for method, value in permuted.items()]
    return f"Controls in {target.where}: {'; '.join(told)}." if told else ""


def _span(values: pd.Series) -> str:
    low, high = number(100 * values.min(), ".1f"), number(100 * values.max(), ".1f")
    return low if low == high else f"{low} to {high}"
