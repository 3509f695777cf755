"""What all gates share: thresholds per language, a stated fallback, and recalibration that leaves the old gate alone."""

import numpy as np
import pytest
from planted import activations, with_harm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from toy_gate import ToyGate

from workbench.errors import DataError
from workbench.gates import BalancedF1, Context, GateWarning, Shrinkage, gate_data


@pytest.fixture
def acts(rng):
    states, _ = with_harm(rng, 8.0, n_languages=4, n=64, shift=np.array([0, 0, 0, -6.0]))
    return activations(states, template="t0", system="")


@pytest.fixture
def source(acts):
    return gate_data(acts, 4, "t_inst", split="fit", languages=["qaa", "qab"])


@pytest.fixture
def gate(source):
    return ToyGate().fit(source)


def test_the_gate_fires_at_its_languages_threshold_and_the_score_is_raw(gate, acts):
    target = gate_data(acts, 4, "t_inst", split="score", languages=["qaa"])
    scores = gate.decision_function(target)
    assert np.allclose(scores, target.X @ gate.weights_) and scores.dtype == np.float64
    assert (gate.predict(target) == (scores >= gate.thresholds_["qaa"])).all() and gate.predict(target).dtype == bool
    assert (gate.predict(target) == target.y).mean() > 0.95
    gate.thresholds_["qaa"] = float(scores[3])
    assert gate.predict(target)[3]  # at the threshold, it fires


def test_fitting_sets_the_papers_shared_threshold_for_all_sources(gate, source):
    scores = source.X @ gate.weights_
    paper = BalancedF1().choose(scores[source.y], scores[~source.y], Context()).threshold
    assert gate.fallback_ == paper and gate.thresholds_ == {"qaa": paper, "qab": paper} and gate.labels_used_ == {}
    assert gate.source_scores_["qab"].harmful.shape == (16,)


def test_an_unseen_language_is_an_error_unless_unknown_is_said_on_purpose(gate, acts):
    unseen = gate_data(acts, 4, "t_inst", split="score", languages=["qad"])
    with pytest.raises(DataError, match=r"no threshold for language 'qad'; it has \['qaa', 'qab'\].*Recalibrate.*language='unknown'"):
        gate.predict(unseen)
    on_purpose = gate.decision_function(unseen) >= gate.fallback_
    assert (gate.predict(unseen, language="unknown") == on_purpose).all()
    assert (gate.predict(unseen.X) == on_purpose).all()
    mixed = gate.predict(unseen.X[:2], language=[None, "qaa"])
    assert mixed.shape == (2,)


def test_recalibrating_gives_a_copy_and_helps_the_shifted_language(gate, acts):
    score, examples = gate_data(acts, 4, "t_inst", split="score", languages=["qad"]), gate_data(acts, 4, "t_inst", split="select")
    before = dict(gate.thresholds_)
    new = gate.recalibrate(examples.draw(8, "qad", np.random.default_rng(0)))
    assert gate.thresholds_ == before and gate.examples_ == {} and new is not gate
    assert new.labels_used_ == {"qad": 16} and new.thresholds_["qaa"] == before["qaa"]
    miss = ~gate.predict(score, language="unknown")[score.y]
    assert miss.mean() > 0.5 > 0.2 > (~new.predict(score)[score.y]).mean()
    again = new.recalibrate(examples.draw(4, "qac", np.random.default_rng(1)))
    assert set(again.thresholds_) == {"qaa", "qab", "qac", "qad"} and list(again.context("qac").others) == ["qad"]


def test_without_examples_the_threshold_is_that_of_the_sources(gate):
    new = gate.recalibrate(np.empty((0, 32)), [], language="qad")
    assert new.thresholds_["qad"] == gate.fallback_ and new.labels_used_ == {"qad": 0}


def test_inverted_examples_warn_that_nearly_everything_would_be_flagged(gate):
    states = np.stack([gate.weights_, -gate.weights_])
    with pytest.warns(GateWarning, match="flag nearly everything.*MomentMatching"):
        new = gate.recalibrate(states, [False, True], language="qad")
    assert new.thresholds_["qad"] < gate.decision_function(states).min()
    assert "flag nearly everything" in new.recalibrations_["qad"].caution


