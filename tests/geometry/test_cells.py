"""Which rows count, in which order, what is refused, and that one layer is read at a time."""

import numpy as np
import pytest
import xarray as xr
from planted import activations, additive

from workbench.errors import DataError
from workbench.geometry import silhouettes, variance_shares
from workbench.geometry.cells import complete_cells, each_layer, labels_of


@pytest.fixture
def acts(rng):
    return activations(additive(rng, [1.0, 0.5], [0.5, 1.0], n_languages=3, n=16, hidden=8))


def test_a_grid_with_a_hole_names_the_cell_and_the_remedy(acts):
    holed = acts.isel(prompt=[i for i in range(48) if i != 20])
    for analysis in (variance_shares, silhouettes):
        with pytest.raises(DataError, match=r"\(qab, m4\).*grid\.complete\(\)"):
            analysis(holed)


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
