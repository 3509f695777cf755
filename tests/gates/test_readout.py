"""The recalibrated gate: what it reads, how it is fitted, and what recalibration changes."""

import warnings

import numpy as np
import pytest
from planted import activations, with_harm
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from workbench.errors import DataError
from workbench.gates import (
    ConformalMiss,
    GateWarning,
    MomentMatching,
    RecalibratedGate,
    Shrinkage,
    compare_solvers,
    gate_data,
    load_gate,
    save_gate,
)
from workbench.gates.readout import shared_basis
from workbench.statistics import auroc


@pytest.fixture
def acts(rng):
    states, _ = with_harm(rng, 7.0, n_languages=5, n=96, shift=np.array([0, 0, 0, -5.0, 4.0]))
    return activations(states, template="t0", system="")


@pytest.fixture
def source(acts):
    return gate_data(acts, 4, "t_inst", split="fit", languages=["qaa", "qab", "qac"])


def test_the_basis_spans_the_unit_differences_uncentred(source):
    gate = RecalibratedGate().fit(source)
    units = []
    for tag in source.languages:
        X, y = source.X[source.language == tag], source.y[source.language == tag]
        d = X[y].mean(axis=0) - X[~y].mean(axis=0)
        units.append(d / np.linalg.norm(d))
    expected = np.linalg.svd(np.array(units))
    assert gate.basis_.shape == (32, 3) and np.allclose(gate.basis_.T @ gate.basis_, np.eye(3))
    assert np.allclose(gate.basis_ @ gate.basis_.T, expected[2][:3].T @ expected[2][:3]) and np.allclose(gate.singular_values_, expected[1])
    assert ((np.array(units) @ gate.basis_).sum(axis=0) >= 0).all()
    first = RecalibratedGate(rank=1).fit(source).basis_
    assert np.allclose(first @ first.T, np.outer(expected[2][0], expected[2][0]))


def test_features_are_projected_without_taking_off_a_mean_then_standardised(source):
    gate = RecalibratedGate().fit(source)
    features = source.X @ gate.basis_
    assert np.allclose(gate.mean_, features.mean(axis=0)) and np.allclose(gate.scale_, features.std(axis=0))
    logits = (features - gate.mean_) / gate.scale_ @ gate.coef_ + gate.intercept_
    assert np.allclose(gate.decision_function(source), logits)


def test_a_shifted_language_keeps_its_ranking_and_needs_its_own_threshold(source, acts):
    gate, rng = RecalibratedGate().fit(source), np.random.default_rng(0)
    for tag in ("qad", "qae"):
        scored = gate_data(acts, 4, "t_inst", split="score", languages=[tag])
        assert auroc(scored.y, gate.decision_function(scored)) > 0.97
        before = (gate.predict(scored, language="unknown") == scored.y).mean()
        new = gate.recalibrate(gate_data(acts, 4, "t_inst", split="select").draw(8, tag, rng))
        assert (new.predict(scored) == scored.y).mean() > max(before + 0.1, 0.85)
        assert (new.coef_ == gate.coef_).all() and new.labels_used_ == {tag: 16}


@pytest.mark.parametrize("solver", ["converged", "paper"])
def test_refitting_moves_the_weights_of_one_language_alone(source, acts, solver):
    gate = RecalibratedGate(solver=solver).fit(source)
    rows = gate_data(acts, 4, "t_inst")
    examples = rows.draw(4, "qad", np.random.default_rng(1))
    new = gate.recalibrate(examples, refit=True)
    both = np.concatenate([source.X, examples.X]) @ gate.basis_
    own = new.readout("qad")
    assert np.allclose(own.mean, both.mean(axis=0)) and np.allclose(own.scale, both.std(axis=0))  # examples are among the rows, unweighted
    changed = new.decision_function(rows) != gate.decision_function(rows)
    assert changed[rows.language == "qad"].all() and not changed[rows.language != "qad"].any()
    assert (new.decision_function(rows.X) == gate.decision_function(rows.X)).all()  # no language: the sources' readout
    plain = gate.recalibrate(examples)
    gap = new.decision_function(examples) - plain.decision_function(examples)
    assert 0 < np.abs(gap).max() < 0.5 * gate.decision_function(rows).std()


