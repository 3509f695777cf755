"""What AdaSteer's two vectors per layer are: which way they point, that one is the other's multiple, and how hard they push.

The released rejection vector RD points towards **complying** (mean complied minus mean refused), and the harmfulness vector HD is replaced by its
projection onto RD before it is used. So the two-direction method moves states along one line: alpha RD + beta proj = (alpha + beta rho) RD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.directions.collinear import ProjectionCheck, projection_check
from workbench.errors import DataError
from workbench.results import Result


@dataclass(frozen=True)
class SignCheck(Result):
    """Which way each layer's vector points: layer, cosine, toward, refuses.

    ``cosine``: with mean refused minus mean complied. ``toward``: "refusal", "compliance" or "undefined" (a zero vector, or two groups
    that are the same). ``refuses``: the sign of the strength that pushes towards refusal (+1, -1, 0 where undefined).
    """

    required: ClassVar[tuple[str, ...]] = ("layer", "cosine", "toward", "refuses")

    @property
    def toward(self) -> str:
        """What all layers point to, "mixed" where they differ."""
        known = set(self.table["toward"]) - {"undefined"}
        return known.pop() if len(known) == 1 else ("mixed" if known else "undefined")


def sign_check(
    vectors: Float[np.ndarray, "layer hidden"],
    refused: Float[np.ndarray, "layer prompt hidden"],
    complied: Float[np.ndarray, "layer other hidden"],
    *,
    first_layer: int = 1,
) -> SignCheck:
    """Say whether vectors point towards refusal or towards complying, by two groups of prompts that did the one and the other.

    Raises
    ------
    DataError
        Shapes that do not fit, an empty group, values that are not finite.

    Examples
    --------
    >>> sign_check(np.array([[-2.0, 0.0]]), np.array([[[1.0, 5.0]]]), np.array([[[0.0, 5.0]]])).toward
    'compliance'
    """
    vectors, refused, complied = (np.asarray(v, dtype=np.float64) for v in (vectors, refused, complied))
    if vectors.ndim != 2 or any(g.ndim != 3 or g.shape[::2] != vectors.shape or not g.shape[1] for g in (refused, complied)):
        raise DataError(
            f"Got vectors {vectors.shape}, groups {refused.shape} and {complied.shape}. Expected (layer, hidden) and twice (layer, prompt, hidden)."
        )
    if not all(np.isfinite(v).all() for v in (vectors, refused, complied)):
        raise DataError("Vectors or states are not finite. Expected finite numbers; load or capture them again.")
    rows = []
    for k, vector in enumerate(vectors):
        across = refused[k].mean(axis=0) - complied[k].mean(axis=0)
        length = float(np.linalg.norm(vector) * np.linalg.norm(across))
        cosine = float(vector @ across) / length if length > 0 else float("nan")
        sign = int(np.sign(cosine)) if np.isfinite(cosine) else 0
        told = {1: "refusal", -1: "compliance", 0: "undefined"}[sign]
        rows.append({"layer": first_layer + k, "cosine": cosine, "toward": told, "refuses": sign})
    return SignCheck(pd.DataFrame(rows), {"n_refused": refused.shape[1], "n_complied": complied.shape[1]})


def projected_share(harmfulness: Float[np.ndarray, "layer hidden"], rejection: Float[np.ndarray, "layer hidden"]) -> Float[np.ndarray, " layer"]:
    """Return rho = (RD . HD) / |RD|^2 of each layer: the projection of HD onto RD is rho RD. NaN where RD is zero.

    Raises
    ------
    DataError
        Shapes that differ.
    """
    harm, line = np.asarray(harmfulness, dtype=np.float64), np.asarray(rejection, dtype=np.float64)
    if harm.shape != line.shape or harm.ndim != 2:
        raise DataError(f"Got shapes {harm.shape} and {line.shape}. Expected (layer, hidden) twice.")
    squares = (line**2).sum(axis=1)
    return np.divide((harm * line).sum(axis=1), squares, out=np.full(len(line), np.nan), where=squares > 0)


def harmfulness_projection(
    harmfulness: Float[np.ndarray, "layer hidden"],
    rejection: Float[np.ndarray, "layer hidden"],
    *,
    released: Float[np.ndarray, "layer hidden"] | None = None,
    first_layer: int = 1,
) -> tuple[Float[np.ndarray, "layer hidden"], ProjectionCheck]:
    """Project HD onto RD, layer by layer, and check the released projection (or one's own) against it.

    Parameters
    ----------
    released : array (layer, hidden), optional
        The vectors said to be this projection. Those released for Llama-3.1-8B are not: recompute them.

    Returns
    -------
    projection, check
        ``check.consistent`` says whether each is the projection; every one is collinear with RD, so nothing of HD beside RD is left.
    """
    line = np.asarray(rejection, dtype=np.float64)
    projection = projected_share(harmfulness, rejection)[:, None] * line
    told = projection if released is None else np.asarray(released, dtype=np.float64)
    return projection, projection_check(told, np.asarray(harmfulness, dtype=np.float64), line, first_layer=first_layer)


def net_strength(
    alpha: Float[np.ndarray, " prompt"], beta: Float[np.ndarray, " prompt"], share: Float[np.ndarray, " layer"]
) -> Float[np.ndarray, "prompt layer"]:
    """Return the multiple of RD that both terms add together, alpha + beta rho, per prompt and layer."""
    return np.asarray(alpha)[:, None] + np.asarray(beta)[:, None] * np.asarray(share)[None, :]


def relative_push(
    strength: float, vectors: Float[np.ndarray, "layer hidden"], states: Float[np.ndarray, "layer prompt hidden"]
) -> Float[np.ndarray, " layer"]:
    """Return how far strength x vector moves a state of each layer, as a share of the states' root mean square length.

    This is the unit of ``Add(scale="norm")``, in which strengths of different models can be compared.
    """
    length = np.sqrt((np.asarray(states, dtype=np.float64) ** 2).sum(axis=2).mean(axis=1))
    return strength * np.linalg.norm(np.asarray(vectors, dtype=np.float64), axis=1) / length
