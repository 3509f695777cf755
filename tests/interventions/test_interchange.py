"""An interchange is a displacement of one state: the same as patching it, and its controls are as long."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import DataError
from workbench.interventions import Patch
from workbench.interventions.interchange import Displace, along, as_long_as, in_another_way, swapped
from workbench.models.halfway import halfway

TEXTS = ["Hello there.", "How do I bake bread at home?", "Name three rivers and tell me which is the longest of them."]
NAMES = ["a", "b", "c"]


@pytest.mark.parametrize("whole", [True, False])
def test_displacing_by_the_difference_is_patching(tiny_model, rng, whole):
    chat, layer = tiny_model("llama"), 2
    tokens = chat.tokenise(TEXTS)
    states = chat.states(tokens, layers=[layer], positions=["t_post_inst"])[:, 0, 0].double().numpy()
    donor, unit = rng.normal(size=states.shape), rng.normal(size=chat.hidden_size)
    unit /= np.linalg.norm(unit)
    given_to = dict(zip(NAMES, donor if whole else donor @ unit, strict=True))
    patch = Patch(given_to, layers=layer, scope="last_prompt", along=None if whole else unit)
    shift = donor - states if whole else along(donor - states, unit)
    (batch,) = halfway(chat, tokens, NAMES, tail=1)
    with chat.edited({layer: Displace(shift[batch.rows], np.ones(3, dtype=int))}):
        found = batch.logits()
    with chat.edited(patch):
        torch.testing.assert_close(found, batch.logits(), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, batch.logits(), atol=1e-2)


def test_only_the_chosen_token_of_each_prompt_moves():
    residual = torch.zeros(2, 3, 2)
    moved = Displace(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1, 3]))(residual)
    assert moved[0].tolist() == [[0, 0], [0, 0], [1, 0]] and moved[1].tolist() == [[0, 2], [0, 0], [0, 0]]
    assert not residual.any()


@pytest.mark.parametrize("shape", [(3, 3, 2), (2, 3, 4), (2, 2, 2)])
def test_a_pass_of_other_prompts_is_refused(shape):
    with pytest.raises(DataError, match="Expected the pass that they were made for"):
        Displace(np.zeros((2, 2)), np.array([1, 3]))(torch.zeros(*shape))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 9))
def test_controls_are_as_long_as_what_they_control(seed, n):
    rng = np.random.default_rng(seed)
    difference, unit, way = rng.normal(size=(n, 5)), rng.normal(size=5), rng.normal(size=5)
    unit /= np.linalg.norm(unit)
    shift = along(difference, unit)
    other = in_another_way(shift, unit, way)
    np.testing.assert_allclose(np.linalg.norm(other, axis=1), np.linalg.norm(shift, axis=1))
    np.testing.assert_allclose(np.sign(other @ way), np.sign(shift @ unit))
    towards = rng.normal(size=(n, 5))
    scaled = as_long_as(towards, difference)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), np.linalg.norm(difference, axis=1))
    np.testing.assert_allclose(np.cross(scaled[:, :3], towards[:, :3]), 0, atol=1e-9)
    assert not as_long_as(np.zeros((n, 5)), difference).any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_partners_are_others_of_the_same_group_and_what_they_exchange_cancels(seed, sizes):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat([f"g{i}" for i in range(len(sizes))], sizes))
    partner = swapped(groups, rng)
    assert sorted(partner.tolist()) == list(range(len(groups))) and (groups[partner] == groups).all()
    alone = np.array([(groups == group).sum() == 1 for group in groups])
    assert ((partner == np.arange(len(groups))) == alone).all()
    values = rng.normal(size=len(groups))
    assert sum(values[partner] - values) == pytest.approx(0, abs=1e-9)
