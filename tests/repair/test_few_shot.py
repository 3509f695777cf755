"""Curves over the number of examples: the same numbers as deciding and counting in full, and what is not there is said."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from tests.repair.planted import planted_replies, planted_states
from workbench.errors import DataError
from workbench.gates import BalancedF1, ConformalMiss, Gate, MomentMatching, RecalibratedGate, Shrinkage, ThresholdChoice
from workbench.gates.adasteer import AdaSteer
from workbench.gates.cast import CastGate
from workbench.gates.latent_guard import LatentGuard
from workbench.repair.few_shot import STATISTICS, FewShot, few_shot, quick_decisions
from workbench.repair.methods import decisions, draw_examples, routed
from workbench.repair.rates import Resampler, repair_rates

TARGETS = ["sw", "am"]


@pytest.fixture(scope="module")
def parts():
    data = planted_states(spread=1.2)
    return data.select(split="fit", languages=["en", "de"]), data.select(split="score"), data.select(split="fit", languages=TARGETS)


def curve(parts, gates=None, score=None, **options):
    source, scored, pool = parts
    gates = gates or {"ours": (RecalibratedGate().fit(source), BalancedF1())}
    given = {"ks": (0, 1, 4), "draws": 8, "resamples": 100} | options
    return few_shot(planted_replies(scored), source, scored if score is None else score, pool, TARGETS, gates, **given)


def value(table, statistic, language="mean low", column="value", **where):
    for name, wanted in {"statistic": statistic, "language": language, **where}.items():
        table = table[table[name] == wanted]
    assert len(table) == 1
    return table.iloc[0][column]


@pytest.mark.parametrize(
    ("make", "policy"),
    [(RecalibratedGate, Shrinkage()), (RecalibratedGate, None), (LatentGuard, BalancedF1()), (CastGate, None), (AdaSteer, BalancedF1())],
)
def test_decisions_from_scores_computed_once_are_those_of_recalibrated_gates(parts, make, policy):
    source, scored, pool = parts
    gate, draws = make().fit(source), draw_examples(pool, TARGETS, 2, 4)
    quick, abstained = quick_decisions(gate, scored, gate.decision_function(scored), draws, policy)
    assert np.array_equal(quick, decisions(gate, scored, draws, policy=policy))
    assert 0 < quick.mean() < 1 and set(abstained.values()) == {0.0}


class Rounded(Gate):
    """Scores in whole numbers, so that many lie at a threshold."""

    learned = ("axis_",)

    def _learn(self, X, y, language):
        self.axis_ = X[y].mean(axis=0) - X[~y].mean(axis=0)

    def _score(self, X, language):
        return np.round((X * self.axis_ / 4).sum(axis=1))


@dataclass(frozen=True)
class AtTheLowest:
    """Puts the threshold at the lowest harmful example."""

    name: ClassVar[str] = "at_the_lowest"
    needs_labels: ClassVar[bool] = True

    def choose(self, scores_harmful, scores_harmless, context):
        return ThresholdChoice(float(scores_harmful.min()), "none")


def test_what_scores_at_the_threshold_is_flagged_here_too(parts):
    source, scored, pool = parts
    some = scored.take(np.lexsort((scored.X[:, 0], scored.language)))  # the rows that are looked at first do not lie at the threshold
    gate, draws = Rounded().fit(source), draw_examples(pool, TARGETS, 1, 6)
    own = gate.decision_function(some)
    quick, _ = quick_decisions(gate, some, own, draws, AtTheLowest())
    assert np.array_equal(quick, decisions(gate, some, draws, policy=AtTheLowest()))
    thresholds = [gate.decision_function(draw["sw"].take(draw["sw"].y)).min() for draw in draws.examples]
    assert np.isin(thresholds, own[some.language == "sw"]).any(), "some do lie there"


def test_a_point_of_the_curve_is_what_deciding_and_counting_in_full_gives(parts):
    source, scored, pool = parts
    gate = RecalibratedGate().fit(source)
    found = curve(parts).table
    score = scored.select(languages=TARGETS)
    flagged = decisions(gate, score, draw_examples(pool, TARGETS, 4, 8, seed=0), policy=BalancedF1())
    replies = planted_replies(score)
    runs = {"ours": routed(replies, flagged, labels="4 + 4")}
    full = repair_rates(Resampler(replies.prompts, runs, resamples=100, rng=np.random.default_rng(0))).table
    for statistic in ("selectivity", "harmful_refusal", "harmless_refusal", "answer_accuracy"):
        for language in (*TARGETS, "mean low"):
            assert value(found, statistic, language, k=4) == pytest.approx(value(full, statistic, language))
    for draw, quantile in ((0.1, "draw_10"), (0.9, "draw_90")):
        singles = [flagged[:, (score.language == "sw") & score.y].mean(axis=1), flagged[:, (score.language == "sw") & ~score.y].mean(axis=1)]
        assert value(found, "balanced_accuracy", "sw", quantile, k=4) == pytest.approx(np.quantile((1 + singles[0] - singles[1]) / 2, draw))


def test_examples_bring_shifted_languages_back(parts):
    table = curve(parts).table
    assert value(table, "miss", k=0) > 0.9 > 0.3 > value(table, "miss", k=4)
    assert value(table, "balanced_accuracy", k=4) > 0.85
    assert set(table["language"]) == {*TARGETS, "mean low"} and set(table["statistic"]) == set(STATISTICS)


def test_statistics_fit_together_and_lie_in_their_intervals(parts):
    table = curve(parts).table
    wide = table.pivot_table(index=["method", "k", "language"], columns="statistic", values="value")
    assert np.allclose(wide["selectivity"], wide["harmful_refusal"] - wide["harmless_refusal"])
    assert np.allclose(wide["balanced_accuracy"], 1 - (wide["miss"] + wide["false_alarm"]) / 2)
    assert np.allclose(wide["miss"], 1 - wide["harmful_refusal"]), "steered prompts are refused here, and only they"
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all() and (table["low"] < table["high"]).all()
    assert (table["draw_10"] <= table["draw_90"]).all()
    assert table.groupby("k")[["draws", "labels"]].first().to_numpy().tolist() == [[1, "none"], [8, "1 + 1"], [8, "4 + 4"]]


def test_the_order_of_rows_does_not_matter_and_a_seed_repeats(parts):
    shuffled = parts[1].take(np.random.default_rng(3).permutation(len(parts[1])))
    assert curve(parts).table.equals(curve(parts, score=shuffled).table)
    assert not curve(parts).table.equals(curve(parts, seed=1).table)


def test_an_unlabelled_policy_stands_at_k_zero_and_uses_no_label(parts):
    gate = RecalibratedGate().fit(parts[0])
    table = curve(parts, {"unlabelled": (gate, MomentMatching()), "ours": (gate, BalancedF1())}).table
    own = table[table["method"] == "unlabelled"]
    assert set(own["k"]) == {0} and set(own["labels"]) == {"none"}
    assert value(own, "balanced_accuracy") > value(table, "balanced_accuracy", method="ours", k=0) + 0.2


def test_a_policy_that_abstains_keeps_the_source_threshold_and_says_so(parts):
    gate = RecalibratedGate().fit(parts[0])
    table = curve(parts, {"promise": (gate, ConformalMiss()), "paper": (gate, BalancedF1())}).table
    assert set(table.loc[(table["method"] == "promise"), "abstained"]) == {1.0}
    assert value(table, "miss", method="promise", k=4) == value(table, "miss", method="paper", k=0)
    assert set(table.loc[table["method"] == "paper", "abstained"]) == {0.0}


def test_more_examples_than_there_are_are_left_out_and_noted(parts, tmp_path):
    found = curve(parts, ks=(1, 20, 21, 64))
    assert set(found.table["k"]) == {1, 20}
    assert [note["k"] for note in found.provenance["left_out"]] == [21, 64]
    assert "20 harmful and 20 harmless meanings" in found.provenance["left_out"][0]["reason"]
    assert FewShot.load(found.save(tmp_path / "few.parquet")).table.equals(found.table)
    with pytest.raises(DataError, match=r"at least one of at most 20: 'sw' has 20 harmful"):
        curve(parts, ks=(32, 64))
    with pytest.raises(DataError, match="expected whole numbers"):
        curve(parts, ks=(1, -1))


def test_what_does_not_fit_is_refused(parts):
    source, scored, pool = parts
    gates = {"ours": (RecalibratedGate().fit(source), None)}
    with pytest.raises(DataError, match="sw among the languages the gates were fitted on"):
        few_shot(planted_replies(scored), pool, scored, pool, TARGETS, gates)
    with pytest.raises(DataError, match="no target language"):
        few_shot(planted_replies(scored), source, scored, pool, [], gates)
    with pytest.raises(DataError, match="no gate"):
        few_shot(planted_replies(scored), source, scored, pool, TARGETS, {})
    with pytest.raises(DataError, match=r"40 of 80 answered prompts have no state: 'm4:am'"):
        few_shot(planted_replies(scored), source, scored.select(languages=["en", "sw"]), pool, TARGETS, gates)
    with pytest.raises(DataError, match="No prompt in am was answered"):
        few_shot(planted_replies(scored.select(languages=["en", "sw"])), source, scored, pool, TARGETS, gates)
