"""What a gate gains, what it costs and who comes near it, in a few sentences computed from the tables."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from workbench.report.record import RunRecord
from workbench.report.repair_rows import Compared, rate_of
from workbench.report.wording import interval, listed, number


class _Ahead(NamedTuple):
    """How far the gate is ahead of another method, in selectivity."""

    other: str
    value: float
    low: float
    high: float
    selectivity: float


def target_tier(run: RunRecord) -> str | None:
    """Return the tier whose mean the verdict speaks of: low where it is repaired, else the first with a repaired language."""
    rates, reference = run.table("repair_rates"), set(run.reference)
    if rates is None:
        return None
    known = {str(name).removeprefix("mean ") for name in rates["language"] if str(name).startswith("mean ")}
    tiers = [tier for tag, tier in run.tiers.items() if tag not in reference and tier in known]
    return "low" if "low" in tiers else next(iter(tiers), None)


def repair_verdict(run: RunRecord) -> list[str]:
    """Say what the gate gains over the model as it is, beside its rivals, its ceiling and its controls; numbers in points."""
    compared, tier = Compared.of(run), target_tier(run)
    if compared is None or tier is None:
        return ["Rates with and without the repair were not counted in this run, so what it gains cannot be said."]
    said = [
        _gain(run, compared, tier),
        _cost(run, compared, tier),
        _rivals(run, compared, tier),
        _others(run, compared),
        _controls(run, compared, tier),
    ]
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


def _gain(run: RunRecord, compared: Compared, tier: str) -> str:
    mean = f"mean {tier}"
    before, after = (rate(run, method, mean, "selectivity") for method in (compared.plain, compared.gate))
    if before is None or after is None:
        return f"Selectivity was not counted over {tier}-tier languages."
    said = f"With {examples_told(run)} of each language the gate brings selectivity in {tier}-tier languages from "
    said += f"{number(100 * before['value'], '.1f')} to {number(100 * after['value'], '.1f')} points on average"
    gain, best = difference(run, compared, compared.plain, mean), rate(run, compared.oracle, mean, "selectivity")
    if gain is not None:
        said += f": {'a gain of ' if gain['low'] > 0 else 'no clear gain, '}{points(gain)}"
    return said + (f"; true labels in its place give {number(100 * best['value'], '.1f')}." if best is not None else ".")


def _cost(run: RunRecord, compared: Compared, tier: str) -> str:
    mean, parts = f"mean {tier}", []
    for statistic, what in (("harmless_refusal", "harmless prompts refused"), ("answer_accuracy", "harmless prompts answered right")):
        before, after = (rate(run, method, mean, statistic) for method in (compared.plain, compared.gate))
        if before is not None and after is not None:
            parts.append(f"{what} {number(100 * before['value'], '.1f')} % without it, {points(after, signed=False)} % with it")
    return f"What it costs there: {'; '.join(parts)}." if parts else ""


def _rivals(run: RunRecord, compared: Compared, tier: str) -> str:
    ahead = ahead_of(run, compared, compared.rivals, tier)
    if not ahead:
        return ""
    best = max(ahead, key=lambda one: one.selectivity)
    beaten = [one.other for one in ahead if one.low > 0]
    told = f"{number(100 * best.value, '+.1f')} {interval(100 * best.low, 100 * best.high, '+.1f')}"
    said = f"The best of {len(ahead)} rivals is “{best.other}” with {number(100 * best.selectivity, '.1f')}: the gate minus it is {told} points"
    rest = [one.other for one in ahead if one.low <= 0]
    behind = "" if not rest else f" (not above {listed(rest)})"
    return f"{said}. It is above {len(beaten)} of the {len(ahead)} with an interval that excludes zero{behind}."


def ahead_of(run: RunRecord, compared: Compared, others: list[str], tier: str) -> list[_Ahead]:
    """Return how far the gate is ahead of each method that was compared with it."""
    found = []
    for other in others:
        apart, own = difference(run, compared, other, f"mean {tier}"), rate(run, other, f"mean {tier}", "selectivity")
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


def _controls(run: RunRecord, compared: Compared, tier: str) -> str:
    values = pd.Series(
        {method: row["value"] for method in compared.controls if (row := rate(run, method, f"mean {tier}", "selectivity")) is not None}, dtype=float
    )
    random = values[values.index.str.startswith("random direction")]
    permuted = values.drop(random.index)
    told = []
    if len(random):
        told.append(f"{len(random)} random directions of the same length, added to every prompt, give {_span(random)}")
    told += [f"“{method}” {number(100 * value, '.1f')}" for method, value in permuted.items()]
    return f"Controls: {'; '.join(told)}." if told else ""


def _span(values: pd.Series) -> str:
    low, high = number(100 * values.min(), ".1f"), number(100 * values.max(), ".1f")
    return low if low == high else f"{low} to {high}"
