"""Translations are found when planted, not when destroyed; ties, nulls, controls and intervals behave."""

import numpy as np
import pytest
from planted import activations, additive

from workbench.errors import DataError
from workbench.geometry import retrieval
from workbench.geometry.retrieval import Found, precision_at_1, proportion_interval, shift_of, translations_found, unit_states

HIGH = ["qaa", "qab"]


def test_planted_meaning_is_retrieved_and_destroyed_meaning_is_not(rng):
    states = additive(rng, [1, 1], [1.5, 0], n_languages=4, n=64, hidden=48)
    table = retrieval(activations(states), HIGH).table.set_index(["layer", "language"])
    assert (table.loc[0, "value"] > 0.95).all() and (table.loc[0, "low"] > table.loc[0, "null_95"]).all()
    assert (table.loc[1, "value"] <= table.loc[1, "null_95"]).all()
    assert table["chance"].unique() == pytest.approx(1 / 16) and (table["n"] == 16).all()  # the score split of 64 meanings
    broken = states.copy()
    broken[3] = broken[3][rng.permutation(64)]
    table = retrieval(activations(broken), HIGH).table.set_index(["layer", "language"])
    assert table.loc[(0, "qad"), "value"] < 0.2 and table.loc[(0, "qac"), "value"] > 0.95


def test_a_constant_language_shift_hides_meaning_only_without_centring(rng):
    states = additive(rng, [0], [2.0], n_languages=3, n=64, hidden=24)
    states[2] += 30 * rng.normal(size=24)
    table = retrieval(activations(states), HIGH).table.set_index("language")
    assert table.loc["qac", "value"] > 0.9 and table.loc["qac", "value_uncentred"] < 0.8
    other = retrieval(activations(states), HIGH, centre=False).table.set_index("language")
    assert other.loc["qac", "value"] == pytest.approx(table.loc["qac", "value_uncentred"])


def test_the_uncentred_value_and_the_shift_have_intervals(rng):
    states = additive(rng, [0, 0], [2.0, 2.0], n_languages=3, n=64, hidden=24)
    states[2, :, 1] += 30 * rng.normal(size=24)
    table = retrieval(activations(states), HIGH).table.set_index(["layer", "language"])
    near, far = table.loc[(0, "qac")], table.loc[(1, "qac")]
    assert far["shift"] == pytest.approx(far["value"] - far["value_uncentred"]) and far["shift_low"] > 0.1
    assert near["shift_low"] < 0 < near["shift_high"]
    for _, row in table.iterrows():
        assert (
            row["low"] <= row["value"] <= row["high"]
            and row["uncentred_low"] <= row["value_uncentred"] <= row["uncentred_high"]
            and row["shift_low"] <= row["shift"] <= row["shift_high"]
        )
    bare = retrieval(activations(states), HIGH, centre=False).table.set_index(["layer", "language"])
    assert bare[["low", "high"]].to_numpy() == pytest.approx(table[["uncentred_low", "uncentred_high"]].to_numpy())
    assert bare["shift"].to_numpy() == pytest.approx(table["shift"].to_numpy())


def test_a_shift_of_nothing_keeps_a_width_and_perfect_agreement_a_small_one(rng):
    always = Found(1.0, np.ones(16), np.zeros(0))
    assert shift_of(always, always).high == pytest.approx(np.hypot(0, 1 - proportion_interval(1.0, np.ones(16)).low))
    hits = rng.random(64) < 0.6
    same = Found(float(hits.mean()), (hits.sum() - hits) / 63, np.zeros(0))
    other = Found(float(hits.mean()), rng.permutation(same.without), np.zeros(0))
    assert shift_of(same, same).high - shift_of(same, same).low < 0.06 < shift_of(same, other).high - shift_of(same, other).low


def test_one_permutation_holds_for_both_directions(rng):
    shared = rng.normal(size=(40, 8))
    similar = (shared + rng.normal(size=(40, 8))) @ (shared + rng.normal(size=(40, 8))).T
    shuffles = np.stack([rng.permutation(40) for _ in range(5)])
    again = [translations_found(similar[:, s], shuffles[:0]).value for s in shuffles]
    assert translations_found(similar, shuffles).null == pytest.approx(again)


def test_the_control_is_asked_about_the_meanings_that_were_drawn(rng):
    acts = activations(additive(rng, [1], [0.6], n_languages=3, n=96, hidden=12))
    table = retrieval(acts, HIGH, control=acts, split=None, max_meanings=24, rng=np.random.default_rng(7)).table
    assert (table["n"] == 24).all() and table["control"].tolist() == table["value"].tolist()


def test_one_constant_token_retrieves_at_chance(rng):
    table = retrieval(activations(np.ones((3, 32, 1, 1, 4))), HIGH).table
    assert table["value"].to_numpy() == pytest.approx(1 / 8)


