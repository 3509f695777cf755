"""The direction along which a logistic classifier tells the classes apart best.

A difference in means points where the classes are far apart; a logistic direction also weighs how much the states vary there.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from workbench.errors import DataError
from workbench.geometry.cells import all_one_state
from workbench.geometry.components import row_space
from workbench.geometry.probes import PENALTY

_STEPS = 10_000


def logistic_direction(
    states: Float[np.ndarray, "prompt hidden"], positive: Bool[np.ndarray, " prompt"], *, penalty: float = PENALTY
) -> Float[np.ndarray, " hidden"]:
    """Return the unit weight vector of an L2-penalised logistic regression, run until it converges; zero for one constant state.

    The objective is scikit-learn's ``LogisticRegression(C=penalty)`` with an intercept, on states centred and divided by their
    root mean squared distance from the mean (as the probe of :mod:`workbench.geometry.probes`, so models compare). It is solved in
    the space the rows span, where the minimum lies. The positive class always projects higher.

    Raises
    ------
    DataError
        One class only, a penalty that is not positive, or no convergence.

    References
    ----------
    A choice of ours where the literature differs: Zou et al. 2023 (arXiv:2310.01405) and the ``steering-vectors`` package fit
    without intercept on midpoint-centred pairs.
    """
    from sklearn.linear_model import LogisticRegression

    positive = np.asarray(positive, dtype=bool)
    if positive.all() or not positive.any():
        raise DataError(f"All {len(positive)} prompts carry the same label. Expected both classes.")
    if not penalty > 0:
        raise DataError(f"penalty={penalty}: expected a positive number; larger means freer weights.")
    states = np.asarray(states, dtype=np.float64)
    if all_one_state(states):
        return np.zeros(states.shape[1])
    centred = states - states.mean(axis=0)
    scores = row_space(states)
    scale = float(np.sqrt((scores**2).sum(axis=1).mean()))
    model = LogisticRegression(C=penalty, solver="lbfgs", tol=1e-9, max_iter=_STEPS).fit(scores / scale, positive)
    if int(model.n_iter_[0]) >= _STEPS:
        raise DataError(f"The logistic regression did not converge in {_STEPS} steps at penalty={penalty}. Expected it to; pass a smaller penalty.")
    # the columns of the scores are orthogonal, which takes the weights back to the states: V w = X' U S^-1 w
    raw = centred.T @ (scores @ (model.coef_[0] / (scores**2).sum(axis=0)))
    length = float(np.linalg.norm(raw))
    return raw / length if length > 0 else raw
