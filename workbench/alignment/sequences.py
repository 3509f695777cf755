"""Prompts and completions as the tokens that training reads: the same in front of a completion as inference puts in front of a reply.

A sequence is a rendered prompt, what is inserted after it (nothing, or a sentence), and a completion that ends with the token
that ends the model's turn. Each part is cut into tokens on its own, so what a completion says never moves the border in front of
it; generation puts the same ids there, through the same function (LASA's release joins strings at inference and tokens in training).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.alignment.logprobs import sequence_logprobs, token_logprobs
from workbench.alignment.turns import reply_ids, turn_of
from workbench.behavior.inserted import with_inserted
from workbench.errors import DataError, ModelError, PromptError, shown
from workbench.models.chat import ChatModel
from workbench.models.sites import find_parts

#: What follows one prompt: a text, its token ids, or nothing.
Inserted = str | Sequence[int] | None


@dataclass(frozen=True)
class Example:
    """One row of training.

    Attributes
    ----------
    prompt_ids : tuple of int
        The rendered prompt, up to and with the generation header.
    insert_ids : tuple of int
        What stands between it and the completion; read by the model, never learned.
    completion_ids : tuple of int
        What is learned, the end token included (unless it was cut off at the longest length).
    """

    prompt_ids: tuple[int, ...]
    insert_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    @property
    def opening_ids(self) -> tuple[int, ...]:
        """All that stands in front of the completion: what inference continues."""
        return self.prompt_ids + self.insert_ids

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole row."""
        return self.opening_ids + self.completion_ids

    def __len__(self) -> int:
        return len(self.ids)


class Batch(NamedTuple):
    """Rows padded on the right to one length.

    Attributes
    ----------
    ids : int64 Tensor [batch token]
    mask : bool Tensor [batch token]
        True on what is not padding.
    labels_mask : bool Tensor [batch token]
        True on the tokens of completions, and nowhere else.
    """

    ids: Int[Tensor, "batch token"]
    mask: Bool[Tensor, "batch token"]
    labels_mask: Bool[Tensor, "batch token"]


class Scored(NamedTuple):
    """What a model makes of a batch.

    Attributes
    ----------
    states : Tensor [batch token hidden]
        After the last block and the final norm (the last of Hugging Face's ``hidden_states``), padding included: mask it.
    logprobs : Tensor [batch]
        Summed over each completion, in nats.
    lengths : int64 Tensor [batch]
        Tokens of each completion.
    """

    states: Float[Tensor, "batch token hidden"]
    logprobs: Float[Tensor, " batch"]
    lengths: Int[Tensor, " batch"]


def openings(
    chat: ChatModel, prompts: Sequence[str], insert: str | Sequence[Inserted] | None = None, names: Sequence[str] | None = None
) -> list[tuple[int, ...]]:
    """Return what stands in front of each completion, in training and in inference alike: the rendered prompt and what is inserted.

    Parameters
    ----------
    prompts : sequence of str
        User texts.
    insert : str, or sequence of (str, token ids or None), optional
        One for all, or one per prompt. A text is cut on its own, not together with the prompt.
    names : sequence of str, optional
        Ids for messages.

    Raises
    ------
    PromptError, ModelCheckError
        As :meth:`~workbench.models.chat.ChatModel.tokenise`.
    ModelError
        An inserted text with a word that the tokenizer does not know.
    """
    tokens = {str(row): t for row, t in enumerate(chat.tokenise(list(prompts), names=names))}
    inserted = dict(zip(tokens, _inserted(chat, insert, len(tokens)), strict=True))
    return [t.ids for t in with_inserted(tokens, inserted).values()]


def encode(
    chat: ChatModel,
    prompts: Sequence[str],
    completions: Sequence[str],
    names: Sequence[str] | None = None,
    insert: str | Sequence[Inserted] | None = None,
    *,
    max_length: int | None = None,
) -> list[Example]:
    """Turn prompts and completions into rows of training.

    Parameters
    ----------
    prompts, completions : sequence of str
        As users and models write them, without template and end token.
    names : sequence of str, optional
        Ids for messages; the texts are never shown.
    insert
        As in :func:`openings`.
    max_length : int, optional
        Longest row in tokens; the model's context if not given. A longer completion is cut at its end and then has no end token, so that
        nothing teaches the model to stop in the middle of a sentence; a prompt is never cut.

    Raises
    ------
    DataError
        If a prompt leaves no room for a completion, naming it.
    PromptError
        If a prompt or a completion is empty, or the numbers of texts differ.
    ModelError
        If no token ends a reply of this model.
    """
    names = [str(row) for row in range(len(prompts))] if names is None else list(names)
    if not len(prompts) == len(completions) == len(names):
        raise PromptError(f"{len(prompts)} prompts, {len(completions)} completions and {len(names)} names. Expected one of each per row.")
    empty = [name for name, text in zip(names, completions, strict=True) if not text.strip()]
    if empty:
        raise PromptError(f"Empty completions in rows {_some(empty)}. Expected at least one visible character; leave these rows out.")
    longest = chat.context if max_length is None else min(max_length, chat.context)
    plain = openings(chat, prompts, None, names)
    opened = openings(chat, prompts, insert, names) if insert is not None else plain
    full = [name for name, ids in zip(names, opened, strict=True) if len(ids) >= longest]
    if full:
        raise DataError(
            f"{len(full)} of {len(names)} prompts fill the longest row of {longest} tokens and leave no room for a completion: {_some(full)}. "
            f"Expected shorter ones: leave them out{'' if longest == chat.context else f', or raise max_length (at most {chat.context})'}."
        )
    turn = turn_of(chat)
    replies = reply_ids(chat, completions, turn)
    return [
        Example(before, ids[len(before) :], (*reply, turn.end)[: longest - len(ids)])
        for before, ids, reply in zip(plain, opened, replies, strict=True)
    ]


