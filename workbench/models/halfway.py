"""Prompts whose beginnings are read once and kept, so that what is changed at their last tokens costs only those tokens.

A causal model's earlier tokens do not know of a change at a later one: reading the whole prompt again for each of many
edits of its last token would compute the same states every time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models.batching import batches
from workbench.models.chat import ChatModel
from workbench.models.next_token import require_telling
from workbench.models.passes import Batch, announced
from workbench.models.tokens import Tokens

#: Logits of one pass, about: 128 MiB in float32.
_LOGITS = 2**25


@dataclass(frozen=True, eq=False)
class Halfway:
    """One batch of rendered prompts, left-padded and read up to ``tail`` tokens before their ends.

    Attributes
    ----------
    rows : int array [prompt]
        Which of the prompts given these are.
    tail : int
        Tokens that each call of :meth:`logits` reads: the last ones of every prompt.
    """

    chat: ChatModel
    rows: Int[np.ndarray, " prompt"]
    tail: int
    names: tuple[str, ...]
    _ids: Tensor
    _mask: Tensor
    _batch: Batch
    _cache: Any

    @classmethod
    def read(cls, chat: ChatModel, tokens: Sequence[Tokens], names: Sequence[str], *, tail: int, rows: np.ndarray | None = None) -> Halfway:
        """Read the beginnings of a batch of prompts, once."""
        ids, mask = chat.pad([t.ids for t in tokens], side="left")
        batch = Batch.of(tokens, side="left", prompt_ids=names)
        head, cache = ids.shape[1] - tail, None
        if head > 0:
            with torch.inference_mode(), announced(batch):
                places = _places(mask)[:, :head]
                cache = chat.parts.base(input_ids=ids[:, :head], attention_mask=mask[:, :head], position_ids=places, use_cache=True).past_key_values
        return cls(chat, np.arange(len(tokens)) if rows is None else rows, tail, tuple(names), ids, mask, batch, cache)

    def logits(self) -> Float[Tensor, "prompt vocab"]:
        """Return the logits of the next token after each prompt, under whatever edits are active: one pass over the last tokens.

        An edit sees [prompt tail hidden]; one that acts before the tail is too late, since the beginnings are read already.

        Raises
        ------
        ModelCheckError
            If logits are NaN, infinite or all alike, naming the prompts and the active edits.
        """
        with torch.inference_mode(), announced(self._batch):
            found = self.chat.model(
                input_ids=self._ids[:, -self.tail :],
                attention_mask=self._mask,
                position_ids=_places(self._mask)[:, -self.tail :],
                past_key_values=copy.deepcopy(self._cache),  # a pass appends to the cache it is given
                use_cache=self._cache is not None,
                logits_to_keep=1,
            ).logits[:, -1]
        require_telling(self.chat, found, self.names, "next-token logits")
        return found


def halfway(chat: ChatModel, tokens: Sequence[Tokens], names: Sequence[str], *, tail: int, token_budget: int = 16384) -> Iterator[Halfway]:
    """Read the beginnings of rendered prompts, batch by batch; each prompt comes once.

    Parameters
    ----------
    tokens : sequence of Tokens
        From ``chat.tokenise``.
    names : sequence of str
        Prompt ids, for messages.
    tail : int
        How many last tokens are left to be read; at least 1 and at most the shortest prompt.
    token_budget : int
        Tokens per batch, padding included; their keys and values stay in memory.
    """
    at_once = max(_LOGITS // max(int(chat.model.get_output_embeddings().weight.shape[0]), 1), 1)
    for group in batches([len(t) for t in tokens], token_budget):
        for start in range(0, len(group), at_once):
            rows = group[start : start + at_once]
            yield Halfway.read(chat, [tokens[i] for i in rows], [names[i] for i in rows], tail=tail, rows=rows)


def _places(mask: Tensor) -> Tensor:
    """Count the tokens of each row from its first that is not padding."""
    return (mask.cumsum(dim=1) - 1).clamp_min(0)
