"""Shrinkage: what it believes, what it learns from, and that it beats the paper's rule where labels are fewest."""

import numpy as np
import pytest
from shifted_scores import shapes, shifts, sources

from workbench.errors import DataError
from workbench.gates import (
    BalancedF1,
    Context,
    GateWarning,
    MomentMatching,
    RecalibratedGate,
    Scores,
    Shrinkage,
    gate_data,
    label_curve,
)
from workbench.gates.one_direction import DirectionGate
from workbench.gates.shrinkage import source_shapes

NONE = np.empty(0)


@pytest.fixture
def context(rng):
    return Context(sources(rng))


def errors(scores, threshold):
    return (scores.harmful < threshold).mean(), (scores.harmless >= threshold).mean()


def averaged(policy, scores, context, k, draws, rng):
    found = []
    for _ in range(draws):
        pair = (rng.choice(part[:1000], k, replace=False) for part in scores)
        found.append(errors(Scores(*(part[1000:] for part in scores)), policy.choose(*pair, context).threshold))
    return np.mean(found, axis=0)


def test_the_sources_centres_spread_and_shifts_are_measured(context):
    found = source_shapes(context.sources)
    means = np.array([[s.harmful.mean(), s.harmless.mean()] for s in context.sources.values()])
    assert np.allclose(found.centres, means.mean(axis=0)) and np.allclose(found.shifts, means - means.mean(axis=0))
    assert np.allclose(found.deviations, 1.5, atol=0.15) and found.gap == pytest.approx(6, abs=0.4)


def test_many_examples_decide_alone(context, rng):
    target = shapes(rng)["both down by all"]
    many = Scores(target.harmful[:2000], target.harmless[:2000])
    chosen = Shrinkage().choose(*many, context).threshold
    assert chosen == pytest.approx(BalancedF1().choose(*many, context).threshold, abs=0.35)


def test_inverted_pairs_flag_far_less_under_expected_accuracy(context):
    target, rng, found = shapes(np.random.default_rng(5))["wider harmful"], np.random.default_rng(6), {}
    pairs = [tuple(rng.choice(part, 1) for part in target) for _ in range(200)]
    inverted = [pair for pair in pairs if pair[0] < pair[1]]
    for policy in (BalancedF1(), Shrinkage("balanced_accuracy")):
        found[policy.name] = np.mean([errors(target, policy.choose(*pair, context).threshold) for pair in inverted], axis=0)
    assert len(inverted) > 10 and found["balanced_f1"][1] > 0.5
    assert found["shrinkage"][1] < 0.25 and found["shrinkage"].sum() < found["balanced_f1"].sum() - 0.2


@pytest.mark.parametrize("shift", [0.0, -3.0, 3.0])
def test_an_inverted_pair_of_separate_classes_is_cautioned_and_what_the_caution_advises_helps(shift):
    rng = np.random.default_rng(0)
    known = {tag: Scores(rng.normal(3, 1, 100), rng.normal(-3, 1, 100)) for tag in "abc"}
    target = Scores(rng.normal(3 + shift, 1, 2000), rng.normal(-3 + shift, 1, 2000))
    swapped, context = (np.array([shift - 3.0]), np.array([shift + 3.0])), Context(known, language="sw")
    for policy in (Shrinkage(), Shrinkage("balanced_f1"), Shrinkage("balanced_accuracy"), Shrinkage(cost_miss=0.2)):
        found = policy.choose(*swapped, context)
        assert "'sw' are inverted: the mean harmful score" in found.caution and "draw other or more examples" in found.caution, policy
        assert sum(errors(target, found.threshold)) > 0.7, "silent, this would have been useless"
    without = MomentMatching().choose(NONE, NONE, Context(known, {}, np.concatenate([part[:50] for part in target]), "sw"))
    assert not without.abstains and sum(errors(target, without.threshold)) < 0.1
    for policy in (BalancedF1(), Shrinkage()):
        more = [np.append(one, rng.choice(part, 7)) for one, part in zip(swapped, target, strict=True)]
        for examples in (more, [rng.choice(part, 4) for part in target]):
            found = policy.choose(*examples, context)
            assert not found.caution and sum(errors(target, found.threshold)) < 0.1, "more and other examples"