def test_the_policy_sets_the_threshold_and_is_recorded(source, acts, tmp_path):
    gate, rng = RecalibratedGate().fit(source), np.random.default_rng(2)
    select = gate_data(acts, 4, "t_inst", split="select")
    new = gate.recalibrate(select.draw(2, "qad", rng), policy=Shrinkage()).recalibrate(select.draw(2, "qae", rng), policy=Shrinkage(), refit=True)
    assert new.recalibrations_["qad"].policy == "shrinkage" and "3 source and 0 other" in new.recalibrations_["qad"].reason
    with pytest.warns(GateWarning, match="conformal_miss abstains for 'qad': .* takes 19.*in force.* is kept"):
        kept = new.recalibrate(select.draw(2, "qad", rng), policy=ConformalMiss())
    assert kept.thresholds_["qad"] == new.thresholds_["qad"] and kept.recalibrations_["qad"].abstains
    with pytest.warns(GateWarning, match="50% of the unlabelled prompts"):
        blind = gate.recalibrate(select.select(languages="qad"), policy=MomentMatching())
    assert blind.labels_used_ == {"qad": 0} and len(blind.examples_["qad"].harmful) == 0
    with pytest.raises(DataError, match="needs their labels"):
        gate.recalibrate(select.X[:3], language="qad", policy=MomentMatching(), refit=True)
    back = load_gate(save_gate(new, tmp_path / "gate.safetensors"))
    rows = gate_data(acts, 4, "t_inst")
    assert (back.decision_function(rows) == new.decision_function(rows)).all() and (back.predict(rows) == new.predict(rows)).all()
    again = [g.recalibrate(select.draw(2, "qad", np.random.default_rng(5)), policy=Shrinkage(), refit=True).thresholds_ for g in (new, back)]
    assert again[0] == again[1]


def test_bad_settings_and_sources_are_refused(source, rng):
    with pytest.raises(DataError, match="rank=4: expected 1 to 3"):
        RecalibratedGate(rank=4).fit(source)
    with pytest.raises(DataError, match="Did you mean 'converged'"):
        RecalibratedGate(solver="convergent").fit(source)
    with pytest.raises(DataError, match="Source language 'qab' has 0 harmful and 24 harmless rows"):
        RecalibratedGate().fit(source.take((source.language != "qab") | ~source.y))
    with pytest.raises(DataError, match="do not differ in any source language"):
        RecalibratedGate().fit(np.ones((6, 3)), np.arange(6) < 3)
    same = np.tile(rng.normal(size=(1, 8)), (3, 1))
    basis, values = shared_basis(same)
    assert basis.shape == (8, 1) and np.allclose(values, [np.sqrt(3), 0, 0])


def test_scores_do_not_depend_on_order_or_company_to_the_bit(source, acts):
    gate = RecalibratedGate().fit(source)
    rows = gate_data(acts, 4, "t_inst")
    whole, order = gate.decision_function(rows), np.random.default_rng(3).permutation(len(rows))
    assert (gate.decision_function(rows.take(order)) == whole[order]).all()
    assert [gate.decision_function(rows.take([i]))[0] for i in (0, 7, 200)] == [whole[i] for i in (0, 7, 200)]


def test_fitting_twice_gives_the_same_gate_and_leaves_the_parameters(source):
    first, second = (RecalibratedGate(rank=2, solver="paper", random_state=3).fit(source) for _ in range(2))
    assert (first.coef_ == second.coef_).all() and first.fallback_ == second.fallback_
    assert clone(first).get_params() == {"rank": 2, "solver": "paper", "l2": 0.01, "random_state": 3}
    other = RecalibratedGate(rank=2, solver="paper", random_state=4).fit(source)
    assert not np.allclose(first.coef_, other.coef_, atol=1e-9)


def test_the_solvers_are_compared_beside_another_seed(source, acts):
    found = compare_solvers(source, gate_data(acts, 4, "t_inst", split="score")).table
    assert set(found["pair"]) == {"paper - converged", "paper - paper, another seed"} and len(found) == 10
    assert (found["logit_correlation"] > 0.9).all() and (found["low"] <= found["decisions_differ"]).all()
    control = found[found["pair"].str.endswith("seed")]
    assert control["logit_difference"].max() > 0  # seeds differ, or the control would say nothing
    with pytest.raises(DataError, match="Both seeds are 1"):
        compare_solvers(source, source, seeds=(1, 1))


NOT_OURS = {
    "check_classifiers_classes": "labels are harmful / harmless, not any two classes",
    "check_classifiers_train": "labels are harmful / harmless, not any two classes",
    "check_estimators_dtypes": "labels are harmful / harmless, not any two classes",
    "check_classifier_data_not_an_array": "labels are harmful / harmless, not any two classes",
    "check_fit2d_1feature": "labels are harmful / harmless, not any two classes",
    "check_classifier_not_supporting_multiclass": "labels are harmful / harmless; the message says so in our words",
    "check_supervised_y_2d": "one label per row; a column of labels is refused, not flattened",
    "check_dtype_object": "asks for the wording of numpy's message",
    "check_array_api_input": "needs SCIPY_ARRAY_API in the environment",
}


def test_the_conventions_of_scikit_learn_that_apply_are_kept():
    passed = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for gate, check in estimator_checks_generator(RecalibratedGate()):
            if check.func.__name__ not in NOT_OURS:
                check(gate)
                passed.append(check.func.__name__)
    assert len(passed) >= 40 and {"check_estimators_nan_inf", "check_fit_idempotent", "check_methods_subset_invariance"} <= set(passed)
