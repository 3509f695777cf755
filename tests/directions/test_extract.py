"""The planted axis is found, needs the labels, survives the disk, and refuses company from elsewhere."""

import numpy as np
import pytest
from planted import activations, with_harm

from workbench.directions import Directions, difference_in_means, harm_direction, project, projections
from workbench.errors import DataError, StoreError


@pytest.fixture
def planted(rng):
    states, axis = with_harm(rng, 6.0, n_languages=4, n=128)
    return activations(states, template="t0", system=None), axis


def test_the_planted_axis_is_found_with_its_sign_and_length(planted):
    acts, axis = planted
    found = harm_direction(acts, ["qaa", "qab"])
    assert found.unit.sel(layer=4, position="t_inst").values @ axis > 0.95
    assert float(found.norm.sel(layer=4, position="t_inst")) == pytest.approx(6.0, abs=0.7)
    assert float(found.norm.sel(layer=0, position="t_inst")) < 2
    assert np.linalg.norm(found.unit.values, axis=-1) == pytest.approx(1.0)
    assert found.metadata["n_harmful"] == found.metadata["n_harmless"] == 64 and found.metadata["split"] == "fit"


def test_difference_in_means_needs_the_labels(rng):
    planted, harmful = rng.normal(size=64), np.arange(800) < 400
    rows = rng.normal(size=(800, 64)) + np.outer(harmful, planted)
    unit, norm = difference_in_means(rows, harmful)
    _, shuffled = difference_in_means(rows, rng.permutation(harmful))
    assert unit @ planted / np.linalg.norm(planted) > 0.99 and shuffled < 0.25 * norm
    opposite, _ = difference_in_means(rows, ~harmful)
    assert opposite == pytest.approx(-unit)


def test_only_fit_rows_of_the_given_languages_are_used(planted):
    acts, _ = planted
    before = harm_direction(acts, ["qaa"])
    changed = acts.copy(deep=True)
    others = (acts["split"].values != "fit") | (acts["language"].values != "qaa")
    changed["residual"][others] = 99.0
    assert harm_direction(changed, ["qaa"]).unit.identical(before.unit)


def test_a_constant_token_has_no_direction_and_projects_to_zero(planted):
    acts, _ = planted
    acts["residual"][:, 0] = 0.1
    found = harm_direction(acts, ["qaa"])
    assert (found.norm.sel(layer=0) == 0).all() and (found.unit.sel(layer=0) == 0).all()
    assert (project(acts, found).sel(layer=0) == 0).all()


def test_projections_are_the_dot_products_and_keep_the_labels(planted):
    acts, _ = planted
    directions = harm_direction(acts, ["qaa", "qab"])
    scores = project(acts, directions)
    assert scores.dims == ("prompt", "layer", "position") and scores["language"].values[0] == "qaa"
    expected = acts["residual"].values[7, 3, 1].astype(float) @ directions.unit.values[3, 1]
    assert scores.values[7, 3, 1] == pytest.approx(expected)
    table = projections(scores, {"t_inst": 3, "t_post_inst": 4}).table
    assert len(table) == 2 * acts.sizes["prompt"] and table.query("position == 't_post_inst'")["layer"].unique().tolist() == [4]
    assert table["projection"].iloc[7] == pytest.approx(scores.values[7, 3, 0])
    assert len(projections(scores).table) == 10 * acts.sizes["prompt"]


def test_directions_survive_the_disk_with_their_metadata(planted, tmp_path):
    acts, _ = planted
    found = harm_direction(acts, ["qaa", "qab"])
    loaded = Directions.load(found.save(tmp_path / "harm.safetensors"))
    assert loaded.unit.identical(found.unit) and loaded.norm.identical(found.norm)
    assert loaded.metadata == found.metadata
    assert loaded.gap.identical(found.gap) and loaded.baseline.identical(found.baseline)
    assert loaded.at(3, "t_inst").site == "blocks.2.hook_out" and loaded.at(0, "t_inst").site == "embed.hook_out"
    assert list(loaded.to_frame().columns) == ["layer", "position", "norm", "gap", "baseline", "site"]
    assert not list(tmp_path.glob("*.draft"))


def test_a_file_that_holds_no_directions_is_refused(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(StoreError, match="There are no directions"):
        Directions.load(tmp_path / "absent.safetensors")
    save_file({"unit": np.ones(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(StoreError, match="holds no directions"):
        Directions.load(tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(StoreError, match="not a whole safetensors file"):
        Directions.load(tmp_path / "broken.safetensors")


def test_directions_of_another_model_or_site_do_not_mix(planted):
    acts, _ = planted
    one, two = harm_direction(acts, ["qaa"]), harm_direction(acts, ["qab"])
    assert one.at(4, "t_inst").cosine(two.at(4, "t_inst")) > 0.8
    pooled = one.at(4, "t_inst").pooled(two.at(4, "t_inst"))
    assert np.linalg.norm(pooled.unit) == pytest.approx(1) and pooled.metadata["languages"] == ["qaa", "qab"]
    with pytest.raises(DataError, match="layer 4 and 3"):
        one.at(4, "t_inst").cosine(two.at(3, "t_inst"))
    stranger = harm_direction(acts.assign_attrs(fingerprint="f1"), ["qaa"])
    with pytest.raises(DataError, match="fingerprint 'f0' and 'f1'"):
        one.at(4, "t_inst").pooled(stranger.at(4, "t_inst"))
    with pytest.raises(DataError, match="other_model=True"):
        project(acts, stranger)
    assert project(acts, stranger, other_model=True).shape == project(acts, one).shape


def test_what_is_missing_is_named(planted):
    acts, _ = planted
    with pytest.raises(DataError, match="'en'"):
        harm_direction(acts, ["en"])
    with pytest.raises(DataError, match=r"languages=\['en'\]"):
        harm_direction(acts, [])
    with pytest.raises(DataError, match="layers"):
        harm_direction(acts, ["qaa"]).at(99, "t_inst")
    with pytest.raises(DataError, match="same label"):
        harm_direction(acts.isel(prompt=acts["harmful"].values), ["qaa"])
