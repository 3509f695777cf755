"""Gates compared on one footing: the same examples, the same place, one strength, scored on meanings that chose nothing.

What a method may use of a target language is k harmful and k harmless examples of a draw, and the strength that the oracle gate chose
on the select split. Everything else comes from the source languages.
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
from workbench.gates import Gate, GateData, gate_data
from workbench.gates.controls import shuffled_decisions
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import LEAVE, RELAX, STEER, Answered
from workbench.repair.contestants import ADASTEER, ADASTEER_PROMPT, ALWAYS, GATE, ORACLE, UNREPAIRED, contestants, permuted_contestant
from workbench.repair.methods import Draws, always, decisions, draw_examples, recalibrated, routed
from workbench.repair.rates import MethodRun, RepairContrasts, RepairRates, Resampler, repair_contrasts, repair_rates
from workbench.repair.replies import RANDOM, GateReplies, answer_for_gates
from workbench.repair.strength import STRENGTHS, OracleStrength


@dataclass(frozen=True, eq=False)
class GateSetting:
    """What gates are fitted on, shown and scored on.

    Attributes
    ----------
    source : GateData
        Fit split of the reference languages.
    pool : GateData
        Fit split of the target languages, from which examples are drawn.
    score : GateData
        Score split of all languages.
    targets : list of str
    examples : Draws
    """

    source: GateData
    pool: GateData
    score: GateData
    targets: list[str]
    examples: Draws


def gate_setting(
    acts: xr.Dataset, grid: PromptGrid, layer: int, position: str, *, reference: Sequence[str], k: int = 4, draws: int = 20, seed: int = 0
) -> GateSetting:
    """Read the states at one place and draw the examples.

    Parameters
    ----------
    acts : Dataset
        Activations of (at least) the grid.
    grid : PromptGrid
        With splits; all languages that are not in ``reference`` are targets.

    Raises
    ------
    DataError
        No target language, or fewer than k examples in one.
    """
    targets = [tag for tag in grid.languages if tag not in set(reference)]
    if not targets:
        raise DataError(f"All languages ({', '.join(grid.languages)}) are reference languages. Expected others to repair; pass reference=[...].")
    if k < 1:
        raise DataError(f"k={k}. Expected at least one harmful and one harmless example per language; what none gives is among the rows anyway.")
    fit = gate_data(acts, layer, position, split="fit")
    score = gate_data(acts, layer, position, split="score")
    score = score.take(pd.Index(score.prompt_id).get_indexer(grid.select(split="score").frame["prompt_id"]))
    pool = fit.select(languages=targets)
    return GateSetting(fit.select(languages=list(reference)), pool, score, targets, draw_examples(pool, targets, k, draws, seed=seed))


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
    """

    rates: RepairRates
    contrasts: RepairContrasts
    strength: OracleStrength
    gate: Gate
    answered: Answered
    runs: Mapping[str, MethodRun]


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
    """Compare gates at a direction's own layer and position.

    Parameters
    ----------
    grid : PromptGrid
        With splits; all languages that are not in ``reference`` are targets.
    acts : Dataset
        Activations of the same grid at the direction's place.
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
    setting = gate_setting(acts, grid, direction.layer, direction.position, reference=reference, k=k, draws=draws, seed=seed)
    replies = answer_for_gates(
        chat, grid, direction, judge, source=setting.source, score=setting.score, examples=setting.examples, graded_draws=graded_draws,
        strengths=strengths, max_new_tokens=max_new_tokens, out=out, progress=progress,
    )  # fmt: skip
    return compare_replies(setting, replies, resamples=resamples, seed=seed)


def compare_replies(setting: GateSetting, replies: GateReplies, *, resamples: int = 1000, seed: int = 0) -> GateComparison:
    """Count what every method gives, from judged replies alone; needs no model."""
    runs = method_runs(setting, replies, seed=seed)
    resampler = Resampler(replies.answered.prompts, runs, resamples=resamples, rng=np.random.default_rng(seed))
    fitted = contestants(setting.source)[GATE]
    gate = recalibrated(fitted.gate, setting.examples.examples[0], fitted.policy)
    others = [name for name in runs if name != GATE]
    return GateComparison(repair_rates(resampler), repair_contrasts(resampler, GATE, others), replies.strength, gate, replies.answered, runs)


def method_runs(setting: GateSetting, replies: GateReplies, *, seed: int = 0) -> dict[str, MethodRun]:
    """Return what each method did in each draw, by name."""
    answered, score, examples = replies.answered, setting.score, setting.examples
    told = f"{examples.k} + {examples.k}"
    runs = {UNREPAIRED: always(answered, LEAVE), ALWAYS: always(answered, STEER)}
    runs |= {f"random direction {i}": always(answered, f"random-{i}") for i in range(RANDOM)}
    for name, one in contestants(setting.source).items():
        flagged = one.decide(score, examples, setting.pool)
        runs[name] = routed(answered, flagged, labels=told if one.policy is None or one.policy.needs_labels else "none")
        if name == GATE:
            runs[f"{GATE}, others relaxed"] = routed(answered, flagged, labels=told, unflagged_action=RELAX)
            runs["gate, permuted decisions"] = routed(answered, shuffled_decisions(flagged, score.language, np.random.default_rng(seed)), labels=told)
            runs["gate, no examples"] = routed(answered, decisions(one.gate, score, _nothing(setting)), labels="none")
    broken = permuted_contestant(setting.source, np.random.default_rng(seed))
    runs["gate, permuted labels"] = routed(answered, broken.decide(score, examples), labels=told)
    runs[ORACLE] = routed(answered, score.y[None], labels="all")
    for name, kind in ((ADASTEER, "adasteer"), (ADASTEER_PROMPT, "adasteer-prompt")):
        if actions := replies.graded(kind):
            runs[name] = MethodRun.of(answered, np.repeat(np.array(actions)[:, None], len(answered.prompts), axis=1), None, told)
    return runs


def _nothing(setting: GateSetting) -> Draws:
    """One draw without examples: a language never seen gets the source languages' threshold."""
    return Draws(0, [{tag: setting.pool.select(languages=tag).take(np.empty(0, dtype=int)) for tag in setting.targets}])


__all__ = ["GateComparison", "GateSetting", "compare_gates", "compare_replies", "gate_setting", "method_runs"]
