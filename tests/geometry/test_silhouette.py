"""Silhouettes agree with the method card and the authors' code; their intervals cover, also on noise; they survive the disk."""

import json
import sys
import time

import numpy as np
import pytest
from planted import activations, additive

from tests.benchmarks import coverage
from workbench.errors import DataError
from workbench.geometry import Silhouettes, find_bottleneck, silhouettes
from workbench.geometry.distances import cosine_distances, grid_silhouettes

CARD = {
    (0, 0): (-0.03, -0.04, -0.01),
    (1, 0): (0.46, -0.09, -0.55),
    (0, 1): (-0.07, 0.46, 0.53),
    (1, 1): (0.29, 0.24, -0.05),
    (2, 1): (0.65, 0.02, -0.63),
    (1, 2): (0.07, 0.63, 0.56),
}
CARD_CENTRED = {(0, 0): 0.08, (1, 0): 0.08, (0, 1): 0.60, (1, 1): 0.59, (2, 1): 0.57, (1, 2): 0.90}


def wide(result):
    return result.table.pivot(index="layer", columns="statistic", values="value")[["language", "meaning", "difference"]]


def grid(rng, language, meaning, *, n_languages=7, n=10, hidden=256, towers=None):
    return additive(rng, [language], [meaning], n_languages=n_languages, n=n, hidden=hidden, towers=towers)[:, :, 0, 0]


def distances_of(states):
    return cosine_distances(states.reshape(-1, states.shape[-1]))


@pytest.mark.parametrize("strengths", list(CARD))
def test_the_table_of_the_method_card_is_reproduced(strengths):
    """Within .05 on average over ten seeds, and within .06 by every seed alone (the card's figures are of one seed)."""
    states = [grid(np.random.default_rng(seed), *strengths) for seed in range(10)]
    found = np.array([grid_silhouettes(distances_of(x), 7)[0] for x in states])
    centred = np.array([grid_silhouettes(distances_of(x - x.mean(axis=1, keepdims=True)), 7)[0][2] for x in states])
    rows, card = np.column_stack([found, centred]), np.array([*CARD[strengths], CARD_CENTRED[strengths]])
    assert rows.mean(axis=0) == pytest.approx(card, abs=0.05)
    assert np.abs(rows - card).max() <= 0.06 and (np.abs(rows - card) <= 0.05).mean() > 0.9


def test_centring_by_language_is_refused_and_warns_when_insisted_on(rng):
    acts = activations(additive(rng, [0], [0], n_languages=7, n=10, hidden=256))
    with pytest.raises(DataError, match="noise then has a positive difference"):
        silhouettes(acts, centre_languages=True)
    with pytest.warns(UserWarning, match="noise looks semantic"):
        biased = silhouettes(acts, centre_languages=True, allow_biased_centring=True, permutations=5)
    assert wide(biased)["difference"][0] > 0.05 > wide(silhouettes(acts, permutations=5))["difference"][0]
    with pytest.raises(DataError, match="language-centred states"):
        find_bottleneck(biased)
    with pytest.raises(DataError, match="resamples=0"):
        silhouettes(acts, resamples=0)


def test_a_full_grid_of_the_authors_goes_through_the_front_door(shared_dir):
    path = shared_dir / "reference" / "lasa.npz"
    if not path.exists():
        pytest.skip(f"no reference outputs at {path}")
    stored = np.load(path)
    case = next(c for c in json.loads(str(stored["meta_json"]))["layer_selection"] if c["name"] == "full_7x10")
    layers = np.stack([stored[f"full_7x10/layer{k}"] for k in range(1, 9)], axis=1)
    order = np.argsort(np.array(case["languages"]), kind="stable")
    acts = activations(layers[order].reshape(7, 10, 8, 1, -1)).assign_coords(layer=np.arange(1, 9))
    found = silhouettes(acts)
    expected = [case["scores"][str(k)]["difference"] for k in range(1, 9)]
    assert wide(found)["difference"].to_numpy() == pytest.approx(expected, abs=1e-6)
    verdict = find_bottleneck(found).table.iloc[0]
    assert verdict["verdict"] == "bottleneck" and verdict["layer"] == case["best_layer"]


