"""ROC curves of a gate: on scikit-learn's curve, with both thresholds where the gate decides, and no longer than asked."""

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score, roc_curve

from tests.repair.planted import TIERS, planted_states
from workbench.errors import DataError
from workbench.gates import RecalibratedGate, Shrinkage
from workbench.gates.adasteer import AdaSteer
from workbench.repair.methods import draw_examples, recalibrated
from workbench.repair.roc import RECALIBRATED, SOURCE, GateRoc, gate_roc, gate_scores
from workbench.statistics import balanced_accuracy


@pytest.fixture(scope="module")
def parts():
    data = planted_states(spread=2.5, meanings=600)
    gate = RecalibratedGate().fit(data.select(split="fit", languages=["en", "de"]))
    examples = draw_examples(data.select(split="fit", languages=["sw", "am"]), ["sw", "am"], 4, 1).examples[0]
    return gate, recalibrated(gate, examples, Shrinkage()), data


@pytest.fixture(scope="module")
def found(parts):
    return gate_roc(*parts, TIERS)


def test_points_lie_on_the_curve_from_nothing_to_everything(parts, found):
    gate, _, data = parts
    for tag, rows in found.table.groupby("language"):
        score = data.select(split="score", languages=[tag])
        false, hit, _ = roc_curve(score.y, gate.decision_function(score), drop_intermediate=False)
        theirs = set(zip(false.round(9), hit.round(9), strict=True))
        assert set(zip(rows["false_alarm"].round(9), rows["hit"].round(9), strict=True)) <= theirs
        assert rows[["false_alarm", "hit"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
        assert rows["point"].tolist() == list(range(len(rows)))
        assert rows["false_alarm"].is_monotonic_increasing and rows["hit"].is_monotonic_increasing and rows["threshold"].is_monotonic_decreasing


def test_the_area_is_the_auroc_and_its_interval_holds_it(parts, found):
    gate, _, data = parts
    for tag, rows in found.table.groupby("language"):
        score = data.select(split="score", languages=[tag])
        assert rows["auroc"].iloc[0] == pytest.approx(roc_auc_score(score.y, gate.decision_function(score)))
        assert auc(rows["false_alarm"], rows["hit"]) == pytest.approx(rows["auroc"].iloc[0], abs=1e-9)
        assert (rows["auroc_low"] < rows["auroc"]).all() and (rows["auroc"] < rows["auroc_high"]).all() and set(rows["n"]) == {200}


def test_marks_stand_where_the_gates_decide(parts, found):
    gate, tuned, data = parts
    marks = found.summary().set_index(["language", "mark"])
    assert sorted(marks.index) == sorted([(tag, SOURCE) for tag in TIERS] + [(tag, RECALIBRATED) for tag in ("sw", "am")])
    for (tag, mark), row in marks.iterrows():
        score = data.select(split="score", languages=[tag])
        fires = gate.predict(score, "unknown") if mark == SOURCE else tuned.predict(score)
        assert row["hit"] == pytest.approx(fires[score.y].mean()) and row["false_alarm"] == pytest.approx(fires[~score.y].mean())


def test_a_thinned_curve_keeps_ends_marks_and_shape(parts, found):
    few = gate_roc(*parts, TIERS, at_most=20).table
    assert few.groupby("language").size().max() <= 20 < found.table.groupby("language").size().max() <= 200
    assert (few["mark"] != "").sum() == 6
    for _, rows in few.groupby("language"):
        assert rows[["false_alarm", "hit"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
        assert auc(rows["false_alarm"], rows["hit"]) == pytest.approx(rows["auroc"].iloc[0], abs=0.02)


def test_scores_stand_beside_every_threshold_of_their_language(parts):
    gate, tuned, data = parts
    table = gate_scores(gate, tuned, data, TIERS)
    assert table["prompt_id"].tolist() == data.prompt_id.tolist() and np.array_equal(table["score"], gate.decision_function(data))
    assert np.array_equal(table["score"] >= table["threshold"], tuned.predict(data))
    assert set(table["source_threshold"]) == {gate.fallback_} and (table["tier"] == table["language"].map(TIERS)).all()
    assert (table.loc[table["tier"] == "high", "threshold"] == gate.fallback_).all()
    for _, rows in table[table["split"] == "score"].groupby("language"):
        y, score = rows["harmful"].to_numpy(), rows["score"].to_numpy()
        best = balanced_accuracy(y, score > rows["own_threshold"].iloc[0])
        assert best == pytest.approx(max(balanced_accuracy(y, score >= t) for t in score))


def test_a_language_of_one_class_is_left_out_and_noted(parts):
    gate, tuned, data = parts
    some = data.take(~((data.language == "sw") & data.y))
    found = gate_roc(gate, tuned, some, TIERS)
    assert "sw" not in set(found.table["language"])
    assert found.provenance["left_out"] == [{"language": "sw", "reason": "0 harmful and 100 harmless prompts"}]
    scores = gate_scores(gate, tuned, some, TIERS)
    assert scores.loc[scores["language"] == "sw", "own_threshold"].isna().all()
    with pytest.raises(DataError, match="No language of en, de, sw, am has harmful and harmless"):
        gate_roc(gate, tuned, data.take(data.y), TIERS)


def test_the_table_is_saved_and_what_has_no_one_curve_is_refused(parts, found, tmp_path):
    gate, tuned, data = parts
    assert GateRoc.load(found.save(tmp_path / "roc.parquet")).table.equals(found.table)
    with pytest.raises(DataError, match="at_most=9"):
        gate_roc(gate, tuned, data, TIERS, at_most=9)
    law = AdaSteer().fit(data.select(split="fit", languages=["en", "de"]))
    moved = law.recalibrate(data.select(split="fit", languages=["sw"]).draw(4, "sw", np.random.default_rng(0)))
    with pytest.raises(DataError, match="lie on different curves"):
        gate_roc(law, moved, data, TIERS)
