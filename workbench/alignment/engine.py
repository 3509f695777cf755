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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.alignment import checkpoints
from workbench.alignment.config import TrainingConfig
from workbench.alignment.trained import TrainedModel, history_of
from workbench.behavior.generate import _out_of_memory
from workbench.errors import DataError
from workbench.models.chat import ChatModel
from workbench.organism.network import quiet_files

__all__ = ["Build", "TrainedModel", "fit"]

#: Makes a trainer out of the policy (a copy that may be changed) and the adapter's options for PEFT (None: train every weight).
Build = Callable[[nn.Module, Any], Any]


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
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not _out_of_memory(error):
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
        _plain(chat, trained), history_of(state.log_history), watch.seconds, state.global_step, state.num_input_tokens_seen, n_trained, adapter
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


def _memory_message(name: str, config: TrainingConfig, smallest: int) -> str:
    smaller = config.smaller_batch(smallest)
    remedy = (
        f"Use batch_size={smaller[0]} with accumulation={smaller[1]}: the same {config.effective_batch} rows a step (--batch-size {smaller[0]} "
        f"--accumulation {smaller[1]}); in the same folder the training goes on from its last checkpoint"
        if smaller
        else "Its batch cannot shrink: use gradient_checkpointing, a LoRA adapter (--lora-rank), bf16 or a shorter max_length"
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
