"""The one loop under every repair by training: a ``transformers.Trainer`` that resumes, refuses what is not finite and changes no caller's model.

Several processes (``accelerate launch``): every process must make the same call, with its model on its own device (``load_model(...,
device=f"cuda:{LOCAL_RANK}")``); the first one alone writes, measures and shows the bar. Two processes on CPU (data parallel, gloo) are
tested; several GPUs, FSDP and DeepSpeed are not.
"""

from __future__ import annotations

import copy
import logging
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from workbench.alignment import checkpoints
from workbench.alignment.config import TrainingConfig
from workbench.behavior.generate import _out_of_memory
from workbench.errors import DataError
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

#: Makes a trainer out of the policy (a copy that may be changed) and the adapter's options for PEFT (None: train every weight).
Build = Callable[[nn.Module, Any], Any]


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
        Duration, monitor included, those before a continuation too.
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


def fit(
    build: Build,
    chat: ChatModel,
    config: TrainingConfig,
    folder: str | Path,
    *,
    name: str,
    spec: dict[str, Any],
    smallest_batch: int = 1,
    monitor: Any = None,
    progress: bool = True,
    keep_checkpoints: bool = False,
) -> TrainedModel:
    """Run a trainer to its end, from the newest whole checkpoint if there is one.

    Parameters
    ----------
    build : callable
        ``build(policy, peft options or None)`` returns a :class:`~workbench.alignment.guarded.Guarded` trainer that saves to ``folder``.
    chat : ChatModel
        The start; neither its weights nor its modules change.
    config : TrainingConfig
        As given to ``build``.
    folder : path
        Of the checkpoints. Called again after a kill, the training goes on from the newest and ends in the same weights (bit for bit on
        a CPU with one thread).
    name : str
        The method, for the bar and messages.
    spec : dict
        What a continuation must agree on besides the configuration and the model's weights; JSON-serialisable.
    smallest_batch : int
        The least rows a pass of this method needs.
    monitor : callable, optional
        ``monitor(step, model)`` returns rows with statistic, language and value; see :class:`~workbench.alignment.watch.Watch`.
    progress : bool
        Whether to show the bar.
    keep_checkpoints : bool
        Leave the last checkpoints after the end: a second call then returns the same model without training.

    Returns
    -------
    TrainedModel

    Raises
    ------
    TrainingError
        If a loss or gradient is not finite; the last good checkpoint is kept and named.
    DataError
        If memory runs out, with the batch size to use: the training then goes on from its last checkpoint.
    StoreMismatchError
        If ``folder`` holds another unfinished training.
    """
    from accelerate import PartialState

    folder, told = Path(folder), {"method": name, **spec, **config.decisive(), "model": chat.fingerprint}
    processes = PartialState(cpu=chat.device.type == "cpu")
    with processes.main_process_first():
        start = checkpoints.begin(folder, told)
    try:
        with _own_generators(config.seed), _quiet():
            trained = _run(build, chat, config, start, name, monitor, progress)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        raise DataError(_memory_message(name, config, smallest_batch)) from error
    processes.wait_for_everyone()
    if not keep_checkpoints and processes.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    return trained


def _run(build: Build, chat: ChatModel, config: TrainingConfig, start: Path | None, name: str, monitor: Any, progress: bool) -> TrainedModel:
    from transformers import PrinterCallback, TrainerState

    from workbench.alignment.watch import Watch

    lora = None if config.lora is None else config.lora.to_peft()
    trainer = build(_policy(chat, train_all=lora is None), lora)
    trainer.remove_callback(PrinterCallback)
    watch = Watch(trainer, name=name, monitor=monitor, eval_every=config.eval_every, seconds=checkpoints.seconds_of(start), progress=progress)
    trainer.add_callback(watch)
    if start is not None and checkpoints.at_end(start):  # the Trainer would finish the last epoch once more
        trainer._load_from_checkpoint(str(start))
        trainer.state = TrainerState.load_from_json(str(start / "trainer_state.json"))
    else:
        try:
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
        finally:
            watch.close()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    n_trained = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    adapter = None
    if lora is not None:
        from peft import get_peft_model_state_dict

        weights = {key: value.detach().cpu().clone().contiguous() for key, value in get_peft_model_state_dict(trained).items()}
        adapter, trained = (lora, weights), trained.merge_and_unload()
    state = trainer.state
    return TrainedModel(
        _plain(chat, trained), _history(state.log_history), watch.seconds, state.global_step, state.num_input_tokens_seen, n_trained, adapter
    )


def _policy(chat: ChatModel, *, train_all: bool) -> Any:
    """Copy the start for training: without dropout, so that policy and reference agree at the start, in float32 if all of it is trained."""
    policy = copy.deepcopy(chat.model)
    for module in policy.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    # steps of a small rate vanish in bfloat16 weights
    return policy.float().requires_grad_(True) if train_all else policy


def _plain(chat: ChatModel, trained: nn.Module) -> Any:
    """Put trained weights into the start's module tree: whatever a trainer patched or configured stays behind."""
    weights = dict(trained.named_parameters())
    memo = {
        id(old): nn.Parameter(weights[key].detach().to(dtype=old.dtype, device=old.device), requires_grad=False)
        for key, old in chat.model.named_parameters()
    }
    return copy.deepcopy(chat.model, memo=memo).eval()


def _history(logged: list[dict[str, Any]]) -> pd.DataFrame:
    names = STATISTICS | {name: name for name in OWN}
    rows = [
        (entry["step"], row["statistic"], row["language"], row["value"])
        for entry in logged
        for row in entry.get("rows", [{"statistic": names[key], "language": "", "value": entry[key]} for key in names if key in entry])
    ]
    return pd.DataFrame(rows, columns=["step", "statistic", "language", "value"]).astype({"step": int, "value": float})


def _memory_message(name: str, config: TrainingConfig, smallest: int) -> str:
    smaller = config.smaller_batch(smallest)
    remedy = (
        f"Use batch_size={smaller[0]} with accumulation={smaller[1]}: the same {config.effective_batch} rows a step; in the same folder the training "
        "goes on from its last checkpoint"
        if smaller
        else "Its batch cannot shrink: use gradient_checkpointing, a LoRA adapter, bf16 or a shorter max_length"
    )
    return f"{name} ran out of memory with batch_size={config.batch_size} and accumulation={config.accumulation}. {remedy}."


@contextmanager
def _own_generators(seed: int) -> Iterator[None]:
    """Seed the global generators for the Trainer, which needs them, and give them back as they were."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        from transformers import set_seed

        set_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep notices and bars of the libraries off the screen; what matters of them comes as an error."""
    talkers = [logging.getLogger(name) for name in ("transformers", "accelerate", "trl", "peft")]
    levels = [talker.level for talker in talkers]
    for talker in talkers:
        talker.setLevel(logging.ERROR)
    try:
        with quiet_files(), warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5.23 under a name that transformers has renamed
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
            yield
    finally:
        for talker, level in zip(talkers, levels, strict=True):
            talker.setLevel(level)