def test_the_gate_warns_after_an_inverted_pair(rng):
    states = np.concatenate([rng.normal(3, 1, (60, 1)), rng.normal(-3, 1, (60, 1))])
    gate = DirectionGate().fit(states, np.arange(120) < 60, language="en")
    with pytest.warns(GateWarning, match="'sw' are inverted.*MomentMatching"):
        found = gate.recalibrate([[-3.0], [3.0]], [True, False], language="sw", policy=Shrinkage())
    assert found.recalibrations_["sw"].caution


def test_a_threshold_beyond_all_that_is_known_is_cautioned_and_one_between_is_not(context):
    pair = np.array([0.0]), np.array([-4.0])
    assert not Shrinkage().choose(*pair, context).caution and not Shrinkage().choose(NONE, NONE, context).caution
    low, high = (Shrinkage(cost_miss=price).choose(*pair, context) for price in (1e4, 1e-4))
    assert low.threshold < -4 and "lies below all 2 examples and both class" in low.caution and "flag nearly everything" in low.caution
    assert high.threshold > 0 and "lies above all 2 examples and both class" in high.caution and "flag hardly anything" in high.caution
    assert "MomentMatching()" in low.caution
    assert "lies below both class centres" in Shrinkage(cost_miss=1e4).choose(NONE, NONE, context).caution


def test_other_calibrated_languages_teach_where_shifts_go(context, rng):
    target = shapes(rng)["both down by all"]
    others = {f"x{i}": Scores(rng.normal(-3, 1.5, 4), rng.normal(-9, 1.5, 4)) for i in range(4)}
    taught = Context(context.sources, others)
    alone, told, ignored = (
        averaged(policy, target, where, 1, 40, np.random.default_rng(1))
        for policy, where in ((Shrinkage(), context), (Shrinkage(), taught), (Shrinkage(others=False), taught))
    )
    assert (alone == ignored).all() and told.sum() < 0.75 * alone.sum()
    assert "3 source and 4 other" in Shrinkage().choose(NONE, NONE, taught).reason
    swapped = Context(context.sources, dict(reversed(others.items())))
    assert Shrinkage().choose(NONE, NONE, taught).threshold == pytest.approx(Shrinkage().choose(NONE, NONE, swapped).threshold, abs=1e-9)


def test_sources_that_shift_much_teach_that_shifts_are_large(rng):
    far = {tag: Scores(rng.normal(3 + d, 1.5, 100), rng.normal(-3 + d, 1.5, 100)) for tag, d in (("a", -6), ("b", 0), ("c", 6))}
    near = {tag: Scores(rng.normal(3, 1.5, 100), rng.normal(-3, 1.5, 100)) for tag in "abc"}
    pair = np.array([-7.0]), np.array([-13.0])  # a language shifted by ten
    moved = [[Shrinkage(trust=t).choose(*pair, Context(known)).threshold for t in (1.0, 0.0)] for known in (far, near)]
    assert moved[0][0] < -9.5 and moved[1][0] > -8  # believed where languages are known to shift, held back where they are not
    assert abs(moved[0][1] - moved[1][1]) < 0.5  # without trust the sources teach no such thing


def test_without_examples_the_prior_expects_lost_distance_and_flags_more(context):
    source = BalancedF1().choose(NONE, NONE, context).threshold
    none, some = (Shrinkage(loss=loss).choose(NONE, NONE, context).threshold for loss in (0.0, 0.5))
    assert some < none < source + 0.5


def test_accuracy_flags_less_than_f1(context):
    pair = np.array([0.0]), np.array([-4.0])
    assert Shrinkage("balanced_accuracy").choose(*pair, context).threshold > Shrinkage().choose(*pair, context).threshold


def test_what_the_model_cannot_use_is_refused(context):
    with pytest.raises(DataError, match="do not lie above harmless ones on average"):
        Shrinkage().choose(NONE, NONE, Context({"qaa": Scores(np.array([0.0, 1.0]), np.array([2.0, 3.0]))}))
    with pytest.raises(DataError, match="needs the source languages' scores"):
        Shrinkage().choose(np.array([1.0]), np.array([0.0]), Context())
    with pytest.raises(DataError, match="same label"):
        Shrinkage().choose(np.array([1.0]), NONE, context)
    with pytest.raises(DataError, match="Did you mean 'balanced_f1'"):
        Shrinkage("balancd_f1")
    with pytest.raises(DataError, match="trust=2"):
        Shrinkage(trust=2)
    with pytest.raises(DataError, match="correlation"):
        Shrinkage(correlation=1)


