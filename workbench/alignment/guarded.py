"""What every trainer of this package does around a step: count tokens, stop before a number that is not finite reaches the weights.

A mixin, so that TRL's trainers and ours behave alike. Its other methods keep TRL from talking to the network and from writing files
that are no checkpoint: TRL reports every run to the Hugging Face hub unless that is switched off, and the Trainer pickles its arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.errors import TrainingError

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


class Guarded(_Base):
    """Mixed in before a ``transformers.Trainer``.

    Attributes
    ----------
    last_loss : float
        Loss of the step that runs, a mean over its passes; for the bar.
    step_seed : tuple of int
        Seed, step and pass: what sampling inside a step draws from, so that a resumed run draws the same.
    """

    last_loss: float = float("nan")
    _pass: tuple[int, int] = (-1, 0)
    _summed: float = 0.0

    @property
    def step_seed(self) -> tuple[int, int, int]:
        """Seed of the run, step of the optimiser, pass within the step."""
        return (self.args.seed, *self._pass)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Run one pass forwards and backwards.

        Raises
        ------
        TrainingError
            If the loss is not finite.
        """
        step = self.state.global_step
        self._pass = (step, self._pass[1] + 1 if self._pass[0] == step else 0)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        value = float(loss)
        if not torch.isfinite(loss):
            raise TrainingError(f"The loss of step {step + 1} is {value}{self.kept()}")
        # the Trainer divides each pass by the number of passes
        self._summed = value + (self._summed if self._pass[1] else 0.0)
        self.last_loss = self._summed
        self.state.num_input_tokens_seen += self.tokens_of(inputs)
        return loss

    def tokens_of(self, inputs: Any) -> int:
        """Count the tokens that were not padding."""
        return sum(int(value.sum()) for key, value in inputs.items() if key.endswith("attention_mask"))

    def kept(self) -> str:
        """Say which checkpoint is left and what to do, the end of a message."""
        from workbench.alignment.checkpoints import whole

        there = whole(Path(self.args.output_dir))
        left = f"the checkpoint of step {there[-1].name.rpartition('-')[2]} is kept ({there[-1]})" if there else "no checkpoint had been saved yet"
        return (
            f"; expected a finite number. Nothing was written with it and {left}. Ask for a smaller learning rate (--learning-rate), a longer "
            "warm-up or a smaller gradient norm, in another folder (--out); in bfloat16, try float32."
        )

    def require_finite_gradients(self) -> None:
        """Stop before the optimiser writes numbers that are not finite into the weights.

        Raises
        ------
        TrainingError
            If a gradient is NaN or infinite.
        """
        sums = [p.grad.float().sum() for p in self.model.parameters() if p.grad is not None]
        if sums and not torch.isfinite(torch.stack(sums)).all():
            raise TrainingError(f"A gradient of step {self.state.global_step + 1} is not finite{self.kept()}")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # a pickle that nothing reads
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _send_telemetry(self) -> None:
        """Tell nobody about the run."""

    def create_model_card(self, *_args: Any, **_options: Any) -> None:
        """Write no card into a checkpoint: the repair writes its own."""
