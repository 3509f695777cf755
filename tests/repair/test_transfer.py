"""Gates carried from language to language: rank, source threshold, own threshold and null, where the truth is planted."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from tests.repair.planted import TIERS, planted_states
from workbench.errors import DataError
from workbench.gates import RecalibratedGate
from workbench.gates.one_direction import DirectionGate
from workbench.repair.transfer import ALL_OTHERS, STATISTICS, GateTransfer, gate_transfer


@pytest.fixture(scope="module")
def data():
    """Harm lies along axis 0 (shifted in sw), but along axis 1 in am."""
    data = planted_states(shifts={"en": 0.0, "de": 0.1, "sw": -4.0, "am": 0.0}, spread=0.8, seed=1)
    states, am = data.X.copy(), data.language == "am"
    states[am] = states[am][:, [1, 0, *range(2, 8)]]
    return replace(data, X=states)


@pytest.fixture(scope="module")
def found(data):
    return gate_transfer(data, TIERS)


def cell(found, source, target, statistic, column="value"):
    table = found.table
    row = table[(table["source"] == source) & (table["target"] == target) & (table["statistic"] == statistic)]
    assert len(row) == 1
    return row.iloc[0][column]


def test_every_language_and_all_the_others_are_scored_on_every_target(found):
    table = found.table
    assert len(table) == (4 * 4 + 4) * len(STATISTICS)
    assert set(table["source"]) == {*TIERS, ALL_OTHERS} and table["tier"].equals(table["target"].map(TIERS))
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all() and (table["low"] < table["high"]).all()
    assert set(table["n"]) == {40}


def test_a_shifted_language_is_ranked_but_misjudged_until_it_has_its_own_threshold(found):
    assert cell(found, "en", "sw", "auroc") > 0.95
    assert cell(found, "en", "sw", "balanced_accuracy") < 0.6 < 0.9 < cell(found, "en", "sw", "own_balanced_accuracy")
    assert cell(found, "en", "de", "balanced_accuracy") > 0.9


def test_a_language_with_a_direction_of_its_own_is_ranked_by_itself_only(found):
    assert cell(found, "am", "am", "auroc") > 0.95
    assert cell(found, "en", "am", "auroc") < 0.8 and cell(found, ALL_OTHERS, "am", "auroc") < 0.8, "the target is not among all others"


def test_permuted_labels_rank_at_chance(found):
    assert abs(found.table.loc[found.table["statistic"] == "auroc", "null"].mean() - 0.5) < 0.1
    assert cell(found, "en", "de", "balanced_accuracy", "null") < 0.75


def test_a_cell_is_what_scikit_learn_counts(data, found):
    gate = RecalibratedGate().fit(data.select(split="fit", languages=["en", "de", "am"]))
    score = data.select(split="score", languages=["sw"])
    assert cell(found, ALL_OTHERS, "sw", "auroc") == pytest.approx(roc_auc_score(score.y, gate.decision_function(score)))
    decided = gate.predict(score, "unknown")
    assert cell(found, ALL_OTHERS, "sw", "balanced_accuracy") == pytest.approx(balanced_accuracy_score(score.y, decided))


def test_nothing_scored_is_fitted_on(data, found):
    """With the scored labels turned around, the gates and thresholds stay and every value is mirrored."""
    turned = gate_transfer(replace(data, y=np.where(data.split == "score", ~data.y, data.y)), TIERS)
    assert np.allclose(turned.table["value"], 1 - found.table["value"])


def test_a_seed_repeats_any_gate_may_be_used_and_the_table_is_saved(data, found, tmp_path):
    assert gate_transfer(data, TIERS).table.equals(found.table)
    other = gate_transfer(data, {}, make=DirectionGate)
    assert other.table["tier"].isna().all() and not np.allclose(other.table["value"], found.table["value"])
    assert GateTransfer.load(found.save(tmp_path / "transfer.parquet")).table.equals(found.table)
    assert len(found.summary()) == 4


def test_what_cannot_be_transferred_is_refused(data):
    with pytest.raises(DataError, match="nulls=4"):
        gate_transfer(data, TIERS, nulls=4)
    with pytest.raises(DataError, match="Only en is there"):
        gate_transfer(data.select(languages="en"), TIERS)
    with pytest.raises(DataError, match="'sw' has 0 harmful and 20 harmless prompts in the split 'select'"):
        gate_transfer(data.take(~((data.language == "sw") & data.y & (data.split == "select"))), TIERS)
