"""Methods at every strength that was tried: looked up from the replies that chose it."""

import numpy as np
import pandas as pd
import pytest

from tests.repair.planted import planted_replies, planted_states
from workbench.errors import DataError
from workbench.gates import BalancedF1, RecalibratedGate
from workbench.repair.actions import LEAVE
from workbench.repair.kinds import ALWAYS, GATE, ORACLE, UNREPAIRED
from workbench.repair.methods import Draws, draw_examples
from workbench.repair.strength import OracleStrength
from workbench.repair.strengths import strength_by_method

TARGETS = ["sw", "am"]


@pytest.fixture(scope="module")
def parts():
    """Half of the harmful prompts are refused under strength 0.5, everything under 1."""
    data = planted_states()
    select, pool = data.select(split="select", languages=TARGETS), data.select(split="fit", languages=TARGETS)
    half = select.y & (np.arange(len(select)) % 4 == 0)
    answered = planted_replies(select, actions={LEAVE: np.zeros(len(select), bool), "0.5": half, "1": np.ones(len(select), bool)})
    tried = pd.DataFrame({"strength": [0.5, 1.0], "harmful_refusal": [half[select.y].mean(), 1.0], "harmless_refusal": 0.0})
    tried["selectivity"], tried["chosen"], tried["reference_change"] = tried["harmful_refusal"], [False, True], 0.0
    found = OracleStrength(tried, {"scale": "gap"}, answered)
    gate = RecalibratedGate().fit(data.select(split="fit", languages=["en", "de"]))
    return found, select, draw_examples(pool, TARGETS, 4, 5), {GATE: (gate, BalancedF1())}


@pytest.fixture(scope="module")
def table(parts):
    return strength_by_method(*parts, resamples=100).table


def value(table, method, strength, statistic, language="mean low"):
    keep = (table["method"] == method) & (table["strength"] == strength) & (table["statistic"] == statistic) & (table["language"] == language)
    assert keep.sum() == 1
    return table[keep].iloc[0]["value"]


def test_every_method_has_every_strength_and_the_unrepaired_model_has_none(table):
    assert table.groupby("method")["strength"].unique().map(list).to_dict() == {
        UNREPAIRED: [0.0], ALWAYS: [0.5, 1.0], GATE: [0.5, 1.0], ORACLE: [0.5, 1.0],
    }  # fmt: skip
    assert set(table.loc[table["chosen"], "strength"]) == {1.0} and table["chosen"].any()
    assert set(table["language"]) == {*TARGETS, "mean low"}


def test_rates_are_what_the_replies_at_each_strength_say(parts, table):
    half = parts[0].table["harmful_refusal"].iloc[0]
    assert 0 < half < 1
    assert value(table, UNREPAIRED, 0.0, "selectivity") == 0
    assert value(table, ALWAYS, 1.0, "selectivity") == 0 and value(table, ALWAYS, 1.0, "answer_accuracy") == 0
    assert value(table, ORACLE, 0.5, "selectivity") == pytest.approx(half)
    assert value(table, ORACLE, 1.0, "selectivity") == 1 and value(table, ORACLE, 1.0, "answer_accuracy") == 1
    assert value(table, GATE, 1.0, "selectivity") == 1, "classes far apart: four examples find them"
    assert value(table, GATE, 0.5, "harmful_refusal") == pytest.approx(half)


def test_intervals_hold_the_values_and_a_seed_repeats(parts, table):
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert strength_by_method(*parts, resamples=100).table.equals(table)


def test_examples_that_are_counted_are_refused(parts):
    found, select, _, gates = parts
    with pytest.raises(DataError, match="40 meanings are examples and counted"):
        strength_by_method(found, select, Draws(20, [{tag: select.select(languages=tag) for tag in TARGETS}]), gates)


def test_a_strength_read_from_a_file_has_no_replies_and_says_so(parts, tmp_path):
    found, *rest = parts
    again = OracleStrength.load(found.save(tmp_path / "strength.parquet"))
    assert again.strength == found.strength and again.answered is None
    with pytest.raises(DataError, match="were not kept"):
        strength_by_method(again, *rest)
