"""The figures of a gate repair draw what their tables say: few labels, strengths, transfer, ROC, scores, other prompts."""

import numpy as np
import pandas as pd
import pytest
from fake_repair import TIERS, fake_repair

from workbench import plots
from workbench.errors import DataError
from workbench.plots.method_lines import looks_of
from workbench.plots.style import MUTED, TIER_COLOURS
from workbench.repair.kinds import GATE, PRICED_AS_GIVEN


@pytest.fixture
def tables():
    return fake_repair()


def at(fig, title):
    """The axis of the panel with a title."""
    number = [note.text for note in fig.layout.annotations].index(title)
    return "x" if number == 0 else f"x{number + 1}"


def lines(fig, method, axis):
    return [t for t in fig.data if t.name == method and t.xaxis == axis]


def test_few_shot_curves_stand_at_even_steps_with_no_labels_at_the_left(tables):
    fig = plots.few_shot_curve(tables["few_shot"])
    (line,) = lines(fig, PRICED_AS_GIVEN, at(fig, "selectivity"))
    rows = tables["few_shot"].query("method == @PRICED_AS_GIVEN and language == 'mean low' and statistic == 'selectivity'")
    assert line.x.tolist() == [0, 1, 2] and line.y.tolist() == pytest.approx(rows["value"].tolist())
    assert list(fig.layout.xaxis.ticktext) == ["0", "1", "4"]
    assert line.error_y.array.tolist() == pytest.approx([0.04] * 3) and line.line.color == TIER_COLOURS["low"]
    assert "0.40 at k = 0, 0.50 at k = 1, 0.80 at k = 4" in fig.layout.title.text


def test_the_band_of_a_few_shot_curve_is_that_of_single_draws_and_a_rule_without_labels_goes_across(tables):
    fig = plots.few_shot_curve(tables["few_shot"])
    axis = at(fig, "balanced accuracy of the gate")
    (shade,) = lines(fig, f"{PRICED_AS_GIVEN}, interval", axis)
    rows = tables["few_shot"].query("method == @PRICED_AS_GIVEN and language == 'mean low' and statistic == 'balanced_accuracy'")
    assert shade.y.tolist() == pytest.approx([*rows["draw_90"], *rows["draw_10"][::-1]])
    assert lines(fig, "gate, unlabelled", axis)[0].x.tolist() == [0, 2]
    assert {"<b>gate, shrinkage*</b>", "CAST signed, shrinkage*"} <= {note.text for note in fig.layout.annotations}
    assert "* price not chosen" in fig.layout.title.subtitle.text


def test_the_headline_of_the_few_shot_figure_is_the_gate_whose_price_was_not_chosen_wherever_it_stands(tables):
    table = tables["few_shot"].sort_values("method", kind="stable")  # another gate comes first
    fig = plots.few_shot_curve(table)
    axis = at(fig, "selectivity")
    (mine,), (other,) = lines(fig, PRICED_AS_GIVEN, axis), lines(fig, "gate, balanced F1", axis)
    assert (mine.line.dash, other.line.dash) == ("solid", "dash") and mine.line.width > other.line.width
    assert "0.40 at k = 0, 0.50 at k = 1, 0.80 at k = 4" in fig.layout.title.text
    chosen = plots.few_shot_curve(table.replace({PRICED_AS_GIVEN: GATE})).layout.title.text
    assert "0.80 at k = 4" in chosen, "without that curve it is our gate"


def test_a_rival_whose_price_was_not_chosen_is_drawn_as_a_rival(tables):
    fig = plots.few_shot_curve(tables["few_shot"])
    assert lines(fig, "CAST signed, shrinkage, price not chosen", at(fig, "selectivity"))[0].line.color == MUTED


def test_few_shot_curves_of_one_language_can_be_asked_for_and_of_an_unknown_one_not(tables):
    assert "qac" in plots.few_shot_curve(tables["few_shot"], language="qac").layout.title.text
    with pytest.raises(DataError, match="Expected one of mean low, qac, qad"):
        plots.few_shot_curve(tables["few_shot"], language="sw")


def test_what_the_model_does_unrepaired_goes_across_the_few_shot_curves(tables):
    fig = plots.few_shot_curve(tables["few_shot"], rates=tables["repair_rates"])
    axis = at(fig, "harmless prompts refused")
    (plain,) = lines(fig, "unrepaired", axis)
    assert plain.x.tolist() == [0, 2] and plain.y.tolist() == pytest.approx([0.02] * 2)
    assert not lines(fig, "unrepaired", at(fig, "balanced accuracy of the gate"))


def test_the_strength_that_all_share_is_marked_and_the_unrepaired_model_goes_across(tables):
    fig = plots.strength_by_method(tables["repair_strength"])
    axis = at(fig, "selectivity")
    assert {shape.x0 for shape in fig.layout.shapes} == {1.0} and len(fig.layout.shapes) == 4
    assert lines(fig, "unrepaired", axis)[0].x.tolist() == [0.0, 2.0]
    (gate,) = lines(fig, "gate, shrinkage", axis)
    assert gate.x.tolist() == [0.5, 1.0, 2.0] and gate.y.tolist() == pytest.approx([0.85, 0.85, 0.2])
    assert fig.layout.title.text == "Selectivity at strength 1, low tier: gate, shrinkage 0.85; oracle gate 0.90"


def test_methods_of_a_kind_share_a_colour_and_not_a_dash():
    looks = looks_of(["gate, shrinkage", "gate, balanced F1", "AdaSteer", "CAST as published", "unrepaired"], "low")
    assert looks["gate, shrinkage"].colour == looks["gate, balanced F1"].colour == TIER_COLOURS["low"]
    assert looks["AdaSteer"].colour == looks["CAST as published"].colour != TIER_COLOURS["low"]
    assert looks["AdaSteer"].dash != looks["CAST as published"].dash and looks["gate, shrinkage"].dash != looks["gate, balanced F1"].dash


