"""Which language each point, row, label and box of a figure shows, read from the figure itself."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
from fake_verdicts import fake_verdicts

from workbench import plots
from workbench.plots.panels import panels
from workbench.report.colours import DARK, dark_figures
from workbench.report.filtering import tag_languages

TAGS = ["qaa", "qad", "sw"]


def tagged(fig, tags=TAGS):
    return [trace.meta for trace in tag_languages(fig, tags).data]


def test_a_line_named_by_its_language_belongs_to_it_and_no_other_word_does():
    fig = go.Figure([go.Scatter(x=[1], y=[1], name=name) for name in ("sw", "sw, interval", "switch", "mean low", "all sw")])
    assert tagged(fig) == [{"of": "sw"}, {"of": "sw"}, None, None, None]


def test_points_on_rows_belong_to_the_language_of_the_row():
    fig = go.Figure(go.Scatter(x=[0.1, 0.2, 0.3, 0.4], y=[2.2, 0.9, -0.1, 3.0]))
    fig.update_yaxes(tickvals=[2, 1, 0], ticktext=["<b>qaa</b>", "<b>qad</b> †", "random directions"])
    fig.add_shape(type="rect", x0=0, x1=1, y0=0.6, y1=1.4, yref="y")
    assert tagged(fig) == [{"of": ["qaa", "qad", "", ""]}]
    assert fig.layout.meta == {"ticks": {"yaxis": ["qaa", "qad", ""]}, "shapes": {"0": "qad"}}


def test_the_rows_of_a_heat_map_are_hidden_one_by_one():
    fig = go.Figure(go.Heatmap(z=np.zeros((2, 3)), y=[1, 0]))
    fig.update_yaxes(tickvals=[1, 0], ticktext=["qaa", "sw"])
    assert tagged(fig) == [{"rows": ["qaa", "sw"]}]


def test_what_stands_in_a_language_s_panel_belongs_to_it():
    fig, cells = panels(["<b>qaa</b>", "<b>qad</b>", "all"], columns=2)
    for cell in cells:
        fig.add_scatter(x=[0, 1], y=[0, 1], name="own language", row=cell.row, col=cell.col)
    assert tagged(fig) == [{"of": "qaa"}, {"of": "qad"}, None]
    assert fig.layout.meta["annotations"] == {"0": "qaa", "1": "qad"}


def test_frames_carry_the_languages_only_where_they_differ_and_no_copy_of_the_ids():
    data = np.array([["p1", "qaa"], ["p2", "qad"]])
    fig = go.Figure(go.Scatter(x=[0, 1], y=[0, 1], customdata=data))
    fig.frames = [
        go.Frame(name="1", data=[go.Scatter(x=[2, 3], y=[2, 3], customdata=data)]),
        go.Frame(name="2", data=[go.Scatter(x=[2, 3], y=[2, 3], customdata=data[::-1])]),
    ]
    assert tagged(fig) == [{"of": ["qaa", "qad"]}]
    same, other = (frame.data[0] for frame in fig.frames)
    assert same.meta is None and same.customdata is None
    assert other.meta == {"of": ["qad", "qaa"]} and other.customdata is not None


@pytest.mark.parametrize("draw", [plots.waterfall, plots.restoration])
def test_every_language_of_a_figure_can_be_hidden(draw):
    tables = fake_verdicts({"qaa": "high", "qad": "low", "sw": "low"}, 4)
    found = [meta for meta in tagged(draw(tables[draw.__name__])) if meta]
    named = {tag for meta in found for part in meta.values() for tag in ([part] if isinstance(part, str) else part)}
    assert {"qad", "sw"} <= named


def test_no_ink_stays_dark_on_the_dark_page():
    def light(colour):
        return sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) / 3

    assert all(light(DARK[ink]) > 120 for ink in DARK if light(ink) < 130)
    assert all(light(DARK[paper]) < 110 for paper in DARK if light(paper) > 195)
    assert 'fill: rgb(31, 36, 48)"]' in dark_figures()
