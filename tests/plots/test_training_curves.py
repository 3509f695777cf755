"""The curves of a training show the loss once and rates per language, by step."""

import pandas as pd
import pytest
from fake_training import TIERS, fake_training

from workbench import plots
from workbench.errors import DataError
from workbench.plots.style import INK, TIER_COLOURS


@pytest.fixture(scope="module")
def curve():
    return fake_training()["training_curve"]


def at(fig, title):
    number = [note.text for note in fig.layout.annotations].index(title)
    return "x" if number == 0 else f"x{number + 1}"


def test_each_statistic_has_its_panel_and_what_nobody_reads_has_none(curve):
    fig = plots.training_curves(curve, tiers=TIERS)
    headings = [note.text for note in fig.layout.annotations if "<b>" not in note.text]
    assert headings == [
        "loss", "harmful prompts refused", "harmless prompts refused", "harmless prompts answered right", "length of replies to harmful prompts",
        "length of replies to harmless prompts", "refusal preferred, harmful prompts", "answer preferred, harmless prompts",
    ]  # fmt: skip
    sampled = pd.DataFrame([{"step": 1, "statistic": "length", "language": "", "value": 7.0}])
    both = plots.training_curves(pd.concat([curve, sampled], ignore_index=True), tiers=TIERS)
    assert "length of replies" not in [note.text for note in both.layout.annotations]
    alone = plots.training_curves(sampled, tiers=TIERS)
    assert [note.text for note in alone.layout.annotations] == ["length of replies"]
    (loss,) = [t for t in fig.data if t.xaxis == at(fig, "loss")]
    assert len(loss.x) == 60 and loss.line.color == INK and loss.mode == "lines"


def test_a_language_has_a_line_in_the_hue_of_its_tier_and_its_tag_at_the_end(curve):
    fig = plots.training_curves(curve, tiers=TIERS)
    axis = at(fig, "harmful prompts refused")
    lines = {t.name: t for t in fig.data if t.xaxis == axis}
    assert set(lines) == set(TIERS) and lines["qae"].x.tolist() == [0, 20, 40, 60]
    assert lines["qae"].line.color == TIER_COLOURS["low"] and lines["qad"].line.dash != lines["qae"].line.dash
    assert {note.text for note in fig.layout.annotations if note.xref == axis} == {f"<b>{tag}</b>" for tag in TIERS}
    assert fig.layout.title.text == "Harmful refused: 30% to 95%, after 60 steps 81% to 97%"


def test_of_several_trainings_one_is_drawn(curve):
    both = pd.concat([curve.assign(method="lasa"), curve.assign(method="dpo", value=0.5)], ignore_index=True)
    assert plots.training_curves(both, tiers=TIERS).layout.title.text.startswith("Harmful refused: 30%")
    assert plots.training_curves(both, tiers=TIERS, method="dpo").layout.title.text == "Harmful refused: 50%, after 60 steps 50%"
    with pytest.raises(DataError, match=r"no training called 'msd'\. Expected one of lasa, dpo"):
        plots.training_curves(both, method="msd")


def test_languages_may_be_missing_in_rows_of_none(curve):
    table = curve.assign(language=curve["language"].where(curve["language"] != "", None))
    assert plots.training_curves(table, tiers=TIERS).layout.title.text == plots.training_curves(curve, tiers=TIERS).layout.title.text


def test_a_loss_alone_is_drawn_and_a_table_of_neither_refused(curve):
    fig = plots.training_curves(curve[curve["statistic"] == "loss"])
    assert fig.layout.title.text.startswith("Loss: 0.")
    with pytest.raises(DataError, match="none of loss, harmful_refusal"):
        plots.training_curves(curve[curve["statistic"] == "gradient_norm"])
