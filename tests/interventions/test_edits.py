"""What add, ablate and patch do to the residual stream, on every family: identities that hold whatever the weights."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interventions.conftest import FAMILIES, LAYER, TEXTS
from workbench.activations.capture import capture
from workbench.directions import Direction, harm_direction
from workbench.errors import DataError, ModelError
from workbench.interventions import Ablate, Add, Compose, Patch
from workbench.models import load_model
from workbench.models.hooks import edited, edits_of, record
from workbench.prompts import load_prompts


def passed(chat, *edits, layers=None):
    """States of every layer (or those asked for) and logits of one pass over three padded prompts."""
    ids, mask = chat.pad([t.ids for t in chat.tokenise(TEXTS)], side="left")
    with torch.no_grad(), chat.edited(*edits), record(chat, layers or range(chat.n_layers + 1)) as states:
        logits = chat.model(input_ids=ids, attention_mask=mask).logits
    return states, logits, mask.bool()


def along(states, vector):
    """Cosine of states with a vector."""
    unit = torch.from_numpy(vector / np.linalg.norm(vector))
    return (states.double() @ unit).abs() / states.double().norm(dim=-1).clamp_min(1e-12)


def direction_of(chat, vector, **metadata):
    norm = float(np.linalg.norm(vector))
    return Direction(vector / norm, norm, LAYER, "t_inst", {"fingerprint": chat.fingerprint, **metadata})


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_zero_changes_no_bit(tiny_model, vector, family):
    chat = tiny_model(family)
    states, logits, _ = passed(chat)
    nothing = [Add(vector, 0.0, scale, layers=[0, 2, 4]) for scale in ("unit", "raw", "norm")]
    nobody = [Add(vector, 5.0, layers=2, rows=[0, 0, 0]), Ablate(vector, rows=[0, 0, 0]), Patch(9.0, along=vector, layers=1, rows=[False] * 3)]
    for edits in (nothing, nobody):
        found, same, _ = passed(chat, *edits)
        assert torch.equal(same, logits)
        assert all(torch.equal(found[k], states[k]) for k in states)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_layer_keeps_a_component_along_what_is_ablated_everywhere(tiny_model, vector, family):
    chat = tiny_model(family)
    states, _, real = passed(chat, Ablate(vector))
    plain, _, _ = passed(chat)
    for layer in states:
        assert along(states[layer], vector)[real].max() < 1e-3
        assert along(plain[layer], vector)[real].max() > 0.05, "something must have been there to remove"


@pytest.mark.parametrize("family", FAMILIES)
def test_ablation_at_some_layers_clears_these_and_later_blocks_may_write_again(tiny_model, vector, family):
    chat = tiny_model(family)
    states, _, real = passed(chat, Ablate(vector, layers=[1, 3]))
    plain, _, _ = passed(chat)
    assert all(along(states[k], vector)[real].max() < 1e-5 for k in (1, 3))
    assert all(along(states[k], vector)[real].max() > 1e-2 for k in (2, 4))
    assert torch.equal(states[0], plain[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_adding_at_a_layer_equals_a_bias_on_that_blocks_output(tiny_model, vector, family, monkeypatch):
    chat = tiny_model(family)
    edited_states, edited_logits, real = passed(chat, Add(vector, 2.0, "raw", layers=LAYER))
    block = chat.parts.blocks[LAYER - 1]
    plain = block.forward
    monkeypatch.setattr(block, "forward", lambda *args, **kwargs: plain(*args, **kwargs) + 2 * torch.from_numpy(vector).float())
    states, logits, _ = passed(chat)
    torch.testing.assert_close(edited_logits[real], logits[real], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(edited_states[4][real], states[4][real], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_leaves_a_block_under_edits_is_what_enters_the_next(tiny_model, vector, family):
    chat = tiny_model(family)
    entered = {}
    handles = [
        block.register_forward_pre_hook(lambda m, a, kw, k=k: entered.__setitem__(k, (a[0] if a else kw["hidden_states"]).clone()), with_kwargs=True)
        for k, block in enumerate(chat.parts.blocks)
    ]
    try:
        states, _, _ = passed(chat, Add(vector, 2.0, layers=[0, 1, 2]), Ablate(vector, layers=[3]))
    finally:
        for handle in handles:
            handle.remove()
    assert all(torch.equal(states[k], entered[k]) for k in range(1, chat.n_layers))


def test_each_scale_adds_what_it_says(tiny_model, vector):
    chat = tiny_model("llama")
    plain, _, real = passed(chat)
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()
    length = plain[LAYER].norm(dim=-1, keepdim=True)
    gap = direction_of(chat, vector, gap=7.0)
    expected = {"unit": 0.5 * unit, "raw": 0.5 * torch.from_numpy(vector).float(), "norm": 0.5 * length * unit, "gap": 3.5 * unit}
    for scale, shift in expected.items():
        found, _, _ = passed(chat, Add(gap, 0.5, scale))
        torch.testing.assert_close((found[LAYER] - plain[LAYER])[real], shift.expand_as(plain[LAYER])[real], atol=5e-6, rtol=1e-5)


def test_patching_a_coordinate_leaves_the_rest_and_patching_states_leaves_nothing(tiny_model, vector, rng):
    chat = tiny_model("llama")
    plain, _, _ = passed(chat)
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()
    moved, _, _ = passed(chat, Patch([1.0, -2.0, 3.0], layers=LAYER, along=vector, scope="last_prompt"))
    assert torch.allclose(moved[LAYER][:, -1] @ unit, torch.tensor([1.0, -2.0, 3.0]), atol=1e-5)
    across = plain[LAYER] - (plain[LAYER] @ unit).unsqueeze(-1) * unit
    torch.testing.assert_close(moved[LAYER] - (moved[LAYER] @ unit).unsqueeze(-1) * unit, across, atol=1e-5, rtol=1e-5)
    assert torch.equal(moved[LAYER][:, :-1], plain[LAYER][:, :-1])
    states = rng.normal(size=(3, 32))
    put, _, _ = passed(chat, Patch(states, layers=LAYER, scope="last_prompt"))
    assert torch.equal(put[LAYER][:, -1], torch.from_numpy(states).float())
    assert torch.equal(put[LAYER][:, :-1], plain[LAYER][:, :-1])


def test_a_prompt_patched_with_anothers_states_goes_on_as_the_other(tiny_model):
    chat = tiny_model("llama")
    ids = torch.tensor([[5, 6, 7, 8, 9], [40, 3, 30, 8, 11]])
    with torch.no_grad():
        with record(chat, [LAYER]) as states:
            logits = chat.model(input_ids=ids).logits
        turned = states[LAYER].flip(0)
        with chat.edited(Patch(turned, layers=LAYER)):
            swapped = chat.model(input_ids=ids).logits
    torch.testing.assert_close(swapped, logits.flip(0), atol=1e-6, rtol=1e-6)


def test_edits_of_one_layer_act_in_the_order_given_and_compose_is_the_same(tiny_model, vector):
    chat = tiny_model("llama")
    first, second = Ablate(vector, layers=LAYER), Add(vector, 4.0, layers=LAYER)
    there, _, real = passed(chat, first, second)
    back, _, _ = passed(chat, second, first)
    as_one, _, _ = passed(chat, Compose((first, second)))
    listed, _, _ = passed(chat, [first, second])
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()
    assert torch.allclose((there[LAYER] @ unit)[real], torch.tensor(4.0), atol=1e-5)
    assert torch.allclose((back[LAYER] @ unit)[real], torch.tensor(0.0), atol=1e-5)
    assert torch.equal(as_one[LAYER], there[LAYER]) and torch.equal(listed[LAYER], there[LAYER])


def test_nested_edits_add_up_and_leave_one_by_one(tiny_model, vector):
    chat = tiny_model("llama")
    ids, _ = chat.pad([chat.tokenise(TEXTS)[0].ids])

    def state():
        with torch.no_grad(), record(chat, [LAYER]) as kept:
            chat.model(input_ids=ids)
        return kept[LAYER]

    step = torch.from_numpy(vector).float()
    plain = state()
    with chat.edited(Add(vector, 1.0, "raw", layers=LAYER)):
        with chat.edited(Add(vector, 2.0, "raw", layers=LAYER, scope="last_prompt")):
            twice = state()
        once = state()
    torch.testing.assert_close(once - plain, step.expand_as(plain), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((twice - plain)[:, -1], 3 * step.expand(1, -1), atol=1e-5, rtol=1e-5)
    assert torch.equal(state(), plain)


def test_no_hook_outlives_an_exception_and_the_model_is_as_before(tiny_model, vector):
    chat = tiny_model("gemma2")
    _, logits, _ = passed(chat)
    for failing in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(failing), chat.edited(Ablate(vector), Add(vector, layers=3, scope="decode")):
            passed(chat)
            raise failing
    with pytest.raises(DataError), chat.edited(Ablate(vector), Add(vector, layers=3, rows={"nobody": 1})):
        passed(chat)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in chat.model.modules())
    assert edits_of(chat) == []
    assert torch.equal(passed(chat)[1], logits)


def test_an_edit_does_not_write_into_the_tensor_it_is_given(vector):
    before = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    for edit in (Add(vector), Add(vector, 2.0, "norm"), Ablate(vector), Patch(1.0, along=vector), Patch(vector), Compose([Ablate(vector)])):
        given_ = before.clone()
        edit(given_)
        assert torch.equal(given_, before)


def test_half_precision_states_are_projected_in_float32_and_rounded_once(vector):
    unit = torch.from_numpy(vector / np.linalg.norm(vector))
    for dtype in (torch.bfloat16, torch.float16):
        state = (30 * torch.randn(4, 50, 32, generator=torch.Generator().manual_seed(0))).to(dtype)
        exact = state.double() - (state.double() @ unit).unsqueeze(-1) * unit
        cleared = Ablate(vector)(state)
        assert cleared.dtype == dtype
        assert (cleared == exact.to(dtype)).double().mean() > 0.99


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.01, 100))
def test_whatever_the_state_projecting_twice_is_once_and_length_of_the_direction_does_not_matter(seed, size, length):
    rng = np.random.default_rng(seed)
    state, vector = torch.from_numpy(rng.normal(size=(2, 3, 8))) * size, rng.normal(size=8)
    once = Ablate(vector)(state)
    scale = max(abs(size), 1.0)
    torch.testing.assert_close(Ablate(length * vector)(once), once, atol=1e-12 * scale, rtol=1e-9)
    torch.testing.assert_close(Add(length * vector, 3.0)(state), Add(vector, 3.0)(state), atol=1e-12 * scale, rtol=1e-9)
    torch.testing.assert_close(Patch(0.0, along=vector)(state), once, atol=1e-12 * scale, rtol=1e-9)
    torch.testing.assert_close(Add(vector, -2.0, "raw")(Add(vector, 2.0, "raw")(state)), state, atol=1e-10 * scale, rtol=1e-9)


def test_edits_act_only_in_the_thread_that_opened_them(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    edits = {"plain": [], "added": [Add(vector, 5.0, layers=1)], "ablated": [Ablate(vector)]}

    def read():
        return chat.states(tokens, layers=[1, 4], positions=["t_inst", "t_post_inst"])

    expected = {}
    for name, some in edits.items():
        with chat.edited(*some):
            expected[name] = read()
    wrong, barrier = [], threading.Barrier(len(edits))

    def work(name):
        barrier.wait()
        for _ in range(8):
            with chat.edited(*edits[name]):
                if len(edits_of(chat)) != len(edits[name]) or not torch.equal(read(), expected[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in edits]
    with chat.edited():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert not torch.equal(expected["plain"], expected["added"])


def test_an_edit_around_a_copy_does_not_reach_it(tiny_model, vector):
    from workbench.models.chat import twin_of

    chat = tiny_model("llama")
    ids, _ = chat.pad([chat.tokenise(TEXTS)[0].ids])
    with torch.no_grad():
        plain = chat.model(input_ids=ids).logits
        with chat.edited(Add(vector, 5.0, layers=1, scope="prompt"), Ablate(vector)):
            assert torch.equal(twin_of(chat.model)(input_ids=ids).logits, plain)


# --- names ------------------------------------------------------------------------------------------------------------


def test_edits_are_named_with_place_strength_scope_and_a_hash_of_the_direction(tiny_model, vector):
    chat = tiny_model("llama")
    with chat.edited(Add(vector, 2.5, layers=[3, 1], scope=("last_prompt", "decode")), Ablate(direction_of(chat, vector))):
        told = edits_of(chat)
    assert [name.split(" #")[0] for name in told] == ["everywhere: Ablate(t_inst@2", "layer 1: Add(vector", "layer 3: Add(vector"]
    assert told[1].endswith("2.5 x unit, last_prompt+decode)")
    with chat.edited(Add(-vector, 2.5, layers=[3, 1], scope=("last_prompt", "decode"))):
        assert edits_of(chat)[0] != told[1]


def test_sites_of_attention_and_mlp_are_places_too(tiny_model, vector):
    chat = tiny_model("gemma2")
    plain, _, real = passed(chat)
    found, _, _ = passed(chat, Add(vector, 1.0, "raw", layers="blocks.1.ln2_post.hook_out"))
    torch.testing.assert_close((found[2] - plain[2])[real], torch.from_numpy(vector).float().expand_as(plain[2])[real], atol=1e-5, rtol=1e-5)
    also, _, _ = passed(chat, Add(vector, 1.0, "raw", layers=["blocks.1.hook_mlp_out"]))
    assert torch.equal(also[4], found[4])


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_a_direction_of_another_width_or_model_is_refused(tiny_model, vector):
    chat = tiny_model("llama")
    with pytest.raises(ModelError, match=r"has 8 entries; the residual stream of .* is 32 wide"), chat.edited(Ablate(np.ones(8))):
        pass
    foreign = Direction(vector / np.linalg.norm(vector), 1.0, LAYER, "t_inst", {"fingerprint": "0123"})
    for edit in (Add(foreign), Ablate(foreign), Patch(1.0, along=foreign)):
        with pytest.raises(ModelError, match=r"taken from another model \(fingerprint 0123; .*any_model=True"), chat.edited(edit):
            pass
    with chat.edited(Add(foreign, any_model=True), Ablate(foreign, any_model=True), Patch(1.0, along=foreign, any_model=True)):
        assert len(edits_of(chat)) == 3


@pytest.mark.parametrize("layers", [5, [0, 7], -1, "blocks.4.hook_out", "blocks.9.attn.hook_out", "blocks.0.ln1.hook_out"])
def test_a_place_the_model_lacks_is_refused(tiny_model, vector, layers):
    with pytest.raises(ModelError, match=r"no layer|There is no"), tiny_model("llama").edited(Add(vector, layers=layers)):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda v: Add(v, scale="gab"), "Did you mean 'gap'"),
        (lambda v: Add(v, scale="gap", layers=1), r"carries no gap. Expected a number in direction.metadata\['gap'\]"),
        (lambda v: Add(v, float("inf")), "strength=inf: expected a finite number"),
        (lambda v: Add(0 * v), "is zero: harmful and harmless states do not differ"),
        (lambda v: Ablate(np.stack([v, v])), r"one finite vector \[hidden\]; got shape \(2, 32\)"),
        (lambda v: Ablate("v_harm"), "is no direction"),
        (lambda v: Patch(np.zeros((2, 2, 2, 2)), layers=1), r"values has shape \(2, 2, 2, 2\)"),
        (lambda v: Patch([[1.0]], layers=1, along=v), r"a number, \[prompt\] or prompt id to number"),
        (lambda v: Patch([float("nan")] * 32, layers=1), "NaN or infinity"),
    ],
)
def test_edits_that_mean_nothing_are_refused_when_made(vector, make, message):
    with pytest.raises(DataError, match=message):
        make(vector)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda v: Add(v), DataError, r"do not say at which layer they act. Expected layers=\[k\]"),
        (lambda v: Patch(v), DataError, "do not say at which layer"),
        (lambda v: Patch(np.ones(8), layers=1), DataError, r"values is \[8\] wide"),
        (lambda v: Add(v, layers=[1, 1]), DataError, "names a place twice"),
        (lambda v: Add(v, layers=[]), DataError, "layers is empty"),
        (lambda v: "Ablate", ModelError, "is no edit. Expected Add, Ablate or Patch"),
    ],
)
def test_edits_that_do_not_fit_the_model_are_refused_before_anything_runs(tiny_model, vector, edit, error, message):
    chat = tiny_model("llama")
    with pytest.raises(error, match=message), chat.edited(edit(vector)):
        pass
    assert not any(module._forward_hooks for module in chat.model.modules())


def test_functions_by_layer_still_work_beside_edits(tiny_model, vector):
    chat = tiny_model("llama")
    found, _, real = passed(chat, Ablate(vector, layers=LAYER), {LAYER: lambda residual: residual + 1})
    with edited(chat, {LAYER: Ablate(vector)}):
        again, _, _ = passed(chat)
    assert along(again[LAYER], vector)[real].max() < 1e-5
    torch.testing.assert_close(found[LAYER][real] - 1, again[LAYER][real], atol=1e-5, rtol=1e-5)


def test_an_edit_given_by_layer_keeps_its_scope(tiny_model, vector):
    chat = tiny_model("llama")
    plain, _, _ = passed(chat)
    with edited(chat, {LAYER: [Compose((Ablate(vector, scope="last_prompt"),))]}):
        found, _, _ = passed(chat)
    assert (found[LAYER] != plain[LAYER]).any(dim=-1).nonzero().tolist() == [[row, plain[LAYER].shape[1] - 1] for row in range(3)]


# --- the organism -----------------------------------------------------------------------------------------------------


def test_the_organism_loses_its_harm_direction_everywhere_and_the_gap_needs_to_be_there():
    chat = load_model("organism:aligned")
    grid = load_prompts("organism")
    ids = grid.frame.groupby(["language", "harmful"])["meaning_id"].unique().map(lambda m: list(m[:8])).explode().unique()
    small = grid.select(meanings=list(ids))
    acts = capture(chat, small, layers=[4], positions=["t_post_inst"], progress=False)
    harm = harm_direction(acts, ["qaa"], split=None).at(4, "t_post_inst")
    texts = small.frame["text"].tolist()[:24]
    tokens = chat.tokenise(texts)
    with chat.edited(Ablate(harm)):
        left = chat.states(tokens, layers=range(chat.n_layers + 1), positions=["t_inst", "t_post_inst", "mean_inst"])
    assert along(left, harm.unit).max() < 1e-3
    bare = Direction(harm.unit, harm.norm, harm.layer, harm.position, {k: v for k, v in harm.metadata.items() if k != "gap"})
    with pytest.raises(DataError, match="carries no gap"):
        Add(bare, scale="gap")
