"""The rows a gate is given, as an array or as GateData, checked the same way everywhere."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from workbench.errors import DataError
from workbench.gates.place import GateData, Place


class Rows(NamedTuple):
    """States with what is known about them."""

    X: Float[np.ndarray, "prompt hidden"]
    y: Bool[np.ndarray, " prompt"] | None
    language: np.ndarray | None
    place: Place | None


def as_rows(X: Any, y: Any = None, language: Any = None, *, name: str = "the gate", width: int | None = None) -> Rows:
    """Check states, labels and languages, and take from GateData what was not given.

    Parameters
    ----------
    language : str or sequence of str, optional
        One for all rows, or one each; a missing one counts as "unknown".
    width : int, optional
        How many features there must be.

    Raises
    ------
    DataError
        Not a table of finite numbers, another width, lengths that differ, labels that are not harmful / harmless.
    """
    place = None
    if isinstance(X, GateData):
        place, states = X.place, X.X
        y, language = X.y if y is None else y, X.language if language is None else language
    else:
        states = _table(X)
    if width is not None and states.shape[1] != width and (len(states) or states.shape[1]):
        # scikit-learn's words, which its users and tools know
        raise DataError(
            f"X has {states.shape[1]} features, but {name} is expecting {width} features as input. Read the states of the model and layer it was "
            "fitted on."
        )
    if not np.isfinite(states).all():
        row = int(np.flatnonzero(~np.isfinite(states).all(axis=1))[0])
        raise DataError(f"Input X contains NaN or infinity (first: row {row}). Expected finite states; capture again in float32, or leave rows out.")
    return Rows(states, None if y is None else _labels(y, len(states)), None if language is None else _languages(language, len(states)), place)


def labelled_rows(rows: Rows, what: str) -> Any:
    """Return rows that have labels of both classes.

    Raises
    ------
    DataError
        No labels, no rows, or one class only.
    """
    if rows.y is None:
        raise DataError(f"{what} requires y to be passed, but the target y is None. Expected one label per row (True = harmful), or GateData.")
    if not len(rows.X):
        raise DataError(f"Found array with 0 sample(s) while a minimum of 2 is required by {what}. Expected harmful and harmless states.")
    if rows.y.all() or not rows.y.any():
        raise DataError(f"All {len(rows.y)} rows carry the same label, one class only. Expected harmful and harmless states; add the other class.")
    return rows


def _table(X: Any) -> np.ndarray:
    if hasattr(X, "toarray"):
        raise DataError("Sparse data was passed for X. Expected a dense array (prompt, hidden); call X.toarray().")
    try:
        given = np.asarray(X)
        if np.iscomplexobj(given):
            raise DataError("Complex data not supported: expected real states (prompt, hidden).")
        states = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"X is no table of numbers ({error}). Expected states (prompt, hidden), such as GateData.X.") from error
    if states.ndim != 2:
        raise DataError(f"X has shape {states.shape}. Expected 2 axes (prompt, hidden). Reshape your data: X[None] for a single state.")
    if not states.shape[1]:
        raise DataError(f"0 feature(s) (shape={states.shape}) while a minimum of 1 is required. Expected states (prompt, hidden).")
    return states


def _labels(y: Any, n: int) -> np.ndarray:
    given = np.asarray(y)
    if given.shape != (n,):
        raise DataError(f"Got labels of shape {given.shape} for {n} rows, inconsistent numbers of samples. Expected one label per row.")
    if given.dtype != bool and not np.isin(given, [0, 1]).all():
        raise DataError(f"Unknown label type: {given.dtype}. Expected True or 1 for harmful, False or 0 for harmless.")
    return given.astype(bool)


def _languages(language: Any, n: int) -> np.ndarray:
    if isinstance(language, str):
        return np.full(n, language)
    given = ["unknown" if tag is None else str(tag) for tag in language]
    if len(given) != n:
        raise DataError(f"Got {len(given)} languages for {n} rows. Expected one language, or one for each row.")
    return np.array(given, dtype=str) if given else np.empty(0, dtype="<U1")