def test_transfer_sets_all_others_apart_and_brackets_what_does_not_beat_its_null(tables):
    table = tables["gate_transfer"].copy()
    cell = (table["source"] == "qaa") & (table["target"] == "qac") & (table["statistic"] == "balanced_accuracy")
    table.loc[cell, ["value", "low", "high"]] = [0.6, 0.52, 0.7]
    fig = plots.gate_transfer(table)
    top, rest = [t for t in fig.data if t.type == "heatmap" and t.xaxis == at(fig, "decision: balanced accuracy")]
    assert top.y.tolist() == [0] and rest.y[0] > 1 and len(rest.y) == len(TIERS)
    assert top.text.tolist() == [["0.95", "0.95", "(0.55)", "(0.55)"]]
    row, column = list(TIERS).index("qaa"), list(TIERS).index("qac")
    assert rest.text[row][column] == "(0.60)" and rest.z[row][column] == pytest.approx(0.6)
    table.loc[cell, "low"] = 0.53
    again = [t for t in plots.gate_transfer(table).data if t.xaxis == rest.xaxis][1]
    assert again.text[row][column] == "0.60"


def test_transfer_without_a_gate_of_all_others_is_drawn(tables):
    fig = plots.gate_transfer(tables["gate_transfer"].query("source != 'all others'"))
    assert [t.z.shape for t in fig.data] == [(4, 4), (4, 4)]


def test_each_language_has_its_roc_curve_with_both_thresholds_on_it(tables):
    fig = plots.gate_roc(tables["gate_roc"])
    (curve,) = [t for t in fig.data if t.name == "qac"]
    assert curve.y.tolist() == pytest.approx([0, 0.4, 0.9, 1]) and curve.line.color == TIER_COLOURS["low"]
    marks = {t.name: t for t in fig.data if t.xaxis == curve.xaxis and t.mode == "markers" and t.x[0] is not None}
    assert (marks["source threshold"].marker.symbol, marks["recalibrated"].marker.symbol) == ("square-open", "square")
    assert marks["recalibrated"].y.tolist() == pytest.approx([0.9])
    assert any(note.text == "AUROC 0.97<br>[0.94, 0.99]" and note.xref == curve.xaxis for note in fig.layout.annotations)
    assert "flags 0.40 of harmful, then 0.90" in fig.layout.title.text


def test_a_language_that_was_not_recalibrated_has_the_source_threshold_only(tables):
    fig = plots.gate_roc(tables["gate_roc"].query("tier == 'high'"))
    assert not [t for t in fig.data if t.name == "recalibrated"]
    assert fig.layout.title.text == "AUROC of the gate: 0.97"


def test_score_ridges_show_held_out_prompts_and_the_old_and_new_threshold(tables):
    fig = plots.gate_ridges(tables["gate_scores"])
    ridges = {t.name: t for t in fig.data if t.type == "violin"}
    assert len(ridges["qac, harmless"].x) == 5 and len(ridges["qac, harmful"].x) == 6  # one harmless prompt is of the fit split
    new, old = (next(t for t in fig.data if t.name == name) for name in ("recalibrated threshold", "source threshold"))
    assert sorted(set(new.x[np.isfinite(new.x)].tolist())) == [-2.0, 0.0] and set(old.x[np.isfinite(old.x)].tolist()) == {0.0}
    assert "by up to \u22122" in fig.layout.title.text


def test_a_threshold_that_flags_nothing_does_not_stretch_the_axis(tables):
    table = tables["gate_scores"].assign(threshold=np.inf)
    fig = plots.gate_ridges(table)
    assert np.isfinite(fig.layout.xaxis.range).all() and fig.layout.title.text == "Score of the gate"


def test_a_class_that_another_set_lacks_has_no_panel(tables):
    fig = plots.elsewhere(tables["elsewhere"])
    assert [note.text for note in fig.layout.annotations] == ["borderline: harmless refused"]
    assert {t.name for t in fig.data} >= {"unrepaired", "gate, shrinkage", "difference"}
    assert fig.layout.title.text == "Other prompts: harmless refused 2%, then 2%"


def test_on_other_prompts_every_method_has_a_mark_of_its_own(tables):
    table = tables["elsewhere"]
    more = [table.assign(method=name) for name in ("always steer", "gate, shrinkage, permuted decisions", "oracle gate")]
    fig = plots.elsewhere(pd.concat([table[table["method"].isin(["unrepaired", "gate, shrinkage"])], *more], ignore_index=True))
    marks = {trace.name: trace.marker.symbol for trace in fig.data if trace.marker.symbol}
    methods = {"unrepaired", "gate, shrinkage", "always steer", "gate, shrinkage, permuted decisions", "oracle gate"}
    assert methods <= set(marks) and len({str(marks[name]) for name in methods}) == len(methods)


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (plots.few_shot_curve, "few_shot"), (plots.strength_by_method, "repair_strength"), (plots.gate_transfer, "gate_transfer"),
        (plots.gate_roc, "gate_roc"), (plots.gate_ridges, "gate_scores"), (plots.elsewhere, "elsewhere"),
    ],
)  # fmt: skip
def test_a_table_of_something_else_is_refused_by_the_columns_it_lacks(tables, draw, name):
    with pytest.raises(DataError, match="needs the columns"):
        draw(tables[name].drop(columns=["language"] if name != "gate_transfer" else ["target"]))
    with pytest.raises(DataError, match="without rows"):
        draw(tables[name].iloc[:0])
