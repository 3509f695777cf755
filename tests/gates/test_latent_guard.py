"""The belief is the mean over layers of two cosines' difference; on the released states it says what its authors say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.planted import activations, with_harm
from workbench.errors import DataError
from workbench.gates import gate_data, load_gate, save_gate
from workbench.gates.latent_guard import LatentGuard, layer_stack


@pytest.fixture
def store(rng):
    states, _ = with_harm(rng, 8.0, n_languages=2, n=64)
    return activations(states + 1.0)


def belief(states, harmful, harmless):
    """Zhao et al. 2025, section 3, written out: states (prompt, layer, hidden)."""
    out = []
    for row in states:
        each = [
            h @ a / np.linalg.norm(h) / np.linalg.norm(a) - h @ b / np.linalg.norm(h) / np.linalg.norm(b)
            for h, a, b in zip(row, harmful, harmless, strict=True)
        ]
        out.append(np.mean(each))
    return np.array(out)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), layers=st.integers(1, 4), hidden=st.integers(2, 12), scale=st.floats(1e-3, 1e3))
def test_the_score_is_the_mean_over_layers_and_no_length_counts(seed, layers, hidden, scale):
    rng = np.random.default_rng(seed)
    harmful = np.arange(12) < 6
    states = rng.normal(size=(12, layers, hidden))
    X = states.reshape(12, -1)
    gate = LatentGuard(n_layers=layers).fit(X, harmful)
    scores = gate.decision_function(X)
    np.testing.assert_allclose(scores, belief(states, states[harmful].mean(axis=0), states[~harmful].mean(axis=0)), atol=1e-12)
    np.testing.assert_allclose(gate.decision_function(X * scale), scores, atol=1e-9)
    order = rng.permutation(12)
    assert (gate.decision_function(X[order]) == scores[order]).all() and gate.decision_function(X[3:4])[0] == scores[3]
    assert (gate.predict(X) == (scores >= 0)).all() and gate.fallback_ == 0


def test_the_released_demo_believes_what_its_authors_say_it_believes(shared_dir):
    """Qwen2-7B, harmless prompts that are refused: all taken for harmless at t_inst, all near the refused centre at t_post_inst (float16 files)."""
    from safetensors.numpy import load_file

    file = shared_dir / "data" / "real_activations" / "harmfulness_refusal_separate.safetensors"
    if not file.exists():
        pytest.skip(f"no real activations at {file}")
    tensors = {name: values.astype(np.float64) for name, values in load_file(file).items()}
    prompts = tensors["qwen-hl-refuse5-all-layer-2pos"]  # layer, prompt, (t_inst, t_post_inst), hidden
    for position, (first, second), below in ((0, ("hf", "hl"), True), (1, ("refuse", "accept"), False)):
        centres = np.stack([tensors[f"qwen-{name}-cls-all-layer"] for name in (first, second)])
        gate = LatentGuard(n_layers=29).fit(centres.reshape(2, -1), [True, False])
        states = prompts[:, :, position].transpose(1, 0, 2)
        scores = gate.decision_function(states.reshape(5, -1))
        np.testing.assert_allclose(scores, belief(states, *centres), atol=1e-12)
        assert (scores < 0).all() if below else (scores > 0).all()


def test_planted_harm_is_found_and_destroyed_harm_is_not(store, rng):
    fit, score = (layer_stack(store, [2, 3, 4], "t_inst", split) for split in ("fit", "score"))
    gate = LatentGuard(n_layers=3).fit(fit)
    assert (gate.predict(score) == score.y).mean() > 0.9
    shuffled = LatentGuard(n_layers=3).fit(fit.X, rng.permutation(fit.y), fit.language)
    assert (shuffled.predict(score, "unknown") == score.y).mean() < 0.8


def test_a_stack_is_its_layers_side_by_side_and_is_not_taken_for_another(store):
    stack = layer_stack(store, [1, 3], "t_inst")
    np.testing.assert_array_equal(stack.X, np.concatenate([gate_data(store, k, "t_inst").X for k in (1, 3)], axis=1))
    gate = LatentGuard(n_layers=2).fit(stack)
    with pytest.raises(DataError, match="at layers 1, 3"):
        gate.predict(layer_stack(store, [2, 3], "t_inst"))
    assert layer_stack(store, [2], "t_inst").place == gate_data(store, 2, "t_inst").place


def test_centres_are_those_of_refused_and_accepted_prompts_where_that_is_known(store, rng):
    data = gate_data(store, 4, "t_inst")
    refused = rng.random(len(data)) < 0.5
    gate = LatentGuard().fit(data, refused=refused)
    np.testing.assert_allclose(gate.harmful_[0], data.X[data.y & refused].mean(axis=0))
    np.testing.assert_allclose(gate.harmless_[0], data.X[~data.y & ~refused].mean(axis=0))
    with pytest.raises(DataError, match="There are no harmful prompts refused"):
        LatentGuard().fit(data, refused=np.zeros(len(data), dtype=bool))


def test_a_state_that_is_zero_at_a_layer_never_fires(store):
    stack = layer_stack(store, [1, 3], "t_inst")
    gate = LatentGuard(n_layers=2).fit(stack)
    X = stack.X[gate.predict(stack)][:2].copy()
    X[0, : X.shape[1] // 2] = 0.0
    assert np.isnan(gate.decision_function(X)[0]) and gate.predict(X, "unknown").tolist() == [False, True]
    with pytest.raises(DataError, match="1 of 2 states are zero"):
        LatentGuard(n_layers=2).fit(X, [True, False])


def test_a_layer_whose_state_is_one_constant_token_adds_nothing(store):
    data = gate_data(store, 4, "t_inst")
    constant = np.tile(data.X[:1], (len(data), 1))
    both = LatentGuard(n_layers=2).fit(np.concatenate([constant, data.X], axis=1), data.y)
    one = LatentGuard().fit(data.X, data.y)
    np.testing.assert_allclose(2 * both.decision_function(np.concatenate([constant, data.X], axis=1)), one.decision_function(data.X), atol=1e-12)


def test_what_is_saved_decides_the_same(store, tmp_path, rng):
    stack = layer_stack(store, [1, 3], "t_inst")
    gate = LatentGuard(n_layers=2).fit(stack.select(languages="qaa")).recalibrate(stack.draw(2, "qab", rng))
    again = load_gate(save_gate(gate, tmp_path / "guard.safetensors"))
    np.testing.assert_array_equal(again.predict(stack), gate.predict(stack))
    assert again.thresholds_ == gate.thresholds_ and again.thresholds_["qaa"] == 0 and again.place_ == gate.place_


def test_what_cannot_be_stacked_is_refused(store):
    for layers in ([], [3, 1], [1, 1]):
        with pytest.raises(DataError, match="ascending"):
            layer_stack(store, layers)
    with pytest.raises(DataError, match="n_layers=3"):
        LatentGuard(n_layers=3).fit(gate_data(store, 1, "t_inst"))
    with pytest.raises(DataError, match="one per prompt"):
        LatentGuard().fit(gate_data(store, 1, "t_inst"), refused=[True])
