"""Tokens that stand between a rendered prompt and its reply, for some prompts of a grid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from workbench.errors import ModelError, PromptError, did_you_mean
from workbench.models.chat import ChatModel
from workbench.models.tokens import Tokens
from workbench.prompts.grid import PromptGrid

#: Prompt id -> token ids that follow the rendered prompt.
Insert = Mapping[str, Sequence[int]]


def inserted_ids(chat: ChatModel, text: str) -> tuple[int, ...]:
    """Cut a text that is to be inserted into token ids: on its own, whatever stands around it, in training and in inference alike.

    Raises
    ------
    ModelError
        Nothing to insert, or a word that the tokenizer does not know.
    """
    ids = tuple(int(token) for token in chat.tokenizer(text, add_special_tokens=False)["input_ids"])
    unknown = chat.tokenizer.unk_token_id
    if not ids or (unknown is not None and unknown in ids):
        raise ModelError(
            f"The tokenizer of {chat.name} does not know every word of the text to insert ({len(text)} characters). Expected words of its "
            "vocabulary; pass another text."
        )
    return ids


def with_inserted(tokens: Mapping[str, Tokens], insert: Insert | None) -> dict[str, Tokens]:
    """Return the prompts with what is inserted at their ends; those that are not named stay as they are."""
    return {name: replace(t, ids=(*t.ids, *map(int, (insert or {}).get(name, ())))) for name, t in tokens.items()}


def require_inserted(chat: ChatModel, grid: PromptGrid, insert: Insert | None) -> None:
    """Refuse insertions that no prompt or no model could take.

    Raises
    ------
    PromptError
        A name that is no prompt of the grid, whose prompt would silently go without.
    ModelError
        A token outside the vocabulary.
    """
    if not insert:
        return
    known = set(grid.frame["prompt_id"])
    unknown = [name for name in insert if name not in known]
    if unknown:
        raise PromptError(
            f"insert names {len(unknown)} prompts that are not in the grid (first: {unknown[0]!r}). Expected prompt ids of this grid; take the ids "
            f"from grid.frame.{did_you_mean(unknown[0], known)}"
        )
    size = chat.model.get_input_embeddings().weight.shape[0]
    for name, ids in insert.items():
        wrong = [token for token in ids if not 0 <= token < size]
        if wrong:
            raise ModelError(
                f"Prompt {name}: the inserted token {wrong[0]} is outside the vocabulary of {chat.name} (0 to {size - 1}). Expected ids of its own "
                "tokenizer; tokenise the text with it."
            )


def record_of(insert: Insert | None) -> dict[str, Any] | None:
    """Say in a reply file's header what was inserted where, without the words; None where nothing was.

    A mapping without prompts is not None: "asked, and inserted nowhere" is another run than "not asked".
    """
    if insert is None:
        return None
    told = repr(sorted((name, tuple(map(int, ids))) for name, ids in insert.items()))
    return {"prompts": len(insert), "sha256": hashlib.sha256(told.encode()).hexdigest()[:16]}
