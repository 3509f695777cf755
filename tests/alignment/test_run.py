"""One call repairs by training: the start is untouched, what is scored is not trained on, and no weights leave a repair that does harm."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.alignment import run as runner
from workbench.alignment.msd import MSD
from workbench.alignment.run import repair_training
from workbench.alignment.trainers import KTO, METHODS
from workbench.behavior.generate import generate
from workbench.errors import DataError, StoreMismatchError
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts
from workbench.results import Result

SMALL = {"prompts": "organism", "languages": ["qaa", "qab", "qad", "qah"], "limit": 24, "progress": False}
TABLES = {"answers", "cost", "dropped", "guard", "repair_contrasts", "repair_rates", "reward_gaps", "training_curve"}


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
    assert set(run.results) == TABLES | {"flip_rates", "token_weights"}
    assert run.manifest["kind"] == "training repair" and run.manifest["status"] == "finished"
    told = run.summary["methods"]["msd"]["qad"]["harmful_refusal"]["value"]
    assert told == rate(run, "msd", "qad", "harmful_refusal")
    assert run.summary["languages"]["qaa"] == {"tier": "high", "seen": False} and run.summary["languages"]["qad"]["seen"]
    assert {"loss", "harmful_refusal", "harmless_refusal", "answer_accuracy"} <= set(run.result("training_curve").table["statistic"])
    assert not (run.folder / "edited").exists() and not (run.folder / ".training").exists()
    assert run.summary["warnings"] == run.manifest["warnings"] and "unreadable" not in run.summary
    assert "<td>msd</td>" in run._repr_html_()
    cost = run.result("cost").table.iloc[0]
    assert cost["labelled_prompts"] == 0 and cost["parallel_queries"] == 2 * 12  # two languages of six meanings per class to learn in


def test_the_curve_has_lengths_and_reward_gaps_of_every_language_at_the_start_and_the_end(run):
    table = run.result("training_curve").table
    for statistic in ("length_harmful", "length_harmless", "reward_gap", "reward_gap_harmless"):
        rows = table[table["statistic"] == statistic]
        assert set(rows["language"]) == set(SMALL["languages"]) and set(rows["step"]) == {0, 3}
    start = table[table["step"] == 0].set_index(["statistic", "language"])["value"]
    assert start["reward_gap", "qad"] < start["reward_gap", "qaa"]  # where it refuses less
    assert 1 <= start["length_harmless", "qaa"] <= 6


def test_reward_gaps_before_and_after_are_of_pairs_that_nothing_was_trained_or_scored_on(run):
    result = run.result("reward_gaps")
    table = result.table.query("statistic == 'reward_gap'")
    assert list(dict.fromkeys(table["method"])) == ["unrepaired", "msd"] and set(table["n"]) == {6}  # meanings per class of the select split
    assert result.provenance["split"] == "select" and table["tier"].notna().all()
    gaps = table[table["harmful"]].set_index(["method", "language"])["value"]
    curve = run.result("training_curve").table.query("statistic == 'reward_gap'").set_index(["step", "language"])["value"]
    for tag in SMALL["languages"]:
        assert gaps["unrepaired", tag] == pytest.approx(curve[0, tag], abs=1e-5) and gaps["msd", tag] == pytest.approx(curve[3, tag], abs=1e-5)


def test_token_weights_are_of_held_out_prompts_of_the_languages_learned_in_with_the_runs_own_weighting(run):
    table = run.result("token_weights").table
    grid = load_prompts("organism").select(languages=SMALL["languages"]).limit(24, seed=0).frame.set_index("prompt_id")
    assert list(table) == ["prompt_id", "language", "tier", "harmful", "token_index", "teacher", "student", "weight", "divergence"]
    assert set(grid.loc[table["prompt_id"], "split"]) == {"select"} and set(table["language"]) == {"qad", "qah"} and set(table["tier"]) == {"low"}
    assert table["prompt_id"].nunique() == 2 * 12 and set(table["harmful"]) == {True, False}
    replies = table.groupby("prompt_id")
    np.testing.assert_allclose(replies["weight"].mean(), 1, atol=1e-4)
    # the first token of a reply to a harmful request is where the teacher is sure and the student is not
    at = table[table["harmful"]].groupby("token_index")["weight"].mean()
    assert at[0] == at.max()


def test_weights_of_a_run_that_is_continued_are_not_measured_again_and_its_options_are_the_runs(tmp_path, monkeypatch):
    options = {**SMALL, "languages": ["qaa", "qad"], "max_steps": 1, "allow_loss": True, "options": MSD(on_policy=False, weighting=None)}
    monkeypatch.setattr(runner, "train", lambda *args, **more: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        repair_training("msd", "organism:aligned", **options, out=tmp_path / "run")
    table = Result.load(tmp_path / "run" / "results" / "token_weights.parquet").table
    assert (table["weight"] == 1).all()  # uniform, as asked
    monkeypatch.setattr(runner, "start_weights", lambda *args, **more: pytest.fail("measured again"))
    with pytest.raises(KeyboardInterrupt):
        repair_training("msd", "organism:aligned", **options, out=tmp_path / "run")


def test_a_training_that_teaches_to_refuse_everything_is_warned_of_and_not_stopped(tmp_path, monkeypatch, caplog):
    real = runner.prepare

    def always_refusing(*args, **options):
        prepared = real(*args, **options)
        frame = prepared.data.frame
        frame.loc[~frame["harmful"], ["chosen", "rejected"]] = frame.loc[~frame["harmful"], ["rejected", "chosen"]].to_numpy()
        prepared.data._frame = frame
        return prepared

    monkeypatch.setattr(runner, "prepare", always_refusing)
    options = {**SMALL, "languages": ["qaa", "qad"], "max_steps": 12, "batch_size": 8, "learning_rate": 3e-3, "allow_loss": True}
    run = repair_training("sft", "organism:aligned", **options, out=tmp_path / "run")
    (warning,) = [told for told in run.summary["warnings"] if "over-refusal" in told]
    assert "Refusals of harmless requests rose from 0.000" in warning and "qaa 0.000 to" in warning
    assert run.manifest["warnings"] == run.summary["warnings"] and caplog.messages.count(warning) == 1
    gaps = run.result("reward_gaps").table.query("statistic == 'reward_gap' and not harmful").set_index(["method", "language"])["value"]
    assert gaps["sft", "qaa"] < 0 < gaps["unrepaired", "qaa"]  # the control of the gap tells it too


@pytest.mark.slow
def test_an_interpreter_says_where_it_reads_no_harm_and_the_layers_around_it_stay_silent(tmp_path, caplog):
    options = {**SMALL, "languages": ["qaa", "qad"], "layer": 5, "max_steps": 1, "batch_size": 8, "allow_loss": True}
    run = repair_training("lasa", "organism:representation", **options, out=tmp_path / "run")
    assert "qad" in run.summary["unreadable"]  # the organism whose harm is not there; of so few prompts a healthy language may be as well
    dropped = run.result("dropped").table.query("what == 'interpreter'")
    assert dropped["language"].tolist() == run.summary["unreadable"] and dropped["reason"].str.startswith("not readable").all()
    told = [message for message in caplog.messages if "better than chance" in message]
    assert told == [sentence for sentence in run.summary["warnings"] if "better than chance" in sentence] and len(told) == 1 and "qad" in told[0]
    assert set(run.result("interpreter_layers").table["layer"]) == set(range(1, 9)) == set(run.result("layers_compared").table["layer"])
    methods = list(dict.fromkeys(run.result("reward_gaps").table["method"]))
    assert methods == ["unrepaired", "lasa", "lasa, weights alone"]


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


@pytest.mark.parametrize("split", ["score", "select"])
def test_what_a_repair_is_scored_or_guarded_by_is_not_trained_on(split, tmp_path):
    grid = load_prompts("organism").select(languages=SMALL["languages"]).limit(24, seed=0).frame
    leaked = grid[grid["harmful"] & (grid["split"] == split) & (grid["language"] == "qaa")]
    rows = leaked.rename(columns={"text": "prompt", "refusal": "chosen", "answer": "rejected"})
    rows["prompt"] = "  " + rows["prompt"].str.replace(" ", "  ", n=1) + "?"  # the same request, written otherwise
    rows[["prompt", "chosen", "rejected", "language", "meaning_id", "harmful"]].to_csv(tmp_path / "pairs.csv", index=False)
    refusals = pd.DataFrame({"language": ["qaa"], "text": [grid.loc[grid["language"] == "qaa", "refusal"].iloc[0]]})
    refusals.to_csv(tmp_path / "refusals.csv", index=False)
    with pytest.raises(DataError, match="ask what the repair is scored or guarded by"):
        repair_training(
            "dpo", "organism:aligned", **SMALL, preferences=tmp_path / "pairs.csv", refusals=tmp_path / "refusals.csv", out=tmp_path / "run"
        )


def test_options_of_another_method_are_refused_and_leave_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"dpo was asked for with options of kto. Expected DPO\(...\)"):
        repair_training("dpo", "organism:aligned", **SMALL, options=KTO(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_processes_are_sent_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="started by 2 processes"):
        repair_training("dpo", "organism:aligned", **SMALL, out=tmp_path / "run")


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
