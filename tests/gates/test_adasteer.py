"""AdaSteer's strengths follow positions between stated anchors, row by row, and reach just the tokens they are meant for."""

import numpy as np
import pytest
import torch

from tests.support.planted import activations, with_harm
from workbench.errors import DataError
from workbench.gates import gate_data, load_gate, save_gate
from workbench.gates.adasteer import AdaSteer
from workbench.gates.adasteer_law import RELEASED, Ramp, smallest_sufficient
from workbench.gates.row_strengths import row_strengths
from workbench.interventions import Add
from workbench.models.hooks import record
from workbench.models.passes import Batch, announced


@pytest.fixture
def data(rng):
    """Three languages; the last lies 3 further to the harmful side."""
    states, _ = with_harm(rng, 6.0, n_languages=3, n=64, shift=np.array([0.0, 0.0, 3.0]))
    return gate_data(activations(states + 1.0), 4, "t_inst")


@pytest.fixture
def source(data):
    return data.select(languages=["qaa", "qab"])


@pytest.fixture
def refused(source, rng):
    return source.y & (rng.random(len(source)) < 0.5)


def test_each_kind_of_anchors_lies_at_0_and_100(source, refused):
    groups = {
        "classes": (source.y, ~source.y),
        "rejection": (source.y & ~refused, refused),
        "harmfulness": (source.y & ~refused, ~source.y & ~refused),
    }
    for anchors, (zero, hundred) in groups.items():
        gate = AdaSteer(anchors=anchors).fit(source, refused=refused)
        x = gate.positions(source)
        assert x[zero].mean() == pytest.approx(0, abs=1e-9) and x[hundred].mean() == pytest.approx(100, abs=1e-9)
        score = gate.decision_function(source)
        np.testing.assert_array_equal(score, x if anchors == "rejection" else 100.0 - x)


def test_on_the_real_anchors_positions_are_0_and_100_and_strengths_the_released_ones(shared_dir):
    """Qwen2.5-7B's and Gemma-2-9B's released states, block outputs: block l is layer l + 1."""
    from safetensors.numpy import load_file

    folder = shared_dir / "data" / "real_activations"
    if not folder.is_dir():
        pytest.skip(f"no real activations at {folder}")
    for name, model in (("qwen25-7b-instruct", "qwen2.5-7b-instruct"), ("gemma2-9b-it", "gemma-2-9b-it")):
        tensors = load_file(folder / f"adasteer_{name}.safetensors")
        for anchors, vector, layer in (
            ("rejection", "RD", RELEASED[model].rejection_layer),
            ("harmfulness", "HD", RELEASED[model].harmfulness_layer),
        ):
            zero, hundred = (tensors[f"{vector}.class_{part}"][layer - 1].astype(np.float64) for part in "ab")
            states, first = np.concatenate([zero, hundred]), np.arange(2 * len(zero)) < len(zero)
            # a harmful and benign group to fit on: for the rejection law the benign group plays no part
            benign = tensors["HD.class_b"][layer - 1].astype(np.float64)
            X = np.concatenate([states, benign]) if anchors == "rejection" else states
            y = np.arange(len(X)) < len(states) if anchors == "rejection" else first
            refused = np.zeros(len(X), dtype=bool)
            refused[: len(states)] = ~first if anchors == "rejection" else False
            gate = AdaSteer(anchors=anchors, law=model).fit(X, y, refused=refused)
            x = gate.positions(states)
            assert x[first].mean() == pytest.approx(0, abs=1e-8) and x[~first].mean() == pytest.approx(100, abs=1e-8)
            np.testing.assert_array_equal(gate.strengths(states), getattr(RELEASED[model], anchors)(x))


def test_strengths_fall_from_the_complied_to_the_refused_side_and_depend_on_no_other_row(source, rng):
    gate = AdaSteer().fit(source)
    strengths, order = gate.strengths(source), rng.permutation(len(source))
    assert strengths.min() == 0 and strengths.max() == 1 and strengths[source.y].mean() > strengths[~source.y].mean() + 0.7
    np.testing.assert_array_equal(gate.strengths(source.take(order)), strengths[order])
    assert all(gate.strengths(source.take([i]))[0] == strengths[i] for i in range(0, len(source), 17))
    shuffled = AdaSteer().fit(source.X, rng.permutation(source.y), source.language).strengths(source)
    assert abs(shuffled[source.y].mean() - shuffled[~source.y].mean()) < 0.4


