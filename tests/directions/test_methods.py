"""Every method finds the planted axis, with the same sign, and measures it alike."""

import json

import numpy as np
import pytest
from planted import LANGUAGES, activations
from sklearn.linear_model import LogisticRegression

from workbench.directions import Directions, extract_directions, harm_direction, language_directions
from workbench.directions.components import balanced_mean, first_component
from workbench.directions.extract import METHODS
from workbench.directions.logistic import logistic_direction
from workbench.directions.means import along
from workbench.errors import DataError

FOUND_BY = [name for name in METHODS if name != "pca_diff"]


def at_angle(rng, degrees, *, n=240, hidden=32, strength=5.0, layers=2):
    """States of one language per angle, whose direction lies that far from a common one."""
    first, second = np.linalg.qr(rng.normal(size=(hidden, 2)))[0].T
    axes = np.array([np.cos(np.radians(a)) * first + np.sin(np.radians(a)) * second for a in degrees])
    harmful = np.where(np.arange(n) % 2 == 0, 0.5, -0.5)
    states = rng.normal(size=(len(degrees), n, layers, 2, hidden)) + 3 * rng.normal(size=(len(degrees), 1, 1, 1, hidden))
    states += strength * (harmful[None, :, None] * axes[:, None])[:, :, None, None]
    return activations(states), axes


@pytest.mark.parametrize("method", FOUND_BY)
def test_each_language_gets_its_own_planted_direction(rng, method):
    acts, axes = at_angle(rng, [0, 40, 80])
    found = language_directions(acts, LANGUAGES[:3], method=method)
    units = found.unit.sel(layer=1, position="t_inst").values
    assert np.linalg.norm(units, axis=1) == pytest.approx(1)
    assert (np.abs((units * axes).sum(axis=1)) > 0.9).all() and ((units * axes).sum(axis=1) > 0).all()
    cosines = units @ units.T
    assert cosines[0, 1] == pytest.approx(np.cos(np.radians(40)), abs=0.15) and cosines[0, 2] == pytest.approx(np.cos(np.radians(80)), abs=0.15)


@pytest.mark.parametrize("method", [name for name in FOUND_BY if name != "pca_center"])
def test_the_pooled_direction_lies_in_the_middle_with_the_measures_of_its_projections(rng, method):
    acts, axes = at_angle(rng, [-30, 0, 30])
    found = extract_directions(acts, LANGUAGES[:3], method=method)
    unit = found.unit.sel(layer=1, position="t_post_inst").values
    assert unit @ axes[1] > 0.9
    rows = acts["split"].values == "fit"
    projected, harmful = acts["residual"].values[rows, 1, 1].astype(np.float64) @ unit, acts["harmful"].values[rows]
    one = found.at(1, "t_post_inst")
    assert one.norm == pytest.approx(projected[harmful].mean() - projected[~harmful].mean())
    assert one.metadata["baseline"] == pytest.approx(projected[~harmful].mean())
    assert one.metadata["gap"] == pytest.approx(np.quantile(projected[harmful], 0.75) - np.quantile(projected[~harmful], 0.25))
    assert one.norm == pytest.approx(5.0 * (2 * np.cos(np.radians(30)) + 1) / 3, abs=0.8)  # the planted class difference along it


def test_centred_on_all_rows_the_languages_themselves_come_first(rng):
    acts, axes = at_angle(rng, [-30, 0, 30])
    found = extract_directions(acts, LANGUAGES[:3], method="pca_center").unit.sel(layer=1, position="t_inst").values
    fit = acts.isel(prompt=acts["split"].values == "fit").sel(layer=1, position="t_inst")
    centres = fit["residual"].groupby("language").mean().values
    inside = np.linalg.svd(centres - centres.mean(axis=0), full_matrices=False)[2][:2]
    assert abs(found @ axes[1]) < 0.5 and np.linalg.norm(inside @ found) > 0.9


