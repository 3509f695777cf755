"""Which way AdaSteer's vectors point, and that its second one is a multiple of the first: on made and on released vectors."""

import numpy as np
import pytest

from workbench.errors import DataError
from workbench.gates.adasteer_law import position, released_law
from workbench.gates.adasteer_vectors import harmfulness_projection, net_strength, projected_share, relative_push, sign_check

#: File of the released states -> name of the constants.
MODELS = {"qwen25-7b-instruct": "qwen2.5-7b-instruct", "gemma2-9b-it": "gemma-2-9b-it"}


@pytest.fixture(scope="module")
def released(shared_dir):
    from safetensors.numpy import load_file

    folder = shared_dir / "data" / "real_activations"
    if not folder.is_dir():
        pytest.skip(f"no real activations at {folder}")
    return {name: {k: v.astype(np.float64) for k, v in load_file(folder / f"adasteer_{name}.safetensors").items()} for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("vector", ("RD", "HD"))
def test_positions_are_0_and_100_at_the_released_anchors(released, name, vector):
    law = released_law(MODELS[name])
    block = (law.rejection_layer if vector == "RD" else law.harmfulness_layer) - 1  # the files count blocks
    first, second = (released[name][f"{vector}.class_{part}"][block] for part in "ab")
    ends = position(np.stack([first.mean(axis=0), second.mean(axis=0)]), first.mean(axis=0), second.mean(axis=0))
    np.testing.assert_allclose(ends, [0, 100], atol=1e-9)
    assert position(first, first.mean(axis=0), second.mean(axis=0)).mean() == pytest.approx(0, abs=1e-9)


def test_qwens_law_gives_nearly_all_its_anchors_the_same_strength(released):
    """Reference README 4: 12 of 14 refused and 13 of 14 complied prompts get alpha = -0.2."""
    states, law = released["qwen25-7b-instruct"], released_law("qwen2.5-7b-instruct")
    complied, refused = (states[f"RD.class_{part}"][law.rejection_layer - 1] for part in "ab")
    ends = complied.mean(axis=0), refused.mean(axis=0)
    counts = [int((law.rejection(position(group, *ends)) == -0.2).sum()) for group in (refused, complied)]
    assert counts == [12, 13]


@pytest.mark.parametrize("name", MODELS)
def test_the_released_rejection_vectors_point_to_complying(released, name):
    states = released[name]
    found = sign_check(states["RD.mean_diff"], states["RD.class_b"], states["RD.class_a"])
    assert found.toward == "compliance" and (found.table["cosine"] < -0.999).all() and (found.table["refuses"] == -1).all()
    assert found.table["layer"].tolist() == list(range(1, len(states["RD.mean_diff"]) + 1))
    assert sign_check(-states["RD.mean_diff"], states["RD.class_b"], states["RD.class_a"]).toward == "refusal"


@pytest.mark.parametrize("name", MODELS)
def test_the_second_vector_is_a_multiple_of_the_first(released, name):
    states = released[name]
    rejection, harmfulness = states["RD.mean_diff"], states["HD.mean_diff"]
    ours, check = harmfulness_projection(harmfulness, rejection, released=states["HD.proj"])
    assert check.consistent and check.table["off_line"].max() < 1e-3
    share = projected_share(harmfulness, rejection)
    assert 0.08 < share.min() and share.max() < 1.02
    alpha, beta = np.array([-0.2, 0.06]), np.array([0.4, -0.06])
    together = net_strength(alpha, beta, share)[:, :, None] * rejection
    np.testing.assert_allclose(together, alpha[:, None, None] * rejection + beta[:, None, None] * ours, atol=1e-9)


def test_mixed_undefined_and_wrong_vectors_have_their_names(rng):
    refused, complied = rng.normal(size=(2, 3, 6, 8))
    across = refused.mean(axis=1) - complied.mean(axis=1)
    vectors = across * np.array([[1.0], [-1.0], [0.0]])
    found = sign_check(vectors, refused, complied)
    assert found.table["toward"].tolist() == ["refusal", "compliance", "undefined"] and found.toward == "mixed"
    assert found.table["refuses"].tolist() == [1, -1, 0]
    ours, check = harmfulness_projection(across, across[::-1].copy())
    assert check.consistent
    assert not harmfulness_projection(across, across[::-1].copy(), released=across)[1].consistent  # HD itself is no projection
    assert not harmfulness_projection(across, across[::-1].copy(), released=across - ours)[1].consistent  # nor is HD with RD taken out


def test_a_push_is_told_in_lengths_of_the_states(rng):
    states = rng.normal(size=(2, 50, 8))
    states *= np.array([3.0, 300.0])[:, None, None] / np.linalg.norm(states, axis=2, keepdims=True)
    vectors = np.array([[3.0] + [0.0] * 7, [300.0] + [0.0] * 7])
    np.testing.assert_allclose(relative_push(-0.2, vectors, states), [-0.2, -0.2])


def test_what_cannot_be_checked_is_refused(rng):
    groups = rng.normal(size=(2, 3, 4, 8))
    with pytest.raises(DataError, match=r"twice \(layer, prompt, hidden\)"):
        sign_check(np.ones((3, 7)), *groups)
    with pytest.raises(DataError, match="twice"):
        sign_check(np.ones((3, 8)), groups[0], groups[1][:, :0])
    with pytest.raises(DataError, match="not finite"):
        sign_check(np.full((3, 8), np.nan), *groups)
    with pytest.raises(DataError, match=r"\(layer, hidden\) twice"):
        projected_share(np.ones((2, 3)), np.ones((3, 3)))
