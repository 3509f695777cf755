"""The restoration figure draws levels by layer and language with increments and controls beside them, and marks peaks and what is trivial."""

import numpy as np
import pandas as pd
import pytest

from workbench.diagnosis.restoration import Restoration
from workbench.errors import DataError
from workbench.plots.restoration import restoration
from workbench.plots.style import TIER_COLOURS

LAYERS = [0, 1, 2, 3]
TAGS = {"qaa": "high", "sw": "low", "bn": "low", "mean low": "low"}
KINDS = [
    ("harm_coordinate", ""),
    ("state", ""),
    ("control_random", "harm_coordinate"),
    ("control_permuted", "harm_coordinate"),
    ("control_permuted", "state"),
]


@pytest.fixture
def result(rng):
    rows = []
    for tag, tier in TAGS.items():
        for kind, matched in KINDS:
            for way in ("restore", "break"):
                for outcome in ("log_odds", "refusal"):
                    for layer in LAYERS:
                        value = np.nan if layer == 0 else rng.uniform(0.1, 0.9) * (0.1 if matched else 1) * (1 if way == "restore" else -1)
                        labels = {"language": tag, "tier": tier, "kind": kind, "matched": matched, "pair": "class" if tag == "qaa" else "twin"}
                        ends = {"low": value - 0.1, "high": value + 0.1, "increment": value / 2, "increment_low": value, "increment_high": value}
                        marks = {"trivial": kind == "state" and layer == 3, "peak": layer == 2 and not matched, "peak_share": 0.75, "n": 9}
                        rows.append(
                            {**labels, "way": way, "layer": layer, "position": "t_post_inst", "outcome": outcome, "value": value, **ends, **marks}
                        )
    return Restoration(pd.DataFrame(rows), {"twins": "qaa"})


def part(result, **wanted):
    table = result.table
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table.sort_values("layer")


def heat_maps(fig):
    return {trace.name.removeprefix("levels, "): trace for trace in fig.data if trace.type == "heatmap"}


def test_levels_are_drawn_by_layer_and_language_and_controls_of_the_lowest_tier_below(result):
    maps = heat_maps(restoration(result))
    assert set(maps) == {"restore", "break"}
    for way, drawn in maps.items():
        assert drawn.x.tolist() == LAYERS and np.isnan(drawn.z[:, 0]).all()
        plain = [(tag, "harm_coordinate", "") for tag in ("qaa", "bn", "sw")]
        controls = [("mean low", kind, "harm_coordinate") for kind in ("control_random", "control_permuted")]
        for row, (tag, kind, matched) in enumerate([*plain, *controls]):
            expected = part(result, language=tag, kind=kind, matched=matched, way=way, outcome="log_odds")["value"]
            np.testing.assert_allclose(drawn.z[row], expected, atol=1e-6)
    labels = restoration(result).layout.yaxis.ticktext
    assert [("qaa" in labels[0] and "‡" in labels[0]), "bn" in labels[1], "sw" in labels[2], "random" in labels[3], "permuted" in labels[4]] == [
        True
    ] * 5


def test_increments_stand_beside_the_levels_with_their_controls_and_the_peak_marked(result):
    fig = restoration(result)
    for axis, way in (("y2", "restore"), ("y4", "break")):
        lines = {trace.name: trace for trace in fig.data if trace.yaxis == axis and trace.mode in ("lines", "markers+text")}
        mean = part(result, language="mean low", kind="harm_coordinate", way=way, outcome="log_odds")
        np.testing.assert_allclose(lines["mean low"].y, mean["increment"], atol=1e-6)
        assert lines["mean low"].line.color == TIER_COLOURS["low"] and {"sw", "bn", "control: random directions", "control: permuted"} <= set(lines)
        assert "qaa" not in lines
        peak = lines["peak, mean low"]
        assert peak.x.tolist() == [2] and peak.text == ("75%",)
    frames = [shape for shape in fig.layout.shapes if shape.name == "peak"]
    assert len(frames) == 2 * 3 and {(shape.x0 + shape.x1) / 2 for shape in frames} == {2}


def test_the_trivial_cell_is_hatched_for_the_whole_state_only(result):
    hatched = [shape for shape in restoration(result, kind="state").layout.shapes if shape.name == "trivial"]
    assert len(hatched) == 2 * 3 and all(shape.path.startswith("M 2.52") for shape in hatched)
    assert not [shape for shape in restoration(result).layout.shapes if shape.name == "trivial"]
    assert "hatched" in restoration(result, kind="state").layout.title.subtitle.text


def test_the_title_says_the_level_at_the_peak_and_the_note_what_controls_do_there(result):
    fig = restoration(result)
    restored, broken = (
        part(result, language="mean low", kind="harm_coordinate", way=way, outcome="log_odds", layer=2)["value"].item()
        for way in ("restore", "break")
    )
    assert fig.layout.title.text == f"Harm coordinate: restore +{restored:.2f} at layer 2, break \u2212{-broken:.2f} at layer 2"
    assert "controls there +0.0" in fig.layout.title.subtitle.text and "twins: qaa" in fig.layout.title.subtitle.text


def test_refusal_is_drawn_in_points(result):
    drawn = heat_maps(restoration(result, outcome="refusal"))["restore"]
    expected = part(result, language="sw", kind="harm_coordinate", way="restore", outcome="refusal")["value"]
    np.testing.assert_allclose(drawn.z[2], 100 * expected, atol=1e-4)


def test_one_language_without_a_mean_stands_for_its_tier_and_a_kind_that_is_not_there_is_refused(result):
    few = Restoration(result.table[result.table["language"] == "sw"], {})
    names = [trace.name for trace in restoration(few).data if trace.type == "scatter" and trace.mode == "lines"]
    assert "sw" in names and "mean low" not in names
    with pytest.raises(DataError, match="the map has harm_coordinate, state"):
        restoration(result, kind="refusal_coordinate")
