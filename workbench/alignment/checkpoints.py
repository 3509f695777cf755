"""The unfinished training on disk: which checkpoints are whole, what the training was told, how far it was.

A checkpoint is the Trainer's own folder (weights and adapter in safetensors; ``optimizer.pt``, ``scheduler.pt`` and ``rng_state.pth``
are torch files of tensors that the Trainer reads with ``weights_only=True``, so opening them runs no code). It counts once ``whole.json``
lies in it, written last: a kill while saving leaves the checkpoint before it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from workbench.errors import StoreMismatchError, writing

MARK = "whole.json"
SPEC = "training.json"
#: Checkpoints kept while training.
KEPT = 2


def whole(folder: Path) -> list[Path]:
    """Return the checkpoints that were saved to the end, oldest first."""
    return sorted((mark.parent for mark in folder.glob(f"checkpoint-*/{MARK}")), key=_step)


def seconds_of(checkpoint: Path | None) -> float:
    """Return how long the training had run when a checkpoint was saved; 0 without one."""
    return 0.0 if checkpoint is None else float(json.loads((checkpoint / MARK).read_text(encoding="utf-8"))["seconds"])


def at_end(checkpoint: Path) -> bool:
    """Say whether a checkpoint is that of the last step."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def mark(folder: Path, step: int, seconds: float) -> None:
    """Declare the checkpoint of a step whole, and remove all but the newest ones."""
    _write(folder / f"checkpoint-{step}" / MARK, {"step": step, "seconds": seconds})
    for old in whole(folder)[:-KEPT]:
        (old / MARK).unlink()  # first: half a folder must not count
        shutil.rmtree(old)


def begin(folder: Path, spec: dict[str, Any]) -> Path | None:
    """Open the folder of a training; remove what a kill left half written.

    Parameters
    ----------
    folder : Path
        Holds the checkpoints; made if missing.
    spec : dict
        What a training that is continued must agree on; JSON-serialisable.

    Returns
    -------
    Path or None
        The newest whole checkpoint.

    Raises
    ------
    StoreMismatchError
        If the folder holds a training with other settings, model or rows.
    StoreError
        If it cannot be written.
    """
    path, told = folder / SPEC, json.loads(json.dumps(spec))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write(path, told)
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(k for k in {*found, *told} if found.get(k) != told.get(k))
    if differing:
        named = "; ".join(f"{k}: {found.get(k)!r} there, {told.get(k)!r} asked" for k in differing)
        raise StoreMismatchError(
            f"{folder} holds an unfinished training with other settings ({named}). Ask for the same ones to continue it, or give another folder."
        )
    kept = whole(folder)
    for half in folder.glob("checkpoint-*"):
        if half not in kept:
            shutil.rmtree(half)
    return kept[-1] if kept else None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _write(path: Path, content: dict[str, Any]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(path)
