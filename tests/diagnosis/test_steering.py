"""Acting on the model inside a diagnosis: stopped and continued, replies deleted at the end, judges that cannot judge edited replies left out."""

import stat
from types import SimpleNamespace

import numpy as np
import pytest

from workbench.activations.capture import capture
from workbench.behavior.judges import ExactJudge, PerLanguageJudge, choose_judge
from workbench.diagnosis import steering
from workbench.diagnosis.diagnose import diagnose
from workbench.directions import Direction, harm_direction
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts


class Folder:
    """As much of a run folder as the edits need."""

    def __init__(self, folder):
        self.folder, self.results = folder, {}

    def save(self, name, result, provenance=None):
        self.results[name] = SimpleNamespace(table=getattr(result, "table", result), provenance=provenance or result.provenance)

    def result(self, name):
        return self.results[name]


def act(folder, norm):
    chat, grid = load_model("organism:aligned"), load_prompts("organism", languages=["qaa", "qad"], limit=8)
    direction = Direction(np.eye(chat.hidden_size)[0], norm, 4, "t_inst", {"toward": "harmful"})
    run, notes, asked = Folder(folder), [], SimpleNamespace(grid=grid, after=chat)

    def once():
        notes.clear()
        options = {"n": 1, "new_tokens": 3, "seed": 0, "redact": False, "progress": False}
        return steering._act(run, asked, direction, {}, choose_judge(grid, chat), ["qaa", "qad"], notes, **options)

    return run, notes, once


@pytest.mark.parametrize("norm", [1e-6, 1e30], ids=["no strength does anything", "the model breaks down at every strength"])
def test_a_direction_that_induces_nothing_is_only_removed_and_the_run_says_so(tmp_path, monkeypatch, norm):
    monkeypatch.setattr(steering, "STRENGTHS", (1.0,))
    run, notes, once = act(tmp_path, norm)
    told = once()
    assert told["strength"] is None and set(run.results["steering"].table["edit"]) == {"ablate"}
    assert set(told["languages"]["qad"]) == {"validated", "harmful_refusal_without_direction", "harmful_refusal_without_direction_controls"}
    assert [reason.partition(":")[0] for *_, reason in notes] == ["not added"]
    assert not (tmp_path / "steered").exists()
    stopped_before_deleting = tmp_path / "steered" / "removed" / "none_0.jsonl"
    stopped_before_deleting.parent.mkdir(parents=True)
    stopped_before_deleting.write_text("a reply")
    before = list(notes)
    assert once() == told and notes == before
    assert not (tmp_path / "steered").exists(), "replies that outlived their run are deleted by the next one"


def test_the_strength_is_chosen_where_the_judge_is_validated(tmp_path, monkeypatch):
    chosen_on = []

    def choosing(tried, **options):
        chosen_on.append(options["languages"])
        return SimpleNamespace(strength=0.0)

    class Doubtful(ExactJudge):
        def outcomes(self, replies, grid):
            return super().outcomes(replies, grid).assign(validated=lambda t: ~t["prompt_id"].str.endswith(self.without))

    monkeypatch.setattr(steering, "STRENGTHS", (1.0,))
    monkeypatch.setattr(steering, "choose_strength", choosing)
    for name, without in (("one", "qad"), ("none", ("qaa", "qad"))):
        monkeypatch.setattr(Doubtful, "without", without, raising=False)
        monkeypatch.setitem(globals(), "choose_judge", lambda grid, chat: PerLanguageJudge(dict.fromkeys(grid.languages, Doubtful())))
        act(tmp_path / name, 1e-6)[2]()
    assert chosen_on == [["qaa"], None]


@pytest.mark.slow
def test_a_run_that_is_stopped_among_its_edits_goes_on_and_leaves_no_edited_reply(tmp_path, monkeypatch):
    request = {"model": "organism:aligned", "prompts": "organism", "languages": "qaa,qab,qac,qah", "null_seeds": 0, "steer": 4, "progress": False}
    sweep, calls = steering.strength_sweep, []

    def stopping(*args, **options):
        calls.append(options)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sweep(*args, **options)

    monkeypatch.setattr(steering, "strength_sweep", stopping)
    with pytest.raises(KeyboardInterrupt):
        diagnose(**request, out=tmp_path / "run")
    kept = [path for path in (tmp_path / "run" / "steered").rglob("*") if path.is_file()]
    assert kept and all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in kept)
    run = diagnose(**request, out=tmp_path / "run")
    assert not (tmp_path / "run" / "steered").exists()
    assert len(calls) == 5  # one and a stop; then all three
    steered = run.result("steering").table
    assert set(steered["edit"]) == {"ablate", "add"} and set(steered["language"]) == {"qaa", "qab", "qac", "qah"}
    scored = run.result("prompts").table.query("split == 'score'")
    assert steered["n"].max() <= 2 * 4 < len(scored)
    told = run.summary["steering"]
    again = diagnose(**request, out=tmp_path / "run")
    assert len(calls) == 5, "rates that are there are not measured again: their replies are gone"
    assert again.summary["steering"] == told and told["strength"] > 0


def test_controls_are_of_the_chosen_place_and_know_nothing_of_harm():
    chat, grid = load_model("organism:aligned"), load_prompts("organism", languages=["qaa", "qab", "qac"])
    acts = capture(chat, grid.select(split="fit"), layers=[5], positions=["t_post_inst"], progress=False)
    direction = harm_direction(acts, ["qaa", "qab", "qac"]).at(5, "t_post_inst")
    found = steering._controls(acts, direction, ["qaa", "qab", "qac"], seed=0)
    assert set(found) == {"permuted labels", "language identity"}
    assert all(abs(float(vector @ direction.unit)) < 1e-9 and np.linalg.norm(vector) == pytest.approx(1) for vector in found.values())
    assert set(steering._controls(acts, direction, ["qaa"], seed=0)) == {"permuted labels"}