def test_the_mean_difference_that_pca_diff_loses(rng):
    acts, axes = at_angle(rng, [0], strength=10)
    found = extract_directions(acts, ["qaa"], method="pca_diff")
    assert abs(found.unit.sel(layer=1, position="t_inst").values @ axes[0]) < 0.6 and float(found.norm.min()) >= 0


def test_swapping_the_classes_turns_every_direction_round(rng):
    acts, _ = at_angle(rng, [0, 20])
    swapped = acts.assign_coords(harmful=("prompt", ~acts["harmful"].values))
    for method in METHODS:
        one, other = (extract_directions(a, ["qaa", "qab"], method=method, layers=[1], positions=["t_inst"]) for a in (acts, swapped))
        np.testing.assert_allclose(one.unit.values, -other.unit.values, atol=2e-6, err_msg=method)


def test_class_means_fix_the_sign_where_most_pairs_say_otherwise():
    along_axis = np.array([[-1.0, 0, 0], [-1.2, 0.1, 0], [10.0, 0, 0.1]])
    rows = np.concatenate([along_axis, np.zeros((3, 3))])
    pairs = np.array(["a", "b", "c"] * 2, dtype=object)
    acts = activations(rows.reshape(1, 6, 1, 1, 3), harmful=np.arange(6) < 3, splits=False).assign_coords(pair_id=("prompt", pairs))
    found = extract_directions(acts, ["qaa"], method="pca_pairwise", split=None)
    assert found.unit.values[0, 0, 0] > 0.99 and float(found.norm[0, 0]) > 0 and found.metadata["pairs"] == "pair_id"


def test_row_order_does_not_matter(rng):
    acts, _ = at_angle(rng, [0, 20], n=64)
    shuffled = acts.isel(prompt=rng.permutation(acts.sizes["prompt"]))
    for method in METHODS:
        one, other = (extract_directions(a, ["qaa", "qab"], method=method, layers=[1]) for a in (acts, shuffled))
        np.testing.assert_allclose(one.unit.values, other.unit.values, atol=2e-6, err_msg=method)


def test_harm_direction_is_the_pooled_difference_in_means(rng):
    acts, _ = at_angle(rng, [0, 50])
    one, other = harm_direction(acts, ["qaa", "qab"]), extract_directions(acts, ["qaa", "qab"])
    assert one.unit.identical(other.unit) and one.gap.identical(other.gap) and one.metadata == other.metadata
    assert one.metadata["toward"] == "harmful" and one.metadata["sign"] == 1


def test_the_first_component_follows_the_language_named_first(rng):
    acts, axes = at_angle(rng, [0, 0, 180], strength=6)
    for first, others in (("qaa", ["qab", "qac"]), ("qac", ["qaa", "qab"])):
        found = extract_directions(acts, [first, *others], method="first_component", layers=[1])
        assert found.unit.values[0, 0] @ axes[LANGUAGES.index(first)] > 0.9
        assert found.metadata["sign_rule"] == f"follows {first}"


def test_the_first_component_is_uncentred_and_counts_directions_not_lengths(rng):
    common = rng.normal(size=30)
    rows = common + 0.3 * rng.normal(size=(10, 30))
    found = first_component(rows * rng.uniform(0.1, 50, size=(10, 1)))
    assert found @ common / np.linalg.norm(common) > 0.97
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert found == pytest.approx(np.linalg.eigh(units.T @ units)[1][:, -1] * np.sign(found @ np.linalg.eigh(units.T @ units)[1][:, -1]))
    assert first_component(-rows) == pytest.approx(-first_component(rows))
    assert (first_component(np.zeros((3, 5))) == 0).all() and (balanced_mean(np.zeros((3, 5))) == 0).all()
    assert first_component(np.array([[0.0, 0.0], [0.0, -2.0]])).tolist() == [0.0, -1.0]  # a zero row fixes no sign
    with pytest.raises(DataError, match="Expected one of 0 to 9"):
        first_component(rows, aligned_to=10)
    with pytest.raises(DataError, match="not finite"):
        first_component(np.where(rows > 1, np.nan, rows))