def collate(chat: ChatModel, examples: Sequence[Example]) -> Batch:
    """Pad rows on the right to one length, on the model's device.

    Examples
    --------
    >>> batch = collate(chat, encode(chat, ["How do I bake bread?"], ["With flour."]))  # doctest: +SKIP
    """
    ids, mask = chat.pad([example.ids for example in examples])
    token = torch.arange(ids.shape[1], device=ids.device)
    starts = torch.tensor([len(example.opening_ids) for example in examples], device=ids.device)
    kept = mask.bool()
    return Batch(ids, kept, kept & (token >= starts[:, None]))


def completion_logprobs(model: Any, batch: Batch) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Return how likely a model finds each completion: summed log-probability in nats, and its tokens.

    One pass over right-padded rows, without a mask (the model is causal: padding stands behind everything that counts). The head sees
    only the places that predict a completion of some row. Inserted tokens are read and not counted.

    Parameters
    ----------
    model : Module
        A causal language model of transformers, with or without an adapter; gradients as they are switched around the call.

    Returns
    -------
    logprobs : Tensor [batch]
        In float32 at least.
    lengths : int64 Tensor [batch]
        For means.
    """
    first = int(batch.labels_mask.long().argmax(dim=1).min())
    kept = batch.ids.shape[1] - first + 1  # the place before the first completion predicts it
    logits = model(input_ids=batch.ids, use_cache=False, logits_to_keep=kept).logits
    ids, counted = batch.ids[:, first:].to(logits.device), batch.labels_mask[:, first:].to(logits.device)
    return sequence_logprobs(token_logprobs(logits[:, :-1], ids), counted), counted.sum(dim=1)


def hidden_and_logprobs(model: Any, batch: Batch) -> Scored:
    """Return the final states of a batch beside what :func:`completion_logprobs` returns, from one pass.

    The states are taken where the decoder hands them to its head: asking for ``output_hidden_states`` would leave recorders on the blocks.
    """
    taken: list[Tensor] = []

    def take(_module: Any, _args: Any, output: Any) -> None:
        taken.append(output[0])

    # where several processes train, the model is wrapped
    handle = find_parts(getattr(model, "module", model)).base.register_forward_hook(take)
    try:
        logprobs, lengths = completion_logprobs(model, batch)
    finally:
        handle.remove()
    if len(taken) != 1:
        raise ModelError(f"{type(model).__name__}: its decoder ran {len(taken)} times in one pass. Expected once; pass the unwrapped model.")
    return Scored(taken[0], logprobs, lengths)


def _inserted(chat: ChatModel, insert: str | Sequence[Inserted] | None, n: int) -> list[tuple[int, ...]]:
    if insert is None or isinstance(insert, str):
        insert = [insert] * n
    if len(insert) != n:
        raise PromptError(f"{len(insert)} insertions for {n} prompts. Expected one text for all, or one entry per prompt (None inserts nothing).")
    known: dict[str, tuple[int, ...]] = {}
    for text in {item for item in insert if isinstance(item, str)}:
        known[text] = tuple(int(token) for token in chat.tokenizer(text, add_special_tokens=False)["input_ids"])
        if not known[text] or (chat.tokenizer.unk_token_id is not None and chat.tokenizer.unk_token_id in known[text]):
            raise ModelError(
                f"The tokenizer of {chat.name} does not know every word of the inserted text ({len(text)} characters). Expected words of its "
                "vocabulary."
            )
    return [() if item is None else known[item] if isinstance(item, str) else tuple(int(token) for token in item) for item in insert]


def _some(names: Sequence[str]) -> str:
    return ", ".join(shown(name, 64) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
