"""Hypotheses as data: what is claimed, what it is measured by, and what would count against it.

A hypothesis is a statement about every language with one number for each (or one for each language and place), compared with a null in one of three
ways:

* *difference*: the value is not the null. What is not shown is open, never "no difference";
* *superiority*: the value is beyond null + margin, on the better side; a negative margin claims "not worse by more than that";
* *equivalence*: the value is within the margin of the null, "as good as" (two one-sided tests, TOST).

``p`` is two-sided for a difference and one-sided, towards the side that the value lies on, for the other two. It is corrected (Holm) within the
hypothesis, over all its languages and places, since those are read side by side. The claim, or its contrary, is shown where the corrected p is at
most .05 and the 95 % interval leaves the bar out (both bars for "as good as"); else it is open.

A researcher adds one in a few lines and hands it to ``diagnose(..., hypotheses=[mine])``, or tests it on the tables of a run:

>>> import pandas as pd
>>> @hypothesis("tokens.alike", "The tokenizer cuts the language as finely as the reference languages.", statistic="tokens per character",
...             test="equivalence", margin=0.1)
... def alike(evidence):
...     table = evidence.table("tokens_per_character").set_index("language")
...     null = table.loc[evidence.reference, "value"].mean()
...     return [measured(tag, row["value"], row["low"], row["high"], null=null, n=row["n"]) for tag, row in table.iterrows()]
>>> counted = pd.DataFrame({"language": ["en", "sw"], "value": [0.25, 0.5], "low": [0.22, 0.45], "high": [0.28, 0.55], "n": [40, 40]})
>>> found = examine(Evidence({"tokens_per_character": counted}, {"en": "high", "sw": "low"}, ["en"]), [alike])
>>> found.table[["language", "effect", "shown"]].values.tolist()
[['en', 0.0, True], ['sw', 0.25, False]]
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm

from workbench.errors import DataError, did_you_mean
from workbench.results import Result
from workbench.statistics import holm

TESTS = ("difference", "superiority", "equivalence")
LEVEL = 0.05
_LEAST, _MOST = 1e-3, 6.5  # standard errors: beyond, a confidence cannot be told from 0 or 1


@dataclass(frozen=True)
class Evidence:
    """What hypotheses are measured on.

    Attributes
    ----------
    tables : mapping of name to DataFrame
        A run's tables.
    tiers : dict
        Tier per language, in the report's order.
    reference : sequence of str
    """

    tables: Mapping[str, pd.DataFrame]
    tiers: Mapping[str, str | None]
    reference: Sequence[str]

    def table(self, name: str) -> pd.DataFrame:
        """Return a table; one that was not measured is empty.

        Raises
        ------
        DataError
            A name that is all but the spelling that of a table.
        """
        if name not in self.tables and (near := difflib.get_close_matches(name, self.tables, n=1, cutoff=0.9)):
            raise DataError(f"No table {name!r} among {', '.join(self.tables)}. Did you mean {near[0]!r}?")
        return self.tables.get(name, pd.DataFrame(columns=["language"]))


class Measured(NamedTuple):
    """One number that a hypothesis is about. ``p`` takes a bar and returns the two-sided p value of "the value is not the bar"."""

    language: str
    value: float
    low: float
    high: float
    null: float
    n: int
    p: Callable[[float], float]
    place: str = ""


Measure = Callable[[Evidence], Iterable[Measured]]


@dataclass(frozen=True)
class Hypothesis:
    """A claim about languages.

    Attributes
    ----------
    id : str
        Unique; the family that is corrected together.
    statement : str
    statistic : str
    test : {"difference", "superiority", "equivalence"}
    measure : callable
        Evidence -> one :class:`Measured` per language, or per language and place.
    margin : float
        In units of the statistic.
    better : {"higher", "lower"}
        Which side of the null superiority is claimed on.
    """

    id: str
    statement: str
    statistic: str
    test: str
    measure: Measure
    margin: float = 0.0
    better: str = "higher"

    def __post_init__(self) -> None:
        if self.test not in TESTS:
            raise DataError(f"Hypothesis {self.id!r} has test={self.test!r}; expected one of {', '.join(TESTS)}.{did_you_mean(self.test, TESTS)}")
        if self.better not in ("higher", "lower"):
            raise DataError(f"Hypothesis {self.id!r} has better={self.better!r}; expected 'higher' or 'lower'.")
        if not math.isfinite(self.margin) or (self.test == "equivalence" and self.margin <= 0) or (self.test == "difference" and self.margin != 0):
            told = "0 for a difference, above 0 for equivalence and any finite number for superiority"
            raise DataError(f"Hypothesis {self.id!r} has margin={self.margin}. Expected {told}.")

    def bars(self, null: float) -> tuple[float, ...]:
        """Return what the value is compared with."""
        if self.test == "equivalence":
            return null - self.margin, null + self.margin
        return (null + (self.margin if self.better == "higher" else -self.margin),)


def hypothesis(
    id: str,
    statement: str,
    *,
    statistic: str,
    test: str,
    margin: float = 0.0,
    better: str = "higher",
) -> Callable[[Measure], Hypothesis]:
    """Turn a function of the evidence into a hypothesis (see the module's example)."""

    def made(measure: Measure) -> Hypothesis:
        return Hypothesis(id, statement, statistic, test, measure, margin, better)

    return made


@dataclass(frozen=True)
class HypothesisTable(Result):
    """One row per hypothesis, language and place.

    ``effect`` = value - null; ``low``, ``high``: 95 % interval of the value; ``shown``: True (the claim), False (its contrary), None (open);
    ``place``: where in the model, or empty. ``p_corrected``: Holm over the rows of one id.
    """

    required: ClassVar[tuple[str, ...]] = (
        "id", "statement", "statistic", "null", "effect", "value", "low", "high", "p", "p_corrected", "test", "margin",
        "language", "n", "place", "shown",
    )  # fmt: skip

    def of(self, id: str, language: str) -> list[dict[str, Any]]:
        """Return the rows of one hypothesis and language."""
        return self._rows.get((id, language), [])

    @cached_property
    def _rows(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in self.table.to_dict("records"):
            found.setdefault((str(row["id"]), str(row["language"])), []).append({str(name): value for name, value in row.items()})
        return found


def examine(evidence: Evidence, hypotheses: Sequence[Hypothesis], *, level: float = LEVEL) -> HypothesisTable:
    """Measure and test hypotheses, each corrected for its languages and places.

    Parameters
    ----------
    hypotheses : sequence of Hypothesis
        With different ids.
    level : float
        Of each family.

    Raises
    ------
    DataError
        Two hypotheses of one id, or one that measured a language twice at a place.
    """
    ids = [one.id for one in hypotheses]
    twice = sorted({id for id in ids if ids.count(id) > 1})
    if twice:
        raise DataError(f"Two hypotheses are called {twice[0]!r}. Expected different ids: each is a family that is corrected together.")
    rows = [row for one in hypotheses for row in _tested(one, list(one.measure(evidence)), level)]
    table = pd.DataFrame(rows, columns=list(HypothesisTable.required)).astype({"shown": object})
    return HypothesisTable(table, {"level": level, "correction": "Holm, within one hypothesis, over languages and places", "hypotheses": ids})


def _tested(one: Hypothesis, cases: Sequence[Measured], level: float) -> list[dict[str, Any]]:
    places = [(case.language, case.place) for case in cases]
    if len(set(places)) < len(places):
        raise DataError(f"Hypothesis {one.id!r} measured a language twice. Expected one value per language and place; name the places.")
    known = [case for case in cases if _known(case)]
    both = {(case.language, case.place): max(case.p(bar) for bar in _compared(one, case)) for case in known}
    p = {key: value if one.test == "difference" else value / 2 for key, value in both.items()}
    corrected = dict(zip(p, holm(list(p.values())), strict=True)) if p else {}
    rows = []
    for case in cases:
        key = (case.language, case.place)
        shown = _shown(one, case, max(corrected[key], both[key]) <= level) if key in p else None
        told = {"id": one.id, "statement": one.statement, "statistic": one.statistic, "test": one.test, "margin": one.margin}
        number = {"null": case.null, "effect": case.value - case.null, "value": case.value, "low": case.low, "high": case.high, "n": int(case.n)}
        tested = {"p": p.get(key, math.nan), "p_corrected": float(corrected.get(key, math.nan)), "shown": shown}
        rows.append({**told, **number, **tested, "language": case.language, "place": case.place})
    return rows


def _known(case: Measured) -> bool:
    return all(math.isfinite(number) for number in (case.value, case.low, case.high, case.null))


def _compared(one: Hypothesis, case: Measured) -> tuple[float, ...]:
    """Return the bars that count: outside the margin only the one that was crossed speaks."""
    bars = one.bars(case.null)
    if one.test == "equivalence" and not bars[0] < case.value < bars[1]:
        return (bars[0] if case.value <= bars[0] else bars[1],)
    return bars


def _shown(one: Hypothesis, case: Measured, clear: bool) -> bool | None:
    if not clear:
        return None
    bars = one.bars(case.null)
    if one.test == "difference":
        return True
    if one.test == "equivalence":
        return bars[0] < case.value < bars[1]
    return (case.value > bars[0]) if one.better == "higher" else (case.value < bars[0])


def measured(language: str, value: float, low: float, high: float, *, null: float, n: float, place: str = "") -> Measured:
    """Take a number with its 95 % interval from a table; p reads the half width on the bar's side as 1.96 standard errors."""
    z = float(norm.ppf(0.5 + (1 - LEVEL) / 2))

    def p(bar: float) -> float:
        half = value - low if bar < value else high - value
        if bar == value:
            return 1.0
        return float(2 * norm.sf(z * abs(value - bar) / half)) if half > 0 else 0.0

    return Measured(language, float(value), float(low), float(high), float(null), int(n), p, place)


def from_interval(language: str, interval: Callable[[float], tuple[float, float, float]], *, null: float, n: float, place: str = "") -> Measured:
    """Take a number whose interval can be had at every confidence; p is one minus the confidence at which it just reaches the bar.

    Parameters
    ----------
    interval : callable
        Confidence -> (value, low, high).
    """
    value, low, high = interval(1 - LEVEL)

    def p(bar: float) -> float:
        if bar == value:
            return 1.0

        def apart(z: float) -> float:
            """Return how far the interval of z standard errors stays from the bar; below 0 where it covers it."""
            _, below, above = interval(1 - 2 * float(norm.sf(z)))
            return below - bar if bar < value else bar - above

        if apart(_LEAST) <= 0:
            return 1.0
        return float(2 * norm.sf(_MOST if apart(_MOST) > 0 else brentq(apart, _LEAST, _MOST, xtol=1e-3)))

    return Measured(language, float(value), float(low), float(high), float(null), int(n), p, place)


__all__ = ["LEVEL", "TESTS", "Evidence", "Hypothesis", "HypothesisTable", "Measured", "examine", "from_interval", "hypothesis", "measured"]
