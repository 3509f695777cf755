"""The strength figure draws refusal of both classes by strength and language, and what the controls reach."""

import numpy as np
import pandas as pd
import pytest

from workbench.behavior.strength import StrengthSweep
from workbench.errors import DataError
from workbench.plots.strength import strength_curve
from workbench.plots.style import TIER_COLOURS

STRENGTHS = [-1.0, 0.0, 1.0, 2.0]
STATISTICS = ("harmful_refusal", "harmless_refusal", "selectivity", "answer_accuracy", "garbled", "off_language")


@pytest.fixture
def sweep(rng):
    rows = []
    for name, kind, seed in (("direction", "direction", None), ("random 0", "random", 0), ("random 1", "random", 1)):
        for strength in STRENGTHS:
            for language, tier in (("sw", "low"), ("en", "high")):
                for statistic in STATISTICS:
                    value = rng.uniform(0.2, 0.8)
                    label = {"strength": strength, "direction": name, "kind": kind, "seed": seed, "language": language, "tier": tier}
                    estimate = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 20, "judge": "x", "validated": True}
                    rows.append({**label, "statistic": statistic, **estimate})
    stopped = [{"direction": "direction", "strength": 8.0, "reason": "NaN"}]
    return StrengthSweep(pd.DataFrame(rows), {"scale": "raw", "edit": "add", "split": "select", "stopped": stopped})


def own(sweep, language, statistic):
    table = sweep.table
    return table[(table["kind"] == "direction") & (table["language"] == language) & (table["statistic"] == statistic)].sort_values("strength")


def test_both_classes_are_drawn_per_language_in_the_hue_of_its_tier_with_their_markers(sweep):
    fig = strength_curve(sweep)
    for statistic, name, symbol in (
        ("harmful_refusal", "harmful: refused", "diamond"),
        ("harmless_refusal", "harmless: refused", "circle-open"),
    ):
        drawn = [t for t in fig.data if t.name == name and t.x is not None and len(t.x) == len(STRENGTHS)]
        for trace, language, tier in zip(drawn, ("en", "sw"), ("high", "low"), strict=True):
            assert trace.y.tolist() == pytest.approx(own(sweep, language, statistic)["value"].tolist(), abs=1e-6)
            assert trace.x.tolist() == STRENGTHS and trace.marker.symbol == symbol and trace.line.color == TIER_COLOURS[tier]


def test_the_grey_band_goes_from_the_lowest_to_the_highest_control_and_leaves_the_direction_out(sweep):
    fig = strength_curve(sweep)
    rows = sweep.table.query("kind == 'random' and language == 'en' and statistic == 'harmful_refusal'").groupby("strength")["value"]
    shade = next(t for t in fig.data if t.name == "controls, lowest to highest, interval")
    assert shade.y[:4].tolist() == pytest.approx(rows.max().tolist(), abs=1e-6)
    assert shade.y[4:].tolist() == pytest.approx(rows.min().tolist()[::-1], abs=1e-6)


def test_the_title_says_what_the_marked_strength_does_and_what_controls_do_there(sweep):
    fig = strength_curve(sweep, chosen=1.0)
    table = sweep.table[(sweep.table["kind"] == "direction") & (sweep.table["statistic"] == "harmful_refusal")]
    before, after = (table.loc[table["strength"] == s, "value"].mean() for s in (0.0, 1.0))
    assert fig.layout.title.text.startswith(f"Refusal at strength 1: harmful {before:.2f} to {after:.2f}, harmless")
    assert "controls there, harmful" in fig.layout.title.subtitle.text and "from 8 on the model breaks down" in fig.layout.title.subtitle.text
    assert sum(shape.x0 == 1.0 for shape in fig.layout.shapes) == 2


def test_without_a_marked_strength_the_title_speaks_of_the_one_that_moves_refusal_most_and_not_of_a_broken_model(sweep):
    table = sweep.table.copy()
    refused = table["statistic"].isin(["harmful_refusal", "harmless_refusal"]) & (table["kind"] == "direction")
    table.loc[refused, "value"] = table["strength"].map({-1.0: 0.1, 0.0: 0.2, 1.0: 0.9, 2.0: 0.25})
    assert strength_curve(table).layout.title.text.startswith("Refusal at strength 1: harmful 0.20 to 0.90")


def test_replies_in_another_language_are_drawn_with_the_garbled_ones(sweep):
    fig = strength_curve(sweep)
    drawn = [t for t in fig.data if t.name == "garbled or in another language"]
    for trace, language in zip(drawn, ("en", "sw"), strict=True):
        both = own(sweep, language, "garbled")["value"].to_numpy() + own(sweep, language, "off_language")["value"].to_numpy()
        assert trace.y.tolist() == pytest.approx(both.tolist(), abs=1e-6)


def test_a_dagger_marks_languages_in_which_the_judge_was_not_validated(sweep):
    fig = strength_curve(sweep.table.assign(validated=sweep.table["language"] != "sw"))
    assert [a.text.endswith(" †") for a in fig.layout.annotations[:2]] == [False, True]
    assert "† judge not validated" in fig.layout.title.subtitle.text
    assert "†" not in strength_curve(sweep).layout.title.subtitle.text


def test_the_axis_names_the_unit_and_ten_languages_fit(sweep):
    texts = [a.text for a in strength_curve(sweep).layout.annotations]
    assert "strength (class differences)" in texts
    many = pd.concat([sweep.table[sweep.table["language"] == "sw"].assign(language=f"l{i}") for i in range(10)])
    fig = strength_curve(many)
    assert fig.layout.height > 3 * 190 and len([a for a in fig.layout.annotations if "<b>l" in a.text]) == 10


def test_a_sweep_without_controls_or_costs_is_drawn_and_a_table_of_something_else_refused(sweep):
    rows = sweep.table[(sweep.table["kind"] == "direction") & sweep.table["statistic"].isin(["harmful_refusal", "harmless_refusal"])]
    fig = strength_curve(rows)
    assert not [t for t in fig.data if str(t.name).startswith("garbled") and t.showlegend]
    assert np.isfinite(fig.layout.height)
    with pytest.raises(DataError, match="strength_curve needs the columns"):
        strength_curve(rows.drop(columns=["strength"]))
