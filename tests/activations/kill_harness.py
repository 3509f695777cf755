"""Captures a small grid in forked children and kills them: one import for any number of kills.

Run as ``python kill_harness.py FOLDER KILLS SEED``; writes ``FOLDER/report.json``. Each killed store is resumed and compared
with an undisturbed one, file by file and value by value.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from tests.tiny import build_grid, build_model, build_tokenizer
from workbench.activations.capture import capture
from workbench.activations.store import Store, open_store, verify_store
from workbench.models import load_model

SHARDS = 24


def child(chat, grid, store: Path) -> int:
    """Fork; the child captures and leaves without returning."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            capture(chat, grid, store=store, shard_size=4, progress=False)
            code = 0
        finally:
            os._exit(code)
    return pid


def finished(store: Path) -> int:
    """How many shards the manifest records; 0 while there is none."""
    try:
        return len(json.loads((store / "manifest.json").read_text(encoding="utf-8"))["shards"])
    except FileNotFoundError:
        return 0


def content(store: Path) -> dict[str, bytes]:
    """Every chunk file and the table."""
    return {str(f.relative_to(store)): f.read_bytes() for f in sorted(store.rglob("*")) if f.is_file() and f.name not in ("manifest.json", ".lock")}


def main(folder: Path, kills: int, seed: int) -> None:
    """Capture once undisturbed, then kill and resume ``kills`` times."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    tokenizer = build_tokenizer()
    chat = load_model(build_model("llama", n_layers=2, vocab_size=len(tokenizer)), tokenizer=tokenizer, check=False)
    grid = build_grid(2 * SHARDS)
    whole = folder / "whole.zarr"
    pid = child(chat, grid, whole)
    while not finished(whole):
        time.sleep(0.001)
    first = time.perf_counter()
    assert os.waitpid(pid, 0)[1] == 0
    span = time.perf_counter() - first  # from the first shard written to the end
    report = {"span_s": span, "kills": []}
    while len(report["kills"]) < kills:
        store = folder / f"killed-{len(report['kills'])}.zarr"
        pid = child(chat, grid, store)
        while not finished(store):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, span))
        os.kill(pid, signal.SIGKILL)
        killed = os.waitpid(pid, 0)[1] == signal.SIGKILL
        left = finished(store)
        if not killed or left >= SHARDS:  # too late: this was no kill in between
            shutil.rmtree(store)
            continue
        damaged = len(verify_store(store))
        partial = len(list(store.rglob("*.partial")))
        assert os.waitpid(child(chat, grid, store), 0)[1] == 0
        report["kills"].append(
            {
                "shards_before": left,
                "damaged_after_kill": damaged,
                "half_written_files": partial,
                "same_files": content(store) == content(whole),
                "complete": Store(store).manifest["status"] == "finished" and verify_store(store) == [],
            }
        )
    values = open_store(whole)["residual"].values
    report["same_values"] = all((open_store(folder / f"killed-{k}.zarr")["residual"].values == values).all() for k in range(kills))
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