def test_the_adapted_port_sums_both_released_ramps_over_one_position(source):
    gate = AdaSteer(law="qwen2.5-7b-instruct").fit(source)
    np.testing.assert_allclose(gate.strength_at(np.array([0.0, 100.0])), [0.2, -0.8])  # methods card 1.11


def test_examples_of_a_language_move_its_anchors_and_no_others(data, source, rng):
    gate, far = AdaSteer().fit(source), data.select(languages="qac")
    few = far.draw(8, "qac", rng)
    moved, replaced, left = (AdaSteer(adapt=how).fit(source).recalibrate(few) for how in ("shift", "anchors", "none"))
    for found in (moved, replaced):
        x = found.positions(few)
        assert x[few.y].mean() + x[~few.y].mean() == pytest.approx(100, abs=1e-8)
        np.testing.assert_array_equal(found.positions(source), gate.positions(source))
        assert found.labels_used_ == {"qac": 16} and found.adapted_ == ["qac"]
        wrong = np.abs(found.strengths(far) - far.y).mean()
        assert wrong < 0.75 * np.abs(gate.strengths(far, "unknown") - far.y).mean()
    x = replaced.positions(few)
    assert x[few.y].mean() == pytest.approx(0, abs=1e-8)
    np.testing.assert_array_equal(left.positions(far), gate.positions(far))
    twice = moved.recalibrate(far.draw(2, "qac", rng))
    assert twice.adapted_ == ["qac"] and len(twice.zero_) == 2 and gate.adapted_ == []
    with pytest.raises(DataError, match="no threshold for language 'qac'"):
        gate.strengths(far)


def test_a_planted_law_is_found_again_on_the_users_data(source):
    gate = AdaSteer().fit(source)
    x, planted, grid = gate.positions(source), Ramp(-0.003, 0.0, 0.25, 0.0, 0.2), np.linspace(0, 0.3, 121)
    needed = smallest_sufficient(grid, grid >= planted(x)[:, None] - 1e-12)
    inside = (x > 17) & (x < 83)
    found, fitted = gate.refit(source.take(inside), needed[inside], low=0.0, high=0.2)
    assert fitted.correlation < -0.99 and found.ramp.slope == pytest.approx(-0.003, rel=0.03)
    np.testing.assert_allclose(found.strengths(source), planted(x), atol=0.01)
    assert gate.ramp != found.ramp


def test_strengths_push_every_token_of_each_prompt_and_no_generated_one(tiny_model, rng):
    chat, vector = tiny_model("llama"), rng.normal(size=32)
    tokens = chat.tokenise(["Hello there.", "How do I bake bread at home?"])
    ids, mask = chat.pad([t.ids for t in tokens], side="left")
    names = ["a", "b"]
    gate = AdaSteer().fit(np.concatenate([rng.normal(size=(9, 32)) + 2, rng.normal(size=(9, 32))]), np.arange(18) < 9)
    states = rng.normal(size=(2, 32)) + np.array([[2.0], [1.0]])
    given = row_strengths(gate, states, names)
    assert given.scope == "prompt" and not given.turned and list(given.rows.values()) == gate.strengths(states).tolist()

    def stream(scope, more):
        every = torch.cat([ids, more], dim=1), torch.cat([mask, torch.ones_like(more)], dim=1)
        edit = Add(vector, 1.0, layers=2, rows=given.rows, scope=scope)
        out = []
        for edits in ((), (edit,)):
            with torch.no_grad(), chat.edited(*edits), announced(Batch.of(tokens, side="left", prompt_ids=names)), record(chat, [2]) as seen:
                chat.model(input_ids=every[0], attention_mask=every[1])
            out.append(seen[2])
        return ((out[1] - out[0]) @ torch.tensor(vector / np.linalg.norm(vector), dtype=torch.float32)).numpy()

    generated, width = torch.tensor([[7, 9], [11, 8]]), ids.shape[1]
    real, expected = mask.bool().numpy(), np.array(list(given.rows.values()))[:, None]
    prompt = stream("prompt", generated)
    np.testing.assert_allclose(prompt[:, :width][real], np.broadcast_to(expected, real.shape)[real], atol=1e-5)
    assert np.abs(prompt[:, width:]).max() < 1e-6
    ported = row_strengths(gate, states, names, as_ported=True)
    decode = stream(ported.scope, generated)
    assert np.abs(decode[:, :width][real]).max() < 1e-6
    np.testing.assert_allclose(decode[:, width:], np.broadcast_to(expected, (2, 2)), atol=1e-5)


