"""On residual streams of real 7-9B models: released directions are recomputed, released projections recognised, wrong ones not."""

import numpy as np
import pytest

from tests.benchmarks.real_activations import MODELS, store_of
from workbench.directions import extract_directions, projection_check

#: Contrast -> (released name, sign: the released RD points to complying, ours to the class marked).
RELEASED = {"refused": ("RD", -1), "harm": ("HD", 1)}


@pytest.fixture(scope="module")
def folder(shared_dir):
    found = shared_dir / "data" / "real_activations"
    if not found.is_dir():
        pytest.skip(f"no real activations at {found}")
    return found


@pytest.fixture(scope="module")
def tensors(folder):
    from safetensors.numpy import load_file

    return {model: load_file(folder / f"adasteer_{model}.safetensors") for model in MODELS}


def spacing(values):
    return np.spacing(np.abs(values).astype(np.float16)).astype(np.float64)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("contrast", RELEASED)
def test_recomputed_directions_are_the_released_ones_to_float16(folder, tensors, model, contrast):
    """The authors round both class means and their difference to float16: no entry may be further off than these three roundings."""
    name, sign = RELEASED[contrast]
    released = tensors[model][f"{name}.mean_diff"].astype(np.float64)
    found = extract_directions(store_of(folder, model, contrast), ["en"], split=None)
    ours = sign * (found.norm.values[..., None] * found.unit.values)[:, 0]
    means = [tensors[model][f"{name}.class_{part}"].astype(np.float64).mean(axis=1) for part in "ab"]
    allowed = (spacing(means[0]) + spacing(means[1]) + spacing(released)) / 2
    assert (np.abs(ours - released) <= 1.001 * allowed).all()
    cosine = (ours * released).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(released, axis=1)
    assert cosine.min() > 0.9997 and len(cosine) == len(released)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ("RD", "HD"))
def test_rounding_the_class_means_as_the_authors_do_leaves_no_difference_at_all(tensors, model, name):
    means = [tensors[model][f"{name}.class_{part}"].astype(np.float64).mean(axis=1).astype(np.float16) for part in "ab"]
    assert ((means[0] - means[1]) == tensors[model][f"{name}.mean_diff"]).mean() > 0.999


@pytest.mark.parametrize("model", MODELS)
def test_released_projections_are_recognised_and_tampered_ones_are_not(tensors, model):
    projected, source, onto = (tensors[model][name].astype(np.float64) for name in ("HD.proj", "HD.mean_diff", "RD.mean_diff"))
    found = projection_check(projected, source, onto, first_layer=1)
    assert found.consistent and found.table["off_line"].max() < 1e-3 and found.table["error"].max() < 1.3e-3
    tampered = projected.copy()
    tampered[13] *= -1
    tampered[20] *= 0.5
    tampered[5] = source[5]
    verdicts = projection_check(tampered, source, onto, first_layer=1).table.set_index("layer")["verdict"]
    assert verdicts[verdicts != "consistent"].to_dict() == {6: "not collinear", 14: "sign flipped", 21: "wrong length"}


@pytest.mark.parametrize("model", MODELS)
def test_all_methods_that_keep_the_mean_difference_point_the_same_way(folder, model):
    store = store_of(folder, model, "refused")
    found = {
        method: extract_directions(store, ["en"], method=method, split=None).unit.values[:, 0]
        for method in ("difference_in_means", "first_component", "balanced_means", "logistic")
    }
    for method in ("first_component", "balanced_means"):  # one language: the same direction
        np.testing.assert_allclose(found[method], found["difference_in_means"], atol=1e-9)
    assert (found["logistic"] * found["difference_in_means"]).sum(axis=1).min() > 0.3
