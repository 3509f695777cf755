"""A direction keeps what edits need to know, on disk too, and mixes only with its like."""

import dataclasses
import json

import numpy as np
import pytest
from planted import activations, with_harm

from workbench.directions import Direction, Directions, harm_direction
from workbench.errors import DataError, StoreError


@pytest.fixture
def found(rng):
    states, _ = with_harm(rng, 6.0, n_languages=3, n=64)
    return harm_direction(activations(states, template="t0", system=None), ["qaa", "qab"])


def test_gap_and_baseline_are_the_quartiles_and_the_mean_of_the_training_projections(rng):
    states, _ = with_harm(rng, 6.0, n_languages=3, n=64)
    acts = activations(states)
    found = harm_direction(acts, ["qaa", "qab"])
    rows = (acts["split"].values == "fit") & np.isin(acts["language"].values, ["qaa", "qab"])
    projected = acts["residual"].values[rows, 3, 1].astype(np.float64) @ found.unit.values[3, 1]
    harmful = acts["harmful"].values[rows]
    one = found.at(3, "t_post_inst")
    assert one.metadata["baseline"] == pytest.approx(projected[~harmful].mean())
    assert one.metadata["gap"] == pytest.approx(np.percentile(projected[harmful], 75) - np.percentile(projected[~harmful], 25))
    assert one.norm == pytest.approx(projected[harmful].mean() - projected[~harmful].mean())
    assert one.metadata["gap"] > one.norm  # quartiles on the far sides


def test_a_constant_state_has_neither_gap_nor_baseline_to_speak_of(rng):
    states, _ = with_harm(rng, 6.0, n_languages=2, n=32)
    states[:, :, 0] = 0.25
    found = harm_direction(activations(states), ["qaa"])
    assert float(found.gap.sel(layer=0, position="t_inst")) == float(found.baseline.sel(layer=0, position="t_inst")) == 0


def test_a_direction_survives_the_disk(found, tmp_path):
    one = found.at(4, "t_inst")
    loaded = Direction.load(one.save(tmp_path / "folder" / "one.safetensors"))
    assert (loaded.unit == one.unit).all() and loaded.unit.dtype == one.unit.dtype
    assert (loaded.norm, loaded.layer, loaded.position, loaded.metadata) == (one.norm, one.layer, one.position, one.metadata)
    assert not list(tmp_path.rglob("*.draft"))


def test_numbers_of_numpy_in_the_metadata_stay_numbers_on_disk(found, tmp_path):
    one = dataclasses.replace(found.at(4, "t_inst"), metadata={"n": np.int64(3), "share": np.float32(0.5), "rows": np.arange(2)})
    assert Direction.load(one.save(tmp_path / "one.safetensors")).metadata == {"n": 3, "share": 0.5, "rows": [0, 1]}


def test_files_written_before_gaps_were_kept_still_load(found, tmp_path):
    from safetensors.numpy import save_file

    header = {**found.metadata, "layers": list(range(5)), "positions": ["t_inst", "t_post_inst"]}
    old = {"unit": found.unit.values, "norm": found.norm.values}
    save_file(old, str(tmp_path / "old.safetensors"), metadata={"workbench.directions": json.dumps(header)})
    loaded = Directions.load(tmp_path / "old.safetensors")
    assert loaded.unit.identical(found.unit) and loaded.gap is None and loaded.baseline is None
    assert "gap" not in loaded.at(4, "t_inst").metadata and list(loaded.to_frame().columns) == ["layer", "position", "norm", "site"]
    again = Directions.load(loaded.save(tmp_path / "new.safetensors"))
    assert again.gap is None and again.unit.identical(found.unit)


def test_one_direction_and_directions_of_all_layers_are_not_confused_on_disk(found, tmp_path):
    with pytest.raises(StoreError, match="holds no direction"):
        Direction.load(found.save(tmp_path / "all.safetensors"))
    with pytest.raises(StoreError, match="holds no directions"):
        Directions.load(found.at(4, "t_inst").save(tmp_path / "one.safetensors"))
    with pytest.raises(StoreError, match="There are no directions"):
        Direction.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metadata": {"fingerprint": "f1"}}, "fingerprint 'f0' and 'f1'"),
        ({"metadata": {"template": "t1"}}, "template 't0' and 't1'"),
        ({"metadata": {"system": "be kind"}}, "system None and 'be kind'"),
        ({"layer": 3}, "layer 4 and 3"),
        ({"position": "t_post_inst"}, "position 't_inst' and 't_post_inst'"),
        ({"unit": np.ones(7) / np.sqrt(7)}, "width 32 and 7"),
    ],
)
def test_algebra_refuses_directions_of_another_place(found, change, told):
    one = found.at(4, "t_inst")
    other = dataclasses.replace(one, **{**change, "metadata": {**one.metadata, **change.get("metadata", {})}})
    with pytest.raises(DataError, match=told):
        one.cosine(other)
    with pytest.raises(DataError, match=told):
        one.pooled(other)


def test_harm_and_refusal_are_compared_but_never_added(found):
    one = found.at(4, "t_inst")
    other = dataclasses.replace(one, metadata={**one.metadata, "toward": "refusal"})
    assert one.cosine(other) == pytest.approx(1)
    with pytest.raises(DataError, match="toward 'harmful' and 'refusal'"):
        one.pooled(other)


def test_a_pooled_direction_forgets_what_belonged_to_its_parts(found):
    one = found.at(4, "t_inst")
    pooled = one.pooled(dataclasses.replace(one, norm=2.0, metadata={**one.metadata, "languages": ["qac"]}))
    assert "gap" not in pooled.metadata and "baseline" not in pooled.metadata and pooled.metadata["languages"] == ["qaa", "qab", "qac"]
    assert pooled.norm == pytest.approx((one.norm + 2) / 2) and pooled.unit == pytest.approx(one.unit)


def test_the_cosine_with_a_zero_direction_is_undefined(found):
    one = found.at(4, "t_inst")
    assert np.isnan(one.cosine(dataclasses.replace(one, unit=np.zeros(32), norm=0.0)))
