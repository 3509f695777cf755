"""Class separation follows the identities of Gaussian classes, agrees with scikit-learn and scipy, and is paired between models."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import activations, with_harm
from scipy.stats import norm
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from workbench.errors import DataError
from workbench.geometry import Separation, separation
from workbench.geometry.class_distances import euclidean, moment_sums, moments, two_class_silhouettes
from workbench.geometry.paired_intervals import p_of_zero, separation_interval, shared_contributions, spread_over_units, weighted_sum
from workbench.geometry.separation import between_class_share, bhattacharyya
from workbench.statistics import Estimate, auroc, jackknife_influence, jackknife_interval

ON_AXES = ("between_class_share", "bhattacharyya", "silhouette")


def measured(result, **where):
    """Return one value of a result's table."""
    rows = result.table
    for name, value in where.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def direct_bhattacharyya(first, second):
    one, two = (LedoitWolf().fit(rows).covariance_ for rows in (first, second))
    both, apart = (one + two) / 2, first.mean(axis=0) - second.mean(axis=0)
    log_det = [np.linalg.slogdet(m)[1] for m in (both, one, two)]
    return apart @ np.linalg.inv(both) @ apart / 8 + (log_det[0] - (log_det[1] + log_det[2]) / 2) / 2


@pytest.fixture
def tuned_in_one(rng):
    """Two models on the same prompts: alignment separates the classes in the first of three languages only."""
    base, axis = with_harm(rng, 0.0, n_languages=3)
    sign = np.where(np.arange(base.shape[1]) % 2 == 0, 0.5, -0.5)[:, None, None, None] * axis
    strength = np.array([8.0, 0, 0])[:, None, None, None, None] * (np.arange(base.shape[2]) / 4)[:, None, None]
    near = 0.3 * rng.normal(size=base.shape)
    return activations(base + near + strength * sign), activations(base)


@pytest.mark.parametrize("delta", [0.18, 1.0, 2.51])
def test_the_identities_of_two_gaussian_classes_hold(delta, rng):
    """Card 3.5: eta^2 = d^2 / (d^2 + 4), D_B = d^2 / 8, AUROC = Phi(d / sqrt 2)."""
    harmful = np.arange(40_000) < 20_000
    rows = (rng.normal(size=40_000) + delta * harmful)[:, None]
    assert between_class_share(rows, harmful) == pytest.approx(delta**2 / (delta**2 + 4), abs=0.01)
    assert bhattacharyya(rows[harmful], rows[~harmful]) == pytest.approx(delta**2 / 8, abs=0.02)
    assert auroc(harmful, rows[:, 0]) == pytest.approx(norm.cdf(delta / np.sqrt(2)), abs=0.01)


@pytest.mark.parametrize(("percent", "delta", "distance", "ranked"), [(0.81, 0.18, 0.004, 0.55), (61.2, 2.51, 0.79, 0.96)])
def test_the_published_shares_are_these_distances(percent, delta, distance, ranked, rng):
    """The paper's English Llama-2 share before and after alignment, read as distances: card 3.5's aid to reading."""
    assert 2 * np.sqrt(percent / 100 / (1 - percent / 100)) == pytest.approx(delta, abs=0.005)
    harmful = np.arange(20_000) < 10_000
    rows = rng.normal(size=20_000)
    rows = (rows - np.where(harmful, rows[harmful].mean(), rows[~harmful].mean()))[:, None] + delta * harmful[:, None]
    assert 100 * between_class_share(rows, harmful) == pytest.approx(percent, rel=0.03)
    assert bhattacharyya(rows[harmful], rows[~harmful]) == pytest.approx(distance, abs=0.015)
    assert auroc(harmful, rows[:, 0]) == pytest.approx(ranked, abs=0.006)


