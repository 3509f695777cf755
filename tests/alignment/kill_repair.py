"""Repairs through the runner in forked children that kill themselves, called again, beside undisturbed ones: one import for all.

Run as ``python kill_repair.py FOLDER``; leaves the run folders and ``FOLDER/killed.json``.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from workbench.alignment import checkpoints, defaults, measured, watch
from workbench.alignment.run import repair_training
from workbench.runs.folder import Run

SMALL: dict[str, Any] = {"prompts": "organism", "languages": ["qaa", "qad"], "limit": 12, "max_steps": 6, "batch_size": 8, "seed": 1}
METHODS: dict[str, dict[str, Any]] = {"lasa": {"layer": 5}, "msd": {}}
KILLED_AT = 5


def repaired(method: str, out: Path) -> Run:
    """Run one repair to its end."""
    return repair_training(method, "organism:aligned", **SMALL, **METHODS[method], allow_loss=True, progress=False, out=out)


def in_training() -> None:
    """Kill when a step is done that is not saved yet."""
    step_end = watch.Watch.on_step_end

    def die(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        step_end(self, args, state, control, **more)
        if state.global_step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    watch.Watch.on_step_end = die  # type: ignore[method-assign]


def in_scoring() -> None:
    """Kill after the training, when the first replies of the repaired model are on disk."""
    original, calls = measured.generate, []

    def die(chat: Any, grid: Any, **options: Any) -> Any:
        made = original(chat, grid, **options)
        if options.get("out") is not None and Path(options["out"]).parent.name == "score":
            calls.append(1)
            if len(calls) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return made

    measured.generate = die


def killed(method: str, out: Path, prepare: Callable[[], None]) -> dict[str, Any]:
    """Fork; the child kills itself. Say what it left."""
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            repaired(method, out)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    return {
        "killed": status == signal.SIGKILL,
        "checkpoints": [path.name for path in checkpoints.whole(out / ".training")],
        "weights": (out / "model").exists(),
        "replies": sorted(str(path.relative_to(out / "edited")) for path in (out / "edited").rglob("*.jsonl")),
        "finished": Run(out).manifest["status"] == "finished",
    }


def main(folder: Path) -> None:
    """Kill and call again."""
    torch.set_num_threads(1)
    gc.freeze()
    for method in METHODS:  # two checkpoints before the kill
        defaults.ORGANISM[method] = replace(defaults.ORGANISM[method], save_every=2, eval_every=3)
    report = {}
    for method in METHODS:
        repaired(method, folder / method / "whole")
        for name, prepare in (("training", in_training), ("scoring", in_scoring)):
            out = folder / method / name
            report[f"{method} {name}"] = killed(method, out, prepare)
            repaired(method, out)
    (folder / "killed.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
