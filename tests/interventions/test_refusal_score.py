"""The refusal score and the divergence against the authors' stored numbers, and where lists of first tokens come from."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.errors import DataError
from workbench.interventions import RefusalTokens, next_token_kl, refusal_score
from workbench.prompts import PromptGrid


@pytest.fixture(scope="module")
def stored(shared_dir):
    with np.load(shared_dir / "reference" / "refusal_direction.npz") as file:
        return {name: file[name] for name in file.files if name.startswith("score/") or name == "meta_json"}


def test_scores_and_divergence_are_the_authors(stored):
    cases = json.loads(str(stored["meta_json"]))["score"]["cases"]
    assert len(cases) == 5
    for case in cases:
        found = refusal_score(torch.from_numpy(stored[f"score/{case['i']}/logits"]), case["refusal_toks"])
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), stored[f"score/{case['i']}/score"], atol=1e-12, rtol=0)
    moved = next_token_kl(*(torch.from_numpy(stored[f"score/kl_logits_{name}"]) for name in "ab"))
    assert float(moved.mean()) == pytest.approx(float(stored["score/kl"]), abs=1e-12)


def test_the_score_saturates_where_the_authors_does_and_a_token_counts_once():
    sure = torch.tensor([[100.0, 0.0, 0.0], [0.0, 100.0, 0.0]])
    np.testing.assert_allclose(refusal_score(sure, [0]).numpy(), [18.4207, -18.4207], atol=1e-4)
    assert torch.equal(refusal_score(sure / 100, [0, 0]), refusal_score(sure / 100, [0]))
    assert torch.equal(refusal_score(torch.stack([sure * 0, sure], dim=1), [0]), refusal_score(sure, [0])), "the last position counts"


@pytest.mark.parametrize("ids", [[], [3], [-1]])
def test_no_tokens_and_tokens_outside_the_vocabulary_are_refused(ids):
    with pytest.raises(DataError, match="each from 0 to 2"):
        refusal_score(torch.zeros(1, 3), ids)


def grid_of(languages=("en", "fr"), n=24, **columns) -> PromptGrid:
    rows = [
        {
            "prompt_id": f"{tag}-{m}",
            "meaning_id": f"m{m}",
            "language": tag,
            "text": f"{tag} {m}?",
            "harmful": bool(m % 2),
            "split": ("fit", "fit", "select", "select", "score")[m % 5],
            **{name: of(tag) for name, of in columns.items()},
        }
        for tag in languages
        for m in range(n)
    ]
    return PromptGrid(pd.DataFrame(rows))


def test_built_in_words_are_resolved_by_the_models_own_tokenizer(tiny_model):
    for family, words in (("llama", ["I"]), ("gemma2", ["I"]), ("qwen2", ["I", "A"])):
        chat = tiny_model(family)
        found = RefusalTokens.built_in(chat)
        assert found.languages == ["en"]
        assert [chat.tokenizer.decode([token]) for token in found.of("en")] == words  # the tiny tokenizer has no token "As"
        assert "2406.11717" in found.source["en"]
    with pytest.raises(DataError, match=r"no built-in list of refusal tokens for .* of type 'phi3'"):
        RefusalTokens.built_in(tiny_model("phi3"))


def test_a_grids_refusals_give_their_first_tokens_and_an_empty_cell_gives_none(tiny_model):
    chat = tiny_model("llama")
    found = RefusalTokens.from_grid(chat, grid_of(refusal=lambda tag: {"en": "bread at home", "fr": ""}[tag]))
    assert found.languages == ["en"] and found.of("en") == (chat.tokenizer("bread")["input_ids"][0],)
    with pytest.raises(DataError, match=r"no refusal tokens for 'fr' \(the refusal column is empty\); there are for en"):
        found.of("fr")
    with pytest.raises(DataError, match="no column refusal"):
        RefusalTokens.from_grid(chat, grid_of())


def test_given_texts_and_ids_survive_a_file(tiny_model, tmp_path):
    chat = tiny_model("llama")
    first = RefusalTokens.given(chat, {"eng": ["Hello there", 7], "fr": [9, 9]})
    assert first.of("fr") == (9,) and first.languages == ["en", "fr"]
    again = RefusalTokens.given(chat, first.save(tmp_path / "tokens.json"))
    assert dict(again.ids) == dict(first.ids) and again.source["en"] == "file tokens.json"
    assert first.union(["fr", "en", "fr"]) == (9, *first.of("en"))
    assert first.missing(["en", "sw"]) == ["sw"]
    assert list(first.to_frame().columns) == ["language", "token_id", "token", "source"]


@pytest.mark.parametrize(("lists", "message"), [({"en": []}, "none"), ({"en": [10**6]}, "ids from 0 to"), ({"en": [" "]}, "first words of refusals")])
def test_lists_that_are_none_are_refused(tiny_model, lists, message):
    with pytest.raises(DataError, match=message):
        RefusalTokens.given(tiny_model("llama"), lists)


def test_a_file_that_is_no_mapping_of_lists_is_refused(tiny_model, tmp_path):
    path = tmp_path / "tokens.json"
    for content, message in (("{", "line 1: not JSON"), ('{"en": "I"}', "no mapping of lists"), ("[]", "no mapping of lists")):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            RefusalTokens.given(tiny_model("llama"), path)


def replies_of(grid, opening, *, refuses=None):
    frame = grid.frame
    refused = frame["harmful"] if refuses is None else frame.apply(refuses, axis=1)
    replies = [opening(tag, no) for tag, no in zip(frame["language"], refused, strict=True)]
    outcomes = pd.DataFrame({"prompt_id": frame["prompt_id"], "outcome": np.where(refused, "refusal", "compliance")})
    return pd.DataFrame({"prompt_id": frame["prompt_id"], "reply": replies}), outcomes


def test_learned_tokens_open_refusals_and_no_answer_and_were_checked_on_other_meanings(tiny_model):
    chat, grid = tiny_model("llama"), grid_of(n=40)
    found = RefusalTokens.learned(chat, *replies_of(grid, lambda tag, no: "moi" if no else "bread at home"), grid)
    assert found.of("en") == (chat.tokenizer("moi")["input_ids"][0],)
    assert found.source["en"] == "learned: they open 8 of 8 refusals and 0 of 8 compliances of other meanings"
    shared = RefusalTokens.learned(chat, *replies_of(grid, lambda tag, no: "Hello" if tag == "fr" else "moi" if no else "bread"), grid)
    assert shared.languages == ["en"]
    with pytest.raises(DataError, match=r"fr.*no token opens 2 of its 8 refusals and none of its 8 compliances"):
        shared.of("fr")


def test_what_holds_on_the_fit_meanings_only_is_left_out(tiny_model):
    chat, grid = tiny_model("llama"), grid_of(n=40)
    replies, outcomes = replies_of(grid, lambda tag, no: "moi" if no else "bread")
    held = grid.frame["split"].to_numpy() != "fit"
    replies.loc[held, "reply"] = "bread"
    found = RefusalTokens.learned(chat, replies, outcomes, grid)
    assert found.languages == [] and "held out, they open 0 of 8 refusals" in found.left_out["en"]


def test_the_score_split_is_not_looked_at(tiny_model):
    chat, grid = tiny_model("llama"), grid_of(n=40)
    replies, outcomes = replies_of(grid, lambda tag, no: "moi" if no else "bread")
    scored = (grid.frame["split"] == "score").to_numpy()
    changed = replies.assign(reply=np.where(scored, "moi", replies["reply"]))
    assert RefusalTokens.learned(chat, replies, outcomes, grid) == RefusalTokens.learned(chat, changed, outcomes, grid)
    with pytest.raises(DataError, match="split 'fit'"):
        RefusalTokens.learned(chat, replies[scored], outcomes, grid)


def test_each_prompt_is_scored_by_its_own_languages_list(tiny_model, rng):
    tokens = RefusalTokens.given(tiny_model("llama"), {"en": [7], "fr": [9, 11]})
    logits = torch.from_numpy(rng.normal(size=(4, 40)))
    found = tokens.score(logits, ["fr", "en", "fr", "en"])
    assert torch.equal(found[[1, 3]], refusal_score(logits[[1, 3]], [7])) and torch.equal(found[[0, 2]], refusal_score(logits[[0, 2]], [9, 11]))
    with pytest.raises(DataError, match="no refusal tokens for 'sw'"):
        tokens.score(logits, ["en", "sw", "en", "en"])
    with pytest.raises(DataError, match="3 languages for 4 prompts"):
        tokens.score(logits, ["en", "en", "en"])


def test_lists_are_joined_without_mixing_two_of_a_language_or_two_vocabularies(tiny_model):
    chat = tiny_model("llama")
    first, second = RefusalTokens.given(chat, {"en": [7]}), RefusalTokens.given(chat, {"en": [8], "fr": [9]})
    assert dict(first.joined(second).ids) == {"en": (7,), "fr": (9,)}
    first.require_model(chat)
    other = RefusalTokens({"en": (7,)}, {"en": "elsewhere"}, {7: "another"})
    with pytest.raises(DataError, match="Token 7 is 'another' in these lists"):
        other.require_model(chat)
    with pytest.raises(DataError, match="Give lists of one model"):
        first.joined(other)
