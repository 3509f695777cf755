"""Prompts whose beginnings are kept give the same next token as prompts read whole, under the same edits, and are read once."""

import numpy as np
import pytest
import torch

from workbench.errors import ModelCheckError
from workbench.interventions import Add, Patch
from workbench.models.halfway import halfway
from workbench.models.next_token import next_logits

TEXTS = ["Hello there.", "How do I bake bread at home?", "Name three rivers and tell me which is the longest of them."]
NAMES = ["a", "b", "c"]


def read_whole(chat, tokens):
    found = torch.zeros(len(tokens), chat.model.get_output_embeddings().weight.shape[0])
    for rows, logits in next_logits(chat, tokens, NAMES):
        found[rows] = logits
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3", "phi3", "mistral"])
@pytest.mark.parametrize("tail", [1, 4])
def test_the_next_token_is_as_if_the_prompts_were_read_whole(tiny_model, rng, family, tail):
    chat = tiny_model(family)
    tokens = chat.tokenise(TEXTS)
    states = {name: rng.normal(size=chat.hidden_size) for name in NAMES}
    vector = rng.normal(size=chat.hidden_size)
    for edits in ([], [Patch(states, layers=2, scope="last_prompt")], [Add(vector, 5.0, layers=3, scope="last_prompt")]):
        with chat.edited(*edits):
            expected = read_whole(chat, tokens)
        for batch in halfway(chat, tokens, NAMES, tail=tail):
            with chat.edited(*edits):
                found = batch.logits()
            torch.testing.assert_close(found, expected[batch.rows], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(batch.logits(), read_whole(chat, [tokens[i] for i in batch.rows])[: len(batch.rows)], atol=2e-5, rtol=1e-4)


def test_every_prompt_comes_once_and_beginnings_are_read_once_however_often_the_ends_are(tiny_model):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    read = []
    hook = chat.parts.blocks[0].register_forward_hook(lambda _m, args, _o: read.append(tuple(args[0].shape[:2])))
    try:
        batches = list(halfway(chat, tokens, NAMES, tail=1, token_budget=2 * max(map(len, tokens))))
        assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == [0, 1, 2] and len(batches) == 2
        widths = [max(len(tokens[i]) for i in batch.rows) for batch in batches]
        assert read == [(len(batch.rows), width - 1) for batch, width in zip(batches, widths, strict=True)]
        read.clear()
        for _ in range(3):
            batches[0].logits()
        assert read == [(len(batches[0].rows), 1)] * 3
    finally:
        hook.remove()


def test_prompts_that_are_all_tail_are_read_whole(tiny_model):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS[:1])
    (batch,) = halfway(chat, tokens, NAMES[:1], tail=len(tokens[0]))
    torch.testing.assert_close(batch.logits(), read_whole(chat, tokens), atol=2e-5, rtol=1e-4)


def test_a_push_that_breaks_the_model_is_refused_by_prompt_id(tiny_model):
    chat = tiny_model("llama")
    (batch,) = halfway(chat, chat.tokenise(TEXTS), NAMES, tail=1)
    broken = pytest.raises(ModelCheckError, match=r"prompts .*a.* NaN, infinite or all alike")
    with chat.edited(Add(np.ones(chat.hidden_size), 1e30, layers=2)), broken:
        batch.logits()
