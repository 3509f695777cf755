"""Who is compared: our gate, its rivals and the controls, fitted on the same rows and, where they set a threshold by a rule, by the same rules.

A gate that is told apart by its score (one direction, Latent Guard, signed CAST) reads where *it* reads best, and gets the rule of our gate as
well as the paper's, so that a difference between two methods is a difference of scores or of rules and never of both at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from workbench.gates import BalancedF1, Gate, GateData, MomentMatching, RecalibratedGate, Shrinkage, ThresholdPolicy
from workbench.gates.cast import CastGate
from workbench.gates.controls import FEWEST_SEEDS, permuted_labels
from workbench.gates.latent_guard import LatentGuard
from workbench.gates.one_direction import DirectionGate
from workbench.repair.kinds import PRICED_AS_GIVEN


def _signed() -> Gate:
    return CastGate(signed=True)


#: Scores: each is fitted by these, and reads at its own place.
READERS: Mapping[str, Callable[[], Gate]] = {
    "gate": RecalibratedGate, "one direction": DirectionGate, "Latent Guard": LatentGuard, "CAST": CastGate, "CAST signed": _signed,
}  # fmt: skip
#: Readers whose threshold our rule can set, at a price of a miss that is chosen on the select split.
PRICED = ("gate", "one direction", "Latent Guard", "CAST signed")


class Contestant(NamedTuple):
    """A gate fitted on the source languages, and the rule that sets its thresholds; None: the gate's own."""

    gate: Gate
    policy: ThresholdPolicy | None


def reader_of(method: str) -> str:
    """Return whose score a method decides by: a key of :data:`READERS`."""
    return max((name for name in READERS if method.startswith(name)), key=len)


def contestants(sources: Mapping[str, GateData], policies: Mapping[str, ThresholdPolicy] | None = None) -> dict[str, Contestant]:
    """Fit every method that says yes or no, by name; the first is ours.

    Parameters
    ----------
    sources : mapping of reader to GateData
        Fit split of the source languages, where each reader reads.
    policies : mapping of reader to ThresholdPolicy, optional
        Our rule at the price chosen for each; its default price otherwise.
    """
    fitted = {name: make().fit(sources[name]) for name, make in READERS.items()}
    found = {}
    for name in PRICED:
        found[f"{name}, shrinkage"] = Contestant(fitted[name], Shrinkage() if policies is None else policies[name])
        found[f"{name}, balanced F1"] = Contestant(fitted[name], BalancedF1())
    if policies is not None:
        found[PRICED_AS_GIVEN] = Contestant(fitted["gate"], Shrinkage())
    found["gate, unlabelled"] = Contestant(fitted["gate"], MomentMatching())
    found["CAST as published"] = Contestant(fitted["CAST"], None)
    found["CAST signed, own search"] = Contestant(fitted["CAST signed"], None)
    return found


def permuted_contestants(source: GateData, policy: ThresholdPolicy | None, rng: np.random.Generator) -> list[Contestant]:
    """Fit our gate on labels that share nothing with the true ones, five times; the rule stays ours."""
    return [Contestant(RecalibratedGate().fit(permuted_labels(source, rng)), policy) for _ in range(FEWEST_SEEDS)]


__all__ = ["PRICED", "READERS", "Contestant", "contestants", "permuted_contestants", "reader_of"]
