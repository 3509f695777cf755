"""Cosines between directions: the planted angle is found where noise and shared meanings hide it, and intervals cover it."""

import numpy as np
import pytest
from planted import activations

from workbench.directions import Contrast, DirectionCosines, compare_directions, language_directions
from workbench.directions.compare import LEAST_RELIABLE, disattenuated, random_cosine_95, spearman_brown, z_interval
from workbench.errors import DataError


def planted(rng, degrees, *, n=160, hidden=64, strength=2.0, shared=0.0, layers=1, splits=False):
    """States of one language per angle; ``shared`` is the length of noise that a meaning has in all languages."""
    axes = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1) @ np.eye(2, hidden)
    signs = np.where(np.arange(n) % 2 == 0, 0.5, -0.5)
    states = rng.normal(size=(len(degrees), n, layers, 1, hidden)) + shared * rng.normal(size=(1, n, layers, 1, hidden))
    states += 5 * rng.normal(size=(len(degrees), 1, layers, 1, hidden))
    states += strength * (signs[None, :, None] * axes[:, None])[:, :, None, None]
    return activations(states, splits=splits)


def compared(acts, **options):
    return compare_directions(acts, list(dict.fromkeys(acts["language"].values)), split=None, **options).table


def test_every_cosine_is_that_of_the_extracted_directions(rng):
    acts = planted(rng, [0, 30, 75], layers=2)
    table = compared(acts, draws=20)
    assert len(table) == 3 * 2 and (table["across"] == "languages").all()
    units = language_directions(acts, ["qaa", "qab", "qac"], split=None).unit
    for row in table.itertuples():
        one, other = (units.sel(language=tag, layer=row.layer, position="t_inst").values for tag in (row.language, row.other_language))
        assert row.value == pytest.approx(one @ other, abs=1e-9)
        assert row.low < row.value < row.high and row.other_tier == "high" and row.n == 160


def test_noise_hides_an_angle_that_the_reliabilities_give_back(rng):
    table = compared(planted(rng, [0, 40], n=400, strength=1.2))
    (row,) = table.itertuples()
    true = np.cos(np.radians(40))
    assert row.value < true - 0.08 and row.ceiling < 0.92
    assert row.disattenuated == pytest.approx(true, abs=0.12) and row.disattenuated_low < true < row.disattenuated_high


def test_shared_meanings_alone_make_directions_alike_and_the_halves_say_so(rng):
    """No contrast at all, but the same meanings in both languages: the plain cosine is high, the rest is not fooled."""
    table = compared(planted(rng, [0, 90], strength=0.0, shared=3.0))
    (row,) = table.itertuples()
    assert row.value > 0.8 and row.permuted_same_95 > 0.8 and row.permuted_95 < 0.5
    assert abs(row.apart) < 0.3 and row.ceiling < 0.5
    assert np.isnan(row.disattenuated) and "reliability of qa" in row.reason


def test_orthogonal_directions_on_shared_meanings_come_out_orthogonal(rng):
    table = compared(planted(rng, [0, 90], n=400, strength=4.0, shared=3.0))
    (row,) = table.itertuples()
    assert row.value > row.disattenuated + 0.1 and row.disattenuated == pytest.approx(0, abs=0.15)


def test_reliability_predicts_how_two_independent_sets_of_meanings_agree(rng):
    values, stepped = [], []
    for _ in range(12):
        both = planted(rng, [0, 0], n=120, strength=1.5)
        (row,) = compared(both, draws=2, halvings=20).itertuples()  # noise of the two languages is unrelated: like two sets
        values.append(row.value)
        stepped.append(row.ceiling)
    assert np.mean(stepped) == pytest.approx(np.mean(values), abs=0.03)


def test_reliability_is_high_for_a_strong_direction_and_nothing_without_one(rng):
    strong, none = (compared(planted(rng, [0, 0], strength=s), draws=2).iloc[0] for s in (6.0, 0.0))
    assert strong["reliability"] > 0.9 and none["reliability"] < 0.4
    assert spearman_brown(0.5) == pytest.approx(2 / 3) and spearman_brown(-0.3) == 0


