"""The change of separation shows who rises and who does not; the pictures of before and after stand on axes that compare."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fake_run import fake_tables

from workbench import plots
from workbench.errors import DataError
from workbench.plots.separated import compared
from workbench.plots.separation_change import _Choice, _placed
from workbench.plots.style import TIER_COLOURS
from workbench.results import Result

TIERS = {"qaa": "high", "qab": "high", "qac": "low", "qad": "low"}
CHOICES = [(s, b) for s in ("between_class_share", "bhattacharyya", "silhouette") for b in ("own", "common")] + [("probe_auroc", "own")]
LAYERS = range(5)


def change_table(**gains):
    """Made-up changes: a language gains its number at the last layer; layer 0 is undefined."""
    gains = {"qaa": 0.3, "qab": 0.2, "qac": 0.0, "qad": -0.1} | gains
    rows = []
    for statistic, basis in CHOICES:
        size = (10 if statistic == "bhattacharyya" else 1) * (0.5 if basis == "common" else 1)
        for position in ("t_inst", "t_post_inst"):
            for layer in LAYERS:
                for language, tier in TIERS.items():
                    value = gains[language] * size * layer / 4 if layer else np.nan
                    clear = layer > 0 and value != 0
                    key = dict(basis=basis, position=position, layer=layer, language=language, tier=tier, statistic=statistic)
                    rows.append(key | dict(change=value, low=value - 0.05, high=value + 0.05, n=40, p_adjusted=0.001 if clear else 0.8))
    return pd.DataFrame(rows)


def contrast_table():
    rows = []
    for statistic, basis in CHOICES:
        for position in ("t_inst", "t_post_inst"):
            for layer in LAYERS:
                value = 0.3 * layer / 4 if layer else np.nan
                key = dict(basis=basis, position=position, layer=layer, statistic=statistic, tuned="qaa, qab", others="qac, qad")
                rows.append(key | dict(contrast=value, low=value - 0.1, high=value + 0.1, n=40, p_adjusted=0.01 if layer > 2 else 0.5))
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def figure():
    return plots.separation_change(change_table(), contrast=contrast_table())


def shown(figure, **where):
    """Return the visible traces with these attributes."""
    return [t for t in figure.data if t.visible and all(getattr(t, name) == value for name, value in where.items())]


def test_each_language_has_one_line_per_position_in_its_tier_with_its_values(figure):
    table = change_table().query("statistic == 'between_class_share' and basis == 'common' and position == 't_inst'")
    for language, tier in TIERS.items():
        lines = shown(figure, name=language, mode="lines")
        assert len(lines) == 2 and {line.line.color for line in lines} == {TIER_COLOURS[tier]}
        np.testing.assert_allclose(lines[0].y, table[table["language"] == language]["change"], rtol=1e-6)
        assert np.isnan(lines[0].y[0])  # undefined is a gap
    assert shown(figure, name="qaa", mode="lines")[0].line.dash != shown(figure, name="qab", mode="lines")[0].line.dash


def test_bands_hold_the_intervals(figure):
    band = shown(figure, name="qaa, interval")[0]
    assert max(band.y) == pytest.approx(0.2, abs=1e-6) and min(band.y) == pytest.approx(0.3 * 0.5 / 4 - 0.05, abs=1e-6)


def test_arrows_say_who_rises_who_falls_and_who_does_neither(figure):
    labels = [text for t in shown(figure, mode="text") for text in t.text]
    assert {text.strip().split()[0] + text[-7:-4] for text in labels} == {"▲qaa", "▲qab", "·qac", "▼qad"}
    without_p = plots.separation_change(change_table(qab=0.02).drop(columns="p_adjusted"))
    labels = [text for t in shown(without_p, mode="text") for text in t.text]
    assert any("·" in text and "qab" in text for text in labels) and any("▲" in text and "qaa" in text for text in labels)


def test_zero_is_drawn_and_the_title_states_the_quantity(figure):
    assert figure.layout.yaxis.zeroline and figure.layout.yaxis.range[0] < 0 < figure.layout.yaxis.range[1]
    assert "\u22120.05 (qad) to +0.15 (qaa)" in figure.layout.title.text and "layer 4 of t_post_inst" in figure.layout.title.text


def test_the_contrast_stands_below_with_its_interval_and_fills_where_it_is_clear(figure):
    for trace in shown(figure, legendgroup="contrast"):
        np.testing.assert_allclose(trace.y[1:], 0.3 * np.arange(1, 5) / 4, rtol=1e-6)
        np.testing.assert_allclose(trace.error_y.array[1:], 0.1, rtol=1e-5)
        assert list(trace.marker.symbol) == ["circle-open"] * 3 + ["circle"] * 2
    titles = [a.text for a in figure.layout.annotations]
    assert titles.count("qaa, qab minus qac, qad") == 2
    alone = plots.separation_change(change_table())
    assert not shown(alone, legendgroup="contrast") and alone.layout.height < figure.layout.height


def test_the_menu_offers_each_statistic_in_each_basis_with_its_own_axes(figure):
    (menu,) = figure.layout.updatemenus
    labels = [button.label for button in menu.buttons]
    assert len(labels) == len(set(labels)) == len(CHOICES)
    assert labels[menu.active] == "share of variance, axes common to both models" and "probe AUROC, full state" in labels
    for button in menu.buttons:
        visible, layout = button.args
        drawn = [t for t, on in zip(figure.data, visible["visible"], strict=True) if on]
        assert sum(t.mode == "lines" and t.name in TIERS for t in drawn) == 2 * len(TIERS)
        heights = np.concatenate([np.asarray(t.y, dtype=float) for t in drawn if t.mode == "lines"])
        low, high = layout["yaxis.range"]
        assert low <= np.nanmin(heights) and np.nanmax(heights) <= high and low < 0 < high
        assert any(c.isdigit() for c in layout["title.text"])


def test_bhattacharyya_distances_stand_on_logarithmic_axes(figure):
    assert _placed([0.0, 0.9, -0.9], _Choice("bhattacharyya", "own")) == pytest.approx([0, 1, -1])
    assert _placed([0.9], _Choice("silhouette", "own")) == pytest.approx([0.9])
    layout = next(b for b in figure.layout.updatemenus[0].buttons if b.label.startswith("Bhattacharyya")).args[1]
    assert layout["yaxis.tickmode"] == "array" and "+1" in layout["yaxis.ticktext"] and "log" in layout["yaxis.title.text"]
    table = fake_tables(languages=3, layers=4)["separation"].assign(statistic="bhattacharyya", null_95=0.1)
    table["value"] = table["value"].clip(lower=0.01)
    drawn = plots.separation(table)
    assert drawn.layout.xaxis.type == "log" and "log" in drawn.layout.xaxis.title.text
    assert any(t.name == "permuted labels, 95 %" for t in drawn.data)
    for frame in drawn.frames:
        assert len(frame.data) == len(drawn.data)


def test_a_result_gives_the_figure_of_its_table_and_changes_neither():
    table, contrast = change_table(), contrast_table()
    copies = table.copy(deep=True), contrast.copy(deep=True)
    once, again = plots.separation_change(table, contrast=contrast), plots.separation_change(Result(table), contrast=Result(contrast))
    assert once.to_json() == again.to_json()
    assert table.equals(copies[0]) and contrast.equals(copies[1])


def test_the_order_of_rows_does_not_matter(rng):
    table = change_table()
    once, again = plots.separation_change(table), plots.separation_change(table.iloc[rng.permutation(len(table))])
    assert [(t.name, list(map(str, t.y))) for t in once.data] == [(t.name, list(map(str, t.y))) for t in again.data]


def test_arrays_are_float32_and_every_language_is_labelled(figure):
    for trace in figure.data:
        assert np.asarray(trace.y).dtype == np.float32, trace.name
    text = " ".join(text for t in shown(figure, mode="text") for text in t.text)
    assert all(language in text for language in TIERS)


def test_what_was_never_measured_and_unknown_choices_are_said():
    nothing = change_table().assign(change=np.nan, low=np.nan, high=np.nan)
    assert "not measured" in plots.separation_change(nothing).layout.title.text
    with pytest.raises(DataError, match="Did you mean 'silhouette'"):
        plots.separation_change(change_table(), statistic="silhouete")
    with pytest.raises(DataError, match="needs the columns"):
        plots.separation_change(change_table().drop(columns="change"))


def test_before_and_after_are_drawn_on_common_axes_where_there_are_any():
    """Own axes of two models do not compare; old tables without a basis are drawn as they are."""
    old = fake_tables(languages=3, layers=4)["separation"]
    both = pd.concat([old.assign(basis="own"), old.assign(basis="common", value=old["value"] / 2)])
    rows, statistic, basis = compared(both)
    assert (statistic, basis) == ("between_class_share", "common") and len(rows) == len(old)
    assert compared(both[both["model"] == "after"])[2] == "own" and compared(old)[2] == "own"
    drawn, own = plots.separation(both, layer=3), plots.separation(both, layer=3, basis="own")
    assert "common" in drawn.layout.title.subtitle.text and drawn.layout.title.text != own.layout.title.text
    assert plots.separation(old, layer=3).layout.title.text == own.layout.title.text
    with pytest.raises(DataError, match="no rows of 'comon'"):
        plots.separation(both, basis="comon")


def test_clusters_on_common_axes_share_their_ranges_and_say_so():
    tables = fake_tables(languages=3, layers=4, meanings=8)
    points = pd.concat([tables["clusters"].assign(basis="own"), tables["clusters"].assign(basis="common")])
    axes = pd.concat([tables["cluster_axes"].assign(basis="own", ratio=0.9), tables["cluster_axes"].assign(basis="common", ratio=0.4)])
    drawn = plots.clusters(points, axes=axes, layer=3)
    assert "common" in drawn.layout.title.subtitle.text and "40%" in drawn.layout.xaxis.title.text
    assert drawn.layout.xaxis.range == drawn.layout.xaxis2.range and drawn.layout.yaxis.range == drawn.layout.yaxis2.range
    own = plots.clusters(points, axes=axes, layer=3, basis="own")
    assert "90%" in own.layout.xaxis.title.text and own.layout.xaxis.range != own.layout.xaxis2.range
    assert len(drawn.data) == len(plots.clusters(tables["clusters"], layer=3).data)
