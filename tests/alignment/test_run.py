"""One call repairs by training: the start is untouched, what is scored is not trained on, and no weights leave a repair that does harm."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.alignment import run as runner
from workbench.alignment.run import repair_training
from workbench.alignment.trainers import METHODS
from workbench.behavior.generate import generate
from workbench.errors import DataError, StoreMismatchError
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts

SMALL = {"prompts": "organism", "languages": ["qaa", "qab", "qad", "qah"], "limit": 24, "progress": False}
TABLES = {"answers", "cost", "dropped", "guard", "repair_contrasts", "repair_rates", "training_curve"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return repair_training("msd", "organism:aligned", **SMALL, max_steps=3, allow_loss=True, out=tmp_path_factory.mktemp("runs") / "msd")


def rate(run, method, language, statistic):
    table = run.result("repair_rates").table.set_index(["method", "language", "statistic"])["value"]
    return table[method, language, statistic]


def test_every_table_is_there_and_the_summary_agrees_with_them(run):
    assert set(run.results) == TABLES | {"flip_rates"}
    assert run.manifest["kind"] == "training repair" and run.manifest["status"] == "finished"
    told = run.summary["methods"]["msd"]["qad"]["harmful_refusal"]["value"]
    assert told == rate(run, "msd", "qad", "harmful_refusal")
    assert run.summary["languages"]["qaa"] == {"tier": "high", "seen": False} and run.summary["languages"]["qad"]["seen"]
    assert {"loss", "harmful_refusal", "harmless_refusal", "answer_accuracy"} <= set(run.result("training_curve").table["statistic"])
    assert not (run.folder / "edited").exists() and not (run.folder / ".training").exists()
    cost = run.result("cost").table.iloc[0]
    assert cost["labelled_prompts"] == 0 and cost["parallel_queries"] == 2 * 12  # two languages of six meanings per class to learn in


def test_the_repaired_model_is_a_directory_that_answers_as_it_was_scored(run):
    chat, grid = load_model(run.folder / "model"), load_prompts("organism").select(languages=SMALL["languages"]).limit(24, seed=0)
    scored = grid.select(split="score")
    answers = run.result("answers").table
    refused = answers[answers["action"] == "msd"].set_index("prompt_id")["refused"].reindex(scored.frame["prompt_id"])
    replies = generate(chat, scored, max_new_tokens=6, progress=False)
    keys = dict(zip(scored.frame["prompt_id"], scored.frame["refusal"], strict=True))
    assert [reply == keys[p] for p, reply in zip(replies["prompt_id"], replies["reply"], strict=True)] == refused.astype(bool).tolist()
    assert "msd" in (run.folder / "model" / "README.md").read_text()


def test_a_finished_run_is_not_another_request(run):
    with pytest.raises(StoreMismatchError, match="max_steps"):
        repair_training("msd", "organism:aligned", **SMALL, max_steps=4, out=run.folder)


def test_what_is_scored_is_not_trained_on(tmp_path):
    grid = load_prompts("organism").select(languages=SMALL["languages"]).limit(24, seed=0).frame
    leaked = grid[grid["harmful"] & (grid["split"] == "score") & (grid["language"] == "qaa")]
    rows = leaked.rename(columns={"text": "prompt", "refusal": "chosen", "answer": "rejected"})
    rows[["prompt", "chosen", "rejected", "language", "meaning_id", "harmful"]].to_csv(tmp_path / "pairs.csv", index=False)
    refusals = pd.DataFrame({"language": ["qaa"], "text": [grid.loc[grid["language"] == "qaa", "refusal"].iloc[0]]})
    refusals.to_csv(tmp_path / "refusals.csv", index=False)
    with pytest.raises(DataError, match="ask what is scored"):
        repair_training(
            "dpo", "organism:aligned", **SMALL, preferences=tmp_path / "pairs.csv", refusals=tmp_path / "refusals.csv", out=tmp_path / "run"
        )


def test_a_repair_that_lowers_refusal_writes_no_weights_unless_it_may(tmp_path, monkeypatch):
    real = runner.prepare

    def harmful(*args, **options):
        prepared = real(*args, **options)
        frame = prepared.data.frame.rename(columns={"chosen": "rejected", "rejected": "chosen"})
        prepared.data._frame = frame  # behind the checks, which stop such a file
        return prepared

    monkeypatch.setattr(runner, "prepare", harmful)
    options = {**SMALL, "max_steps": 12, "learning_rate": 3e-3}
    with pytest.raises(DataError, match=r"lowers the refusal of held-out harmful prompts.*qaa.*--allow-loss"):
        repair_training("sft", "organism:aligned", **options, out=tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert (tmp_path / "run" / "results" / "guard.parquet").is_file()
    allowed = repair_training("sft", "organism:aligned", **options, allow_loss=True, out=tmp_path / "run")
    card = (allowed.folder / "model" / "README.md").read_text()
    assert "refuses fewer harmful prompts than its start in qaa" in card
    assert json.loads((allowed.folder / "model" / "repair.json").read_text())["allowed_to_lower"]


def test_an_unknown_method_or_language_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no training 'ksd'.*msd"):
        repair_training("ksd", "organism:aligned", **SMALL, out=tmp_path / "run")
    with pytest.raises(DataError, match="no prompt in 'qzz'"):
        repair_training("dpo", "organism:aligned", **SMALL, train_languages=["qzz"], out=tmp_path / "run")


def test_a_model_that_refuses_everything_has_nothing_to_distil(tmp_path):
    with pytest.raises(DataError, match="nothing to distil"):
        repair_training("msd", "organism:healthy", **SMALL, out=tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_the_organism(method, tmp_path):
    more = {"layer": 5} if method == "lasa" else {}
    found = repair_training(method, "organism:aligned", **SMALL, **more, max_steps=3, allow_loss=True, out=tmp_path / "run")
    assert set(found.results) >= TABLES
    losses = found.result("training_curve").table.query("statistic == 'loss'")["value"]
    assert len(losses) and np.isfinite(losses).all()
    assert load_model(found.folder / "model").fingerprint != load_model("organism:aligned", check=False).fingerprint
