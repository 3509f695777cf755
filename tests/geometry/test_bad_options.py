"""Options that make no sense are refused in a sentence, by every analysis alike; one name may stand for a list of one."""

import numpy as np
import pytest
from planted import activations, additive

from workbench.errors import DataError
from workbench.geometry import clusters, find_bottleneck, harm_variance, retrieval, separation, silhouettes, similarity, variance_shares


@pytest.fixture
def acts(rng):
    return activations(additive(rng, [1.0, 0.5], [0.5, 1.0], n_languages=3, n=16, hidden=8))


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda a: variance_shares(a, positions=[]), r"No position was asked for.*None for all"),
        (lambda a: silhouettes(a, positions=[]), r"No position was asked for"),
        (lambda a: separation(a, split=None, layers=[]), r"No layer was asked for.*None for all"),
        (lambda a: silhouettes(a, max_meanings=1), r"max_meanings=1: expected at least 2"),
        (lambda a: clusters(a, max_meanings=0), r"max_meanings=0: expected at least one"),
        (lambda a: harm_variance(a, permutations=-1), r"permutations=-1: expected 0"),
        (lambda a: retrieval(a, ["qaa"], split=None, permutations=-1), r"permutations=-1: expected 0"),
        (lambda a: silhouettes(a, confidence=95), r"confidence=95: expected a share"),
        (lambda a: find_bottleneck(silhouettes(a), confidence=95), r"confidence=95"),
        (lambda a: find_bottleneck(silhouettes(a), margin=-0.1), r"margin=-0\.1"),
    ],
)
def test_an_option_without_sense_is_refused(acts, refused, message):
    with pytest.raises(DataError, match=message):
        refused(acts)


def test_a_single_name_stands_for_a_list_of_one(acts):
    position = str(acts["position"].values[0])
    assert variance_shares(acts, positions=position).table.equals(variance_shares(acts, positions=[position]).table)
    for measure in (retrieval, similarity):
        one, listed = (measure(acts, r, split=None, permutations=2, rng=np.random.default_rng(0)).table for r in ("qaa", ["qaa"]))
        assert one.equals(listed)
