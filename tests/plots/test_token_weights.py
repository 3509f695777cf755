"""Token weights are drawn by place in the reply and as strips, from numbers alone."""

import numpy as np
import pandas as pd
import pytest
from fake_training import TIERS, fake_training

from workbench import plots
from workbench.errors import DataError
from workbench.plots.style import TIER_COLOURS


@pytest.fixture(scope="module")
def weights():
    return fake_training()["token_weights"]


def at(fig, title):
    number = [note.text for note in fig.layout.annotations].index(title)
    return "x" if number == 0 else f"x{number + 1}"


def test_the_mean_runs_over_the_replies_of_a_tier_that_are_long_enough(weights):
    fig = plots.token_weights(weights, tiers=TIERS, least=12)
    axis = at(fig, "harmful: student's part")
    (line,) = [t for t in fig.data if t.name == "low" and t.xaxis == axis and t.mode == "lines+markers"]
    here = weights[weights["harmful"] & weights["language"].isin(["qad", "qae"])]
    means = here[here["token_index"] < 5].groupby("token_index")["student"].mean()
    assert line.x.tolist() == [1, 2, 3, 4, 5] and line.y.tolist() == pytest.approx(means.tolist(), rel=1e-5)
    assert line.line.color == TIER_COLOURS["low"] and "12 replies" in line.hovertemplate.replace(
        "%{customdata[2]:.0f}", str(int(line.customdata[0, 2]))
    )


def test_the_band_is_the_middle_half_and_thin_lines_are_single_replies(weights):
    fig = plots.token_weights(weights, tiers=TIERS, singles=2)
    axis = at(fig, "harmful: weight")
    (shade,) = [t for t in fig.data if t.name == "low, interval" and t.xaxis == axis]
    here = weights[weights["harmful"] & weights["language"].isin(["qad", "qae"]) & (weights["token_index"] == 0)]["weight"]
    assert [shade.y.max(), shade.y[-1]] == pytest.approx([here.quantile(0.75), here.quantile(0.25)], rel=1e-5)
    thin = [t for t in fig.data if t.name == "low, replies" and t.xaxis == axis]
    assert len(thin) == 2 and thin[0].hovertemplate.startswith("fake:0:0:qad")
    peak = float(here.mean())
    assert fig.layout.title.text == f"Mean token weight, harmful, low tier: up to {peak:.1f}, at token 1"


def test_a_class_without_replies_has_no_row(weights):
    fig = plots.token_weights(weights[weights["harmful"]], tiers=TIERS)
    assert len(fig.layout.annotations) == 3 and not [note for note in fig.layout.annotations if "harmless" in note.text]


def test_strips_show_the_parts_of_single_replies_and_their_product(weights):
    fig = plots.token_weight_strips(weights, tiers=TIERS, prompts=["fake:0:2:qae"])
    parts, weight = fig.data
    rows = weights[weights["prompt_id"] == "fake:0:2:qae"]
    assert parts.z[0].tolist() == pytest.approx(rows["teacher"].tolist(), rel=1e-5)
    assert parts.z[1].tolist() == pytest.approx(rows["student"].tolist(), rel=1e-5)
    product = rows["teacher"] * rows["student"]
    assert weight.z[0].tolist() == pytest.approx((product / product.mean()).tolist(), rel=1e-4)
    assert parts.coloraxis != weight.coloraxis and fig.layout.coloraxis.cmax == 1
    assert fig.layout.annotations[0].text == "qae, low tier, harmful (fake:0:2:qae)"


def test_by_default_a_harmful_reply_of_each_tier_and_a_harmless_one_are_shown(weights):
    fig = plots.token_weight_strips(weights, tiers=TIERS)
    assert [note.text.split(" (")[0] for note in fig.layout.annotations] == [
        "qaa, high tier, harmful", "qac, mid tier, harmful", "qad, low tier, harmful", "qad, low tier, harmless",
    ]  # fmt: skip


def test_long_replies_have_no_numbers_on_their_cells(weights):
    long = pd.DataFrame([dict(prompt_id="x", language="qaa", harmful=True, token_index=i, teacher=0.5, student=0.5, weight=1.0) for i in range(60)])
    assert {t.texttemplate for t in plots.token_weight_strips(long, tiers=TIERS).data} == {None}
    assert "%{z" in plots.token_weight_strips(weights, tiers=TIERS).data[0].texttemplate


def test_a_reply_that_is_not_there_is_refused_by_id(weights):
    with pytest.raises(DataError, match="no weights of nobody"):
        plots.token_weight_strips(weights, prompts=["nobody"])


def test_a_column_of_text_is_shown_nowhere(weights):
    for draw in (plots.token_weights, plots.token_weight_strips):
        assert "a made-up word" not in draw(weights.assign(text="a made-up word"), tiers=TIERS).to_json()


def test_languages_without_a_tier_are_drawn(weights):
    fig = plots.token_weights(weights)
    assert {t.name for t in fig.data if t.mode == "lines+markers"} == {"unknown"} and np.isfinite(fig.layout.xaxis.range).all()
