"""Where harm lies: the direction, whether it and its threshold transfer between languages, and the nulls."""

from workbench.directions.collinear import Collinearity, ProjectionCheck, collinear, projection_check
from workbench.directions.compare import DirectionCosines, compare_directions
from workbench.directions.compare_methods import compare_methods
from workbench.directions.contrast import Contrast
from workbench.directions.controls import DirectionControls, direction_controls
from workbench.directions.direction import Direction, Directions
from workbench.directions.extract import (
    LanguageDirections,
    difference_in_means,
    extract_directions,
    harm_direction,
    language_directions,
)
from workbench.directions.nulls import HarmNulls, harm_nulls, surface_auroc
from workbench.directions.project import Projections, project, projections
from workbench.directions.represented import HarmRepresented, harm_represented
from workbench.directions.select import RULES, DirectionScores, Selection, SelectionRule, read_scores, select_direction
from workbench.directions.thresholds import Thresholds, thresholds
from workbench.directions.transfer import AurocTable, LayerChoice, choose_layer, transfer_auroc

__all__ = [
    "RULES",
    "AurocTable",
    "Collinearity",
    "Contrast",
    "Direction",
    "DirectionControls",
    "DirectionCosines",
    "DirectionScores",
    "Directions",
    "HarmNulls",
    "HarmRepresented",
    "LanguageDirections",
    "LayerChoice",
    "ProjectionCheck",
    "Projections",
    "Selection",
    "SelectionRule",
    "Thresholds",
    "choose_layer",
    "collinear",
    "compare_directions",
    "compare_methods",
    "difference_in_means",
    "direction_controls",
    "extract_directions",
    "harm_direction",
    "harm_nulls",
    "harm_represented",
    "language_directions",
    "project",
    "projection_check",
    "projections",
    "read_scores",
    "select_direction",
    "surface_auroc",
    "thresholds",
    "transfer_auroc",
]
