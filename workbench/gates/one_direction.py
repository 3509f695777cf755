"""The plainest gate: how far a state lies along one direction, with a threshold by any policy."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from workbench.directions.direction import Direction
from workbench.directions.means import difference_in_means
from workbench.errors import DataError, did_you_mean
from workbench.gates.inputs import as_rows
from workbench.gates.place import Place
from workbench.gates.policy import Context, ThresholdPolicy
from workbench.gates.protocol import Gate
from workbench.gates.rowwise import row_dots

METHODS = ("difference_in_means", "balanced_means")


class DirectionGate(Gate):
    """Fires where the projection on one direction is at or above a threshold.

    Parameters
    ----------
    method : {"difference_in_means", "balanced_means"}
        All source rows pooled, or the mean over source languages of their own differences (*ours*). Not used where ``fit`` is given
        a direction.

    Attributes
    ----------
    unit_ : array (hidden,)
        Unit length, positive towards harm.

    Notes
    -----
    Scores are in units of the residual stream. Out of distribution this gate with a threshold from one example per class did better than a ten-
    dimensional one on two of three models of arXiv:2606.01196.
    """

    learned = ("unit_",)

    def __init__(self, *, method: str = "difference_in_means"):
        self.method = method

    def fit(self, X: Any, y: Any = None, language: Any = None, *, direction: Direction | np.ndarray | None = None, policy: Any = None) -> Self:
        """Learn the direction (or take one that is there), and the threshold of the source languages.

        Parameters
        ----------
        X, y, language
            As in :meth:`Gate.fit`.
        direction : Direction or array (hidden,), optional
            Used as it is, sign included.
        policy : ThresholdPolicy, optional
            Sets the fallback on the source scores; default best class-balanced F1.

        Raises
        ------
        DataError
            As :meth:`Gate.fit`; an unknown method; a direction of another width or place, or a zero one.
        """
        self._given = None if direction is None else _vector(direction)
        place = as_rows(X, y, language).place
        if isinstance(direction, Direction) and place is not None:
            known = {name: direction.metadata.get(name) for name in ("fingerprint", "template", "system")}
            Place(direction.layer, direction.position, **known).require_same(place)
        try:
            super().fit(X, y, language)
        finally:
            del self._given
        if policy is not None:
            self._set_fallback(policy)
        return self

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        if self.method not in METHODS:
            raise DataError(f"method={self.method!r}: expected one of {list(METHODS)}.{did_you_mean(str(self.method), METHODS)}")
        if self._given is not None:
            raw = self._given
            if raw.shape != X.shape[1:]:
                raise DataError(f"The direction has {len(raw)} entries and the states {X.shape[1]}. Expected the same model and layer.")
        elif self.method == "difference_in_means":
            raw = difference_in_means(X, y)[0]
        else:
            parts = [difference_in_means(X[language == tag], y[language == tag]) for tag in dict.fromkeys(language)]
            raw = np.mean([unit * norm for unit, norm in parts], axis=0)
        length = float(np.linalg.norm(raw))
        if not length > 0:
            raise DataError("The direction is zero: harmful and harmless states do not differ here. Expected a layer or position where they do.")
        self.unit_ = raw / length

    def _set_fallback(self, policy: ThresholdPolicy) -> None:
        context = Context(self.source_scores_, language="the source languages")
        pooled = context.pooled
        choice = policy.choose(pooled.harmful, pooled.harmless, context)
        if choice.abstains:
            raise DataError(f"{policy.name} sets no threshold for the source languages: {choice.reason} Expected more examples, or another policy.")
        self.fallback_ = float(choice.threshold)
        self.thresholds_ = dict.fromkeys(self.thresholds_, self.fallback_)

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        return row_dots(X, self.unit_)


def _vector(direction: Direction | np.ndarray) -> np.ndarray:
    vector = np.asarray(direction.unit if isinstance(direction, Direction) else direction, dtype=np.float64)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise DataError(f"A direction must be one finite vector (hidden,); got shape {vector.shape}. Take one, or extract it again.")
    return vector
