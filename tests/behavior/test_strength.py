"""Refusal by strength beside random directions of the same norm, and the choice of a strength."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from tests.tiny import build_grid
from workbench.behavior import strength as module
from workbench.behavior.generate import generate
from workbench.behavior.outcomes import COLUMNS
from workbench.behavior.refusal import refusal_rates
from workbench.behavior.strength import StrengthSweep, choose_strength, strength_sweep
from workbench.directions import Direction
from workbench.errors import DataError, ModelError, StoreMismatchError
from workbench.interventions import Ablate, Add


@dataclass(frozen=True)
class ByLength:
    """Calls replies of an even number of characters refusals: any rule that depends on the reply will do."""

    name: str = "by length"
    learns: bool = False

    def outcomes(self, replies, grid):
        outcome = np.where(replies["reply"].str.len() % 2 == 0, "refusal", "compliance")
        made = {"prompt_id": replies["prompt_id"], "outcome": outcome, "correct": None, "judge": self.name, "validated": True, "reply_language": None}
        return pd.DataFrame(made, columns=list(COLUMNS))


@pytest.fixture(scope="module")
def asked(tiny_model):
    chat, grid = tiny_model("llama"), build_grid(16).with_splits()
    vector = np.random.default_rng(3).normal(size=32)
    unit = vector / np.linalg.norm(vector)
    return chat, grid, Direction(unit, 6.0, 2, "t_inst", {"fingerprint": chat.fingerprint, "toward": "harmful", "gap": 4.0})


OPTIONS = dict(judge=ByLength(), max_new_tokens=3, progress=False)


def test_each_row_is_what_generating_under_that_edit_gives(asked):
    chat, grid, direction = asked
    found = strength_sweep(chat, grid, direction, [2.0, -1.0], controls={"language": np.eye(32)[0]}, control_strengths=[2.0], **OPTIONS)
    part = grid.select(split="select")
    random = np.random.default_rng(3).normal(size=32)
    made = {
        ("direction", 0.0): [],
        ("direction", -1.0): [Add(direction, -1.0, "raw")],
        ("random 3", 2.0): [Add(12 * random / np.linalg.norm(random), 1.0, "raw", layers=2)],
        ("language", 2.0): [Add(12 * np.eye(32)[0], 1.0, "raw", layers=2)],
        ("language", 0.0): [],
    }
    for (name, strength), edits in made.items():
        with chat.edited(*edits):
            expected = refusal_rates(ByLength().outcomes(generate(chat, part, max_new_tokens=3, progress=False), part), part).table
        rows = found.table[(found.table["direction"] == name) & (found.table["strength"] == strength)].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[list(expected.columns)], expected)
    assert set(found.table.loc[found.table["kind"] == "random", "seed"]) == {0, 1, 2, 3, 4}
    assert list(dict.fromkeys(found.table.loc[found.table["direction"] == "random 3", "strength"])) == [0.0, 2.0]
    assert list(dict.fromkeys(found.table.loc[found.table["kind"] == "direction", "strength"])) == [-1.0, 0.0, 2.0]
    again = StrengthSweep(found.table, found.provenance).summary()
    assert {"direction", "control_low", "control_high"} <= set(again)


def test_shares_are_ablated_everywhere_and_a_whole_share_is_plain_ablation(asked):
    chat, grid, direction = asked
    found = strength_sweep(chat, grid, direction, [0.5, 1.0], kind="ablate", control_strengths=[], **OPTIONS)
    part = grid.select(split="select")
    for share, edit in ((1.0, Ablate(direction)), (0.5, Ablate(direction, rows=dict.fromkeys(part.frame["prompt_id"], 0.5)))):
        with chat.edited(edit):
            expected = refusal_rates(ByLength().outcomes(generate(chat, part, max_new_tokens=3, progress=False), part), part).table
        rows = found.table[(found.table["kind"] == "direction") & (found.table["strength"] == share)].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[list(expected.columns)], expected)


def test_a_strength_that_breaks_the_model_ends_its_branch_and_keeps_the_rest(asked):
    chat, grid, direction = asked
    found = strength_sweep(chat, grid, direction, [1.0, 1e25, 1e30, -2.0], control_strengths=[1.0], **OPTIONS)
    own = found.table[found.table["kind"] == "direction"]
    assert list(dict.fromkeys(own["strength"])) == [-2.0, 0.0, 1.0]
    assert found.stopped[["direction", "strength"]].to_numpy().tolist() == [["direction", 1e25]]
    assert "1e+25 x raw" in found.stopped["reason"].iloc[0]


def test_a_sweep_goes_on_from_its_folder_and_refuses_anothers(asked, tmp_path, monkeypatch):
    chat, grid, direction = asked
    options = dict(OPTIONS, out=tmp_path / "strengths")
    real, asked_for = module.generate, []

    def until_four(*args, **kwargs):
        if len(asked_for) == 4:
            raise KeyboardInterrupt
        asked_for.append(kwargs["out"].name)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "generate", until_four)
    with pytest.raises(KeyboardInterrupt):
        strength_sweep(chat, grid, direction, [1.0, 2.0], **options)
    monkeypatch.setattr(module, "generate", real)
    found = strength_sweep(chat, grid, direction, [1.0, 2.0], **options)
    files = sorted(path.name for path in (tmp_path / "strengths").iterdir())
    assert len(files) == 13 and set(asked_for) <= set(files)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "strengths").iterdir())
    pd.testing.assert_frame_equal(found.table, strength_sweep(chat, grid, direction, [1.0, 2.0], **OPTIONS).table)
    with pytest.raises(StoreMismatchError):
        strength_sweep(chat, grid, direction, [1.0, 2.0], **{**options, "scope": "prompt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(strengths=[]), "at least one finite number"),
        (dict(strengths=[float("inf")]), "at least one finite number"),
        (dict(strengths=[2.0], kind="ablate"), "numbers from 0 to 1"),
        (dict(kind="ad"), "Did you mean 'add'"),
        (dict(seeds=range(4)), "at least 5 different seeds"),
        (dict(control_strengths=[3.0]), r"control_strengths has \[3.0\]"),
        (dict(controls={"short": np.ones(3)}), "has shape"),
        (dict(controls={"direction": np.ones(32)}), "a name of its own"),
        (dict(scale="row"), "Did you mean 'raw'"),
    ],
)
def test_sweeps_that_mean_nothing_are_refused_before_anything_is_generated(asked, change, message, monkeypatch):
    chat, grid, direction = asked
    monkeypatch.setattr(module, "generate", None)
    with pytest.raises(DataError, match=message):
        strength_sweep(chat, grid, direction, **{"strengths": [1.0], **OPTIONS, **change})


def test_one_class_a_direction_of_another_model_and_a_control_of_another_layer_are_refused(asked, tiny_model):
    chat, grid, direction = asked
    with pytest.raises(DataError, match="Expected both classes"):
        strength_sweep(chat, grid.select(harmful=True), direction, [1.0], **OPTIONS)
    with pytest.raises(ModelError, match="taken from another model"):
        strength_sweep(tiny_model("llama", seed=5), grid, direction, [1.0], **OPTIONS)
    other = Direction(direction.unit, 1.0, 3, "t_inst", {})
    with pytest.raises(DataError, match="layer 3"):
        strength_sweep(chat, grid, direction, [1.0], controls={"other": other}, **OPTIONS)


def made_up(split="select", **values) -> StrengthSweep:
    """One language's means by strength: harmful_refusal, harmless_refusal, answer_accuracy, garbled."""
    strengths, rows = [-1.0, 0.0, 1.0, 2.0], []
    for kind, name in (("direction", "direction"), ("random", "random 0")):
        for i, strength in enumerate(strengths):
            for statistic, series in {**values, "off_language": [0.0] * 4}.items():
                value = series[i] if kind == "direction" else series[1]
                label = {"strength": strength, "direction": name, "kind": kind, "seed": 0, "language": "sw", "tier": "low"}
                rows.append({**label, "statistic": statistic, "value": value, "low": value, "high": value, "n": 9, "judge": "x", "validated": True})
    return StrengthSweep(pd.DataFrame(rows), {"split": split})


