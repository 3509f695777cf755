"""Who decides: gates that call a state harmful or harmless, with a threshold per language."""

from workbench.gates.adasteer import AdaSteer
from workbench.gates.cast import CastGate
from workbench.gates.files import load_gate, save_gate
from workbench.gates.label_curve import LabelCurve, label_curve
from workbench.gates.latent_guard import LatentGuard
from workbench.gates.one_direction import DirectionGate
from workbench.gates.place import GateData, Place, gate_data
from workbench.gates.protocol import UNKNOWN, Gate, Recalibration
from workbench.gates.readout import RecalibratedGate
from workbench.gates.solver_comparison import SolverComparison, compare_solvers
from workbench.gates.thresholds import (
    POLICIES,
    BalancedF1,
    ConformalMiss,
    Context,
    CostWeighted,
    FixedFalsePositives,
    GateWarning,
    MomentMatching,
    Scores,
    Shrinkage,
    ThresholdChoice,
    ThresholdPolicy,
    policy_named,
)

__all__ = [
    "POLICIES",
    "UNKNOWN",
    "AdaSteer",
    "BalancedF1",
    "CastGate",
    "ConformalMiss",
    "Context",
    "CostWeighted",
    "DirectionGate",
    "FixedFalsePositives",
    "Gate",
    "GateData",
    "GateWarning",
    "LabelCurve",
    "LatentGuard",
    "MomentMatching",
    "Place",
    "RecalibratedGate",
    "Recalibration",
    "Scores",
    "Shrinkage",
    "SolverComparison",
    "ThresholdChoice",
    "ThresholdPolicy",
    "compare_solvers",
    "gate_data",
    "label_curve",
    "load_gate",
    "policy_named",
    "save_gate",
]
