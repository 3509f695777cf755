"""AUROC per language, the choice of a layer on select rows, and what a threshold costs when it does not transfer."""

import numpy as np
import pytest
from planted import activations, with_harm
from sklearn.metrics import roc_auc_score

from workbench.directions import choose_layer, harm_direction, project, thresholds, transfer_auroc
from workbench.errors import DataError

HIGH = ["qaa", "qab", "qac"]


def scores_of(states, reference=HIGH):
    acts = activations(states)
    return project(acts, harm_direction(acts, reference))


def test_transfer_fails_where_harm_was_not_planted_and_agrees_with_scikit_learn(rng):
    strength = np.array([5.0, 5, 5, 5, 0])
    scores = scores_of(with_harm(rng, strength, n_languages=5, n=256)[0])
    table = transfer_auroc(scores, HIGH).table.set_index(["position", "layer", "language"])
    last = table.loc["t_inst", 4]
    assert last.loc["qad", "low"] > 0.9 and last.loc["qae", "low"] < 0.5 < last.loc["qae", "high"]
    kept = (scores["language"].values == "qad") & (scores["split"].values == "score")
    expected = roc_auc_score(scores["harmful"].values[kept], scores.sel(layer=2, position="t_inst").values[kept])
    assert table.loc[("t_inst", 2, "qad"), "value"] == pytest.approx(expected)
    assert last.loc["qad", "n_harmful"] == last.loc["qad", "n_harmless"] == 32
    assert last["is_reference"].tolist() == [True, True, True, False, False] and last.loc["qad", "tier"] == "low"


def test_scored_rows_and_other_languages_do_not_sway_the_choice_of_a_layer(rng):
    scores = scores_of(with_harm(rng, 3.0, n_languages=5, n=128)[0])
    before = choose_layer(scores, HIGH)
    changed = scores.copy(deep=True)
    others = (scores["split"].values != "select") | ~np.isin(scores["language"].values, HIGH)
    changed[others] = rng.normal(size=(int(others.sum()), 5, 2))
    after = choose_layer(changed, HIGH)
    assert after.layers() == before.layers() == {"t_inst": 4, "t_post_inst": 4}
    assert after.table["auroc"].equals(before.table["auroc"]) and len(after.summary()) == 2


def test_among_saturated_layers_the_widest_apart_wins_and_then_the_earliest(rng):
    states, axis = with_harm(rng, 40.0, n_languages=4, n=64)
    states[:, :, 3] += np.where(np.arange(64) % 2 == 0, 30.0, -30.0)[None, :, None, None] * axis
    assert choose_layer(scores_of(states), HIGH).layers()["t_inst"] == 3
    states[:, :, 4] = states[:, :, 3]
    assert choose_layer(scores_of(states), HIGH).layers()["t_inst"] == 3


def test_a_threshold_that_does_not_transfer_is_told_from_one_that_does(rng):
    shift = np.array([0, 0, 0, 0, 6.0])
    scores = scores_of(with_harm(rng, 8.0, n_languages=5, n=256, shift=shift)[0])
    table = thresholds(scores, HIGH, {"t_inst": 4}).table.set_index("language")
    assert table.loc["qae", "gap_low"] > 0.2 and table.loc["qae", "balanced_accuracy_own"] > 0.95
    assert table.loc["qae", "own_threshold"] - table.loc["qae", "transferred_threshold"] == pytest.approx(6, abs=1.5)
    assert table.loc["qad", "gap_low"] <= 0 <= table.loc["qad", "gap_high"] and table.loc["qad", "balanced_accuracy_transferred"] > 0.95
    assert table["transferred_threshold"].nunique() == 1 and (table["n"] == 64).all()


def test_thresholds_ignore_the_rows_they_are_scored_on(rng):
    scores = scores_of(with_harm(rng, 4.0, n_languages=4, n=128)[0])
    choice = choose_layer(scores, HIGH)
    changed = scores.copy(deep=True)
    changed[scores["split"].values == "score"] = 50.0
    columns = ["transferred_threshold", "own_threshold"]
    assert thresholds(changed, HIGH, choice).table[columns].equals(thresholds(scores, HIGH, choice.layers()).table[columns])
    with pytest.raises(DataError, match="same meanings"):
        thresholds(scores, HIGH, choice, select="score")
    with pytest.raises(DataError, match="layer 77"):
        thresholds(scores, HIGH, {"t_inst": 77})


def test_a_language_with_one_class_and_an_unknown_reference_are_named(rng):
    scores = scores_of(with_harm(rng, 4.0, n_languages=4, n=64)[0])
    lacking = scores.isel(prompt=(scores["language"].values != "qad") | scores["harmful"].values)
    with pytest.raises(DataError, match=r"'qad' has \d+ harmful and 0 harmless"):
        transfer_auroc(lacking, HIGH)
    with pytest.raises(DataError, match="'en'"):
        transfer_auroc(scores, ["en"])
    with pytest.raises(DataError, match="No reference"):
        choose_layer(scores, [])


def test_a_constant_token_scores_exactly_one_half(rng):
    states, _ = with_harm(rng, 4.0, n_languages=4, n=64)
    states[:, :, 0] = 0.37
    table = transfer_auroc(scores_of(states), HIGH).table
    assert (table.query("layer == 0")["value"] == 0.5).all()
