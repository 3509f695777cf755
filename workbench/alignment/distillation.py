"""The rows of self-distillation: each prompt as the student reads it and as the teacher reads it, in text and in tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from workbench.alignment.parallel import parallel_queries
from workbench.alignment.teacher import TeacherContext
from workbench.behavior.generate import generate
from workbench.errors import ModelError
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid

#: Longest judgement of a teacher that reasons aloud, in tokens.
JUDGEMENT_TOKENS = 160


class QueryPairs(NamedTuple):
    """The same prompts as either side reads them, in one order and with the same ids.

    Attributes
    ----------
    student, teacher : PromptGrid
        They differ in ``text`` and in nothing else.
    dropped : DataFrame
        what, language, n, reason: queries without a twin in the reference language.
    """

    student: PromptGrid
    teacher: PromptGrid
    dropped: pd.DataFrame


class Query(NamedTuple):
    """One row to distil: what is read before the reply.

    Attributes
    ----------
    prompt_id, language : str
    harmful : bool
    prompt_ids : tuple of int
        The student's rendered prompt.
    teacher_ids : tuple of int
        The teacher's rendered prompt, with its judgement if it writes one.
    """

    prompt_id: str
    language: str
    harmful: bool
    prompt_ids: tuple[int, ...]
    teacher_ids: tuple[int, ...]


def query_pairs(grid: PromptGrid, context: TeacherContext, *, languages: Sequence[str] | None = None) -> QueryPairs:
    """Put beside every query what the teacher reads for it.

    Parameters
    ----------
    grid : PromptGrid
        One split of a set that holds the reference language too.
    languages : sequence of str, optional
        The student's; by default all but the reference.

    Raises
    ------
    PromptError
        If no query has a twin in the reference language, or a language is not in the grid.
    """
    wanted = [tag for tag in grid.languages if tag != context.reference] if languages is None else grid.select(languages=languages).languages
    twins = parallel_queries(grid.select(languages=[*wanted, context.reference]), context.reference)
    said = dict(zip(twins["prompt_id"], map(context, twins["reference_text"], twins["language"]), strict=True))
    frame = grid.frame
    kept = frame[frame["prompt_id"].isin(said)].reset_index(drop=True)
    told = {**grid.provenance, "teacher": context.provenance()}
    teacher = PromptGrid(kept.assign(text=kept["prompt_id"].map(said)), provenance=told)
    return QueryPairs(PromptGrid(kept, provenance=grid.provenance), teacher, twins.attrs["dropped"])


def judgements(
    chat: ChatModel,
    teacher: PromptGrid,
    context: TeacherContext,
    *,
    max_new_tokens: int = JUDGEMENT_TOKENS,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict[str, tuple[int, ...]] | None:
    """Let the teacher write its judgement of every query once, up to the marker.

    Parameters
    ----------
    teacher : PromptGrid
        What it reads, from :func:`query_pairs`.
    out : path, optional
        File of the judgements (mode 600); a second call goes on from there.

    Returns
    -------
    dict of prompt id to token ids, or None
        Judgement and marker, to stand between the teacher's prompt and the answer. The marker is put after a judgement that ran too long, too.
        None where the context asks for no judgement.

    References
    ----------
    MSD, arXiv:2605.02971: "reason first, then answer"; on-policy the reasoning has to come from somewhere, here from the teacher (inferred).
    """
    if context.marker is None:
        return None
    said = generate(chat, teacher, max_new_tokens=max_new_tokens, stop=[context.marker], out=out, condition="judgement", progress=progress)
    texts = [f"{reply}\n{context.marker}\n" for reply in said["reply"]]
    ids = chat.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return {str(name): tuple(row) for name, row in zip(said["prompt_id"], ids, strict=True)}


def queries_of(chat: ChatModel, pairs: QueryPairs, *, inserted: Mapping[str, Sequence[int]] | None = None, max_new_tokens: int) -> list[Query]:
    """Tokenise both sides of every query.

    Parameters
    ----------
    inserted : mapping of prompt id to token ids, optional
        From :func:`judgements`.
    max_new_tokens : int
        Longest reply, for which there must be room on both sides.

    Raises
    ------
    ModelError
        If a side and its reply exceed the model's context.
    """
    frame, inserted = pairs.student.frame, inserted or {}
    names = list(frame["prompt_id"])
    student, teacher = (chat.tokenise(list(side.frame["text"]), names=names) for side in (pairs.student, pairs.teacher))
    rows = [
        Query(str(name), str(tag), bool(harmful), tuple(own.ids), (*told.ids, *inserted.get(name, ())))
        for name, tag, harmful, own, told in zip(names, frame["language"], frame["harmful"], student, teacher, strict=True)
    ]
    longest = max(rows, key=lambda row: max(len(row.prompt_ids), len(row.teacher_ids)))
    width = max(len(longest.prompt_ids), len(longest.teacher_ids))
    if width + max_new_tokens > chat.context:
        raise ModelError(
            f"{longest.prompt_id} takes {width} tokens, and with a reply of {max_new_tokens} it exceeds {chat.name}'s context of {chat.context}. "
            "Leave it out, or allow shorter replies."
        )
    return rows
