"""Orthogonalised weights: equal to ablation where nothing stands behind the write, to the edit before the norm elsewhere; never saved."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from tests.interventions.conftest import FAMILIES, TEXTS
from tests.tiny import build_model
from workbench.errors import ModelCheckError, ModelError
from workbench.interventions import Ablate, orthogonalised
from workbench.interventions.weights import require_savable
from workbench.models import load_model
from workbench.models.chat import twin_of
from workbench.models.hooks import record

POST_NORM = ("gemma2", "gemma3")


def read(chat):
    ids, mask = chat.pad([t.ids for t in chat.tokenise(TEXTS)], side="left")
    with torch.no_grad(), record(chat, range(chat.n_layers + 1)) as states:
        logits = chat.model(input_ids=ids, attention_mask=mask).logits
    return torch.stack([states[k] for k in sorted(states)])[:, mask.bool()], logits[mask.bool()]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in POST_NORM])
def test_ablating_every_write_equals_orthogonalised_weights(tiny_model, vector, family):
    chat = tiny_model(family)
    plain = read(chat)
    with chat.edited(Ablate(vector)):
        by_hooks = read(chat)
    with orthogonalised(chat, vector) as copy:
        by_weights = read(copy)
    for one, other, before in zip(by_hooks, by_weights, plain, strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-5)
        assert (one - before).abs().max() > 0.1, "the direction must matter, or the test shows nothing"


@pytest.mark.parametrize("family", POST_NORM)
def test_behind_a_norm_orthogonalised_weights_equal_projecting_before_it(tiny_model, vector, family):
    chat = tiny_model(family)
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()

    def project(states, along):
        along = along / along.norm()
        return states - (states @ along).unsqueeze(-1) * along

    def before(norm):  # what the norm is given loses its component along gain x v; this family stores the gain less 1
        return lambda _module, args: (project(args[0], (1 + norm.weight) * unit),)

    with ExitStack() as hooks, chat.edited({0: lambda residual: project(residual, unit)}):
        for block in chat.parts.blocks:
            for norm in (block.post_attention_layernorm, block.post_feedforward_layernorm):
                hooks.callback(norm.register_forward_pre_hook(before(norm)).remove)
        by_hooks = read(chat)
    with orthogonalised(chat, vector) as copy:
        by_weights = read(copy)
    for one, other in zip(by_hooks, by_weights, strict=True):
        torch.testing.assert_close(one, other, atol=5e-5, rtol=1e-5)


def randomised_norms(family, tokenizer):
    """A model whose norms have gains of their own, as trained ones do."""
    model = build_model(family, vocab_size=len(tokenizer))
    draw = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.copy_(weight + 0.3 * torch.randn(weight.shape, generator=draw))
    return load_model(model, tokenizer=tokenizer, check=False)


@pytest.mark.parametrize("family", ["llama", *POST_NORM])
def test_no_layer_of_the_copy_has_a_component_along_the_direction(tiny_tokenizer, vector, family):
    chat = randomised_norms(family, tiny_tokenizer)
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()
    with orthogonalised(chat, vector) as copy:
        states, _ = read(copy)
        assert ((states @ unit).abs() / states.norm(dim=-1)).max() < 1e-5
    states, _ = read(chat)
    assert ((states @ unit).abs() / states.norm(dim=-1)).max() > 0.1


def test_biases_lose_the_direction_too(tiny_tokenizer, vector):
    import transformers as hf

    config = hf.LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        attention_bias=True, mlp_bias=True, max_position_embeddings=256, initializer_range=0.2, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.LlamaForCausalLM(config).eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_()
    chat = load_model(model, tokenizer=tiny_tokenizer, check=False)
    with chat.edited(Ablate(vector)):
        by_hooks = read(chat)
    with orthogonalised(chat, vector) as copy:
        torch.testing.assert_close(read(copy)[1], by_hooks[1], atol=5e-5, rtol=1e-5)


def test_a_head_that_shared_its_weights_keeps_the_old_ones(tiny_model, vector):
    chat = tiny_model("gemma2")
    assert chat.model.lm_head.weight is chat.model.get_input_embeddings().weight
    with orthogonalised(chat, vector) as copy:
        assert torch.equal(copy.model.lm_head.weight, chat.model.lm_head.weight)
        assert not torch.equal(copy.model.get_input_embeddings().weight, chat.model.lm_head.weight)
        assert not copy.model.config.tie_word_embeddings
    assert chat.model.config.tie_word_embeddings


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_itself_stays_as_it_was(tiny_model, vector, family):
    chat = tiny_model(family)
    before, identity = read(chat)[1], chat.fingerprint
    with orthogonalised(chat, vector) as copy:
        assert copy.fingerprint != identity
        assert copy.name != chat.name
    assert chat.fingerprint == identity
    assert torch.equal(read(chat)[1], before)


def test_saving_the_copy_is_refused_by_every_door(tiny_model, vector, tmp_path):
    with orthogonalised(tiny_model("llama"), vector) as copy:
        for save in (copy.model.save_pretrained, copy.parts.base.save_pretrained, twin_of(copy.model).save_pretrained, copy.model.push_to_hub):
            with pytest.raises(ModelError, match="is not saved: it was made to measure"):
                save(tmp_path / "never")
        with pytest.raises(ModelError, match="is not saved"):
            require_savable(copy.model)
    assert list(tmp_path.iterdir()) == []
    require_savable(tiny_model("llama").model)


def test_the_copy_ends_with_its_with_even_after_an_error(tiny_model, vector):
    chat = tiny_model("llama")
    with pytest.raises(RuntimeError, match="boom"), orthogonalised(chat, vector) as copy:
        raise RuntimeError("boom")
    for call in (lambda: read(copy), lambda: copy.states(chat.tokenise(TEXTS), layers=[1], positions=["t_inst"])):
        with pytest.raises(ModelError, match="lent for the length of its"):
            call()
    assert {p.device.type for p in copy.model.parameters()} == {"meta"}


def test_what_cannot_be_made_orthogonal_is_refused(tiny_model, tiny_tokenizer, vector):
    with pytest.raises(ModelError, match="8 entries"), orthogonalised(tiny_model("llama"), np.ones(8)):
        pass
    model = build_model("llama", vocab_size=len(tiny_tokenizer))
    model.model.layers[1].mlp.down_proj = torch.nn.Sequential(model.model.layers[1].mlp.down_proj)
    chat = load_model(model, tokenizer=tiny_tokenizer, check=False)
    with pytest.raises(ModelError, match=r"blocks\.1\.hook_mlp_out: no single output matrix"), orthogonalised(chat, vector):
        pass
    model = build_model("llama", vocab_size=len(tiny_tokenizer))
    inner = model.model.embed_tokens.forward
    model.model.embed_tokens.forward = lambda ids: inner(ids) + 1  # stands for learned positions
    chat = load_model(model, tokenizer=tiny_tokenizer, check=False)
    with pytest.raises(ModelCheckError, match=r"at layer 0 .* still lies along the direction"), orthogonalised(chat, vector):
        pass
