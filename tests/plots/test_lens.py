"""What the language track's figure draws, read from its data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from workbench.errors import DataError
from workbench.geometry.lens import language_track as measured
from workbench.geometry.lens import token_languages
from workbench.plots.lens import language_track
from workbench.plots.style import MUTED, TEMPLATE, TIER_COLOURS


class Batch(NamedTuple):
    rows: np.ndarray
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    logits: np.ndarray


def made(n_languages=5, positions=("t_inst", "t_post_inst"), n_layers=4, n=5, reference=2):
    """A track of random logits; the first layer of the last position is one constant token."""
    rng = np.random.default_rng(0)
    tags = [f"qa{chr(97 + i)}" for i in range(n_languages)]
    tiers = ["high" if i < 2 else "mid" if i < 3 else "low" for i in range(n_languages)]
    labels = pd.DataFrame(
        [dict(prompt_id=f"m{m}:{a}", meaning_id=f"m{m}", language=a, tier=t) for a, t in zip(tags, tiers, strict=True) for m in range(n)]
    )
    size = 20 * n_languages
    logits = rng.normal(scale=3, size=(len(labels), n_layers, len(positions), size)).astype(np.float32)
    logits[:, 0, -1] = logits[0, 0, -1]
    known = token_languages([rng.integers(0, size // 2, size=40).tolist() for _ in tags], tags, size)
    batch = Batch(np.arange(len(labels)), tuple(range(n_layers)), positions, logits)
    return measured([batch], labels, known, reference=tags[:reference], permutations=5)


@pytest.fixture(scope="module")
def result():
    return made()


@pytest.fixture(scope="module")
def figure(result):
    return language_track(result)


def rows_of(result, language, spoken="own", position="t_post_inst"):
    table = result.rollup()
    keep = (table["language"] == language) & (table["spoken"] == spoken) & (table["position"] == position)
    return table[keep].sort_values("layer")


def panel_of(figure, language):
    """Axis names of a language's panel, found by its label."""
    label = next(a for a in figure.layout.annotations if a.text == f"<b>{language}</b>")
    return label.xref.split()[0], label.yref.split()[0]


def traces(figure, name, language, visible=True):
    x, y = panel_of(figure, language)
    return [t for t in figure.data if t.name == name and (t.xaxis or "x", t.yaxis or "y") == (x, y) and t.visible == visible and t.x[0] is not None]


@pytest.mark.parametrize("language", ["qaa", "qad"])
def test_each_panel_draws_the_table_s_values_with_intervals_and_control(figure, result, language):
    for kind, name in (("own", "own language"), ("reference", "reference languages"), ("other", "all other languages")):
        rows = rows_of(result, language, kind)
        (line,) = traces(figure, name, language)
        np.testing.assert_allclose(line.x, rows["layer"])
        np.testing.assert_allclose(line.y, rows["attributed"], rtol=1e-6)
        (band,) = traces(figure, f"{name}, interval", language)
        defined = rows.dropna()
        np.testing.assert_allclose(band.y, [*defined["attributed_high"], *defined["attributed_low"][::-1]], rtol=1e-6)
    drawn = traces(figure, "with tokens' languages permuted (95 %)", language)
    expected = [rows_of(result, language, kind)["attributed_control_95"] for kind in ("reference", "own")]
    for line, values in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(line.y, values, rtol=1e-6)
    (unseen,) = traces(figure, "tokens never seen in the texts counted", language)
    np.testing.assert_allclose(1 - unseen.y, rows["unseen"], rtol=1e-5)
    assert unseen.fill == "tonexty"


@pytest.mark.parametrize("language", ["qab", "qae"])
def test_the_strip_right_below_a_panel_draws_its_entropy_in_bits(figure, result, language):
    panel = figure.layout[panel_of(figure, language)[1].replace("y", "yaxis")].domain
    drawn = [t for t in figure.data if t.name == "entropy" and t.visible]
    strips = {t.yaxis: figure.layout[t.yaxis.replace("y", "yaxis")] for t in drawn}
    line = next(t for t in drawn if np.array_equal(t.y[1:], rows_of(result, language)["entropy"].to_numpy(dtype=np.float32)[1:]))
    strip = strips[line.yaxis]
    assert 0 < panel[0] - strip.domain[1] < 0.1
    assert figure.layout[line.xaxis.replace("x", "xaxis")].domain == figure.layout[panel_of(figure, language)[0].replace("x", "xaxis")].domain
    assert strip.ticktext[1] == f"{np.log2(100):.0f}" and strip.range[1] > np.log2(100)
    assert [axis.title.text for axis in figure.select_yaxes() if axis.title.text] == ["probability (0 to 1)", "bits"] * 2


