"""Which tokens of which prompts an edit touches: exactly those it names, with and without a cache, on either side of padding."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from tests.interventions.conftest import FAMILIES, LAYER, TEXTS
from tests.tiny import build_grid
from workbench.activations.capture import capture
from workbench.errors import DataError, ModelError
from workbench.interventions import SCOPES, Ablate, Add, Patch
from workbench.models.hooks import record
from workbench.models.passes import Batch, announced, current_pass

SINGLE = list(SCOPES)
UNIONS = [("last_prompt", "decode"), ("instruction", "last_prompt"), ("prompt", "decode")]


def touched(found, plain):
    return (found != plain).any(dim=-1)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("scope", [*SINGLE, *UNIONS])
def test_a_scope_touches_exactly_the_tokens_it_names(stepper, vector, scope, cache):
    steps = stepper("llama")
    plain, _ = steps.run(cache=cache)
    found, _ = steps.run(Add(vector, layers=LAYER, scope=scope), cache=cache)
    expected = torch.stack([steps.region(name) for name in ([scope] if isinstance(scope, str) else scope)]).any(dim=0)
    assert torch.equal(touched(found, plain), expected)
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()
    torch.testing.assert_close((found - plain)[expected], unit.expand(int(expected.sum()), -1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("scope", [name for name in SINGLE if name != "instruction"])
def test_an_unannounced_pass_tells_prompt_from_generated_by_mask_and_cache(stepper, vector, scope):
    steps = stepper("llama")
    plain, _ = steps.run(cache=True)
    found, _ = steps.run(Add(vector, layers=LAYER, scope=scope), cache=True, announce=False)
    assert torch.equal(touched(found, plain), steps.region(scope))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", [*SINGLE, ("last_prompt", "decode")])
def test_with_a_cache_and_without_the_logits_are_the_same_under_each_scope(stepper, vector, family, scope):
    steps = stepper(family)
    edit = Add(vector, 3.0, layers=LAYER, scope=scope)
    (_, cached), (_, whole) = steps.run(edit, cache=True), steps.run(edit, cache=False)
    real = steps.region("all")
    torch.testing.assert_close(cached[real], whole[real], atol=2e-5, rtol=2e-5)
    _, plain = steps.run(cache=True)
    assert (cached - plain)[:, -1].abs().max() > 1e-3, "the edit must matter, or the test shows nothing"


@pytest.mark.parametrize("scope", ["all", "prompt", "last_prompt", "instruction", "decode"])
def test_right_padded_rows_that_the_runner_announced_are_edited_on_the_right_tokens(tiny_model, vector, scope):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    ids, _ = chat.pad([t.ids for t in tokens])
    states = {}
    for name, edits in (("plain", []), ("edited", [Add(vector, layers=LAYER, scope=scope)])):
        with torch.no_grad(), announced(Batch.of(tokens, side="right")), chat.edited(*edits), record(chat, [LAYER]) as kept:
            chat.parts.base(input_ids=ids, use_cache=False)
        states[name] = kept[LAYER]
    expected = torch.zeros(ids.shape, dtype=torch.bool)
    for row, t in enumerate(tokens):
        span = {"all": (0, len(t)), "prompt": (0, len(t)), "last_prompt": (len(t) - 1, len(t)), "instruction": t.span("mean_inst"), "decode": (0, 0)}
        expected[row, slice(*span[scope])] = True
    assert torch.equal(touched(states["edited"], states["plain"]), expected)


def test_states_see_the_scope_of_their_own_prompts(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    where = {"layers": [LAYER], "positions": ["t_inst", "t_post_inst"]}
    plain = chat.states(tokens, **where)
    for scope, changed in (("instruction", [True, False]), ("last_prompt", [False, True]), ("all", [True, True]), ("decode", [False, False])):
        with chat.edited(Add(vector, layers=LAYER, scope=scope)):
            moved = chat.states(tokens, **where)
        assert touched(moved, plain)[:, 0].tolist() == [changed] * 3, scope


def test_a_right_padded_mask_is_read_like_a_left_padded_one(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    ids, mask = chat.pad([t.ids for t in tokens])
    with torch.no_grad():
        with record(chat, [LAYER]) as plain:
            chat.model(input_ids=ids, attention_mask=mask)
        with chat.edited(Add(vector, layers=LAYER, scope="last_prompt")), record(chat, [LAYER]) as moved:
            chat.model(input_ids=ids, attention_mask=mask)
    assert touched(moved[LAYER], plain[LAYER]).nonzero().tolist() == [[row, len(t) - 1] for row, t in enumerate(tokens)]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edited_prompt_does_not_depend_on_its_batch(tiny_model, vector, family):
    chat = tiny_model(family)
    tokens = chat.tokenise(TEXTS)
    for scope in (("last_prompt", "decode"), "instruction", "all"):
        with chat.edited(Add(vector, 2.0, "norm", layers=LAYER, scope=scope)):
            together = chat.states(tokens, layers=[2, 4], positions=["t_inst", "t_post_inst"])
            alone = torch.cat([chat.states([one], layers=[2, 4], positions=["t_inst", "t_post_inst"]) for one in tokens])
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=2e-5)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_choose_prompts_by_id_and_scale_the_strength(stepper, vector):
    steps = stepper("llama")
    plain, _ = steps.run(cache=True)
    found, _ = steps.run(Add(vector, layers=LAYER, rows={"a": True, "b": False, "c": 0.5}), cache=True)
    unit = torch.from_numpy(vector / np.linalg.norm(vector)).float()
    for row, factor in enumerate((1.0, 0.0, 0.5)):
        expected = factor * unit * steps.region("all")[row].unsqueeze(-1)
        torch.testing.assert_close((found - plain)[row], expected, atol=2e-6, rtol=0)
    series, _ = steps.run(Add(vector, layers=LAYER, rows=pd.Series([1, 0, 0.5], index=["a", "b", "c"])), cache=True)
    assert torch.equal(series, found)


@pytest.mark.parametrize("scope", ["all", "last_prompt"])
@pytest.mark.parametrize(
    "make",
    [
        lambda v, **options: Add(v, 2.0, layers=LAYER, **options),
        lambda v, **options: Add(v, 0.3, "norm", layers=LAYER, **options),
        lambda v, **options: Ablate(v, layers=LAYER, **options),
        lambda v, **options: Patch(4.0, layers=LAYER, along=v, **options),
        lambda v, **options: Patch(v, layers=LAYER, **options),
    ],
    ids=["add", "add by norm", "ablate", "patch coordinate", "patch"],
)
def test_every_edit_is_scaled_by_its_factor_and_acts_on_the_named_tokens_only(stepper, vector, make, scope):
    steps = stepper("llama")
    plain, _ = steps.run(cache=True)
    whole, _ = steps.run(make(vector), cache=True)
    part, _ = steps.run(make(vector, scope=scope, rows={"a": 0.25, "b": 0.5, "c": 3}), cache=True)
    factor = torch.tensor([0.25, 0.5, 3.0]).view(-1, 1, 1) * steps.region(scope).unsqueeze(-1)
    torch.testing.assert_close(part - plain, factor * (whole - plain), atol=2e-5, rtol=1e-4)


def test_rows_in_the_order_of_the_batch_suit_a_batch_of_ones_own(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    plain = chat.states(tokens, layers=[LAYER], positions=["t_inst"])
    with chat.edited(Add(vector, layers=LAYER, rows=[True, False, True])):
        assert touched(chat.states(tokens, layers=[LAYER], positions=["t_inst"]), plain).flatten().tolist() == [True, False, True]
        with pytest.raises(DataError, match="rows has 3 entries, the batch 2 prompts"):
            chat.states(tokens[:2], layers=[LAYER], positions=["t_inst"])
        with pytest.raises(DataError, match=r"cut and sorted by its runner\. Expected a mapping from prompt id"):
            capture(chat, build_grid(), layers=[LAYER], positions=["t_inst"], progress=False)


def test_capture_edits_the_prompts_named_whatever_batch_and_shard_they_are_in(tiny_model, vector):
    chat, grid = tiny_model("llama"), build_grid()
    options = {"layers": [LAYER], "positions": ["t_inst"], "progress": False}
    plain = capture(chat, grid, **options)["residual"].values
    chosen = {name: i % 3 == 0 for i, name in enumerate(grid.frame["prompt_id"])}
    with chat.edited(Add(vector, layers=LAYER, rows=chosen)):
        moved = capture(chat, grid, token_budget=40, shard_size=5, **options)
    changed = np.abs(moved["residual"].values - plain).max(axis=(1, 2, 3)) > 0.1
    assert changed.tolist() == list(chosen.values())
    assert f"{sum(chosen.values())} of {len(chosen)} prompts" in moved.attrs["edits"]


def test_prompts_that_rows_do_not_mention_are_named(stepper, vector):
    steps = stepper("llama")
    with pytest.raises(DataError, match=r"rows says nothing about 1 prompts of this batch: c\. .*False or 0 leaves one alone"):
        steps.run(Add(vector, layers=LAYER, rows={"a": True, "b": True}), cache=True)
    with pytest.raises(DataError, match="this pass does not say which prompts it has"):
        steps.run(Add(vector, layers=LAYER, rows={"a": True, "b": True, "c": True}), cache=True, announce=False)


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_the_users_text_of_an_unannounced_pass_is_asked_for(stepper, vector):
    with pytest.raises(ModelError, match=r"not announced with token spans\. Run the prompts through"):
        stepper("llama").run(Add(vector, layers=LAYER, scope="instruction"), cache=True, announce=False)


def test_a_batch_other_than_the_announced_one_is_refused(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    ids, _ = chat.pad([t.ids for t in tokens[:2]])
    with announced(Batch.of(tokens, side="right")), chat.edited(Add(vector, layers=LAYER)), pytest.raises(ModelError, match="2 rows, and 3 prompts"):
        chat.model(input_ids=ids)


def test_a_mask_that_does_not_say_what_is_padding_is_refused(tiny_model, vector):
    chat = tiny_model("llama")
    ids = torch.tensor([[5, 6, 7]])
    mask = torch.zeros(1, 1, 3, 3)
    with chat.edited(Add(vector, layers=LAYER)), pytest.raises(ModelError, match=r"shape \(1, 1, 3, 3\); expected \[prompt token\]"):
        chat.model(input_ids=ids, attention_mask=mask)


def test_a_block_called_by_itself_has_no_last_prompt_token(tiny_model, vector):
    chat = tiny_model("llama")
    [(_, act)] = Add(vector, layers=LAYER, scope="last_prompt").placed(chat)
    with pytest.raises(DataError, match="a block was called by itself"):
        act(torch.zeros(1, 2, 32), None)


def test_a_pass_is_known_while_it_runs_and_not_longer(tiny_model, vector):
    chat, seen = tiny_model("llama"), []
    with chat.edited(Add(vector, layers=1, scope="last_prompt"), {LAYER: lambda residual: seen.append(current_pass()) or residual}):
        chat.model(input_ids=torch.tensor([[5, 6, 7]]))
        assert current_pass() is None
    assert [(at.n_prompts, at.n_tokens, at.past) for at in seen] == [(1, 3, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "last_promt"}, "Did you mean 'last_prompt'"),
        ({"scope": ()}, "expected one or several of all, prompt"),
        ({"rows": {"a": float("nan")}}, "not finite"),
        ({"rows": ["yes"]}, "other than numbers"),
        ({"rows": []}, "one finite number"),
    ],
)
def test_scopes_and_rows_that_mean_nothing_are_refused_when_the_edit_is_made(vector, options, message):
    with pytest.raises(DataError, match=message):
        Add(vector, layers=LAYER, **options)


def test_masks_are_worked_out_once_per_pass_and_not_once_per_layer(stepper, vector, monkeypatch):
    asked = []
    real = Batch.columns
    monkeypatch.setattr(Batch, "columns", lambda self, region, column: asked.append(region) or real(self, region, column))
    stepper("llama").run(Add(vector, layers=[0, 1, 2, 3, 4], scope=("last_prompt", "decode")), cache=True)
    assert sorted(asked) == ["decode", "last_prompt"]
