"""The smallest gate: the difference in means, for the tests of what all gates share."""

from __future__ import annotations

import numpy as np

from workbench.gates import Gate


class ToyGate(Gate):
    """Scores by the projection on the difference of the class means, in units of ``scale``."""

    learned = ("weights_", "note_")

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        self.weights_ = X[y].mean(axis=0) - X[~y].mean(axis=0)
        self.note_ = {"rows": len(X)}

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        return self.scale * (X @ self.weights_)
