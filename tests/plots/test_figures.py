"""What the figures draw, read from their data: traces, names, axis titles, never pixels."""

from __future__ import annotations

import numpy as np
import pytest
from fake_run import fake_tables

from workbench import plots
from workbench.plots.style import TIER_COLOURS, languages_of
from workbench.results import Result

DRAW = {
    "variance_shares": lambda t: plots.variance_shares(t["variance_shares"], bottleneck=t["bottleneck"]),
    "silhouettes": lambda t: plots.silhouettes(t["silhouettes"], bottleneck=t["bottleneck"]),
    "clusters": lambda t: plots.clusters(t["clusters"], axes=t["cluster_axes"]),
    "separation": lambda t: plots.separation(t["separation"]),
    "auroc_by_layer": lambda t: plots.auroc_by_layer(t["auroc"], refusal=t["refusal"]),
    "auroc_with_nulls": lambda t: plots.auroc_with_nulls(t["harm_represented"]),
    "projection_ridges": lambda t: plots.projection_ridges(t["projections"], thresholds=t["thresholds"]),
    "refusal_gap": lambda t: plots.refusal_gap(t["refusal"]),
    "threshold_transfer": lambda t: plots.threshold_transfer(t["thresholds"]),
    "tokens_per_character": lambda t: plots.tokens_per_character(t["tokens_per_character"]),
    "understanding": lambda t: plots.understanding(t["understanding"]),
    "retrieval_by_layer": lambda t: plots.retrieval_by_layer(t["retrieval"]),
}
BY_LANGUAGE = [name for name in DRAW if name not in ("variance_shares", "silhouettes", "clusters")]


@pytest.fixture(scope="module")
def tables():
    return fake_tables()


@pytest.fixture(scope="module")
def figures(tables):
    return {name: draw(tables) for name, draw in DRAW.items()}


def texts_of(figure) -> str:
    return " ".join([figure.layout.title.text, *[str(a.text) for a in figure.layout.annotations], str(figure.layout.yaxis.ticktext)])


@pytest.mark.parametrize("name", DRAW)
def test_each_figure_has_the_template_a_title_and_units_on_its_axes(figures, name):
    figure = figures[name]
    assert figure.layout.template.layout.font.family == plots.style._template().layout.font.family
    assert figure.layout.title.text and figure.layout.height
    titles = [axis.title.text for axis in figure.select_xaxes() if axis.title.text]
    assert titles and all("(" in t or "," in t or "per" in t for t in titles)


@pytest.mark.parametrize("name", [n for n in DRAW if n != "clusters"])
def test_each_title_states_a_quantity(figures, name):
    assert any(c.isdigit() for c in figures[name].layout.title.text)


@pytest.mark.parametrize("name", DRAW)
def test_arrays_are_float32_and_nothing_is_drawn_with_webgl(figures, name):
    for trace in figures[name].data:
        assert not trace.type.endswith("gl")
        for axis in ("x", "y"):
            values = trace[axis]
            if values is not None and len(values) and values[0] is not None:
                assert np.asarray(values).dtype == np.float32, (trace.name, axis)


@pytest.mark.parametrize("name", BY_LANGUAGE)
def test_every_language_is_labelled_directly(figures, tables, name):
    shown = texts_of(figures[name])
    assert all(tag in shown for tag in languages_of(tables["auroc"]))


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("case", [dict(languages=3, layers=5, before=False), dict(languages=14, layers=13, meanings=8)])
def test_each_figure_draws_with_three_and_with_fourteen_languages(name, case):
    assert DRAW[name](fake_tables(**case)).data


@pytest.mark.parametrize("name", DRAW)
def test_the_order_of_rows_does_not_matter(tables, name, rng):
    shuffled = {key: table.iloc[rng.permutation(len(table))] for key, table in tables.items()}
    once, again = DRAW[name](tables), DRAW[name](shuffled)
    assert again.layout.title.text == once.layout.title.text
    assert sorted(str(t.name) for t in again.data) == sorted(str(t.name) for t in once.data)
    assert [a.text for a in again.layout.annotations] == [a.text for a in once.layout.annotations]


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_changes_no_table(tables, name):
    copies = {key: table.copy(deep=True) for key, table in tables.items()}
    DRAW[name](tables)
    assert all(copies[key].equals(tables[key]) for key in tables)


def test_a_result_and_its_table_give_the_same_figure(tables):
    table = tables["refusal"]
    assert plots.refusal_gap(Result(table)).to_json() == plots.refusal_gap(table).to_json()


def test_dots_carry_the_hue_of_their_tier_and_the_interval_of_the_table(figures, tables):
    table = tables["tokens_per_character"].sort_values("language")
    for tier in ("high", "mid", "low"):
        trace = next(t for t in figures["tokens_per_character"].data if t.marker.color == TIER_COLOURS[tier])
        rows = table[table.tier == tier]
        np.testing.assert_allclose(sorted(trace.x), sorted(rows["value"]), rtol=1e-6)
        np.testing.assert_allclose(sorted(trace.x + trace.error_x.array), sorted(rows["high"]), rtol=1e-5)
        np.testing.assert_allclose(sorted(trace.x - trace.error_x.arrayminus), sorted(rows["low"]), rtol=1e-5)


def test_the_bottleneck_is_shaded_only_where_the_verdict_says_so(tables):
    with_band = plots.silhouettes(tables["silhouettes"], bottleneck=tables["bottleneck"])
    denied = tables["bottleneck"].assign(verdict="not enough evidence")
    bands = [s for s in with_band.layout.shapes if s.type == "rect"]
    row = tables["bottleneck"].query("verdict == 'bottleneck'").iloc[0]
    assert [(b.x0, b.x1) for b in bands] == [(row["low"] - 0.5, row["high"] + 0.5)]
    assert not [s for s in plots.silhouettes(tables["silhouettes"], bottleneck=denied).layout.shapes if s.type == "rect"]