def test_bhattacharyya_sees_spread_and_shrinkage_keeps_it_finite(rng):
    narrow, wide = rng.normal(size=(4000, 3)), 3 * rng.normal(size=(4000, 3))
    assert bhattacharyya(narrow, wide) == pytest.approx(1.5 * np.log(5 / 3), abs=0.03)
    few, others = rng.normal(size=(4, 9)), rng.normal(size=(4, 9))
    assert np.isfinite(bhattacharyya(few, others, shrinkage=0.2)) and np.isnan(bhattacharyya(few, others, shrinkage=0.0))
    assert np.isnan(bhattacharyya(np.ones((4, 2)), rng.normal(size=(4, 2)), shrinkage=None))


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 12), st.integers(3, 12), st.integers(1, 6), st.integers(0, 2**16))
def test_bhattacharyya_shrinks_as_scikit_learn_does_and_ignores_origin_rotation_and_scale(n_first, n_second, k, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(n_first, k)) * np.arange(1, k + 1), rng.normal(size=(n_second, k)) + 1
    found = bhattacharyya(first, second, None)
    if k > 1:  # at one component scikit-learn and we leave the variance as it is
        assert found == pytest.approx(direct_bhattacharyya(first, second), rel=1e-6, abs=1e-9)
    assert found >= -1e-9
    turn = np.linalg.qr(rng.normal(size=(k, k)))[0]
    assert bhattacharyya(7 + 3 * first @ turn, 7 + 3 * second @ turn, None) == pytest.approx(found, rel=1e-5, abs=1e-8)


def test_sums_of_moments_are_their_column_sums(rng):
    x = rng.normal(size=(7, 3))
    assert moment_sums(x) == pytest.approx(moments(x).sum(axis=0))


@pytest.mark.parametrize("twins", [False, True])
def test_the_interval_is_the_jackknife_of_scikit_learn_fits_without_each_unit(twins, rng):
    """Axes, covariances and distances computed anew without each meaning or pair, by scikit-learn."""
    n = 15
    states = rng.normal(size=(1, 2 * n, 1, 1, 30)) * np.linspace(2, 0.3, 30)
    states[..., 1] += np.where(np.arange(2 * n) % 2 == 0, 1.5, 0)[None, :, None, None]
    acts = activations(states, splits=False)
    units = np.arange(2 * n) // 2 if twins else np.arange(2 * n)
    if twins:
        acts = acts.assign_coords(pair_id=("prompt", [f"p{i}" for i in units]))
    result = separation(acts, split=None, bases=("own",), statistics=ON_AXES, permutations=0)
    flat, harmful = acts["residual"].values[:, 0, 0].astype(np.float64), acts["harmful"].values

    def direct(kept):
        scores, labels = PCA(10, svd_solver="full").fit_transform(flat[kept]), harmful[kept]
        share = sum(part.sum() * (scores[part].mean(axis=0) ** 2).sum() for part in (labels, ~labels)) / (scores**2).sum()
        return np.array([share, direct_bhattacharyya(scores[labels], scores[~labels]), silhouette_score(scores, labels)])

    value, without = direct(np.ones(2 * n, dtype=bool)), np.array([direct(units != k) for k in range(units.max() + 1)])
    for k, statistic in enumerate(ON_AXES):
        found = measured(result, statistic=statistic)
        (low, high), influence = separation_interval(statistic, value[k], without[:, k])
        assert found["value"] == pytest.approx(value[k], abs=1e-5)
        assert (found["low"], found["high"]) == pytest.approx((low, high), rel=0.02, abs=0.004)
        names = [f"pair:p{k}" if twins else f"m{k}" for k in range(len(influence))]
        held = result.influence["qaa"].sel(statistic=statistic, unit=names).values.ravel()
        assert np.corrcoef(held, influence)[0, 1] > 0.99


def test_silhouettes_of_any_labels_agree_with_scikit_learn(rng):
    scores, labels = rng.normal(size=(20, 4)), rng.random(size=(5, 20)) < 0.4
    found = two_class_silhouettes(euclidean(scores), labels)
    assert found == pytest.approx([silhouette_score(scores, each) for each in labels])


