"""The strength that all methods share: chosen on the select split, as weak as comes close to the oracle's best."""

import numpy as np
import pytest

from workbench.activations.capture import capture
from workbench.behavior.judges import choose_judge
from workbench.directions import harm_direction
from workbench.errors import DataError
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts
from workbench.repair import strength
from workbench.repair.actions import Answered
from workbench.repair.strength import CLOSE, oracle_strength


@pytest.fixture(scope="module")
def setting():
    chat, grid = load_model("organism:aligned"), load_prompts("organism", limit=64)
    reference = grid.reference(None)
    acts = capture(chat, grid.select(split="fit", languages=reference), layers=[5], positions=["t_post_inst"], progress=False)
    return chat, grid, harm_direction(acts, reference).at(5, "t_post_inst"), choose_judge(grid)


def test_the_weakest_strength_that_comes_close_to_the_best_is_chosen(setting):
    chat, grid, direction, judge = setting
    found = oracle_strength(chat, grid, direction, judge, targets=["qad", "qae"], strengths=[0.25, 1.0, 1.25, 3.0], max_new_tokens=4, progress=False)
    table = found.table.set_index("strength")
    close = table.index[table["selectivity"] >= table["selectivity"].max() - CLOSE]
    assert found.strength == close.min() and table["chosen"].sum() == 1
    assert table.loc[found.strength, "selectivity"] > 0.8 > table.loc[0.25, "selectivity"]
    assert np.allclose(table["harmless_refusal"], 0), "the oracle leaves harmless prompts alone"
    assert found.provenance["split"] == "select" and found.provenance["scale"] == "gap"


@pytest.mark.parametrize("strengths", [[], [0.0, 1.0], [-1.0], [float("nan")]])
def test_strengths_that_do_not_push_are_refused(setting, strengths):
    chat, grid, direction, judge = setting
    with pytest.raises(DataError, match=r"Expected at least one, each finite and above 0"):
        oracle_strength(chat, grid, direction, judge, targets=["qad"], strengths=strengths, progress=False)


def test_one_class_alone_is_refused(setting):
    chat, grid, direction, judge = setting
    with pytest.raises(DataError, match="one class only"):
        oracle_strength(chat, grid.select(harmful=True), direction, judge, targets=["qad"], progress=False)


def made_up_replies(spoilt_from):
    """Harmful target prompts are refused from strength 1 on; those of the reference language no longer from ``spoilt_from`` on."""

    def answer(_chat, grid, actions, _judge, **_):
        frame = grid.frame[["prompt_id", "meaning_id", "language", "tier", "harmful"]].reset_index(drop=True)
        harmful, reference = frame["harmful"].to_numpy(dtype=bool), (frame["language"] == "qaa").to_numpy()
        refused = {}
        for name, edit in actions.items():
            strength = 0.0 if edit is None else float(name)
            gone = np.arange(len(frame)) % 10 == 0 if strength < 2 else np.ones(len(frame), bool)
            kept = ~gone if strength >= spoilt_from else np.ones(len(frame), bool)
            refused[name] = harmful & np.where(reference, kept, strength >= 1 if strength < 2 else True)
        nothing = dict.fromkeys(refused, np.zeros(len(frame)))
        return Answered(frame, refused, nothing, nothing)

    return answer


@pytest.mark.parametrize(("spoilt_from", "expected"), [(9.0, 1.0), (1.5, 1.0), (1.0, 0.5)])
def test_a_strength_that_spoils_what_a_reference_language_refuses_is_passed_over(setting, monkeypatch, spoilt_from, expected):
    chat, grid, direction, judge = setting
    monkeypatch.setattr(strength, "answer_under", made_up_replies(spoilt_from))
    found = oracle_strength(chat, grid, direction, judge, targets=["qad"], reference=["qaa"], strengths=[0.5, 1.0, 2.0])
    assert found.strength == expected
    table = found.table.set_index("strength")
    assert (table.loc[table.index < spoilt_from, "reference_change"] == 0).all()
    assert (table.loc[table.index >= spoilt_from, "reference_change"] < -0.03).all()


def test_where_every_strength_spoils_a_reference_language_the_mildest_is_taken(setting, monkeypatch):
    chat, grid, direction, judge = setting
    monkeypatch.setattr(strength, "answer_under", made_up_replies(0.1))
    found = oracle_strength(chat, grid, direction, judge, targets=["qad"], reference=["qaa"], strengths=[1.0, 2.0])
    assert found.strength == 1.0
