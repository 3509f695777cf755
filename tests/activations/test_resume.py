"""Killed with SIGKILL at random moments, a store resumes and ends in the same values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its captures, so that many kills cost one import")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_capture_resumes_to_the_same_store(tmp_path, kills):
    harness = Path(__file__).with_name("kill_harness.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(harness), str(tmp_path), str(kills), "7"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert len(report["kills"]) == kills
    assert all(1 <= kill["shards_before"] < 24 for kill in report["kills"]), "each kill fell between the first and the last shard"
    assert len({kill["shards_before"] for kill in report["kills"]}) > 1, "the moments differ"
    assert all(kill["damaged_after_kill"] == 0 for kill in report["kills"]), "nothing recorded as finished was damaged"
    assert all(kill["same_files"] and kill["complete"] for kill in report["kills"])
    assert report["same_values"]
