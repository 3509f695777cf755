"""What the preference methods learn from, as tokens, in the order it is learned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from workbench.alignment.config import TrainingConfig
from workbench.alignment.preference import PreferenceSet
from workbench.alignment.sequences import Example, encode
from workbench.errors import DataError
from workbench.models.chat import ChatModel

#: The split that is learned; the other one is for choosing and monitoring.
LEARNED = "fit"


class Pair(NamedTuple):
    """The two replies to one prompt."""

    chosen: Example
    rejected: Example


class Single(NamedTuple):
    """One reply and whether it is wanted."""

    example: Example
    desirable: bool


def pairs_of(chat: ChatModel, data: PreferenceSet, config: TrainingConfig) -> list[Pair]:
    """Tokenise the pairs of the fit split, in the order the seed draws.

    Raises
    ------
    DataError
        If no pair is of the fit split, or a prompt leaves no room for its replies.
    """
    frame = data.select(split=LEARNED).frame
    names, prompts = list(frame["pair_id"]), list(frame["prompt"])
    sides = [encode(chat, prompts, list(frame[side]), names, max_length=config.max_length) for side in ("chosen", "rejected")]
    return shuffled([Pair(*pair) for pair in zip(*sides, strict=True)], config.seed)


def singles_of(chat: ChatModel, data: PreferenceSet, config: TrainingConfig, insert: Sequence[Any] | None = None) -> list[Single]:
    """Tokenise the single completions of the fit split, in the order the seed draws.

    Parameters
    ----------
    insert : sequence of (token ids or None), optional
        What stands between prompt and completion, one per row of ``data.select(split="fit").unpaired()``.

    Raises
    ------
    DataError
        As :func:`pairs_of`.
    """
    frame = data.select(split=LEARNED).unpaired()
    examples = encode(chat, list(frame["prompt"]), list(frame["completion"]), list(frame["row_id"]), insert, max_length=config.max_length)
    return shuffled([Single(example, bool(good)) for example, good in zip(examples, frame["desirable"], strict=True)], config.seed)


def shuffled(rows: Sequence[Any], seed: int) -> list[Any]:
    """Return rows in the order that the seed draws: trained in sequence, neighbours are strangers."""
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def rows_hash(rows: Sequence[Any]) -> str:
    """Hash what is learned (16 hex digits); rows are made of numbers, texts, tuples and dataclasses."""
    return hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()[:16]


def require_batches(name: str, rows: Sequence[Any], config: TrainingConfig) -> None:
    """Refuse what cannot give the KTO family its mismatched pairs, which are made of neighbours in a batch.

    Raises
    ------
    DataError
        If the batch has one row, the order changes with the epoch, or there are fewer rows than a batch.
    """
    if config.batch_size < 2:
        raise DataError(
            f"{name} got batch_size={config.batch_size}. Expected at least 2: its reference point is estimated on completions put after other "
            f"prompts of the batch. Use batch_size=2 with accumulation={max(1, config.accumulation // 2)}."
        )
    if config.order == "shuffled":
        raise DataError(f"{name} got order='shuffled'. Expected 'sequential' (or None): its mismatched pairs are fixed neighbours.")
    if len(rows) < config.batch_size:
        raise DataError(f"{name} has {len(rows)} rows and batch_size={config.batch_size}. Expected at least one full batch; make the batch smaller.")
