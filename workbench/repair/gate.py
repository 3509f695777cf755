"""Gates compared on one footing: the same examples, the same place, one strength, scored on meanings that chose nothing.

What a method may use of a target language is k harmful and k harmless examples of a draw, and the strength that the oracle gate chose
on the select split. Everything else comes from the source languages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench.behavior.outcomes import Judge
from workbench.directions.direction import Direction
from workbench.errors import DataError
from workbench.gates import BalancedF1, Gate, GateData, RecalibratedGate, Shrinkage, ThresholdPolicy, gate_data
from workbench.gates.adasteer import AdaSteer
from workbench.gates.cast import CastGate
from workbench.gates.controls import permuted_labels, shuffled_decisions
from workbench.gates.latent_guard import LatentGuard
from workbench.gates.one_direction import DirectionGate
from workbench.gates.row_strengths import row_strengths
from workbench.interventions.edits import Ablate, Add
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import LEAVE, RELAX, STEER, Answered, answer_under
from workbench.repair.methods import Draws, always, decisions, draw_examples, routed
from workbench.repair.rates import MethodRun, RepairContrasts, RepairRates, Resampler, repair_contrasts, repair_rates
from workbench.repair.strength import SCOPE, STRENGTHS, OracleStrength, oracle_strength

UNREPAIRED, ALWAYS, ORACLE, GATE = "unrepaired", "always steer", "oracle gate", "gate, shrinkage"
#: Random directions that are added to every prompt, as a control.
RANDOM = 5


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
    gate : RecalibratedGate
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
    graded_draws: int = 3,
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
    targets = [tag for tag in grid.languages if tag not in set(reference)]
    if not targets:
        raise DataError(f"All languages ({', '.join(grid.languages)}) are reference languages. Expected others to repair; pass reference=[...].")
    folder = None if out is None else Path(out)
    answers: dict[str, Any] = {"max_new_tokens": max_new_tokens, "progress": progress}
    place = folder / "select" if folder else None
    chosen = oracle_strength(chat, grid, direction, judge, targets=targets, strengths=strengths, out=place, **answers)
    scored = grid.select(split="score")
    place = folder / "score" if folder else None
    answered = answer_under(chat, scored, _actions(direction, chosen.strength), judge, out=place, **answers)
    fit = gate_data(acts, direction.layer, direction.position, split="fit")
    score = gate_data(acts, direction.layer, direction.position, split="score")
    score = score.take(pd.Index(score.prompt_id).get_indexer(answered.prompts["prompt_id"]))
    source = fit.select(languages=list(reference))
    examples, none = (draw_examples(fit.select(languages=targets), targets, n, draws, seed=seed) for n in (k, 0))
    runs = _always(answered) | _gated(answered, source, score, examples, none, seed)
    runs |= _graded(chat, scored, answered, source, score, examples, direction, chosen.strength, judge, graded_draws, folder, answers)
    resampler = Resampler(answered.prompts, runs, resamples=resamples, rng=np.random.default_rng(seed))
    gate: Gate = RecalibratedGate().fit(source)
    for tag, shown in examples.examples[0].items():
        gate = gate.recalibrate(shown, language=tag, policy=Shrinkage())
    others = [name for name in runs if name != GATE]
    return GateComparison(repair_rates(resampler), repair_contrasts(resampler, GATE, others), chosen, gate, answered, runs)


def _actions(direction: Direction, strength: float) -> dict[str, Any]:
    """Every edit a prompt may get: nothing, the push, its opposite, and pushes of the same length along random directions."""
    length = strength * float(direction.metadata["gap"])
    actions: dict[str, Any] = {LEAVE: None, STEER: Add(direction, strength, "gap", scope=SCOPE), RELAX: Ablate(direction)}
    for seed in range(RANDOM):
        vector = np.random.default_rng(seed).normal(size=len(direction.unit))
        actions[f"random-{seed}"] = Add(vector / np.linalg.norm(vector), length, layers=direction.layer, scope=SCOPE)
    return actions


def _always(answered: Answered) -> dict[str, MethodRun]:
    runs = {UNREPAIRED: always(answered, LEAVE), ALWAYS: always(answered, STEER)}
    return runs | {f"random direction {seed}": always(answered, f"random-{seed}") for seed in range(RANDOM)}


def _gated(answered: Answered, source: GateData, score: GateData, examples: Draws, none: Draws, seed: int) -> dict[str, MethodRun]:
    """Every method that says yes or no; the same examples and, where it sets a threshold by a policy, the same policies."""
    told = f"{examples.k} + {examples.k}"
    gates: Mapping[str, tuple[Gate, ThresholdPolicy | None]] = {
        GATE: (RecalibratedGate().fit(source), Shrinkage()),
        "gate, balanced F1": (RecalibratedGate().fit(source), BalancedF1()),
        "one direction, shrinkage": (DirectionGate().fit(source), Shrinkage()),
        "one direction, balanced F1": (DirectionGate().fit(source), BalancedF1()),
        "Latent Guard, balanced F1": (LatentGuard().fit(source), BalancedF1()),
        "CAST as published": (CastGate().fit(source), None),
        "CAST signed, balanced F1": (CastGate(signed=True).fit(source), BalancedF1()),
    }
    runs = {}
    for name, (gate, policy) in gates.items():
        flagged = decisions(gate, score, examples, policy=policy)
        runs[name] = routed(answered, flagged, labels=told)
        if name == GATE:
            runs[f"{GATE}, others relaxed"] = routed(answered, flagged, labels=told, unflagged_action=RELAX)
            runs["gate, permuted decisions"] = routed(answered, shuffled_decisions(flagged, score.language, np.random.default_rng(seed)), labels=told)
    runs["gate, no examples"] = routed(answered, decisions(RecalibratedGate().fit(source), score, none), labels="none")
    broken = RecalibratedGate().fit(permuted_labels(source, np.random.default_rng(seed)))
    runs["gate, permuted labels"] = routed(answered, decisions(broken, score, examples, policy=BalancedF1()), labels=told)
    runs[ORACLE] = routed(answered, score.y[None], labels="all")
    return runs


def _graded(
    chat: ChatModel,
    grid: PromptGrid,
    answered: Answered,
    source: GateData,
    score: GateData,
    examples: Draws,
    direction: Direction,
    strength: float,
    judge: Judge,
    draws: int,
    folder: Path | None,
    answers: Mapping[str, Any],
) -> dict[str, MethodRun]:
    """AdaSteer pushes each prompt by its own strength, so its replies are generated anew, a draw at a time."""
    parts = []
    for i, shown in enumerate(examples.examples[:draws]):
        law = AdaSteer().fit(source)
        for tag, some in shown.items():
            law = law.recalibrate(some, language=tag)
        given = row_strengths(law, score, toward="refusal")
        edit = Add(direction, strength, "gap", scope=SCOPE, rows=given.rows)
        place = None if folder is None else folder / "adasteer"
        parts.append(answer_under(chat, grid, {f"draw-{i}": edit}, judge, out=place, **answers))

    def stacked(kind: str) -> np.ndarray:
        return np.stack([np.asarray(next(iter(getattr(part, kind).values())), dtype=np.float64) for part in parts])

    return {"AdaSteer": MethodRun(stacked("refused"), stacked("correct"), stacked("broken"), None, f"{examples.k} + {examples.k}")}


__all__ = ["GateComparison", "compare_gates"]
