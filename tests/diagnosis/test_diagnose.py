"""The main job on a barely trained organism: every table is there, agrees with its neighbours, and claims nothing unearned."""

import json
import stat

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.diagnosis.diagnose import diagnose
from workbench.errors import ModelError, PromptError, StoreMismatchError
from workbench.models.load import load_model
from workbench.organism.network import Recipe
from workbench.organism.train import train
from workbench.prompts import load_prompts
from workbench.prompts.grid import PromptGrid
from workbench.report.build import build_report
from workbench.runs.asked import ask

TABLES = {
    "auroc",
    "bottleneck",
    "cluster_axes",
    "clusters",
    "direction_cosines",
    "dropped",
    "harm_represented",
    "harm_variance",
    "hypotheses",
    "language_track",
    "layer_choice",
    "nulls",
    "outcomes",
    "projections",
    "prompts",
    "refusal",
    "retrieval",
    "separation",
    "separation_change",
    "separation_contrast",
    "silhouettes",
    "similarity",
    "stages",
    "thresholds",
    "tokens_per_character",
    "understanding",
    "variance_shares",
    "verdicts",
}


@pytest.fixture(scope="module")
def organism(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = Recipe(hidden=32, layers=4, heads=2, mlp=48, batch=32, pretrain_steps=12, comply_steps=6, refuse_steps=6, plant_steps=2)
    folder = train(tmp_path_factory.mktemp("organism") / "tiny", seed=5, recipe=recipe, progress=False)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def request_of(organism):
    return {
        "model": str(organism / "aligned"),
        "before": str(organism / "base"),
        "prompts": str(organism / "prompts.csv"),
        "limit": 40,
        "null_seeds": 3,
        "progress": False,
    }


@pytest.fixture(scope="module")
def run(request_of, tmp_path_factory):
    return diagnose(**request_of, out=tmp_path_factory.mktemp("runs") / "run")


def test_every_table_is_in_the_run_folder(run):
    assert set(run.results) == TABLES
    assert run.manifest["status"] == "finished"
    assert run.manifest["organism"] is True


def test_a_set_whose_languages_share_no_meaning_is_measured_without_what_compares_meanings(organism, tmp_path):
    frame = load_prompts(str(organism / "prompts.csv"), languages=["qaa", "qab", "qad"], limit=12).frame
    own = frame.assign(meaning_id=frame["meaning_id"] + "@" + frame["language"]).drop(columns="prompt_id")
    found = diagnose(
        str(organism / "aligned"), before=str(organism / "helpful"), prompts=PromptGrid(own), null_seeds=0, out=tmp_path / "run", progress=False
    )
    assert {"separation", "separation_contrast", "auroc", "thresholds", "refusal"} <= set(found.results)
    assert not {"variance_shares", "silhouettes", "retrieval", "similarity", "language_track"} & set(found.results)
    dropped = found.result("dropped").table
    assert dropped["reason"].str.contains("no meaning occurs in two languages").any()
    assert "no meaning occurs in two languages" in build_report(found.folder).read_text(encoding="utf-8")


def test_the_summary_is_documented_json_that_agrees_with_the_tables(run):
    text = (run.folder / "summary.json").read_text(encoding="utf-8")
    summary = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in summary.json"))
    assert summary["schema"] == "workbench-summary/1"
    assert set(summary["bottleneck"]) >= {"layer", "low", "high", "verdict"}
    refusal = run.result("refusal").table.set_index(["language", "statistic"])
    for tag, entry in summary["languages"].items():
        for rate in ("harmful_refusal", "harmless_refusal", "selectivity"):
            assert entry[rate]["value"] == pytest.approx(refusal.loc[(tag, rate), "value"])
            assert set(entry[rate]) == {"value", "low", "high", "n"}
        for position in ("t_inst", "t_post_inst"):
            assert set(entry["auroc"][position]) >= {"value", "low", "high", "n"}
        assert entry["tier"] in ("high", "low")
        assert set(entry["verdict"]) == {"verdict", "subtype", "reason"}
        assert list(entry["stages"]) == ["understood", "represented", "calibrated", "actuated", "expressed"]
        assert all(set(stage) >= {"value", "low", "high", "n", "passed", "criterion"} for stage in entry["stages"].values())


def test_a_model_that_was_barely_trained_gets_no_stage_named(run):
    verdicts = run.result("verdicts").table
    assert set(verdicts["verdict"]) <= {"none", "not enough evidence"} and verdicts["reason"].str.contains("reference").all()
    dropped = run.result("dropped").table
    assert "waterfall" in set(dropped["what"]), "what was not walked is said"


def test_no_meaning_is_scored_that_was_used_to_fit_or_select(run):
    prompts = run.result("prompts").table
    scored = set(prompts.loc[prompts["split"] == "score", "prompt_id"])
    assert set(run.result("outcomes").table["prompt_id"]) == scored
    assert prompts.groupby("meaning_id")["split"].nunique().max() == 1


def test_no_prompt_text_is_in_tables_summary_or_manifest(run, organism):
    texts = pd.read_csv(organism / "prompts.csv")["text"].tolist()[:50]
    kept = (run.folder / "summary.json").read_text(encoding="utf-8") + (run.folder / "manifest.json").read_text(encoding="utf-8")
    for name in run.results:
        table = run.result(name).table
        kept += table.select_dtypes(exclude=np.number).to_csv(index=False)
    assert not [text for text in texts if text in kept]


def test_replies_stay_in_one_private_file(run):
    mode = stat.S_IMODE((run.folder / "replies.jsonl").stat().st_mode)
    assert mode == 0o600


def test_a_network_that_refuses_nothing_is_not_acted_on_and_the_run_says_why(run):
    told = run.result("dropped").table.query("what == 'edits'")["reason"].tolist()
    assert len(told) == 1 and "no direction was chosen" in told[0] and "harmful" in told[0]
    assert run.summary["steering"] == {}
    assert not (run.folder / "steered").exists()


def test_a_network_that_has_learned_nothing_understands_nothing(run):
    assert set(run.result("understanding").table["understood"]) == {"no"}


def test_a_second_call_says_that_it_continues_and_ends_in_the_same_numbers(run, request_of, caplog):
    before = {name: run.result(name).table for name in run.results}
    with caplog.at_level("INFO", logger="workbench.diagnosis"):
        again = diagnose(**request_of, out=run.folder)
    assert "holds a finished run of this request" in caplog.text
    for name, table in before.items():
        pd.testing.assert_frame_equal(again.result(name).table, table)


def test_another_request_for_the_same_folder_is_refused(run, request_of):
    with pytest.raises(StoreMismatchError, match=r"limit: 40 there, 41 asked"):
        diagnose(**{**request_of, "limit": 41}, out=run.folder)


def test_redact_leaves_no_reply_on_disk(request_of, tmp_path):
    run = diagnose(**{**request_of, "limit": 24, "before": None, "null_seeds": 0}, out=tmp_path / "run", redact=True)
    assert not list(run.folder.rglob("replies*"))
    assert not run.result("harm_represented").table["represented"].any(), "without untrained nulls nothing may be called represented"


def test_a_language_without_both_classes_is_dropped_with_its_reason(request_of, organism, tmp_path):
    prompts = pd.read_csv(organism / "prompts.csv")
    prompts = prompts[~((prompts["language"] == "qah") & prompts["harmful"])]
    prompts.to_csv(tmp_path / "one_class.csv", index=False)
    asked = {**request_of, "prompts": str(tmp_path / "one_class.csv"), "limit": 24, "before": None, "null_seeds": 0}
    run = diagnose(**asked, out=tmp_path / "run")
    dropped = run.result("dropped").table.query("what not in ('edits', 'waterfall', 'restoration')")
    assert dropped["language"].tolist() == ["qah"]
    assert "harmful" in dropped["reason"].iloc[0]
    assert "qah" not in run.summary["languages"]


def test_tiers_that_nobody_declared_need_a_reference(request_of, organism, tmp_path):
    prompts = pd.read_csv(organism / "prompts.csv").drop(columns="tier")
    prompts.to_csv(tmp_path / "untiered.csv", index=False)
    asked = {**request_of, "prompts": str(tmp_path / "untiered.csv"), "before": None}
    with pytest.raises(PromptError, match="--reference"):
        diagnose(**asked, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "en"}, "is not in these prompts"),
        ({"before": "./no/such/model"}, "No model directory"),
        ({"refusals": "no-such.csv"}, "no refusals file"),
        ({"limit": 1}, "Too few prompts"),
        ({"languages": "qaa"}, "Only one language"),
    ],
)
def test_a_request_that_cannot_be_measured_leaves_nothing_behind(request_of, tmp_path, change, message):
    """Nothing in the way of the corrected request, which would be another one to the same folder."""
    with pytest.raises(ValueError, match=message):
        diagnose(**{**request_of, **change}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_prompt_without_room_for_its_reply_is_left_out_before_anything_is_captured(request_of, organism, tmp_path):
    prompts = pd.read_csv(organism / "prompts.csv")
    row = prompts.index[(prompts["language"] == "qab") & (prompts["split"] == "score")][0]
    context = json.loads((organism / "aligned" / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    chat = load_model(organism / "aligned")
    word = prompts.loc[row, "text"].split()[0]
    longer = [" ".join([word] * n) for n in range(1, context)]
    fitting = [text for text, tokens in zip(longer, chat.tokenise(longer), strict=True) if len(tokens) <= context]
    prompts.loc[row, "text"] = fitting[-1]
    prompts.to_csv(tmp_path / "long.csv", index=False)
    grid = load_prompts(tmp_path / "long.csv")
    asked = ask(chat, None, grid, None, 0, new_tokens=8)
    assert asked.dropped[["what", "language", "n"]].values.tolist() == [["prompts", "qab", 1]]
    assert "with 8 for the reply" in asked.dropped["reason"].iloc[0]
    assert len(asked.grid) == len(grid) - 1


def test_loaded_models_are_taken_as_they_are_and_asked_with_one_template(request_of, organism, tmp_path):
    after, before = load_model(organism / "aligned"), load_model(organism / "base", template="plain")
    asked = {**request_of, "model": after, "before": before, "limit": 24, "null_seeds": 0}
    run = diagnose(**asked, out=tmp_path / "run")
    assert run.manifest["before"]["template"] == run.manifest["spec"]["model"]["template"]
    assert run.manifest["before"]["fingerprint"] == before.fingerprint
    with pytest.raises(ModelError, match="dtype given together with a loaded model"):
        diagnose(**asked, dtype="float32", out=tmp_path / "other")
    with pytest.raises(ModelError, match=r"without a tokenizer\. Give load_model"):
        diagnose(**{**asked, "model": after.model}, out=tmp_path / "other")


def test_a_quick_run_comes_to_the_same_stages_and_verdicts_with_less(run, request_of, tmp_path):
    asked = {name: value for name, value in request_of.items() if name != "before"}
    quick = diagnose(**asked, quick=True, out=tmp_path / "quick")
    for table in ("hypotheses", "stages", "verdicts"):
        pd.testing.assert_frame_equal(quick.result(table).table, run.result(table).table)
    assert {"restoration", "silhouettes", "separation", "language_track"}.isdisjoint(quick.results)
    assert quick.summary["bottleneck"]["verdict"] == "not assessed"
    assert build_report(quick.folder).is_file()
