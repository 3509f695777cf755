"""The controls decide what they are said to decide, and each says which labels it used."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tests.support.planted import activations, with_harm
from workbench.errors import DataError
from workbench.gates import GateData, gate_data, load_gate, save_gate
from workbench.gates.adasteer import AdaSteer
from workbench.gates.cast import CastGate
from workbench.gates.controls import (
    AlwaysGate,
    KnownDecisions,
    RandomDirectionGate,
    decided_rows,
    fit_controls,
    permuted_decisions,
    permuted_labels,
)
from workbench.gates.latent_guard import LatentGuard
from workbench.gates.one_direction import DirectionGate
from workbench.statistics import auroc


@pytest.fixture
def data(rng):
    states, _ = with_harm(rng, 8.0, n_languages=3, n=64)
    return gate_data(activations(states), 4, "t_inst")


@pytest.fixture
def source(data):
    return data.select(languages=["qaa", "qab"], split="fit")


@pytest.fixture
def scored(data):
    return data.select(split="score")


def test_always_and_never_are_moved_by_no_example(source, scored, data, rng):
    for fires in (True, False):
        gate = AlwaysGate(fires=fires).fit(source)
        again = gate.recalibrate(data.draw(4, "qac", rng))
        assert (again.predict(scored) == fires).all() and (again.predict(scored.X, "unknown") == fires).all()
        assert again.labels_used_ == {"qac": 0} and gate.labels_used_ == {}
        with pytest.raises(DataError, match="no threshold for language"):
            gate.predict(scored)


def test_random_directions_know_nothing_but_their_threshold(source, scored):
    gates = [RandomDirectionGate(random_state=seed).fit(source) for seed in range(40)]
    units = np.stack([gate.unit_ for gate in gates])
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1)
    assert np.abs(units @ units.T - np.eye(40)).max() < 0.8
    means = source.X[source.y].mean(axis=0) - source.X[~source.y].mean(axis=0)
    assert (units @ means >= 0).all()
    harm = DirectionGate().fit(source).unit_
    assert np.mean(units @ harm) < 0.25  # sqrt(2 / (pi 32)) = .14 by chance, once the sign is chosen
    np.testing.assert_array_equal(RandomDirectionGate(random_state=3).fit(source).unit_, gates[3].unit_)


def test_permuted_labels_share_nothing_with_the_true_ones(data, rng):
    drawn = permuted_labels(data, rng)
    np.testing.assert_array_equal(drawn.X, data.X)
    for label in (True, False):
        assert drawn.y[data.y == label].mean() == pytest.approx(0.5)
    by_meaning = {m: set(drawn.y[data.meaning_id == m]) for m in data.meaning_id}
    assert all(len(labels) == 1 for labels in by_meaning.values())
    found = [auroc(data.y, DirectionGate().fit(permuted_labels(data, rng)).decision_function(data)) for _ in range(20)]
    assert 0.3 < np.mean(found) < 0.7 and auroc(data.y, DirectionGate().fit(data).decision_function(data)) > 0.99


def test_permuted_decisions_fire_as_often_on_other_prompts(data, source, scored, rng):
    gate = DirectionGate().fit(source).recalibrate(data.draw(4, "qac", rng))
    found = permuted_decisions(gate, scored, rng)
    own, shuffled = gate.predict(scored), found.predict(scored)
    for tag in scored.languages:
        assert own[scored.language == tag].sum() == shuffled[scored.language == tag].sum()
    assert (own != shuffled).any() and found.labels_used_ == gate.labels_used_ == {"qac": 8}
    right = [(permuted_decisions(gate, scored, rng).predict(scored) == scored.y).mean() for _ in range(30)]
    assert np.mean(right) == pytest.approx(0.5, abs=0.05) and (own == scored.y).mean() > 0.9


def test_the_oracle_decides_by_the_true_labels_in_any_order(scored, data, rng, tmp_path):
    oracle = KnownDecisions().fit(scored)
    order = rng.permutation(len(scored))
    np.testing.assert_array_equal(oracle.predict(scored.take(order)), scored.y[order])
    np.testing.assert_array_equal(oracle.recalibrate(data.draw(2, "qac", rng)).predict(scored), scored.y)
    assert oracle.labels_used_ == {tag: int((scored.language == tag).sum()) for tag in scored.languages}
    assert decided_rows(oracle, scored) == {str(name): bool(label) for name, label in zip(scored.prompt_id, scored.y, strict=True)}
    again = load_gate(save_gate(oracle, tmp_path / "oracle.safetensors"))
    np.testing.assert_array_equal(again.predict(scored), scored.y)
    with pytest.raises(DataError, match="an array names no prompts"):
        oracle.predict(scored.X)
    with pytest.raises(DataError, match="prompts have no decision: 'qaa:m"):
        oracle.predict(data)
    with pytest.raises(DataError, match="does not name its prompts"):
        KnownDecisions().fit(scored.X, scored.y)
    with pytest.raises(DataError, match="Expected one for each"):
        KnownDecisions().fit(scored, decisions=np.ones(2, dtype=bool))
    doubled = GateData(**{**vars(scored), "prompt_id": np.full(len(scored), "a")})
    with pytest.raises(DataError, match="1 of them different"):
        KnownDecisions().fit(doubled)


@pytest.mark.filterwarnings("ignore::workbench.gates.GateWarning")  # examples along a nonsense direction may well be out of order
def test_a_runner_can_loop_over_all_controls(data, source, scored, rng):
    gate = DirectionGate().fit(source).recalibrate(data.draw(4, "qac", rng))
    controls = fit_controls(DirectionGate(), source, scored, rng=rng, seeds=2, recalibrated=gate)
    assert list(controls) == [
        "always", "never", "random direction 0", "random direction 1", "permuted labels 0", "permuted labels 1", "permuted decisions", "oracle",
    ]  # fmt: skip
    few, accuracy = data.draw(4, "qac", rng), {}
    for name, control in controls.items():
        used = control.recalibrate(few)
        fires = used.predict(scored)
        assert fires.dtype == bool and fires.shape == scored.y.shape
        accuracy[name] = (fires == scored.y).mean()
        expected = {"always": 0, "never": 0, "permuted decisions": 8, "oracle": int((scored.language == "qac").sum())}
        assert used.labels_used_["qac"] == expected.get(name, 8), name
    assert accuracy["oracle"] == 1 and accuracy["always"] == accuracy["never"] == 0.5
    assert max(accuracy[name] for name in accuracy if name.startswith(("random", "permuted"))) < 0.9
    assert "permuted decisions" not in fit_controls(DirectionGate(), source, scored, rng=rng, seeds=1)


GATES = (
    DirectionGate(method="balanced_means"),
    LatentGuard(n_layers=1),
    CastGate(signed=True, grid=(-1.0, 1.0, 0.01)),
    AdaSteer(adapt="anchors"),
    AlwaysGate(fires=False),
    RandomDirectionGate(random_state=3),
    KnownDecisions(),
)


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: type(gate).__name__)
def test_every_rival_and_control_is_an_estimator_and_refuses_bad_input(gate, source, data):
    before = gate.get_params()
    fresh = clone(gate)
    with pytest.raises(NotFittedError):
        fresh.predict(source)
    assert fresh.fit(source) is fresh and fresh.get_params() == before and not hasattr(gate, "thresholds_")
    assert list(fresh.classes_) == [False, True] and fresh.n_features_in_ == 32 and fresh.place_ == source.place
    assert all(name.endswith("_") and not name.startswith("_") for name in set(vars(fresh)) - set(before))
    elsewhere = replace(source, place=replace(source.place, layer=3))
    with pytest.raises(DataError, match="layer 4 and not 3"):
        fresh.predict(elsewhere)
    with pytest.raises(DataError, match="features"):
        fresh.predict(replace(source, X=source.X[:, :5]))
    with pytest.raises(DataError, match="same label"):
        clone(gate).fit(source.take(source.y))
    with pytest.raises(DataError, match="one language"):
        fresh.recalibrate(source)
    with pytest.raises(DataError, match=r"no threshold for language 'qac'|no decision"):
        fresh.predict(data.select(languages="qac"))


def test_too_little_to_permute_is_refused(data, source, scored, rng):
    one = data.take(np.flatnonzero(np.isin(data.meaning_id, ["m0", "m1"])))
    with pytest.raises(DataError, match="1 harmful and 1 harmless meanings"):
        permuted_labels(one, rng)
    with pytest.raises(DataError, match="seeds=0"):
        fit_controls(DirectionGate(), source, scored, rng=rng, seeds=0)
