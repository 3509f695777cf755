"""Choosing the direction a run acts along, and the languages whose replies under an edit can be judged."""

from workbench.behavior.first_token import FirstTokenJudge, refusal_tokens
from workbench.behavior.judges import ExactJudge, PerLanguageJudge
from workbench.behavior.stereotypes import StereotypeJudge
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts
from workbench.runs import selected


def test_languages_whose_judge_cannot_judge_edited_replies_are_left_out_with_the_reason():
    chat, grid = load_model("organism:aligned"), load_prompts("organism", languages=["qaa", "qab", "qac"], limit=4)
    first = FirstTokenJudge.measure(chat, grid.select(languages=["qab"]), refusal_tokens(chat, grid))
    judge = PerLanguageJudge({"qaa": ExactJudge(), "qab": first, "qac": StereotypeJudge()})
    notes: list = []
    assert selected.judged_under_edits(judge, grid.languages, notes) == ["qaa"]
    told = {language: reason for _, language, _, reason in notes}
    assert "without edits" in told["qab"] and "learns" in told["qac"]


def test_without_refusal_tokens_candidates_are_scored_by_their_states_and_the_run_says_so():
    chat, grid = load_model("organism:aligned"), load_prompts("organism", languages=["qaa", "qab"], limit=4)
    assert selected._criterion(chat, grid, ["qaa"], [])[1] == "refusal_tokens"
    bare = type(grid)(grid.frame.drop(columns="refusal"))
    notes: list = []
    assert selected._criterion(chat, bare, ["qaa", "qab"], notes) == (None, "token_free")
    assert [language for _, language, _, _ in notes] == ["qaa", "qab"]
