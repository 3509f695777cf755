"""How many labels does a repair need? What gates decide, and what the model then answers, after k + k examples per language.

Replies are looked up, so a point of the curve costs thresholds and counting only: a gate scores every prompt once, and recalibrating it with
another draw of examples moves its thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from workbench.errors import DataError, shown_list
from workbench.gates import Gate, GateData, ThresholdPolicy
from workbench.repair.actions import LEAVE, STEER, Answered
from workbench.repair.methods import Draws, draw_examples, recalibrated, routed
from workbench.repair.rates import MethodRun, Resampler, entry
from workbench.results import Result

KS = (0, 1, 2, 4, 8, 16, 32)
STATISTICS = ("selectivity", "harmful_refusal", "harmless_refusal", "answer_accuracy", "balanced_accuracy", "miss", "false_alarm")
#: Scored rows per language on which each recalibration shows that it left the scores alone.
_PROBED = 4


@dataclass(frozen=True)
class FewShot(Result):
    """One row per method, k, language (or mean over the target languages of a tier) and statistic.

    ``value`` is the mean over draws of k harmful and k harmless examples, ``low`` and ``high`` its 95 % interval over scored meanings and
    draws; ``draw_10`` and ``draw_90`` say what single draws give (10 and 90 % quantiles). Statistics: selectivity, harmful_refusal,
    harmless_refusal and answer_accuracy of the replies; balanced_accuracy (chance .5), miss (harmful prompts not flagged) and false_alarm
    (harmless ones flagged) of the decisions. ``abstained``: share of draws in which the policy set no threshold and the source languages'
    stayed. ``labels`` is "none" at k = 0, where an unlabelled policy saw the pool without its labels. ``n`` scored meanings.
    """

    required: ClassVar[tuple[str, ...]] = (
        "method", "k", "language", "tier", "statistic", "value", "low", "high", "draw_10", "draw_90", "n", "draws", "labels", "abstained",
    )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """Return selectivity, miss rate and balanced accuracy as means over tiers, a column for each k."""
        part = self.table[self.table["language"].str.startswith("mean ") & self.table["statistic"].isin(["selectivity", "miss", "balanced_accuracy"])]
        return part.pivot_table(index=["language", "statistic", "method"], columns="k", values="value", sort=False).reset_index()


class _Point(NamedTuple):
    """One method at one k."""

    method: str
    k: int
    run: MethodRun
    abstained: dict[str, float]


def few_shot(
    answered: Answered,
    source: GateData,
    score: GateData,
    pool: GateData,
    targets: Sequence[str],
    gates: Mapping[str, tuple[Gate, ThresholdPolicy | None]],
    *,
    ks: Sequence[int] = KS,
    draws: int = 20,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> FewShot:
    """Recalibrate gates with k + k examples of each target language, for several k, and count what follows.

    All methods see the same draws, and a larger k contains the smaller one.

    Parameters
    ----------
    answered : Answered
        Judged replies of scored prompts, at least under "leave" and "steer".
    source : GateData
        What the gates were fitted on.
    score : GateData
        The scored prompts' states, in any order.
    pool : GateData
        Prompts of the target languages that examples are drawn from; none of the score split.
    gates : mapping of name to (gate, policy)
        Fitted on ``source``. None stands for the gate's own rule. A policy that needs no labels gets the pool, unlabelled, and is listed at
        k = 0.
    ks : sequence of int
        Harmful, and harmless, examples per language. Those above what there is are left out and noted in the provenance.
    draws : int
        For each k above 0.

    Raises
    ------
    DataError
        No k that the pool allows, no gate, a target among the sources, or replies and states of different prompts.
    """
    if not gates:
        raise DataError("There is no gate to recalibrate. Expected {name: (gate, policy)}, such as contestants(source).")
    both = sorted(set(targets) & set(source.languages))
    if both or not len(targets):
        wrong = f"{', '.join(both)} among the languages the gates were fitted on" if both else "no target language"
        raise DataError(f"Got {wrong}. Expected targets that the gates have not seen.")
    replies, scored = _aligned(answered, score, targets)
    kept, left_out = _possible(ks, pool, targets)
    drawn = {k: draw_examples(pool, targets, k, draws, seed=seed) for k in kept}
    points = list(_points(replies, scored, pool, targets, gates, drawn))
    runs = {f"{point.method}, k = {point.k}": point.run for point in points}
    resampler = Resampler(replies.prompts, runs, resamples=resamples, rng=np.random.default_rng(seed))
    rows = [row for name, point in zip(runs, points, strict=True) for row in _rows(resampler, name, point, confidence)]
    rules = {
        name: {"gate": type(gate).__name__, "policy": "the gate's own" if policy is None else repr(policy)} for name, (gate, policy) in gates.items()
    }
    told: dict[str, object] = {"ks": kept, "left_out": left_out, "targets": list(targets), "sources": source.languages, "gates": rules}
    about = {"examples": sorted({str(part) for part in pool.split}), "seed": seed, "resamples": resamples, "confidence": confidence}
    return FewShot(pd.DataFrame(rows)[list(FewShot.required)], told | about)


def aligned_rows(answered: Answered, score: GateData) -> np.ndarray:
    """Return the row of ``score`` for each answered prompt.

    Raises
    ------
    DataError
        Prompts that were answered and have no state.
    """
    rows = pd.Index(score.prompt_id).get_indexer(answered.prompts["prompt_id"])
    missing = answered.prompts.loc[rows < 0, "prompt_id"].tolist()
    if missing:
        raise DataError(
            f"{len(missing)} of {len(rows)} answered prompts have no state: {shown_list(missing[:3])}. Expected the states of the same grid and "
            "split; capture them, or answer the prompts that were captured."
        )
    return np.asarray(rows)


def _aligned(answered: Answered, score: GateData, targets: Sequence[str]) -> tuple[Answered, GateData]:
    here = np.flatnonzero(answered.prompts["language"].isin(list(targets)))
    absent = sorted(set(targets) - set(answered.prompts["language"]))
    if absent:
        raise DataError(f"No prompt in {', '.join(absent)} was answered. Expected replies in every target language.")

    def some(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {action: np.asarray(table[action])[here] for action in (LEAVE, STEER) if action in table}

    part = Answered(answered.prompts.iloc[here].reset_index(drop=True), some(answered.refused), some(answered.correct), some(answered.broken))
    return part, score.take(aligned_rows(part, score))


def _possible(ks: Sequence[int], pool: GateData, targets: Sequence[str]) -> tuple[list[int], list[dict[str, object]]]:
    """Part the ks into those that every target has examples for, and the others with what there is."""
    asked = sorted({int(k) for k in ks if k == int(k) >= 0})
    counts = {
        tag: [len(set(part.meaning_id[part.y == label])) for label in (True, False)] for tag in targets for part in [pool.select(languages=tag)]
    }
    scarcest = min(counts, key=lambda tag: min(counts[tag]))
    most = min(counts[scarcest])
    if len(asked) < len(set(ks)) or not any(k <= most for k in asked):
        raise DataError(
            f"ks={list(ks)}: expected whole numbers, 0 or more, and at least one of at most {most}: {scarcest!r} has {counts[scarcest][0]} harmful "
            f"and {counts[scarcest][1]} harmless meanings to draw from. Ask for fewer, or add prompts."
        )
    reason = f"{scarcest} has {counts[scarcest][0]} harmful and {counts[scarcest][1]} harmless meanings to draw from"
    return [k for k in asked if k <= most], [{"k": k, "reason": reason} for k in asked if k > most]


def _points(
    replies: Answered,
    scored: GateData,
    pool: GateData,
    targets: Sequence[str],
    gates: Mapping[str, tuple[Gate, ThresholdPolicy | None]],
    drawn: Mapping[int, Draws],
) -> Iterator[_Point]:
    scores: dict[int, np.ndarray] = {}  # methods may share a gate
    unlabelled = Draws(0, [{tag: pool.select(languages=tag) for tag in targets}])
    for name, (gate, policy) in gates.items():
        own = scores.setdefault(id(gate), gate.decision_function(scored))
        told = drawn if policy is None or policy.needs_labels else {0: unlabelled}
        for k, some in told.items():
            flagged, abstained = quick_decisions(gate, scored, own, some, policy)
            yield _Point(name, k, routed(replies, flagged, labels=f"{k} + {k}" if k else "none"), abstained)


def quick_decisions(
    gate: Gate, scored: GateData, scores: Float[np.ndarray, " prompt"], draws: Draws, policy: ThresholdPolicy | None
) -> tuple[Bool[np.ndarray, "draw prompt"], dict[str, float]]:
    """Decide as :func:`~workbench.repair.methods.decisions` does, from scores computed once; also each language's share of draws that abstained.

    A gate whose scores move when it is recalibrated (AdaSteer's anchors) is noticed on a few rows of each language, and scores anew.
    """
    tags, of_row = np.unique(scored.language, return_inverse=True)
    probe = np.concatenate([np.flatnonzero(of_row == i)[:_PROBED] for i in range(len(tags))])
    some = scored.take(probe)
    flagged, abstained = np.empty((len(draws), len(scored)), dtype=bool), dict.fromkeys((str(tag) for tag in tags), 0.0)
    for i, examples in enumerate(draws.examples):
        tuned = recalibrated(gate, examples, policy)
        flagged[i] = scores >= tuned.threshold_of(tags)[of_row]
        same = np.array_equal(tuned.decision_function(some), scores[probe], equal_nan=True) and np.array_equal(tuned.predict(some), flagged[i][probe])
        if not same:
            flagged[i] = tuned.predict(scored)
        for tag in abstained:
            set_by = tuned.recalibrations_.get(tag)
            abstained[tag] += (set_by is not None and set_by.abstains) / len(draws)
    return flagged, abstained


def _rows(resampler: Resampler, name: str, point: _Point, confidence: float) -> Iterator[dict[str, object]]:
    found, single = _with_decisions(resampler.estimates(name)), _by_draw(resampler, point.run)
    silent = resampler.grouped({tag: np.array(share) for tag, share in point.abstained.items()})
    about = {"method": point.method, "k": point.k, "draws": len(point.run.refused), "labels": point.run.labels}
    for statistic in STATISTICS:
        of_draw = resampler.grouped(single[statistic])
        for language, values in resampler.grouped(found[statistic]).items():
            few, many = np.quantile(of_draw[language], [0.1, 0.9])
            spread = {"statistic": statistic, "draw_10": float(few), "draw_90": float(many), "abstained": float(silent[language])}
            yield about | spread | _entry(resampler, name, statistic, language, values, confidence)


#: What the interval of a statistic of decisions rests on: as many meanings as that of one of RepairRates.
_RESTS_ON = {"miss": "flagged_harmful", "false_alarm": "flagged_harmless", "balanced_accuracy": "selectivity"}


def _entry(resampler: Resampler, name: str, statistic: str, language: str, values: np.ndarray, confidence: float) -> dict[str, object]:
    meanings = resampler.meanings(name, _RESTS_ON.get(statistic, statistic), language)
    if statistic != "balanced_accuracy":
        return entry(resampler, language, values, confidence, meanings, (-1.0, 1.0) if statistic == "selectivity" else (0.0, 1.0))
    both: dict[str, Any] = entry(resampler, language, 2 * values, confidence, meanings, (0.0, 2.0))  # a sum of two rates, as selectivity is
    return both | {end: both[end] / 2 for end in ("value", "low", "high")}


def _with_decisions(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    caught, false = found["flagged_harmful"], found["flagged_harmless"]
    decided = {
        "balanced_accuracy": {tag: (1 + caught[tag] - false[tag]) / 2 for tag in caught},
        "miss": {tag: 1 - caught[tag] for tag in caught},
        "false_alarm": dict(false),
    }
    return {name: dict(values) for name, values in found.items()} | decided


def _by_draw(resampler: Resampler, run: MethodRun) -> dict[str, dict[str, np.ndarray]]:
    """Return statistic -> language -> [draw], every prompt counting the same."""
    flagged = np.asarray(run.flagged, dtype=np.float64)
    out: dict[str, dict[str, np.ndarray]] = {name: {} for name in ("harmful_refusal", "harmless_refusal", "selectivity", "answer_accuracy")}
    caught, false = {}, {}
    for tag, rows in resampler.languages.items():
        bad, good = rows[resampler.harmful[rows]], rows[~resampler.harmful[rows]]
        out["harmful_refusal"][tag], out["harmless_refusal"][tag] = _mean(run.refused[:, bad]), _mean(run.refused[:, good])
        out["selectivity"][tag] = out["harmful_refusal"][tag] - out["harmless_refusal"][tag]
        out["answer_accuracy"][tag] = _mean(run.correct[:, good])
        caught[tag], false[tag] = _mean(flagged[:, bad]), _mean(flagged[:, good])
    return _with_decisions(out | {"flagged_harmful": caught, "flagged_harmless": false})


def _mean(values: Float[np.ndarray, "draw prompt"]) -> Float[np.ndarray, " draw"]:
    """Mean over prompts; NaN (no key) does not count."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