def test_each_statistic_equals_scikit_learn_on_the_same_prompts(tuned_in_one):
    after, before = tuned_in_one
    result = separation(after, before, positions=["t_inst"], layers=[4], statistics=ON_AXES, permutations=0)
    rows = np.flatnonzero((after["split"] == "score").values & (after["language"] == "qaa").values)
    harmful = after["harmful"].values[rows]
    for model, data in (("after", after), ("before", before)):
        states = data["residual"].values[rows, 4, 0].astype(np.float64)
        scores = PCA(10, svd_solver="full").fit_transform(states)
        mean = scores.mean(axis=0)
        between = sum(part.sum() * ((scores[part].mean(axis=0) - mean) ** 2).sum() for part in (harmful, ~harmful))
        between /= ((scores - mean) ** 2).sum()
        expected = dict(
            zip(ON_AXES, (between, direct_bhattacharyya(scores[harmful], scores[~harmful]), silhouette_score(scores, harmful)), strict=True)
        )
        for statistic, value in expected.items():
            found = measured(result, model=model, basis="own", language="qaa", statistic=statistic)
            assert found["value"] == pytest.approx(value, abs=1e-5) and found["low"] < value < found["high"]


def test_the_common_basis_is_one_pca_of_both_models_each_centred(tuned_in_one):
    after, before = tuned_in_one
    found = separation(after, before + 5.0, positions=["t_inst"], layers=[3], bases=("common",), statistics=("between_class_share",))
    rows = np.flatnonzero((after["split"] == "score").values)
    states = [data["residual"].values[rows, 3, 0].astype(np.float64) for data in (after, before)]
    states = [each - each.mean(axis=0) for each in states]
    axes = PCA(10, svd_solver="full").fit(np.concatenate(states)).components_
    here = after["language"].values[rows] == "qab"
    for model, each in zip(("after", "before"), states, strict=True):
        expected = between_class_share(each[here] @ axes.T, after["harmful"].values[rows][here])
        assert measured(found, model=model, language="qab")["value"] == pytest.approx(expected, abs=1e-5)


def test_the_common_interval_is_the_jackknife_of_common_fits_without_each_meaning(rng):
    """scikit-learn's PCA on both models and languages, anew without each meaning in all of them."""
    n = 20
    states, axis = with_harm(rng, 4.0, n_languages=2, n=n, n_layers=2, n_positions=1, hidden=60)
    stores = [activations(each, splits=False) for each in (states + 2 * np.sign(np.arange(n) % 2 - 0.5)[:, None, None, None] * axis, states)]
    found = separation(*stores, split=None, layers=[1], bases=("common",), statistics=("silhouette",), permutations=0)
    flat = [store["residual"].values[:, 1, 0].astype(np.float64).reshape(2, n, -1) for store in stores]
    harmful = stores[0]["harmful"].values[:n]

    def direct(kept):
        left = [each[:, kept] - each[:, kept].mean(axis=(0, 1)) for each in flat]
        axes = PCA(10, svd_solver="full").fit(np.concatenate([each.reshape(-1, 60) for each in left])).components_
        return np.array([[silhouette_score(each[a] @ axes.T, harmful[kept]) for a in (0, 1)] for each in left])

    value, without = direct(np.ones(n, dtype=bool)), np.array([direct(np.arange(n) != k) for k in range(n)])
    for m, model in enumerate(("after", "before")):
        for a, language in enumerate(("qaa", "qab")):
            row = measured(found, model=model, language=language)
            (low, high), _ = separation_interval("silhouette", value[m, a], without[:, m, a])
            assert row["value"] == pytest.approx(value[m, a], abs=1e-5)
            assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.006)


def test_the_same_model_twice_changes_nothing_in_either_basis(tuned_in_one):
    after, _ = tuned_in_one
    result = separation(after, after, positions=["t_inst"], layers=[0, 4])
    change = result.change().table
    assert change["change"].abs().max() < 1e-9 and change["defined"].all()
    jackknifed = change[change["statistic"] == "silhouette"]
    assert (jackknifed["high"] - jackknifed["low"]).max() < 1e-6
    contrast = result.contrast(["qaa"], ["qab", "qac"]).table
    assert contrast["contrast"].abs().max() < 1e-9 and (contrast["p"] > 0.05).all()