MEASURED = dict(
    harmful_refusal=[0.1, 0.5, 0.8, 0.9],
    harmless_refusal=[0.0, 0.0, 0.1, 0.8],
    selectivity=[0.1, 0.5, 0.7, 0.1],
    answer_accuracy=[0.9, 0.9, 0.86, 0.1],
    garbled=[0.0, 0.0, 0.0, 0.3],
)


def test_the_smallest_strength_that_reaches_the_aim_within_the_cost_is_chosen():
    sweep = made_up(**MEASURED)
    assert choose_strength(sweep).strength == 1.0
    assert choose_strength(sweep, statistic="harmful_refusal", at_least=0.5).strength == 0.0
    assert choose_strength(sweep, statistic="harmful_refusal", at_most=0.2).strength == -1.0
    assert choose_strength(sweep, margin=0.03).strength == 0.0, "an accuracy lower by .04 is then too much"
    assert choose_strength(sweep, statistic="harmless_refusal", at_least=0.5, margin=0.3).strength == 2.0, "answers withheld on purpose cost nothing"
    table = choose_strength(sweep).table.set_index("strength")
    assert table.loc[1.0, "control_high"] == 0.5 and not table.loc[2.0, "allowed"]


def test_no_strength_that_reaches_the_aim_names_the_nearest_and_what_it_would_cost():
    with pytest.raises(DataError, match=r"The nearest that is allowed is 1 \(0.80\); \[2.0\] would reach it at a higher cost"):
        choose_strength(made_up(**MEASURED), statistic="harmful_refusal", at_least=0.85)
    with pytest.raises(DataError, match="none reaches it at any cost"):
        choose_strength(made_up(**MEASURED), statistic="harmful_refusal", at_least=0.99)


def test_strengths_are_not_chosen_where_they_are_scored_nor_by_what_was_not_measured():
    with pytest.raises(DataError, match="measured on the split 'score'"):
        choose_strength(made_up(split="score", **MEASURED))
    with pytest.raises(DataError, match="Did you mean 'selectivity'"):
        choose_strength(made_up(**MEASURED), statistic="selectivty")
    with pytest.raises(DataError, match="no 'en'; it has sw"):
        choose_strength(made_up(**MEASURED), languages=["en"])
    with pytest.raises(DataError, match="Expected one aim"):
        choose_strength(made_up(**MEASURED), at_least=0.1, at_most=0.2)


def test_a_sweep_survives_saving(tmp_path):
    sweep = made_up(**MEASURED)
    again = StrengthSweep.load(sweep.save(tmp_path / "strengths.parquet"))
    assert choose_strength(again).strength == 1.0 and again.stopped.empty
