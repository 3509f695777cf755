"""MEXA, the adjusted cosine and the pooling of tokens agree with their authors' code and behave at the edges."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import DataError
from workbench.geometry.mexa import (
    adjusted_cosine,
    adjusted_per_pair,
    adjusted_without,
    cosines,
    mexa,
    mexa_without,
    mutual_best,
    pool_tokens,
)


@pytest.fixture(scope="module")
def reference(shared_dir):
    stored = np.load(shared_dir / "reference" / "mexa_semhub.npz")
    return stored, json.loads(str(stored["meta_json"]))


def test_matrices_score_as_in_the_authors_code(reference):
    stored, meta = reference
    for case in meta["mexa_matrix"]:
        similar = stored[f"mexa/matrix/{case['name']}"]
        if case["n"] == 1:
            with pytest.raises(DataError, match="1 meaning"):
                mexa(similar)
        elif case["name"] != "nan_entry":  # the authors' answer there depends on the order of entries
            assert mexa(similar) == case["score"], case["name"]


def test_layers_of_embeddings_score_as_in_the_authors_code(reference):
    stored, meta = reference
    pivot = meta["mexa_embeddings"]["pivot"]
    compared = 0
    for run in meta["mexa_embeddings"]["runs"]:
        first, second = (stored[f"mexa/emb/{language}/{run['embedding_type']}"] for language in (pivot, run["lang"]))
        if run["layer_scores"] is None:  # the authors' code stops with an IndexError
            with pytest.raises(DataError, match="same meanings in both"):
                cosines(first[0], second[0])
            continue
        n = min(run["num_sents"], first.shape[1], second.shape[1])
        for layer, score in run["layer_scores"].items():
            assert mexa(cosines(first[int(layer)][:n], second[int(layer)][:n])) == pytest.approx(score, abs=1e-12)
            compared += 1
    assert compared == 56


def test_tokens_are_pooled_as_in_the_authors_code(reference):
    stored, _ = reference
    hidden, mask = stored["mexa/pool/hidden"], stored["mexa/pool/mask"]
    for mask_used, how, name in ((mask, "weighted", "weighted"), (mask, "last", "lasttoken"), (np.ones_like(mask), "weighted", "weighted_fullmask")):
        assert np.abs(pool_tokens(hidden, mask_used, how)[0] - stored[f"mexa/pool/{name}"]).max() < 1e-7


def test_adjusted_cosines_are_those_of_the_semantic_hub_code(reference):
    stored, meta = reference
    for case in meta["semhub"]:
        if case["n"] == 1:
            with pytest.raises(DataError, match="1 meaning"):
                adjusted_cosine(np.ones((1, 1)))
            continue
        x, y = stored[f"semhub/{case['i']}/x"], stored[f"semhub/{case['i']}/y"]
        tolerance = 5e-3 if "bfloat16" in case["dtype"] else 2e-7
        for layer in range(case["L"]):
            similar = cosines(x[:, layer], y[:, layer])
            assert np.abs(similar - stored[f"semhub/{case['i']}/cosine"][:, :, layer]).max() < tolerance
            assert np.abs(adjusted_per_pair(similar) - stored[f"semhub/{case['i']}/adjusted_per_pair"][layer]).max() < tolerance
            assert abs(adjusted_cosine(similar) - stored[f"semhub/{case['i']}/adjusted_layer_mean"][layer]) < tolerance


def test_identity_scores_one_and_a_constant_zero_even_with_rounding(rng):
    assert mexa(np.eye(6)) == 1 and mexa(np.full((6, 6), 0.3)) == 0
    states = np.tile(rng.normal(size=50), (6, 1))
    assert mexa(cosines(states, states)) == 0 and mexa(np.ones((6, 6)) + 1e-13 * np.eye(6)) == 0


def plain(similar: np.ndarray) -> float:
    """The definition, entry by entry."""
    n = len(similar)
    return float(np.mean([all(similar[i, i] > similar[i, j] and similar[i, i] > similar[j, i] for j in range(n) if j != i) for i in range(n)]))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10**6), st.integers(0, 12))
def test_scores_equal_the_definition_and_so_do_the_scores_without_each_meaning(n, seed, strength):
    rng = np.random.default_rng(seed)
    similar = np.round(3 * rng.normal(size=(n, n))) + strength * np.eye(n)  # whole numbers, so that there are ties
    assert mexa(similar) == pytest.approx(plain(similar))
    if n < 3:
        assert np.isnan(adjusted_without(similar)).all()
        return
    for k in range(n):
        rest = similar[np.ix_(np.arange(n) != k, np.arange(n) != k)]
        assert mexa_without(similar)[k] == pytest.approx(plain(rest))
        assert adjusted_without(similar)[k] == pytest.approx(adjusted_cosine(rest))


def test_permuted_translations_score_what_the_marked_entries_say(rng):
    similar = rng.normal(size=(20, 20)) + 2 * np.eye(20)
    order = rng.permutation(20)
    assert mutual_best(similar)[np.arange(20), order].mean() == pytest.approx(plain(similar[:, order]))
    assert mutual_best(similar).sum(axis=0).max() == mutual_best(similar).sum(axis=1).max() == 1


def test_pooling_ignores_padding_on_either_side_and_says_what_it_does(rng):
    states = rng.normal(size=(1, 4, 3))
    right = np.concatenate([states, np.full((1, 2, 3), np.nan)], axis=1)
    left = np.concatenate([np.full((1, 2, 3), np.nan), states], axis=1)
    for how in ("weighted", "last", "mean"):
        alone = pool_tokens(states, np.ones((1, 4), dtype=int), how)
        assert pool_tokens(right, np.array([[1, 1, 1, 1, 0, 0]]), how) == pytest.approx(alone)
        assert pool_tokens(left, np.array([[0, 0, 1, 1, 1, 1]]), how) == pytest.approx(alone)
    assert pool_tokens(states, np.ones((1, 4), dtype=int), "last")[0] == pytest.approx(states[0, 3])
    assert pool_tokens(states, np.ones((1, 4), dtype=int))[0] == pytest.approx(np.arange(1, 5) @ states[0] / 10)


def test_what_cannot_be_scored_or_pooled_is_refused_with_the_remedy(rng):
    with pytest.raises(DataError, match="meaning x meaning"):
        mexa(np.zeros((3, 4)))
    with pytest.raises(DataError, match="Did you mean 'weighted'"):
        pool_tokens(np.zeros((1, 2, 3)), np.ones((1, 2)), "weihgted")
    with pytest.raises(DataError, match="Prompt 1 has no token"):
        pool_tokens(np.zeros((2, 2, 3)), np.array([[1, 0], [0, 0]]))
    with pytest.raises(DataError, match="prompt, token, hidden"):
        pool_tokens(np.zeros((2, 3)), np.ones((2, 3)))
