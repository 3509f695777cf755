"""Where harm lies: the direction, whether it and its threshold transfer between languages, and the nulls."""

from workbench.directions.compare import DirectionCosines, compare_directions
from workbench.directions.contrast import Contrast
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
from workbench.directions.thresholds import Thresholds, thresholds
from workbench.directions.transfer import AurocTable, LayerChoice, choose_layer, transfer_auroc

__all__ = [
    "AurocTable",
    "Contrast",
    "Direction",
    "DirectionCosines",
    "Directions",
    "HarmNulls",
    "HarmRepresented",
    "LanguageDirections",
    "LayerChoice",
    "Projections",
    "Thresholds",
    "choose_layer",
    "compare_directions",
    "difference_in_means",
    "extract_directions",
    "harm_direction",
    "harm_nulls",
    "harm_represented",
    "language_directions",
    "project",
    "projections",
    "surface_auroc",
    "thresholds",
    "transfer_auroc",
]
