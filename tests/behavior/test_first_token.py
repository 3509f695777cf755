"""The first-token judge: it reads the model, says what it cannot see, and serves no language without tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from tests.tiny import build_grid
from workbench.behavior.first_token import FirstTokenJudge, refusal_tokens
from workbench.errors import DataError, ModelCheckError, PromptError
from workbench.interventions import Add
from workbench.interventions.refusal_tokens import RefusalTokens
from workbench.models.next_token import next_logits
from workbench.prompts import PromptGrid


def said(grid: PromptGrid) -> pd.DataFrame:
    return grid.frame[["prompt_id"]].assign(reply="")


def lists(chat, **words: str) -> RefusalTokens:
    return RefusalTokens.given(chat, {tag: [word] for tag, word in words.items()})


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_next_token_logits_are_those_of_each_prompt_alone(tiny_model, family):
    chat, frame = tiny_model(family), build_grid(6).frame
    names = list(frame["prompt_id"])
    tokens = chat.tokenise(list(frame["text"]), names=names)
    found = torch.zeros(len(tokens), chat.model.get_output_embeddings().weight.shape[0])
    seen = []
    for rows, logits in next_logits(chat, tokens, names, token_budget=64):
        found[rows], seen = logits, [*seen, *rows.tolist()]
    assert sorted(seen) == list(range(len(tokens)))
    for i in range(len(tokens)):
        alone = chat.model(input_ids=torch.tensor([tokens[i].ids])).logits[0, -1]
        torch.testing.assert_close(found[i], alone, atol=1e-4, rtol=1e-4)


def test_the_sign_of_the_score_decides_and_replies_do_not_matter(tiny_model):
    chat, grid = tiny_model("llama"), build_grid(6)
    tokens = lists(chat, en="Hello", fr="pain")
    judge = FirstTokenJudge.measure(chat, grid, tokens)
    assert np.isfinite(judge.scores["score"]).all()
    shifted = FirstTokenJudge(judge.scores.assign(score=np.where(np.arange(12) % 3 == 0, 1.0, -1.0)), tokens)
    replies = said(grid).sample(frac=1, random_state=1)
    judged = shifted.outcomes(replies, grid)
    assert list(judged["prompt_id"]) == list(replies["prompt_id"])
    wanted = dict(zip(judge.scores["prompt_id"], np.where(np.arange(12) % 3 == 0, "refusal", "compliance"), strict=True))
    assert judged["outcome"].tolist() == [wanted[name] for name in replies["prompt_id"]]
    assert not judged["validated"].any()


def test_a_model_pushed_to_say_a_token_is_seen_to_refuse_under_the_edit_only(tiny_model):
    chat, grid = tiny_model("llama", hidden_size=64), build_grid(6, languages=("en",))
    tokens = lists(chat, en="Hello")
    plain = FirstTokenJudge.measure(chat, grid, tokens)
    axis = chat.model.get_output_embeddings().weight[tokens.of("en")[0]].double().numpy()
    with chat.edited(Add(axis, 60.0, layers=chat.n_layers)):
        pushed = FirstTokenJudge.measure(chat, grid, tokens)
    assert (pushed.scores["score"] > plain.scores["score"] + 1).all()
    assert set(pushed.outcomes(said(grid), grid)["outcome"]) == {"refusal"}
    assert pushed.edits and not plain.edits
    with pytest.raises(DataError, match="measured under the edits"):
        pushed.require_edits(chat)
    plain.require_edits(chat)


def test_a_language_without_tokens_is_refused_and_never_judged_by_anothers(tiny_model):
    chat, grid = tiny_model("llama"), build_grid(6)
    with pytest.raises(PromptError, match=r"no refusal tokens for fr; there are for en.*--judge-fallback"):
        FirstTokenJudge.measure(chat, grid, lists(chat, en="Hello"))


def test_tokens_come_from_the_refusal_column_then_from_the_family(tiny_model):
    frame = build_grid(6).frame
    frame["refusal"] = ["pain" if tag == "fr" else None for tag in frame["language"]]
    tokens = refusal_tokens(tiny_model("llama"), PromptGrid(frame))
    assert set(tokens.languages) == {"fr", "en"} and "refusal column" in tokens.source["fr"] and "Arditi" in tokens.source["en"]
    assert refusal_tokens(tiny_model("phi3"), build_grid(6)).languages == []


def test_prompts_that_were_not_scored_are_named(tiny_model):
    chat, grid = tiny_model("llama"), build_grid(6, languages=("en",))
    judge = FirstTokenJudge.measure(chat, grid.select(meanings=["m0", "m1"]), lists(chat, en="Hello"))
    with pytest.raises(PromptError, match=r"4 prompts, such as 'en-2', have no first-token score"):
        judge.outcomes(said(grid), grid)


def test_logits_that_are_not_finite_stop_it_naming_the_edit(tiny_model):
    chat, grid = tiny_model("llama"), build_grid(6, languages=("en",))
    with (
        chat.edited({chat.n_layers: lambda residual: residual * float("nan")}),
        pytest.raises(ModelCheckError, match=r"under the edits \[layer"),
    ):
        FirstTokenJudge.measure(chat, grid, lists(chat, en="Hello"))