def test_planted_meaning_beats_the_permutation_null_and_noise_does_not(rng):
    acts = activations(additive(rng, [0.5, 0.5], [0.8, 0.0], n_languages=5, n=20, hidden=48))
    table = silhouettes(acts, rng=rng).table.query("statistic == 'meaning'").set_index("layer")
    assert table["value"][0] > table["null_95"][0] + 0.1
    assert table["value"][1] < table["null_95"][1] + 0.01


def test_one_constant_token_is_undefined_but_one_token_per_language_is_not(rng):
    states = additive(rng, [1, 1, 1], [1, 1, 1], n_languages=4, n=6, hidden=8)
    states[:, :, 0] = states[0, 0, 0]
    states[:, :, 1] = states[:, :1, 1]
    result = silhouettes(activations(states))
    table = result.table.query("layer == 0")
    assert table[["value", "low", "high"]].isna().all(axis=None) and not table["defined"].any()
    assert wide(result).loc[1].tolist() == pytest.approx([1, -0.25, -1.25], abs=1e-9)  # meaning: (b - a) / a = -1 / L
    assert result.table.query("layer == 1")["defined"].all()


def test_row_order_and_row_scale_do_not_matter(rng):
    acts = activations(additive(rng, [0.5], [0.5], n_languages=4, n=8, hidden=16))
    scaled = acts.assign(residual=acts["residual"] * xr_scale(acts, rng))
    shuffled = acts.isel(prompt=rng.permutation(32))
    for other in (scaled, shuffled):
        columns = ["value", "low", "high", "leave_out_low", "leave_out_high"]
        assert silhouettes(other, permutations=5).table[columns].to_numpy() == pytest.approx(
            silhouettes(acts, permutations=5).table[columns].to_numpy(), abs=1e-5
        )


def xr_scale(acts, rng):
    return acts["residual"].isel(hidden=0, layer=0, position=0) * 0 + rng.uniform(0.5, 4, size=acts.sizes["prompt"])


def test_a_state_of_norm_zero_has_no_direction(rng):
    states = additive(rng, [1], [1], n_languages=2, n=3, hidden=4)
    states[0, 1] = 0
    with pytest.raises(DataError, match="all zero"):
        silhouettes(activations(states))


def test_more_meanings_than_asked_for_are_drawn_with_the_seed(rng):
    acts = activations(additive(rng, [0.5], [0.5], n_languages=3, n=30, hidden=8))
    first, again = (silhouettes(acts, max_meanings=12, permutations=3, rng=np.random.default_rng(7)) for _ in range(2))
    assert first.provenance["n_meanings"] == 12 and (first.table["n"] == 12).all()
    assert first.table.equals(again.table) and first.provenance["meanings"] == again.provenance["meanings"]


def labelled(states, topics):
    return activations(states).assign_coords(category=("prompt", np.tile(topics, len(states))))


def test_both_intervals_hold_the_value_and_are_paired_with_the_same_resamples(rng):
    acts = activations(additive(rng, [0.5, 0.5], [0.8, 0.5], n_languages=4, n=20, hidden=32))
    columns, widths = ["low", "value", "high"], {}
    for interval in ("jackknife", "bootstrap"):
        found = silhouettes(acts, interval=interval, permutations=3)
        assert (np.diff(found.table[columns].to_numpy(), axis=1) > 0).all() and interval in found.provenance["interval"]
        widths[interval] = (found.table["high"] - found.table["low"]).to_numpy()
        assert find_bottleneck(found).table["verdict"].tolist() == ["undefined"]
    assert widths["bootstrap"] == pytest.approx(widths["jackknife"], rel=0.5) and not np.array_equal(*widths.values())
    with pytest.raises(DataError, match=r"interval='jacknife'.*Did you mean 'jackknife'"):
        silhouettes(acts, interval="jacknife")


