"""Workbench: at which stage, layer and language a multilingual chat model's safety decision fails.

Nothing heavy is imported until it is used, so ``import workbench`` is quick::

    import workbench as wb

    run = wb.diagnose("organism:aligned", before="organism:helpful", prompts="organism", out="runs/demo")
    wb.build_report(run.folder)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "PromptGrid": "workbench.prompts.grid",
    "load_prompts": "workbench.prompts.sources",
    "ChatModel": "workbench.models.chat",
    "load_model": "workbench.models.load",
    "untrained_like": "workbench.models.load",
    "edited": "workbench.models.hooks",
    "capture": "workbench.activations.capture",
    "open_store": "workbench.activations.store",
    "variance_shares": "workbench.geometry",
    "harm_variance": "workbench.geometry",
    "silhouettes": "workbench.geometry",
    "find_bottleneck": "workbench.geometry",
    "separation": "workbench.geometry",
    "clusters": "workbench.geometry",
    "retrieval": "workbench.geometry",
    "similarity": "workbench.geometry",
    "pairwise_similarity": "workbench.geometry",
    "largest_complete": "workbench.geometry",
    "lasa_layers": "workbench.geometry",
    "track_languages": "workbench.diagnosis.lens",
    "harm_direction": "workbench.directions",
    "extract_directions": "workbench.directions",
    "language_directions": "workbench.directions",
    "compare_directions": "workbench.directions",
    "compare_methods": "workbench.directions",
    "direction_controls": "workbench.directions",
    "select_direction": "workbench.directions",
    "Contrast": "workbench.directions",
    "Direction": "workbench.directions",
    "Directions": "workbench.directions",
    "project": "workbench.directions",
    "transfer_auroc": "workbench.directions",
    "choose_layer": "workbench.directions",
    "harm_nulls": "workbench.directions",
    "harm_represented": "workbench.directions",
    "thresholds": "workbench.directions",
    "Add": "workbench.interventions",
    "Ablate": "workbench.interventions",
    "Patch": "workbench.interventions",
    "Compose": "workbench.interventions",
    "orthogonalised": "workbench.interventions",
    "Route": "workbench.interventions",
    "RecalibratedGate": "workbench.gates",
    "gate_data": "workbench.gates",
    "label_curve": "workbench.gates",
    "save_gate": "workbench.gates",
    "load_gate": "workbench.gates",
    "repair_gate": "workbench.repair.run",
    "repair_route": "workbench.repair.applied",
    "repair_training": "workbench.alignment.run",
    "repair_table": "workbench.alignment.table",
    "compare_gates": "workbench.repair.gate",
    "sweep_directions": "workbench.interventions.sweep",
    "RefusalTokens": "workbench.interventions",
    "refusal_tokens": "workbench.behavior.first_token",
    "strength_sweep": "workbench.behavior.strength",
    "choose_strength": "workbench.behavior.strength",
    "compare_rates": "workbench.behavior.compare",
    "pooled_rates": "workbench.behavior.refusal",
    "FirstTokenJudge": "workbench.behavior.first_token",
    "ClassifierJudge": "workbench.behavior.classifier",
    "GuardJudge": "workbench.behavior.classifier",
    "EndpointJudge": "workbench.behavior.endpoint",
    "judge_agreement": "workbench.behavior.agreement",
    "read_questions": "workbench.behavior.question_sets",
    "multiple_choice": "workbench.behavior.utility",
    "word_problems": "workbench.behavior.utility",
    "answer_utility": "workbench.behavior.utility",
    "compare_utility": "workbench.behavior.utility",
    "generate": "workbench.behavior.generate",
    "choose_judge": "workbench.behavior.judges",
    "refusal_rates": "workbench.behavior.refusal",
    "diagnose": "workbench.diagnosis.diagnose",
    "Run": "workbench.runs.folder",
    "build_report": "workbench.report.build",
    "Result": "workbench.results",
    "WorkbenchError": "workbench.errors",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from workbench.activations.capture import capture as capture
    from workbench.activations.store import open_store as open_store
    from workbench.behavior.generate import generate as generate
    from workbench.diagnosis.diagnose import diagnose as diagnose
    from workbench.models.load import load_model as load_model
    from workbench.prompts.grid import PromptGrid as PromptGrid
    from workbench.prompts.sources import load_prompts as load_prompts
    from workbench.repair.run import repair_gate as repair_gate
    from workbench.report.build import build_report as build_report
    from workbench.runs.folder import Run as Run


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    from workbench.errors import did_you_mean

    raise AttributeError(f"module 'workbench' has no attribute {name!r}.{did_you_mean(name, _PUBLIC)}")


def __dir__() -> list[str]:
    return sorted(__all__)
