"""A training that is killed and resumed ends in the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.toy_training import toy_config, toy_train
from workbench.alignment import checkpoints
from workbench.alignment.config import LoraOptions
from workbench.errors import TrainingError


@pytest.mark.slow
def test_killed_and_resumed_trainings_of_every_method_equal_undisturbed_ones_bit_for_bit(tmp_path):
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests' / 'support'}"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(root / "tests" / "alignment" / "kill_training.py"), str(tmp_path)],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert {"sft", "dpo", "kto", "lasa", "msd", "msd with a moving average", "dpo with an adapter", "toy while saving"} <= set(report)
    for name, found in report.items():
        left = ["checkpoint-2"] if name == "toy while saving" else ["checkpoint-2", "checkpoint-4"]
        assert found["killed"] and found["left"] == left, (name, found)
        assert found["trained"] > 1e-4 and found["same_weights"], (name, found)
        assert found["same_history"] and found["same_counts"] and found["removed"], (name, found)


def test_a_training_that_stopped_goes_on_from_its_newest_checkpoint_and_ends_the_same(tiny_model, tmp_path):
    chat, steps = tiny_model("llama", n_layers=2), []

    def fault(step, loss):
        steps.append(step)
        return loss * (float("nan") if step == 6 and steps.count(6) == 1 else 1)

    with pytest.raises(TrainingError):
        toy_train(chat, tmp_path / "run", fault=fault)
    half = tmp_path / "run" / "checkpoint-6"
    (half / "model.safetensors").parent.mkdir()
    (half / "model.safetensors").write_bytes(b"half")  # what a kill while saving leaves; without the mark it does not count
    resumed, whole = toy_train(chat, tmp_path / "run", fault=fault), toy_train(chat, tmp_path / "whole")
    assert steps == [*range(1, 7), *range(5, 11)]
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))
    assert resumed.history.equals(whole.history) and resumed.tokens == whole.tokens


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2)], ids=["full", "adapter"])
def test_the_last_two_checkpoints_are_kept_while_training_and_hold_no_pickled_arguments(tiny_model, tmp_path, lora):
    seen = []

    def monitor(step, model):
        seen.append(sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")))
        return []

    chat = tiny_model("llama", n_layers=2)
    kept = toy_train(chat, tmp_path / "run", toy_config(eval_every=1, lora=lora), monitor=monitor, keep_checkpoints=True)
    assert seen[5] == ["checkpoint-2", "checkpoint-4"] and seen[9] == ["checkpoint-6", "checkpoint-8"]
    assert [path.name for path in checkpoints.whole(tmp_path / "run")] == ["checkpoint-8", "checkpoint-10"]
    files = {path.name for path in (tmp_path / "run" / "checkpoint-10").iterdir()}
    weights = "model.safetensors" if lora is None else "adapter_model.safetensors"
    assert {weights, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= files
    assert not any(name.endswith(".bin") for name in files)
    # a finished training that was kept is not done again
    again = toy_train(chat, tmp_path / "run", toy_config(eval_every=1, lora=lora), fault=lambda step, loss: pytest.fail("trained again"))
    assert all(torch.equal(a, b) for a, b in zip(kept.model.parameters(), again.model.parameters(), strict=True))
    assert again.history.equals(kept.history) and not (tmp_path / "run").exists()


def test_checkpoints_are_read_without_running_code_that_a_pickle_may_hold(tiny_model, tmp_path, monkeypatch):
    chat = tiny_model("llama", n_layers=2)
    with pytest.raises(TrainingError):
        toy_train(chat, tmp_path / "run", fault=lambda step, loss: loss / (step < 6))
    load, how = torch.load, []

    def spying(*args, **options):
        how.append(options.get("weights_only"))
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", spying)
    toy_train(chat, tmp_path / "run")
    assert len(how) >= 3 and all(how)  # optimiser, schedule, generators


@pytest.mark.slow
def test_two_processes_train_one_model_and_the_first_alone_writes_and_measures(tmp_path):
    from safetensors.torch import load_file

    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests' / 'support'}", "CUDA_VISIBLE_DEVICES": ""}
    script = str(root / "tests" / "alignment" / "two_processes.py")
    # what `accelerate launch` calls for several processes of one machine (its --cpu starts a single one)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, script, str(tmp_path)], env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("dpo", "lasa", "mpo", "mlc", "msd"):
        first, second = (load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(first[key], second[key]) for key in first), name  # gradients were averaged
        assert [(tmp_path / f"{name}-{rank}.txt").read_text(encoding="utf-8") for rank in (0, 1)] == ["0 2 4", ""]
        kept = checkpoints.whole(tmp_path / name / ".training")
        assert [path.name for path in kept] == ["checkpoint-2", "checkpoint-4"]
        saved = load_file(kept[-1] / "model.safetensors")
        assert all(torch.equal(saved[key], first[key]) for key in saved)
