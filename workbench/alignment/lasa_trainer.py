"""KTO conditioned on the sentence that a harmful request was detected: LASA's third stage.

Some rows carry the sentence between prompt and completion. Policy and reference both read it, neither sum of log-probabilities counts it.
Mismatched pairs put the completion of the row before in the batch after this row's prompt and sentence (the flag stays with the prompt).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.alignment.conditioning import training_flags
from workbench.alignment.config import TrainingConfig
from workbench.alignment.losses import kl_estimate, kto_loss
from workbench.alignment.preference import PreferenceSet
from workbench.alignment.rows import LEARNED, Single, require_batches, rows_hash, singles_of
from workbench.alignment.sequences import Example, collate, completion_logprobs
from workbench.alignment.steps import StepTrainer
from workbench.alignment.trainers import LASA, Job
from workbench.models.chat import ChatModel


class ConditionedKTO(StepTrainer):
    """Lowers :func:`~workbench.alignment.losses.kto_loss` on rows that may carry the sentence."""

    options: LASA
    longest: int

    def loss_of(self, model: Any, rows: list[Single]) -> tuple[Tensor, dict[str, Any]]:
        """Return the mean loss, the reference point and the mean rewards."""
        desirable = torch.tensor([row.desirable for row in rows], device=self.start.device)
        matched = collate(self.start, [row.example for row in rows])
        mismatched = collate(self.start, rotated([row.example for row in rows], self.longest))
        self.count(int(matched.mask.sum() + mismatched.mask.sum()))
        with torch.no_grad():
            policy_apart, _ = completion_logprobs(model, mismatched)
        with self.reference() as reference:
            reference_apart, _ = completion_logprobs(reference, mismatched)
            frozen, _ = completion_logprobs(reference, matched)
        policy, _ = completion_logprobs(model, matched)
        # averaged before it is clamped, as every process must use the same point
        point = kl_estimate(*(self.accelerator.gather(side) for side in (policy_apart, reference_apart)))
        found = kto_loss(policy, frozen, desirable, point, self.options.beta, self.options.desirable_weight, self.options.undesirable_weight)
        parts = {"kl": point}
        for name, which in (("rewards/chosen", desirable), ("rewards/rejected", ~desirable)):
            if which.any():
                parts[name] = found.rewards[which].mean()
        return found.loss.mean(), parts


def rotated(examples: list[Example], longest: int) -> list[Example]:
    """Put after every prompt, with its sentence, the completion of the row before it (of the last row after the first prompt), cut to fit."""
    before = [examples[-1], *examples[:-1]]
    return [
        Example(own.prompt_ids, own.insert_ids, other.completion_ids[: longest - len(own.opening_ids)])
        for own, other in zip(examples, before, strict=True)
    ]


def job(method: LASA, chat: ChatModel, data: PreferenceSet, config: TrainingConfig, folder: Path) -> Job:
    """Prepare conditioned KTO: draw or read the flags, tokenise.

    Raises
    ------
    DataError
        If the batch or the order does not allow mismatched pairs, or the signal lacks its interpreter.
    ModelError
        If the sentence has words that the model does not know.
    """
    learned = data.select(split=LEARNED).unpaired()
    flags = training_flags(
        learned,
        method.condition,
        signal=method.signal,
        rng=random.Random(config.seed),
        interpreter=method.interpreter,
        chat=chat,
    )
    sentences = method.condition.ids_of(chat, list(learned["language"]))
    rows = singles_of(chat, data, config, [told if unsafe else None for told, unsafe in zip(sentences, flags, strict=True)])
    require_batches("lasa", rows, config)
    arguments = config.arguments(str(folder), device=chat.device.type, order="sequential", drop_last=True)

    def build(policy: Any, lora: Any) -> ConditionedKTO:
        trainer = ConditionedKTO(policy, lora, chat=chat, rows=rows, arguments=arguments)
        trainer.options, trainer.longest = method, min(config.max_length, chat.context)
        return trainer

    return Job(build, rows_hash(rows), 2)
