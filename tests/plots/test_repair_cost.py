"""The figure of gain against cost has a point per method, in points of a hundred, and a budget."""

import pytest
from fake_training import fake_training

from workbench import plots
from workbench.errors import DataError


@pytest.fixture(scope="module")
def contrasts():
    return fake_training()["repair_contrasts"]


def point(fig, method, axis="x"):
    (found,) = [trace for trace in fig.data if trace.name == method and trace.xaxis == axis]
    return found


def test_a_point_is_the_gain_against_right_answers_lost_and_refusals_added(contrasts):
    fig = plots.repair_cost(contrasts, language="mean unseen in training")
    lost, added = point(fig, "dpo"), point(fig, "dpo", "x2")
    assert (lost.x[0], lost.y[0]) == pytest.approx((19, 21), abs=1e-4) and added.x[0] == pytest.approx(19, abs=1e-4)
    assert (lost.error_x.array[0], lost.error_x.arrayminus[0]) == pytest.approx((2, 2), abs=1e-4)


def test_the_ends_of_an_interval_change_places_where_a_loss_is_a_cost(contrasts):
    table = contrasts.copy()
    here = (table["method"] == "lasa") & (table["statistic"] == "answer_accuracy")
    table.loc[here, ["value", "low", "high"]] = [-0.01, -0.06, 0.0]
    bar = point(plots.repair_cost(table), "lasa").error_x
    assert (bar.arrayminus[0], bar.array[0]) == pytest.approx((1, 5), abs=1e-4)


def test_only_repairs_within_the_budget_of_every_cost_are_told(contrasts):
    fig = plots.repair_cost(contrasts, language="mean unseen in training")
    assert fig.layout.title.text == "Selectivity gained at a cost of at most 2 points: up to +66"
    assert "2 of 5 within the budget" in fig.layout.title.subtitle.text
    assert {shape.x0 for shape in fig.layout.shapes if shape.type == "line" and shape.line.dash == "dash"} == {2}
    none = plots.repair_cost(contrasts.assign(value=-0.5, low=-0.6, high=-0.4))
    assert none.layout.title.text == "No repair costs at most 2 points"
    table = contrasts.copy()
    table.loc[(table["statistic"] == "harmless_refusal") & (table["method"] == "lasa"), "value"] = 0.03
    assert "up to +29" in plots.repair_cost(table, language="mean unseen in training").layout.title.text, "one cost beyond the budget is enough"


def test_a_gate_and_a_training_do_not_look_alike(contrasts):
    fig = plots.repair_cost(contrasts)
    assert point(fig, "gate, shrinkage").marker.symbol == "square" and point(fig, "lasa").marker.symbol == "circle"
    assert {"gate", "repair by training"} <= {trace.name for trace in fig.data}
    assert {"lasa", "<b>gate, shrinkage</b>", "<b>better ↖</b>"} <= {note.text for note in fig.layout.annotations}


def test_a_gate_told_apart_by_its_folder_still_looks_like_a_gate(contrasts):
    table = contrasts.assign(method=contrasts["method"].replace("gate, shrinkage", "gate, shrinkage (k1)"))
    assert point(plots.repair_cost(table), "gate, shrinkage (k1)").marker.symbol == "square"


def test_without_keys_for_answers_the_other_cost_is_drawn(contrasts):
    fig = plots.repair_cost(contrasts[contrasts["statistic"] != "answer_accuracy"])
    assert fig.layout.xaxis.title.text == "refusals of harmless prompts added (points)" and "xaxis2" not in fig.layout


@pytest.mark.parametrize("asked", [dict(language="sw"), dict(start="dpo")])
def test_what_was_not_compared_is_refused_with_what_was(contrasts, asked):
    with pytest.raises(DataError, match="no gain or no cost"):
        plots.repair_cost(contrasts, **asked)