def test_topics_as_the_unit_widen_the_interval_where_meanings_crowd_around_topics(rng):
    states, topic = coverage.one_layer(rng, "five tight topics", rng.normal(size=(5, 1, coverage.HIDDEN)), 40)
    names = [f"topic {k}" for k in topic]
    acts = labelled(states[:, :, None, None], names)
    one_by_one, by_topic = silhouettes(acts, permutations=2), silhouettes(acts, unit="category", permutations=2)
    assert one_by_one.table["value"].tolist() == by_topic.table["value"].tolist()
    assert (by_topic.table["high"] - by_topic.table["low"])[2] > 1.2 * (one_by_one.table["high"] - one_by_one.table["low"])[2]
    assert by_topic.influence["unit"].values.tolist() == sorted(set(names)) and by_topic.provenance["interval"] == "jackknife over categories"
    summed = one_by_one.influence.values[0, 0, 2][np.array(names) == "topic 0"].sum() * 5 / 40
    assert by_topic.influence.sel(unit="topic 0", statistic="difference").item() == pytest.approx(summed)


def test_topics_are_needed_for_topics_to_be_the_unit(rng):
    states = additive(rng, [0.5], [0.2], n_languages=3, n=6, hidden=8)
    with pytest.raises(DataError, match=r"6 meanings are in 0 categories, and 6 have none.*three categories"):
        silhouettes(activations(states), unit="category")
    with pytest.raises(DataError, match="are in 2 categories"):
        silhouettes(labelled(states, ["a", "a", "a", "b", "b", "b"]), unit="category")
    with pytest.raises(DataError, match=r"unit='categories'.*Did you mean 'category'"):
        silhouettes(activations(states), unit="categories")
    mixed = labelled(states, list("aabbcc")).assign_coords(category=("prompt", list("aabbcc" * 2 + "abbbcc")))
    with pytest.raises(DataError, match="'m1' has several categories"):
        silhouettes(mixed, unit="category")
    with pytest.raises(DataError, match="by jackknife only"):
        silhouettes(labelled(states, list("aabbcc")), unit="category", interval="bootstrap")


def test_nothing_is_claimed_about_languages_in_general_below_twelve(rng):
    for n_languages in (11, 12):
        table = silhouettes(activations(additive(rng, [1], [0.5], n_languages=n_languages, n=8, hidden=24)), permutations=2).table
        assert table["low_languages"].isna().all() == (n_languages == 11) == table["high_languages"].isna().all()
        assert table[["leave_out_low", "leave_out_high"]].notna().all(axis=None)
    assert (table["low_languages"] < table["low"]).all() and (table["high_languages"] > table["high"]).all()


def test_a_loaded_result_is_judged_as_the_one_that_was_saved(rng, tmp_path):
    acts = activations(additive(rng, np.array(BUMP) * -0.3 + 0.7, np.array(BUMP) * 0.5 + 0.3, n_languages=4, n=16, hidden=32))
    result = silhouettes(acts, permutations=40)
    loaded = Silhouettes.load(result.save(tmp_path / "new" / "silhouettes.parquet"))
    assert loaded.table.equals(result.table) and loaded.influence.equals(result.influence) and loaded.null.equals(result.null)
    assert find_bottleneck(loaded).table.equals(find_bottleneck(result).table)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["silhouettes.parquet", "silhouettes.safetensors"]
    again = Silhouettes.load(loaded.save(tmp_path / "again.parquet"))
    assert again.null.equals(result.null)


BUMP = [0.0, 0.2, 0.5, 1.0, 0.5, 0.2, 0.0]


