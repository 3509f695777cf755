"""The similarity figures draw every statistic, language, interval and reference, and follow their menu and slider."""

import numpy as np
import pandas as pd
import pytest

from workbench.errors import DataError
from workbench.plots.similarity import ALIKE_SCALE, similarity_by_layer, similarity_matrix
from workbench.plots.style import MUTED, TIER_COLOURS, languages_of
from workbench.results import Result

STATISTICS = ("mexa", "p_at_1", "p_at_1_uncentred", "adjusted_cosine", "cka", "procrustes", "principal_angle")
TIERS = {"qaa": "high", "qab": "high", "qac": "mid", "qad": "low"}


def table_by_layer(tiers=TIERS, layers=5, positions=("t_inst", "t_post_inst"), control=True):
    rng = np.random.default_rng(1)
    rows = []
    for position in positions:
        for layer in range(layers):
            for language, tier in tiers.items():
                for statistic in STATISTICS:
                    value = rng.uniform(0.2, 0.8) * (90 if statistic == "principal_angle" else 1)
                    rows.append(
                        {
                            "position": position,
                            "layer": layer,
                            "language": language,
                            "tier": tier,
                            "statistic": statistic,
                            "value": value,
                            "low": 0.9 * value,
                            "high": 1.1 * value,
                            "n": 40,
                            "null_95": 0.1,
                            "control": rng.uniform(0, 0.15) if control else np.nan,
                            "ceiling": 12.0 if statistic == "principal_angle" else np.nan,
                        }
                    )
    table = pd.DataFrame(rows)
    table.loc[table["layer"] == 0, ["value", "low", "high"]] = np.nan
    return table


