"""Principal axes agree with scikit-learn, whatever the size, and clusters hold the same prompts in both models."""

import numpy as np
import pytest
from planted import activations, with_harm
from sklearn.decomposition import PCA

from workbench.errors import DataError
from workbench.geometry import clusters
from workbench.geometry import components as components_file
from workbench.geometry.components import axes_without, common_components, principal_components, row_space


@pytest.mark.parametrize("shape", [(30, 8), (12, 40)])
@pytest.mark.parametrize("iterate", [False, True])
def test_components_agree_with_scikit_learn_up_to_sign_and_signs_are_fixed(shape, iterate, rng, monkeypatch):
    if iterate:
        monkeypatch.setattr(components_file, "_LARGE", 5)
        shape = (shape[0] * 4, shape[1] * 4)
    k = 3
    states = rng.normal(size=shape) * np.linspace(1, 3, shape[1])
    scores, ratio, axes = principal_components(states, k)
    reference = PCA(k, svd_solver="full").fit(states)
    assert ratio == pytest.approx(reference.explained_variance_ratio_)
    assert np.abs((axes * reference.components_).sum(axis=1)) == pytest.approx(1)
    assert np.abs(scores) == pytest.approx(np.abs(reference.transform(states)), abs=1e-9)
    flipped = principal_components(-states, k)[2]
    assert flipped == pytest.approx(axes) and (axes[np.arange(k), np.abs(axes).argmax(axis=1)] > 0).all()


def test_components_without_variance_are_left_out(rng):
    states = np.outer(rng.normal(size=9), np.ones(5))
    scores, ratio, _ = principal_components(states, 3)
    assert scores.shape == (9, 1) and ratio == pytest.approx([1.0])
    assert principal_components(np.ones((4, 3)), 2)[0].shape == (4, 0)


@pytest.mark.parametrize("shape", [(20, 300), (50, 8)])
def test_the_row_space_keeps_all_distances_on_orthogonal_columns(shape, rng):
    states = rng.normal(size=shape) * np.linspace(0.1, 3, shape[1])
    rotated = row_space(states)
    assert rotated.shape == (shape[0], min(shape[0] - 1, shape[1]))
    centred = states - states.mean(axis=0)
    assert rotated @ rotated.T == pytest.approx(centred @ centred.T, abs=1e-8)
    products = rotated.T @ rotated
    assert products == pytest.approx(np.diag(np.diag(products)), abs=1e-7)
    assert (np.diff(np.diag(products)) <= 1e-9).all()
    assert np.abs(rotated[:, :5]) == pytest.approx(np.abs(principal_components(states, 5)[0]), abs=1e-7)


@pytest.mark.parametrize(("spectrum", "shape"), [("flat", (60, 90)), ("power", (120, 40)), ("power", (40, 90)), ("narrow", (40, 8))])
def test_axes_fitted_anew_without_some_rows_are_those_of_a_fit_without_them(spectrum, shape, rng):
    spread = np.ones(shape[1]) if spectrum == "flat" else np.arange(1, shape[1] + 1) ** -0.5
    full = row_space(rng.normal(size=shape) * spread)
    out = np.arange(shape[0]) % 20 == 0
    found = axes_without(full, out, 5)
    assert found.T @ found == pytest.approx(np.eye(5), abs=1e-9)
    left = full[~out] - full[~out].mean(axis=0)
    carried, most = ((left @ found) ** 2).sum(), (principal_components(left, 5)[0] ** 2).sum()
    old = (left[:, :5] ** 2).sum()
    assert most * (1 + 1e-9) >= carried > most - 0.05 * (most - old)
    if spectrum == "narrow":
        assert carried == pytest.approx(most)


def test_refitted_axes_give_each_model_its_own_centre(rng):
    """Rows left out pull the two centres apart: with one centre for both, that shift would look like variance."""
    blocks, out = np.repeat([0, 1], 20), np.tile(np.arange(20) < 5, 2)
    states = rng.normal(size=(40, 6)) * np.arange(6, 0, -1)
    states[out, 5] += np.where(blocks[out] == 0, 30, -30)
    states -= np.stack([states[blocks == b].mean(axis=0) for b in (0, 1)])[blocks]
    full = row_space(states)
    left = full[~out] - np.stack([full[~out & (blocks == b)].mean(axis=0) for b in (0, 1)])[blocks[~out]]
    exact = principal_components(left, 2)[2]
    found = axes_without(full, out, 2, centred_together=blocks)
    assert np.linalg.svd(exact @ found)[1] == pytest.approx(1, abs=1e-6)
    assert np.linalg.svd(exact @ axes_without(full, out, 2))[1].min() < 0.9