def test_alignment_that_separates_one_language_only_shows_there(tuned_in_one):
    after, before = tuned_in_one
    result = separation(after, before, positions=["t_inst"])
    change = result.change()
    shares = change.table.query("statistic == 'between_class_share'").set_index(["basis", "layer", "language"]).sort_index()
    for basis in ("own", "common"):
        raised = shares.loc[(basis, 4, "qaa")]
        assert raised["change"] > 0.35 and raised["low"] > 0 and raised["p_adjusted"] < 0.01
        for untouched in (shares.loc[(basis, 4, "qab")], shares.loc[(basis, 0, "qaa")]):
            assert abs(untouched["change"]) < 0.12 and untouched["low"] < 0 < untouched["high"] and untouched["p_adjusted"] > 0.05
    probe = change.table.query("statistic == 'probe_auroc' and layer == 4").set_index("language")
    assert probe.loc["qaa", "low"] > 0.2 and probe.loc["qab", "low"] < 0
    last = measured(result, model="after", basis="own", layer=4, language="qaa", statistic="between_class_share")
    assert last["low"] > last["null_95"] > last["null_share"] == 1 / 31 and last["n"] == last["n_units"] == 32 and last["tier"] == "high"


def test_the_contrast_is_the_difference_of_mean_changes_and_rises_where_it_was_planted(tuned_in_one):
    after, before = tuned_in_one
    result = separation(after, before, positions=["t_inst"])
    change = result.change().table.set_index(["basis", "layer", "statistic", "language"])["change"].sort_index()
    contrast = result.contrast(["qaa"], ["qab", "qac"])
    for row in contrast.table.itertuples():
        cell = change.loc[row.basis, row.layer, row.statistic]
        assert row.contrast == pytest.approx(cell["qaa"] - (cell["qab"] + cell["qac"]) / 2)
        assert row.tuned_change == pytest.approx(cell["qaa"])
    for row in result.contrast(["qab", "qac"], ["qaa"]).table.itertuples():
        cell = change.loc[row.basis, row.layer, row.statistic]
        assert row.contrast == pytest.approx(row.tuned_change - row.others_change)
        assert row.tuned_change == pytest.approx((cell["qab"] + cell["qac"]) / 2)
    last = contrast.table.query("layer == 4 and basis == 'own'").set_index("statistic")
    assert (last["low"] > 0).all() and (last["tuned"] == "qaa").all() and (last["others"] == "qab, qac").all()
    first = contrast.table.query("layer == 0 and statistic != 'probe_auroc'")
    assert ((first["low"] < 0) & (first["high"] > 0)).all()


def test_a_change_of_jackknifed_values_has_the_interval_of_the_subtracted_influences(tuned_in_one):
    after, before = tuned_in_one
    result = separation(after, before, positions=["t_inst"], layers=[4], bases=("own",), statistics=("silhouette",), permutations=0)
    held = {a: result.influence[a].isel(position=0, layer=0, basis=0, statistic=0) for a in ("qaa", "qab", "qac")}
    moved = {a: held[a].sel(model="after").values - held[a].sel(model="before").values for a in held}
    for row in result.change().table.itertuples():
        assert (row.low, row.high) == pytest.approx(jackknife_interval(row.change, moved[row.language]), abs=1e-9)
    row = next(result.contrast(["qaa"], ["qab", "qac"]).table.itertuples())
    together = moved["qaa"] - (moved["qab"] + moved["qac"]) / 2
    assert (row.low, row.high) == pytest.approx(jackknife_interval(row.contrast, together), abs=1e-9)


def test_languages_with_texts_of_their_own_add_as_independent_samples(rng):
    states, _ = with_harm(rng, np.array([8.0, 0.0]), n_languages=2, n=32)
    shared = activations(states, splits=False)
    own = [f"{a}-{m}" for a, m in zip(shared["language"].values, shared["meaning_id"].values, strict=True)]
    apart = shared.assign_coords(meaning_id=("prompt", own))
    base, _ = with_harm(rng, 0.0, n_languages=2, n=32)
    before = shared.assign(residual=(shared["residual"].dims, activations(base, splits=False)["residual"].values))
    options = dict(split=None, positions=["t_inst"], layers=[4], statistics=("silhouette",), bases=("own",), permutations=0)
    found = separation(apart, before.assign_coords(meaning_id=apart["meaning_id"]), **options)
    changes = found.change().table.set_index("language")
    row = found.contrast(["qaa"], ["qab"]).table.iloc[0]
    assert row["n"] == 64
    half = np.hypot(*(changes["change"] - changes["low"]))
    assert row["contrast"] - row["low"] == pytest.approx(half)
    together = separation(shared, before, **options).contrast(["qaa"], ["qab"]).table.iloc[0]
    assert together["n"] == 32 and together["contrast"] - together["low"] != pytest.approx(half, rel=1e-6)