def table_of_pairs(n=4, layers=3, statistic="cka", positions=("t_inst", "t_post_inst")):
    rng = np.random.default_rng(2)
    tags = [f"q{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(n)]
    rows = []
    for position in positions:
        for layer in range(layers):
            for i, a in enumerate(tags):
                for b in tags[i + 1 :]:
                    value = rng.uniform(0, 1) * (90 if statistic == "principal_angle" else 1)
                    for language, other in ((a, b), (b, a)):
                        rows.append(
                            {
                                "position": position,
                                "layer": layer,
                                "language": language,
                                "other": other,
                                "tier": "high" if language < "qac" else None,
                                "statistic": statistic,
                                "value": value,
                                "low": value - 0.1,
                                "high": value + 0.1,
                                "null_95": 0.07,
                            }
                        )
    return pd.DataFrame(rows)


def visible(figure):
    return [trace for trace in figure.data if trace.visible]


def test_every_language_has_a_line_a_band_and_a_label_in_every_panel():
    table = table_by_layer()
    figure = similarity_by_layer(table)
    for language, tier in TIERS.items():
        lines = [t for t in visible(figure) if t.name == language]
        assert len(lines) == len(STATISTICS) and {t.line.color for t in lines} == {TIER_COLOURS[tier]}
        assert len([t for t in visible(figure) if t.name == f"{language}, interval"]) == len(STATISTICS)
    labels = [t for t in visible(figure) if t.mode == "text"]
    assert len(labels) == len(STATISTICS)
    for trace in labels:
        assert set(trace.text) == {f" <b>{language}</b>" for language in TIERS}
        assert np.diff(np.sort(trace.y)).min() > 0
    rows = table.query("statistic == 'mexa' and position == 't_inst' and language == 'qad'")
    line = next(t for t in visible(figure) if t.name == "qad")
    np.testing.assert_allclose(line.y, rows["value"], rtol=1e-6)
    assert np.isnan(line.y[0]) and line.connectgaps is None  # undefined is a gap


def test_null_control_and_ceiling_are_drawn_as_the_strictest_reference_and_named_once():
    table = table_by_layer()
    figure = similarity_by_layer(table)
    grey = [t for t in visible(figure) if t.line.color == MUTED]
    assert [t.name for t in grey if t.showlegend] == [
        "5 % of permuted translations (angle: random subspaces)",
        "untrained model",
        "two halves of one language (angle)",
    ]
    assert len([t for t in grey if t.name == "untrained model"]) == len(STATISTICS)
    control = [t for t in grey if t.name == "untrained model"]
    part = table[table["position"] == "t_inst"]
    for trace, statistic in ((control[0], "mexa"), (control[5], "procrustes")):
        by_layer = part[part["statistic"] == statistic].groupby("layer")["control"]
        np.testing.assert_allclose(trace.y, by_layer.max() if statistic == "mexa" else by_layer.min(), rtol=1e-6)
    bare = similarity_by_layer(table_by_layer(control=False).drop(columns="ceiling"))
    assert {t.name for t in bare.data if t.line.color == MUTED} == {"5 % of permuted translations (angle: random subspaces)"}


def test_the_menu_shows_one_position_at_a_time():
    figure = similarity_by_layer(table_by_layer(), position="t_post_inst")
    (menu,) = figure.layout.updatemenus
    assert [b.label for b in menu.buttons] == ["last token of the request (t_inst)", "last token of the prompt (t_post_inst)"]
    first, second = (np.array(b.args[0]["visible"]) for b in menu.buttons)
    assert menu.active == 1 and (first ^ second).all() and [t.visible for t in figure.data] == second.tolist()
    assert not similarity_by_layer(table_by_layer(positions=("t_inst",))).layout.updatemenus


def test_titles_name_a_quantity_units_and_the_direction_that_is_alike():
    figure = similarity_by_layer(Result(table_by_layer()))
    assert figure.layout.title.text.startswith("Similarity to the references: mean MEXA 0.")
    titles = [axis.title.text for axis in figure.select_yaxes()][: len(STATISTICS)]
    assert all("(" in t or "," in t for t in titles)
    low_is_alike = [a.text for a in figure.layout.annotations if a.text.endswith("low is alike")]
    assert len(low_is_alike) == 2 and "Procrustes" in low_is_alike[0] and "angle" in low_is_alike[1]
    alone = similarity_by_layer(table_by_layer().query("statistic == 'procrustes'"))
    part = table_by_layer().query("statistic == 'procrustes'").groupby(["position", "layer"])["value"].mean()
    assert f"{part.min():.2f}" in alone.layout.title.text  # the most similar layer of a residual is its lowest
    nothing = table_by_layer().assign(value=np.nan, low=np.nan, high=np.nan)
    assert similarity_by_layer(nothing).layout.title.text.endswith("not measured")


def test_only_the_model_after_is_drawn_and_an_unknown_statistic_has_its_name():
    both = pd.concat([table_by_layer().assign(model="after"), table_by_layer().assign(model="before", value=9.0)])
    assert all(np.nanmax(t.y) < 100 and not (np.asarray(t.y) == 9).any() for t in similarity_by_layer(both).data)
    other = similarity_by_layer(table_by_layer().query("statistic == 'cka'").assign(statistic="own_measure"))
    assert "own measure" in other.layout.annotations[0].text


@pytest.mark.parametrize("n", [4, 23])
def test_the_map_has_a_frame_per_layer_whose_title_and_numbers_follow(n):
    table = table_of_pairs(n)
    figure = similarity_matrix(table, layer=2)
    assert [f.name for f in figure.frames] == ["0", "1", "2"] and figure.layout.sliders[0].active == 2
    tags = list(languages_of(table.assign(tier=table["tier"].fillna("unknown"))))
    for frame in figure.frames:
        part = table[table["layer"] == int(frame.name)]
        for trace, position in zip(frame.data, ("t_inst", "t_post_inst"), strict=True):
            values = part[part["position"] == position].pivot(index="language", columns="other", values="value").loc[tags, tags]
            np.testing.assert_allclose(trace.z, values.to_numpy(), rtol=1e-6)
            assert np.isnan(np.diag(trace.z)).all() and (trace.text is not None) == (n <= 10)
        assert f"layer {frame.name}: {part['value'].min():.2f} (" in frame.layout.title.text
    assert figure.layout.title.text == figure.frames[2].layout.title.text
    assert "up to 0.07" in figure.layout.title.subtitle.text


def test_dark_is_alike_whichever_way_the_statistic_runs():
    scales = {}
    for statistic in ("cka", "principal_angle", "adjusted_cosine"):
        figure = similarity_matrix(table_of_pairs(statistic=statistic))
        scales[statistic] = [colour for _, colour in figure.layout.coloraxis.colorscale]
        assert figure.layout.coloraxis.cmin == 0
    assert scales["cka"][-1] == scales["adjusted_cosine"][-1] == ALIKE_SCALE[-1][1] == scales["principal_angle"][0]
    assert "down to" in similarity_matrix(table_of_pairs(statistic="procrustes")).layout.title.subtitle.text


def test_one_layer_needs_no_slider_and_an_undefined_one_says_so():
    figure = similarity_matrix(table_of_pairs(layers=1, positions=("t_inst",)).drop(columns="null_95"))
    assert not figure.layout.sliders and len(figure.data) == 1
    blank = table_of_pairs().assign(value=np.nan, low=np.nan, high=np.nan)
    assert similarity_matrix(blank).layout.title.text.endswith("undefined")


@pytest.mark.parametrize(("draw", "table"), [(similarity_by_layer, table_by_layer()), (similarity_matrix, table_of_pairs())])
def test_rows_in_any_order_give_the_same_figure_and_no_table_is_changed(draw, table, rng):
    before = table.copy(deep=True)
    once, again = draw(table), draw(table.iloc[rng.permutation(len(table))])
    assert table.equals(before)
    assert once.layout.title.text == again.layout.title.text
    for one, two in zip(once.data, again.data, strict=True):
        assert one.name == two.name
        np.testing.assert_array_equal(np.asarray(one.y), np.asarray(two.y))
        assert np.asarray(one.y).dtype == np.float32


def test_missing_columns_and_empty_tables_are_named():
    with pytest.raises(DataError, match="similarity_by_layer needs"):
        similarity_by_layer(table_by_layer().drop(columns="null_95"))
    with pytest.raises(DataError, match="similarity_matrix needs"):
        similarity_matrix(table_by_layer())
    with pytest.raises(DataError, match="without rows"):
        similarity_by_layer(table_by_layer().iloc[:0])


def test_fourteen_languages_keep_their_labels_apart():
    tiers = {f"q{chr(97 + i)}x": ("high", "mid", "low")[i % 3] for i in range(14)}
    for trace in similarity_by_layer(table_by_layer(tiers)).data:
        if trace.mode == "text":
            low, high = 0.0, 90.0 if np.max(trace.y) > 2 else 1.0
            assert len(trace.y) == 14 and np.diff(np.sort(trace.y)).min() > 0.04 * (high - low)