def test_common_components_centre_each_model_and_explain_each_ones_variance(rng):
    first, second = rng.normal(size=(30, 6)) + 9, 2 * rng.normal(size=(40, 6)) - 4
    scores, shares = common_components([first, second], 6)
    for states, found, share in zip((first, second), scores, shares, strict=True):
        centred = states - states.mean(axis=0)
        assert found @ found.T == pytest.approx(centred @ centred.T, abs=1e-9)
        assert share.sum() == pytest.approx(1) and share == pytest.approx((found**2).sum(axis=0) / (centred**2).sum())


def test_clusters_hold_the_same_prompts_in_both_models_and_keep_sides_between_layers(rng):
    states, _ = with_harm(rng, 8.0, n_languages=3, n=64)
    acts = activations(states)
    result = clusters(acts, before=acts, layers=[2, 3, 4], positions=["t_inst"], max_meanings=10, rng=np.random.default_rng(3))
    assert len(result.table) == 2 * 3 * 60 and set(result.table["layer"]) == {2, 3, 4} and set(result.table["basis"]) == {"own"}
    wide = result.table.pivot(index="prompt_id", columns=["model", "layer"], values="pc1")
    assert wide.notna().all(axis=None)
    assert wide["after"].corr().loc[3, 4] > 0
    assert wide["before"].to_numpy() == pytest.approx(wide["after"].to_numpy())
    assert len(result.axes().table) == 2 * 3 * 2 and result.explained["ratio"].between(0, 1).all()
    again = clusters(acts, before=acts, layers=[2, 3, 4], positions=["t_inst"], max_meanings=10, rng=np.random.default_rng(3))
    assert again.table.equals(result.table)


def test_on_common_axes_an_unchanged_prompt_lies_on_itself_and_a_moved_one_does_not(rng):
    """Alignment triples the states of one language: its own axes hide that, common ones show it."""
    states, _ = with_harm(rng, 8.0, n_languages=2, n=32)
    moved = states.copy()
    moved[1] *= 3
    result = clusters(activations(moved), before=activations(states), basis=("own", "common"), layers=[3, 4], positions=["t_inst"])
    assert list(result.table.groupby("basis").size()) == [2 * 2 * 64] * 2
    same = clusters(activations(states), before=activations(states), basis="common", layers=[3, 4], positions=["t_inst"])
    wide = same.table.pivot(index=["layer", "prompt_id"], columns="model", values=["pc1", "pc2"])
    assert wide["pc1", "after"].to_numpy() == pytest.approx(wide["pc1", "before"].to_numpy(), abs=1e-6)
    far = result.table.query("basis == 'common' and language == 'qab'").groupby("model")[["pc1", "pc2"]].std()
    assert (far.loc["after"] > 2 * far.loc["before"]).all()
    shares = result.explained.groupby(["model", "basis", "layer"])["ratio"].sum()
    assert (shares <= 1 + 1e-9).all() and len(shares) == 8
    own, common = (shares.xs(basis, level="basis") for basis in ("own", "common"))
    assert (common <= own + 1e-9).all()  # no axes explain more of a model than its own


def test_clusters_of_a_constant_token_are_one_point():
    acts = activations(np.ones((2, 8, 1, 1, 4)))
    result = clusters(acts, before=acts, basis=("own", "common"))
    assert (result.table[["pc1", "pc2"]] == 0).all(axis=None) and (result.explained["ratio"] == 0).all()


def test_clusters_refuse_unknown_bases_and_models_on_other_prompts(rng):
    states, _ = with_harm(rng, 2.0, n_languages=2, n=16)
    acts = activations(states)
    with pytest.raises(DataError, match="Did you mean 'common'"):
        clusters(acts, basis="comon")
    with pytest.raises(DataError, match="expected some of"):
        clusters(acts, basis=())
    with pytest.raises(DataError, match="different prompts"):
        clusters(acts, before=acts.isel(prompt=slice(20)))
