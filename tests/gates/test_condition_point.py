"""The search for a condition point is the released one, step by step, and says what its rounding costs."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import DataError
from workbench.gates.condition_point import RELEASED_GRID, condition_met, condition_point, f1_score


@pytest.fixture(scope="module")
def stored(shared_dir):
    file = shared_dir / "reference" / "cast.npz"
    if not file.exists():
        pytest.skip(f"no reference values at {file}")
    with np.load(file) as arrays:
        return dict(arrays)


def cases(stored):
    return json.loads(str(stored["meta_json"]))["grid_search"]


def searched(stored, case, **options):
    sims = stored[f"grid/{case['i']}/sims"]
    grid = (*case["threshold_range"], case["threshold_step"])
    options = {"layers": case["layers"], "combine": case["max_layers_to_combine"], "thresholds": grid} | options
    return condition_point(sims, np.arange(len(sims)) < case["n_pos"], **options)


def test_every_stored_search_of_the_authors_code_is_reproduced(stored):
    """IBM/activation-steering 52be602, ``find_best_condition_point`` with the similarities supplied: exact."""
    assert len(cases(stored)) == 7
    for case in cases(stored):
        found = searched(stored, case, as_released=True)
        assert list(found.layers) == case["best_layers"], case["i"]
        assert (found.threshold, found.comparator, found.f1) == (case["best_threshold_rounded3"], case["best_direction"], case["best_f1"]), case["i"]


def test_rounding_after_the_search_reports_the_score_of_another_threshold(stored):
    case = cases(stored)[5]
    ours, released = searched(stored, case), searched(stored, case, as_released=True)
    assert ours.threshold == pytest.approx(0.0302, abs=1e-9) and released.threshold == 0.03
    assert ours.f1 == ours.f1_running == released.f1 == 1.0
    assert released.f1_running == pytest.approx(0.833, abs=5e-4)


def test_what_the_search_counts_and_the_running_gate_does_not_is_seen(stored):
    """Grid 6: equal and undefined similarities are "not above" in the search, and never "below" while the model runs."""
    found = searched(stored, cases(stored)[6])
    assert found.comparator == "larger" and found.f1 == 1.0 and found.f1_running < 1.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 8), layers=st.integers(1, 3), combine=st.integers(1, 2))
def test_the_search_is_the_plain_loop_with_strict_improvement(seed, n, layers, combine):
    from itertools import combinations

    rng = np.random.default_rng(seed)
    sims, harmful = rng.integers(0, 6, size=(n, layers)) / 6, np.arange(n) % 2 == 0
    combine, best = min(combine, layers), (0.0,)
    for size in range(1, combine + 1):
        for subset in combinations(range(layers), size):
            for threshold in np.arange(0.0, 1.0, 0.1):
                for comparator in ("larger", "smaller"):
                    fires = ((sims[:, subset] > threshold) == (comparator == "smaller")).any(axis=1)
                    score = 2 * (fires & harmful).sum() / (fires.sum() + harmful.sum())
                    if score > best[0]:
                        best = (score, subset, threshold, comparator)
    found = condition_point(sims, harmful, thresholds=(0.0, 1.0, 0.1), combine=combine)
    assert (found.layers, found.threshold, found.comparator) == best[1:] and found.f1 == best[0]
    order = rng.permutation(n)
    assert condition_point(sims[order], harmful[order], thresholds=(0.0, 1.0, 0.1), combine=combine) == found


def test_without_a_grid_the_range_of_the_similarities_is_searched(rng):
    sims = np.concatenate([rng.normal(-40, 1, size=30), rng.normal(40, 1, size=30)])[:, None]
    harmful = np.arange(60) >= 30
    assert condition_point(sims, harmful).f1 == 1.0
    assert condition_point(sims, harmful, thresholds=RELEASED_GRID).f1 == 1.0  # anything between the classes does
    assert condition_point(sims + 100, harmful, thresholds=RELEASED_GRID).f1 == pytest.approx(2 / 3)  # out of its range: flag everything


def test_both_ways_of_firing_are_strict_and_undefined_never_fires():
    sims = np.array([0.1, 0.2, 0.3, np.nan])
    assert condition_met(sims, 0.2, "larger").tolist() == [True, False, False, False]
    assert condition_met(sims, 0.2, "smaller").tolist() == [False, False, True, False]
    from sklearn.metrics import f1_score as reference

    fires, harmful = np.array([True, True, False, True]), np.array([True, False, True, True])
    assert f1_score(fires, harmful) == pytest.approx(reference(harmful, fires))


def test_what_cannot_be_searched_is_refused():
    sims, harmful = np.array([[0.1], [0.2]]), np.array([True, False])
    for given_, message in (
        ((sims, np.array([True, True])), "same label"),
        ((sims[0], harmful), "one label per prompt"),
        ((sims * np.nan, harmful), "every pooled state is zero"),
    ):
        with pytest.raises(DataError, match=message):
            condition_point(*given_)
    for options, message in (
        ({"layers": [1, 2]}, "one name per column"),
        ({"combine": 2}, "from 1 to 1"),
        ({"comparators": ("above",)}, "one or both"),
        ({"thresholds": (0.5, 0.1, 0.1)}, "start < stop"),
        ({"thresholds": (0.5, 0.9, 0.1), "comparators": ("smaller",)}, "fires on a harmful prompt"),
    ):
        with pytest.raises(DataError, match=message):
            condition_point(sims, harmful, **options)
    with pytest.raises(DataError, match="'larger'"):
        condition_met(sims, 0.1, "lager")
