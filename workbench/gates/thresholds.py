"""Every rule for setting a threshold, behind one interface (:class:`workbench.gates.policy.ThresholdPolicy`).

===================== ================================ ======================================== ===========================================
policy                looks at                         sets                                     promises
===================== ================================ ======================================== ===========================================
BalancedF1            examples of both classes         the lowest with the best F1 (the paper)  nothing
FixedFalsePositives   harmless examples                the lowest that keeps to the rate        the rate, on average, from 1 / rate - 1 on
ConformalMiss         harmful examples                 the highest that keeps to alpha          the miss rate, on average, or abstains
CostWeighted          examples of both classes         the cheapest                             nothing
MomentMatching        unlabelled prompts               the sources', moved and stretched        nothing; abstains where it cannot know
Shrinkage             examples and other languages     the best that is expected                nothing
===================== ================================ ======================================== ===========================================
"""

from __future__ import annotations

from workbench.errors import DataError, did_you_mean
from workbench.gates.balanced_f1 import BalancedF1
from workbench.gates.conformal import ConformalMiss
from workbench.gates.policy import Context, GateWarning, Scores, ThresholdChoice, ThresholdPolicy
from workbench.gates.rates import CostWeighted, FixedFalsePositives
from workbench.gates.shrinkage import Shrinkage
from workbench.gates.unlabelled import MomentMatching

POLICIES: dict[str, type] = {
    policy.name: policy for policy in (BalancedF1, FixedFalsePositives, ConformalMiss, CostWeighted, MomentMatching, Shrinkage)
}


def policy_named(name: str) -> ThresholdPolicy:
    """Return a policy with its default settings.

    Raises
    ------
    DataError
        An unknown name.

    Examples
    --------
    >>> policy_named("conformal_miss")
    ConformalMiss(alpha=0.05, confidence=None)
    """
    if name not in POLICIES:
        raise DataError(f"Unknown policy {name!r}; expected one of {list(POLICIES)}.{did_you_mean(name, POLICIES)}")
    return POLICIES[name]()


__all__ = [
    "POLICIES",
    "BalancedF1",
    "ConformalMiss",
    "Context",
    "CostWeighted",
    "FixedFalsePositives",
    "GateWarning",
    "MomentMatching",
    "Scores",
    "Shrinkage",
    "ThresholdChoice",
    "ThresholdPolicy",
    "policy_named",
]
