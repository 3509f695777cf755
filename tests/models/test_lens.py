"""The lens reads every layer through the model's own norm and head, whatever the batch."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import FAMILIES, build_model
from workbench.errors import ModelCheckError, ModelError, PromptError
from workbench.models import lens
from workbench.models.chat import twin_of
from workbench.models.hooks import edited
from workbench.models.lens import lens_logits
from workbench.models.load import load_model

TEXTS = ["Hello there.", "How do I bake bread at home?", "Name three rivers and tell me which is the longest of them."]
POSITIONS = ("t_inst", "post[1]", "t_post_inst")

pytestmark = pytest.mark.filterwarnings("ignore")  # transformer_lens and what it imports warn at import


def gathered(chat, texts=TEXTS, **options):
    """Put all batches together: [prompt layer position vocab], asking that each cell comes once."""
    layers = list(options.get("layers") or range(chat.n_layers + 1))
    whole = None
    for batch in lens_logits(chat, texts, **options):
        if whole is None:
            whole = np.full((len(texts), len(layers), *batch.logits.shape[2:]), np.nan, dtype=np.float32)
        for i, row in enumerate(batch.rows):
            for j, layer in enumerate(batch.layers):
                assert np.isnan(whole[row, layers.index(layer)]).all()
                whole[row, layers.index(layer)] = batch.logits[i, j]
    assert np.isfinite(whole).all()
    return whole


def relative(found, expected):
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return float(np.sqrt(((found - expected) ** 2).mean(-1) / (expected**2).mean(-1)).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_gives_the_models_own_logits_and_every_layer_the_norm_and_head_of_its_state(tiny_model, family):
    chat = tiny_model(family)
    found = gathered(chat, positions=POSITIONS)
    twin, cap = twin_of(chat.model), getattr(chat.config, "final_logit_softcapping", None)
    for row, tokens in enumerate(chat.tokenise(TEXTS)):
        at = [tokens.span(position)[0] for position in POSITIONS]
        with torch.no_grad():
            outputs = twin(torch.tensor([tokens.ids]), output_hidden_states=True)
            assert relative(found[row, -1], outputs.logits[0, at]) < 1e-4
            for layer in range(chat.n_layers):
                direct = twin.lm_head(twin.model.norm(outputs.hidden_states[layer][0, at]))
                direct = cap * torch.tanh(direct / cap) if cap else direct
                assert relative(found[row, layer], direct) < 1e-4, layer


def test_a_prompt_reads_the_same_alone_in_a_batch_and_in_pieces(tiny_model):
    chat = tiny_model("qwen2")
    together = gathered(chat)
    alone = np.concatenate([gathered(chat, [text]) for text in TEXTS])
    pieces = gathered(chat, token_budget=1, logit_budget=1)
    assert relative(together, alone) < 1e-4 and relative(together, pieces) < 1e-4


@pytest.mark.parametrize("budget", [1, 3_000, 10_000, 10**9])
def test_no_batch_holds_more_logits_than_asked_unless_one_state_does(tiny_model, budget):
    chat = tiny_model("llama")
    sizes = [batch.logits.size for batch in lens_logits(chat, TEXTS * 3, logit_budget=budget)]
    states, width = 9 * (chat.n_layers + 1), 2 * len(chat.tokenizer)
    assert sum(sizes) == states * width
    assert max(sizes) <= max(budget, width)
    assert len(sizes) == 1 or budget < states * width


def test_layers_come_as_asked_and_are_the_same_as_when_all_are_read(tiny_model):
    chat = tiny_model("gemma3")
    batch = next(lens_logits(chat, TEXTS[:1], layers=[4, 0, 2], positions=["t_post_inst"]))
    assert batch.layers == (4, 0, 2) and batch.positions == ("t_post_inst",) and batch.logits.dtype == np.float32
    whole = gathered(chat, TEXTS[:1])
    assert relative(batch.logits[0, :, 0], whole[0, [4, 0, 2], 1]) < 1e-6


def test_layer_0_of_the_last_template_token_is_the_same_for_every_prompt_and_later_layers_are_not(tiny_model):
    found = gathered(tiny_model("llama"))
    assert relative(found[0, 0, 1], found[1, 0, 1]) < 1e-6
    assert relative(found[0, 1, 1], found[1, 1, 1]) > 1e-3


def test_tokens_read_as_their_texts_do(tiny_model):
    chat = tiny_model("mistral")
    assert relative(gathered(chat, chat.tokenise(TEXTS)), gathered(chat)) < 1e-6


def test_an_active_edit_is_read(tiny_model):
    chat = tiny_model("llama")
    ids = torch.tensor([chat.tokenise(TEXTS[:1])[0].ids])
    with edited(chat, {2: lambda residual: residual + 1.0}), torch.no_grad():
        found = gathered(chat, TEXTS[:1])
        assert relative(found[0, -1, 1], chat.model(ids).logits[0, -1]) < 1e-4
    plain = gathered(chat, TEXTS[:1])
    assert relative(found[0, :2], plain[0, :2]) < 1e-6 and relative(found[0, 2], plain[0, 2]) > 1e-2


def test_a_model_whose_head_does_more_than_the_lens_reads_is_refused(tiny_tokenizer):
    model = build_model("llama", vocab_size=len(tiny_tokenizer))
    chat = load_model(model, tokenizer=tiny_tokenizer)
    _ = chat.bridge  # the twin is made before the head changes, so TransformerLens' own check of it passes
    model.lm_head.register_forward_hook(lambda _module, _args, logits: logits * 1.01)
    with pytest.raises(ModelCheckError, match=r"differs from the model's own logits \(relative gap 0\.0099.*dtype='float32'"):
        next(lens_logits(chat, TEXTS))


def test_what_transformerlens_refuses_is_said_with_the_models_name(tiny_tokenizer):
    model = build_model("llama", vocab_size=len(tiny_tokenizer))
    chat = load_model(model, tokenizer=tiny_tokenizer)
    chat.bridge.train()
    with pytest.raises(ModelCheckError, match=r"LlamaForCausalLM: TransformerLens cannot read its layers: .*evaluation.*leave the logit lens out"):
        next(lens_logits(chat, TEXTS))


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        (TEXTS, {"layers": [9]}, ModelError, "no layer 9: expected whole numbers from 0 .* to 4"),
        (TEXTS, {"layers": []}, ModelError, "empty or names a layer twice"),
        (TEXTS, {"layers": [1, 1]}, ModelError, "empty or names a layer twice"),
        (TEXTS, {"positions": ["t_ins"]}, ModelError, "Did you mean 't_inst'"),
        (TEXTS, {"positions": ["mean_inst"]}, ModelError, "a mean over tokens predicts none"),
        (TEXTS, {"positions": "t_inst"}, ModelError, "Expected a sequence of places"),
        (TEXTS, {"positions": ["post[40]"], "names": ["a", "b", "c"]}, PromptError, r"Prompt a: position post\[40\] does not exist"),
        (TEXTS, {"logit_budget": 0}, ModelError, "must be at least 1"),
        (["x", " "], {"names": ["a", "b"]}, PromptError, "Empty text in prompts b"),
        (["x", "bread " * 400], {"names": ["a", "b"]}, PromptError, r"longer than the context of LlamaForCausalLM \(256 tokens\): b"),
        ("Hello there.", {}, PromptError, "Got one text; expected a sequence"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_computed(tiny_model, texts, options, error, message):
    with pytest.raises(error, match=message):
        next(lens_logits(tiny_model("llama"), texts, **options))


def test_no_texts_give_no_batches(tiny_model):
    assert list(lens_logits(tiny_model("llama"), [])) == []


def test_transformerlens_is_imported_only_when_it_reads():
    tree = ast.parse(Path(lens.__file__).read_text(encoding="utf-8"))
    named = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    inside = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in named if name.startswith("transformer_lens")]
    assert any(name.startswith("transformer_lens") for name in inside)
