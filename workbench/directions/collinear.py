"""Does a vector lie on the line of another, and is it the projection it is said to be?

Released steering vectors travel as bare arrays, and some belong to nothing that was released with them: AdaSteer's projected vectors
for one of its models lie on the right line, but have another size than their own source says, and at two layers the opposite sign. A
cosine alone does not see that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.errors import DataError
from workbench.results import Result

CONSISTENT = "consistent"


class Collinearity(NamedTuple):
    """How one vector lies to another: cosine (-1 to 1), share of its length off the line (0 to 1), and length as a multiple."""

    cosine: float
    off_line: float
    ratio: float
    collinear: bool


def collinear(vector: Float[np.ndarray, " hidden"], onto: Float[np.ndarray, " hidden"], *, tolerance: float = 1e-3) -> Collinearity:
    """Say whether a vector lies on the line of another, in either direction.

    Parameters
    ----------
    vector, onto : array (hidden,)
    tolerance : float
        Largest share of the vector's length off the line; 1e-3 is what float16 leaves.

    Returns
    -------
    Collinearity
        ``ratio``: vector = ratio x onto, best in least squares. NaN and False where either is zero.

    Raises
    ------
    DataError
        Vectors of different width, or not finite.

    Examples
    --------
    >>> found = collinear(np.array([-2.0, 0.0]), np.array([1.0, 0.0]))
    >>> found.cosine, found.off_line, found.ratio, found.collinear
    (-1.0, 0.0, -2.0, True)
    """
    vector, onto = np.asarray(vector, dtype=np.float64), np.asarray(onto, dtype=np.float64)
    if vector.shape != onto.shape or vector.ndim != 1:
        raise DataError(f"Got vectors of shape {vector.shape} and {onto.shape}. Expected two of the same width, from the same model and layer.")
    if not (np.isfinite(vector).all() and np.isfinite(onto).all()):
        raise DataError("A vector has entries that are not finite. Expected finite ones; load or extract it again.")
    length, other = float(np.linalg.norm(vector)), float(np.linalg.norm(onto))
    if not (length > 0 and other > 0):
        return Collinearity(float("nan"), float("nan"), float("nan"), False)
    along = float(vector @ (onto / other))
    off = float(np.linalg.norm(vector - along * onto / other)) / length
    return Collinearity(along / length, off, along / other, off <= tolerance)


@dataclass(frozen=True)
class ProjectionCheck(Result):
    """One row per layer: cosine, off_line, ratio (as found), expected_ratio (that of the true projection), error, verdict.

    ``error``: distance from the true projection, relative to its length. ``verdict``: "consistent", "not collinear", "sign flipped",
    "wrong length", or "undefined" where a vector is zero.
    """

    required: ClassVar[tuple[str, ...]] = ("layer", "cosine", "off_line", "ratio", "expected_ratio", "error", "verdict")

    @property
    def consistent(self) -> bool:
        """Whether every layer is the projection it is said to be."""
        return bool((self.table["verdict"] == CONSISTENT).all())

    def summary(self) -> pd.DataFrame:
        """Return the layers that are not consistent, all if there are none."""
        wrong = self.table[self.table["verdict"] != CONSISTENT]
        return wrong if len(wrong) else self.table


def projection_check(
    projected: Float[np.ndarray, "layer hidden"],
    source: Float[np.ndarray, "layer hidden"],
    onto: Float[np.ndarray, "layer hidden"],
    *,
    tolerance: float = 1e-3,
    length_tolerance: float = 1e-2,
    first_layer: int = 0,
) -> ProjectionCheck:
    """Check that vectors are the projections of their sources onto other vectors, layer by layer.

    Parameters
    ----------
    projected : array (layer, hidden)
        What is said to be r (r . source) / |r|^2, with r = ``onto``.
    tolerance : float
        For lying on the line, as in :func:`collinear`.
    length_tolerance : float
        For ``error``; rounding of two float16 vectors is amplified where the source is nearly orthogonal to ``onto``.
    first_layer : int
        Layer of the first row (1 for block outputs).

    Raises
    ------
    DataError
        Shapes that differ, or values that are not finite.

    References
    ----------
    AdaSteer, arXiv:2504.09466, steers along the harmfulness direction projected onto the rejection direction.
    """
    projected, source, onto = (np.asarray(v, dtype=np.float64) for v in (projected, source, onto))
    if not (projected.shape == source.shape == onto.shape and projected.ndim == 2):
        raise DataError(f"Got shapes {projected.shape}, {source.shape} and {onto.shape}. Expected the same (layer, hidden) three times.")
    rows = []
    for k, (vector, from_, line) in enumerate(zip(projected, source, onto, strict=True)):
        found, expected = collinear(vector, line, tolerance=tolerance), collinear(from_, line)
        error = abs(found.ratio - expected.ratio) / abs(expected.ratio) if expected.ratio else float("nan")
        error = float(np.hypot(error, found.off_line * abs(found.ratio / found.cosine / expected.ratio))) if np.isfinite(error) else error
        rows.append(
            {
                "layer": first_layer + k,
                "cosine": found.cosine,
                "off_line": found.off_line,
                "ratio": found.ratio,
                "expected_ratio": expected.ratio,
                "error": error,
                "verdict": _verdict(found, expected, error, length_tolerance),
            }
        )
    return ProjectionCheck(pd.DataFrame(rows), {"tolerance": tolerance, "length_tolerance": length_tolerance})


def _verdict(found: Collinearity, expected: Collinearity, error: float, length_tolerance: float) -> str:
    if not np.isfinite(error):
        return "undefined"
    if not found.collinear:
        return "not collinear"
    if found.ratio * expected.ratio < 0:
        return "sign flipped"
    return CONSISTENT if error <= length_tolerance else "wrong length"
