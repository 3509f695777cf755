"""The figure of interpreters by layer keeps languages trained in apart, with what permuted labels reach."""

import pandas as pd
import pytest
from fake_training import fake_training

from workbench import plots
from workbench.errors import DataError


@pytest.fixture(scope="module")
def scores():
    return fake_training()["interpreter_layers"]


def at(fig, title):
    number = [note.text for note in fig.layout.annotations].index(title)
    return "x" if number == 0 else f"x{number + 1}"


def test_languages_stand_on_their_side_with_their_own_values(scores):
    fig = plots.interpreter_layers(scores, layer=4)
    seen, unseen = (at(fig, f"harmless flagged (FPR), {side} languages") for side in ("its own", "other"))
    lines = {(t.xaxis, t.name): t for t in fig.data if t.mode == "lines+markers"}
    assert {name for axis, name in lines if axis == seen} == {"qaa", "qab"} and {name for axis, name in lines if axis == unseen} == {
        "qac",
        "qad",
        "qae",
    }
    rows = scores.query("language == 'qae' and statistic == 'fpr'")
    assert lines[unseen, "qae"].x.tolist() == rows["layer"].tolist() and lines[unseen, "qae"].y.tolist() == pytest.approx(rows["value"].tolist())
    assert fig.layout.title.text == "Accuracy at layer 4: own languages 0.92 to 0.95, others 0.75 to 0.81"


def test_the_null_of_accuracy_is_the_highest_of_the_languages_and_named_once(scores):
    table = scores.copy()
    table.loc[(table["language"] == "qad") & (table["layer"] == 3), "null"] = 0.61
    fig = plots.interpreter_layers(table)
    nulls = [t for t in fig.data if t.name == "permuted labels"]
    assert len(nulls) == 2 and [t.showlegend for t in nulls].count(True) == 1
    (one,) = [t for t in nulls if t.xaxis == at(fig, "accuracy, other languages")]
    assert one.y.tolist() == pytest.approx([0.55, 0.61, 0.55, 0.55, 0.55])
    assert not [t for t in plots.interpreter_layers(scores.drop(columns="null")).data if t.name == "permuted labels"]


def test_the_layer_used_and_the_bottleneck_are_marked_in_every_panel(scores):
    fig = plots.interpreter_layers(scores, layer=4, bottleneck=(3, 5))
    bands = [s for s in fig.layout.shapes if s.type == "rect"]
    assert len(bands) == 6 and {(s.x0, s.x1) for s in bands} == {(2.5, 5.5)}
    assert {s.x0 for s in fig.layout.shapes if s.type == "line"} == {4}


def test_where_every_language_was_seen_there_is_one_side(scores):
    fig = plots.interpreter_layers(scores.assign(seen=True))
    assert [note.text for note in fig.layout.annotations if "languages" in note.text] == [
        "accuracy, its own languages", "harmful flagged (TPR), its own languages", "harmless flagged (FPR), its own languages",
    ]  # fmt: skip
    assert "others" not in fig.layout.title.text


def test_of_two_sets_the_first_is_drawn(scores):
    both = pd.concat([scores, scores.assign(set="elsewhere", value=0.0, low=0.0, high=0.0)], ignore_index=True)
    assert plots.interpreter_layers(both, layer=4).layout.title.text == plots.interpreter_layers(scores, layer=4).layout.title.text


def test_a_table_without_these_statistics_is_refused(scores):
    with pytest.raises(DataError, match="none of accuracy, tpr, fpr was measured, only auroc"):
        plots.interpreter_layers(scores[scores["statistic"] == "auroc"])
