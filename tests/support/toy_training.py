"""A training small enough to kill: next-token loss of token rows on a tiny model, under the engine that every method uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from workbench.alignment.config import TrainingConfig
from workbench.alignment.engine import TrainedModel, fit
from workbench.alignment.steps import StepTrainer


class ToyTrainer(StepTrainer):
    """Lowers the next-token loss; ``fault(step, loss)`` may change or break it."""

    fault: Any = staticmethod(lambda step, loss: loss)

    def loss_of(self, model: Any, rows: list[Any]) -> tuple[torch.Tensor, dict[str, float]]:
        ids = torch.tensor(rows)
        self.count(ids.numel())
        # global generator in use, as dropout and sampling would
        noise = 0.01 * torch.rand(())
        loss = self.fault(self.state.global_step + 1, model(input_ids=ids, labels=ids).loss * (1 + noise))
        return loss, {"kl": float(noise)}


def toy_config(**options: Any) -> TrainingConfig:
    """Return a configuration of a few quick steps."""
    return TrainingConfig(
        **{"learning_rate": 1e-2, "max_steps": 10, "batch_size": 2, "save_every": 2, "eval_every": 5, "log_every": 1, "seed": 3, **options}
    )


def toy_train(chat: Any, out: Path, config: TrainingConfig | None = None, *, fault: Any = None, **options: Any) -> TrainedModel:
    """Train the toy on made-up rows."""
    config = config or toy_config()
    rows = [[int(x) for x in row] for row in torch.randint(3, 200, (12, 6), generator=torch.Generator().manual_seed(1))]

    def build(policy: Any, lora: Any) -> ToyTrainer:
        arguments = config.arguments(str(out), device=chat.device.type, order="shuffled", drop_last=False)
        trainer = ToyTrainer(policy, lora, chat=chat, rows=rows, arguments=arguments)
        if fault:
            trainer.fault = fault
        return trainer

    return fit(build, chat, config, out, name="toy", spec={}, progress=False, **options)
