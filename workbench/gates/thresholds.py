"""Every rule for setting a threshold, behind one interface (:class:`workbench.gates.policy.ThresholdPolicy`)."""

from __future__ import annotations

from workbench.gates.balanced_f1 import BalancedF1
from workbench.gates.policy import Context, GateWarning, Scores, ThresholdChoice, ThresholdPolicy

__all__ = [
    "BalancedF1",
    "Context",
    "GateWarning",
    "Scores",
    "ThresholdChoice",
    "ThresholdPolicy",
]
