"""How hidden states lie: by language or by meaning, with intervals and nulls (arrays in, results out; no model)."""

from workbench.geometry.bottleneck import Bottleneck, find_bottleneck
from workbench.geometry.clusters import Clusters, clusters
from workbench.geometry.harm_variance import HarmVariance, harm_variance
from workbench.geometry.retrieval import Retrieval, retrieval
from workbench.geometry.separation import Separation, separation
from workbench.geometry.silhouette import Silhouettes, silhouettes
from workbench.geometry.variance import VarianceShares, variance_shares

__all__ = [
    "Bottleneck",
    "Clusters",
    "HarmVariance",
    "Retrieval",
    "Separation",
    "Silhouettes",
    "VarianceShares",
    "clusters",
    "find_bottleneck",
    "harm_variance",
    "retrieval",
    "separation",
    "silhouettes",
    "variance_shares",
]
