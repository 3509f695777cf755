"""Who is compared: our gate, its rivals and the controls, fitted on the same rows and, where they set a threshold by a rule, by the same rules.

A gate that is told apart by its score (one direction, Latent Guard, signed CAST) gets the rule of our gate as well as the paper's, so
that a difference between two methods is a difference of scores or of rules and never of both at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from workbench.gates import BalancedF1, Gate, GateData, MomentMatching, RecalibratedGate, Shrinkage, ThresholdPolicy
from workbench.gates.cast import CastGate
from workbench.gates.controls import permuted_labels
from workbench.gates.latent_guard import LatentGuard
from workbench.gates.one_direction import DirectionGate
from workbench.repair.methods import Draws, decisions

UNREPAIRED, ALWAYS, ORACLE, GATE = "unrepaired", "always steer", "oracle gate", "gate, shrinkage"
PAPER, ADASTEER, ADASTEER_PROMPT = "gate, balanced F1", "AdaSteer", "AdaSteer, prompt only"

#: What a method is in the comparison; methods that are not listed are controls.
KINDS: Mapping[str, Sequence[str]] = {
    "model": (UNREPAIRED,),
    "gate": (GATE, f"{GATE}, others relaxed", PAPER, "gate, no examples", "gate, unlabelled"),
    "rival": (
        "one direction, shrinkage", "one direction, balanced F1", "Latent Guard, shrinkage", "Latent Guard, balanced F1", "CAST as published",
        "CAST signed, own search", "CAST signed, shrinkage", "CAST signed, balanced F1", ADASTEER, ADASTEER_PROMPT, ALWAYS,
    ),
    "ceiling": (ORACLE,),
}  # fmt: skip


def kind_of(method: str) -> str:
    """Return "model", "gate", "rival", "ceiling" or "control"."""
    return next((kind for kind, names in KINDS.items() if method in names), "control")


class Contestant(NamedTuple):
    """A gate fitted on the source languages, and the rule that sets its thresholds; None: the gate's own."""

    gate: Gate
    policy: ThresholdPolicy | None

    def decide(self, score: GateData, examples: Draws, pool: GateData | None = None) -> Bool[np.ndarray, "draw prompt"]:
        """Decide every scored prompt in every draw; a rule that needs no labels gets the pool, unlabelled, once."""
        if self.policy is None or self.policy.needs_labels or pool is None:
            return decisions(self.gate, score, examples, policy=self.policy)
        seen = {tag: pool.select(languages=tag) for tag in pool.languages}
        return decisions(self.gate, score, Draws(0, [seen]), policy=self.policy)


def contestants(source: GateData) -> dict[str, Contestant]:
    """Fit every method that says yes or no, by name; the first is ours and the second the paper's.

    Parameters
    ----------
    source : GateData
        Fit split of the reference languages.
    """
    ours, axis, guard = RecalibratedGate().fit(source), DirectionGate().fit(source), LatentGuard().fit(source)
    signed = CastGate(signed=True).fit(source)
    return {
        GATE: Contestant(ours, Shrinkage()),
        PAPER: Contestant(ours, BalancedF1()),
        "gate, unlabelled": Contestant(ours, MomentMatching()),
        "one direction, shrinkage": Contestant(axis, Shrinkage()),
        "one direction, balanced F1": Contestant(axis, BalancedF1()),
        "Latent Guard, shrinkage": Contestant(guard, Shrinkage()),
        "Latent Guard, balanced F1": Contestant(guard, BalancedF1()),
        "CAST as published": Contestant(CastGate().fit(source), None),
        "CAST signed, own search": Contestant(signed, None),
        "CAST signed, shrinkage": Contestant(signed, Shrinkage()),
        "CAST signed, balanced F1": Contestant(signed, BalancedF1()),
    }


def permuted_contestant(source: GateData, rng: np.random.Generator) -> Contestant:
    """Fit our gate on labels that share nothing with the true ones."""
    return Contestant(RecalibratedGate().fit(permuted_labels(source, rng)), BalancedF1())


__all__ = [
    "ADASTEER", "ADASTEER_PROMPT", "ALWAYS", "GATE", "KINDS", "ORACLE", "PAPER", "UNREPAIRED", "Contestant", "contestants", "kind_of",
    "permuted_contestant",
]  # fmt: skip
