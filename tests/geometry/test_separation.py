"""Class separation follows the identities of Gaussian classes; components agree with scikit-learn."""

import numpy as np
import pytest
from planted import activations, with_harm
from scipy.stats import norm
from sklearn.decomposition import PCA

from workbench.errors import DataError
from workbench.geometry import clusters, separation
from workbench.geometry.separation import between_class_share, bhattacharyya, principal_components, shares_without_each_prompt
from workbench.statistics import auroc, jackknife_influence, jackknife_interval


@pytest.mark.parametrize("shape", [(30, 8), (12, 40)])
def test_components_agree_with_scikit_learn_up_to_sign_and_signs_are_fixed(shape, rng):
    states = rng.normal(size=shape) * np.linspace(1, 3, shape[1])
    scores, ratio, axes = principal_components(states, 4)
    reference = PCA(4, svd_solver="full").fit(states)
    assert ratio == pytest.approx(reference.explained_variance_ratio_)
    assert np.abs((axes * reference.components_).sum(axis=1)) == pytest.approx(1)
    assert np.abs(scores) == pytest.approx(np.abs(reference.transform(states)), abs=1e-9)
    flipped = principal_components(-states, 4)[2]
    assert flipped == pytest.approx(axes) and (axes[np.arange(4), np.abs(axes).argmax(axis=1)] > 0).all()


def test_components_without_variance_are_left_out(rng):
    states = np.outer(rng.normal(size=9), np.ones(5))
    scores, ratio, _ = principal_components(states, 3)
    assert scores.shape == (9, 1) and ratio == pytest.approx([1.0])


@pytest.mark.parametrize("delta", [0.18, 1.0, 2.51])
def test_the_identities_of_two_gaussian_classes_hold(delta, rng):
    """Card 3.5: eta^2 = d^2 / (d^2 + 4), D_B = d^2 / 8, AUROC = Phi(d / sqrt 2); .81 % is d = .18, 61.2 % is d = 2.51."""
    harmful = np.arange(40_000) < 20_000
    rows = (rng.normal(size=40_000) + delta * harmful)[:, None]
    assert between_class_share(rows, harmful) == pytest.approx(delta**2 / (delta**2 + 4), abs=0.01)
    assert bhattacharyya(rows[harmful], rows[~harmful]) == pytest.approx(delta**2 / 8, abs=0.02)
    assert auroc(harmful, rows[:, 0]) == pytest.approx(norm.cdf(delta / np.sqrt(2)), abs=0.01)


def test_bhattacharyya_sees_spread_and_shrinkage_keeps_it_finite(rng):
    narrow, wide = rng.normal(size=(4000, 3)), 3 * rng.normal(size=(4000, 3))
    assert bhattacharyya(narrow, wide) == pytest.approx(1.5 * np.log(5 / 3), abs=0.03)
    few = rng.normal(size=(4, 9))
    assert np.isfinite(bhattacharyya(few, rng.normal(size=(4, 9)), shrinkage=0.2))


def test_leaving_out_a_prompt_equals_computing_without_it(rng):
    scores, harmful = rng.normal(size=(11, 3)) + 1, np.arange(11) < 5
    fast = shares_without_each_prompt(scores, harmful)
    for k in range(11):
        assert fast[k] == pytest.approx(between_class_share(np.delete(scores, k, axis=0), np.delete(harmful, k)))


def test_alignment_that_separates_one_language_only_shows_there(rng):
    strength = np.array([8.0, 0, 0])
    before, _ = with_harm(rng, 0.0, n_languages=3)
    after, _ = with_harm(rng, strength, n_languages=3)
    result = separation(activations(after), activations(before), positions=["t_inst"])
    change = result.change().set_index(["layer", "language"])["change"]
    assert change[4, "qaa"] > 0.4 and abs(change[4, "qab"]) < 0.1 and abs(change[0, "qaa"]) < 0.1
    last = result.table.query("layer == 4 and language == 'qaa' and model == 'after'").iloc[0]
    assert last["low"] > last["null_share"] and last["n"] == 32 and last["tier"] == "high"


def test_without_a_model_before_there_is_no_change(rng):
    states, _ = with_harm(rng, 2.0, n_languages=2, n=16)
    result = separation(activations(states))
    assert set(result.table["model"]) == {"after"} and result.change().empty


def test_a_constant_token_has_no_separation_and_one_class_is_refused(rng):
    states, _ = with_harm(rng, 2.0, n_languages=2, n=16)
    states[:, :, 0] = 1
    assert separation(activations(states)).table.query("layer == 0")["value"].isna().all()
    with pytest.raises(DataError, match="0 harmless"):
        separation(activations(states, harmful=np.ones(16, dtype=bool)))
    with pytest.raises(DataError, match="same label"):
        between_class_share(np.ones((3, 1)), np.ones(3, dtype=bool))


def test_clusters_hold_the_same_prompts_in_both_models_and_keep_sides_between_layers(rng):
    states, _ = with_harm(rng, 8.0, n_languages=3, n=64)
    acts = activations(states)
    result = clusters(acts, before=acts, layers=[2, 3, 4], positions=["t_inst"], max_meanings=10, rng=np.random.default_rng(3))
    assert len(result.table) == 2 * 3 * 60 and set(result.table["layer"]) == {2, 3, 4}
    wide = result.table.pivot(index="prompt_id", columns=["model", "layer"], values="pc1")
    assert wide.notna().all(axis=None)
    assert wide["after"].corr().loc[3, 4] > 0
    assert wide["before"].to_numpy() == pytest.approx(wide["after"].to_numpy())
    assert len(result.axes().table) == 2 * 3 * 2 and result.explained["ratio"].between(0, 1).all()
    again = clusters(acts, before=acts, layers=[2, 3, 4], positions=["t_inst"], max_meanings=10, rng=np.random.default_rng(3))
    assert again.table.equals(result.table)


def test_clusters_of_a_constant_token_are_one_point(rng):
    result = clusters(activations(np.ones((2, 8, 1, 1, 4))))
    assert (result.table[["pc1", "pc2"]] == 0).all(axis=None)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "delta"), [(16, 0.0), (16, 1.0), (32, 1.0), (32, 2.5)])
def test_separation_intervals_cover(n, delta, rng):
    harmful, found = np.arange(2 * n) < n, []
    for _ in range(200):
        rows = rng.normal(size=(2 * n, 64))
        rows[:, 1] += 2 * delta * harmful
        scores, _, _ = principal_components(rows, 10)
        value = between_class_share(scores, harmful)
        found.append((value, *jackknife_interval(value, jackknife_influence(np.asarray(value), shares_without_each_prompt(scores, harmful)))))
    value, low, high = np.array(found).T
    assert ((low <= value.mean()) & (value.mean() <= high)).mean() >= 0.9
    assert np.median(high - low) <= 0.25
