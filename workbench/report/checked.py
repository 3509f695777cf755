"""Whether a table can be what a run wrote: the columns it needs, values in their range, intervals the right way round, known words, one row per case.

A table edited by hand that stays within its range cannot be told from a measured one; what is impossible is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

_SHARE, _SIGNED = (0.0, 1.0), (-1.0, 1.0)
#: Table -> the columns that hold a value or p, and the range of each. Ends of an interval are not looked at: some methods let them pass the range.
_RANGES: Mapping[str, tuple[tuple[tuple[str, ...], tuple[float, float]], ...]] = {
    "auroc": ((("value",), _SHARE),),
    "harm_represented": ((("auroc", "null_labels_95", "null_direction_95", "surface"), _SHARE),),
    "thresholds": ((("balanced_accuracy_transferred", "balanced_accuracy_own"), _SHARE), (("gap",), _SIGNED)),
    "refusal": ((("value",), _SIGNED),),
    "repair_rates": ((("value",), _SIGNED),),
    "strength": ((("value",), _SIGNED),),
    "steering": ((("value",), _SIGNED),),
    "retrieval": ((("value",), _SHARE),),
    "hypotheses": ((("p", "p_corrected"), _SHARE),),
    "verdicts": ((("gap",), (-2.0, 2.0)),),
    "waterfall": ((("value",), _SIGNED),),
}
#: Statistics of which no number is below 0, where the table holds signed ones too.
_UNSIGNED = ("harmful_refusal", "harmless_refusal", "answer_accuracy", "garbled", "off_language", "unclear")
#: Columns that the report reads of the tables on which its words rest; without one of them the table says nothing.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "verdicts": ("language", "verdict", "subtype", "gap", "gap_low", "gap_high", "reason"),
    "stages": ("language", "stage", "statistic", "value", "low", "high", "criterion", "passed", "assessed", "n", "reason"),
    "hypotheses": (
        "id",
        "statement",
        "statistic",
        "test",
        "margin",
        "effect",
        "low",
        "high",
        "null",
        "p_corrected",
        "language",
        "place",
        "shown",
        "n",
    ),
    "refusal": ("language", "tier", "statistic", "value", "low", "high", "n"),
    "outcomes": ("prompt_id", "language", "harmful", "outcome"),
    "prompts": ("prompt_id", "meaning_id", "language"),
    "harm_represented": ("position", "language", "layer", "auroc"),
    "bottleneck": ("position", "verdict", "layer", "low", "high", "reason"),
    "shapley": ("language", "tier", "switch", "share", "low", "high"),
    "repair_rates": ("method", "language", "tier", "statistic", "value", "low", "high", "n"),
}
_WORDS: Mapping[str, tuple[str, frozenset[str]]] = {
    "verdicts": (
        "verdict",
        frozenset({"understanding", "representation", "calibration", "actuation", "expression", "healthy", "not enough evidence", "none"}),
    ),
    "stages": ("stage", frozenset({"understood", "represented", "calibrated", "actuated", "expressed"})),
    "understanding": ("understood", frozenset({"yes", "no", "not enough evidence", "not assessed"})),
}
#: What names a case; where a table lacks one of these columns nothing is said about it.
_CASES: Mapping[str, tuple[str, ...]] = {
    "verdicts": ("language",),
    "stages": ("language", "stage"),
    "understanding": ("language",),
    "refusal": ("model", "language", "statistic"),
    "auroc": ("model", "position", "layer", "language"),
    "outcomes": ("model", "prompt_id"),
    "prompts": ("prompt_id",),
}


def impossible(name: str, table: pd.DataFrame) -> str | None:
    """Say why a table cannot be what a run wrote, by its first fault.

    Parameters
    ----------
    name : str
        The table's name, as in docs/run-folder.md; of an unknown one only intervals and counts are looked at.

    Returns
    -------
    str or None
        What is wrong and in how many rows, without a prompt; None where nothing is.
    """
    return next(_faults(name, table), None)


def _faults(name: str, table: pd.DataFrame) -> Iterator[str]:
    lost = [column for column in _COLUMNS.get(name, ()) if column not in table]
    if lost:
        yield f"it lacks the columns {', '.join(lost)}"
    for columns, (least, most) in _RANGES.get(name, ()):
        for column in (one for one in columns if one in table):
            yield from _outside(table, column, least, most)
    if name in _RANGES and "statistic" in table:
        shares = table[table["statistic"].isin(_UNSIGNED)]
        if "value" in table:
            yield from _outside(shares, "value", *_SHARE)
    if "n" in table:
        yield from _outside(table, "n", 0, np.inf)
    if {"low", "high"} <= set(table):
        low, high = (pd.to_numeric(table[column], errors="coerce") for column in ("low", "high"))
        if (turned := low > high).any():
            yield f"{int(turned.sum())} of {len(table)} rows have an interval whose low end is above its high end"
    column, words = _WORDS.get(name, ("", frozenset()))
    if column in table and len(unknown := table[~table[column].isin(list(words))]):
        yield f"{len(unknown)} of {len(table)} rows have a {column} that is none of {', '.join(sorted(words))}"
    case = _CASES.get(name, ())
    if case and set(case) <= set(table) and (twice := table.duplicated(list(case))).any():
        yield f"{int(twice.sum())} rows repeat a {' and '.join(case)} that another row has"


def _outside(table: pd.DataFrame, column: str, least: float, most: float) -> Iterator[str]:
    """Name a column with numbers outside its range, or with what is no number; what is missing is a gap, not a fault."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    wrong = (numbers.isna() & table[column].notna()) | (numbers < least - 1e-6) | (numbers > most + 1e-6)
    if wrong.any():
        wanted = f"numbers of {least:g} to {most:g}" if np.isfinite(most) else f"numbers of at least {least:g}"
        yield f"{int(wrong.sum())} of {len(table)} rows hold a {column} out of range; expected {wanted}"


__all__ = ["impossible"]
