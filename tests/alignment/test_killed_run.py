"""A repair that is killed, while it trains or while it is scored, and called again ends as an undisturbed one: same bytes, same rates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.runs.folder import Run

METHODS, MOMENTS = ("lasa", "msd"), ("training", "scoring")
#: What a clock is in.
TIMED = ("seconds",)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root, folder = Path(__file__).parents[2], tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    script = str(root / "tests" / "alignment" / "kill_repair.py")
    done = subprocess.run([sys.executable, script, str(folder)], env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_repair_that_is_called_again_equals_an_undisturbed_one(runs, method, moment):
    left = json.loads((runs / "killed.json").read_text(encoding="utf-8"))[f"{method} {moment}"]
    assert left["killed"] and not left["finished"] and not left["weights"], left
    if moment == "training":
        assert left["checkpoints"] == ["checkpoint-2", "checkpoint-4"] and not any(name.startswith("score") for name in left["replies"]), left
    else:
        assert left["checkpoints"][-1] == "checkpoint-6" and any(name.startswith("score") for name in left["replies"]), left
    undisturbed, again = Run(runs / method / "whole"), Run(runs / method / moment)
    for name in ("model.safetensors", "interpreter.safetensors") if method == "lasa" else ("model.safetensors",):
        assert (undisturbed.folder / "model" / name).read_bytes() == (again.folder / "model" / name).read_bytes(), name
    assert undisturbed.results == again.results
    for name in undisturbed.results:
        ours, theirs = (run.result(name).table.drop(columns=list(TIMED), errors="ignore") for run in (undisturbed, again))
        assert ours.equals(theirs), name
    assert again.manifest["status"] == "finished" and len(again.result("repair_rates").table)
    assert not (again.folder / ".training").exists() and not (again.folder / "edited").exists()
