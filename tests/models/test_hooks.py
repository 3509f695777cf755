"""The hook engine against transformers' own hidden states, and what edits may and may not do."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import FAMILIES, build_model
from workbench.errors import ModelCheckError, ModelError
from workbench.models.hooks import edited, edits_of, find_parts, layer_of, place_of, record, site, spans

TEXTS = ["Hello there.", "How do I bake bread at home?", "Name three rivers and tell me which is the longest of them."]


def reference_states(chat, ids):
    """Hidden states by transformers on a deep copy (the call leaves recorders behind), the last one without the norm."""
    twin = copy.deepcopy(chat.model)
    seen = {}
    twin.base_model.layers[-1].register_forward_hook(lambda m, a, out: seen.__setitem__("top", out[0] if isinstance(out, tuple) else out))
    states = twin.base_model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    return [*states[:-1], seen["top"]], states[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_layers_equal_transformers_hidden_states(tiny_model, family):
    chat = tiny_model(family)
    ids, _ = chat.pad([chat.tokenise(TEXTS)[2].ids])
    with torch.no_grad():
        expected, after_norm = reference_states(chat, ids)
        with record(chat, range(chat.n_layers + 1)) as states:
            chat.model(input_ids=ids)
    for layer in range(chat.n_layers + 1):
        torch.testing.assert_close(states[layer], expected[layer], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(chat.parts.norm(states[chat.n_layers]), after_norm, atol=1e-6, rtol=1e-6)
    assert (states[chat.n_layers] - after_norm).abs().max() > 0.1, "the last layer must be read before the final norm"


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_mates_padding_and_early_stop_do_not_change_a_prompt(tiny_model, family):
    chat = tiny_model(family)
    tokens = chat.tokenise(TEXTS)
    everything = chat.states(tokens, layers=range(chat.n_layers + 1), positions=["t_inst", "t_post_inst", "mean_inst", "post[0]"])
    for row, one in enumerate(tokens):
        alone = chat.states([one], layers=[2], positions=["t_inst", "t_post_inst", "mean_inst", "post[0]"])  # stops after block 1
        torch.testing.assert_close(everything[row, 2], alone[0, 0], atol=1e-5, rtol=1e-5)
    turned = chat.states(tokens[::-1], layers=range(chat.n_layers + 1), positions=["t_inst", "t_post_inst", "mean_inst", "post[0]"])
    torch.testing.assert_close(everything, turned.flip(0), atol=1e-5, rtol=1e-5)


def test_blocks_above_the_deepest_layer_do_not_run_and_the_model_still_works(tiny_model):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    before = chat.model(chat.pad([tokens[0].ids])[0]).logits
    ran = []
    handles = [block.register_forward_pre_hook(lambda m, a, k=k: ran.append(k)) for k, block in enumerate(chat.parts.blocks)]
    chat.states(tokens, layers=[0, 2], positions=["t_inst"])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]
    torch.testing.assert_close(chat.model(chat.pad([tokens[0].ids])[0]).logits, before)


def test_mean_over_the_text_is_the_mean_of_its_tokens_and_ignores_padding(tiny_model):
    chat = tiny_model("qwen2")
    tokens = chat.tokenise(TEXTS)
    ids, _ = chat.pad([t.ids for t in tokens])
    with torch.no_grad(), record(chat, [3]) as states:
        chat.parts.base(input_ids=ids, use_cache=False)
    poisoned = states[3].clone()
    for row, t in enumerate(tokens):
        poisoned[row, len(t) :] = float("nan")
    starts = np.array([[t.inst_start] for t in tokens])
    ends = np.array([[t.inst_end] for t in tokens])
    found = spans(starts, ends)(poisoned)
    for row, t in enumerate(tokens):
        torch.testing.assert_close(found[row, 0], states[3][row, t.inst_start : t.inst_end].mean(0))


def test_sites_and_layers_convert_both_ways():
    assert [layer_of(site(k)) for k in range(6)] == list(range(6))
    assert layer_of("blocks.4.hook_in") == 4
    assert layer_of("blocks.4.hook_resid_post") == 5
    with pytest.raises(ModelError, match=r"blocks.K.hook_out"):
        layer_of("blocks.4.hook_outt")
    with pytest.raises(ModelError, match="Count from the start"):
        site(-1)


@pytest.mark.parametrize("layer", [-1, 5, True])
def test_an_unknown_layer_is_refused_with_the_nearest(tiny_model, layer):
    with pytest.raises(ModelError, match=r"from 0 \(embedding\) to 4 .*Nearest: \d"), record(tiny_model("llama"), [layer]):
        pass


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_is_seen_by_recorders_and_by_the_blocks_above(tiny_model, family):
    chat = tiny_model(family)
    ids, _ = chat.pad([chat.tokenise(TEXTS)[1].ids])
    push = torch.linspace(-1, 1, chat.hidden_size)
    for layer in (0, 2, chat.n_layers):
        with torch.no_grad():
            with record(chat, range(chat.n_layers + 1)) as plain:
                chat.parts.base(input_ids=ids, use_cache=False)
            with record(chat, range(chat.n_layers + 1)) as states, edited(chat, {layer: lambda residual: residual + push}):
                chat.parts.base(input_ids=ids, use_cache=False)
        for below in range(layer):
            assert torch.equal(states[below], plain[below])
        torch.testing.assert_close(states[layer], plain[layer] + push)
        assert layer == chat.n_layers or not torch.allclose(states[layer + 1], plain[layer + 1] + push, atol=1e-3)


def test_edits_of_one_layer_act_in_the_order_given(tiny_model):
    chat = tiny_model("llama")
    ids, _ = chat.pad([chat.tokenise(TEXTS)[0].ids])
    with torch.no_grad(), edited(chat, {2: [lambda r: r * 0, lambda r: r + 1]}), record(chat, [2]) as states:
        chat.parts.base(input_ids=ids, use_cache=False)
    assert torch.equal(states[2], torch.ones_like(states[2]))


def test_no_edit_outlives_its_with_whatever_happens(tiny_model):
    chat = tiny_model("llama")
    ids, _ = chat.pad([chat.tokenise(TEXTS)[0].ids])
    before = chat.model(ids).logits

    def broken(residual):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), edited(chat, {0: broken, 3: broken}):
        assert edits_of(chat) and all("broken" in name for name in edits_of(chat))
        chat.model(ids)
    with pytest.raises(KeyboardInterrupt), edited(chat, {1: lambda r: r + 1}), record(chat, [0, 1]):
        raise KeyboardInterrupt
    assert edits_of(chat) == []
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in chat.parts.blocks)
    assert torch.equal(chat.model(ids).logits, before)


def test_an_edit_must_return_the_whole_stream(tiny_model):
    chat = tiny_model("llama")
    ids, _ = chat.pad([chat.tokenise(TEXTS)[0].ids])
    for wrong in (lambda r: None, lambda r: r[:, -1]):
        with pytest.raises(ModelError, match=r"at layer 2 returned .*expected a tensor of shape"), edited(chat, {2: wrong}):
            chat.model(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_equals_generation_without_under_an_edit(tiny_model, family):
    chat = tiny_model(family)
    ids, mask = chat.pad([t.ids for t in chat.tokenise(TEXTS)], side="left")
    push = 2 * torch.linspace(-1, 1, chat.hidden_size)
    options = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad(), edited(chat, {2: lambda residual: residual + push}):
        cached = chat.model.generate(ids, use_cache=True, **options)
        plain = chat.model.generate(ids, use_cache=False, **options)
    assert torch.equal(cached, plain)
    with torch.no_grad():
        assert not torch.equal(cached, chat.model.generate(ids, **options)), "the edit must matter, or the test shows nothing"


def test_blocks_that_return_tuples_are_read_and_edited():
    class Block(nn.Module):
        def forward(self, hidden_states):
            return hidden_states + 1, "attention weights"

    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = nn.ModuleList([Block(), Block()])

        def get_decoder(self):
            return self

        def forward(self, x):
            for block in self.h:
                x, rest = block(hidden_states=x)
                assert rest == "attention weights"
            return x

    class Chat:
        name = "tuples"

        def __init__(self, base):
            self.base_model = base
            self.parts = find_parts(base)

    chat = Chat(Base())
    zero = torch.zeros(1, 2, 3)
    with record(chat, [0, 1, 2]) as states, edited(chat, {0: lambda r: r + 10, 1: lambda r: r + 100}):
        out = chat.base_model(zero)
    assert [float(states[k][0, 0, 0]) for k in range(3)] == [10, 111, 112]
    assert float(out[0, 0, 0]) == 112


def test_unknown_structure_is_refused_naming_what_was_looked_for():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="layers or h or blocks"):
        find_parts(model)


def test_a_layer_passed_twice_or_never_is_reported(tiny_model):
    chat = tiny_model("llama")
    ids, _ = chat.pad([chat.tokenise(TEXTS)[0].ids])
    with pytest.raises(ModelCheckError, match="exactly once"), record(chat, [1]):
        chat.model(ids)
        chat.model(ids)
    with pytest.raises(ModelCheckError, match="exactly once"), record(chat, [1]):
        pass


def test_a_deep_copy_of_the_tiny_model_is_what_the_seed_makes():
    first, second, other = build_model("llama"), build_model("llama"), build_model("llama", seed=1)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_two_threads_that_read_one_model_do_not_see_each_others_passes(tiny_model):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    options = {"layers": [0, 4], "positions": ["t_inst"]}
    expected = [chat.states([one], **options) for one in tokens]
    wrong, barrier = [], threading.Barrier(len(tokens))

    def work(row):
        barrier.wait()
        wrong.extend(row for _ in range(8) if not torch.equal(chat.states([tokens[row]], **options), expected[row]))

    threads = [threading.Thread(target=work, args=(row,)) for row in range(len(tokens))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("family", FAMILIES)
def test_what_attention_and_mlp_add_up_to_is_the_stream(tiny_model, family):
    chat = tiny_model(family)
    ids, _ = chat.pad([chat.tokenise(TEXTS)[1].ids])
    added = {}
    watch = {name: (lambda r, name=name: added.__setitem__(name, r.clone()) or r) for name in chat.parts.writes}
    with torch.no_grad(), edited(chat, watch), record(chat, range(chat.n_layers + 1)) as states:
        chat.model(input_ids=ids)
    assert list(added) == [f"blocks.{k}.hook_{branch}_out" for k in range(chat.n_layers) for branch in ("attn", "mlp")]
    total = states[0]
    for k in range(chat.n_layers):
        total = total + added[f"blocks.{k}.hook_attn_out"] + added[f"blocks.{k}.hook_mlp_out"]
        torch.testing.assert_close(total, states[k + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformer_lens and what it imports warn at import
@pytest.mark.parametrize("family", FAMILIES)
def test_writes_are_transformerlens_sites(tiny_model, family):
    chat = tiny_model(family)
    ids, _ = chat.pad([chat.tokenise(TEXTS)[1].ids])
    ours = {}
    watch = {name: (lambda r, name=name: ours.__setitem__(name, r.clone()) or r) for name in chat.parts.writes}
    with torch.no_grad(), edited(chat, watch):
        chat.model(input_ids=ids)
        spelled = {"attn": "ln1_post" if "gemma" in family else "attn", "mlp": "ln2_post" if "gemma" in family else "mlp"}
        names = [f"blocks.{k}.{inner}.hook_out" for k in range(chat.n_layers) for inner in spelled.values()]
        _, cache = chat.bridge.run_with_cache(ids, names_filter=[*ours, *names], use_cache=False)
    for name, canonical in zip(names, ours, strict=True):
        torch.testing.assert_close(ours[canonical], cache[canonical], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours[canonical], cache[name], atol=1e-5, rtol=1e-5)
        assert place_of(chat, name) == canonical


def test_places_have_one_spelling(tiny_model):
    chat = tiny_model("llama")
    assert [place_of(chat, name) for name in (3, "blocks.2.hook_out", "blocks.3.hook_in", "embed.hook_out")] == [3, 3, 3, 0]
    assert place_of(chat, "blocks.1.hook_attn_out") == place_of(chat, "blocks.1.attn.hook_out") == "blocks.1.hook_attn_out"
    assert place_of(tiny_model("gemma2"), "blocks.1.ln2_post.hook_out") == "blocks.1.hook_mlp_out"
    with pytest.raises(ModelError, match=r"no 'blocks.4.mlp.hook_out': expected a block from 0 to 3"):
        place_of(chat, "blocks.4.mlp.hook_out")
    with pytest.raises(ModelError, match=r"a norm follows the branch.*Expected 'blocks.1.hook_attn_out'"):
        place_of(tiny_model("gemma2"), "blocks.1.attn.hook_out")
    with pytest.raises(ModelError, match=r"no norm follows the branch"):
        place_of(chat, "blocks.1.ln1_post.hook_out")


def test_what_a_block_adds_is_found_while_it_is_being_edited(tiny_tokenizer):
    from workbench.models.load import load_model

    chat = load_model(build_model("llama", vocab_size=len(tiny_tokenizer)), tokenizer=tiny_tokenizer, check=False)
    with edited(chat, {2: lambda residual: residual + 1}):
        assert len(chat.parts.writes) == 8


def test_a_block_that_adds_something_else_is_refused(tiny_tokenizer):
    from workbench.models.load import load_model

    def sites(change):
        model = build_model("llama", vocab_size=len(tiny_tokenizer))
        change(model.model.layers[2])
        return load_model(model, tokenizer=tiny_tokenizer, check=False).parts.writes

    def scaled(block):
        inner = block.forward
        block.forward = lambda *args, **kwargs: 1.1 * inner(*args, **kwargs)

    def renamed(block):
        block.mixer = block.mlp
        del block.mlp

    with pytest.raises(ModelCheckError, match=r"Block 2 .*is not its output \(relative gap"):
        sites(scaled)
    with pytest.raises(ModelError, match=r"Block 2 .* has the parts .*mixer.*Edit layers"):
        sites(renamed)