@pytest.mark.slow
def test_the_intervals_cover(rng):
    """80 draws of meanings: the cosine's interval covers its mean over draws, the corrected one's covers the true cosine."""
    found = []
    for _ in range(80):
        found.append(compared(planted(rng, [0, 40], n=80, strength=3.5, shared=0.5), draws=2, halvings=20).iloc[0])
    value, true = np.mean([row["value"] for row in found]), np.cos(np.radians(40))
    assert np.mean([row["low"] <= value <= row["high"] for row in found]) >= 0.88
    corrected = [row for row in found if row["reason"] is None]
    assert len(corrected) > 60
    assert np.mean([row["disattenuated_low"] <= true <= row["disattenuated_high"] for row in corrected]) >= 0.88
    assert np.median([row["high"] - row["low"] for row in found]) < 0.4


def test_label_free_directions_set_the_bar_where_states_vary_along_few_axes(rng):
    """One axis carries most of the variance: two label-free directions are alike without any reason."""
    n, hidden = 200, 64
    states = rng.normal(size=(2, n, 1, 1, hidden))
    states[..., 0] *= 20
    (row,) = compared(activations(states, splits=False)).itertuples()
    assert row.permuted_95 > 0.8 > row.random_95 == pytest.approx(random_cosine_95(hidden))


def test_permuted_labels_do_not_leak_a_large_true_difference(rng):
    weak, strong = (compared(planted(np.random.default_rng(3), [0, 0], strength=s)).iloc[0] for s in (0.0, 60.0))
    assert strong["permuted_95"] == pytest.approx(weak["permuted_95"], abs=0.1) and strong["permuted_95"] < 0.45


def test_random_directions_have_the_quantile_of_their_law(rng):
    drawn = rng.normal(size=(20_000, 24))
    cosines = np.abs(drawn[:, 0]) / np.linalg.norm(drawn, axis=1)
    assert np.quantile(cosines, 0.95) == pytest.approx(random_cosine_95(24), abs=0.01)
    assert cosines.mean() == pytest.approx(np.sqrt(2 / (np.pi * 24)), rel=0.03)
    with pytest.raises(DataError, match="at least 2"):
        random_cosine_95(1)


def test_layers_are_compared_with_the_languages_pooled(rng):
    axes = np.linalg.qr(rng.normal(size=(64, 3)))[0].T
    acts = planted(rng, [0, 0], strength=0.0, layers=3)
    signs = np.where(acts["harmful"].values, 2.0, -2.0)
    for layer, axis in enumerate((axes[0], axes[0], axes[1])):
        acts["residual"][:, layer, 0] += np.outer(signs, axis)
    table = compared(acts, across="layers").set_index(["layer", "other_layer"])
    assert len(table) == 3 and (table["language"] == "pooled").all()
    assert table.loc[(0, 1), "value"] > 0.9 and abs(table.loc[(0, 2), "value"]) < 0.3


