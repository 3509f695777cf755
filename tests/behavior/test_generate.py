"""Replies: greedy whatever the model's own settings, batch-independent, resumable, private."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.behavior import generate as generation
from workbench.behavior.generate import generate, reply_to, stop_tokens
from workbench.behavior.stops import Stops
from workbench.errors import DataError, ModelCheckError, ModelError, PromptError, StoreError, StoreMismatchError
from workbench.interventions import Ablate, Add
from workbench.prompts import PromptGrid

TEXTS = ["Hello there.", "Name three rivers.", "How do I bake bread at home, slowly?", "Comment faire du pain ?", "Bread"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny matrices off the second core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def grid() -> PromptGrid:
    """Return five harmless prompts, some called harmful."""
    return PromptGrid(pd.DataFrame([{"language": "en", "meaning_id": f"m{i}", "text": text, "harmful": i % 2} for i, text in enumerate(TEXTS)]))


def argmax_reply(chat: Any, ids: tuple[int, ...], n: int) -> list[int]:
    """Continue one prompt by hand: no cache, no padding, no batch."""
    new: list[int] = []
    while len(new) < n:
        logits = chat.model(input_ids=torch.tensor([[*ids, *new]]), use_cache=False).logits[0, -1]
        token = int(logits.argmax())
        if token in stop_tokens(chat):
            break
        new.append(token)
    return new


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_batched_replies_equal_taking_the_most_likely_token_one_prompt_at_a_time(tiny_model, grid, family):
    chat = tiny_model(family)
    replies = generate(chat, grid, max_new_tokens=6, progress=False)
    for row, tokens in zip(replies.itertuples(), chat.tokenise(TEXTS), strict=True):
        new = argmax_reply(chat, tokens.ids, 6)
        assert row.reply == chat.tokenizer.decode(new, skip_special_tokens=True).strip()
        assert row.n_new_tokens == len(new)
        assert row.finished == (len(new) < 6)
    assert list(replies["prompt_id"]) == list(grid.frame["prompt_id"])


def test_padding_with_the_end_token_is_not_read_as_text(tiny_model, grid):
    chat = tiny_model("llama")
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    other = type(chat)(chat.model, tokenizer, chat.name, chat.path, chat.template, chat.system, chat.checks)
    expected = generate(chat, grid, max_new_tokens=6, token_budget=1, progress=False)
    pd.testing.assert_frame_equal(generate(other, grid, max_new_tokens=6, progress=False), expected)


def test_the_models_own_sampling_settings_do_not_reach_greedy_replies(tiny_model, grid, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # else its warnings pass caplog by
    chat = tiny_model("llama")
    usual = generate(chat, grid, max_new_tokens=8, progress=False)
    model = copy.copy(chat.model)
    model.generation_config = copy.deepcopy(chat.model.generation_config)
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.5, top_k=3, repetition_penalty=3.0, no_repeat_ngram_size=1, min_length=40)
    other = type(chat)(model, chat.tokenizer, chat.name, chat.path, chat.template, chat.system, chat.checks)
    pd.testing.assert_frame_equal(generate(other, grid, max_new_tokens=8, progress=False), usual)
    assert [record.message for record in caplog.records] == []


def test_every_declared_end_token_stops_a_reply_and_is_not_part_of_it(tiny_model, grid):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)[1]
    free = argmax_reply(chat, tokens.ids, 6)
    third = free[2]
    model = copy.copy(chat.model)
    model.generation_config = copy.deepcopy(chat.model.generation_config)
    model.generation_config.eos_token_id = [399, third]
    stopping = type(chat)(model, chat.tokenizer, chat.name, chat.path, chat.template, chat.system, chat.checks)
    assert set(stop_tokens(stopping)) >= {399, third}
    [reply] = reply_to(stopping, [tokens.ids], 6)
    assert reply.finished
    assert reply.n_new_tokens == free.index(third)


def test_replies_do_not_depend_on_the_token_budget(tiny_model, grid):
    chat = tiny_model("llama")
    one_by_one = generate(chat, grid, max_new_tokens=5, token_budget=1, progress=False)
    pd.testing.assert_frame_equal(generate(chat, grid, max_new_tokens=5, progress=False), one_by_one)


def test_only_the_owner_may_read_the_file_from_its_first_byte(tiny_model, grid, tmp_path, monkeypatch):
    seen = []
    real = os.open

    def watched(path, flags, mode=0o777, **kwargs):
        handle = real(path, flags, mode, **kwargs)
        if str(path).startswith(str(tmp_path)):
            seen.append((stat.S_IMODE(os.fstat(handle).st_mode), os.fstat(handle).st_size))
        return handle

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        generate(tiny_model("llama"), grid, max_new_tokens=2, out=tmp_path / "replies.jsonl", progress=False)
    finally:
        os.umask(before)
    assert seen[0] == (0o600, 0)
    assert {mode for mode, _ in seen} == {0o600}
    assert stat.S_IMODE((tmp_path / "replies.jsonl").stat().st_mode) == 0o600
    assert not list(tmp_path.glob("*.draft"))


def test_a_second_call_asks_only_what_is_missing_and_gives_the_same_replies(tiny_model, grid, tmp_path, monkeypatch):
    chat, out = tiny_model("llama"), tmp_path / "replies.jsonl"
    whole = generate(chat, grid, max_new_tokens=4, progress=False)
    asked: list[int] = []
    real = generation.reply_to

    def interrupted(chat, ids, n, **options):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(ids))
        return real(chat, ids, n, **options)

    monkeypatch.setattr(generation, "reply_to", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(chat, grid, max_new_tokens=4, token_budget=1, out=out, progress=False)
    assert not out.exists()
    draft = tmp_path / "replies.jsonl.draft"
    with draft.open("ab") as file:
        file.write(b'{"prompt_id": "m3:en", "rep')  # the write that was cut off
    asked.clear()
    monkeypatch.setattr(generation, "reply_to", lambda chat, ids, n, **options: asked.append(len(ids)) or real(chat, ids, n, **options))
    resumed = generate(chat, grid, max_new_tokens=4, token_budget=1, out=out, progress=False)
    pd.testing.assert_frame_equal(resumed, whole)
    assert sum(asked) == 3
    asked.clear()
    pd.testing.assert_frame_equal(generate(chat, grid, max_new_tokens=4, out=out, progress=False), whole)
    assert asked == []
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1 + len(grid)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_new_tokens": 3}, "max_new_tokens was 2 and is 3"),
        ({"condition": "ablated"}, "condition was None and is 'ablated'"),
        ({"grid": "other"}, "grid was"),
        ({"chat": "other"}, "model was"),
    ],
)
def test_a_file_of_another_run_is_refused_naming_what_differs(tiny_model, grid, tmp_path, change, named):
    out = tmp_path / "replies.jsonl"
    generate(tiny_model("llama"), grid, max_new_tokens=2, out=out, progress=False)
    before = out.read_bytes()
    chat = tiny_model("llama", seed=1) if "chat" in change else tiny_model("llama")
    asked = grid.select(meanings=["m0", "m1"]) if "grid" in change else grid
    options = {"max_new_tokens": 2, **{key: value for key, value in change.items() if key in ("max_new_tokens", "condition")}}
    with pytest.raises(StoreMismatchError, match=named):
        generate(chat, asked, out=out, progress=False, **options)
    assert out.read_bytes() == before


def test_a_file_that_holds_something_else_is_left_alone(tiny_model, grid, tmp_path):
    out = tmp_path / "notes.jsonl"
    out.write_text('{"note": "mine"}\n', encoding="utf-8")
    with pytest.raises(StoreError, match="Choose another name"):
        generate(tiny_model("llama"), grid, max_new_tokens=2, out=out, progress=False)
    assert json.loads(out.read_text(encoding="utf-8")) == {"note": "mine"}


def test_running_out_of_memory_halves_the_batch_and_goes_on(tiny_model, grid, monkeypatch, caplog):
    chat, sizes = tiny_model("llama"), []
    whole = generate(chat, grid, max_new_tokens=3, progress=False)
    real = generation.reply_to

    def small(chat, ids, n, **options):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(chat, ids, n, **options)

    monkeypatch.setattr(generation, "reply_to", small)
    pd.testing.assert_frame_equal(generate(chat, grid, max_new_tokens=3, progress=False), whole)
    assert sizes[:2] == [5, 2]
    assert "out of memory" in caplog.text


def test_a_prompt_that_does_not_fit_alone_is_named(tiny_model, grid, monkeypatch):
    def never(chat, ids, n, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(generation, "reply_to", never)
    with pytest.raises(ModelError, match=r"Prompt m2:en .* alone does not fit"):
        generate(tiny_model("llama"), grid, max_new_tokens=3, progress=False)


def test_a_prompt_longer_than_the_context_is_named_before_anything_is_asked(tiny_model, grid):
    with pytest.raises(ModelError, match=r"m2:en has \d+ tokens, and with 250 new ones"):
        generate(tiny_model("llama"), grid, max_new_tokens=250, progress=False)


def test_another_error_of_the_model_is_not_taken_for_lack_of_memory(tiny_model, grid, monkeypatch):
    def broken(chat, ids, n, **options):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(generation, "reply_to", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        generate(tiny_model("llama"), grid, progress=False)


def test_the_path_may_be_a_string_in_a_folder_that_is_not_there_yet(tiny_model, grid, tmp_path):
    out = str(tmp_path / "run" / "replies.jsonl")
    generate(tiny_model("llama"), grid.select(meanings=["m0"]), max_new_tokens=1, out=out, progress=False)
    assert Path(out).exists()


# --- under edits ------------------------------------------------------------------------------------------------------

VECTOR = np.linspace(-1, 1, 32)
EDITS = {
    "all": Add(VECTOR, 8.0, layers=2),
    "last_prompt and decode": Add(VECTOR, 8.0, layers=2, scope=("last_prompt", "decode")),
    "instruction": Add(VECTOR, 12.0, layers=1, scope="instruction"),
    "prompt": Add(VECTOR, 0.7, "norm", layers=2, scope="prompt"),
    "ablated": Ablate(VECTOR),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_steered_replies_do_not_depend_on_the_batch(tiny_model, grid, family, name):
    chat = tiny_model(family)
    with chat.edited(EDITS[name]):
        together = generate(chat, grid, max_new_tokens=5, progress=False)
        alone = generate(chat, grid, max_new_tokens=5, token_budget=1, progress=False)
    pd.testing.assert_frame_equal(together, alone)
    assert list(together["reply"]) != list(generate(chat, grid, max_new_tokens=5, progress=False)["reply"]), "the edit must matter"


@pytest.mark.parametrize("name", EDITS)
def test_steered_replies_are_what_taking_the_most_likely_token_without_a_cache_gives(tiny_model, grid, name):
    from workbench.models.passes import Batch, announced

    chat = tiny_model("llama")
    with chat.edited(EDITS[name]):
        replies = generate(chat, grid, max_new_tokens=4, progress=False)
        for row, tokens in zip(replies.itertuples(), chat.tokenise(TEXTS), strict=True):
            with announced(Batch.of([tokens], side="left")):  # which tokens are the prompt's, when nothing is cached
                new = argmax_reply(chat, tokens.ids, 4)
            assert row.reply == chat.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_rows_steer_the_prompts_they_name_and_no_others(tiny_model, grid):
    chat = tiny_model("llama")
    plain = generate(chat, grid, max_new_tokens=5, progress=False)
    with chat.edited(Add(VECTOR, 8.0, layers=2)):
        steered = generate(chat, grid, max_new_tokens=5, progress=False)
    chosen = dict(zip(grid.frame["prompt_id"], [True, False, False, True, True], strict=True))
    with chat.edited(Add(VECTOR, 8.0, layers=2, rows=chosen)):
        mixed = generate(chat, grid, max_new_tokens=5, progress=False)
    expected = [one if chosen[name] else other for name, one, other in zip(plain["prompt_id"], steered["reply"], plain["reply"], strict=True)]
    assert list(mixed["reply"]) == expected
    with chat.edited(Add(VECTOR, layers=2, rows={"m0:en": True})), pytest.raises(DataError, match="says nothing about 4 prompts"):
        generate(chat, grid, max_new_tokens=2, progress=False)


def test_replies_under_an_edit_are_never_taken_for_replies_without(tiny_model, grid, tmp_path):
    chat, out = tiny_model("llama"), tmp_path / "replies.jsonl"
    options = {"max_new_tokens": 2, "out": out, "progress": False}
    with chat.edited(EDITS["all"]):
        steered = generate(chat, grid, **options)
        pd.testing.assert_frame_equal(generate(chat, grid, **options), steered)
        with pytest.raises(StoreMismatchError, match="condition was 'layer 2: Add"):
            generate(chat, grid, condition="mine", **options)
    with pytest.raises(StoreMismatchError, match=r"condition was 'layer 2: Add.* and is None"):
        generate(chat, grid, **options)
    with chat.edited(Add(VECTOR, 8.5, layers=2)), pytest.raises(StoreMismatchError, match="condition was"):
        generate(chat, grid, **options)
    header = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    assert header["condition"].endswith("8.0 x unit, all)")


@pytest.mark.parametrize("strength", [1e25, 1e45])  # squared beyond float32 (norms then make zeros of it), and beyond it at once
@pytest.mark.parametrize(("scope", "where"), [("all", "first at layer 3"), ("decode", "while generating")])
def test_a_strength_that_overflows_stops_the_run_and_is_named_with_its_layer(tiny_model, grid, tmp_path, scope, where, strength):
    chat, out = tiny_model("llama"), tmp_path / "replies.jsonl"
    edit = Add(VECTOR, strength, layers=3, scope=scope)
    told = rf"layer 3: Add\(.*{re.escape(repr(strength))} x unit.*m2:en.*{where}.*lower the strength"
    with chat.edited(edit), pytest.raises(ModelCheckError, match=told):
        generate(chat, grid, max_new_tokens=3, out=out, progress=False)
    assert not out.exists()
    assert not any(module._forward_hooks for module in chat.model.modules())


def test_logits_that_are_not_finite_by_themselves_are_not_blamed_on_an_edit(tiny_tokenizer, grid):
    from tests.tiny import build_model
    from workbench.models import load_model

    model = build_model("llama", vocab_size=len(tiny_tokenizer))
    model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    chat = load_model(model, tokenizer=tiny_tokenizer, check=False)
    with pytest.raises(ModelCheckError, match=r"first at layer 2\), without any edit"):
        generate(chat, grid, max_new_tokens=3, progress=False)


# --- what ends a reply ------------------------------------------------------------------------------------------------


def test_a_stop_text_ends_a_reply_and_is_not_part_of_it(tiny_model, grid):
    chat = tiny_model("llama")
    free = generate(chat, grid, max_new_tokens=8, progress=False)
    texts = [text for text in free["reply"] if len(text) > 5]
    stop = [texts[0][3:5], texts[-1][2:4]]
    stopped = generate(chat, grid, max_new_tokens=8, stop=stop, progress=False)
    for before, after in zip(free.itertuples(), stopped.itertuples(), strict=True):
        at = min((p for p in (before.reply.find(s) for s in stop) if p >= 0), default=None)
        assert after.reply == (before.reply if at is None else before.reply[:at].strip())
        assert after.finished == (before.finished or at is not None)
        assert after.n_new_tokens <= before.n_new_tokens
    assert (free["reply"] != stopped["reply"]).any()
    pd.testing.assert_frame_equal(generate(chat, grid, max_new_tokens=8, stop=stop, token_budget=1, progress=False), stopped)


def test_generation_stops_when_every_row_has_reached_its_stop_text(tiny_model, monkeypatch):
    chat = tiny_model("llama")
    ids = chat.tokenise(TEXTS)[1].ids
    [free] = reply_to(chat, [ids], 12)
    passes = []
    handle = chat.model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        [cut] = reply_to(chat, [ids], 12, stops=Stops.of(chat, [free.reply[:2]]))
    finally:
        handle.remove()
    assert cut == ("", 0, True)
    assert len(passes) < 6


def test_a_token_asked_for_ends_a_reply_like_an_end_token(tiny_model, grid):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)[1]
    new = argmax_reply(chat, tokens.ids, 6)
    one = grid.select(meanings=["m1"])
    row = generate(chat, one, max_new_tokens=6, stop=[new[3]], progress=False).iloc[0]
    assert (row["n_new_tokens"], row["finished"]) == (new.index(new[3]), True)


def test_what_ends_replies_is_part_of_the_file(tiny_model, grid, tmp_path):
    chat, out = tiny_model("llama"), tmp_path / "replies.jsonl"
    generate(chat, grid, max_new_tokens=2, stop=["\n\n"], out=out, progress=False)
    generate(chat, grid, max_new_tokens=2, stop="\n\n", out=out, progress=False)
    with pytest.raises(StoreMismatchError, match="stop was"):
        generate(chat, grid, max_new_tokens=2, out=out, progress=False)
    for wrong in ("", 10**9, True, None):
        with pytest.raises(ModelError, match="expected texts of at least one character, or token ids"):
            generate(chat, grid, max_new_tokens=2, stop=[wrong], progress=False)


# --- with tokens in front of the reply ------------------------------------------------------------------------------------


def test_inserted_tokens_are_read_as_the_end_of_the_named_prompts_and_are_no_part_of_the_reply(tiny_model, grid):
    chat = tiny_model("llama")
    first, second = grid.frame["prompt_id"][:2]
    insert = {first: (40, 41, 42), second: (50,)}
    together = generate(chat, grid, max_new_tokens=5, insert=insert, progress=False)
    for row, tokens in zip(together.itertuples(), chat.tokenise(TEXTS), strict=True):
        new = argmax_reply(chat, (*tokens.ids, *insert.get(row.prompt_id, ())), 5)
        assert row.reply == chat.tokenizer.decode(new, skip_special_tokens=True).strip()
    pd.testing.assert_frame_equal(generate(chat, grid, max_new_tokens=5, insert=insert, token_budget=1, progress=False), together)
    assert list(together["reply"]) != list(generate(chat, grid, max_new_tokens=5, progress=False)["reply"]), "the insertion must matter"


def test_replies_with_and_without_inserted_tokens_do_not_share_a_file(tiny_model, grid, tmp_path):
    chat, out = tiny_model("llama"), tmp_path / "replies.jsonl"
    names = list(grid.frame["prompt_id"])
    generate(chat, grid, max_new_tokens=1, out=out, insert={names[0]: [40]}, progress=False)
    header = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    assert header["insert"]["prompts"] == 1 and len(header["insert"]["sha256"]) == 16
    generate(chat, grid, max_new_tokens=1, out=out, insert={names[0]: (40,)}, progress=False)
    for other in (None, {}, {names[0]: [41]}, {names[1]: [40]}):
        with pytest.raises(StoreMismatchError, match="insert was"):
            generate(chat, grid, max_new_tokens=1, out=out, insert=other, progress=False)


def test_a_file_from_before_tokens_could_be_inserted_is_still_continued(tiny_model, grid, tmp_path):
    chat, out = tiny_model("llama"), tmp_path / "replies.jsonl"
    whole = generate(chat, grid, max_new_tokens=1, out=out, progress=False)
    lines = out.read_text(encoding="utf-8").splitlines()
    header = {key: value for key, value in json.loads(lines[0]).items() if key != "insert"}
    out.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n", encoding="utf-8")
    pd.testing.assert_frame_equal(generate(chat, grid, max_new_tokens=1, out=out, progress=False), whole)


@pytest.mark.parametrize(
    ("insert", "error", "told"),
    [
        ({"m9:en": [4]}, PromptError, "1 prompts that are not in the grid .first: 'm9:en'"),
        ({"m0:en": [100_000]}, ModelError, "m0:en: the inserted token 100000 is outside the vocabulary"),
        ({"m0:en": list(range(4, 104)) * 5}, ModelError, "m0:en has"),
    ],
)
def test_insertions_that_cannot_be_are_refused_before_anything_is_asked(tiny_model, grid, insert, error, told):
    with pytest.raises(error, match=told):
        generate(tiny_model("llama"), grid, max_new_tokens=2, insert=insert, progress=False)
