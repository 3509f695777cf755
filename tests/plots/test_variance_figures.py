"""The figures of the decompositions of variance, read from their data."""

import numpy as np
import pandas as pd
import pytest
from planted import activations, additive

from workbench import plots
from workbench.errors import DataError
from workbench.geometry import harm_variance, variance_shares


@pytest.fixture(scope="module")
def shares():
    rng = np.random.default_rng(0)
    states = np.concatenate([additive(rng, [1, 0, 1], [1, 1, 0], n_languages=4, n=12, hidden=16) for _ in range(2)], axis=3)
    states[:, :, 0, 1] = 0.5  # one constant token
    return activations(states)


@pytest.fixture(scope="module")
def harm(shares):
    after = harm_variance(shares, permutations=50)
    return pd.concat([after.table.assign(model="after"), after.table.assign(model="before")], ignore_index=True)


def lines(figure, name):
    return [t for t in figure.data if t.name == name]


def test_shares_are_drawn_with_their_intervals_and_components_without(shares):
    result = variance_shares(shares, scalings=["raw"])
    rows = result.table.query("position == 't_inst' and factor == 'meaning'")
    drawn = plots.variance_shares(result)
    np.testing.assert_allclose(lines(drawn, "meaning")[0].y, rows["share"], rtol=1e-6)
    np.testing.assert_allclose(lines(drawn, "meaning, interval")[0].y[:3], rows["high"], rtol=1e-6)
    assert lines(drawn, "meaning, expected of noise") and "expected of noise" in drawn.layout.title.subtitle.text
    free = plots.variance_shares(result, component=True)
    np.testing.assert_allclose(lines(free, "meaning")[0].y, rows["component"], rtol=1e-6)
    assert not lines(free, "meaning, interval") and not lines(free, "meaning, expected of noise")
    assert free.layout.title.text.startswith("Component") and free.layout.yaxis.title.text.startswith("component")
    with pytest.raises(DataError, match="component"):
        plots.variance_shares(result.table.drop(columns="component"), component=True)


def test_harm_and_its_interaction_stand_beside_the_transfer_index_with_intervals_and_null(harm):
    figure = plots.harm_variance(harm, scaling="unit")
    part = harm.query("position == 't_inst' and scaling == 'unit' and model == 'after'")
    shown = [t for t in figure.data if t.visible]
    for name, factor, column in (("harm", "harm", "share"), ("language x harm",) * 2 + ("share",), ("transfer index", "language x harm", "index")):
        rows, line = part[part["factor"] == factor], next(t for t in shown if t.name == name)
        np.testing.assert_allclose(line.y, rows[column], rtol=1e-6)
        assert np.asarray(line.y).dtype == np.float32 and line.mode == "lines+markers"
    assert {"harm, interval", "harm, shuffled labels", "harm, before", "transfer index, interval"} <= {t.name for t in shown}
    hollow = np.asarray(next(t for t in shown if t.name == "harm").marker.symbol) == "circle-open"
    assert (hollow == (part.loc[part["factor"] == "harm", "p"] > 0.05).to_numpy()).all()
    assert [a.title.text for a in figure.select_yaxes() if a.title.text] == [
        "share of variance (0 to 1)",
        "transfer index (0 shared, 1 own axes)",
    ] * 2
    peak = harm[(harm["factor"] == "harm") & (harm["model"] == "after") & (harm["scaling"] == "unit")]["share"].max()
    assert f"{peak:.2f} of the variance" in figure.layout.title.text


def test_the_menu_shows_one_scaling_of_harm_at_a_time(harm):
    figure = plots.harm_variance(harm)
    for button in figure.layout.updatemenus[0].buttons:
        assert 0 < sum(button.args[0]["visible"]) < len(figure.data)
    assert np.array([b.args[0]["visible"] for b in figure.layout.updatemenus[0].buttons]).sum(axis=0).tolist() == [1] * len(figure.data)


def test_undefined_layers_leave_gaps_in_lines_and_bands(harm):
    figure = plots.harm_variance(harm[harm["model"] == "after"].drop(columns="model"), scaling="raw")
    second = [t for t in figure.data if t.visible and t.name == "harm"][1]
    assert np.isnan(second.y[0]) and np.isfinite(second.y[1:]).all()
    table = harm.query("position == 't_inst' and scaling == 'raw' and model == 'after'").copy()
    table.loc[table["layer"] == 1, ["share", "low", "high"]] = np.nan
    band = next(t for t in plots.harm_variance(table).data if t.name == "harm, interval")
    assert np.isnan(band.x).sum() == 1
    x = np.asarray(band.x)[np.isfinite(band.x)]
    assert ((x < 0.5) | (x > 1.5)).all() and np.unique(x).tolist() == pytest.approx([-0.12, 0.12, 1.88, 2.12])


def test_a_table_without_an_index_is_refused(harm):
    with pytest.raises(DataError, match=r"harm_variance needs.*index_low"):
        plots.harm_variance(harm.drop(columns="index_low"))


def test_what_was_nowhere_defined_is_said_so(harm):
    empty = harm.assign(share=np.nan, low=np.nan, high=np.nan, index=np.nan, index_low=np.nan, index_high=np.nan)
    assert "not measured" in plots.harm_variance(empty).layout.title.text
