"""One of the processes of a data-parallel training: ``torchrun --standalone --nproc-per-node 2 two_processes.py FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.toy_pairs import toy_pairs, toy_queries
from tests.support.toy_training import toy_config
from tests.tiny import build_model, build_tokenizer
from workbench.alignment.conditioning import Condition
from workbench.alignment.msd import MSD
from workbench.alignment.trainers import DPO, LASA, MLC, MPO, name_of, train
from workbench.models.load import load_model


def main(folder: Path) -> None:
    """Train a few methods; leave the weights of this process."""
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    tokenizer = build_tokenizer()
    chat = load_model(build_model("llama", n_layers=2, vocab_size=len(tokenizer)), tokenizer=tokenizer, check=False)
    config = toy_config(max_steps=4, max_length=128, learning_rate=3e-3, eval_every=2)
    told = LASA(condition=Condition("Hello there."))
    for method in (DPO(), told, MPO(), MLC(), MSD(max_new_tokens=4)):
        name, data = name_of(method), toy_queries() if isinstance(method, MSD) else toy_pairs()
        seen: list[int] = []

        def monitor(step: int, model: object, seen: list[int] = seen) -> list[dict[str, float]]:
            seen.append(step)
            return []

        trained = train(method, chat, data, config, folder / name, monitor, progress=False, keep_checkpoints=True)
        save_file({key: value.contiguous() for key, value in trained.model.state_dict().items()}, folder / f"{name}-{rank}.safetensors")
        (folder / f"{name}-{rank}.txt").write_text(" ".join(map(str, seen)), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
