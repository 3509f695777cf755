"""The selection figure draws every candidate, tells survivors from dropped ones, and shades what the rule drops."""

import numpy as np
import pandas as pd
import pytest

from workbench.directions.select import DirectionScores, read_scores, select_direction
from workbench.errors import DataError
from workbench.plots.selection import selection_curves

RUNS = ("gemma-2b-it", "llama-2-7b-chat-hf", "meta-llama-3-8b-instruct", "qwen-1_8b-chat", "yi-6b-chat")


@pytest.fixture
def selection(rng):
    rows = [(position, layer) for position in ("t_inst", "t_post_inst") for layer in range(11)]
    table = pd.DataFrame(rows, columns=["position", "layer"])
    table = table.assign(bypass=rng.normal(size=22), induce=rng.normal(size=22), kl=rng.uniform(0, 0.2, size=22))
    table.loc[0, ["bypass", "induce", "kl"]] = np.nan
    for name in ("bypass", "induce", "kl"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.1, table[name] + 0.1
    table = table.assign(n_harmful=32, n_harmless=30, criterion="refusal_tokens", language="all")
    other = table.assign(language="sw", bypass=table["bypass"] + 5)
    provenance = {"n_layers": 10, "without_edit": {"harmful": 4.0, "harmless": -4.0}}
    return select_direction(DirectionScores(pd.concat([table, other], ignore_index=True), provenance))


def lines(fig, name):
    return [t for t in fig.data if t.name == name]


def test_each_panel_has_a_line_per_position_with_the_scores_and_their_intervals(selection):
    fig = selection_curves(selection)
    rows = selection.table[selection.table["position"] == "t_post_inst"]
    for trace, name in zip(lines(fig, "last token of the prompt (t_post_inst)"), ("bypass", "induce", "kl"), strict=True):
        drawn = rows[name].clip(lower=1e-4) if name == "kl" else rows[name]
        assert trace.y.tolist() == pytest.approx(drawn.tolist(), abs=1e-6)
        if name != "kl":
            assert trace.error_y.array.tolist() == pytest.approx([0.1] * 11, abs=1e-6)
    assert np.isnan(lines(fig, "last token of the request (t_inst)")[0].y[0]), "what cannot be tried is a gap"


def test_survivors_are_filled_dropped_ones_hollow_and_the_chosen_one_ringed(selection):
    fig = selection_curves(selection)
    for position, name in (("t_inst", "last token of the request (t_inst)"), ("t_post_inst", "last token of the prompt (t_post_inst)")):
        kept = selection.table.loc[selection.table["position"] == position, "removed_by"] == ""
        assert [colour != "white" for colour in lines(fig, name)[0].marker.color] == kept.tolist()
    rings = lines(fig, "selected")
    assert [ring.x[0] for ring in rings] == [selection.layer] * 3
    assert rings[0].y[0] == pytest.approx(selection.survivors["bypass"].iloc[0], abs=1e-6)
    assert fig.layout.title.text.startswith(f"Selected: {selection.position}, layer {selection.layer}")
    assert f"{len(selection.survivors)} of 22" in fig.layout.title.subtitle.text


def test_the_dropped_sides_of_the_rule_are_shaded_in_every_panel_that_has_one(selection):
    boxes = [(shape.xref, shape.x0, shape.y0, shape.y1) for shape in selection_curves(selection).layout.shapes if shape.type == "rect"]
    assert [box for box in boxes if box[0] in ("x", "x2", "x3")] and sum(box[1] == 7.5 for box in boxes) == 3
    assert any(box[3] == 0 and box[2] < -10 for box in boxes), "induce below 0"
    assert any(box[2] == 0.1 for box in boxes), "KL above 0.1"
    plain = [shape.y0 for shape in selection_curves(selection).layout.shapes if shape.type == "line" and shape.line.dash == "dot"]
    assert plain == [4.0, -4.0]


def test_scores_without_a_choice_are_drawn_and_a_language_may_be_picked(selection):
    scores = DirectionScores(pd.concat([selection.table, selection.table.assign(language="sw", bypass=-20.0)]).drop(columns=["selected", "rank"]))
    fig = selection_curves(scores, language="sw")
    assert not lines(fig, "selected") and "\u221220.0" in fig.layout.title.text
    with pytest.raises(DataError, match="Nothing was scored for language 'sv'"):
        selection_curves(scores, language="sv")


@pytest.mark.parametrize("run", RUNS)
def test_the_released_runs_are_drawn_with_their_numbers_from_the_end(shared_dir, run):
    path = shared_dir / "data" / "refusal_direction" / "runs" / run / "select_direction" / "direction_evaluations.json"
    found = select_direction(read_scores(path))
    fig = selection_curves(found)
    names = [trace.name for trace in fig.data if trace.showlegend and trace.name != "selected"]
    assert names == [f"token \u2212{k} from the end" for k in range(found.table["position"].nunique(), 0, -1)]
    assert f"token \u2212{-found.position}, layer {found.layer}" in fig.layout.title.text


def test_the_key_speaks_of_shades_only_where_there_are_some(selection):
    assert "hollow, shaded: dropped" in selection_curves(selection).layout.title.subtitle.text
    bare = selection_curves(selection.table)
    assert "hollow: dropped" in bare.layout.title.subtitle.text and not [s for s in bare.layout.shapes if s.type == "rect"]