def test_twins_are_resampled_and_permuted_as_pairs(rng):
    """Toxic and neutral rewrites of one text: the pair is the unit, and its large common part is no separation."""
    n, hidden = 24, 16
    topic = 5 * rng.normal(size=(1, n, 1, 1, hidden)).repeat(2, axis=2).reshape(1, 2 * n, 1, 1, hidden)[:, ::-1]
    sign = np.where(np.arange(2 * n) % 2 == 0, 0.5, -0.5)[None, :, None, None, None] * np.eye(hidden)[0]
    topic = np.repeat(5 * rng.normal(size=(n, hidden)), 2, axis=0)[None, :, None, None, :]
    acts = activations(topic + 4 * sign + 0.2 * rng.normal(size=topic.shape), splits=False)
    paired = acts.assign_coords(pair_id=("prompt", [f"p{i // 2}" for i in range(2 * n)]))
    options = dict(split=None, bases=("own",), permutations=60)
    single, twins = separation(acts, **options), separation(paired, **options)
    one, two = (measured(each, statistic="between_class_share") for each in (single, twins))
    assert two["value"] == one["value"] and two["n"] == 2 * n and two["n_units"] == n
    assert two["high"] - two["low"] < 0.7 * (one["high"] - one["low"])
    assert two["null_95"] < 0.7 * one["null_95"] and two["low"] > two["null_95"]
    missing = paired.assign_coords(pair_id=("prompt", np.array([None] * (2 * n), dtype=object)))
    assert separation(missing, **options).table.equals(single.table)


def test_large_languages_are_drawn_down_to_the_same_units_in_both_models_with_twins_together(rng):
    states, _ = with_harm(rng, 3.0, n_languages=2, n=80)
    acts = activations(states, splits=False)
    paired = acts.assign_coords(pair_id=("prompt", np.tile([f"p{i // 2}" for i in range(80)], 2)))
    options = dict(split=None, layers=[4], positions=["t_inst"], permutations=0)
    few = separation(paired, paired, max_units=15, **options)
    assert set(few.table["n"]) == {30} and set(few.table["n_units"]) == {15} and few.provenance["max_units"] == 15
    assert (few.influence["qaa"]["unit"].values == few.influence["qab"]["unit"].values).all()
    assert few.change().table["change"].abs().max() < 1e-9
    single = separation(acts, max_units=30, **options).table
    assert set(single["n"]) == {30}
    assert separation(acts, max_units=None, **options).table.equals(separation(acts, **options).table)
    with pytest.raises(DataError, match="max_units=2"):
        separation(acts, max_units=2, **options)


def test_without_a_model_before_there_is_no_change(rng):
    states, _ = with_harm(rng, 2.0, n_languages=2, n=16)
    result = separation(activations(states), layers=[4])
    assert set(result.table["model"]) == {"after"} and result.change().table.empty
    with pytest.raises(DataError, match="no model before"):
        result.contrast(["qaa"], ["qab"])


