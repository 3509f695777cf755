"""Gates compared on one footing: the same examples, one push, scored on meanings that chose nothing.

What a method may use of a target language is k harmful and k harmless examples of a draw, the strength that the oracle gate chose on the
select split, and, where its rule has one, the price of a miss that was chosen there. Everything else comes from the source languages, also
where it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from workbench.behavior.outcomes import Judge
from workbench.directions.direction import Direction
from workbench.errors import DataError
from workbench.gates import Gate, Shrinkage
from workbench.gates.controls import shuffled_decisions
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import LEAVE, RELAX, STEER, Answered
from workbench.repair.contestants import PRICED, Contestant, contestants, permuted_contestants, reader_of
from workbench.repair.kinds import ALWAYS, GATE, ORACLE, PRICED_AS_GIVEN, UNREPAIRED
from workbench.repair.methods import always, averaged, decisions, recalibrated, routed
from workbench.repair.price import BUDGET, Prices, choose_price
from workbench.repair.rates import MethodRun, RepairContrasts, RepairRates, Resampler, repair_contrasts, repair_rates
from workbench.repair.replies import GRADED, RANDOM, GateReplies, answer_for_gates
from workbench.repair.setting import GateSettings, gate_settings
from workbench.repair.strength import STRENGTHS, OracleStrength, strength_action


@dataclass(frozen=True, eq=False)
class GateComparison:
    """What comparing gates found.

    Attributes
    ----------
    rates : RepairRates
    contrasts : RepairContrasts
        The gate with shrinkage minus every other method.
    strength : OracleStrength
        How hard all methods push.
    gate : Gate
        Recalibrated to the first draw's examples.
    answered : Answered
        Judged replies under every action; no text.
    runs : mapping of method to MethodRun
        What each method did in each draw, in the order of ``answered.prompts``; to resample several comparisons together.
    methods : mapping of method to Contestant
        Those that say yes or no: fitted gate and rule.
    prices : Prices
        How the price of a miss was chosen on the select split.
    """

    rates: RepairRates
    contrasts: RepairContrasts
    strength: OracleStrength
    gate: Gate
    answered: Answered
    runs: Mapping[str, MethodRun]
    methods: Mapping[str, Contestant]
    prices: Prices


def compare_gates(
    chat: ChatModel,
    grid: PromptGrid,
    acts: xr.Dataset,
    direction: Direction,
    judge: Judge,
    *,
    reference: Sequence[str],
    k: int = 4,
    draws: int = 20,
    graded_draws: int = 5,
    strengths: Sequence[float] = STRENGTHS,
    max_new_tokens: int = 64,
    resamples: int = 1000,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> GateComparison:
    """Compare gates that push along one direction.

    Parameters
    ----------
    grid : PromptGrid
        With splits; all languages that are not in ``reference`` are targets.
    acts : Dataset
        Activations of the same grid; gates read where they read best among these layers, none deeper than the direction's.
    direction : Direction
        From the fit split of the reference languages, chosen on the select split; carries its gap.
    k : int
        Harmful, and harmless, examples per target language and draw, from the fit split.
    draws : int
        Draws of examples. Methods that push each prompt by its own strength are generated anew for ``graded_draws`` of them only.
    out : path, optional
        Folder of the replies (mode 600); a second call goes on from there.

    Returns
    -------
    GateComparison

    Raises
    ------
    DataError
        No target language, too few examples, no strength that pushes.
    """
    settings = gate_settings(acts, grid, reference=reference, deepest=direction.layer, k=k, draws=draws, seed=seed)
    rows = settings.by["one direction"]  # AdaSteer reads along one direction
    replies = answer_for_gates(
        chat, grid, direction, judge, source=rows.source, select=rows.select, score=rows.score, examples=rows.examples, graded_draws=graded_draws,
        strengths=strengths, max_new_tokens=max_new_tokens, out=out, progress=progress,
    )  # fmt: skip
    return compare_replies(settings, replies, resamples=resamples, seed=seed)


def compare_replies(settings: GateSettings, replies: GateReplies, *, resamples: int = 1000, seed: int = 0) -> GateComparison:
    """Count what every method gives, from judged replies alone; needs no model."""
    methods, prices = priced(settings, replies)
    runs = method_runs(settings, replies, methods, seed=seed)
    rng, reference = np.random.default_rng(seed), settings.ours.source.languages
    resampler = Resampler(replies.answered.prompts, runs, resamples=resamples, rng=rng, reference=reference)
    ours = methods[GATE]
    gate = recalibrated(ours.gate, settings.ours.examples.examples[0], ours.policy)
    others = [name for name in runs if name != GATE]
    contrasts = repair_contrasts(resampler, GATE, others)
    return GateComparison(repair_rates(resampler), contrasts, replies.strength, gate, replies.answered, runs, methods, prices)


def priced(settings: GateSettings, replies: GateReplies) -> tuple[dict[str, Contestant], Prices]:
    """Fit every method, and choose the price of a miss for those whose rule has one."""
    answered, push = replies.strength.answered, strength_action(replies.strength.strength)
    if answered is None:
        raise DataError("The judged replies of the strengths were not kept. Expected what answer_for_gates() returned.")
    plain, policies, tables = contestants(settings.sources), {}, []
    for name in PRICED:
        rows, method = settings.by[name], f"{name}, shrinkage"
        policies[name], tried = choose_price(method, plain[method].gate, answered, rows.select, rows.examples, action=push)
        tables.append(tried)
    told = {"split": "select", "budget": BUDGET, "strength": replies.strength.strength}
    return contestants(settings.sources, policies), Prices(pd.concat([*tables, replies.multiples], ignore_index=True), told)


def method_runs(settings: GateSettings, replies: GateReplies, methods: Mapping[str, Contestant], *, seed: int = 0) -> dict[str, MethodRun]:
    """Return what each method did in each draw, by name."""
    answered, ours = replies.answered, settings.ours
    few = f"{ours.examples.k} + {ours.examples.k}"
    runs = {UNREPAIRED: always(answered, LEAVE), ALWAYS: always(answered, STEER)}
    runs |= {f"random direction {i}": always(answered, f"random-{i}") for i in range(RANDOM)}
    for name, one in methods.items():
        rows = settings.by[reader_of(name)]
        flagged = rows.decide(one, rows.score)
        told = _labels(name, one, few)
        runs[name] = routed(answered, flagged, labels=told)
        if name == GATE:
            runs[f"{GATE}, others relaxed"] = routed(answered, flagged, labels=told, unflagged_action=RELAX)
            mixed = shuffled_decisions(flagged, rows.score.language, np.random.default_rng(seed))
            runs["gate, permuted decisions"] = routed(answered, mixed, labels=told)
            runs["gate, no examples"] = routed(answered, decisions(one.gate, rows.score, rows.no_examples()), labels="none")
    broken = permuted_contestants(ours.source, methods[GATE].policy, np.random.default_rng(seed))
    runs["gate, permuted labels"] = averaged([routed(answered, ours.decide(one, ours.score), labels=few) for one in broken])
    runs[ORACLE] = routed(answered, ours.score.y[None], labels="all")
    for kind, name, _ in GRADED:
        if actions := replies.graded(kind):
            runs[name] = MethodRun.of(
                answered, np.repeat(np.array(actions)[:, None], len(answered.prompts), axis=1), None, f"{few}; multiple: select split"
            )
    return runs


def _labels(name: str, one: Contestant, few: str) -> str:
    """Say which labels of the languages that are repaired a method has used, beside those that chose the strength for all."""
    if one.policy is None or not isinstance(one.policy, Shrinkage):
        return few if one.policy is None or one.policy.needs_labels else "unlabelled prompts"
    pooled = f"{few} of every language"  # it learns from how the other languages' scores lie
    return pooled if name == PRICED_AS_GIVEN else f"{pooled}; price: select split"


__all__ = ["GateComparison", "compare_gates", "compare_replies", "method_runs", "priced"]
