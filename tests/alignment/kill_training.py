"""Trains in forked children that kill themselves, resumes, and compares with undisturbed trainings: one import for all kills.

Run as ``python kill_training.py FOLDER``; writes ``FOLDER/report.json``. Every training takes eight steps and saves every two.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.support.toy_pairs import toy_pairs, toy_queries
from tests.support.toy_training import toy_config, toy_train
from tests.tiny import build_model, build_tokenizer
from workbench.alignment import checkpoints, watch
from workbench.alignment.conditioning import Condition
from workbench.alignment.config import LoraOptions
from workbench.alignment.msd import MSD
from workbench.alignment.trainers import LASA, train
from workbench.models.load import load_model

STEPS = 8


def trainings(chat: Any) -> dict[str, Callable[..., Any]]:
    """Name to ``run(out, monitor)``."""
    pairs, queries = toy_pairs(), toy_queries()

    def of(method: Any, data: Any, **options: Any) -> Callable[..., Any]:
        config = toy_config(max_steps=STEPS, eval_every=1, max_length=128, learning_rate=3e-3, **options)
        return lambda out, monitor: train(method, chat, data, config, out, monitor, progress=False)

    return {
        "toy": lambda out, monitor: toy_train(chat, out / ".training", toy_config(max_steps=STEPS, eval_every=1), monitor=monitor),
        "sft": of("sft", pairs),
        "dpo": of("dpo", pairs),
        "dpo with an adapter": of("dpo", pairs, lora=LoraOptions(rank=2, dropout=0.2)),
        "kto": of("kto", pairs),
        "lasa": of(LASA(condition=Condition("Hello there.")), pairs),
        "msd": of(MSD(max_new_tokens=5), queries, accumulation=2),
        "msd with a moving average": of(MSD(max_new_tokens=5, teacher="ema", decay=0.7, on_policy=False), queries),
        "mpo": of("mpo", pairs),
        "mlc": of("mlc", pairs),
    }


def measured(step: int, model: Any) -> list[dict[str, Any]]:
    """A monitor whose value depends on the weights."""
    return [{"statistic": "answer_accuracy", "language": "en", "value": float(next(model.parameters()).abs().sum())}]


def killed(run: Callable[..., Any], out: Path, *, at: int, while_saving: bool) -> bool:
    """Fork; the child trains and kills itself, when step ``at`` is done or while it is saved."""
    pid = os.fork()
    if pid == 0:
        try:

            def die() -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            def monitor(step: int, model: Any) -> list[dict[str, Any]]:
                if step == at and not while_saving:
                    die()
                return measured(step, model)

            def half(folder: Path, step: int, seconds: float) -> None:
                if step == at:
                    weights = folder / f"checkpoint-{step}" / "optimizer.pt"
                    weights.write_bytes(weights.read_bytes()[:100])
                    die()
                checkpoints.mark(folder, step, seconds)

            if while_saving:
                watch.mark = half
            run(out, monitor)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def main(folder: Path) -> None:
    """Kill every training once after step 5, and the toy while it saves step 4; resume; compare."""
    torch.set_num_threads(1)
    gc.freeze()  # each Trainer collects at its start, which takes longer than these trainings
    tokenizer = build_tokenizer()
    chat = load_model(build_model("llama", n_layers=2, vocab_size=len(tokenizer)), tokenizer=tokenizer, check=False)
    report: dict[str, Any] = {}
    for name, run in trainings(chat).items():
        whole = run(folder / f"{name} whole", measured)
        for while_saving in (False, True) if name == "toy" else (False,):
            out = folder / f"{name} {while_saving}"
            was_killed = killed(run, out, at=4 if while_saving else 5, while_saving=while_saving)
            left = [path.name for path in checkpoints.whole(out / ".training")]
            resumed = run(out, measured)
            start, ours, theirs = (dict(model.named_parameters()) for model in (chat.model, whole.model, resumed.model))
            report[f"{name}{' while saving' * while_saving}"] = {
                "killed": was_killed,
                "left": left,
                "same_weights": all(torch.equal(ours[key], theirs[key]) for key in ours),
                "trained": max(float((start[key] - ours[key]).abs().max()) for key in ours),
                "same_history": whole.history.equals(resumed.history),
                "same_counts": (whole.steps, whole.tokens) == (resumed.steps, resumed.tokens),
                "removed": not (out / ".training").exists(),
            }
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
