"""The silhouette figure draws its intervals, what permuted meanings reach, and the bottleneck's layers."""

import numpy as np
import pandas as pd
import pytest
from planted import activations, additive

from workbench import plots
from workbench.geometry import find_bottleneck, silhouettes

BUMP = np.exp(-(((np.arange(9) - 4) / 2.0) ** 2))


@pytest.fixture(scope="module")
def measured():
    states = additive(np.random.default_rng(0), 0.7 - 0.3 * BUMP, 0.3 + 0.4 * BUMP, n_languages=12, n=10, hidden=32)
    return silhouettes(activations(states), permutations=20)


def trace(fig, name):
    return next(t for t in fig.data if t.name == name)


def test_what_permuted_meanings_reach_is_shaded_up_to_the_null(measured):
    fig = plots.silhouettes(measured)
    expected = measured.table.query("statistic == 'difference'")["null_95"]
    assert trace(fig, "permuted meanings").y.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    shade = trace(fig, "permuted meanings, interval")
    assert shade.y[:9].tolist() == pytest.approx(expected.tolist(), abs=1e-6) and min(shade.y[9:]) == pytest.approx(fig.layout.yaxis.range[0])
    assert "permuted meanings" in fig.layout.title.subtitle.text


def test_both_intervals_of_the_difference_are_drawn_from_twelve_languages_on(measured):
    bands = [t for t in plots.silhouettes(measured).data if t.name == "meaning minus language, interval"]
    rows = measured.table.query("statistic == 'difference'")
    assert [t.y[:9].tolist() for t in bands] == [pytest.approx(rows[c].tolist(), abs=1e-6) for c in ("high_languages", "high")]
    few = plots.silhouettes(measured.table.assign(low_languages=np.nan, high_languages=np.nan))
    assert len([t for t in few.data if t.name == "meaning minus language, interval"]) == 1 and "languages too" not in few.layout.title.subtitle.text


def test_the_layer_range_of_a_bottleneck_is_marked(measured):
    row = find_bottleneck(measured).table.iloc[0]
    assert row["verdict"] == "bottleneck"
    fig = plots.silhouettes(measured, bottleneck=pd.DataFrame([row]))
    (mark,) = (shape for shape in fig.layout.shapes if shape.type == "rect")
    assert (mark.x0, mark.x1) == (row["low"] - 0.5, row["high"] + 0.5)


def test_a_table_without_null_or_values_is_drawn_without_them(measured):
    plain = measured.table[["position", "layer", "statistic", "value", "low", "high"]]
    assert "permuted meanings" not in {t.name for t in plots.silhouettes(plain).data}
    empty = plots.silhouettes(measured.table.assign(defined=False, null_95=np.nan))
    assert np.isnan(trace(empty, "by meaning").y).all()