def test_credit_is_shared_among_ties_and_equals_a_plain_search_without_them(rng):
    similar = rng.normal(size=(9, 9))
    credit, _ = precision_at_1(similar)
    assert (credit.argmax(axis=1) == similar.argmax(axis=1)).all() and (credit.sum(axis=1) == 1).all()
    similar[4, [4, 7]] = 10
    credit, _ = precision_at_1(similar)
    assert credit[4, 4] == credit[4, 7] == 0.5


def test_units_have_norm_one_and_no_language_mean(rng):
    states = rng.normal(size=(2, 6, 4)) + 5
    assert np.linalg.norm(unit_states(states), axis=-1) == pytest.approx(1)
    assert unit_states(states, centre=False) == pytest.approx(states / np.linalg.norm(states, axis=-1, keepdims=True))
    assert (unit_states(np.ones((2, 3, 4))) == 0).all()


def test_leaving_out_a_meaning_equals_computing_without_it(rng):
    shared = rng.normal(size=(12, 6))
    similar = (shared + rng.normal(size=(12, 6))) @ (shared + rng.normal(size=(12, 6))).T
    credit, gain = precision_at_1(similar)
    hits = np.diag(credit)
    for k in range(12):
        kept = np.arange(12) != k
        expected = np.diag(precision_at_1(similar[np.ix_(kept, kept)])[0]).mean()
        assert (hits.sum() - hits[k] + gain[k]) / 11 == pytest.approx(expected)


def test_both_ways_are_averaged(rng):
    shared = rng.normal(size=(64, 5))
    states = np.stack([shared, shared + 1.2 * rng.normal(size=shared.shape)])[:, :, None, None]
    table = retrieval(activations(states), ["qaa"], split=None, permutations=0).table.set_index("language")
    first, second = unit_states(states[:, :, 0, 0].astype(np.float32).astype(np.float64))
    there, back = (np.diag(precision_at_1(m)[0]).mean() for m in (first @ second.T, second @ first.T))
    assert there != back and table.loc["qab", "value"] == pytest.approx((there + back) / 2)


def test_the_layer_is_chosen_on_the_select_split_only(rng):
    states = additive(rng, [1, 1, 1], [0, 1.0, 1.0], n_languages=3, n=64, hidden=16)
    split = np.array(["fit", "fit", "select", "score"])[(np.arange(64) // 2) % 4]
    destroyed = states.copy()
    destroyed[2, split == "select", 2] = rng.normal(size=(16, 1, 16))
    destroyed[2, split == "score", 1] = rng.normal(size=(16, 1, 16))
    result = retrieval(activations(destroyed), HIGH)
    assert result.provenance["chosen"] == {"t_inst": 1}  # although layer 2 is better where it is scored
    assert set(result.summary()["layer"]) == {1}


def test_the_untrained_control_stands_beside_the_value_at_the_same_place(rng):
    states = additive(rng, [1, 1], [0.8, 1.2], n_languages=3, n=32, hidden=24)
    noise = activations(rng.normal(size=states.shape))
    table = retrieval(activations(states), HIGH, control=noise).table
    expected = retrieval(noise, HIGH).table
    assert table["control"].tolist() == expected["value"].tolist()
    assert retrieval(activations(states), HIGH).table["control"].isna().all()


def test_a_sole_reference_cannot_be_compared_with_itself_and_unknown_ones_are_named(rng):
    acts = activations(additive(rng, [1], [1], n_languages=3, n=16, hidden=8))
    table = retrieval(acts, ["qaa"]).table.set_index("language")
    assert np.isnan(table.loc["qaa", "value"]) and table.loc["qab", "value"] > 0
    with pytest.raises(DataError, match="Reference language 'en'"):
        retrieval(acts, ["en"])
    with pytest.raises(DataError, match="No reference"):
        retrieval(acts, [])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "strength", "hidden"), [(64, 0.3, 32), (128, 0.5, 64), (128, 0.0, 64), (128, 1.0, 64)])
def test_intervals_cover_the_expected_precision(n, strength, hidden, rng):
    draws = []
    for _ in range(120):
        states = additive(rng, [0], [strength], n_languages=4, n=n, hidden=hidden)
        draws.append(retrieval(activations(states), ["qaa", "qab", "qac"], select=None, permutations=0).table.set_index("language").loc["qad"])
    for columns in (("value", "low", "high"), ("value_uncentred", "uncentred_low", "uncentred_high"), ("shift", "shift_low", "shift_high")):
        value, low, high = (np.array([d[c] for d in draws]) for c in columns)
        assert ((low <= value.mean()) & (value.mean() <= high)).mean() >= 0.9, columns
        assert np.median(high - low) <= 0.25, columns
