"""The cosines are drawn with their intervals, their controls and their ceiling, against one language and layer by layer."""

import itertools

import numpy as np
import pandas as pd
import pytest

from workbench.directions.compare import DirectionCosines
from workbench.errors import DataError
from workbench.plots.cosines import direction_cosines
from workbench.plots.style import NULL, TIER_COLOURS
from workbench.results import Result

TIERS = {"en": "high", "de": "high", "th": "mid", "sw": "low"}


def table_of_cosines(layers=3, positions=("t_inst", "t_post_inst")):
    rng = np.random.default_rng(4)
    rows = []
    for position, layer in itertools.product(positions, range(layers)):
        for a, b in itertools.combinations(TIERS, 2):
            value = rng.uniform(0.3, 0.9)
            row = dict.fromkeys(DirectionCosines.required, np.nan)
            row |= {"across": "languages", "contrast": "harm", "language": a, "tier": TIERS[a], "other_language": b, "other_tier": TIERS[b]}
            row |= {"position": position, "layer": layer, "value": value, "low": value - 0.1, "high": value + 0.05, "ceiling": 0.95}
            row |= {
                "disattenuated": value / 0.95,
                "random_95": 0.2,
                "permuted_95": 0.1 + 0.1 * layer,
                "permuted_same_95": 0.5,
                "reason": None,
                "n": 60,
            }
            rows.append(row)
    table = pd.DataFrame(rows)
    table.loc[table["layer"] == 0, ["value", "low", "high", "ceiling", "disattenuated", "permuted_95", "permuted_same_95"]] = np.nan
    return table


def dots_of(figure, symbol=None):
    return [t for t in figure.data if t.type == "scatter" and t.marker.color in TIER_COLOURS.values() and t.marker.symbol == symbol]


def test_each_language_has_a_dot_with_its_interval_against_the_reference():
    table = table_of_cosines()
    figure = direction_cosines(table, reference="th", layer=2)
    assert len(dots_of(figure)) == 2 * 2 == len(dots_of(figure, "circle-open"))  # a trace per tier and position
    ticks = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    assert not any("<b>th</b>" in text for text in ticks.values())  # a language is not compared with itself
    part = table.query("layer == 2 and position == 't_inst'")
    for trace in dots_of(figure)[:2]:
        for x, y, more, less in zip(trace.x, trace.y, trace.error_x.array, trace.error_x.arrayminus, strict=True):
            language = next(tag for tag in TIERS if f"<b>{tag}</b>" in ticks[y])
            row = part[(part["language"] == language) | (part["other_language"] == language)]
            row = row[(row["language"] == "th") | (row["other_language"] == "th")].iloc[0]
            assert x == pytest.approx(row["value"], rel=1e-6) and trace.marker.color == TIER_COLOURS[TIERS[language]]
            assert (more, less) == (pytest.approx(0.05, abs=1e-6), pytest.approx(0.1, abs=1e-6))


def test_controls_and_ceiling_are_drawn_behind_and_named_once():
    figure = direction_cosines(table_of_cosines(), layer=2)
    named = [t.name for t in figure.data if t.showlegend]
    assert named == [
        "same meanings relabelled (95 %)",
        "random, permuted labels (95 %)",
        "equal directions, unrelated noise",
        "measured",
        "corrected for noise",
    ]
    dark = next(t for t in figure.data if t.type == "bar" and t.marker.color == NULL)
    np.testing.assert_allclose(dark.x, 2 * 0.3, rtol=1e-6)  # the wider of random (.2) and permuted (.3), to both sides of 0
    np.testing.assert_allclose(np.array(dark.base, dtype=float), -0.3, rtol=1e-6)
    early = direction_cosines(table_of_cosines(), layer=1)
    narrow = next(t for t in early.data if t.type == "bar" and t.marker.color == NULL)
    np.testing.assert_allclose(np.array(narrow.base, dtype=float), -0.2, rtol=1e-6)
    ceiling = next(t for t in figure.data if t.name == "equal directions, unrelated noise")
    assert np.nanmax(ceiling.x) == np.nanmin(ceiling.x) == pytest.approx(0.95)
    assert [t.type for t in figure.data][:2] == ["bar", "bar"]


def test_what_is_undefined_leaves_its_row_empty():
    figure = direction_cosines(table_of_cosines(), layer=0)
    assert all(np.isnan(t.x).all() for t in [*dots_of(figure), *dots_of(figure, "circle-open")])
    assert all(np.isnan(t.x).all() for t in figure.data if t.type == "bar")
    assert "not measured" in figure.layout.title.text and "nan" not in figure.to_json().replace("NaN", "")


def test_the_slider_moves_dots_and_title_together():
    figure = direction_cosines(table_of_cosines(), layer=1)
    (slider,) = figure.layout.sliders
    assert slider.active == 1 and [frame.name for frame in figure.frames] == ["0", "1", "2"]
    for frame in figure.frames:
        again = direction_cosines(table_of_cosines(), layer=int(frame.name))
        assert frame.layout.title.text == again.layout.title.text and f"layer {frame.name}" in frame.layout.title.text
        assert len(frame.data) == len(figure.data) == len(frame.traces)
        for one, other in zip(frame.data, again.data, strict=True):
            np.testing.assert_array_equal(np.asarray(one.x, dtype=float), np.asarray(other.x, dtype=float))
    single = direction_cosines(table_of_cosines(layers=3).query("layer == 1"))
    assert not single.layout.sliders and single.layout.height < figure.layout.height


def test_the_title_names_the_extremes_and_one_range_holds_them():
    table = table_of_cosines(positions=("t_inst",))
    table.loc[table.index[-1], ["value", "low", "high", "disattenuated"]] = [-0.6, -0.7, -0.5, -0.65]  # th and sw, last layer
    figure = direction_cosines(table, reference="sw", layer=2)
    assert figure.layout.title.text.startswith("Cosine with sw's harm direction, layer 2: \u22120.60 (th) to")
    low, high = figure.layout.xaxis.range
    assert low < -0.7 and high > 1 and figure.layout.xaxis.title.text.startswith("cosine")
    for trace in dots_of(figure):
        assert trace.x.dtype == np.float32


def test_what_it_cannot_draw_is_refused():
    table = table_of_cosines()
    with pytest.raises(DataError, match="mean 'th'"):
        direction_cosines(table, reference="thh")
    with pytest.raises(DataError, match="Layer 7"):
        direction_cosines(table, layer=7)
    with pytest.raises(DataError, match="across='languages'"):
        direction_cosines(table.assign(across="layers"))
    with pytest.raises(DataError, match="permuted_same_95"):
        direction_cosines(Result(table.drop(columns="permuted_same_95")))
    with pytest.raises(DataError, match="without rows"):
        direction_cosines(table.iloc[:0])
