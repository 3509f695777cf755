"""One direction out of several languages' differences, each language counting the same however many prompts it has."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from workbench.directions.means import difference_in_means
from workbench.errors import DataError


def language_differences(
    states: Float[np.ndarray, "prompt hidden"], positive: Bool[np.ndarray, " prompt"], language: np.ndarray, languages: list[str]
) -> Float[np.ndarray, "language hidden"]:
    """Return each language's difference in means, not normalised; zero where its classes do not differ.

    Raises
    ------
    DataError
        A language with one class only.
    """
    out = np.zeros((len(languages), states.shape[1]))
    for i, tag in enumerate(languages):
        here = language == tag
        unit, norm = difference_in_means(states[here], positive[here])
        out[i] = norm * unit
    return out


def first_component(differences: Float[np.ndarray, "language hidden"], aligned_to: int = 0) -> Float[np.ndarray, " hidden"]:
    """Return the first principal component of the stacked unit differences, about zero and not about their mean.

    The first right singular vector of the rows, each of length 1; zero rows count for nothing. About their mean, what the
    languages share would be taken out and what tells them apart left.

    Parameters
    ----------
    aligned_to : int
        The row whose language fixes the sign: its difference points the same way. Where that product is zero, the sum does.

    Raises
    ------
    DataError
        No such row, or values that are not finite.

    References
    ----------
    ``pc1_of_diffs`` of arXiv:2606.01196, read in the authors' code; there the sign follows English.

    Examples
    --------
    >>> (first_component(np.array([[0.0, -2.0], [0.0, -8.0]])) + 0).round(9).tolist()
    [0.0, -1.0]
    """
    rows = np.asarray(differences, dtype=np.float64)
    if not 0 <= aligned_to < len(rows):
        raise DataError(f"The sign is to follow row {aligned_to}, but there are {len(rows)} differences. Expected one of 0 to {len(rows) - 1}.")
    if not np.isfinite(rows).all():
        raise DataError(f"{int((~np.isfinite(rows)).any(axis=1).sum())} of {len(rows)} differences are not finite. Expected finite states.")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    if not units.any():
        return np.zeros(rows.shape[1])
    axis = np.linalg.svd(units, full_matrices=False)[2][0]
    agreement = float(units[aligned_to] @ axis) or float(units.sum(axis=0) @ axis)
    return axis if agreement >= 0 else -axis


def balanced_mean(differences: Float[np.ndarray, "language hidden"]) -> Float[np.ndarray, " hidden"]:
    """Return the unit vector of the mean difference, every language weighing the same.

    Pooling the rows instead takes over how languages are spread over the classes: where one language holds most refusals and
    another most acceptances, the pooled difference is in part the difference of the two languages.
    """
    mean = np.asarray(differences, dtype=np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    return mean / length if length > 0 else mean
