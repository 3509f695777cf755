"""Which prompts each method pushes, draw by draw: every gate sees the same k examples of the same draw.

A draw takes k harmful and k harmless examples of each target language. A gate is fitted once on the source languages and
recalibrated to each draw's examples; the source languages keep their own threshold. So differences between methods are paired, draw
by draw.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from workbench.errors import DataError
from workbench.gates import Gate, GateData, GateWarning, ThresholdPolicy
from workbench.repair.actions import LEAVE, STEER, Answered
from workbench.repair.rates import MethodRun


@dataclass(frozen=True, eq=False)
class Draws:
    """Examples of the target languages, the same for every method.

    Attributes
    ----------
    k : int
        Harmful, and harmless, examples per language.
    examples : list of mapping of language to GateData
        One mapping per draw.
    """

    k: int
    examples: list[Mapping[str, GateData]]

    def __len__(self) -> int:
        return len(self.examples)


def draw_examples(pool: GateData, targets: Sequence[str], k: int, draws: int, *, seed: int = 0) -> Draws:
    """Draw the examples that gates are recalibrated with.

    Parameters
    ----------
    pool : GateData
        Prompts that are not scored (fit or select split) of the target languages.
    k : int
        0 gives one draw without examples: nothing to draw differs.

    Raises
    ------
    DataError
        Scored prompts in the pool, no draws, or fewer than k meanings of a class.
    """
    if "score" in set(pool.split):
        raise DataError("The pool of examples holds prompts of the split 'score'. Expected fit or select: what is scored must not be learned from.")
    if draws < 1:
        raise DataError(f"draws={draws}. Expected at least 1.")
    rng = np.random.default_rng(seed)
    return Draws(k, [{tag: pool.draw(k, tag, rng) for tag in targets} for _ in range(draws if k else 1)])


def decisions(
    gate: Gate, scored: GateData, draws: Draws, *, policy: ThresholdPolicy | None = None, **options: Any
) -> Bool[np.ndarray, "draw prompt"]:
    """Recalibrate a fitted gate to each draw and let it decide every scored prompt.

    Parameters
    ----------
    gate : Gate
        Fitted on the source languages.
    policy : ThresholdPolicy, optional
        How thresholds are set; the gate's own default otherwise. Where it abstains the threshold in force stays.
    options
        Further arguments of the gate's ``recalibrate``.
    """
    out = np.empty((len(draws), len(scored)), dtype=bool)
    for i, examples in enumerate(draws.examples):
        out[i] = recalibrated(gate, examples, policy, **options).predict(scored)
    return out


def recalibrated(gate: Gate, examples: Mapping[str, GateData], policy: ThresholdPolicy | None = None, **options: Any) -> Gate:
    """Set the threshold of each language by its examples; warnings of a single draw are not repeated, since draws are many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateWarning)
        for tag, shown in examples.items():
            gate = gate.recalibrate(shown, language=tag, **({} if policy is None else {"policy": policy}), **options)
    return gate


def routed(
    answered: Answered, flagged: Bool[np.ndarray, "draw prompt"], *, labels: str, flagged_action: str = STEER, unflagged_action: str = LEAVE
) -> MethodRun:
    """Say what follows when flagged prompts get one action and the others another."""
    return MethodRun.of(answered, np.where(flagged, flagged_action, unflagged_action), flagged, labels)


def always(answered: Answered, action: str, *, labels: str = "none") -> MethodRun:
    """Say what follows when every prompt gets the same action."""
    return MethodRun.of(answered, np.full((1, len(answered.prompts)), action), None, labels)


def averaged(runs: Sequence[MethodRun]) -> MethodRun:
    """Average what several runs of as many draws did with each prompt; who was flagged differs between them and is not kept."""
    refused, correct, broken = (np.mean([getattr(run, kind) for run in runs], axis=0) for kind in ("refused", "correct", "broken"))
    return MethodRun(refused, correct, broken, None, runs[0].labels)


def decided(answered: Answered, run: MethodRun) -> pd.DataFrame:
    """Lay out whom a gate flagged, so that what it does can be counted again beside other repairs.

    Returns
    -------
    DataFrame
        ``draw`` (from 0), ``prompt_id``, ``flagged``.
    """
    flagged = np.zeros((1, len(answered.prompts)), dtype=bool) if run.flagged is None else run.flagged
    ids = answered.prompts["prompt_id"].to_numpy()
    return pd.DataFrame({"draw": np.repeat(np.arange(len(flagged)), len(ids)), "prompt_id": np.tile(ids, len(flagged)), "flagged": flagged.ravel()})
