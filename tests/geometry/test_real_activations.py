"""On residual streams of real 7-9B models, every statistic is what scikit-learn and scipy compute directly."""

import numpy as np
import pytest
from scipy.linalg import solve
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import PredefinedSplit, cross_val_score

from tests.benchmarks.real_activations import CONTRASTS, MODELS, store_of
from workbench.geometry import separation
from workbench.geometry.probes import PENALTY
from workbench.geometry.separation_cells import groups_of

SIZES = {"qwen25-7b-instruct": (28, 14), "gemma2-9b-it": (42, 5)}


@pytest.fixture(scope="module")
def folder(shared_dir):
    found = shared_dir / "data" / "real_activations"
    if not found.is_dir():
        pytest.skip(f"no real activations at {found}")
    return found


@pytest.fixture(scope="module")
def measured(folder):
    """Separation of both contrasts in both models, by layer."""
    stores = {(model, contrast): store_of(folder, model, contrast) for model in MODELS for contrast in CONTRASTS}
    return {key: (store, separation(store, split=None, bases=("own",), permutations=40)) for key, store in stores.items()}


def direct(states, marked):
    """Return the three statistics on ten components (fewer where the prompts span fewer), by other people's code."""
    scores = PCA(min(10, len(states) - 1), svd_solver="full").fit_transform(states)
    parts = [scores[marked], scores[~marked]]
    between = sum(len(part) * (part.mean(axis=0) ** 2).sum() for part in parts)
    one, two = (LedoitWolf().fit(part).covariance_ for part in parts)
    both = (one + two) / 2
    apart = mahalanobis(parts[0].mean(axis=0), parts[1].mean(axis=0), solve(both, np.eye(len(both))))
    spread = np.linalg.slogdet(both)[1] - (np.linalg.slogdet(one)[1] + np.linalg.slogdet(two)[1]) / 2
    return {
        "between_class_share": between / (scores**2).sum(),
        "bhattacharyya": apart**2 / 8 + spread / 2,
        "silhouette": silhouette_score(scores, marked, metric="euclidean"),
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_every_layer_agrees_with_direct_computation(measured, model, contrast):
    store, result = measured[model, contrast]
    depth, n = SIZES[model]
    marked, table = store["harmful"].values, result.table.set_index(["statistic", "layer"])
    assert table.loc["silhouette"].index.tolist() == list(range(1, depth + 1)) and (table["n"] == 2 * n).all()
    assert (table.loc["bhattacharyya", "n_components"] == min(10, 2 * n - 1)).all()
    for layer in range(1, depth + 1):
        expected = direct(store["residual"].sel(layer=layer).values[:, 0].astype(np.float64), marked)
        for statistic, value in expected.items():
            assert table.loc[(statistic, layer), "value"] == pytest.approx(value, abs=1e-5), (statistic, layer)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_the_probe_agrees_with_scikit_learn_on_the_unrotated_states(measured, model, contrast):
    store, result = measured[model, contrast]
    (group,) = groups_of(store, np.arange(store.sizes["prompt"]), None, 0, np.random.default_rng(0))
    assert group.folds.max() == 4 and all(set(store["harmful"].values[group.folds == k]) == {True, False} for k in range(5))
    for layer in range(1, store.sizes["layer"] + 1, 9):
        states = store["residual"].sel(layer=layer).values[:, 0].astype(np.float64)
        states -= states.mean(axis=0)
        states /= np.sqrt((states**2).sum(axis=1).mean())
        model_ = LogisticRegression(C=PENALTY, tol=1e-8, max_iter=10_000)
        expected = cross_val_score(model_, states, store["harmful"].values, cv=PredefinedSplit(group.folds), scoring="roc_auc")
        found = result.table.query("statistic == 'probe_auroc' and layer == @layer")["value"].item()
        assert found == pytest.approx(expected.mean(), abs=1e-5), layer


def test_fourteen_prompts_a_class_show_what_five_cannot(measured):
    """Qwen separates what it will refuse, beyond permuted labels, in most layers; five prompts a class leave every AUROC open."""
    for contrast in CONTRASTS:
        table = measured["qwen25-7b-instruct", contrast][1].table
        above = (table["value"] > table["null_95"]).groupby(table["statistic"]).mean()
        assert (above[["between_class_share", "silhouette", "probe_auroc"]] > 0.8).all()
        few = measured["gemma2-9b-it", contrast][1].table.query("statistic == 'probe_auroc'")
        assert few["low"].median() < 0.5 and not (few["value"] > few["null_95"]).any()
        wide = measured["gemma2-9b-it", contrast][1].table.query("statistic == 'bhattacharyya'")
        assert (wide["high"] / wide["low"]).median() > 8


def test_prompts_complied_with_are_the_same_in_both_contrasts(measured):
    for model in MODELS:
        refused, harm = measured[model, "refused"][0], measured[model, "harm"][0]
        assert np.array_equal(refused["residual"].values[~refused["harmful"].values], harm["residual"].values[harm["harmful"].values])
