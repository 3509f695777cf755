"""One direction decides by projection, at any policy's threshold, at its own place only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.planted import activations, with_harm
from workbench.directions import harm_direction
from workbench.errors import DataError
from workbench.gates import BalancedF1, ThresholdChoice, gate_data, load_gate, save_gate
from workbench.gates.controls import permuted_labels
from workbench.gates.one_direction import DirectionGate
from workbench.statistics import auroc


@pytest.fixture
def store(rng):
    states, _ = with_harm(rng, 8.0, n_languages=3, n=64, shift=np.array([0.0, 0.0, 4.0]))
    return activations(states)


@pytest.fixture
def data(store):
    return gate_data(store, 4, "t_inst")


class Fixed:
    """A policy that always answers the same."""

    name, needs_labels = "fixed", True

    def __init__(self, threshold=1.5, abstains=False):
        self.choice = ThresholdChoice(threshold, "none", abstains, reason="as it was made.")

    def choose(self, scores_harmful, scores_harmless, context):
        return self.choice


def test_planted_harm_is_found_in_a_language_the_direction_did_not_come_from(data, rng):
    source, target = data.select(languages=["qaa", "qab"], split="fit"), data.select(languages="qac")
    for method in ("difference_in_means", "balanced_means"):
        gate = DirectionGate(method=method).fit(source)
        assert auroc(target.y, gate.decision_function(target)) > 0.97
        before = (gate.predict(target, "unknown") == target.y).mean()
        after = (gate.recalibrate(target.draw(8, "qac", rng)).predict(target) == target.y).mean()
        assert before < 0.75 < 0.9 < after  # the direction transfers, its threshold does not
    shuffled = [DirectionGate().fit(permuted_labels(source, rng)).decision_function(target) for _ in range(20)]
    assert 0.3 < np.mean([auroc(target.y, scores) for scores in shuffled]) < 0.7


def test_with_as_many_rows_everywhere_both_methods_are_the_same_and_otherwise_not(data):
    whole = data.select(languages=["qaa", "qab"])
    pooled, balanced = (DirectionGate(method=m).fit(whole).unit_ for m in ("difference_in_means", "balanced_means"))
    np.testing.assert_allclose(pooled, balanced, atol=1e-12)
    part = whole.take(np.flatnonzero((whole.language == "qaa") | (np.arange(len(whole)) % 3 == 0)))
    pooled, balanced = (DirectionGate(method=m).fit(part).unit_ for m in ("difference_in_means", "balanced_means"))
    assert np.abs(pooled - balanced).max() > 1e-3


def test_a_direction_that_is_there_is_used_as_it_is(store, data):
    direction = harm_direction(store, ["qaa"]).at(4, "t_inst")
    gate = DirectionGate().fit(data, direction=direction)
    np.testing.assert_allclose(gate.decision_function(data), data.X @ direction.unit, atol=1e-12)
    np.testing.assert_allclose(
        DirectionGate().fit(data, direction=-3 * direction.unit).decision_function(data), -(data.X @ direction.unit), atol=1e-12
    )
    with pytest.raises(DataError, match="layer 3 and not 4"):
        DirectionGate().fit(data, direction=harm_direction(store, ["qaa"]).at(3, "t_inst"))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_decisions_depend_neither_on_the_order_nor_on_the_batch(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(30, 19)), np.arange(30) < 15
    gate = DirectionGate().fit(X, y)
    scores, order = gate.decision_function(X), rng.permutation(30)
    assert (gate.decision_function(X[order]) == scores[order]).all() and gate.decision_function(X[4:5])[0] == scores[4]


def test_the_threshold_is_any_policys(data):
    source, gate = data.select(languages="qaa"), DirectionGate()
    np.testing.assert_allclose(gate.fit(source).fallback_, gate.fit(source, policy=BalancedF1()).fallback_)
    assert gate.fit(source, policy=Fixed()).thresholds_ == {"qaa": 1.5}
    moved = gate.recalibrate(data.select(languages="qab"), policy=Fixed(-2.0))
    assert moved.thresholds_ == {"qaa": 1.5, "qab": -2.0} and gate.thresholds_ == {"qaa": 1.5}
    with pytest.raises(DataError, match=r"fixed sets no threshold for the source languages: as it was made\."):
        gate.fit(source, policy=Fixed(abstains=True))


def test_what_is_saved_decides_the_same(data, tmp_path, rng):
    gate = DirectionGate(method="balanced_means").fit(data.select(languages=["qaa", "qab"])).recalibrate(data.draw(2, "qac", rng))
    again = load_gate(save_gate(gate, tmp_path / "one.safetensors"))
    np.testing.assert_array_equal(again.predict(data), gate.predict(data))
    assert again.get_params() == gate.get_params() and again.place_ == gate.place_


def test_what_is_no_direction_is_refused(data):
    for direction, message in (
        (np.zeros(32), "direction is zero"),
        (np.ones(5), "5 entries and the states 32"),
        (np.full(32, np.nan), "one finite vector"),
        (np.ones((2, 32)), "one finite vector"),
    ):
        with pytest.raises(DataError, match=message):
            DirectionGate().fit(data, direction=direction)
    with pytest.raises(DataError, match="Did you mean 'balanced_means'"):
        DirectionGate(method="balanced_mean").fit(data)
    with pytest.raises(DataError, match="direction is zero"):
        DirectionGate().fit(np.ones((6, 3)), np.arange(6) < 3)
    with pytest.raises(DataError, match="same label"):
        DirectionGate().fit(data.select(languages="qaa").X, np.ones(64, dtype=bool))