def test_a_table_without_its_own_draws_cannot_be_judged(rng, tmp_path):
    first, other = (silhouettes(activations(additive(rng, [0.5], [0.5], n_languages=3, n=6, hidden=8)), permutations=3) for _ in range(2))
    path, strange = first.save(tmp_path / "a.parquet"), other.save(tmp_path / "b.parquet")
    strange.with_suffix(".safetensors").replace(path.with_suffix(".safetensors"))  # draws of another table
    for _ in range(2):
        loaded = Silhouettes.load(path)
        assert loaded.table["value"].tolist() == first.table["value"].tolist()
        with pytest.raises(DataError, match=r"keeps the table only.*safetensors"):
            find_bottleneck(loaded)
        path.with_suffix(".safetensors").unlink(missing_ok=True)  # no draws at all
    with pytest.raises(DataError, match="keeps the table only"):
        find_bottleneck(Silhouettes.load(loaded.save(tmp_path / "c.parquet")))


def test_on_noise_plain_bootstraps_miss_their_own_value_and_the_offered_intervals_do_not(rng):
    states = grid(rng, 0, 0, n=40, hidden=coverage.HIDDEN)
    found, value = coverage.intervals_of(states, np.arange(40), rng, bootstraps=True), coverage.value_of(states)
    for name in ("jackknife", "bootstrap, recentred"):
        assert found[name][0] < value < found[name][1], name
    for name in ("bootstrap, copied rows", "bootstrap, percentiles"):
        assert not found[name][0] < value < found[name][1], name


def _report(name, table):
    sys.stdout.write(f"\n## {name}\n\n{coverage.markdown(table)}\n")


@pytest.mark.slow
def test_the_jackknife_covers_given_the_languages_and_copied_rows_do_not(capsys):
    rows = list(coverage.intervals(20))
    with capsys.disabled():
        _report("intervals", rows)
    for row in rows:
        if row["interval"] == "jackknife" and row["data"] != "five tight topics":  # topics drawn anew need topics as the unit
            assert row["covers"] >= 0.85 and row["median width"] <= 0.5, row  # 40 draws: .95 minus three standard errors
        if row["interval"] == "jackknife over topics":
            assert row["covers"] >= 0.85, row
        if row["interval"] == "bootstrap, copied rows" and row["data"] == "noise":
            assert row["covers"] < 0.2, row


@pytest.mark.slow
def test_the_interval_over_languages_covers_for_languages_drawn_from_a_population(capsys):
    rows = list(coverage.languages(25))
    with capsys.disabled():
        _report("languages", rows)
    both = [row for row in rows if row["interval"] == "meanings and languages"]
    assert len(both) == 2 * len(coverage.KINDS) and all(row["covers"] >= 0.85 and row["median width"] <= 0.5 for row in both), both
    given = {(row["languages"], row["data"]): row["covers"] for row in rows if row["interval"] == "jackknife over meanings"}
    assert given[12, "language strong"] < 0.7  # given these languages is not about languages in general


@pytest.mark.slow
@pytest.mark.parametrize("interval", ["jackknife", "bootstrap"])
def test_a_layer_costs_at_most_six_times_its_cosines(interval, rng, capsys):
    """23 languages x 100 meanings at width 4096: 1,000 resamples, 200 permutations, both label sets; least of three."""
    acts = activations(rng.normal(size=(23, 100, 1, 1, 4096)).astype(np.float32))
    states = acts["residual"].values.reshape(2300, 4096)

    def cosines():
        unit = states / np.linalg.norm(states, axis=1, keepdims=True)
        return unit @ unit.T

    def seconds(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    reference = min(seconds(cosines) for _ in range(3))
    spent = min(seconds(lambda: silhouettes(acts, max_meanings=100, resamples=1000, permutations=200, interval=interval)) for _ in range(3))
    with capsys.disabled():
        sys.stdout.write(f"\n  {interval}: {spent:.2f} s, {spent / reference:.1f} times the cosines\n")
    assert spent <= 6 * reference
