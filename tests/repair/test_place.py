"""Where a method reads: at the layer where harm carries over between source languages, which is not where it is clearest within one."""

import numpy as np
import pytest

from tests.support.planted import activations
from workbench.errors import DataError
from workbench.gates import RecalibratedGate
from workbench.gates.one_direction import DirectionGate
from workbench.prompts.grid import PromptGrid
from workbench.repair.contestants import READERS
from workbench.repair.place import reading_place, separation
from workbench.repair.setting import gate_setting, gate_settings

REFERENCE = ["qaa", "qab", "qac"]


@pytest.fixture(scope="module")
def acts():
    """Layer 1: harm along another axis in each language, far apart. Layer 2: one axis, clear. Layer 3: one axis, faint."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(5, 160, 4, 1, 16))
    sign = np.where(np.arange(160) % 2 == 0, 1.0, -1.0)
    for language in range(5):
        states[language, :, 1, 0, language] += 8 * sign
        states[language, :, 2, 0, 6] += 3 * sign
        states[language, :, 3, 0, 7] += 0.7 * sign
    return activations(states)


@pytest.fixture(scope="module")
def grid(acts):
    names = ("language", "meaning_id", "harmful", "split", "tier", "category")
    frame = acts.coords.to_dataset().to_dataframe().reset_index().drop_duplicates("prompt")
    frame = frame.rename(columns={"prompt": "prompt_id"})[["prompt_id", *names]].assign(source="made up")
    return PromptGrid(frame.assign(text=[f"made up {name}" for name in frame["prompt_id"]]))


@pytest.mark.parametrize("make", [RecalibratedGate, DirectionGate])
def test_the_layer_is_taken_where_harm_carries_over_to_a_language_that_was_left_out(acts, make):
    found = reading_place(acts, make, REFERENCE, layers=[1, 2, 3])
    assert (found.layer, found.position) == (2, "t_inst")
    table = found.table.set_index("layer")
    assert table.loc[1, "balanced_accuracy"] < 0.75 < 0.95 < table.loc[2, "balanced_accuracy"]
    assert table.loc[3, "separation"] < table.loc[2, "separation"]
    assert table["chosen"].sum() == 1


def test_with_one_source_language_that_one_is_asked_itself(acts):
    assert reading_place(acts, RecalibratedGate, ["qaa"], layers=[1, 2]).layer == 1


def test_target_languages_have_no_say_in_it(acts):
    labels = acts["language"].values
    blind = acts.copy(deep=True)
    rows = np.isin(labels, ["qad", "qae"])
    blind["residual"].values[rows] = np.random.default_rng(1).normal(size=blind["residual"].values[rows].shape)
    before, after = (reading_place(one, RecalibratedGate, REFERENCE, layers=[1, 2, 3]).table for one in (acts, blind))
    assert before.equals(after)


def test_no_layer_to_read_is_refused(acts):
    with pytest.raises(DataError, match="no layer to read"):
        reading_place(acts, RecalibratedGate, REFERENCE, layers=[])


def test_every_reader_gets_a_place_not_deeper_than_the_push_and_the_same_meanings_as_examples(acts, grid):
    settings = gate_settings(acts, grid, reference=REFERENCE, deepest=2, k=3, draws=2)
    assert set(settings.by) == set(READERS)
    assert settings.places.table["layer"].max() == 2
    assert settings.places.table.groupby("reader")["chosen"].sum().eq(1).all()
    elsewhere = gate_setting(acts, grid, 1, "t_inst", reference=REFERENCE, k=3, draws=2)
    for ours, theirs in zip(settings.ours.examples.examples, elsewhere.examples.examples, strict=True):
        assert {tag: list(rows.prompt_id) for tag, rows in ours.items()} == {tag: list(rows.prompt_id) for tag, rows in theirs.items()}
    assert settings.ours.targets == ["qad", "qae"]
    assert list(settings.ours.score.prompt_id) == list(grid.select(split="score").frame["prompt_id"])


def test_separation_is_the_difference_of_means_in_pooled_deviations():
    harmful, scores = np.array([True, True, False, False]), np.array([3.0, 5.0, 0.0, 2.0])
    assert separation(harmful, scores) == pytest.approx(3.0)
    assert separation(harmful, np.ones(4)) == 0.0
