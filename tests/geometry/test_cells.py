"""Which rows count, in which order, what is refused, and that one layer is read at a time."""

import numpy as np
import pytest
import xarray as xr
from planted import activations, additive

from workbench.errors import DataError
from workbench.geometry import silhouettes, variance_shares
from workbench.geometry.cells import all_one_state, complete_cells, each_layer, labels_of, largest_complete
from workbench.prompts import PromptGrid


@pytest.fixture
def acts(rng):
    return activations(additive(rng, [1.0, 0.5], [0.5, 1.0], n_languages=3, n=16, hidden=8))


def test_a_grid_with_a_hole_names_the_cell_and_the_remedy(acts):
    holed = acts.isel(prompt=[i for i in range(48) if i != 20])
    for analysis in (variance_shares, silhouettes):
        with pytest.raises(DataError, match=r"\(qab, m4\).*grid\.complete\(\)"):
            analysis(holed)


def test_the_largest_complete_part_is_offered_and_returned_by_the_rule_of_the_prompts(rng):
    acts = activations(additive(rng, [1.0], [1.0], n_languages=5, n=16, hidden=4))
    labels = labels_of(acts)
    # qae is not parallel to the others; three meanings lack a translation in qab
    hole = (labels["language"] == "qae") & ~labels["meaning_id"].isin(["m0", "m1"]) | labels["prompt_id"].isin(["qab:m4", "qab:m5", "qab:m9"])
    holed = acts.isel(prompt=np.flatnonzero(~hole))
    with pytest.raises(DataError, match=r"17 of 80 .*largest_complete\(acts\) returns .* \(4 languages x 13 meanings\), or capture grid\.complete"):
        variance_shares(holed)
    part = largest_complete(holed)
    assert complete_cells(part).rows.shape == (4, 13) and part.attrs["complete"] == {"languages_dropped": ["qae"], "meanings_dropped": 3}
    grid = PromptGrid(labels.loc[~hole, ["meaning_id", "language", "harmful"]].assign(text="words")).complete().frame
    assert set(zip(grid["meaning_id"], grid["language"], strict=True)) == set(zip(part["meaning_id"].values, part["language"].values, strict=True))
    order = [list(holed["prompt"].values).index(p) for p in part["prompt"].values]
    assert order == sorted(order)
    assert set(largest_complete(holed, split="fit")["split"].values) == {"fit"}
    assert len(variance_shares(part).table) == 9


def test_a_grid_without_any_complete_part_is_said_so(rng):
    acts = activations(additive(rng, [1.0], [1.0], n_languages=2, n=8, hidden=4))
    apart = acts.isel(prompt=[0, 1, 2, 3, 12, 13, 14, 15])
    with pytest.raises(DataError, match=r"missing.*Expected each meaning in each language; capture grid\.complete"):
        variance_shares(apart)
    with pytest.raises(DataError, match=r"1 language\(s\).*translations of each other"):
        largest_complete(apart)


def test_a_meaning_with_two_labels_is_named(acts):
    acts["harmful"].values[20] = not acts["harmful"].values[20]
    with pytest.raises(DataError, match="'m4' is harmful in one language"):
        complete_cells(acts)


def test_a_doubled_cell_and_a_single_language_or_meaning_are_refused(acts):
    with pytest.raises(DataError, match="appears twice"):
        complete_cells(acts.isel(prompt=[*range(48), 3]))
    with pytest.raises(DataError, match="1 language"):
        variance_shares(acts.isel(prompt=slice(0, 16)))
    with pytest.raises(DataError, match="1 meaning"):
        silhouettes(acts.isel(prompt=[0, 16, 32]))


def test_states_that_are_not_finite_are_named_by_place_and_prompt(acts):
    acts["residual"][20, 1, 0, 3] = np.nan
    with pytest.raises(DataError, match=r"layer 1, position t_inst.*qab:m4"):
        variance_shares(acts)
    with pytest.raises(DataError, match="not finite"):
        silhouettes(acts)