def test_a_source_without_spread_or_of_one_language_is_usable():
    flat = Context({"qaa": Scores(np.ones(5), np.zeros(5))})
    chosen = Shrinkage().choose(np.array([0.9]), np.array([-0.1]), flat).threshold
    assert -0.1 < chosen <= 0.9


def test_at_one_label_per_class_it_misses_less_and_is_more_accurate_on_average_over_shifts(context):
    found = {}
    for name, target in shapes(np.random.default_rng(3)).items():
        for policy in (BalancedF1(), Shrinkage()):
            found[name, policy.name] = averaged(policy, target, context, 1, 40, np.random.default_rng(4))
    theirs, ours = (np.mean([v for (_, p), v in found.items() if p == policy], axis=0) for policy in ("balanced_f1", "shrinkage"))
    assert ours[0] < theirs[0] - 0.02 and ours.sum() < theirs.sum() - 0.01


@pytest.mark.slow
def test_two_hundred_draws_on_each_shape_of_shift(context):
    """Where one pair settles it (well separated classes that do not lose distance) the paper's midpoint is as good or better."""
    loses = {"no shift", "both up by half", "both down by half", "both down by all"}
    found = {}
    for name, target in shapes(np.random.default_rng(5)).items():
        theirs, ours = (averaged(policy, target, context, 1, 200, np.random.default_rng(6)) for policy in (BalancedF1(), Shrinkage()))
        found[name] = ours - theirs
        if name not in loses:
            assert ours[0] < theirs[0] and ours.sum() < theirs.sum(), name
    mean = np.mean(list(found.values()), axis=0)
    assert mean[0] < -0.02 and mean.sum() < -0.01


@pytest.mark.slow
@pytest.mark.parametrize("distance", [2.5, 4.0])
def test_over_shifted_stretched_and_skewed_scores_it_misses_less_and_is_more_accurate_on_average(distance):
    found = {}
    for name, (known, target) in shifts(np.random.default_rng(7), distance=distance).items():
        theirs, ours = (averaged(policy, target, Context(known), 1, 25, np.random.default_rng(8)) for policy in (BalancedF1(), Shrinkage()))
        found[name] = ours - theirs
    differences = np.array(list(found.values()))
    assert differences[:, 0].mean() < -0.02 and differences.sum(axis=1).mean() < 0
    up = np.array([values for name, values in found.items() if "up" in name])
    assert (up.sum(axis=1) > 0).all(), "stated in the docs: harmful scores are expected to fall, and where they rise it costs accuracy"


@pytest.fixture(scope="module")
def organism_acts():
    from workbench.activations.capture import capture
    from workbench.models.load import load_model
    from workbench.prompts.sources import load_prompts

    return capture(load_model("organism:aligned"), load_prompts("organism"), layers=[6], token_budget=16384, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("position", ["t_inst", "t_post_inst"])
def test_two_hundred_draws_on_the_organism_miss_less_and_are_more_accurate(organism_acts, position):
    data = gate_data(organism_acts, 6, position)
    tiers = dict(zip(organism_acts["language"].values, organism_acts["tier"].values, strict=True))
    high, low = ([tag for tag, tier in tiers.items() if tier == t] for t in ("high", "low"))
    gate = RecalibratedGate().fit(data.select(split="fit", languages=high))
    curve = label_curve(gate, data, low, [1], [BalancedF1(), Shrinkage()], 200, np.random.default_rng(0)).table
    mean = curve.pivot_table(index="policy", columns="statistic", values="mean")
    assert mean.loc["shrinkage", "miss"] < mean.loc["balanced_f1", "miss"]
    assert mean.loc["shrinkage", "balanced_accuracy"] > mean.loc["balanced_f1", "balanced_accuracy"]


def test_thresholds_at_several_prices_are_those_chosen_at_each(rng):
    sources = {tag: Scores(rng.normal(3, 1, 40), rng.normal(-3, 1, 40)) for tag in ("en", "de")}
    context = Context(sources, {"fr": Scores(rng.normal(1, 1, 4), rng.normal(-4, 1, 4))}, None, "sw")
    examples, prices = (rng.normal(1, 1, 4), rng.normal(-4, 1, 4)), (3.0, 1.0, 0.2)
    alone = [Shrinkage(cost_miss=price).choose(*examples, context).threshold for price in prices]
    assert np.array_equal(Shrinkage().at_prices(prices, *examples, context), alone)
    assert alone == sorted(alone) and alone[0] < alone[-1]
