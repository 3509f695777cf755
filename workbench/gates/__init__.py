"""Who decides: gates that call a state harmful or harmless, with a threshold per language."""

from workbench.gates.files import load_gate, save_gate
from workbench.gates.place import GateData, Place, gate_data
from workbench.gates.protocol import UNKNOWN, Gate, Recalibration
from workbench.gates.thresholds import BalancedF1, Context, GateWarning, Scores, ThresholdChoice, ThresholdPolicy

__all__ = [
    "UNKNOWN",
    "BalancedF1",
    "Context",
    "Gate",
    "GateData",
    "GateWarning",
    "Place",
    "Recalibration",
    "Scores",
    "ThresholdChoice",
    "ThresholdPolicy",
    "gate_data",
    "load_gate",
    "save_gate",
]
