"""Pictures: each function takes a result and returns a ``plotly.graph_objects.Figure``; nothing is shown, saved or computed.

Hue is the tier of a language, dash and a direct label its tag, the marker the class of a prompt. Hover names prompts by id.
"""

from workbench.plots.agreement import judge_agreement
from workbench.plots.compared import two_runs
from workbench.plots.cosines import direction_cosines
from workbench.plots.elsewhere import elsewhere
from workbench.plots.few_shot import few_shot_curve
from workbench.plots.gate_scores import gate_ridges
from workbench.plots.harm_variance import harm_variance
from workbench.plots.interpreter_layers import interpreter_layers
from workbench.plots.lens import language_track
from workbench.plots.method_strengths import strength_by_method
from workbench.plots.methods import selectivity_by_method
from workbench.plots.nulls import auroc_with_nulls
from workbench.plots.pca import clusters
from workbench.plots.ranking import auroc_by_layer
from workbench.plots.refusals import refusal_gap
from workbench.plots.repair_cost import repair_cost
from workbench.plots.repaired_languages import repaired_languages
from workbench.plots.restoration import restoration
from workbench.plots.retrieved import retrieval_by_layer
from workbench.plots.ridges import projection_ridges
from workbench.plots.roc import gate_roc
from workbench.plots.selection import selection_curves
from workbench.plots.separated import separation
from workbench.plots.separation_change import separation_change
from workbench.plots.silhouette import silhouettes
from workbench.plots.similarity import similarity_by_layer, similarity_matrix
from workbench.plots.steered import steered
from workbench.plots.strength import strength_curve
from workbench.plots.style import TEMPLATE
from workbench.plots.thresholds import threshold_transfer
from workbench.plots.token_weights import token_weight_strips, token_weights
from workbench.plots.tokens import tokens_per_character
from workbench.plots.training_curves import training_curves
from workbench.plots.transferred import gate_transfer
from workbench.plots.understood import understanding
from workbench.plots.variance import variance_shares
from workbench.plots.verdicts import verdicts
from workbench.plots.waterfall import waterfall

__all__ = [
    "TEMPLATE",
    "auroc_by_layer",
    "auroc_with_nulls",
    "clusters",
    "direction_cosines",
    "elsewhere",
    "few_shot_curve",
    "gate_ridges",
    "gate_roc",
    "gate_transfer",
    "harm_variance",
    "interpreter_layers",
    "judge_agreement",
    "language_track",
    "projection_ridges",
    "refusal_gap",
    "repair_cost",
    "repaired_languages",
    "restoration",
    "retrieval_by_layer",
    "selection_curves",
    "selectivity_by_method",
    "separation",
    "separation_change",
    "silhouettes",
    "similarity_by_layer",
    "similarity_matrix",
    "steered",
    "strength_by_method",
    "strength_curve",
    "threshold_transfer",
    "token_weight_strips",
    "token_weights",
    "tokens_per_character",
    "training_curves",
    "two_runs",
    "understanding",
    "variance_shares",
    "verdicts",
    "waterfall",
]
