"""What a training gave: the plain model, its history, its cost, and how it is written."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from workbench.models.chat import ChatModel
from workbench.organism.network import quiet_files

#: What the Trainer and TRL call a number, and what the history calls it; the rest is not kept.
STATISTICS = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "kl": "kl",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "mean_token_accuracy": "token_accuracy",
}
#: What trainers of this package log under the history's own names.
OWN = ("divergence", "length", "finished", "gap_term", "state_term", "reward_gap", "reward_gap_wanted", "reply_term", "consistency_term", "spread")


@dataclass(frozen=True)
class TrainedModel:
    """What a training gave.

    Attributes
    ----------
    model : PreTrainedModel
        The plain model in eval mode, of the start's class, precision and device; an adapter is merged into it.
    history : DataFrame
        One row per step, statistic and language ("" where it is of none): step, statistic, language, value. Losses are means since the
        row before; what the monitor returned is among them, step 0 is the start.
    seconds : float
        Duration of the training alone: without the monitor and what was prepared, with the time before a continuation.
    steps, tokens : int
        Steps of the optimiser; tokens read that were not padding, of the first process.
    trained_parameters : int
        How many numbers were trained.
    adapter : (LoraConfig, dict of Tensor) or None
        Options and weights of the adapter, for :meth:`save`.
    """

    model: Any
    history: pd.DataFrame
    seconds: float
    steps: int
    tokens: int
    trained_parameters: int
    adapter: tuple[Any, dict[str, torch.Tensor]] | None = None

    def chat(self, start: ChatModel, name: str) -> ChatModel:
        """Return the model with the tokenizer, template and system prompt of the one training started from."""
        return replace(start, model=self.model, name=name, path=None, checks={})

    def save(self, folder: str | Path, start: ChatModel) -> Path:
        """Write a Hugging Face directory that every command takes; an adapter goes beside it, into ``adapter/``, for PEFT.

        Parameters
        ----------
        folder : path
            Made if missing.
        start : ChatModel
            Gives the tokenizer, and the adapter's base by name.
        """
        folder = Path(folder)
        with quiet_files():
            self.model.save_pretrained(folder)
            start.tokenizer.save_pretrained(folder)
        if self.adapter is not None:
            from safetensors.torch import save_file

            options, weights = copy.deepcopy(self.adapter[0]), self.adapter[1]
            options.base_model_name_or_path, options.inference_mode = str(start.path or start.name), True
            options.save_pretrained(str(folder / "adapter"))
            save_file(weights, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
        return folder


def history_of(logged: list[dict[str, Any]]) -> pd.DataFrame:
    """Lay out what a Trainer logged, and what the monitor returned among it.

    Parameters
    ----------
    logged : list of dict
        ``log_history`` of a Trainer's state.

    Returns
    -------
    DataFrame
        step, statistic, language ("" for none), value.
    """
    names = STATISTICS | {name: name for name in OWN}
    rows = [
        (entry["step"], row["statistic"], row["language"], row["value"])
        for entry in logged
        for row in entry.get("rows", [{"statistic": names[key], "language": "", "value": entry[key]} for key in names if key in entry])
    ]
    return pd.DataFrame(rows, columns=["step", "statistic", "language", "value"]).astype({"step": int, "value": float})
