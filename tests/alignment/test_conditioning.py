"""Semantic conditioning: the release's draws, our own sentence, and tokens that are inserted where the interpreter says so."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toy_interpreter import FEW, LAYER, POSITION, toy_grid, toy_interpreter

from workbench import load_model
from workbench.activations.capture import capture
from workbench.alignment.conditioning import Condition, conditioned, organism_condition, training_flags, unsafe_flags
from workbench.alignment.interpreter import SafetyInterpreter, raw_view
from workbench.behavior.generate import COLUMNS, generate, reply_to
from workbench.errors import DataError, ModelError, StoreMismatchError
from workbench.organism.corpus import ANSWER

BREAD = Condition("bread bread bread")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny matrices off the second core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def chat(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def interpreter(chat) -> SafetyInterpreter:
    return toy_interpreter(chat)


# --- which training rows carry the sentence -------------------------------------------------------------------------------


def test_flags_are_drawn_as_the_release_draws_them(shared_dir):
    path = shared_dir / "reference" / "lasa.npz"
    if not path.exists():
        pytest.skip(f"no reference outputs at {path}")
    cases = json.loads(str(np.load(path)["meta_json"]))["unsafe_flags"]
    assert len(cases) == 4
    for case in cases:
        condition = Condition("bread", rate_safety=case["safety_ratio"], rate_utility=case["ultrafeedback_ratio"])
        drawn = unsafe_flags(case["sources"], condition, random.Random(case["seed"]))
        assert drawn.astype(int).tolist() == case["flags"]


def test_our_name_of_the_utility_rows_is_drawn_like_theirs_and_other_sources_never():
    theirs = ["safety", "ultrafeedback", "given", "safety", "ultrafeedback"] * 40
    ours = ["utility" if source == "ultrafeedback" else source for source in theirs]
    condition = Condition("bread", rate_utility=0.3)
    drawn = unsafe_flags(ours, condition, random.Random(1))
    np.testing.assert_array_equal(drawn, unsafe_flags(theirs, condition, random.Random(1)))
    assert not drawn[2::5].any() and 0.35 < drawn[np.isin(ours, "safety")].mean() < 0.65 and drawn[1::5].any()


def test_rows_are_flagged_by_their_source_or_by_what_the_interpreter_says_of_their_prompt(chat, interpreter):
    frame = toy_grid().select(split="score").frame
    rows = pd.concat([frame.assign(prompt=frame["text"], source="safety")] * 2, ignore_index=True)  # chosen and rejected rows
    by_source = training_flags(rows, Condition("bread"), rng=random.Random(0))
    assert 0 < by_source.mean() < 1
    by_interpreter = training_flags(rows, Condition("bread"), signal="interpreter", interpreter=interpreter, chat=chat)
    np.testing.assert_array_equal(by_interpreter, rows["harmful"])
    for options in ({"signal": "interpreter"}, {"signal": "guess"}):
        with pytest.raises(DataError, match="expected 'source', or 'interpreter'"):
            training_flags(rows, Condition("bread"), **options)


# --- the sentence ---------------------------------------------------------------------------------------------------------


def test_the_sentence_for_real_models_is_cut_into_tokens_of_the_model_and_names_no_answer(chat):
    condition = Condition()
    assert chat.tokenizer.decode(condition.ids(chat)) == condition.sentence and condition.sentence.endswith("\n")
    assert len(condition.hash) == 8 and condition.hash != Condition("bread").hash


def test_a_sentence_without_words_or_a_share_that_is_none_is_refused():
    for wrong in ({"sentence": " \n"}, {"rate_safety": 1.5}, {"rate_utility": -0.1}):
        with pytest.raises(DataError, match="Expected at least one word, and shares from 0 to 1"):
            Condition(**{"sentence": "bread", **wrong})


def test_the_organisms_sentence_asks_for_the_prompts_language_in_words_it_knows_and_the_default_one_is_refused(chat):
    organism = load_model("organism:aligned")
    condition = organism_condition(organism, Condition(rate_safety=0.25))
    assert condition.rate_safety == 0.25 and condition.sentence.endswith(ANSWER) and len(condition.names) == 8
    said = {
        tag: organism.tokenizer.decode(ids).split()
        for tag, ids in zip(condition.names, condition.ids_of(organism, list(condition.names)), strict=True)
    }
    assert {tag: words[-2] for tag, words in said.items()} == dict(condition.names)
    with pytest.raises(DataError, match="Expected the tag of the prompt's language"):
        condition.ids(organism)
    with pytest.raises(ModelError, match="does not know every word"):
        Condition().ids(organism)
    with pytest.raises(ModelError, match="Expected an organism"):
        organism_condition(chat)


def test_a_condition_is_read_as_it_was_written_and_anything_else_is_refused(tmp_path):
    condition = Condition("bread in {language}", rate_safety=0.25, names={"qaa": "Vessari"})
    condition.save(tmp_path / "condition.json")
    assert Condition.load(tmp_path / "condition.json") == condition
    (tmp_path / "condition.json").write_text("bread")
    with pytest.raises(DataError, match="is no condition of a repair"):
        Condition.load(tmp_path / "condition.json")


def test_each_prompt_is_followed_by_the_sentence_with_its_own_language(chat):
    named = Condition("bread {language}", names={"xx": "home", "yy": "d"})
    assert named.ids_of(chat, ["yy", "xx", "yy"]) == [named.ids(chat, "yy"), named.ids(chat, "xx"), named.ids(chat, "yy")]
    assert named.ids(chat, "xx") == Condition("bread home").ids(chat) != named.ids(chat, "yy")


# --- asking ---------------------------------------------------------------------------------------------------------------


def test_flagged_prompts_are_answered_behind_the_sentence_and_the_others_as_ever(chat, interpreter, tmp_path):
    grid, options = toy_grid().select(split="score"), {"max_new_tokens": 5, "progress": False}
    model = conditioned(chat, interpreter, BREAD)
    flagged = model.flags(grid)
    assert flagged.sum() == 6 and not flagged.all() and list(flagged.index) == list(grid.frame["prompt_id"])
    replies, plain = model.generate(grid, out=tmp_path / "replies.jsonl", **options), generate(chat, grid, **options)
    assert list(replies.columns) == list(COLUMNS) and list(replies["prompt_id"]) == list(plain["prompt_id"])
    for row, before, tokens in zip(replies.itertuples(), plain.itertuples(), chat.tokenise(list(grid.frame["text"])), strict=True):
        expected = reply_to(chat, [[*tokens.ids, *BREAD.ids(chat)]], 5)[0].reply if flagged[row.prompt_id] else before.reply
        assert row.reply == expected
    assert (replies["reply"] != plain["reply"]).any(), "the sentence must matter"
    header = json.loads((tmp_path / "replies.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert header["insert"]["prompts"] == 6 and "interpreter at layer 2, t_inst" in header["condition"] and BREAD.hash in header["condition"]
    pd.testing.assert_frame_equal(model.generate(grid, out=tmp_path / "replies.jsonl", **options), replies)
    for other in (conditioned(chat, interpreter, Condition("home")), conditioned(chat, replace(interpreter, threshold=0.6), BREAD)):
        with pytest.raises(StoreMismatchError, match="condition was"):
            other.generate(grid, out=tmp_path / "replies.jsonl", **options)


def test_where_nothing_is_flagged_every_reply_is_the_plain_one(chat, interpreter):
    grid = toy_grid().select(split="score", harmful=False)
    replies = conditioned(chat, interpreter, BREAD).generate(grid, max_new_tokens=4, progress=False)
    pd.testing.assert_frame_equal(replies, generate(chat, grid, max_new_tokens=4, progress=False))


def test_a_trained_model_is_asked_with_its_start_as_reader_or_with_a_carried_over_interpreter(chat, interpreter, tiny_model):
    trained, grid = tiny_model("llama", seed=1), toy_grid()
    with pytest.raises(StoreMismatchError, match=r"fingerprint .* reader=.* moved"):
        conditioned(trained, interpreter, BREAD)
    model = conditioned(trained, interpreter, BREAD, reader=chat)
    np.testing.assert_array_equal(model.flags(grid), interpreter.flag(chat, grid))
    few = grid.select(split="score")
    expected = generate(trained, few, max_new_tokens=3, insert={p: BREAD.ids(chat) for p, f in model.flags(few).items() if f}, progress=False)
    pd.testing.assert_frame_equal(model.generate(few, max_new_tokens=3, progress=False), expected)
    acts = capture(trained, grid, layers=[LAYER], positions=[POSITION], progress=False)
    assert conditioned(trained, interpreter.moved(acts), BREAD).flags(grid).sum() >= 0


def test_reader_and_answering_model_are_asked_alike(chat, interpreter):
    with pytest.raises(DataError, match="another template, thinking switch or system prompt"):
        conditioned(raw_view(chat), interpreter, BREAD, reader=chat)
    with pytest.raises(StoreMismatchError, match="system prompt"):
        conditioned(replace(chat, system="Reply in one word."), interpreter, BREAD)


def test_an_interpreter_of_raw_text_stands_in_front_of_a_model_with_a_template(chat):
    found = toy_interpreter(raw_view(chat), position="t_post_inst")
    grid = toy_grid().select(split="score")
    model = conditioned(chat, found, BREAD)
    np.testing.assert_array_equal(model.flags(grid), found.flag(raw_view(chat), grid))
    assert model.chat.template.kind == "own" and len(model.generate(grid, max_new_tokens=2, progress=False)) == len(grid)
    assert FEW.epochs == found.record["epochs"]
