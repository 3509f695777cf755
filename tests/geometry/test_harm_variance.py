"""The nested decomposition adds up, is free of bias, finds planted harm and its interaction, and raises few false alarms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import activations, additive

from workbench.errors import DataError
from workbench.geometry import HarmVariance, harm_variance, variance_shares
from workbench.geometry.harm_variance import ratio_interval
from workbench.geometry.nested import FACTORS, ClassSums, squares_of_labels
from workbench.geometry.sums import MeaningProducts


def planted(rng, index, strength, *, n_languages=6, harmful=20, harmless=20, hidden=64, meaning=1.0, n_layers=1):
    """States whose harm vectors have exactly this transfer index, and the labels of the meanings."""
    labels = np.random.default_rng(0).permutation(np.arange(harmful + harmless) < harmful)
    axes = np.linalg.qr(rng.normal(size=(hidden, n_languages + 1)))[0].T
    vectors = strength * (np.sqrt(1 - index) * axes[0] + np.sqrt(index) * axes[1:])
    towers = rng.normal(size=(n_languages, 1, hidden))
    clean = additive(rng, [1.0] * n_layers, [meaning] * n_layers, n_languages=n_languages, n=len(labels), hidden=hidden, towers=towers)
    return clean + (np.where(labels, 0.5, -0.5)[None, :, None] * vectors[:, None])[:, :, None, None], labels


def measured(states, labels, **options):
    options = {"scalings": ["raw"], **options}
    return harm_variance(activations(states, harmful=labels), **options)


def by_factor(result, column="share"):
    return result.table.pivot(index=["scaling", "layer"], columns="factor", values=column)[list(FACTORS)]


def squares_by_projection(states, labels):
    """Sums of squares by projecting on one set of dummies after another."""
    n_languages, n, hidden = states.shape
    language, meaning = np.repeat(np.eye(n_languages), n, axis=0), np.tile(np.eye(n), (n_languages, 1))
    harm = np.tile(np.stack([labels, ~labels], axis=1).astype(float), (n_languages, 1))
    both = (language[:, :, None] * harm[:, None]).reshape(len(language), -1)
    rest = states.reshape(-1, hidden).astype(np.float64)
    rest = rest - rest.mean(axis=0)
    squares = []
    for dummies in (language, harm, both, meaning):
        fitted = dummies @ np.linalg.lstsq(dummies, rest, rcond=None)[0]
        squares.append((fitted**2).sum())
        rest = rest - fitted
    return np.array([*squares, (rest**2).sum()])


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.integers(2, 6), st.integers(2, 6), st.integers(0, 10_000))
def test_shares_sum_to_one_equal_projections_and_regroup_to_the_two_factors(n_languages, harmful, harmless, seed):
    rng = np.random.default_rng(seed)
    states, labels = planted(rng, 0.4, 3.0, n_languages=n_languages, harmful=harmful, harmless=harmless, hidden=8)
    found = by_factor(measured(states, labels, scalings=["raw", "unit", "standardised"], permutations=0))
    assert found.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-6)
    squares = squares_by_projection(activations(states)["residual"].values.reshape(n_languages, -1, 8), labels)
    assert found.loc["raw"].to_numpy()[0] == pytest.approx(squares / squares.sum(), abs=1e-6)
    two = variance_shares(activations(states, harmful=labels)).table.pivot(index=["scaling", "layer"], columns="factor", values="share")
    assert found["language"].to_numpy() == pytest.approx(two["language"].to_numpy(), abs=1e-6)
    assert (found["harm"] + found["meaning"]).to_numpy() == pytest.approx(two["meaning"].to_numpy(), abs=1e-6)
    assert (found["language x harm"] + found["rest"]).to_numpy() == pytest.approx(two["interaction"].to_numpy(), abs=1e-6)


def test_leaving_out_a_meaning_equals_computing_without_it(rng):
    states, labels = planted(rng, 0.3, 2.0, n_languages=3, harmful=4, harmless=6, hidden=9)
    grid = states[:, :, 0, 0]
    left = ClassSums.of(MeaningProducts.of(grid), labels, without_each=True)
    for i in range(10):
        kept = np.arange(10) != i
        anew = ClassSums.of(MeaningProducts.of(grid[:, kept]), labels[kept])
        assert left.squares()[i] == pytest.approx(squares_by_projection(grid[:, kept], labels[kept]))
        assert left.variances()[i] == pytest.approx(anew.variances()[0])


@pytest.mark.parametrize(("harmful", "harmless"), [(12, 12), (5, 15)])
def test_variances_are_free_of_bias_whatever_the_classes_sizes_and_spreads(harmful, harmless, rng):
    n_languages, n, hidden = 4, harmful + harmless, 24
    labels = np.arange(n) < harmful
    towers, vectors = rng.normal(size=(n_languages, hidden)), 0.5 * rng.normal(size=hidden) + 0.4 * rng.normal(size=(n_languages, hidden))
    loads, spreads = np.array([1.0, 0.5, 1.5, 0.8]), np.array([0.5, 1.0, 1.5, 1.0])
    of_class = np.where(labels, 2.0, 0.7)[:, None]
    found, pooled = [], []
    for _ in range(2000):
        meanings = loads[:, None, None] * (of_class * rng.normal(size=(n, hidden)))
        noise = spreads[:, None, None] * of_class * rng.normal(size=(n_languages, n, hidden))
        states = towers[:, None] + np.where(labels, 0.5, -0.5)[:, None] * vectors[:, None] + meanings + noise
        sums = ClassSums.of(MeaningProducts.of(states), labels)
        found.append(sums.variances()[0])
        mean_squares = sums.squares()[0] / [n_languages - 1, 1, n_languages - 1, n - 2, (n_languages - 1) * (n - 2)]
        pooled.append(mean_squares @ [0, 1, -1, -1, 1] / (2 * n_languages * harmful * harmless / n))  # harm by the textbook
    products = vectors @ vectors.T
    tower = towers + (harmful - harmless) / n / 2 * vectors  # a language's mean holds its harm vector as often as there is harm
    expected = [
        ((tower - tower.mean(axis=0)) ** 2).sum() / (n_languages - 1),
        (products.sum() - np.trace(products)) / (n_languages * (n_languages - 1)) / 2,
        ((vectors - vectors.mean(axis=0)) ** 2).sum() / (n_languages - 1) / 2,
    ]
    error = np.std(found, axis=0)[:3] / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0)[:3] - expected) < 3.5 * error).all()
    if harmful == harmless:
        assert pooled == pytest.approx(np.array(found)[:, 1])
    else:  # one spread for both classes would be seen to be wrong
        assert abs(np.mean(pooled) - expected[1]) > 10 * error[1]


@pytest.mark.parametrize("index", [0.0, 0.4, 1.0])
def test_the_transfer_index_is_what_was_planted(index, rng):
    states, labels = planted(rng, index, 12.0, harmful=30, harmless=20, hidden=256)
    result = measured(states, labels)
    row = result.transfer_index().iloc[0]
    assert row["index"] == pytest.approx(index, abs=0.06)
    assert row["low"] - 1e-9 <= index <= row["high"] + 1e-9 and row["high"] - row["low"] < 0.25
    component = by_factor(result, "component").iloc[0]
    assert component.sum() == pytest.approx(1)
    assert row["index"] == pytest.approx(component["language x harm"] / (component["harm"] + component["language x harm"]))


def test_harm_on_one_axis_is_found_and_no_interaction_and_the_other_way_round(rng):
    shared = measured(*planted(rng, 0.0, 5.0)).table.set_index("factor")["p"]
    own = measured(*planted(rng, 1.0, 5.0, n_languages=8)).table.set_index("factor")["p"]
    neither = measured(*planted(rng, 0.0, 0.0)).table.set_index("factor")["p"]
    assert shared["harm"] < 0.01 and shared["language x harm"] > 0.05
    assert own["language x harm"] < 0.01
    assert neither["harm"] > 0.05 and neither["language x harm"] > 0.05
    assert shared[["language", "meaning", "rest"]].isna().all()


def test_the_null_share_is_the_mean_over_shuffled_labels_and_the_quantile_takes_the_largest_layer(rng):
    states, labels = planted(rng, 0.5, 3.0, harmful=6, harmless=10, n_layers=3)
    table = measured(states, labels, permutations=0).table.set_index(["layer", "factor"])
    draws = rng.permuted(np.broadcast_to(labels, (4000, 16)), axis=1)
    products = [MeaningProducts.of(states[:, :, k, 0]) for k in range(3)]
    totals = [np.trace(p.within) for p in products]
    shares = np.array([squares_of_labels(p, draws) / total for p, total in zip(products, totals, strict=True)])
    assert shares[1, :20] * totals[1] == pytest.approx(np.array([ClassSums.of(products[1], z).squares()[0, 1:3] for z in draws[:20]]))
    for k in range(3):
        for f in (1, 2):
            assert table.loc[(k, FACTORS[f]), "null_share"] == pytest.approx(shares[k, :, f - 1].mean(), rel=0.04)
    assert table["p"].isna().all() and table["null_95"].isna().all()
    judged = measured(states, labels, permutations=400).table
    for f in (1, 2):
        rows = judged[judged["factor"] == FACTORS[f]]
        assert rows["null_95"].nunique() == 1
        assert rows["null_95"].iloc[0] == pytest.approx(np.quantile(shares[:, :, f - 1].max(axis=0), 0.95), rel=0.1)


def test_one_layer_of_many_gets_a_larger_p_than_the_same_layer_alone(rng):
    states, labels = planted(rng, 0.0, 1.4, n_layers=12)
    harm = measured(states, labels).table.query("factor == 'harm'")
    alone = [measured(states[:, :, [k]], labels).table.query("factor == 'harm'")["p"].item() for k in range(12)]
    assert (harm["p"].to_numpy() >= np.array(alone)).all() and harm["p"].mean() > np.mean(alone) + 0.02


def test_the_index_keeps_its_whole_scale_open_where_there_is_no_harm(rng):
    widths = []
    for _ in range(10):
        row = measured(*planted(rng, 0.5, 0.3), permutations=0).transfer_index().iloc[0]
        widths.append(row["high"] - row["low"])
    assert np.nanmedian(widths) > 0.9


def test_a_ratio_interval_is_that_of_fieller(rng):
    part, whole = rng.normal(2, 0.4, size=4000), rng.normal(5, 0.4, size=4000)
    n, values = 60, rng.normal(size=(60, 2)) * 3 + [2.0, 5.0]
    low, high = ratio_interval(*values.mean(axis=0), *(values - values.mean(axis=0)).T)
    for r in (low, high):
        contrast = values[:, 0] - r * values[:, 1]
        assert abs(contrast.mean()) / (contrast.std(ddof=1) / np.sqrt(n)) == pytest.approx(2.001, abs=0.02)
    assert low < part.mean() / whole.mean() < high
    assert ratio_interval(0.1, 0.0, rng.normal(size=20), rng.normal(size=20)) == (0.0, 1.0)
    assert np.isnan(ratio_interval(1.0, 2.0, np.ones(2), np.ones(2))).all()


def test_classes_of_two_meanings_have_shares_and_components_but_no_interval_of_the_index(rng):
    states, labels = planted(rng, 0.3, 6.0, harmful=2, harmless=2)
    result = measured(states, labels)
    assert result.table[["share", "low", "high", "component"]].notna().all().all()
    row = result.transfer_index().iloc[0]
    assert np.isfinite(row["index"]) and np.isnan(row["low"]) and np.isnan(row["high"])


def test_a_layer_that_is_one_state_per_language_has_no_harm_and_no_index(rng):
    towers, labels = rng.normal(size=(8, 1, 4, 1, 128)), np.arange(800) < 400  # so many that sums differ by rounding
    table = measured(np.broadcast_to(towers, (8, 800, 4, 1, 128)), labels, scalings=["raw", "unit"], permutations=0).table
    assert table.pivot_table(index=["scaling", "layer"], columns="factor", values="share")["language"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert table["index"].isna().all() and (table["null_share"].dropna() >= 0).all()


def test_class_sizes_are_given_and_add_no_uncertainty(rng):
    labels = np.arange(20) < 4
    states = rng.normal(size=(5, 1, 1, 1, 30)) + labels[:, None, None, None] * rng.normal(size=30) + 1e-3 * rng.normal(size=(5, 20, 1, 1, 30))
    rows = measured(states, labels, permutations=0).table.query("factor in ['language', 'harm']")
    assert (rows["high"] - rows["low"]).max() < 1e-3 < rows["share"].min()


def test_the_smallest_p_counts_the_labels_themselves(rng):
    assert measured(*planted(rng, 0.0, 8.0), permutations=9).table.set_index("factor").loc["harm", "p"] == pytest.approx(0.1)


def test_constant_layers_are_undefined_and_leave_the_others_alone(rng):
    states, labels = planted(rng, 0.2, 4.0, n_layers=2)
    states[:, :, 0] = 0.25
    table = measured(states, labels).table.set_index(["layer", "factor"])
    alone = measured(states[:, :, [1]], labels).table.set_index("factor")
    assert table.loc[0][["share", "component", "p", "null_95", "index"]].isna().all().all() and not table.loc[0]["defined"].any()
    assert table.loc[1]["p"].to_numpy() == pytest.approx(alone["p"].to_numpy(), nan_ok=True)


def test_what_cannot_be_decomposed_is_refused_with_the_remedy(rng):
    states, labels = planted(rng, 0.2, 4.0, harmful=6, harmless=6)
    with pytest.raises(DataError, match=r"Got 12 harmful and 0 harmless.*variance_shares"):
        measured(states, np.ones(12, dtype=bool))
    with pytest.raises(DataError, match="Got 1 harmful"):
        measured(states, np.arange(12) == 3)
    with pytest.raises(DataError, match="Did you mean"):
        measured(states, labels, scalings=["units"])
    with pytest.raises(DataError, match="largest_complete"):
        harm_variance(activations(states, harmful=labels).isel(prompt=slice(1, None)))
    with pytest.raises(DataError, match="t_inst"):
        measured(states, labels, positions=["t_ins"])


def test_a_split_is_measured_alone_and_the_same_seed_gives_the_same_table(rng):
    acts = activations(planted(rng, 0.2, 4.0)[0])
    part = harm_variance(acts, split="fit", scalings=["unit"])
    assert (part.table["n"] == 20).all() and part.provenance["n_harmful"] == 10
    assert part.table.equals(harm_variance(acts, split="fit", scalings=["unit"]).table)
    other = harm_variance(acts, split="fit", scalings=["unit"], rng=np.random.default_rng(1))
    assert not part.table["null_95"].equals(other.table["null_95"]) and part.table["share"].equals(other.table["share"])


def test_a_saved_result_still_gives_its_transfer_index(rng, tmp_path):
    result = measured(*planted(rng, 0.3, 6.0, n_layers=2), scalings=["raw", "unit"])
    loaded = HarmVariance.load(result.save(tmp_path / "harm_variance.parquet"))
    assert loaded.transfer_index().equals(result.transfer_index()) and len(loaded.transfer_index()) == 4
    assert list(loaded.summary().columns[2:]) == [*FACTORS, "transfer index"]


def in_many_draws(rng, draws, index, strength, *, permutations=0, **options):
    """Measure independent draws, each as a position of one store."""
    drawn = [planted(rng, index, strength, **options) for _ in range(draws)]
    acts = activations(np.concatenate([states for states, _ in drawn], axis=3), harmful=drawn[0][1], positions=[f"draw{i}" for i in range(draws)])
    return harm_variance(acts, scalings=["raw"], permutations=permutations, rng=rng)


@pytest.mark.slow
@pytest.mark.parametrize(("harmful", "harmless", "strength"), [(12, 12, 0.0), (6, 20, 0.0), (12, 12, 6.0)])
def test_false_alarms_over_layers_are_as_rare_as_they_claim(harmful, harmless, strength, rng):
    """Harm (where there is none) and language x harm (also beside strong harm on one axis) at p <= .05 at any of three layers."""
    options = {"n_languages": 4, "harmful": harmful, "harmless": harmless, "hidden": 16, "n_layers": 3, "permutations": 199}
    tables = [in_many_draws(rng, 50, 0.0, strength, **options).table for _ in range(20)]
    harm, both = (
        np.mean([t[t["factor"] == factor].groupby("position")["p"].min() <= 0.05 for t in tables]) for factor in ("harm", "language x harm")
    )
    assert 0.03 <= both <= 0.072
    assert 0.03 <= harm <= 0.072 if strength == 0 else harm > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "strength", "harmful", "harmless"), [(0.0, 8.0, 20, 20), (0.3, 4.0, 10, 30), (0.5, 1.0, 20, 20), (0.8, 8.0, 30, 10), (1.0, 8.0, 20, 20)]
)
def test_intervals_of_the_transfer_index_cover_what_was_planted(index, strength, harmful, harmless, rng):
    found = in_many_draws(rng, 400, index, strength, harmful=harmful, harmless=harmless).transfer_index()
    kept = found[found["low"].notna()]
    assert len(kept) > 0.85 * len(found)
    assert ((kept["low"] <= index + 1e-9) & (index - 1e-9 <= kept["high"])).mean() >= 0.93
    width = (kept["high"] - kept["low"]).median()
    assert width <= 0.25 if strength == 8.0 else width > 0.25


@pytest.mark.slow
def test_intervals_of_the_shares_cover_the_expected_share(rng):
    towers, axis = rng.normal(size=(6, 1, 48)), rng.normal(size=48)
    labels = np.arange(30) < 10
    draws = [additive(rng, [1.0], [0.7], n_languages=6, n=30, hidden=48, towers=towers) for _ in range(300)]
    states = np.concatenate(draws, axis=3) + (np.where(labels, 0.4, -0.4)[:, None] * axis)[None, :, None, None]
    acts = activations(states, harmful=labels, positions=[f"draw{i}" for i in range(300)])
    table = harm_variance(acts, scalings=["raw"], permutations=0).table
    share, low, high = (table.pivot(index="position", columns="factor", values=c) for c in ("share", "low", "high"))
    truth = share.mean()
    assert ((low <= truth) & (truth <= high)).mean().min() >= 0.92
    assert (high - low).median().max() <= 0.25