def test_a_constant_token_has_no_separation_and_one_class_is_refused(rng):
    states, _ = with_harm(rng, 2.0, n_languages=2, n=32)
    states[:, :, 0] = 1
    acts = activations(states)
    result = separation(acts, acts, layers=[0, 1])
    first = result.table.query("layer == 0")
    assert first[["value", "low", "high", "null_95"]].isna().all(axis=None) and not first["defined"].any()
    assert result.change().table.query("layer == 0")["change"].isna().all() and result.table.query("layer == 1")["defined"].all()
    with pytest.raises(DataError, match="0 harmless"):
        separation(activations(states, harmful=np.ones(32, dtype=bool)))
    with pytest.raises(DataError, match="same label"):
        between_class_share(np.ones((3, 1)), np.ones(3, dtype=bool))
    with pytest.raises(DataError, match="no variance"):
        between_class_share(np.ones((3, 1)), np.array([True, False, False]))
    states[0, -2, 3, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        separation(activations(states))


def test_stores_that_do_not_belong_together_are_refused_with_the_remedy(rng):
    states, _ = with_harm(rng, 2.0, n_languages=2, n=32)
    acts = activations(states)
    kept = np.arange(acts.sizes["prompt"]) != 7
    with pytest.raises(DataError, match=r"1 only after \('qaa:m7'\).*np.isin"):
        separation(acts, acts.isel(prompt=kept))
    with pytest.raises(DataError, match=r"layers.*layers=\[0, 1, 2, 3\]"):
        separation(acts, acts.isel(layer=slice(4)))
    assert set(separation(acts, acts.isel(layer=slice(4)), layers=[2], permutations=0).table["layer"]) == {2}
    with pytest.raises(DataError, match=r"Layers \[4\] of the model 'before'"):
        separation(acts, acts.isel(layer=slice(4)), layers=[2, 4])
    with pytest.raises(DataError, match=r"positions=\['t_inst'\]"):
        separation(acts, acts.isel(position=[0]))
    narrow = acts.isel(hidden=slice(16))
    with pytest.raises(DataError, match=r"32 wide and those before 16.*bases=\('own',\)"):
        separation(acts, narrow)
    assert separation(acts, narrow, bases=("own",), layers=[4], permutations=0).change().table["defined"].all()
    turned = acts.assign_coords(harmful=~acts["harmful"])
    with pytest.raises(DataError, match="another harmful"):
        separation(acts, turned)


def test_the_order_of_rows_matters_neither_within_a_store_nor_between_two(tuned_in_one, rng):
    after, before = tuned_in_one
    options = dict(positions=["t_inst"], layers=[4], permutations=0)
    once = separation(after, before, **options)
    again = separation(after, before.isel(prompt=rng.permutation(before.sizes["prompt"])), **options)
    xr.testing.assert_allclose(once.influence["qac"], again.influence["qac"], atol=1e-8)
    keys = ["model", "basis", "statistic", "language"]
    shuffled = separation(after.isel(prompt=rng.permutation(after.sizes["prompt"])), before, **options)
    first, second = (each.table.set_index(keys).sort_index()[["value"]] for each in (once, shuffled))
    assert first["value"].to_numpy() == pytest.approx(second["value"].to_numpy(), abs=1e-6)


def test_unknown_names_are_refused_with_the_nearest_spelling(rng):
    states, _ = with_harm(rng, 2.0, n_languages=2, n=16)
    acts = activations(states)
    with pytest.raises(DataError, match="Did you mean 'silhouette'"):
        separation(acts, statistics=("silhouete",))
    with pytest.raises(DataError, match="Did you mean 'common'"):
        separation(acts, bases=("comon",))
    with pytest.raises(DataError, match="no basis but 'own'"):
        separation(acts, bases=("common",), statistics=("probe_auroc",))
    with pytest.raises(DataError, match="n_components=0"):
        separation(acts, n_components=0)
    result = separation(acts, acts, layers=[4], permutations=0)
    with pytest.raises(DataError, match="Did you mean 'qab'"):
        result.contrast(["qaa"], ["qabb"])
    with pytest.raises(DataError, match="among the tuned languages and among the others"):
        result.contrast(["qaa"], ["qaa", "qab"])
    with pytest.raises(DataError, match="No language"):
        result.contrast([], ["qab"])


def test_a_saved_table_keeps_its_rows_and_says_why_it_cannot_be_compared(tuned_in_one, tmp_path):
    after, before = tuned_in_one
    result = separation(after, before, layers=[4], permutations=0)
    loaded = Separation.load(result.save(tmp_path / "separation.parquet"))
    assert loaded.table.drop(columns="tier").equals(result.table.drop(columns="tier"))
    assert loaded.provenance["shrinkage"].startswith("Ledoit-Wolf") and "C=10" in loaded.provenance["probe"]
    with pytest.raises(DataError, match="loaded from a file"):
        loaded.change()
    assert {"before", "after"} <= set(loaded.summary().columns)


def test_weighted_sums_pair_what_moves_together(rng):
    shared = rng.normal(size=(50, 1))
    alike = [shared[:, 0] - shared.mean(), shared[:, 0] - shared.mean()]
    terms, units = [Estimate(0.6, 0.5, 0.7), Estimate(0.2, 0.15, 0.25)], [np.arange(50).astype(str)] * 2
    both = weighted_sum(np.array([1.0, -1.0]), terms, shared_contributions(alike, units))
    assert both.value == pytest.approx(0.4) and both.low == pytest.approx(0.35)  # 0.1 - 0.05: perfectly correlated
    other = [np.array([f"x{i}" for i in range(50)]), units[1]]
    apart = weighted_sum(np.array([1.0, -1.0]), terms, shared_contributions(alike, other))
    assert apart.low == pytest.approx(0.4 - np.hypot(0.1, 0.05))
    still = weighted_sum(np.array([1.0, -1.0]), [Estimate(1.0, 0.9, 1.0)] * 2, np.zeros((50, 2)))
    assert (still.low, still.high) == pytest.approx((-0.1, 0.1))  # two perfect AUROCs are not certainly equal


def test_influences_of_groups_spread_over_units_keep_their_error(rng):
    units, groups = np.arange(30), np.arange(30) % 7
    influence = rng.normal(size=7)
    influence -= influence.mean()
    spread = spread_over_units(influence, groups, units)
    assert (spread**2).sum() / (30 * 29) == pytest.approx((influence**2).sum() / (7 * 6))
    assert spread_over_units(rng.normal(size=5), np.arange(5), np.arange(5)).shape == (5,)


def test_p_values_belong_to_their_intervals():
    assert p_of_zero(Estimate(0.4, 0.0, 0.8), 30) == pytest.approx(0.05)
    assert p_of_zero(Estimate(-0.4, -0.6, -0.2), 30) < 0.01 < p_of_zero(Estimate(0.1, -0.1, 0.3), 30)
    assert p_of_zero(Estimate(0.0, 0.0, 0.0), 30) == 1.0 and np.isnan(p_of_zero(Estimate(0.1, np.nan, np.nan), 30))


def test_an_interval_near_zero_keeps_a_width_and_an_undefined_one_is_missing(rng):
    harmful = np.arange(100) < 50
    rows = rng.normal(size=(100, 2))
    rows[harmful] -= rows[harmful].mean(axis=0)
    rows[~harmful] -= rows[~harmful].mean(axis=0)
    value = between_class_share(rows, harmful)
    without = np.array([between_class_share(np.delete(rows, k, axis=0), np.delete(harmful, k)) for k in range(100)])
    (low, high), influence = separation_interval("between_class_share", value, without)
    assert value < 1e-12 and low == 0.0 and high > 1e-4
    assert influence == pytest.approx(jackknife_influence(np.asarray(value), without))
    missing, nothing = separation_interval("silhouette", 0.2, np.array([0.1, np.nan, 0.3]))
    assert np.isnan(missing).all() and np.isnan(nothing).all()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "delta"), [(16, 0.0), (16, 1.0), (32, 1.0), (32, 2.5)])
def test_separation_intervals_cover(n, delta, rng):
    """On ten fixed components of 64; tests/benchmarks/separation_coverage.py has the wide table."""
    harmful, found = np.arange(2 * n) < n, {statistic: [] for statistic in ON_AXES}
    for _ in range(10):
        states = rng.normal(size=(1, 2 * n, 20, 1, 64))
        states[..., 1] += 2 * delta * harmful[None, :, None, None]
        table = separation(activations(states, harmful=harmful, splits=False), split=None, bases=("own",), statistics=ON_AXES, permutations=0).table
        for statistic, part in table.groupby("statistic"):
            found[statistic].append(part[["value", "low", "high"]].to_numpy())
    for statistic, rows in found.items():
        value, low, high = np.concatenate(rows).T
        assert ((low <= value.mean()) & (value.mean() <= high)).mean() >= 0.9, statistic
        if statistic != "bhattacharyya":
            assert np.median(high - low) <= 0.25
