"""Asking for the waterfall: every prompt once per push, replies deleted, a second call asks nothing, and what cannot be had is said."""

from types import SimpleNamespace

import numpy as np
import pytest

from workbench.activations.capture import capture
from workbench.behavior.generate import generate
from workbench.behavior.judges import choose_judge
from workbench.diagnosis import gated
from workbench.diagnosis.gated import measure_waterfall
from workbench.directions import harm_direction
from workbench.models.load import load_model
from workbench.prompts.grid import PromptGrid
from workbench.prompts.sources import load_prompts


class Folder:
    """As much of a run folder as the waterfall needs."""

    def __init__(self, folder):
        self.folder, self.results = folder, {}
        (folder / "results").mkdir()

    def save(self, name, result):
        self.results[name] = result

    def result(self, name):
        return self.results[name]


@pytest.fixture(scope="module")
def asked():
    chat, grid = load_model("organism:aligned"), load_prompts("organism", languages=["qaa", "qad"], limit=24)
    acts = capture(chat, grid, layers=[5], positions=["t_post_inst"], progress=False)
    judge = choose_judge(grid, chat)
    scored = grid.select(split="score")
    outcomes = judge.outcomes(generate(chat, scored, max_new_tokens=3, progress=False), scored)
    return SimpleNamespace(after=chat, grid=grid, reference=["qaa"]), acts, judge, outcomes


def once(tmp_path, asked, *, n=4, run=None, outcomes=None, direction=True):
    about, acts, judge, known = asked
    run = run or Folder(tmp_path)
    if direction:
        harm_direction(acts, ["qaa"]).at(5, "t_post_inst").save(run.folder / "results" / "selected_direction.safetensors")
    notes = []
    options = {"n": n, "new_tokens": 3, "seed": 0, "redact": False, "progress": False}
    return run, measure_waterfall(run, about, acts, known if outcomes is None else outcomes, judge, notes, **options), notes


def test_replies_are_deleted_and_a_second_call_asks_nothing(tmp_path, asked, monkeypatch):
    run, found, notes = once(tmp_path, asked)
    assert notes == [] and set(run.results) == {"waterfall", "shapley"}
    assert not (tmp_path / "gated").exists()
    table = found.waterfall.table
    assert table["language"].unique().tolist() == ["qad"] and (table["n"] == 8).all()
    assert found.waterfall.provenance["fitted"] in gated.oracle_strength.__kwdefaults__["strengths"]
    monkeypatch.setattr(gated, "answer_under", lambda *args, **kwargs: pytest.fail("asked again"))
    (tmp_path / "gated").mkdir()
    _, again, _ = once(tmp_path, asked, run=run)
    assert again.waterfall.table.equals(table) and not (tmp_path / "gated").exists()


def test_the_oracle_gate_level_is_what_the_model_replies_when_harmful_prompts_are_pushed(tmp_path, asked):
    from workbench.directions import Direction
    from workbench.interventions.edits import Add
    from workbench.repair.strength import SCOPE

    run, found, _ = once(tmp_path, asked, n=4)
    about, _, judge, _ = asked
    scored = about.grid.select(split="score").limit(4, seed=0).select(languages=["qad"])
    frame = scored.frame
    harmful = PromptGrid(frame[frame["harmful"]].reset_index(drop=True), provenance=scored.provenance)
    with about.after.edited(Add(Direction.load(run.folder / "results" / "selected_direction.safetensors"), 1.0, "gap", scope=SCOPE)):
        pushed = judge.outcomes(generate(about.after, harmful, max_new_tokens=3, progress=False), harmful)
    harmless = asked[3][asked[3]["prompt_id"].isin(frame.loc[~frame["harmful"], "prompt_id"])]
    expected = (pushed["outcome"] == "refusal").mean() - (harmless["outcome"] == "refusal").mean()
    level = found.waterfall.table.set_index("step").loc["oracle", "value"]
    assert level == pytest.approx(expected)


@pytest.mark.parametrize(("change", "told"), [({"n": 0}, "not asked for"), ({"direction": False}, "no direction was selected")])
def test_what_cannot_be_walked_is_noted(tmp_path, asked, change, told):
    run, found, notes = once(tmp_path, asked, **change)
    assert found is None and run.results == {}
    assert len(notes) == 1 and told in notes[0][3]


def test_prompts_without_a_judged_reply_are_named_and_nothing_is_left_behind(tmp_path, asked):
    run, found, notes = once(tmp_path, asked, outcomes=asked[3].iloc[:0])
    assert found is None and "have no judged reply" in notes[0][3]
    assert not (tmp_path / "gated").exists() and run.results == {}


def test_a_language_with_few_examples_gives_as_many_as_it_has(asked):
    about, acts, _, _ = asked
    spare = (acts["split"].values == "fit") & (acts["language"].values == "qad")
    spare = np.concatenate([np.flatnonzero(spare & (acts["harmful"].values == label))[2:] for label in (True, False)])
    few = acts.isel(prompt=np.setdiff1d(np.arange(acts.sizes["prompt"]), spare))
    direction = harm_direction(acts, ["qaa"]).at(5, "t_post_inst")
    setting = gated._setting(few, gated._part(about.grid, 4, 0), direction, ["qaa"], 0)
    assert setting.examples.k == 2
