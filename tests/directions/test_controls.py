"""A direction that is a language or a topic in disguise is told; methods are compared on the same meanings."""

import numpy as np
import pytest
from planted import activations

from workbench.directions import compare_methods, direction_controls
from workbench.directions.controls import IDENTITY
from workbench.errors import DataError


def states_with(rng, *, n=160, hidden=64, harm=4.0):
    """Three languages; harm along axis 0; the topic of a quarter of the harmful meanings along axis 1."""
    states = rng.normal(size=(3, n, 1, 1, hidden))
    harmful, topic = np.arange(n) % 2 == 0, np.where(np.arange(n) % 8 == 0, "first", np.where(np.arange(n) % 8 == 1, "second", "other"))
    states[..., 0] += np.where(harmful, harm / 2, -harm / 2)[None, :, None, None]
    states[..., 1] += np.where(topic == "first", 4.0, 0.0)[None, :, None, None]
    category = np.tile(topic.astype(object), 3)
    return activations(states, splits=False).assign_coords(category=("prompt", category))


def test_a_direction_that_is_neither_is_told_apart_from_both(rng):
    table = direction_controls(states_with(rng, harm=6.0), ["qaa", "qab", "qac"], split=None).table
    rows = table[table["control"] == IDENTITY]
    assert len(rows) == 3 and (rows["value"].abs() < 0.4).all() and (rows["low"] < rows["value"]).all() and (rows["n"] == 80).all()
    assert rows["shared"].isna().all()
    topics = table[table["control"] == "topic: first"]
    assert len(topics) == 3 and (topics["shared"] > 0.7).all()  # a planted topic is as shared as harm
    assert (topics["value"].abs() < 0.4).all() and (topics["n"] == 20).all()


def test_harm_that_lies_in_one_topic_only_points_there(rng):
    acts = states_with(rng, harm=0.0)
    one_topic = acts.isel(prompt=np.flatnonzero(~acts["harmful"].values | (np.arange(acts.sizes["prompt"]) % 4 == 0)))
    table = direction_controls(one_topic, ["qaa", "qab", "qac"], split=None).table
    assert (table.loc[table["control"] == "topic: first", "value"] > 0.6).all()


def test_a_class_that_only_one_language_has_points_to_the_language(rng):
    """qaa's negative class lies elsewhere: its direction is its identity, reversed."""
    acts = states_with(rng, harm=0.0)
    moved = (acts["language"].values == "qaa") & ~acts["harmful"].values
    acts["residual"][moved, 0, 0, 5] += 8.0
    table = direction_controls(acts, ["qaa", "qab", "qac"], split=None).table.set_index(["language", "control"])
    found = table.loc[("qaa", IDENTITY)]
    assert found["value"] < -0.9 and found["high"] < -0.8 and found["random_95"] < 0.3


def test_topics_on_both_sides_are_named_by_class_and_small_ones_left_out(rng):
    acts = states_with(rng)
    both = acts.assign_coords(category=("prompt", np.where(acts["category"].values == "second", "first", acts["category"].values)))
    assert {"topic: first, positive", "topic: first, negative"} <= set(direction_controls(both, ["qaa", "qab"], split=None).table["control"])
    rare = acts["category"].values.copy()
    rare[(rare == "second") & (acts["meaning_id"].values != "m1")] = "other"
    names = set(direction_controls(acts.assign_coords(category=("prompt", rare)), ["qaa", "qab"], split=None).table["control"])
    assert "topic: second" not in names and "topic: first" in names
    bare = direction_controls(acts.drop_vars("category"), ["qaa", "qab"], split=None)
    assert set(bare.table["control"]) == {IDENTITY} and list(bare.summary()["control"]) == [IDENTITY]


def test_a_constant_state_has_no_controls(rng):
    acts = states_with(rng)
    acts["residual"][:] = 0.5
    table = direction_controls(acts, ["qaa", "qab"], split=None).table
    assert table["value"].isna().all() and table["low"].isna().all()
    with pytest.raises(DataError, match="two languages or more"):
        direction_controls(acts, ["qaa"], split=None)


def test_methods_that_must_agree_do_and_the_one_that_loses_the_difference_does_not(rng):
    acts = states_with(rng, harm=8.0)
    methods = ["difference_in_means", "first_component", "pca_pairwise", "pca_diff", "logistic"]
    found = compare_methods(acts, ["qaa", "qab"], methods=methods, split=None, halvings=3, draws=10)
    table = found.table.set_index(["method", "other_method"])
    assert len(table) == 10 and (table["across"] == "methods").all()
    assert table.loc[("difference_in_means", "pca_pairwise"), "value"] > 0.95 > abs(table.loc[("difference_in_means", "pca_diff"), "value"])
    assert table.loc[("difference_in_means", "first_component"), "value"] > 0.99
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert table.loc[("difference_in_means", "logistic"), "reliability"] > 0.9
    assert table.loc[("difference_in_means", "pca_pairwise"), "high"] - table.loc[("difference_in_means", "pca_pairwise"), "low"] < 0.1
    assert abs(table.loc[("difference_in_means", "pca_diff"), "value"]) < 0.5


def test_pairs_that_are_given_are_kept_whole(rng):
    acts = states_with(rng, harm=6.0)
    pairs = np.array([f"p{int(m[1:]) // 2}" for m in acts["meaning_id"].values], dtype=object)
    found = compare_methods(
        acts.assign_coords(pair_id=("prompt", pairs)), ["qaa"], methods=["difference_in_means", "pca_pairwise"], split=None, halvings=2, draws=4
    )
    assert found.table["n"].tolist() == [80] and found.table["value"].iloc[0] > 0.9


def test_methods_without_anything_to_compare_are_refused(rng):
    acts = states_with(rng, n=32)
    with pytest.raises(DataError, match="Expected two methods"):
        compare_methods(acts, ["qaa"], methods=["logistic"], split=None)
    with pytest.raises(DataError, match="mean 'logistic'"):
        compare_methods(acts, ["qaa"], methods=["logistics", "pca_diff"], split=None)
    with pytest.raises(DataError, match="draws=1"):
        compare_methods(acts, ["qaa"], draws=1, split=None)
    acts["residual"][:] = 0.25
    row = compare_methods(acts, ["qaa"], methods=["logistic", "pca_diff"], split=None).table.iloc[0]
    assert np.isnan(row["value"]) and row["reason"] == "no difference between the classes"
