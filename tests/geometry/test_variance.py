"""Shares add up, find what was planted, match their null on noise, and their intervals cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import activations, additive

from workbench.errors import DataError
from workbench.geometry import VarianceShares, variance_shares
from workbench.geometry.variance import (
    components,
    null_shares,
    scale_states,
    shares_without_each_language,
    shares_without_each_meaning,
    sums_of_squares,
)


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
    assert shuffled[columns].to_numpy() == pytest.approx(table[columns].to_numpy(), abs=1e-9, nan_ok=True)


def test_the_unit_variant_ignores_each_rows_scale_and_the_standardised_one_each_dimensions(rng):
    states = additive(rng, [0.7], [0.7], n_languages=4, n=10, hidden=12)
    before = shares_of(states)["share"]
    rows = shares_of(states * rng.uniform(0.5, 3, size=(4, 10, 1, 1, 1)))["share"]
    dimensions = shares_of(states * rng.uniform(0.5, 3, size=12))["share"]
    assert rows["unit"].to_numpy() == pytest.approx(before["unit"].to_numpy(), abs=1e-5)
    assert dimensions["standardised"].to_numpy() == pytest.approx(before["standardised"].to_numpy(), abs=1e-5)
    assert abs(rows["raw"] - before["raw"]).max() > 0.02 and abs(dimensions["raw"] - before["raw"]).max() > 0.001


def test_shares_of_the_additive_model_are_as_published(rng):
    """Card 5.1: strengths (1, 1), D = 256, L = 7, N = 10 give about .35 / .37 / .28; noise .087 / .130 / .783."""
    found = shares_of(additive(rng, [1.0, 0.0], [1.0, 0.0], n_languages=7, n=10, hidden=256))["share"]["raw"]
    assert found[0].to_numpy() == pytest.approx([0.35, 0.37, 0.28], abs=0.03)
    assert found[1].to_numpy() == pytest.approx([0.087, 0.130, 0.783], abs=0.01)


def test_components_are_free_of_the_bias_and_the_index_follows_the_planted_strengths(rng):
    result = variance_shares(activations(additive(rng, [0, 2, 1, 0], [0, 0, 1, 2], n_languages=7, n=30, hidden=128)))
    raw = result.table[result.table["scaling"] == "raw"].pivot(index="layer", columns="factor", values="component")
    assert raw.loc[0].tolist() == pytest.approx([1, 0, 0], abs=0.02)  # interaction, language, meaning
    index = result.bottleneck_index().query("scaling == 'raw'")["index"].to_numpy()
    assert index[1] < 0.02 and index[2] == pytest.approx(0.5, abs=0.07) and index[3] > 0.98


def test_without_structure_the_shares_are_the_null_shares(rng):
    found = np.mean([sums_of_squares(rng.normal(size=(5, 8, 4))) for _ in range(400)], axis=0)
    assert found / found.sum() == pytest.approx(list(null_shares(5, 8).values()), abs=0.01)
    assert sum(null_shares(5, 8).values()) == pytest.approx(1)
    assert components(np.array([4.0, 7.0, 28.0]), 5, 8) == pytest.approx([0, 0, 1])


def test_leaving_out_a_meaning_equals_computing_without_it(rng):
    states = additive(rng, [1.0], [0.5], n_languages=3, n=7, hidden=5)[:, :, 0, 0]
    fast = shares_without_each_meaning(states)
    for i in range(7):
        squares = sums_of_squares(np.delete(states, i, axis=1))
        assert fast[i] == pytest.approx(squares / squares.sum(), abs=1e-10)


def test_leaving_out_a_language_equals_computing_without_it(rng):
    states = 3 + additive(rng, [1.0], [0.5], n_languages=4, n=7, hidden=5)[:, :, 0, 0]
    fast = shares_without_each_language(states)
    for a in range(4):
        squares = sums_of_squares(np.delete(states, a, axis=0))
        assert fast[a] == pytest.approx(squares / squares.sum(), abs=1e-10)


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
    assert scale_states(states[:, :, 0, 0], "standardised").shape == (3, 6, 4)
    assert variance_shares(activations(states)).table["share"].notna().all()


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