def test_harm_at_one_position_is_held_against_refusal_at_the_other(rng):
    n, hidden = 160, 64
    harmful, refused = np.arange(n) % 2 == 0, (np.arange(n) // 2) % 2 == 0
    states = rng.normal(size=(2, n, 1, 2, hidden))
    states[:, :, 0, 0, 0] += np.where(harmful, 3.0, -3.0)
    states[:, :, 0, 1, 1] += np.where(refused, 3.0, -3.0)
    acts = activations(states, harmful=harmful, splits=False)
    told = Contrast("refusal", dict(zip(acts["prompt"].values.tolist(), np.tile(refused, 2).tolist(), strict=True)))
    table = compare_directions(acts, ["qaa", "qab"], across="positions", contrast=["harm", told], split=None).table
    assert len(table) == 6
    row = table.query("contrast == 'harm' and position == 't_inst' and other_contrast == 'refusal' and other_position == 't_post_inst'").iloc[0]
    assert abs(row["value"]) < 0.3 and row["low"] < 0.1 and row["high"] > -0.1 and row["reliability"] > 0.9 and row["other_reliability"] > 0.9
    weak = table.query("contrast == 'harm' and position == 't_post_inst' and other_position == 't_post_inst'").iloc[0]
    assert "harm at t_post_inst" in weak["reason"]


def test_a_constant_state_is_undefined_and_says_so(rng):
    acts = planted(rng, [0, 20], layers=2)
    acts["residual"][:, 0] = 0.7
    table = compared(acts, draws=5).set_index("layer")
    assert np.isnan(table.loc[0, ["value", "low", "apart", "permuted_95"]].astype(float)).all()
    assert table.loc[0, "reason"] == "no difference between the classes: qaa, qab" and np.isfinite(table.loc[1, "value"])


def test_the_same_seed_gives_the_same_table_and_it_survives_the_disk(rng, tmp_path):
    acts = planted(rng, [0, 20], splits=True)
    one, other = (compare_directions(acts, ["qaa", "qab"], rng=np.random.default_rng(5)) for _ in range(2))
    assert one.table.equals(other.table)
    loaded = DirectionCosines.load(one.save(tmp_path / "cosines.parquet"))
    assert loaded.table["value"].equals(one.table["value"]) and loaded.provenance["split"] == "fit"
    assert one.summary()["pairs"].tolist() == [1]


def test_twins_stay_together(rng):
    """Pairs of twins whose difference is the same in both: with a pair as the unit, its two members are never in different halves."""
    acts = planted(rng, [0, 20])
    paired = acts.assign_coords(pair_id=("prompt", np.array([f"p{int(m[1:]) // 2}" for m in acts["meaning_id"].values], dtype=object)))
    assert compared(paired, draws=2)["n"].tolist() == [80]


def test_languages_with_meanings_of_their_own_are_compared(rng):
    acts = planted(rng, [0, 30], n=160)
    other = acts["language"].values == "qab"
    acts = acts.assign_coords(meaning_id=("prompt", np.where(other, "z" + acts["meaning_id"].values.astype(object), acts["meaning_id"].values)))
    (row,) = compared(acts, draws=5).itertuples()
    assert row.n == 320 and row.low < row.value < row.high and row.reason is None


def test_disattenuation_names_what_forbids_it():
    good, weak = np.full(21, 0.8) + np.linspace(0, 0.01, 21), np.full(21, 0.2)
    told = disattenuated(np.full(21, 0.4), good, weak, ["en", "sw"], 0.95)
    assert told["reason"] == f"the reliability of sw is 0.33, below {LEAST_RELIABLE:.2f}" and np.isnan(told["disattenuated"])
    shaky = np.concatenate([[0.5], np.linspace(0.2, 0.8, 20)])
    assert "reaches 0" in disattenuated(np.full(21, 0.4), good, shaky, ["en", "sw"], 0.95)["reason"]
    fine = disattenuated(np.full(21, 0.4), good, good, ["en", "sw"], 0.95)
    assert fine["disattenuated"] == pytest.approx(0.5, abs=1e-9) and fine["reason"] is None
    low, high = z_interval(np.full(21, 0.999), 0.95)
    assert low == pytest.approx(0.999) == high


def test_what_cannot_be_compared_is_refused(rng):
    acts = planted(rng, [0, 20], n=32)
    with pytest.raises(DataError, match="mean 'languages'"):
        compared(acts, across="language")
    with pytest.raises(DataError, match="Only one direction"):
        compare_directions(acts, ["qaa"], split=None)
    with pytest.raises(DataError, match="Only one direction"):
        compared(acts, across="layers")
    with pytest.raises(DataError, match="across='positions' takes several"):
        compared(acts, contrast=["harm", "harm"])
    with pytest.raises(DataError, match="halvings=0"):
        compared(acts, halvings=0)
    few = acts.isel(prompt=np.flatnonzero(np.char.startswith(acts["meaning_id"].values.astype(str), "m1")))
    with pytest.raises(DataError, match=r"has \d meanings of one class|same label"):
        compared(few.isel(prompt=slice(0, 6)))
    broken = acts.copy(deep=True)
    broken["residual"][3, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match="not finite"):
        compared(broken)
    with pytest.raises(DataError, match="'qzz'"):
        compare_directions(acts, ["qaa", "qzz"], split=None)
