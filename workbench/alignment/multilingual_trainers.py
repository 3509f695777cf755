"""The two repairs that learn from translations: MPO carries the reward gap of a dominant language over, MLC makes translations one state."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.alignment.config import TrainingConfig
from workbench.alignment.losses import between_prompt_spread, masked_mean_state, mlc_loss, mpo_loss, reward_gap
from workbench.alignment.preference import PreferenceSet, reference_pairs
from workbench.alignment.rows import LEARNED, Pair, rows_hash, shuffled
from workbench.alignment.sequences import Batch, Example, collate, completion_logprobs, encode, hidden_and_logprobs, openings
from workbench.alignment.steps import StepTrainer
from workbench.alignment.trainers import MLC, MPO, Job
from workbench.errors import DataError
from workbench.models.chat import ChatModel
from workbench.models.hooks import find_parts


class Twins(NamedTuple):
    """A pair in a target language and the pair of its meaning in the dominant one."""

    target: Pair
    dominant: Pair


class Translated(NamedTuple):
    """A chosen reply in the reference language, and its prompt as rendered in every language."""

    chosen: Example
    prompts: tuple[tuple[int, ...], ...]


class GapSteps(StepTrainer):
    """Lowers :func:`~workbench.alignment.losses.mpo_loss`: three passes a batch, two of the policy and one of the reference."""

    options: MPO

    def loss_of(self, model: Any, rows: list[Twins]) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss, its two terms and the mean gaps."""
        target, dominant = (self._batch(list(side)) for side in zip(*rows, strict=True))
        self.count(int(target.mask.sum() + 2 * dominant.mask.sum()))
        with self.reference() as reference:
            frozen = hidden_and_logprobs(reference, dominant)
        gap = _gap(*completion_logprobs(model, target))
        moved = hidden_and_logprobs(model, dominant)
        wanted = _gap(frozen.logprobs, frozen.lengths)
        policy_states, frozen_states = (masked_mean_state(scored.states, dominant.mask) for scored in (moved, frozen))
        found = mpo_loss(gap, wanted, policy_states, frozen_states, beta=self.options.beta)
        return found.loss, {
            "gap_term": found.gap_term,
            "state_term": found.state_term,
            "reward_gap": gap.mean(),
            "reward_gap_wanted": wanted.mean(),
        }

    def _batch(self, pairs: list[Pair]) -> Batch:
        return collate(self.start, [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])


class ConsistencySteps(StepTrainer):
    """Lowers the loss of replies in the reference language plus the weighted :func:`~workbench.alignment.losses.mlc_loss` of translations."""

    options: MLC
    projection: Float[Tensor, "hidden kept"] | None = None

    def loss_of(self, model: Any, rows: list[Translated]) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss, its two terms, and how far apart prompts of different meaning stay."""
        replies = collate(self.start, [row.chosen for row in rows])
        logprobs, lengths = completion_logprobs(model, replies)
        learned = -logprobs.sum() / lengths.sum()
        states = self._last_states([ids for row in rows for ids in row.prompts])
        self.count(int(replies.mask.sum()) + sum(len(ids) for row in rows for ids in row.prompts))
        of_row = states.split([len(row.prompts) for row in rows])
        kept = of_row if self.projection is None else [part @ self.projection.to(part) for part in of_row]
        consistency = torch.stack([mlc_loss(part, self.options.temperature) for part in kept]).mean()
        parts: dict[str, Any] = {"reply_term": learned, "consistency_term": consistency}
        if len(rows) > 1:
            parts["spread"] = between_prompt_spread(torch.stack([part.mean(dim=0) for part in of_row]))
        return learned + self.options.weight * consistency, parts

    def _last_states(self, prompts: list[tuple[int, ...]]) -> Float[Tensor, "prompt hidden"]:
        ids, mask = self.start.pad(prompts)
        states = find_parts(self.accelerator.unwrap_model(self.model)).base(input_ids=ids, use_cache=False).last_hidden_state
        return states[torch.arange(len(prompts), device=states.device), mask.sum(dim=1) - 1]


def job(method: MPO | MLC, chat: ChatModel, data: PreferenceSet, config: TrainingConfig, folder: Path) -> Job:
    """Prepare either method.

    Raises
    ------
    PromptError, DataError
        If the reference language has no pair, or no pair has a twin in it.
    """
    kind: Any = GapSteps if isinstance(method, MPO) else ConsistencySteps
    rows: list[Any] = _twins(method, chat, data, config) if isinstance(method, MPO) else _translated(method, chat, data, config)
    arguments = config.arguments(str(folder), device=chat.device.type, order="shuffled", drop_last=False)

    def build(policy: Any, lora: Any) -> StepTrainer:
        trainer = kind(policy, lora, chat=chat, rows=rows, arguments=arguments)
        trainer.options = method
        if isinstance(method, MLC) and method.projection is not None:
            drawn = torch.randn(chat.hidden_size, method.projection, generator=torch.Generator().manual_seed(config.seed))
            trainer.projection = drawn / method.projection**0.5
        return trainer

    return Job(build, rows_hash(rows))


def _gap(logprobs: Tensor, lengths: Tensor) -> Tensor:
    half = len(logprobs) // 2
    return reward_gap(logprobs[:half], lengths[:half], logprobs[half:], lengths[half:])


def _twins(method: MPO, chat: ChatModel, data: PreferenceSet, config: TrainingConfig) -> list[Twins]:
    frame = reference_pairs(data.select(split=LEARNED), method.reference)
    names = list(frame["pair_id"])
    sides = []
    for prefix in ("", "reference_"):
        prompts = list(frame[f"{prefix}prompt"])
        replies = [encode(chat, prompts, list(frame[prefix + side]), names, max_length=config.max_length) for side in ("chosen", "rejected")]
        sides.append([Pair(*pair) for pair in zip(*replies, strict=True)])
    return shuffled([Twins(*twins) for twins in zip(*sides, strict=True)], config.seed)


def _translated(method: MLC, chat: ChatModel, data: PreferenceSet, config: TrainingConfig) -> list[Translated]:
    frame = data.select(split=LEARNED).frame
    texts = frame.drop_duplicates(["meaning_id", "language"]).groupby("meaning_id", sort=False)["prompt"].agg(list)
    own = frame[(frame["language"] == method.reference) & frame["meaning_id"].map(texts.map(len)).gt(1)]
    if own.empty:
        raise DataError(
            f"No pair in {method.reference!r} has its meaning in another language too. Expected parallel pairs (one meaning_id in several "
            f"languages); there are {', '.join(data.languages)}. Give such pairs, or another reference language (--reference)."
        )
    chosen = encode(chat, list(own["prompt"]), list(own["chosen"]), list(own["pair_id"]), max_length=config.max_length)
    rendered = [tuple(openings(chat, texts[meaning])) for meaning in own["meaning_id"]]
    return shuffled([Translated(*row) for row in zip(chosen, rendered, strict=True)], config.seed)