def test_bad_examples_are_refused(gate, source):
    with pytest.raises(DataError, match=r"same label.*add the other class"):
        gate.recalibrate(source.X[:2], [True, True], language="qad")
    with pytest.raises(DataError, match="needs the labels of the 2 examples"):
        gate.recalibrate(source.X[:2], language="qad")
    with pytest.raises(DataError, match="one language, and got none"):
        gate.recalibrate(source.X[:2], [True, False])
    with pytest.raises(DataError, match=r"one language, and got \['qaa', 'qab'\]"):
        gate.recalibrate(source)


def test_a_policy_may_be_named_and_what_is_none_is_refused(gate, acts):
    examples = gate_data(acts, 4, "t_inst", split="select").draw(4, "qad", np.random.default_rng(0))
    named = gate.recalibrate(examples, policy="shrinkage")
    assert named.thresholds_ == gate.recalibrate(examples, policy=Shrinkage()).thresholds_ != gate.recalibrate(examples).thresholds_
    refused = {
        "shrinkige": "Unknown policy 'shrinkige'.*Did you mean 'shrinkage'",
        Shrinkage: r"The policy is the class Shrinkage\. Expected a policy, such as Shrinkage\(\), or one of the names",
        int: r"The policy is the class int\. Expected a policy",
        0.5: r"The policy is of type float\. Expected a policy",
        type("Shrinkig", (), {}): "Did you mean 'Shrinkage'",
    }
    for policy, match in refused.items():
        with pytest.raises(DataError, match=match):
            gate.recalibrate(examples, policy=policy)


def test_examples_of_other_languages_than_the_one_asked_for_are_refused(gate, acts, source):
    with pytest.raises(DataError, match=r"language='qad', and the examples are of \['qaa', 'qab'\].*select\(languages='qad'\)"):
        gate.recalibrate(source, language="qad")
    with pytest.raises(DataError, match=r"language='qaa', and the examples are of \['qaa', 'qab'\]"):
        gate.recalibrate(source, language="qaa")
    own = gate_data(acts, 4, "t_inst", split="select", languages=["qad"])
    assert gate.recalibrate(own, language="qad").thresholds_ == gate.recalibrate(own).thresholds_
    assert gate.recalibrate(own.draw(0, "qad", np.random.default_rng(0)), language="qad").thresholds_["qad"] == gate.fallback_
    for nothing in ("", " "):
        with pytest.raises(DataError, match="one language, and got"):
            gate.recalibrate(own.X, own.y, language=nothing)


@pytest.mark.parametrize(("layer", "position", "attrs"), [(3, "t_inst", {}), (4, "t_post_inst", {}), (4, "t_inst", {"fingerprint": "f1"})])
def test_states_of_another_place_or_model_are_refused(gate, acts, layer, position, attrs):
    with pytest.raises(DataError, match="fitted elsewhere"):
        gate.predict(gate_data(acts.assign_attrs(attrs), layer, position, split="score", languages=["qaa"]))


def test_bad_rows_are_refused(gate, source):
    with pytest.raises(DataError, match="X has 31 features, but ToyGate is expecting 32 features"):
        gate.decision_function(source.X[:, 1:])
    with pytest.raises(DataError, match=r"NaN or infinity \(first: row 2\)"):
        gate.decision_function(np.where(np.arange(5)[:, None] == 2, np.inf, source.X[:5]))
    with pytest.raises(DataError, match="Reshape your data"):
        gate.decision_function(source.X[0])
    with pytest.raises(DataError, match="3 languages for 5 rows"):
        gate.predict(source.X[:5], language=["qaa"] * 3)
    with pytest.raises(DataError, match="one class only"):
        ToyGate().fit(source.X, np.ones(len(source)))
    with pytest.raises(DataError, match="Unknown label type"):
        ToyGate().fit(source.X, np.arange(len(source)))
    with pytest.raises(DataError, match="target y is None"):
        ToyGate().fit(source.X)


def test_a_gate_is_a_scikit_learn_estimator(gate, source):
    fresh = clone(gate.set_params(scale=2.0))
    assert fresh.get_params() == {"scale": 2.0} and not hasattr(fresh, "weights_")
    for call in (fresh.predict, fresh.decision_function, fresh.recalibrate):
        with pytest.raises(NotFittedError):
            call(source)
    assert gate.n_features_in_ == 32 and list(gate.classes_) == [False, True]
    assert gate.score(source.X, source.y) > 0.95


def test_decisions_do_not_depend_on_the_order_of_rows_or_on_other_rows(gate, source, rng):
    order = rng.permutation(len(source))
    assert (gate.predict(source.take(order)) == gate.predict(source)[order]).all()
    assert gate.predict(source.X[:1], language=["qaa"])[0] == gate.predict(source)[0]
