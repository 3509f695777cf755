"""Where a reply ends: at the model's own end tokens, at tokens asked for, and at pieces of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.errors import ModelError
from workbench.models.chat import ChatModel


def stop_tokens(chat: ChatModel) -> list[int]:
    """Return every token that ends a reply: those of the model's generation config (there may be several) and the tokenizer's."""
    declared = getattr(getattr(chat.model, "generation_config", None), "eos_token_id", None)
    listed = [] if declared is None else list(declared) if isinstance(declared, Sequence | torch.Tensor) else [declared]
    if chat.tokenizer.eos_token_id is not None:
        listed.append(chat.tokenizer.eos_token_id)
    return sorted({int(token) for token in listed})


class Ending(NamedTuple):
    """A reply cut where it ends.

    Attributes
    ----------
    text : str
        Without special tokens, end token and stop text, blanks at both ends removed.
    n_tokens : int
        Tokens before the end token, or before the one in which a stop text begins.
    finished : bool
        Whether it ended by itself.
    """

    text: str
    n_tokens: int
    finished: bool


@dataclass(frozen=True)
class Stops:
    """What ends a reply.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerBase
        Turns tokens into text.
    tokens : tuple of int
        Any of these ends a reply.
    texts : tuple of str
        So does any of these in what was generated, wherever token borders fall.
    """

    tokenizer: Any
    tokens: tuple[int, ...]
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, chat: ChatModel, stop: Sequence[str | int] = ()) -> Stops:
        """Add what was asked for to the model's own end tokens.

        Raises
        ------
        ModelError
            For an empty text, or a token outside the vocabulary.
        """
        if isinstance(stop, str):
            stop = (stop,)
        size = chat.model.get_input_embeddings().weight.shape[0]
        wrong = [s for s in stop if not (isinstance(s, str) and s) and not (isinstance(s, int) and not isinstance(s, bool) and 0 <= s < size)]
        if wrong:
            raise ModelError(f"stop={wrong[0]!r}: expected texts of at least one character, or token ids from 0 to {size - 1}.")
        asked = [s for s in stop if isinstance(s, int)]
        return cls(chat.tokenizer, tuple(sorted({*stop_tokens(chat), *asked})), tuple(sorted({s for s in stop if isinstance(s, str)})))

    def cut(self, tokens: Sequence[int]) -> Ending:
        """Cut a row of generated tokens at the first thing that ends it."""
        end = next((i for i, token in enumerate(tokens) if token in self.tokens), None)
        kept = list(tokens if end is None else tokens[:end])
        text = self._text(kept)
        found = [at for at in (text.find(stop) for stop in self.texts) if at >= 0]
        if not found:
            return Ending(text.strip(), len(kept), end is not None)
        before = min(found)
        n = next((n for n in range(len(kept)) if len(self._text(kept[: n + 1])) > before), len(kept))
        return Ending(text[:before].strip(), n, True)

    def criteria(self, width: int) -> Any:
        """Return what tells Hugging Face's ``generate`` that rows have reached a stop text; None without such texts.

        Parameters
        ----------
        width : int
            Columns of the padded prompts, which are not searched.
        """
        if not self.texts:
            return None
        from transformers import StoppingCriteria, StoppingCriteriaList

        reach = max(len(text.encode("utf-8")) for text in self.texts) + 1  # a token holds one byte at least

        class AtText(StoppingCriteria):
            """One decision per row; the few last tokens are read at each step, the whole reply only where they match."""

            def __call__(_self, input_ids: Tensor, scores: Any, **_options: Any) -> Tensor:
                rows = [row[width:] for row in input_ids.tolist()]
                tails = self.tokenizer.batch_decode([row[-reach:] for row in rows], skip_special_tokens=True)
                hit = [any(text in tail for text in self.texts) and self.cut(row).finished for row, tail in zip(rows, tails, strict=True)]
                return torch.tensor(hit, device=input_ids.device)

        return StoppingCriteriaList([AtText()])

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)
