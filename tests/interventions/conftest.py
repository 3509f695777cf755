"""What the tests of edits share: prompts of unequal length, a vector, and passes whose every token's state is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

from workbench.models.passes import Batch, announced

TEXTS = ["Hello there.", "How do I bake bread at home?", "Name three rivers and tell me which is the longest of them."]
LAYER = 2
#: Those whose blocks differ: a norm behind each write (Gemma), one matrix for queries, keys and values (Phi-3).
FAMILIES = ("llama", "qwen2", "gemma2", "gemma3", "phi3")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny matrices off the second core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def vector(rng: np.random.Generator) -> np.ndarray:
    """Return a vector of the tiny models' width, longer than 1."""
    return 3 * rng.normal(size=32)


class Stepper:
    """Reads prompts, then given further tokens, and keeps one layer's state of every token as the next block sees it."""

    further = torch.tensor([[7, 9, 30], [11, 8, 31], [40, 12, 5]])

    def __init__(self, chat: Any) -> None:
        self.chat = chat
        self.tokens = chat.tokenise(TEXTS)
        self.ids, self.mask = chat.pad([t.ids for t in self.tokens], side="left")
        self.width = self.ids.shape[1]

    def run(self, *edits: Any, cache: bool, announce: bool = True, layer: int = LAYER) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states [prompt token hidden] of the layer and logits, prompt and further tokens side by side."""
        seen: list[torch.Tensor] = []
        mask = torch.cat([self.mask, torch.ones_like(self.further)], dim=1)
        position = (mask.cumsum(1) - 1).clamp_min(0)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            # opened first, so it acts last and sees what the edits left
            stack.enter_context(self.chat.edited({layer: lambda residual: seen.append(residual.clone()) or residual}))
            stack.enter_context(self.chat.edited(*edits))
            if announce:
                stack.enter_context(announced(Batch.of(self.tokens, side="left", prompt_ids=["a", "b", "c"])))
            if not cache:
                whole = torch.cat([self.ids, self.further], dim=1)
                logits = self.chat.model(input_ids=whole, attention_mask=mask, position_ids=position, use_cache=False).logits
                return seen[0], logits
            step = self.chat.model(input_ids=self.ids, attention_mask=self.mask, position_ids=position[:, : self.width], use_cache=True)
            logits = [step.logits]
            for n in range(self.further.shape[1]):
                until = self.width + n + 1
                step = self.chat.model(
                    input_ids=self.further[:, n : n + 1],
                    attention_mask=mask[:, :until],
                    position_ids=position[:, until - 1 : until],
                    past_key_values=step.past_key_values,
                    use_cache=True,
                )
                logits.append(step.logits)
        return torch.cat(seen, dim=1), torch.cat(logits, dim=1)

    def region(self, name: str) -> torch.Tensor:
        """Say which tokens a scope names, token by token, from what the tokeniser said."""
        where = torch.zeros(len(self.tokens), self.width + self.further.shape[1], dtype=torch.bool)
        for row, t in enumerate(self.tokens):
            start = self.width - len(t)
            for column in range(where.shape[1]):
                generated = column >= self.width
                where[row, column] = {
                    "all": column >= start,
                    "prompt": start <= column < self.width,
                    "last_prompt": column == self.width - 1,
                    "instruction": start + t.inst_start <= column < start + t.inst_end,
                    "decode": generated,
                }[name]
        return where


@pytest.fixture(scope="session")
def stepper(tiny_model: Any) -> Any:
    """Return a factory of steppers by family."""
    made: dict[str, Stepper] = {}

    def of(family: str = "llama") -> Stepper:
        if family not in made:
            made[family] = Stepper(tiny_model(family))
        return made[family]

    return of
