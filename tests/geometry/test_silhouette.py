"""Silhouettes agree with scikit-learn, the authors' code and the method card; intervals cover, also on noise."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import activations, additive
from sklearn.metrics import silhouette_score

from workbench.errors import DataError
from workbench.geometry import Silhouettes, find_bottleneck, silhouettes
from workbench.geometry.distances import cosine_distances, grid_silhouettes, label_silhouette, permuted_meaning_silhouettes
from workbench.statistics import jackknife_influence, jackknife_interval

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


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(2, 8), st.integers(0, 10_000))
def test_both_silhouettes_agree_with_scikit_learn(n_languages, n, seed):
    states = grid(np.random.default_rng(seed), 0.6, 0.6, n_languages=n_languages, n=n, hidden=9)
    flat = states.reshape(n_languages * n, -1)
    language, meaning = np.repeat(np.arange(n_languages), n), np.tile(np.arange(n), n_languages)
    values, _ = grid_silhouettes(distances_of(states), n_languages)
    expected = [silhouette_score(flat, labels, metric="cosine") for labels in (language, meaning)]
    assert values == pytest.approx([*expected, expected[1] - expected[0]], abs=1e-9)
    assert [label_silhouette(distances_of(states), labels) for labels in (language, meaning)] == pytest.approx(expected, abs=1e-9)


def test_uneven_clusters_and_singletons_agree_with_scikit_learn(rng):
    rows, labels = rng.normal(size=(11, 6)), np.array(list("aaaabbbccdd"))
    labels[-1] = "alone"
    assert label_silhouette(cosine_distances(rows), labels) == pytest.approx(silhouette_score(rows, labels, metric="cosine"))
    with pytest.raises(DataError, match="Expected between 2 and 10"):
        label_silhouette(cosine_distances(rows), np.arange(11))


@pytest.mark.parametrize("strengths", list(CARD))
def test_the_table_of_the_method_card_is_reproduced(strengths):
    rng = np.random.default_rng(1)
    draws = [grid(rng, *strengths) for _ in range(5)]
    found = np.mean([grid_silhouettes(distances_of(x), 7)[0] for x in draws], axis=0)
    centred = np.mean([grid_silhouettes(distances_of(x - x.mean(axis=1, keepdims=True)), 7)[0][2] for x in draws])
    assert found == pytest.approx(CARD[strengths], abs=0.05)
    assert centred == pytest.approx(CARD_CENTRED[strengths], abs=0.05)


def test_centring_by_language_is_refused_and_warns_when_insisted_on(rng):
    acts = activations(additive(rng, [0], [0], n_languages=7, n=10, hidden=256))
    with pytest.raises(DataError, match="noise then has a positive difference"):
        silhouettes(acts, centre_languages=True)
    with pytest.warns(UserWarning, match="noise looks semantic"):
        biased = silhouettes(acts, centre_languages=True, allow_biased_centring=True, permutations=5)
    assert wide(biased)["difference"][0] > 0.05 > wide(silhouettes(acts, permutations=5))["difference"][0]
    assert biased.provenance["centred_by_language"]


def test_the_authors_code_gives_the_same_silhouettes_and_layer(shared_dir):
    """thu-coai/lasa-multilingual-safety b792792, tolerance 1e-6 (reference/README.md 6); a layer with NaN has no score here."""
    path = shared_dir / "reference" / "lasa.npz"
    if not path.exists():
        pytest.skip(f"no reference outputs at {path}")
    stored = np.load(path)
    checked = 0
    for case in json.loads(str(stored["meta_json"]))["layer_selection"]:
        if case["name"] in ("nan_layer", "one_language"):  # scikit-learn's error counted as score 0 there
            continue
        found = {}
        for layer, scores in case["scores"].items():
            distances = cosine_distances(stored[f"{case['name']}/layer{layer}"].astype(np.float64))
            language, query = (label_silhouette(distances, case[k]) for k in ("languages", "query_ids"))
            assert (language, query) == pytest.approx((scores["silhouette_language"], scores["silhouette_query"]), abs=1e-6), case["name"]
            found[int(layer)] = query - language
            checked += 1
        if case["name"] != "tie_first_layer_wins":
            assert max(found, key=lambda k: found[k]) == case["best_layer"], case["name"]
    assert checked >= 20


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


def test_leaving_out_a_meaning_equals_computing_without_it(rng):
    states = grid(rng, 0.7, 0.7, n_languages=4, n=9, hidden=12)
    _, without = grid_silhouettes(distances_of(states), 4)
    for i in range(9):
        assert without[i] == pytest.approx(grid_silhouettes(distances_of(np.delete(states, i, axis=1)), 4)[0], abs=1e-12)


def test_permuted_meanings_equal_permuting_the_rows(rng):
    states = grid(rng, 0.5, 0.8, n_languages=3, n=6, hidden=12)
    orders = np.stack([[rng.permutation(6) for _ in range(3)] for _ in range(4)])
    fast = permuted_meaning_silhouettes(distances_of(states), orders)
    slow = [grid_silhouettes(distances_of(np.stack([states[a][o[a]] for a in range(3)])), 3)[0][1] for o in orders]
    assert fast == pytest.approx(slow, abs=1e-5)


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


def test_a_loaded_result_has_the_table_but_cannot_be_judged(rng, tmp_path):
    result = silhouettes(activations(additive(rng, [0.5], [0.5], n_languages=3, n=6, hidden=8)), permutations=3)
    loaded = Silhouettes.load(result.save(tmp_path / "silhouettes.parquet"))
    assert loaded.table["value"].tolist() == result.table["value"].tolist()
    with pytest.raises(DataError, match="loaded from a file"):
        find_bottleneck(loaded)


def naive_bootstrap(states, rng, resamples=100):
    """Resample meanings by copying rows: copies become near neighbours of their own meaning."""
    n_languages, n, _ = states.shape
    distances, found = distances_of(states), []
    for _ in range(resamples):
        drawn = rng.integers(0, n, n)
        rows = (drawn + n * np.arange(n_languages)[:, None]).ravel()
        found.append(label_silhouette(distances[np.ix_(rows, rows)], np.tile(drawn, n_languages)))
    return np.quantile(found, [0.025, 0.975])


def test_on_noise_the_naive_bootstrap_misses_and_the_jackknife_holds(rng):
    states = grid(rng, 0, 0)
    values, without = grid_silhouettes(distances_of(states), 7)
    low, high = jackknife_interval(values, jackknife_influence(values, without))
    naive = naive_bootstrap(states, rng)
    assert naive[0] > values[1] + 0.02  # the whole naive interval lies above the value itself
    assert low[1] < -0.034 < high[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strengths", "shape"),
    [
        ((0, 0), (7, 10, 256)),
        ((0, 1), (7, 10, 256)),
        ((1, 1), (7, 10, 256)),
        ((0.5, 0.5), (8, 32, 128)),
        ((0.3, 0.3), (8, 32, 128)),
        ((1, 2), (5, 16, 64)),
    ],
)
def test_intervals_cover_the_expected_silhouette_also_on_noise(strengths, shape, rng, capsys):
    n_languages, n, hidden = shape
    towers, values, lows, highs = rng.normal(size=(n_languages, 1, hidden)), [], [], []
    for _ in range(200):
        value, without = grid_silhouettes(
            distances_of(grid(rng, *strengths, n_languages=n_languages, n=n, hidden=hidden, towers=towers)), n_languages
        )
        low, high = jackknife_interval(value, jackknife_influence(value, without))
        values.append(value), lows.append(low), highs.append(high)
    truth, low, high = np.mean(values, axis=0), np.array(lows), np.array(highs)
    covered, width = ((low <= truth) & (truth <= high)).mean(axis=0), np.median(high - low, axis=0)
    with capsys.disabled():
        _report("silhouette", strengths, shape, covered, width)
    assert covered.min() >= 0.9
    assert width.max() <= 0.25


@pytest.mark.slow
def test_the_naive_bootstrap_does_not_cover_on_noise(rng):
    draws = [grid(rng, 0, 0) for _ in range(40)]
    truth = np.mean([grid_silhouettes(distances_of(x), 7)[0][1] for x in draws])
    inside = [low <= truth <= high for low, high in (naive_bootstrap(x, rng, 60) for x in draws)]
    assert np.mean(inside) < 0.2


@pytest.mark.slow
def test_two_models_of_the_usual_size_take_seconds(rng, capsys):
    acts = activations(np.concatenate([additive(rng, [0.5] * 9, [0.5] * 9, hidden=192)] * 2, axis=3))
    start = time.perf_counter()
    for _ in range(2):
        find_bottleneck(silhouettes(acts, resamples=300, permutations=200))
    spent = time.perf_counter() - start
    with capsys.disabled():
        _report("seconds for 8 x 64 x 9 layers x 2 positions x 2 models", spent)
    assert spent < 20  # about 1 s alone on one core


def _report(*what):
    import sys

    sys.stdout.write(f"\n  {' '.join(str(w) for w in what)}\n")