def test_balanced_means_do_not_take_over_how_languages_are_spread_over_the_classes(rng):
    """Language qaa has most positives, qab most negatives: the pooled difference is largely the difference of the languages."""
    n, hidden = 200, 32
    axis, tongue = np.linalg.qr(rng.normal(size=(hidden, 2)))[0].T
    harmful = np.concatenate([np.arange(n) < 180, np.arange(n) < 20])
    language = np.repeat([1.0, -1.0], n)
    states = rng.normal(size=(2 * n, hidden)) + np.outer(np.where(harmful, 1, -1), axis) + 5 * np.outer(language, tongue)
    acts = activations(states.reshape(2, n, 1, 1, hidden), splits=False).assign_coords(harmful=("prompt", harmful))
    pooled, balanced = (
        extract_directions(acts, ["qaa", "qab"], method=m, split=None).unit.values[0, 0] for m in ("difference_in_means", "balanced_means")
    )
    assert pooled @ tongue > 0.9 and pooled @ axis < 0.4
    assert balanced @ axis > 0.85 and abs(balanced @ tongue) < 0.3


def test_logistic_weights_are_those_of_scikit_learn_in_the_full_space(rng):
    states, positive = rng.normal(size=(60, 12)) * np.linspace(0.2, 3, 12), np.arange(60) % 3 == 0
    states[positive] += 0.5
    centred = states - states.mean(axis=0)
    scaled = centred / np.sqrt((centred**2).sum(axis=1).mean())
    expected = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000).fit(scaled, positive).coef_[0]
    found = logistic_direction(states, positive)
    assert found == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    assert along(states, positive, found).norm > 0


def test_logistic_weighs_variance_where_a_difference_in_means_does_not(rng):
    spread = np.array([8.0, 0.5])
    states, positive = rng.normal(size=(400, 2)) * spread, np.arange(400) < 200
    states[positive] += [2.0, 1.0]
    found = logistic_direction(states, positive, penalty=1e4)
    lda = np.array([2.0, 1.0]) / spread**2
    assert found @ lda / np.linalg.norm(lda) > 0.97


