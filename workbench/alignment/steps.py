"""The Trainer under the methods that are ours: a loss of rows, parts of it to log, a reference that is the frozen start."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from workbench.alignment.guarded import Guarded
from workbench.models.chat import ChatModel, twin_of


class StepTrainer(Guarded, Trainer):
    """Trains on rows (any objects); subclasses say what the loss of some rows is.

    Parameters
    ----------
    policy : PreTrainedModel
        A copy of the start that may be changed.
    lora : LoraConfig, optional
        Adapter to train instead of the weights.
    chat : ChatModel
        The start: reference, tokenizer and template.
    rows : sequence
        What a batch is made of.
    arguments : dict
        Of ``TrainingArguments``.
    """

    loss_is_scaled_for_ga = False

    def __init__(self, policy: nn.Module, lora: Any, *, chat: ChatModel, rows: Sequence[Any], arguments: dict[str, Any]) -> None:
        self.start = chat
        self._parts: defaultdict[str, list[float]] = defaultdict(list)
        self._frozen = None if lora is not None else twin_of(chat.model)
        if lora is not None:
            from peft import get_peft_model

            policy = get_peft_model(policy, lora)
        super().__init__(model=policy, args=TrainingArguments(**arguments), data_collator=_as_rows, train_dataset=rows)

    @abstractmethod
    def loss_of(self, model: Any, rows: list[Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the mean loss of some rows and parts of it to log (numbers or tensors of one).

        Parameters
        ----------
        model : Module
            The policy as it must be called (wrapped, where several processes train).
        rows : list
            One batch.
        """

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """Give the frozen start without gradients, in the policy's precision: a twin of the start, or the policy with its adapter switched off."""
        with torch.no_grad(), self.accelerator.autocast():
            if self._frozen is not None:
                yield self._frozen
            else:
                plain = self.accelerator.unwrap_model(self.model)
                with plain.disable_adapter():
                    yield plain

    def count(self, n_tokens: int) -> None:
        """Add tokens that a loss has read."""
        self.state.num_input_tokens_seen += n_tokens

    def tokens_of(self, inputs: Any) -> int:
        """Nothing here: losses call :meth:`count`."""
        return 0

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Tensor:
        """Return the loss of a batch."""
        loss, parts = self.loss_of(model, inputs["rows"].rows)
        for key, value in parts.items():
            self._parts[key].append(float(torch.as_tensor(value).detach()))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the means of the parts since the last time."""
        logs |= {key: sum(values) / len(values) for key, values in self._parts.items() if key != "loss"}
        self._parts.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0


@dataclass(frozen=True)
class _Closed:
    """Keeps the libraries from walking through rows in search of tensors."""

    rows: list[Any]


def _as_rows(rows: list[Any]) -> dict[str, Any]:
    return {"rows": _Closed(rows)}