def test_undefined_layers_are_gaps_not_zeros(figures, tables):
    table = tables["silhouettes"]
    assert (~table["defined"]).any()
    line = next(t for t in figures["silhouettes"].data if t.name == "meaning minus language" and t.xaxis == "x2")
    assert np.isnan(line.y[0]) and np.isfinite(line.y[1:]).all()


def test_the_scaling_menu_shows_one_scaling_at_a_time(figures):
    figure = figures["variance_shares"]
    for button in figure.layout.updatemenus[0].buttons:
        assert sum(button.args[0]["visible"]) * 3 == len(figure.data)
    assert sum(bool(t.visible) for t in figure.data) * 3 == len(figure.data)


def test_clusters_have_a_frame_per_layer_and_the_slider_starts_where_asked(tables):
    figure = plots.clusters(tables["clusters"], axes=tables["cluster_axes"], layer=6)
    layers = sorted(tables["clusters"]["layer"].unique())
    assert [f.name for f in figure.frames] == [str(k) for k in layers]
    assert figure.layout.sliders[0].active == layers.index(6)
    frame = next(f for f in figure.frames if f.name == "6")
    assert len(frame.data) == len(figure.data)
    for shown, framed in zip(figure.data, frame.data, strict=True):
        np.testing.assert_array_equal(shown.x, framed.x)


def test_separation_moves_its_dots_and_its_title_with_the_slider(tables):
    figure = plots.separation(tables["separation"], layer=2)
    frame = next(f for f in figure.frames if f.name == "8")
    again = plots.separation(tables["separation"], layer=8)
    assert frame.layout.title.text == again.layout.title.text != figure.layout.title.text
    for framed, drawn in zip(frame.data, again.data, strict=True):
        np.testing.assert_array_equal(framed.x, drawn.x)


def test_clusters_hover_names_the_prompt_and_the_marker_is_the_class(figures, tables):
    labels = tables["clusters"].drop_duplicates("prompt_id").set_index("prompt_id")["harmful"]
    seen = set()
    for trace in figures["clusters"].data:
        ids = trace.customdata[:, 0]
        assert labels[ids].nunique() == 1
        assert trace.marker.symbol == {True: "diamond", False: "circle-open"}[bool(labels[ids].iloc[0])]
        seen |= set(ids)
    assert seen == set(labels.index)


def test_too_many_points_are_thinned_and_the_figure_says_so(tables):
    figure = plots.clusters(tables["clusters"], max_points=50)
    assert "prompt of 192" in figure.layout.title.subtitle.text
    assert len({i for t in figure.data for i in t.customdata[:, 0]}) <= 50


def test_low_refusal_languages_are_outlined_in_the_heat_map(figures, tables):
    refused = tables["refusal"].query("model == 'after' and statistic == 'harmful_refusal'").set_index("language")["value"]
    outlined = {tag for shape in figures["auroc_by_layer"].layout.shapes for tag in shape.name.split()}
    assert outlined == set(refused.index[refused < 0.5])


def test_the_heat_map_holds_the_tables_values(figures, tables):
    table = tables["auroc"].query("model == 'after' and position == 't_inst' and layer == 5").set_index("language")["value"]
    heat = figures["auroc_by_layer"].data[0]
    np.testing.assert_allclose(np.asarray(heat.z)[:, 5], table.loc[list(languages_of(tables["auroc"]))], rtol=1e-6)


def test_a_language_without_the_verdict_is_drawn_open(tables):
    table = tables["harm_represented"].copy()
    table["represented"] = table["language"] != "qah"
    figure = plots.auroc_with_nulls(table)
    open_ones = [t for t in figure.data if t.type == "scatter" and t.marker.symbol == "square-open" and t.customdata is not None]
    assert {row[0] for t in open_ones for row in t.customdata} == {"qah"}


def test_ridges_show_held_out_prompts_with_both_thresholds(figures, tables):
    held_out = set(tables["projections"].query("split == 'score'")["prompt_id"])
    violins = [t for t in figures["projection_ridges"].data if t.type == "violin"]
    assert {i for t in violins for i in t.customdata} == held_out
    names = {t.name for t in figures["projection_ridges"].data}
    assert {"reference threshold", "own threshold"} <= names


def test_an_unvalidated_judge_is_flagged_in_the_figure(figures, tables):
    doubtful = tables["refusal"].query("not validated")["language"].unique()
    labels = figures["refusal_gap"].layout.yaxis.ticktext
    assert sum("†" in label for label in labels) == len(doubtful)
    assert "not validated" in figures["refusal_gap"].layout.title.subtitle.text
    sure = plots.refusal_gap(tables["refusal"].assign(validated=True))
    assert not any("†" in label for label in sure.layout.yaxis.ticktext)


def test_the_criterion_is_drawn_where_its_sentence_states_one_number(tables):
    drawn = plots.understanding(tables["understanding"])
    line = next(t for t in drawn.data if t.name == "criterion")
    assert set(np.asarray(line.x)[~np.isnan(line.x)]) == {0.5}
    silent = plots.understanding(tables["understanding"].assign(criterion="above shuffled meanings"))
    assert "criterion" not in {t.name for t in silent.data}


def test_what_was_not_assessed_does_not_look_understood(tables):
    figure = plots.understanding(tables["understanding"].assign(understood="not enough evidence"))
    symbols = {t.marker.symbol for t in figure.data if t.mode == "markers" and t.customdata is not None}
    assert symbols == {"square-cross-open"}
