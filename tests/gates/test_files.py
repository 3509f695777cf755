"""Gates on disk: they come back as they were, and what this version does not know is refused."""

import json

import numpy as np
import pytest
from planted import activations, with_harm
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import NotFittedError
from toy_gate import ToyGate

from workbench.errors import StoreError
from workbench.gates import RecalibratedGate, gate_data, load_gate, save_gate
from workbench.gates.adasteer import AdaSteer
from workbench.gates.cast import CastGate
from workbench.gates.controls import KnownDecisions
from workbench.gates.latent_guard import LatentGuard
from workbench.gates.one_direction import DirectionGate

KEY = "workbench.gate"


@pytest.fixture
def acts(rng):
    states, _ = with_harm(rng, 8.0, n_languages=3, n=32)
    return activations(states, template="t0", system="")


@pytest.fixture
def saved(acts, tmp_path):
    gate = ToyGate(scale=0.5).fit(gate_data(acts, 4, "t_inst", split="fit", languages=["qaa", "qab"]))
    gate = gate.recalibrate(gate_data(acts, 4, "t_inst").draw(2, "qac", np.random.default_rng(0)))
    return gate, save_gate(gate, tmp_path / "deep" / "gate.safetensors", provenance={"seed": 0})


def changed(path, change, arrays=None):
    """Rewrite the header of a gate file."""
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()[KEY])
    change(header)
    save_file(load_file(path) | (arrays or {}), str(path), metadata={KEY: json.dumps(header)})


def test_a_gate_survives_the_disk_to_the_bit(saved, acts):
    gate, path = saved
    back = load_gate(path, classes=[ToyGate])
    rows = gate_data(acts, 4, "t_inst")
    assert (back.decision_function(rows) == gate.decision_function(rows)).all() and (back.predict(rows) == gate.predict(rows)).all()
    for name in ("thresholds_", "fallback_", "place_", "labels_used_", "recalibrations_", "n_features_in_", "note_"):
        assert getattr(back, name) == getattr(gate, name), name
    assert back.get_params() == {"scale": 0.5} and list(back.classes_) == [False, True]
    for table in ("source_scores_", "examples_"):
        assert list(getattr(back, table)) == list(getattr(gate, table))
        assert all((a == b).all() for tag in getattr(gate, table) for a, b in zip(getattr(back, table)[tag], getattr(gate, table)[tag], strict=True))
    again = back.recalibrate(rows.draw(1, "qab", np.random.default_rng(3)))  # what policies learn from came along
    assert again.thresholds_ == gate.recalibrate(rows.draw(1, "qab", np.random.default_rng(3))).thresholds_
    assert not list(path.parent.glob("*.draft"))


def test_an_infinite_threshold_survives_the_disk(saved):
    gate, path = saved
    gate.thresholds_["qac"] = -np.inf
    assert load_gate(save_gate(gate, path), classes=[ToyGate]).thresholds_["qac"] == -np.inf


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h.update(format="workbench-gate/2"), "newer format workbench-gate/2; this version reads up to workbench-gate/1. Update"),
        (lambda h: h.update(format="something"), "has the format 'something'"),
        (lambda h: h.update(thresolds={}), r"header has the unknown fields \['thresolds'\].*Did you mean 'thresholds'"),
        (lambda h: h["parameters"].update(scaling=1), r"parameters has the unknown fields \['scaling'\]"),
        (lambda h: h["place"].update(depth=1), r"place has the unknown fields \['depth'\]"),
        (lambda h: h["learned"].update(bias_=1), r"learned has the unknown fields \['bias_'\]"),
        (lambda h: h["recalibrations"]["qac"].update(k=2), r"recalibrations has the unknown fields \['k'\]"),
        (lambda h: h.pop("fallback"), r"lacks \['fallback'\]"),
        (lambda h: h["learned"].pop("note_"), r"lacks \['learned.note_'\]"),
        (lambda h: h.update({"class": "ToyGates"}), "class 'ToyGates'.*Did you mean 'ToyGate'"),
        (lambda h: h.update({"class": "_Fixed"}), r"class '_Fixed'; known: (?!.*_Fixed)"),
        (lambda h: h.update({"class": 5}), "class in the header is 5. Expected a text.*fit and save the gate again"),
        (lambda h: h.update(thresholds=[0.5]), "thresholds in the header is a list. Expected an object"),
        (lambda h: h.update(thresholds="0.5"), "thresholds in the header is '0.5'. Expected an object"),
        (lambda h: h["thresholds"].update(qac="high"), "thresholds.qac in the header is 'high'. Expected a number, or 'inf' or '-inf'"),
        (lambda h: h["thresholds"].update(qac=float("nan")), "thresholds.qac in the header is nan"),
        (lambda h: h["thresholds"].update(qac=float("inf")), "thresholds.qac in the header is inf"),
        (lambda h: h["thresholds"].update(qac="nan"), "thresholds.qac in the header is 'nan'"),
        (lambda h: h["thresholds"].update(qac=True), "thresholds.qac in the header is True"),
        (lambda h: h.update(fallback=None), "fallback in the header is null"),
        (lambda h: h.update(place=3), "place in the header is 3. Expected an object or null"),
        (lambda h: h["place"].pop("layer"), "place.layer in the header is missing. Expected a whole number"),
        (lambda h: h["place"].update(layer="4"), "place.layer in the header is '4'"),
        (lambda h: h["recalibrations"]["qac"].pop("caution"), "recalibrations.qac.caution in the header is missing"),
        (lambda h: h["recalibrations"].update(qac=[1]), "recalibrations.qac in the header is a list"),
        (lambda h: h["recalibrations"]["qac"].update(threshold=[1]), "recalibrations.qac.threshold in the header is a list"),
        (lambda h: h["labels_used"].update(qac="4"), "labels_used.qac in the header is '4'"),
        (lambda h: h.update(parameters=None), "parameters in the header is null. Expected an object"),
        (lambda h: h.update(sources=5), "sources in the header is 5. Expected a list of different texts"),
        (lambda h: h.update(examples=["qac", "qac"]), "examples in the header is a list. Expected a list of different texts"),
        (lambda h: h.update(learned=[]), "learned in the header is a list"),
        (lambda h: h.update(n_features="32"), "n_features in the header is '32'"),
        (lambda h: h.update(n_features=31), "cannot score states of width 31, its n_features"),
        (lambda h: h["parameters"].update(scale="wide"), "cannot score states of width 32"),
    ],
)
def test_what_this_version_does_not_know_is_refused_with_the_remedy(saved, change, match):
    _, path = saved
    changed(path, change)
    with pytest.raises(StoreError, match=match):
        load_gate(path, classes=[ToyGate])


