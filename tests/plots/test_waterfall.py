"""The waterfall figure stands each step on the one before, net of random directions, and draws the reference, intervals and the random range."""

import numpy as np
import pandas as pd
import pytest
from fake_verdicts import fake_verdicts

from workbench.errors import DataError
from workbench.plots.style import NULL, TIER_COLOURS, faded
from workbench.plots.waterfall import waterfall


@pytest.fixture
def table():
    return fake_verdicts({"qaa": "high", "qad": "low", "sw": "mid"}, 4)["waterfall"]


def trace(fig, name):
    return next(t for t in fig.data if t.name == name)


def test_every_step_stands_on_the_one_before_and_the_bars_reach_own_plus_net(table):
    fig = waterfall(table)
    bars = trace(fig, "qad")
    assert np.asarray(bars.base).tolist() == pytest.approx([0, 25, 40, 80, 90])
    assert np.asarray(bars.y).tolist() == pytest.approx([25, 15, 40, 10, 0])
    assert np.asarray(trace(fig, "qad, reference").y).tolist() == pytest.approx([95, 95])


def test_intervals_are_the_net_gains_own_and_the_first_bar_has_none(table):
    bars = trace(waterfall(table), "qad")
    assert np.isnan(bars.error_y.array[0]) and np.asarray(bars.error_y.array[1:]).tolist() == pytest.approx([5, 5, 5, 5])


def test_an_interval_that_reaches_below_zero_is_drawn_whole(table):
    low = table.assign(net_low=table["net_low"].where(table["step"] != "transferred", table["net"] - 0.9))
    bars = trace(waterfall(low), "qad")
    end = float(bars.base[1] + bars.y[1] - bars.error_y.arrayminus[1])
    assert end == pytest.approx(-50) and waterfall(low).layout.yaxis.range[0] < end


def test_what_random_directions_gain_is_a_band_at_the_foot_of_the_step(table):
    band = trace(waterfall(table), "qad, random directions")
    assert np.asarray(band.base).tolist() == pytest.approx([23, 38, 78, 88]) and np.asarray(band.y).tolist() == pytest.approx([5] * 4)


def test_a_gain_whose_interval_includes_zero_is_pale_and_hue_is_the_tier(table):
    fig = waterfall(table)
    low, mid = TIER_COLOURS["low"], TIER_COLOURS["mid"]
    assert list(trace(fig, "qad").marker.color) == [NULL, low, low, low, faded(low, 0.4)]
    assert trace(fig, "sw").marker.color[1] == mid


def test_shares_are_written_and_missing_where_there_is_no_gap_to_share_out(table):
    assert list(trace(waterfall(table), "qad, shares").text) == ["", "+21%", "+57%", "+14%", "0%"]
    shares = ["share", "share_low", "share_high", "total", "total_low", "total_high"]
    fig = waterfall(table.assign(**dict.fromkeys(shares, np.nan)))
    assert set(trace(fig, "qad, shares").text) == {""} and "no language with a gap" in fig.layout.title.text


def test_the_title_states_what_the_whole_chain_brings_back(table):
    other = table.copy()
    other.loc[(other["language"] == "sw") & (other["step"] == "fitted"), "total"] = 0.5
    assert waterfall(other).layout.title.text == "Gap in selectivity brought back in all: 50% (sw) to 93% (qad)"


def test_a_missing_column_is_named(table):
    with pytest.raises(DataError, match="waterfall needs the columns"):
        waterfall(pd.DataFrame(table).drop(columns="net"))
