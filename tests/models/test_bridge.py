"""Our capture against TransformerLens on the weight-sharing twin."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import FAMILIES
from workbench.models.hooks import site

TEXTS = ["Hello there.", "How do I bake bread at home?", "Name three rivers and tell me which is the longest of them."]

pytestmark = pytest.mark.filterwarnings("ignore")  # transformer_lens and what it imports warn at import


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_transformerlens_sites_and_blocks_add_up(tiny_model, family):
    chat = tiny_model(family)
    tokens = chat.tokenise(TEXTS)
    ours = chat.states(tokens, layers=range(chat.n_layers + 1), positions=["t_post_inst"])[:, :, 0]
    ids, mask = chat.pad([t.ids for t in tokens], side="left")
    names = [site(k) for k in range(chat.n_layers + 1)]
    inner = [f"blocks.{k}.{hook}" for k in range(chat.n_layers) for hook in ("hook_in", "hook_attn_out", "hook_mlp_out")]
    with torch.no_grad():
        _, cache = chat.bridge.run_with_cache(ids, attention_mask=mask, names_filter=[*names, *inner], use_cache=False)
    theirs = torch.stack([cache[name][:, -1] for name in names[1:]], dim=1)
    torch.testing.assert_close(ours[:, 1:], theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours[:, 0], cache["blocks.0.hook_in"][:, -1], atol=1e-6, rtol=1e-6)
    for k in range(chat.n_layers):
        total = cache[f"blocks.{k}.hook_in"] + cache[f"blocks.{k}.hook_attn_out"] + cache[f"blocks.{k}.hook_mlp_out"]
        torch.testing.assert_close(total, cache[f"blocks.{k}.hook_out"], atol=1e-5, rtol=1e-5)


def test_the_twin_shares_weights_and_leaves_model_and_tokenizer_alone(tiny_model):
    chat = tiny_model("qwen2")
    before = (chat.tokenizer.bos_token, type(chat.parts.blocks[0].self_attn).__name__, chat.model.config._attn_implementation)
    twin = {p.data_ptr() for p in chat.bridge.parameters()}
    assert {p.data_ptr() for p in chat.model.parameters()} <= twin
    assert (chat.tokenizer.bos_token, type(chat.parts.blocks[0].self_attn).__name__, chat.model.config._attn_implementation) == before
    assert chat.bridge is chat.bridge
