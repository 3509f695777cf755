"""The one callback of a training: its bar, its monitor, and the mark that makes a checkpoint count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from workbench.alignment.checkpoints import mark

#: Called with the step and the model (plain, in eval mode); returns rows with statistic, language ("" for none) and value.
Monitor = Callable[[int, Any], Iterable[Mapping[str, Any]]]


@contextmanager
def asked(model: Any) -> Iterator[Any]:
    """Let a model that is being trained answer: eval mode, KV cache, no gradients, the global generators as they were.

    Yields
    ------
    PreTrainedModel
        The plain model; of a PEFT model the base with its adapter in place.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    training, cache = model.training, plain.config.use_cache
    devices = list(range(torch.cuda.device_count()))
    model.eval()
    plain.config.use_cache = True
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield plain
    finally:
        plain.config.use_cache = cache
        model.train(training)


class Watch(TrainerCallback):
    """Shows, measures and marks.

    Parameters
    ----------
    trainer : Guarded
        The trainer it is added to.
    name : str
        The bar's name.
    monitor : Monitor, optional
        Called before the first step, every ``eval_every`` steps and after the last, by the first process only.
    seconds : float
        How long the training had run before it was continued.
    """

    def __init__(self, trainer: Any, *, name: str, monitor: Monitor | None, eval_every: int, seconds: float, progress: bool) -> None:
        self.trainer, self.name, self.monitor, self.eval_every, self.progress = trainer, name, monitor, eval_every, progress
        self._before, self._started, self._apart = seconds, time.monotonic(), 0.0
        self.bar: Any = None

    @property
    def seconds(self) -> float:
        """Seconds trained, those before a continuation included and those of the monitor not."""
        return self._before + time.monotonic() - self._started - self._apart

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar; measure the start."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            desc=self.name,
            disable=not (self.progress and state.is_world_process_zero),
            smoothing=0.05,
        )
        if state.global_step == 0:
            self._measure(state)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Refuse gradients that are not finite."""
        self.trainer.require_finite_gradients()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar; measure when it is time. Runs before the step is saved, so that a checkpoint holds what was measured."""
        self.bar.set_postfix(loss=f"{self.trainer.last_loss:.3f}", refresh=False)
        self.bar.update(1)
        if state.global_step % self.eval_every == 0 or state.global_step == state.max_steps:
            self._measure(state)
        if control.should_save or state.global_step == state.max_steps:
            control.should_log = True  # a continuation begins with empty sums: a row of losses ends where a checkpoint does

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Declare the checkpoint whole."""
        if state.is_world_process_zero:
            mark(Path(args.output_dir), state.global_step, self.seconds)

    def close(self) -> None:
        """Close the bar, also after an error."""
        if self.bar is not None:
            self.bar.close()

    def _measure(self, state: Any) -> None:
        if self.monitor is None or not state.is_world_process_zero:
            return
        began = time.monotonic()
        with asked(self.trainer.accelerator.unwrap_model(self.trainer.model)) as model:
            rows = [
                {"statistic": str(row["statistic"]), "language": str(row.get("language") or ""), "value": float(row["value"])}
                for row in self.monitor(state.global_step, model)
            ]
        self._apart += time.monotonic() - began
        state.log_history.append({"step": state.global_step, "rows": rows})