def test_logistic_solves_wide_states_and_refuses_what_it_cannot(rng):
    states, positive = rng.normal(size=(20, 500)), np.arange(20) % 2 == 0
    assert np.linalg.norm(logistic_direction(states, positive)) == pytest.approx(1)
    assert (logistic_direction(np.ones((4, 3)), np.array([True, False, True, False])) == 0).all()
    with pytest.raises(DataError, match="same label"):
        logistic_direction(states, np.ones(20, dtype=bool))
    with pytest.raises(DataError, match="positive number"):
        logistic_direction(states, positive, penalty=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_token_has_no_direction(rng, method):
    acts, _ = at_angle(rng, [0, 10], n=32)
    acts["residual"][:, 0] = 0.3
    found = extract_directions(acts, ["qaa", "qab"], method=method)
    for values in (found.unit, found.norm, found.gap, found.baseline):
        assert (values.sel(layer=0) == 0).all()
    assert (np.linalg.norm(found.unit.sel(layer=1).values, axis=-1) > 0.99).all()


def test_only_the_layers_and_positions_asked_for_are_read_and_the_rest_of_the_store_may_be_anything(rng):
    acts, _ = at_angle(rng, [0], n=32, layers=3)
    acts["residual"][:, [0, 2]] = np.nan
    found = extract_directions(acts, ["qaa"], layers=[1], positions=["t_post_inst"])
    assert found.unit.shape == (1, 1, 32) and found.at(1, "t_post_inst").norm > 0
    with pytest.raises(DataError, match="not finite"):
        extract_directions(acts, ["qaa"])


def test_one_layer_is_read_at_a_time_from_the_store(rng, tmp_path):
    import xarray as xr

    acts, _ = at_angle(rng, [0, 10], n=32)
    acts.drop_vars(["category"]).to_zarr(tmp_path / "store.zarr", zarr_format=2, consolidated=False)
    lazy = xr.open_zarr(tmp_path / "store.zarr", chunks=None, consolidated=False)
    lazy.attrs = dict(acts.attrs)
    one, other = (extract_directions(a, ["qaa", "qab"], method="first_component") for a in (acts, lazy))
    assert one.unit.identical(other.unit)
    assert not lazy["residual"].variable._in_memory


def test_languages_are_kept_apart_and_give_back_ordinary_directions(rng, tmp_path):
    acts, _ = at_angle(rng, [0, 60])
    found = language_directions(acts, ["qab", "qaa"])
    assert found.languages == ["qab", "qaa"] and found.unit.dims == ("language", "layer", "position", "hidden")
    alone = extract_directions(acts, ["qaa"])
    assert np.array_equal(found.of("qaa").unit.values, alone.unit.values) and np.array_equal(found.of("qaa").gap.values, alone.gap.values)
    loaded = Directions.load(found.of("qaa").save(tmp_path / "one.safetensors"))
    assert loaded.metadata["languages"] == ["qaa"] and loaded.baseline.identical(found.of("qaa").baseline)
    assert len(found.to_frame()) == 2 * 2 * 2 and set(found.to_frame()["language"]) == {"qaa", "qab"}
    with pytest.raises(DataError, match=r"mean .*'qaa'"):
        found.of("qqa")


def test_what_is_unknown_is_named_with_the_nearest(rng):
    acts, _ = at_angle(rng, [0, 10], n=32)
    with pytest.raises(DataError, match="mean 'logistic'"):
        extract_directions(acts, ["qaa"], method="logistics")
    with pytest.raises(DataError, match="mean 'pca_pairwise'"):
        language_directions(acts, ["qaa"], method="pca_pairwis")
    with pytest.raises(DataError, match="mean 't_post_inst'"):
        extract_directions(acts, ["qaa"], positions=["t_post_ins"])
    with pytest.raises(DataError, match="Layer 9"):
        extract_directions(acts, ["qaa"], layers=[9])
    with pytest.raises(DataError, match="given twice"):
        language_directions(acts, ["qaa", "qaa"])
    with pytest.raises(DataError, match="given twice"):
        extract_directions(acts, ["qaa", "qab", "qab"], method="balanced_means")
    one_class = acts.isel(prompt=np.flatnonzero(acts["harmful"].values | (acts["language"].values == "qaa")))
    with pytest.raises(DataError, match="'qab' has 16 positive and 0 negative"):
        language_directions(one_class, ["qaa", "qab"], split=None)
    assert extract_directions(one_class, ["qaa", "qab"], split=None).metadata["n_harmful"] == 32


def test_position_means_agree_with_the_authors_code(shared_dir):
    """andyrdt/refusal_direction 9d852fa: means over prompts, accumulated in float64 (shared/reference/README.md, file 5)."""
    file = shared_dir / "reference" / "refusal_direction.npz"
    if not file.exists():
        pytest.skip(f"no reference values at {file}")
    stored = np.load(file)
    states, expected = stored["mean/acts_bf16_as_f32"], stored["mean/positions_-2_-1"]
    assert json.loads(str(stored["meta_json"]))["source"]
    # the difference to prompts at zero is the mean itself
    for at, mean in zip((-2, -1), expected, strict=True):
        rows = np.concatenate([states[:, at], np.zeros_like(states[:, at])])
        found = extract_directions(one_place(rows), ["qaa"], split=None)
        np.testing.assert_allclose(found.unit.values[0, 0] * found.norm.values[0, 0], mean, rtol=0, atol=1e-6)


def one_place(rows):
    n = len(rows)
    return activations(rows.reshape(1, n, 1, 1, -1), harmful=np.arange(n) < n // 2, splits=False)
