"""The figure of repairs: every method a row under what it is, the best of each kind on top, a panel per rate that was counted."""

import numpy as np
import pytest
from fake_repair import GAINS, SHARED, UNTIERED, fake_repair

from workbench.errors import DataError
from workbench.plots import selectivity_by_method


@pytest.fixture
def table():
    return fake_repair()["repair_rates"]


def rows_of(fig):
    axis = fig.layout.yaxis
    return {text: at for at, text in sorted(zip(axis.tickvals, axis.ticktext, strict=True), reverse=True)}


def test_methods_stand_under_what_they_are_with_the_best_of_each_kind_on_top(table):
    texts = [text.replace("<b>", "|").split("|")[-1].split("<")[0] for text in rows_of(selectivity_by_method(table))]
    assert texts == [
        "ceiling: true labels decide", "oracle gate", "recalibrated gate", "gate, shrinkage", "gate, balanced F1", "rivals", "AdaSteer",
        "always steer", "without a repair", "unrepaired", "controls", "random direction 0",
    ]  # fmt: skip


def test_each_row_shows_its_methods_value_and_the_line_is_the_unrepaired_model(table):
    fig = selectivity_by_method(table)
    low = next(t for t in fig.data if t.legendgroup == "low" and t.xaxis == "x")
    rows = rows_of(fig)
    assert {at: x for at, x in zip(low.y.tolist(), low.x.tolist(), strict=True)} == pytest.approx({rows[m]: gain for m, gain in GAINS.items()})
    assert fig.layout.shapes[0].x0 == pytest.approx(GAINS["unrepaired"])
    assert "Selectivity, low tier: as it is 0.30; gate, shrinkage 0.85; best rival 0.70; oracle 0.90" in fig.layout.title.text


def test_the_title_gives_the_gate_by_name_even_where_another_comes_out_better(table):
    better = table.assign(value=table["value"].where(table["method"] != "gate, balanced F1", 0.99))
    assert "gate, shrinkage 0.85; best rival" in selectivity_by_method(better).layout.title.text
    assert "gate, balanced F1 0.80; best rival" in selectivity_by_method(table, gate="gate, balanced F1").layout.title.text
    without = selectivity_by_method(table[table["method"] != "gate, shrinkage"]).layout.title.text
    assert "gate" not in without and "best rival 0.70" in without


def test_languages_without_a_tier_are_drawn_and_reference_languages_stand_apart():
    fig = selectivity_by_method(fake_repair(UNTIERED)["repair_rates"], tier="unknown")
    assert "Selectivity, unknown tier: as it is 0.30; gate, shrinkage 0.85" in fig.layout.title.text
    mine, apart = (next(t for t in fig.data if t.name == name) for name in ("unknown tier", "reference languages"))
    assert (mine.marker.symbol, apart.marker.symbol) == ("circle", "circle-open") and "open: reference languages" in fig.layout.title.subtitle.text
    assert apart.x.max() == pytest.approx(0.95) and mine.x.max() == pytest.approx(0.9)
    shared = selectivity_by_method(fake_repair(SHARED)["repair_rates"])
    assert {t.name for t in shared.data} == {"low tier", "high tier", "reference languages"}
    assert "reference" not in selectivity_by_method(fake_repair()["repair_rates"]).layout.title.subtitle.text


def test_a_rate_nobody_has_gets_no_panel(table):
    unkeyed = table.assign(value=table["value"].where(table["statistic"] != "answer_accuracy", np.nan))
    assert [note.text for note in selectivity_by_method(unkeyed).layout.annotations] == ["selectivity", "harmless refused"]
    assert len(selectivity_by_method(table).layout.annotations) == 3


def test_another_tier_can_lead_and_an_unknown_one_is_refused(table):
    assert "high tier" in selectivity_by_method(table, tier="high").layout.title.text
    with pytest.raises(DataError, match=r"there are \['high', 'low'\]"):
        selectivity_by_method(table, tier="mid")
