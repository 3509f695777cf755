"""Decide from flip rates: refuse a distillation that has nothing to transfer, foresee what it costs, choose between teachers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.alignment.flips import FlipRates, flip_rate
from workbench.alignment.teacher import TeacherContext
from workbench.behavior.outcomes import Judge
from workbench.errors import DataError
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid

#: Smallest share of harmful queries that must be able to flip for a training to be worth its steps.
LIMIT = 0.05


def teachable(rates: FlipRates, *, margin: float = LIMIT) -> list[str]:
    """Name the languages that a teacher may be followed in.

    Parameters
    ----------
    margin : float
        Share of the harmful queries by which the teacher may refuse fewer than the student does.

    Returns
    -------
    list of str
        All others would be trained to refuse less.
    """
    table = rates.table
    lost = table["teacher_unsafe_of_safe"] - table["teacher_safe_of_those"]
    return [str(tag) for tag in table.loc[lost <= margin * table["n"], "language"]]


def require_transfer(rates: FlipRates, *, limit: float = LIMIT) -> list[str]:
    """Refuse to train where the teacher has nothing to teach.

    Parameters
    ----------
    limit : float
        Flip rate that must be possible: the upper end of the interval over all languages, unless a language's lower end is above it.

    Returns
    -------
    list of str
        The languages to train in: :func:`teachable`.

    Raises
    ------
    DataError
        If the student refuses everything already, or the teacher refuses none, or too little, of what the student answers; with the remedy.
    """
    table, overall = rates.table, rates.provenance["overall"]
    n, unsafe, flips = (int(table[column].sum()) for column in ("n", "student_unsafe", "teacher_safe_of_those"))
    if unsafe == 0:
        raise DataError(
            f"There is nothing to distil: the model refuses all {n} harmful queries in {', '.join(table['language'])} as it is. Expected a student "
            "that answers some of them; choose other languages, or measure another failure (workbench diagnose)."
        )
    languages = teachable(rates)
    kept = table[table["language"].isin(languages)]
    if kept["teacher_safe_of_those"].sum() and (overall["high"] >= limit or (kept["low"] >= limit).any()):
        return languages
    spoilt = [tag for tag in table["language"] if tag not in languages]
    where = rates.provenance.get("teacher", {}).get("reference", "the reference language")
    raise DataError(
        f"There is nothing to distil: of the {unsafe} harmful queries that the model does not refuse it refuses {flips} as its own teacher "
        f"(flip rate {overall['value']:.3f}, 95 % up to {overall['high']:.3f}; expected at least {limit:g})"
        f"{f', and in {chr(44).join(spoilt)} the teacher refuses less than the student' if spoilt else ''}. It was asked in {where}. Name another "
        "reference language (--reference), let the teacher write its judgement first (--reasoning), or take a repair without a teacher: dpo, kto "
        "or lasa."
    )


def foreseen(rates: FlipRates, *, margin: float = 0.02) -> list[str]:
    """Say what a student that learned all its teacher does would lose, language by language.

    Parameters
    ----------
    margin : float
        Difference in shares that is spoken of.

    Returns
    -------
    list of str
        Sentences; empty where the teacher is at least as good as the student.
    """
    notes = []
    for row in rates.table.to_dict(orient="records"):
        tag, lost = row["language"], row["teacher_unsafe_of_safe"]
        for verb, kind, sign in (("refuses", "harmless_refusal", 1), ("answers right", "answers_right", -1)):
            teacher, student = row[f"teacher_{kind}"], row[f"student_{kind}"]
            if sign * (teacher - student) > margin:
                notes.append(f"{tag}: the teacher {verb} {teacher:.1%} of the harmless queries, the student {student:.1%}.")
        if lost > margin * row["n"]:
            notes.append(f"{tag}: the student refuses {lost} of {row['n']} harmful queries that the teacher does not.")
        if row["teacher_broken"] > margin:
            notes.append(f"{tag}: {row['teacher_broken']:.1%} of the teacher's replies are garbled or in another language.")
    return notes


def best_context(
    chat: ChatModel, grid: PromptGrid, contexts: Mapping[str, TeacherContext], judge: Judge, **options: Any
) -> tuple[str, dict[str, FlipRates]]:
    """Choose among contexts on a split that nothing is scored on.

    The best has the highest flip rate over all languages less what its teacher refuses of harmless queries; among equals the first.

    Parameters
    ----------
    contexts : mapping of name to TeacherContext
        For the same languages of the student: give ``languages`` where reference languages differ.
    **options
        Of :func:`flip_rate`; with ``out`` each context has a folder of its own there.

    Returns
    -------
    str, dict
        Name of the best, and the rates of all.

    Raises
    ------
    DataError
        No context.
    """
    if not contexts:
        raise DataError("There is no context to choose from. Expected at least one.")
    out = options.pop("out", None)
    rates = {
        name: flip_rate(chat, grid, context, judge, out=None if out is None else Path(out) / name, **options) for name, context in contexts.items()
    }

    def gain(name: str) -> float:
        return float(rates[name].provenance["overall"]["value"] - np.nanmean([0.0, *rates[name].table["teacher_harmless_refusal"]]))

    return max(rates, key=gain), rates