def test_an_unknown_split_position_or_layer_is_named(acts):
    with pytest.raises(DataError, match="with_splits"):
        complete_cells(activations(np.zeros((2, 4, 1, 1, 2)), splits=False), split="score")
    with pytest.raises(DataError, match="t_inst"):
        list(each_layer(acts, np.arange(3), positions=["t_ins"]))
    with pytest.raises(DataError, match="Layer 9"):
        list(each_layer(acts, np.arange(3), layers=[9]))


def test_missing_labels_are_none_whatever_the_store_made_of_them(acts):
    acts["tier"] = ("prompt", np.full(48, "", dtype=object))
    acts["category"] = ("prompt", np.full(48, np.nan))
    labels = labels_of(acts)
    assert labels["tier"].isna().all() and labels["category"].isna().all()
    with pytest.raises(DataError, match="meaning_id"):
        labels_of(acts.drop_vars("meaning_id"))


def test_drawn_meanings_keep_their_labels_and_the_order_of_the_store(acts, rng):
    cells = complete_cells(acts, max_meanings=5, rng=rng)
    assert cells.rows.shape == (3, 5) and len(cells.meanings) == 5
    assert (acts["meaning_id"].values[cells.rows] == np.array(cells.meanings)).all()
    assert (acts["harmful"].values[cells.rows] == cells.harmful).all()


def test_a_stored_grid_is_read_layer_by_layer_and_gives_the_same_numbers(acts, tmp_path, monkeypatch):
    acts.drop_vars("category").to_zarr(tmp_path / "acts.zarr", zarr_format=2)
    lazy = xr.open_zarr(tmp_path / "acts.zarr", chunks=None)
    read, original = [], xr.Variable.values.fget

    def watched(variable):
        values = original(variable)
        if "hidden" in variable.dims:
            read.append(variable.dims)
        return values

    monkeypatch.setattr(xr.Variable, "values", property(watched))
    found = variance_shares(lazy).table
    assert read == [("prompt", "position", "hidden")] * 2  # never with the axis "layer"
    assert found["share"].to_numpy() == pytest.approx(variance_shares(acts).table["share"].to_numpy())


def test_layers_come_in_the_precision_asked_for(acts, rng):
    half = acts.assign(residual=acts["residual"].astype(np.float16))
    expected = half["residual"].values[:, 0, 0].astype(np.float64)
    in_order, shuffled = np.arange(48).reshape(3, 16), rng.permutation(48)
    for rows in (in_order, shuffled, np.arange(5, 9)):
        for dtype, kind in ((np.float64, np.float64), (np.float32, np.float32), (None, np.float16)):
            _, _, states = next(each_layer(half, rows, dtype=dtype))
            assert states.dtype == kind and (states == expected[rows]).all()
    assert next(each_layer(acts, in_order))[2].dtype == np.float64
    half["residual"][33, 1, 0, 2] = np.inf
    with pytest.raises(DataError, match=r"1 states at layer 1.*qac:m1"):
        list(each_layer(half, shuffled, dtype=None))


def test_only_the_positions_asked_for_are_read(rng, monkeypatch):
    acts = activations(rng.normal(size=(2, 4, 2, 3, 5)), positions=["t_inst", "t_post_inst", "mean_inst"])
    rows = np.arange(8)
    whole = {(layer, position): states for layer, position, states in each_layer(acts, rows)}
    for wanted in (["mean_inst"], ["mean_inst", "t_inst"], ["mean_inst", "t_post_inst", "t_inst"]):
        some = {(layer, position): states for layer, position, states in each_layer(acts, rows, positions=wanted)}
        assert [p for k, p in some if k == 0] == wanted
        assert all((states == whole[place]).all() for place, states in some.items())


def test_one_state_is_told_from_states_that_differ_in_a_single_row(rng):
    states = np.tile(rng.normal(size=6), (40, 1))
    assert all_one_state(states) and all_one_state(states * (1 + 1e-8 * rng.normal(size=(40, 1))))
    for row in range(40):
        other = states.copy()
        other[row, 3] += 0.01
        assert not all_one_state(other)