def test_the_sign_follows_the_vector_that_is_added(source):
    ours, released = AdaSteer().fit(source), AdaSteer(law="qwen2.5-7b-instruct").fit(source)
    for gate, turned in ((ours, {"refusal": False, "harmful": False, "compliance": True}), (released, {"refusal": True, "compliance": False})):
        for toward, expected in turned.items():
            found = row_strengths(gate, source, toward=toward)
            assert found.turned == expected
            np.testing.assert_array_equal(list(found.rows.values()), (-1 if expected else 1) * gate.strengths(source))
            assert list(found.rows) == source.prompt_id.tolist()
    assert not row_strengths(released, source, toward="harmful", as_ported=True).turned  # the port did not turn it


def test_what_is_saved_pushes_the_same(source, data, tmp_path, rng):
    gate = AdaSteer(adapt="anchors").fit(source).recalibrate(data.draw(3, "qac", rng))
    again = load_gate(save_gate(gate, tmp_path / "adasteer.safetensors"))
    np.testing.assert_array_equal(again.strengths(data), gate.strengths(data))
    np.testing.assert_array_equal(again.predict(data), gate.predict(data))
    assert again.adapted_ == ["qac"] and again.place_ == gate.place_ and again.ramp == gate.ramp
    assert again.recalibrate(data.draw(2, "qac", rng)).adapted_ == ["qac"]


def test_what_cannot_be_an_anchor_is_refused(source, refused):
    with pytest.raises(DataError, match="what the unedited model did"):
        AdaSteer(anchors="rejection").fit(source)
    with pytest.raises(DataError, match="No prompt for the anchor 'harmful prompts complied with'"):
        AdaSteer(anchors="rejection").fit(source, refused=source.y)
    with pytest.raises(DataError, match="Did you mean 'rejection'"):
        AdaSteer(anchors="refection").fit(source)
    with pytest.raises(DataError, match="expected one of"):
        AdaSteer(adapt="all").fit(source)
    with pytest.raises(DataError, match="no released constants"):
        AdaSteer(law="qwen2.5-72b").fit(source)
    with pytest.raises(DataError, match="nothing lies between"):
        AdaSteer().fit(np.ones((6, 3)), np.arange(6) < 3)
    with pytest.raises(DataError, match="would replace"):
        AdaSteer(law="gemma-2-9b-it").fit(source).refit(source, np.zeros(len(source)))
    with pytest.raises(DataError, match="need replies"):
        AdaSteer(anchors="rejection", adapt="anchors").fit(source, refused=refused).recalibrate(source.select(languages="qaa"))
    gate = AdaSteer().fit(source)
    with pytest.raises(DataError, match="Got none prompt ids"):
        row_strengths(gate, source.X)
    with pytest.raises(DataError, match="1 of them different"):
        row_strengths(gate, source.X[:2], ["a", "a"])
    with pytest.raises(DataError, match="Did you mean 'refusal'"):
        row_strengths(gate, source, toward="refusing")


def test_a_policy_may_be_given_by_name(data, source):
    gate, few = AdaSteer().fit(source), data.select(languages="qac").draw(4, "qac", np.random.default_rng(0))
    named, given = gate.recalibrate(few, policy="balanced_f1"), gate.recalibrate(few)
    assert named.thresholds_ == given.thresholds_
    with pytest.raises(DataError, match="shrinkge"):
        gate.recalibrate(few, policy="shrinkge")
