"""A repair as a whole: what it writes, that it goes on where it stopped, that no edited reply stays, and what it refuses."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from workbench.behavior.judges import choose_judge
from workbench.errors import DataError, PromptError, StoreMismatchError
from workbench.gates import load_gate
from workbench.models.load import load_model
from workbench.prompts.grid import PromptGrid
from workbench.prompts.sources import load_prompts
from workbench.repair import run as runner
from workbench.repair import tables
from workbench.repair.applied import repair_route
from workbench.repair.run import repair_gate
from workbench.runs.folder import Run

SMALL = dict(k=2, draws=3, graded_draws=1, max_new_tokens=6, progress=False)


@pytest.fixture(scope="module")
def grid():
    return load_prompts("organism", languages=["qaa", "qab", "qad"], limit=48)


@pytest.fixture(scope="module")
def stopped_and_finished(grid, tmp_path_factory):
    """Run until everything is judged, stop there, and give the same request again; count what the model is asked in between."""
    out, asked = tmp_path_factory.mktemp("repair") / "run", []
    patch = pytest.MonkeyPatch()
    patch.setattr(runner, "compare_replies", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        repair_gate("organism:aligned", prompts=grid, out=out, **SMALL)
    stopped = sorted(path.stem for path in (out / "results").glob("*.parquet"))
    patch.undo()
    answer = runner.answer_for_gates
    patch.setattr(runner, "answer_for_gates", lambda *args, **options: (asked.append(1), answer(*args, **options))[1])
    run = repair_gate("organism:aligned", prompts=grid, out=out, **SMALL)
    patch.undo()
    return run, stopped, asked


def test_a_stopped_run_goes_on_without_asking_the_model_again(stopped_and_finished):
    run, stopped, asked = stopped_and_finished
    assert {"answers", "selection"} <= set(stopped) and "repair_rates" not in stopped
    assert asked == []
    assert run.manifest["status"] == "finished"


def test_every_method_has_its_figures_in_the_summary(stopped_and_finished):
    run, _, _ = stopped_and_finished
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["schema"] == "workbench-repair/1" and summary["k"] == 2
    methods = summary["methods"]
    assert {"unrepaired", "gate, shrinkage", "gate, balanced F1", "AdaSteer", "CAST as published", "always steer", "oracle gate"} <= set(methods)
    assert sum(name.startswith("random direction") for name in methods) >= 5
    table = run.result("repair_rates").table
    for name, entry in methods.items():
        for tag in ("qaa", "qad", "mean low"):
            for statistic in ("harmful_refusal", "harmless_refusal", "selectivity", "answer_accuracy"):
                row = table[(table["method"] == name) & (table["language"] == tag) & (table["statistic"] == statistic)].iloc[0]
                assert entry[tag][statistic]["value"] == pytest.approx(row["value"])
    told = {name: entry["labels"] for name, entry in methods.items()}
    assert told["gate, shrinkage"] == "2 + 2 of every language; price: select split" and told["gate, balanced F1"] == "2 + 2"
    assert told["AdaSteer"] == "2 + 2; multiple: select split" and told["gate, unlabelled"] == "unlabelled prompts" and told["unrepaired"] == "none"


def test_all_tables_are_there_and_no_reply_under_an_edit_stays(stopped_and_finished):
    run, _, _ = stopped_and_finished
    wanted = {"few_shot", "repair_strength", "gate_roc", "gate_scores", "gate_transfer", "latency", "answers", "decisions", "prompts", "dropped"}
    assert wanted <= set(run.results)
    assert not (run.folder / "edited").exists()
    assert {path.name for path in run.folder.rglob("*.jsonl*")} == {"direction_scores.jsonl"}
    texts = set(load_prompts("organism", languages=["qad"], limit=48).frame["text"])
    for name in run.results:
        table = run.result(name).table
        for column in table.select_dtypes(include=["object", "string"]):
            assert not texts & set(table[column].dropna().astype(str)), name


def test_examples_and_choices_never_meet_what_is_scored(stopped_and_finished):
    run, _, _ = stopped_and_finished
    prompts = run.result("prompts").table.set_index("prompt_id")["split"]
    assert set(prompts[run.result("answers").table["prompt_id"]]) == {"score"}
    assert set(prompts[run.result("strength_answers").table["prompt_id"]]) == {"select"}
    assert set(run.result("gate_scores").table["split"]) == {"score"}


def test_the_saved_gate_decides_as_the_first_draw_did(stopped_and_finished):
    run, _, _ = stopped_and_finished
    gate, scores = load_gate(run.folder / "gate.safetensors"), run.result("gate_scores").table
    assert gate.labels_used_ == {"qad": 4}
    assert gate.thresholds_["qad"] == pytest.approx(scores.loc[scores["language"] == "qad", "threshold"].iloc[0])
    assert (gate.place_.layer, gate.place_.position) == (run.summary["place"]["layer"], run.summary["place"]["position"])


def test_a_folder_of_another_request_is_left_alone(stopped_and_finished, grid):
    run, _, _ = stopped_and_finished
    with pytest.raises(StoreMismatchError, match="k: 2 there, 3 asked"):
        repair_gate("organism:aligned", prompts=grid, out=run.folder, **{**SMALL, "k": 3})


def test_more_examples_than_there_are_are_refused_before_anything_is_written(grid, tmp_path):
    with pytest.raises(PromptError, match=r"k=400 .*qad has \d+.*Expected k <= \d+"):
        repair_gate("organism:aligned", prompts=grid, out=tmp_path / "run", **{**SMALL, "k": 400})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("k", 0), ("draws", 2), ("graded_draws", 0), ("seed", -1)])
def test_numbers_that_give_no_comparison_are_refused(grid, tmp_path, name, value):
    with pytest.raises(DataError, match=f"{name}={value}"):
        repair_gate("organism:aligned", prompts=grid, out=tmp_path / "run", **{**SMALL, name: value})


def test_with_reference_languages_only_there_is_nothing_to_repair(grid, tmp_path):
    with pytest.raises(PromptError, match="no language to repair"):
        repair_gate("organism:aligned", prompts=grid.select(languages=["qaa", "qab"]), out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_methods_that_push_by_degrees_choose_how_far_by_the_rule_that_chooses_prices(stopped_and_finished):
    run, _, _ = stopped_and_finished
    prices = run.result("prices").table
    assert {"AdaSteer", "AdaSteer, prompt only", "gate, shrinkage", "CAST signed, shrinkage"} <= set(prices["method"])
    for _, tried in prices.groupby("method"):
        chosen = tried[tried["chosen"]].iloc[0]
        within = tried[tried["within"].astype(bool)]
        assert chosen["selectivity"] == within["selectivity"].max() if len(within) else chosen["harmless_refusal"] == tried["harmless_refusal"].min()


def test_the_few_shot_curve_uses_no_labels_beyond_its_k(stopped_and_finished):
    run, _, _ = stopped_and_finished
    methods = set(run.result("few_shot").table["method"])
    assert "gate, shrinkage" not in methods and "gate, shrinkage, price not chosen" in methods


def test_a_repair_is_applied_as_it_was_measured(stopped_and_finished):
    run, _, _ = stopped_and_finished
    route = repair_route(run.folder, languages="qad")
    assert route.unflagged is None and route.flagged.strength == run.summary["place"]["strength"]
    with pytest.raises(DataError, match="no finished repair"):
        run.update_manifest(status="started")
        repair_route(run.folder)
    run.update_manifest(status="finished")


def other_of(grid):
    return tables.Other(grid, choose_judge(grid))


def test_elsewhere_leaves_out_every_prompt_that_something_was_learned_from(grid):
    chat, notes = load_model("organism:aligned"), []
    asked = SimpleNamespace(after=chat, grid=grid)
    kept = tables._unseen(asked, "itself", other_of(grid), 6, notes)
    assert set(kept.frame["prompt_id"]) == set(grid.select(split="score").frame["prompt_id"])
    assert notes[0][2] == len(grid) - len(kept)
    renamed = PromptGrid(grid.frame.assign(source="elsewhere", prompt_id=[f"x{i}" for i in range(len(grid))]))
    again = tables._unseen(asked, "the same texts under other names", other_of(renamed), 6, [])
    assert not set(again.frame["text"]) & set(grid.frame.loc[grid.frame["split"] != "score", "text"])


def test_elsewhere_leaves_out_what_does_not_fit_and_says_when_nothing_is_left(grid):
    chat, notes = load_model("organism:aligned"), []
    asked = SimpleNamespace(after=chat, grid=grid.select(split="fit"))
    few = grid.select(split="score")
    with pytest.raises(PromptError, match="no prompt is left"):
        tables._unseen(asked, "long", other_of(few), chat.context, notes)
    assert notes[0][2] == len(few) and "longer than the context" in notes[0][3]


def test_a_run_reads_as_a_run(stopped_and_finished):
    run, _, _ = stopped_and_finished
    again = Run.open(run.folder)
    assert again.manifest["kind"] == "gate repair"
    assert isinstance(again.result("dropped").table, pd.DataFrame)
