"""Shares add up, find what was planted, match their null on noise, and their intervals cover."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import activations, additive

from workbench.errors import DataError
from workbench.geometry import VarianceShares, variance_shares
from workbench.geometry.sums import GridSums
from workbench.geometry.tiles import SCALINGS, tiles
from workbench.geometry.variance import components, null_shares
from workbench.statistics import jackknife_influence, jackknife_interval


def reference(states, scaling):
    """The columns share, low, high, leave_out_low, leave_out_high, written out in float64 with every grid computed anew."""
    states = states.astype(np.float64)
    if scaling == "unit":
        states = states / np.linalg.norm(states, axis=-1, keepdims=True)
    if scaling == "standardised":
        states = (states - states.mean(axis=(0, 1))) / states.std(axis=(0, 1))

    def share(grid):
        n_languages, n, _ = grid.shape
        centred = grid - grid.mean(axis=(0, 1))
        by_language, by_meaning = centred.mean(axis=1), centred.mean(axis=0)
        rest = centred - by_language[:, None] - by_meaning
        squares = np.array([n * (by_language**2).sum(), n_languages * (by_meaning**2).sum(), (rest**2).sum()])
        return squares / squares.sum()

    whole, n_languages, n = share(states), *states.shape[:2]
    low, high = jackknife_interval(whole, jackknife_influence(whole, np.array([share(np.delete(states, i, axis=1)) for i in range(n)])))
    left = np.array([share(np.delete(states, a, axis=0)) for a in range(n_languages)])
    return np.stack([whole, np.maximum(low, 0), np.minimum(high, 1), left.min(axis=0), left.max(axis=0)], axis=1)


def massive(states):
    """A few dimensions a thousand times the others, one far from zero, one that is large in a single prompt only."""
    states = states.copy()
    states[..., 3] = states[..., 3] * 1000 + 5000
    states[..., 11] = states[..., 11] * 30 + 2000
    states[..., 5] += 800
    states[1, 2, ..., 7] = 30_000
    return states


def shares_of(states, **options):
    return variance_shares(activations(states), **options).table.set_index(["scaling", "layer", "factor"])


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(2, 9), st.integers(0, 10_000))
def test_shares_sum_to_one_and_row_order_does_not_matter(n_languages, n, seed):
    rng = np.random.default_rng(seed)
    acts = activations(additive(rng, [0.7], [0.4], n_languages=n_languages, n=n, hidden=6))
    table = variance_shares(acts).table
    assert table.groupby("scaling")["share"].sum().to_numpy() == pytest.approx(1, abs=1e-9)
    assert table.groupby("scaling")["component"].sum().to_numpy() == pytest.approx(1, abs=1e-9)
    shuffled = variance_shares(acts.isel(prompt=rng.permutation(acts.sizes["prompt"]))).table
    columns = ["share", "low", "high", "component"]
    assert shuffled[columns].to_numpy() == pytest.approx(table[columns].to_numpy(), abs=1e-6, nan_ok=True)


def test_the_unit_variant_ignores_each_rows_scale_and_the_standardised_one_each_dimensions(rng):
    states = additive(rng, [0.7], [0.7], n_languages=4, n=10, hidden=12)
    before = shares_of(states)["share"]
    rows = shares_of(states * rng.uniform(0.5, 3, size=(4, 10, 1, 1, 1)))["share"]
    dimensions = shares_of(states * rng.uniform(0.5, 3, size=12))["share"]
    assert rows["unit"].to_numpy() == pytest.approx(before["unit"].to_numpy(), abs=1e-5)
    assert dimensions["standardised"].to_numpy() == pytest.approx(before["standardised"].to_numpy(), abs=1e-5)
    assert abs(rows["raw"] - before["raw"]).max() > 0.02 and abs(dimensions["raw"] - before["raw"]).max() > 0.001


CHANGES = {
    "plain": lambda s: s,
    "massive": massive,
    "far from zero": lambda s: 0.05 * s + 7,
    "one large number": lambda s: s + 50_000 * np.isin(np.arange(s.size).reshape(s.shape), [1234]),
    "one huge dimension": lambda s: s * np.where(np.arange(150) == 7, 1e22, 1),
    "tiny": lambda s: 1e-27 * s,
    "huge": lambda s: 1e24 * s,
}

HOLDS_NO_HALF = ("one huge dimension", "tiny", "huge")


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(
    ("change", "dtype"), [(c, d) for c in CHANGES for d in (np.float16, np.float32, np.float64) if d != np.float16 or c not in HOLDS_NO_HALF]
)
def test_every_column_equals_the_float64_code_that_computes_each_grid_anew(change, dtype, scaling, rng):
    states = CHANGES[change](additive(rng, [1.0], [0.6], n_languages=5, n=12, hidden=150)).astype(dtype)
    acts = activations(states)
    acts["residual"] = acts["residual"].dims, states.reshape(60, 1, 1, 150)
    found = variance_shares(acts, scalings=[scaling]).table[["share", "low", "high", "leave_out_low", "leave_out_high"]].to_numpy()
    assert found == pytest.approx(reference(states[:, :, 0, 0], scaling), abs=1e-10 if dtype == np.float64 else 2e-7)


@pytest.mark.parametrize("scaling", ["raw", "standardised"])
def test_states_that_differ_in_their_last_bit_only_are_centred_well_enough(scaling, rng):
    last = np.spacing(np.float32(1000))
    states = (1000 + last * rng.integers(-1, 2, size=(23, 400, 8))).astype(np.float32)
    squares = GridSums.of(states, scaling).squares()
    centred = (states.astype(np.float64) - 1000) / last
    if scaling == "standardised":
        centred /= centred.std(axis=(0, 1))
    expected = GridSums.of(centred).squares()
    assert squares / squares.sum() == pytest.approx(expected / expected.sum(), abs=2e-8)


def test_a_wide_layer_is_cut_into_tiles_and_none_of_it_is_lost(rng, monkeypatch):
    states = rng.normal(size=(4, 9, 301)).astype(np.float16)
    monkeypatch.setattr("workbench.geometry.tiles._VALUES", 36 * 64)
    widths = [tile.shape[-1] for tile in tiles(states, "raw")]
    assert widths == [64, 64, 64, 64, 45]
    squares = GridSums.of(states, "raw").squares()
    assert squares / squares.sum() == pytest.approx(reference(states, "raw")[:, 0], abs=1e-7)


def test_no_more_than_a_few_float32_copies_of_a_layer_are_held(rng):
    states = rng.normal(size=(8, 75, 3, 1, 1024))
    acts = activations(states)
    acts["residual"] = acts["residual"].astype(np.float16)
    variance_shares(acts.isel(layer=[0]))  # imports and caches
    tracemalloc.start()
    variance_shares(acts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 600 * 1024 * 4


@pytest.mark.parametrize(
    ("strengths", "published"),
    [
        ((0, 0), (0.09, 0.13, 0.78)),
        ((1, 0), (0.51, 0.07, 0.42)),
        ((0, 1), (0.05, 0.55, 0.41)),
        ((1, 1), (0.35, 0.37, 0.28)),
        ((2, 1), (0.67, 0.18, 0.15)),
        ((1, 2), (0.17, 0.69, 0.14)),
    ],
)
def test_shares_of_the_additive_model_are_as_published(strengths, published, rng):
    """Card 5.2: D = 256, L = 7, N = 10; the published rows are one seed each."""
    found = shares_of(additive(rng, [strengths[0]], [strengths[1]], n_languages=7, n=10, hidden=256), scalings=["raw"])["share"]
    assert found.to_numpy() == pytest.approx(published, abs=0.03)
    assert found.sum() == pytest.approx(1, abs=1e-6)


def test_noise_has_the_null_shares(rng):
    """Card 5.1."""
    found = shares_of(additive(rng, [0.0], [0.0], n_languages=7, n=10, hidden=2048), scalings=["raw"])["share"]
    assert list(null_shares(7, 10).values()) == pytest.approx([0.087, 0.130, 0.783], abs=5e-4)
    assert found.to_numpy() == pytest.approx([0.087, 0.130, 0.783], abs=0.004)


def test_components_are_free_of_the_bias_and_the_index_follows_the_planted_strengths(rng):
    result = variance_shares(activations(additive(rng, [0, 2, 1, 0], [0, 0, 1, 2], n_languages=7, n=30, hidden=128)))
    raw = result.table[result.table["scaling"] == "raw"].pivot(index="layer", columns="factor", values="component")
    assert raw.loc[0].tolist() == pytest.approx([1, 0, 0], abs=0.02)  # interaction, language, meaning
    index = result.bottleneck_index().query("scaling == 'raw'")["index"].to_numpy()
    assert index[1] < 0.02 and index[2] == pytest.approx(0.5, abs=0.07) and index[3] > 0.98


def test_without_structure_the_shares_are_the_null_shares(rng):
    found = np.mean([GridSums.of(rng.normal(size=(5, 8, 4))).squares() for _ in range(400)], axis=0)
    assert found / found.sum() == pytest.approx(list(null_shares(5, 8).values()), abs=0.01)
    assert sum(null_shares(5, 8).values()) == pytest.approx(1)
    assert components(np.array([4.0, 7.0, 28.0]), 5, 8) == pytest.approx([0, 0, 1])


def test_one_constant_token_is_undefined_and_never_zero(rng):
    states = additive(rng, [1, 1], [1, 1], n_languages=3, n=6, hidden=5)
    states[:, :, 0] = 0.3
    table = variance_shares(activations(states)).table
    assert table.query("layer == 0")["share"].isna().all() and not table.query("layer == 0")["defined"].any()
    assert table.query("layer == 1")["share"].notna().all()


def test_rows_that_differ_in_length_only_are_undefined_at_unit_norm(rng):
    states = rng.uniform(1, 3, size=(3, 6, 1, 1, 1)) * rng.normal(size=5)
    table = variance_shares(activations(states)).table.set_index("scaling")
    assert table.loc["unit", "share"].isna().all() and not table.loc["unit", "defined"].any() and table.loc["raw", "defined"].all()


def test_a_constant_feature_is_named_with_the_remedy(rng):
    states = additive(rng, [1], [1], n_languages=3, n=6, hidden=5)
    states[..., 2] = 1.5
    with pytest.raises(DataError, match=r"\[2\].*scalings=\('raw', 'unit'\)"):
        variance_shares(activations(states))
    assert len(variance_shares(activations(states), scalings=("raw", "unit")).table) == 6
    with pytest.raises(DataError, match="Did you mean"):
        variance_shares(activations(states), scalings=("standardized",))


def test_two_tokens_that_agree_in_a_dimension_by_chance_do_not_stop_the_run(rng):
    tokens = rng.normal(size=(2, 5))
    tokens[:, 1] = 0.25
    states = tokens[np.arange(18).reshape(3, 6) % 2][:, :, None, None]
    found = variance_shares(activations(states), scalings=["standardised"]).table
    without = variance_shares(activations(np.delete(states, 1, axis=-1)), scalings=["standardised"]).table
    assert found["share"].to_numpy() == pytest.approx(without["share"].to_numpy(), abs=1e-9)


def test_a_state_that_is_zero_has_no_direction(rng):
    states = additive(rng, [1], [1], n_languages=3, n=6, hidden=5)
    states[1, 2] = 0
    with pytest.raises(DataError, match=r"1 states are all zero.*scaling 'raw'"):
        variance_shares(activations(states))


def test_a_result_survives_the_disk_with_its_provenance(rng, tmp_path):
    result = variance_shares(activations(additive(rng, [1], [1], n_languages=2, n=4, hidden=5)))
    loaded = VarianceShares.load(result.save(tmp_path / "shares.parquet"))
    assert loaded.table["share"].tolist() == result.table["share"].tolist()
    assert loaded.provenance["model"] == "planted" and loaded.provenance["n_meanings"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("strengths", [(0, 0), (1, 1), (1, 0.2)])
def test_share_intervals_cover_the_expected_share(strengths, rng):
    towers, n_draws = rng.normal(size=(7, 1, 48)), 200
    draws = [
        variance_shares(
            activations(additive(rng, [strengths[0]], [strengths[1]], n_languages=7, n=12, hidden=48, towers=towers)), scalings=("raw",)
        ).table
        for _ in range(n_draws)
    ]
    values, low, high = (np.array([d[c] for d in draws]) for c in ("share", "low", "high"))
    truth = values.mean(axis=0)
    assert ((low <= truth) & (truth <= high)).mean(axis=0).min() >= 0.9
    assert np.median(high - low, axis=0).max() <= 0.25