def test_unknown_arrays_and_files_that_hold_something_else_are_refused(saved, tmp_path):
    _, path = saved
    changed(path, lambda h: None, {"learned.extra": np.zeros(2)})
    with pytest.raises(StoreError, match=r"arrays has the unknown fields \['learned.extra'\]"):
        load_gate(path, classes=[ToyGate])
    save_file({"x": np.zeros(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(StoreError, match="holds no gate"):
        load_gate(tmp_path / "other.safetensors")
    with pytest.raises(StoreError, match="no gate at"):
        load_gate(tmp_path / "none.safetensors")
    with pytest.raises(NotFittedError):
        save_gate(ToyGate(), path)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"learned.weights_": np.ones(31)}, "cannot score states of width 32, its n_features"),
        ({"learned.weights_": np.ones((32, 2))}, r"scores 4 states with an array of shape \(4, 2\)"),
        ({"learned.weights_": np.full(32, np.nan)}, r"learned.weights_ holds NaN. Expected finite numbers.*fit and save the gate again"),
        ({"sources.0.harmful": np.array([1.0, np.inf])}, "sources.qaa.harmful holds infinity"),
        ({"examples.0.harmless": np.array([np.nan])}, "examples.qac.harmless holds NaN"),
    ],
)
def test_arrays_of_another_width_or_that_are_not_finite_are_refused(saved, arrays, match):
    _, path = saved
    changed(path, lambda h: None, arrays)
    with pytest.raises(StoreError, match=match):
        load_gate(path, classes=[ToyGate])


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (DirectionGate, "unit_", np.ones(1)),  # one number would be broadcast over every state
        (DirectionGate, "unit_", np.full(32, np.inf)),
        (RecalibratedGate, "mean_", np.ones(1)),
        (RecalibratedGate, "basis_", np.ones((31, 2))),
        (RecalibratedGate, "training_features_", np.ones((3, 2))),
        (CastGate, "condition_", np.ones(31)),
        (LatentGuard, "harmful_", np.ones((1, 1))),
        (AdaSteer, "zero_", np.ones((2, 32))),
        (KnownDecisions, "decisions_", np.ones(3, dtype=bool)),
    ],
)
def test_every_gate_refuses_an_array_that_does_not_fit(acts, tmp_path, kind, name, values):
    path = save_gate(kind().fit(gate_data(acts, 4, "t_inst", split="fit", languages=["qaa", "qab"])), tmp_path / "gate.safetensors")
    load_gate(path)
    changed(path, lambda h: None, {f"learned.{name}": values})
    with pytest.raises(StoreError, match=f"learned.{name} (has the shape|holds infinity)"):
        load_gate(path)


def test_a_gate_that_could_not_be_read_back_is_not_saved(saved):
    gate, path = saved
    before = path.read_bytes()
    gate.weights_ = np.full(32, np.nan)
    with pytest.raises(StoreError, match=r"learned\.weights_ holds NaN.*Nothing was written; fit"):
        save_gate(gate, path)
    assert path.read_bytes() == before


def test_a_folder_a_text_and_a_header_that_is_no_object_are_refused_in_the_words_of_gates(tmp_path):
    text, bare = tmp_path / "gate.txt", tmp_path / "bare.safetensors"
    with pytest.raises(StoreError, match=r"is a folder\. Expected a \.safetensors file written by save_gate\(\)"):
        load_gate(tmp_path)
    text.write_text("not a gate at all", encoding="utf-8")
    with pytest.raises(StoreError, match=r"not a whole safetensors file.*written by save_gate\(\); fit the gate again") as refused:
        load_gate(text)
    assert "directions" not in str(refused.value) and "Gate.save" not in str(refused.value)
    for header, match in (("{", "is no JSON "), ("[1]", "is no JSON object")):
        save_file({"x": np.zeros(2)}, str(bare), metadata={KEY: header})
        with pytest.raises(StoreError, match=rf"{match}.*fit the gate again"):
            load_gate(bare)
