"""How hidden states lie: by language or by meaning, with intervals and nulls (arrays in, results out; no model)."""

from workbench.geometry.bottleneck import Bottleneck, find_bottleneck
from workbench.geometry.cells import largest_complete
from workbench.geometry.clusters import Clusters, clusters
from workbench.geometry.harm_variance import HarmVariance, harm_variance
from workbench.geometry.lasa import lasa_layers
from workbench.geometry.lens import LanguageTrack
from workbench.geometry.pairwise import PairwiseSimilarity, pairwise_similarity
from workbench.geometry.retrieval import Retrieval, retrieval
from workbench.geometry.separation import Separation, separation
from workbench.geometry.separation_change import SeparationChange, SeparationContrast
from workbench.geometry.silhouette import Silhouettes, silhouettes
from workbench.geometry.similarity import Similarity, similarity
from workbench.geometry.variance import VarianceShares, variance_shares

__all__ = [
    "Bottleneck",
    "Clusters",
    "HarmVariance",
    "LanguageTrack",
    "PairwiseSimilarity",
    "Retrieval",
    "Separation",
    "SeparationChange",
    "SeparationContrast",
    "Silhouettes",
    "Similarity",
    "VarianceShares",
    "clusters",
    "find_bottleneck",
    "harm_variance",
    "largest_complete",
    "lasa_layers",
    "pairwise_similarity",
    "retrieval",
    "separation",
    "silhouettes",
    "similarity",
    "variance_shares",
]
