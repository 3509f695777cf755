"""Ablation that leaves a coordinate where harmless prompts have theirs, instead of at 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interventions.conftest import LAYER, TEXTS
from workbench.directions import Direction
from workbench.errors import DataError
from workbench.interventions import Ablate, Patch
from workbench.models.hooks import edits_of, record


def direction_of(chat, vector, **metadata):
    norm = float(np.linalg.norm(vector))
    return Direction(vector / norm, norm, LAYER, "t_inst", {"fingerprint": chat.fingerprint, **metadata})


def coordinates(chat, vector, *edits):
    """Coordinate along a vector of every real token at each layer, and the logits."""
    ids, mask = chat.pad([t.ids for t in chat.tokenise(TEXTS)], side="left")
    with torch.no_grad(), chat.edited(*edits), record(chat, range(chat.n_layers + 1)) as states:
        logits = chat.model(input_ids=ids, attention_mask=mask).logits
    unit = torch.from_numpy(vector / np.linalg.norm(vector))
    return {k: (state.double() @ unit)[mask.bool()] for k, state in states.items()}, logits


def test_the_coordinate_at_its_layer_becomes_the_harmless_mean_and_patching_to_it_is_the_same(tiny_model, vector):
    chat = tiny_model("llama")
    direction = direction_of(chat, vector, baseline=0.7)
    found, logits = coordinates(chat, vector, Ablate(direction, layers=None, baseline="harmless"))
    np.testing.assert_allclose(found[LAYER], 0.7, atol=1e-5)
    plain, before = coordinates(chat, vector)
    assert torch.equal(found[LAYER - 1], plain[LAYER - 1]) and not torch.allclose(logits, before)
    _, patched = coordinates(chat, vector, Patch(0.7, along=direction))
    torch.testing.assert_close(logits, patched)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), baseline=st.floats(-50, 50), share=st.floats(0, 1))
def test_twice_is_once_and_what_is_orthogonal_stays(seed, baseline, share):
    rng = np.random.default_rng(seed)
    vector, states = rng.normal(size=16), torch.from_numpy(rng.normal(size=(2, 3, 16)))
    edit = Ablate(vector, layers=1, baseline=baseline)
    once = edit(states)
    torch.testing.assert_close(edit(once), once)
    unit = torch.from_numpy(vector / np.linalg.norm(vector))
    torch.testing.assert_close(once @ unit, torch.full((2, 3), baseline, dtype=torch.float64))
    torch.testing.assert_close(once - (once @ unit).unsqueeze(-1) * unit, states - (states @ unit).unsqueeze(-1) * unit)


def test_a_baseline_of_zero_is_ablation_bit_for_bit_and_keeps_its_name(tiny_model, vector):
    chat = tiny_model("llama")
    _, plain = coordinates(chat, vector, Ablate(vector, layers=[2]))
    _, same = coordinates(chat, vector, Ablate(vector, layers=[2], baseline=0.0))
    assert torch.equal(plain, same)
    names = []
    for edit in (Ablate(vector), Ablate(vector, baseline=0.0), Ablate(vector, baseline="zero")):
        with chat.edited(edit):
            names.append(edits_of(chat))
    assert names[0] == names[1] == names[2]


def test_prompts_with_factor_zero_are_left_alone_and_half_goes_half_the_way(tiny_model, vector):
    chat = tiny_model("llama")
    _, before = coordinates(chat, vector)
    _, same = coordinates(chat, vector, Ablate(vector, layers=[2], baseline=3.0, rows=[0, 0, 0]))
    assert torch.equal(before, same)
    plain, _ = coordinates(chat, vector)
    half, _ = coordinates(chat, vector, Ablate(vector, layers=[2], baseline=3.0, rows=[0.5, 0.5, 0.5]))
    torch.testing.assert_close(half[2], (plain[2] + 3.0) / 2, atol=1e-5, rtol=0)


def test_the_name_says_what_the_coordinate_was_set_to(tiny_model, vector):
    chat = tiny_model("llama")
    with chat.edited(Ablate(direction_of(chat, vector, baseline=0.25), layers=None, baseline="harmless")):
        assert ", to 0.25 (harmless), all)" in edits_of(chat)[0]
    with chat.edited(Ablate(vector, layers=[1], baseline=-2.0)):
        assert ", to -2.0, all)" in edits_of(chat)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(baseline="harmles", layers=1), "Did you mean 'harmless'"),
        (dict(baseline="harmless", layers=1), "the direction carries none"),
        (dict(baseline=2.0), "layers=None is the direction's own"),
        (dict(baseline=float("nan"), layers=1), "expected a finite coordinate"),
    ],
)
def test_baselines_that_mean_nothing_are_refused_when_made(vector, options, message):
    with pytest.raises(DataError, match=message):
        Ablate(vector, **options)


def test_a_harmless_mean_is_used_at_the_layer_it_was_measured_at_only(tiny_model, vector):
    chat = tiny_model("llama")
    edit = Ablate(direction_of(chat, vector, baseline=0.7), layers=[LAYER, LAYER + 1], baseline="harmless")
    with pytest.raises(DataError, match=f"measured at layer {LAYER}"), chat.edited(edit):
        pass