def test_a_constant_token_is_a_gap_not_a_zero(figure):
    for trace in figure.data:
        if trace.visible and trace.name in ("own language", "entropy", "tokens never seen in the texts counted") and trace.x[0] is not None:
            assert np.isnan(trace.y[0]) and np.isfinite(trace.y[1:]).all()


def test_hue_is_the_tier_dash_the_language_group_and_every_language_is_labelled(figure):
    for language, tier in (("qaa", "high"), ("qac", "mid"), ("qae", "low")):
        (own,) = traces(figure, "own language", language)
        assert own.line.color == TIER_COLOURS[tier] and own.line.dash == "solid"
        (reference,) = traces(figure, "reference languages", language)
        assert reference.line.color == TIER_COLOURS["high"] and reference.line.dash == "dash"
        (other,) = traces(figure, "all other languages", language)
        assert other.line.color == MUTED and other.line.dash == "dot"


def test_the_title_states_the_range_and_the_axis_what_a_layer_is(figure, result):
    last = pd.concat([rows_of(result, f"qa{letter}").iloc[-1:] for letter in "abcde"])["attributed"]
    assert figure.layout.title.text.startswith("Logit lens, layer 3 of t_post_inst: own language")
    assert f"{last.min():.2f}" in figure.layout.title.text and f"{last.max():.2f}" in figure.layout.title.text
    assert "layer k (residual stream after k blocks)" in [a.text for a in figure.layout.annotations]
    assert figure.layout.template.layout.font.size == 12.5 and TEMPLATE == "workbench"
    assert "grey below 0.5: no language is named" in figure.layout.title.subtitle.text


def test_the_menu_shows_one_position_at_a_time_with_its_own_title(result):
    figure = language_track(result, position="t_inst")
    menu = figure.layout.updatemenus[0]
    assert menu.active == 0 and [b.label for b in menu.buttons] == ["last token of the request (t_inst)", "last token of the prompt (t_post_inst)"]
    shown = [np.array(button.args[0]["visible"]) for button in menu.buttons]
    always = shown[0] & shown[1]
    assert (shown[0] | shown[1]).all() and all(figure.data[i].x[0] is None for i in np.flatnonzero(always))
    assert [t.visible is not False for t in figure.data] == shown[0].tolist()
    assert [b.args[1]["title.text"].split(":")[0] for b in menu.buttons] == ["Logit lens, layer 3 of t_inst", "Logit lens, layer 3 of t_post_inst"]


@pytest.mark.parametrize(("n_languages", "n_layers"), [(2, 3), (3, 29), (14, 9)])
def test_it_draws_with_two_and_with_fourteen_languages(n_languages, n_layers):
    figure = language_track(made(n_languages, ("t_post_inst",), n_layers))
    assert not figure.layout.updatemenus
    assert sum(t.name == "own language" and t.x[0] is not None for t in figure.data) == n_languages
    key = {t.name for t in figure.data if t.x[0] is None}
    assert ("all other languages" in key) == (n_languages > 2) and "reference languages" in key
    assert figure.layout.height == 372 + 218 * ((n_languages - 1) // 4)


def test_arrays_are_float32_and_a_table_draws_as_its_result_does(figure, result):
    for trace in figure.data:
        for values in (trace.x, trace.y, trace.customdata):
            if values is not None and values[0] is not None:
                assert np.asarray(values).dtype == np.float32, trace.name
    from_table = language_track(result.table.sample(frac=1, random_state=1))
    assert from_table.to_json() == figure.to_json()


def test_the_reference_has_the_hue_of_its_own_tier(result):
    table = result.table.assign(tier="low")
    drawn = language_track(type(result)(table, {"reference": ["qaa", "qab"]}))
    assert next(t for t in drawn.data if t.name == "reference languages").line.color == TIER_COLOURS["low"]


def test_nothing_to_draw_and_unknown_positions_are_refused(result):
    with pytest.raises(DataError, match=r"language_track needs the columns .*\['attributed'\] missing"):
        language_track(result.table.drop(columns="attributed"))
    with pytest.raises(DataError, match="rows of kind 'rollup', was given a table without rows"):
        language_track(result.table[result.table["kind"] == "language"])
    with pytest.raises(DataError, match=r"no position 't_ins'.*Did you mean 't_inst'"):
        language_track(result, position="t_ins")
