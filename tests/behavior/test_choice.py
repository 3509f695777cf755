"""Choosing a judge by name: what each needs, what it cannot serve, and that nobody is judged by English in silence."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.tiny import build_grid
from workbench.behavior.choice import NAMES, JudgeChoice, sends
from workbench.behavior.endpoint import EndpointJudge
from workbench.behavior.first_token import FirstTokenJudge
from workbench.behavior.judges import ExactJudge, MarkerJudge, StereotypeJudge, choose_judge
from workbench.errors import DataError, PromptError
from workbench.prompts import PromptGrid

URL = "http://127.0.0.1:9/v1"


def grid_of(*languages: str) -> PromptGrid:
    rows = [{"language": tag, "meaning_id": f"m{i}", "text": f"ask {tag} {i}", "harmful": i < 2} for tag in languages for i in range(4)]
    return PromptGrid(pd.DataFrame(rows))


def kinds(judge) -> dict[str, type]:
    return {tag: type(chosen) for tag, chosen in judge.judges.items()}


def test_auto_says_which_languages_have_no_phrases():
    judge = choose_judge(grid_of("en", "qaa"))
    assert kinds(judge) == {"en": MarkerJudge, "qaa": StereotypeJudge}
    assert len(judge.notes) == 1 and "No refusal phrases are known for qaa" in judge.notes[0] and "--judge-fallback" in judge.notes[0]
    assert choose_judge(grid_of("en", "sw")).notes == ()


def test_a_named_judge_refuses_a_language_it_cannot_serve_and_never_takes_anothers_phrases():
    with pytest.raises(PromptError, match=r"no refusal phrases for qaa; there are for en.*No other language's are used.*--judge-fallback"):
        choose_judge(grid_of("en", "qaa"), judge="markers")
    judge = choose_judge(grid_of("en", "qaa"), judge="markers", fallback="stereotype")
    assert kinds(judge) == {"en": MarkerJudge, "qaa": StereotypeJudge} and "qaa: judged by the fallback (stereotype)" in judge.notes[0]
    with pytest.raises(PromptError, match="no refusal phrases for qaa"):
        choose_judge(grid_of("en", "qaa"), fallback="markers")


def test_phrases_by_name_pass_over_a_refusal_column_and_take_a_file(tmp_path):
    frame = grid_of("en", "de").frame.assign(refusal="No, sorry.")
    assert set(kinds(choose_judge(PromptGrid(frame))).values()) == {ExactJudge}
    assert set(kinds(choose_judge(PromptGrid(frame), judge="markers")).values()) == {MarkerJudge}
    (tmp_path / "r.csv").write_text("language,text\nqaa,mi no\n", encoding="utf-8")
    assert set(choose_judge(grid_of("en", "qaa"), refusals=tmp_path / "r.csv", judge="markers").judges) == {"en", "qaa"}
    with pytest.raises(DataError, match="which does not read it"):
        choose_judge(grid_of("en"), refusals=tmp_path / "r.csv", judge="stereotype")


def test_the_first_token_judge_is_measured_where_there_are_tokens_and_the_fallback_serves_the_rest(tiny_model):
    judge = choose_judge(build_grid(6), tiny_model("llama"), judge="first_token", fallback="markers")
    assert kinds(judge) == {"en": FirstTokenJudge, "fr": MarkerJudge}
    with pytest.raises(PromptError, match="no refusal tokens for fr"):
        choose_judge(build_grid(6), tiny_model("llama"), judge="first_token")
    with pytest.raises(PromptError, match="no refusal tokens for en, fr"):
        choose_judge(build_grid(6), tiny_model("phi3"), judge="first_token")
    with pytest.raises(DataError, match="reads the model, and none was given"):
        choose_judge(build_grid(6), judge="first_token")


def test_an_endpoint_and_ones_own_judge_serve_every_language(tmp_path):
    choice = JudgeChoice("endpoint", model="m", send_to=URL, cache=tmp_path / "a.jsonl")
    judge = choose_judge(grid_of("en", "qaa"), judge=choice)
    assert kinds(judge) == {"en": EndpointJudge, "qaa": EndpointJudge}
    assert judge.judges["en"].send_to == URL and judge.judges["en"].cache == tmp_path / "a.jsonl"
    own = StereotypeJudge()
    assert choose_judge(grid_of("en", "qaa"), judge=own).judges == {"en": own, "qaa": own}
    assert choose_judge(grid_of("en"), judge=judge).judges["en"] is judge.judges["en"]
    with pytest.raises(PromptError, match=r"The judge endpoint:m \(rubric \w+\) does not serve de"):
        choose_judge(grid_of("de"), judge=judge)
    assert sends(choice) and sends(judge) and not sends(own) and not sends(None)
    with pytest.raises(DataError, match="judge is a int"):
        choose_judge(grid_of("en"), judge=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(judge="marker"), "There is no judge 'marker'; there are auto.*Did you mean 'markers'"),
        (dict(judge="endpoint", model="m"), "sends the text of every prompt and reply.*nothing was sent.*--send-to URL"),
        (dict(judge="endpoint", send_to=URL), "needs a model"),
        (dict(judge="classifier"), "needs a model"),
        (dict(judge="classifier:"), "expected classifier:MODEL"),
        (dict(judge="markers:x"), "take no model behind a colon"),
        (dict(judge="guard:a", model="b"), "name two models"),
        (dict(judge="markers", model="b"), "which asks none"),
        (dict(judge="markers", send_to=URL), "which sends nothing"),
        (dict(judge="classifier:a", template="t"), "goes with --judge guard:MODEL"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        JudgeChoice(**options)


def test_a_fallback_must_be_one_judge():
    with pytest.raises(DataError, match="fallback='auto'"):
        choose_judge(grid_of("qaa"), fallback="auto")
    assert "auto" in NAMES


def test_the_request_tells_judges_apart_and_the_default_is_as_before_there_was_a_choice():
    assert JudgeChoice().spec() is None and JudgeChoice(progress=True).spec() is None
    assert JudgeChoice("guard:a/b").spec() == JudgeChoice("guard", model="a/b").spec()
    specs = [JudgeChoice("markers").spec(), JudgeChoice("guard:a").spec(), JudgeChoice("endpoint", model="m", send_to=URL).spec()]
    assert len({str(spec) for spec in specs}) == 3 and specs[2]["rubric"]
