"""The training loop of multilingual self-distillation: replies drawn at every step, three teachers, one of which a checkpoint must hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from workbench.alignment.config import TrainingConfig
from workbench.alignment.distillation import Query
from workbench.alignment.ema import MovingAverage
from workbench.alignment.msd import MSD, msd_step
from workbench.alignment.rows import rows_hash, shuffled
from workbench.alignment.steps import StepTrainer
from workbench.alignment.trainers import Job
from workbench.errors import DataError
from workbench.models.chat import ChatModel

#: Of a checkpoint: the moving average that teaches.
AVERAGE = "average.safetensors"


class Distillation(StepTrainer):
    """Lowers the divergence from the teacher on replies that depend on seed, step and pass alone.

    Parameters
    ----------
    options : MSD
        How it is done.
    """

    def __init__(self, policy: Any, lora: Any, *, options: MSD, **made_with: Any) -> None:
        super().__init__(policy, lora, **made_with)
        self.options = options
        self.average = MovingAverage(self.model, options.decay) if options.teacher == "ema" else None
        if self.average is not None:
            self.add_callback(_Follow(self.average))

    def loss_of(self, model: Any, rows: list[Query]) -> tuple[Tensor, dict[str, Any]]:
        """Return the loss, the divergence per token, and how long and how finished the replies are."""
        policy = self.accelerator.unwrap_model(self.model)
        found = msd_step(self.start, policy, self.teacher, rows, self.options, seed=self.step_seed, forward=model)
        tokens = int(found.replies.mask.sum())
        self.count(sum(len(row.prompt_ids) + len(row.teacher_ids) for row in rows) + 2 * tokens)
        return found.loss, {
            "divergence": found.divergence.sum() / tokens,
            "length": tokens / len(rows),
            "finished": found.replies.finished.float().mean(),
        }

    @contextmanager
    def teacher(self) -> Iterator[Any]:
        """Give the model that teaches at this step, without gradients."""
        if self.options.teacher == "frozen":
            with self.reference() as model:
                yield model
        elif self.average is not None:
            with self.average.exchanged() as model:
                yield model
        else:
            with torch.no_grad():
                yield self.accelerator.unwrap_model(self.model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.average is not None and self.args.should_save:
            save_file(self.average.tensors(), Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / AVERAGE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.load(load_file(Path(resume_from_checkpoint) / AVERAGE, device=str(self.args.device)))


class _Follow(TrainerCallback):
    """Lets the average follow after every step, before the step is saved."""

    def __init__(self, average: MovingAverage) -> None:
        self.average = average

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.average.update()


def job(method: MSD, chat: ChatModel, data: Sequence[Query], config: TrainingConfig, folder: Path) -> Job:
    """Prepare self-distillation.

    Raises
    ------
    DataError
        If there is no query, or one leaves no room for its reply.
    """
    if not data:
        raise DataError("There is no query to distil. Expected rows of queries_of(chat, query_pairs(grid, context), ...).")
    longest = max(data, key=lambda row: max(len(row.prompt_ids), len(row.teacher_ids)))
    width, room = max(len(longest.prompt_ids), len(longest.teacher_ids)) + method.max_new_tokens, min(config.max_length, chat.context)
    if width > room:
        raise DataError(
            f"Query {longest.prompt_id} takes {width} tokens with its reply of up to {method.max_new_tokens}; expected at most {room}. Leave it out, "
            f"allow shorter replies (max_new_tokens), or raise max_length (at most {chat.context})."
        )
    rows = shuffled(data, config.seed)
    arguments = config.arguments(str(folder), device=chat.device.type, order="shuffled", drop_last=False)

    def build(policy: Any, lora: Any) -> Distillation:
        return Distillation(policy, lora, options=method, chat=chat, rows=rows, arguments=arguments)

    return Job(build, rows_hash(rows))
