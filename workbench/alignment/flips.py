"""Is there anything to distil? What the student answers and the teacher, asked in its own context, refuses; and what the teacher would spoil."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from workbench.alignment.distillation import judgements, query_pairs
from workbench.alignment.teacher import TeacherContext
from workbench.behavior.generate import generate
from workbench.behavior.outcomes import Judge
from workbench.behavior.refusal import judged_rows
from workbench.behavior.resampling import pooled_share
from workbench.errors import DataError
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.results import Result
from workbench.runs.setting import enough_tokens
from workbench.statistics import wilson

#: Shares of the teacher's replies, each with its Wilson interval in ``NAME_low`` and ``NAME_high``.
TEACHER = ("teacher_harmful_refusal", "teacher_harmless_refusal", "teacher_answers_right")


@dataclass(frozen=True)
class FlipRates(Result):
    """What distillation has to transfer, one row per language of the student.

    ``n`` harmful queries; ``student_unsafe`` of them the student does not refuse, and ``teacher_safe_of_those`` the teacher refuses;
    ``value`` is the flip rate, their share of the ``n`` with Wilson's interval; ``teacher_unsafe_of_safe`` counts the other way round: queries
    that the student refuses and the teacher does not, which distillation would unlearn. What it would cost, over ``n_harmless`` queries:
    ``teacher_harmless_refusal`` and ``teacher_answers_right`` (where there is a key, else NaN) beside ``student_harmless_refusal`` and
    ``student_answers_right``; ``teacher_broken`` is the share of the teacher's replies, to all queries, that are garbled or in another language.

    ``provenance["overall"]`` has the flip rate over all languages (value, low, high over meanings, n, n_meanings), and ``"dropped"`` the queries
    without a twin in the reference language.
    """

    required: ClassVar[tuple[str, ...]] = (
        "language", "tier", "n", "student_unsafe", "teacher_safe_of_those", "value", "low", "high", "teacher_unsafe_of_safe", "n_harmless",
        *(f"{name}{end}" for name in TEACHER for end in ("", "_low", "_high")),
        "student_harmless_refusal", "student_answers_right", "teacher_broken", "judge", "validated",
    )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """Return the counts and shares without their intervals."""
        return self.table[[c for c in self.required if c not in ("judge", "validated") and not c.endswith(("_low", "_high"))]]


def flip_rate(
    chat: ChatModel,
    grid: PromptGrid,
    context: TeacherContext,
    judge: Judge,
    *,
    languages: Sequence[str] | None = None,
    max_new_tokens: int | None = None,
    token_budget: int = 4096,
    out: str | Path | None = None,
    progress: bool = True,
) -> FlipRates:
    """Ask a model every query as student and as teacher, greedily, and compare.

    Parameters
    ----------
    grid : PromptGrid
        A split that nothing is scored on ("select"), with the reference language in it.
    context : TeacherContext
        What the teacher reads.
    judge : Judge
        Sees the teacher's replies as replies to the student's prompts, so a refusal must be in the student's language where the judge can tell.
    languages : sequence of str, optional
        The student's; by default all but the reference.
    max_new_tokens : int, optional
        Longest reply; by default room for the grid's keys, or the beginning of an answer.
    token_budget : int
        As in :func:`workbench.behavior.generate.generate`.
    out : path, optional
        Folder of the replies (mode 600); a second call goes on from there.

    Returns
    -------
    FlipRates

    Raises
    ------
    PromptError
        If no query has a twin in the reference language.

    Notes
    -----
    Unsafe is what is no refusal, garbled replies included, for student and teacher alike: harmful refusal, everywhere else in this package, is
    counted so.

    References
    ----------
    The criterion is OPSA's, arXiv:2605.15239: queries where the student is unsafe and the teacher's context makes it safe.
    """
    pairs = query_pairs(grid, context, languages=languages)
    width = enough_tokens(chat, pairs.student) if max_new_tokens is None else max_new_tokens
    folder = None if out is None else Path(out)

    def file(name: str) -> Path | None:
        return None if folder is None else folder / f"{name}.jsonl"

    options: dict[str, Any] = {"max_new_tokens": width, "token_budget": token_budget, "progress": progress}
    said = generate(chat, pairs.student, out=file("student"), **options)
    inserted = judgements(chat, pairs.teacher, context, out=file("judgements"), progress=progress)
    told = generate(chat, pairs.teacher, out=file("teacher"), insert=inserted, **options)
    student, teacher = (judged_rows(judge.outcomes(replies, pairs.student), pairs.student) for replies in (said, told))
    rows = student.merge(teacher[["prompt_id", "outcome", "correct"]], on="prompt_id", suffixes=("", "_teacher"), validate="1:1")
    provenance = {
        **chat.provenance(),
        "grid": pairs.student.hash,
        "teacher": context.provenance(),
        "max_new_tokens": width,
        "dropped": pairs.dropped.to_dict(orient="records"),
    }
    return count_flips(rows, provenance)


def count_flips(rows: pd.DataFrame, provenance: Mapping[str, Any] | None = None) -> FlipRates:
    """Count judged replies of student and teacher to the same prompts.

    Parameters
    ----------
    rows : DataFrame
        prompt_id, meaning_id, language, tier, harmful, outcome, correct, judge, validated of the student; outcome_teacher, correct_teacher.

    Raises
    ------
    DataError
        If there is no harmful query.
    """
    if not rows["harmful"].any():
        raise DataError(
            f"None of the {len(rows)} queries is harmful. Expected harmful ones: their flip rate says whether there is something to distil."
        )
    harmful = rows[rows["harmful"]]
    flips = (harmful["outcome"] != "refusal") & (harmful["outcome_teacher"] == "refusal")
    share = pooled_share(flips.to_numpy(dtype=bool), harmful["meaning_id"].to_numpy(dtype=str))
    overall = {**share._asdict(), "n": len(harmful), "n_meanings": int(harmful["meaning_id"].nunique())}
    table = pd.DataFrame([_of_language(str(tag), part) for tag, part in rows.groupby("language", sort=False)], columns=list(FlipRates.required))
    return FlipRates(table, {**(provenance or {}), "overall": overall})


def _of_language(tag: str, part: pd.DataFrame) -> dict[str, Any]:
    bad, good = part[part["harmful"]], part[~part["harmful"].astype(bool)]
    unsafe, safe = bad["outcome"] != "refusal", bad["outcome_teacher"] == "refusal"
    flips, n = int((unsafe & safe).sum()), len(bad)
    keyed = good[good["correct_teacher"].notna()]
    shares = {
        "teacher_harmful_refusal": safe,
        "teacher_harmless_refusal": good["outcome_teacher"] == "refusal",
        "teacher_answers_right": keyed["correct_teacher"].eq(True),
    }
    low, high = wilson(flips, n)
    row = {
        "language": tag,
        "tier": part["tier"].iloc[0],
        "n": n,
        "student_unsafe": int(unsafe.sum()),
        "teacher_safe_of_those": flips,
        "value": _share(unsafe & safe),
        "low": low,
        "high": high,
        "teacher_unsafe_of_safe": int((~unsafe & ~safe).sum()),
        "n_harmless": len(good),
        "student_harmless_refusal": _share(good["outcome"] == "refusal"),
        "student_answers_right": _share(keyed["correct"].eq(True)),
        "teacher_broken": _share(part["outcome_teacher"].isin(["garbled", "off_language"])),
        "judge": " + ".join(dict.fromkeys(part["judge"])),
        "validated": bool(part["validated"].all()),
    }
    for name, hits in shares.items():
        ends = wilson(int(hits.sum()), len(hits))
        row |= {name: _share(hits), f"{name}_low": ends.low, f"{name}_high": ends.high}
    return row


def _share(hits: pd.Series) -> float:
    return float(hits.mean()) if len(hits) else float("nan")
