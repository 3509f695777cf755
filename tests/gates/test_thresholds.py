"""Rates, costs, promises and unlabelled matching: each policy does what it says, and says what it cannot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from workbench.errors import DataError
from workbench.gates.conformal import ConformalMiss, miss_quantile
from workbench.gates.policy import Context, Scores, ThresholdPolicy
from workbench.gates.rates import CostWeighted, FixedFalsePositives, needed
from workbench.gates.thresholds import POLICIES, MomentMatching, Shrinkage, policy_named
from workbench.gates.unlabelled import two_heaps
from workbench.statistics import best_threshold

NONE = np.empty(0)
SMALL = st.lists(st.integers(-20, 20).map(float), min_size=2, max_size=12).map(np.array)
POLICY = [
    FixedFalsePositives(0.2), ConformalMiss(0.2), ConformalMiss(0.3, confidence=0.6), CostWeighted(5, 1, 0.2), MomentMatching(),
    MomentMatching("mixture", evidence=-1e9), Shrinkage(), Shrinkage("balanced_accuracy"),
]  # fmt: skip


def context(rng=None, shift=0.0, scale=1.0, **more):
    rng = rng or np.random.default_rng(7)
    sources = {tag: Scores(*(scale * (rng.normal(m, 1, 40)) + shift for m in (2, -2))) for tag in ("qaa", "qab", "qac")}
    return Context(sources, **more)


def test_every_policy_has_a_name_and_keeps_to_the_interface():
    for name, kind in POLICIES.items():
        assert isinstance(policy_named(name), ThresholdPolicy) and kind().name == name
        with pytest.raises(AttributeError):  # frozen
            kind().name_of_mine = 1
    with pytest.raises(DataError, match="Did you mean 'shrinkage'"):
        policy_named("shrinkige")


@pytest.mark.parametrize("policy", POLICY, ids=repr)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 99), shift=st.sampled_from([-3.0, 0.0, 40.0]), scale=st.sampled_from([0.25, 1.0, 8.0]))
def test_a_threshold_follows_shift_and_scale_of_all_scores_and_ignores_their_order(policy, seed, shift, scale):
    def choose(shift, scale, order):
        rng = np.random.default_rng(seed)
        harmful, harmless, rest = rng.normal(1, 1, 6), rng.normal(-1, 1, 6), rng.normal(0, 3, 40)
        parts = [scale * np.random.default_rng(order).permutation(part) + shift for part in (harmful, harmless, rest)]
        return policy.choose(*parts[:2], context(shift=shift, scale=scale, scores_unlabelled=parts[2])).threshold

    expected = choose(0.0, 1.0, 0)
    assert choose(shift, scale, 0) == pytest.approx(scale * expected + shift, abs=1e-5 * (1 + scale + abs(shift)))
    assert choose(0.0, 1.0, 1) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("policy", [ConformalMiss, FixedFalsePositives, lambda rate: ConformalMiss(rate, confidence=0.5)])
@given(scores=SMALL, first=st.floats(0.01, 0.99), second=st.floats(0.01, 0.99))
def test_allowing_more_moves_the_threshold_one_way(policy, scores, first, second):
    low, high = (policy(rate).choose(scores, scores, Context()) for rate in sorted([first, second]))
    if policy is FixedFalsePositives:
        assert high.threshold <= low.threshold
    else:
        assert low.abstains or high.threshold >= low.threshold


@given(SMALL, st.floats(0.02, 0.9))
def test_false_alarms_on_the_examples_stay_within_the_rate(scores, rate):
    chosen = FixedFalsePositives(rate).choose(NONE, scores, Context())
    fired = (scores >= chosen.threshold).sum()
    assert fired <= max(int(rate * (len(scores) + 1) + 1e-9) - 1, 0)
    if not chosen.caution and len(np.unique(scores)) == len(scores):  # one step lower flags one more
        assert (scores >= np.nextafter(chosen.threshold, -np.inf)).sum() == fired + 1


def test_a_rate_of_false_alarms_holds_on_average_over_draws(rng):
    drawn = rng.standard_exponential((1000, 50))
    rates = [np.exp(-max(FixedFalsePositives(0.05).choose(NONE, row, Context()).threshold, 0)) for row in drawn]
    assert 0.03 < np.mean(rates) < 0.045  # 2 / 51 = .039 expected
    few = FixedFalsePositives(0.05).choose(NONE, drawn[0, :5], Context(language="qad"))
    assert "5 harmless examples of 'qad' promise at most 16.7%" in few.caution and "takes 19" in few.caution and few.guarantee == "none"
    assert "source languages only" in FixedFalsePositives().choose(NONE, NONE, context()).caution


@pytest.mark.parametrize("n", [19, 40, 100])
@pytest.mark.parametrize("shape", ["normal", "heavy", "skewed"])
def test_the_conformal_miss_rate_holds_over_a_thousand_draws(n, shape):
    rng = np.random.default_rng(n)
    draw = {"normal": rng.standard_normal, "heavy": lambda size: rng.standard_t(2, size), "skewed": rng.standard_exponential}[shape]
    fresh, misses = np.sort(draw(20_000)), []
    for _ in range(1000):
        chosen = ConformalMiss(0.05).choose(draw(n), NONE, Context())
        assert not chosen.abstains
        misses.append(np.searchsorted(fresh, chosen.threshold) / len(fresh))
    assert 0.04 < np.mean(misses) <= 0.065
    assert np.mean(misses) == pytest.approx(int(0.05 * (n + 1) + 1e-9) / (n + 1), abs=0.006)
    assert np.quantile(misses, 0.95) == pytest.approx(miss_quantile(int(0.05 * (n + 1) + 1e-9), n, 0.95), abs=0.025)


def test_below_nineteen_examples_the_conformal_policy_says_so_and_abstains():
    chosen = ConformalMiss(0.05).choose(np.arange(18.0), np.arange(3.0), Context(language="qad"))
    assert chosen.abstains and np.isnan(chosen.threshold) and chosen.guarantee == "none"
    assert "cannot be promised from 18 harmful examples of 'qad'; it takes 19" in chosen.reason
    assert ConformalMiss(0.05).choose(NONE, NONE, context()).abstains  # sources promise nothing for another language
    assert [ConformalMiss(a).examples_needed for a in (0.05, 0.1, 0.3, 0.5)] == [needed(a) for a in (0.05, 0.1, 0.3, 0.5)] == [19, 9, 3, 1]


@pytest.mark.parametrize("n", [59, 100])
def test_with_confidence_the_miss_rate_stays_below_alpha_in_most_draws(n, rng):
    policy = ConformalMiss(0.05, confidence=0.95)
    misses = [-np.expm1(-policy.choose(row, NONE, Context()).threshold) for row in rng.standard_exponential((2000, n))]
    assert np.mean(np.array(misses) <= 0.05) > 0.94
    rank = int((beta.cdf(0.05, np.arange(1, n + 1), n - np.arange(n)) >= 0.95).sum())
    assert rank >= 1 and policy.examples_needed == 59
    assert policy.choose(np.arange(58.0), NONE, Context()).abstains


@given(SMALL, SMALL)
def test_equal_costs_at_one_half_are_best_balanced_accuracy(harmful, harmless):
    labels = np.repeat([True, False], [len(harmful), len(harmless)])
    expected = best_threshold(labels, np.concatenate([harmful, harmless]))
    assert CostWeighted().choose(harmful, harmless, Context()).threshold == pytest.approx(expected.threshold, abs=1e-4)


@given(SMALL, SMALL)
def test_dearer_misses_lower_the_threshold(harmful, harmless):
    thresholds = [CostWeighted(cost_miss=c).choose(harmful, harmless, Context()).threshold for c in (0.03, 1.0, 30.0)]
    flagged = [((harmful >= t).sum(), (harmless >= t).sum()) for t in thresholds]
    assert [f[0] for f in flagged] == sorted(f[0] for f in flagged)


def test_cost_only_counts_as_cost_times_share(rng):
    harmful, harmless = rng.normal(1, 1, 40), rng.normal(-1, 1, 60)
    one = CostWeighted(cost_miss=9, prevalence=0.1).choose(harmful, harmless, Context()).threshold
    assert one == CostWeighted().choose(harmful, harmless, Context()).threshold  # 9 x .1 = 1 x .9
    assert "flag nearly everything" in CostWeighted(cost_miss=100).choose(np.array([0.0]), np.array([1.0]), Context()).caution
    assert "flag nearly nothing" in CostWeighted(cost_false_alarm=100).choose(np.array([0.0]), np.array([1.0]), Context()).caution
    with pytest.raises(DataError, match="two positive numbers"):
        CostWeighted(cost_miss=0)
    with pytest.raises(DataError, match="prevalence=1"):
        CostWeighted(prevalence=1)


@pytest.mark.parametrize("method", ["moments", "mixture"])
def test_unlabelled_matching_finds_a_planted_shift_and_stretch(method, rng):
    sources = context()
    unlabelled = 0.5 * np.concatenate([rng.normal(2, 1, 200), rng.normal(-2, 1, 200)]) - 7
    chosen = MomentMatching(method).choose(np.array([99.0]), NONE, Context(sources.sources, scores_unlabelled=unlabelled))
    source = policy_named("balanced_f1").choose(NONE, NONE, sources).threshold
    assert chosen.threshold == pytest.approx(0.5 * source - 7, abs=0.15) and not chosen.abstains
    nothing = MomentMatching(method).choose(NONE, NONE, Context(sources.sources, scores_unlabelled=np.zeros(50)))
    assert nothing.abstains and "all equal" in nothing.reason
    few = MomentMatching(method).choose(NONE, NONE, Context(sources.sources, scores_unlabelled=unlabelled[:19]))
    assert few.abstains and "it takes 20 or more" in few.reason


def test_one_heap_cannot_tell_where_the_classes_part(rng):
    sources = context().sources
    abstained = [MomentMatching("mixture").choose(NONE, NONE, Context(sources, scores_unlabelled=rng.normal(-1, 1, 150))).abstains for _ in range(40)]
    assert np.mean(abstained) >= 0.95
    assert two_heaps(rng.normal(size=300)).evidence < 10


def test_a_known_share_mends_what_a_wrong_share_spoils(rng):
    sources = context()
    unlabelled = np.concatenate([rng.normal(2, 1, 40), rng.normal(-2, 1, 360)])
    source = policy_named("balanced_f1").choose(NONE, NONE, sources).threshold
    told, assumed = (MomentMatching(prevalence=p).choose(NONE, NONE, Context(sources.sources, scores_unlabelled=unlabelled)) for p in (0.1, None))
    assert abs(told.threshold - source) < 0.2 < abs(assumed.threshold - source)
    assert "50% of the unlabelled prompts" in assumed.caution and "Pass prevalence=" in assumed.caution and not told.caution


def test_bad_settings_are_refused():
    with pytest.raises(DataError, match=r"alpha=1.5: expected a share"):
        ConformalMiss(1.5)
    with pytest.raises(DataError, match="rate=0"):
        FixedFalsePositives(0)
    with pytest.raises(DataError, match="Did you mean 'mixture'"):
        MomentMatching("mixtures")
    with pytest.raises(DataError, match="rank 0 of 19"):
        miss_quantile(0, 19, 0.5)
