"""Gates on disk: they come back as they were, and what this version does not know is refused."""

import json

import numpy as np
import pytest
from planted import activations, with_harm
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import NotFittedError
from toy_gate import ToyGate

from workbench.errors import StoreError
from workbench.gates import gate_data, load_gate, save_gate

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
