"""AdaSteer: no decision, but a strength that follows where a prompt lies between two groups.

One :class:`AdaSteer` is one law at one probe layer: a position (0 at one group's mean, 100 at the other's) and a clamped ramp. The released method
has two, one between harmful prompts complied with and refused, one between harmful and benign prompts;
:func:`~workbench.gates.row_strengths.row_strengths` turns the strengths of either into the ``rows`` of an ``Add``.

References
----------
Zhao et al. 2025, AdaSteer, arXiv:2504.09466 (law and constants from the released code).
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float
from sklearn.utils.validation import check_is_fitted

from workbench.errors import DataError, did_you_mean
from workbench.gates.adasteer_law import FittedRamp, Ramp, fit_ramp, position, released_law
from workbench.gates.inputs import Rows
from workbench.gates.policy import ThresholdPolicy
from workbench.gates.protocol import UNKNOWN, Gate, as_policy
from workbench.gates.thresholds import BalancedF1

#: Name of the anchors -> the group at 0 and the group at 100.
ANCHORS = {
    "rejection": ("harmful prompts complied with", "harmful prompts refused"),
    "harmfulness": ("harmful prompts complied with", "benign prompts complied with"),
    "classes": ("harmful prompts", "harmless prompts"),
}
ADAPTATIONS = ("shift", "anchors", "none")
#: *Ours*: the full push at 0, none at 100, nothing beyond.
DEFAULT_RAMP = Ramp(-0.01, -100.0, 0.0, 0.0, 1.0)


class AdaSteer(Gate):
    """Says how hard to push each prompt, by its position between two anchors.

    Parameters
    ----------
    anchors : {"classes", "rejection", "harmfulness"}
        See :data:`ANCHORS`. Only "classes" does without knowing what the model did, and is what the adapted port of the low-resource
        comparison uses.
    law : str, optional
        A model of :data:`~workbench.gates.adasteer_law.RELEASED`, whose constants are used as they are (for "classes", as in the port, the
        sum of both ramps). They multiply that model's raw released vectors, which point towards complying. None: 1 at the first anchor
        falling to 0 at the second (*ours*), in whatever unit the push has, or a ramp of :meth:`refit`; both for vectors towards refusal.
    adapt : {"shift", "anchors", "none"}
        What examples of a language change: "shift" moves both anchors along their line until the examples' two class means lie
        around 50 (*ours*), "anchors" replaces them by the examples' class means (the adapted port), "none" leaves them.

    Attributes
    ----------
    zero_, hundred_ : array (language, hidden)
        Anchors; row 0 is what was fitted, the others belong to ``adapted_[i - 1]``.
    ramp_ : array (5,)
        slope, offset, bias, low, high.

    Notes
    -----
    ``decision_function`` is the position, turned so that more harmful is larger: x itself for "rejection" (100: would be refused), 100 - x for the
    others. The published method sets no threshold; ``predict`` does with the one that every gate has, for comparison.
    """

    learned = ("zero_", "hundred_", "adapted_", "ramp_")

    def __init__(self, *, anchors: str = "classes", law: str | None = None, adapt: str = "shift"):
        self.anchors = anchors
        self.law = law
        self.adapt = adapt

    def fit(self, X: Any, y: Any = None, language: Any = None, *, refused: Any = None) -> Self:
        """Learn the anchors.

        Parameters
        ----------
        X, y, language
            As in :meth:`Gate.fit`.
        refused : bool array (prompt,), optional
            Whether the unedited model refused each prompt; needed for all anchors but "classes".

        Raises
        ------
        DataError
            As :meth:`Gate.fit`; unknown options; an anchor without prompts (a well-aligned model complies with hardly any harmful one).
        """
        for name, given, known in (("anchors", self.anchors, tuple(ANCHORS)), ("adapt", self.adapt, ADAPTATIONS)):
            if given not in known:
                raise DataError(f"{name}={given!r}: expected one of {list(known)}.{did_you_mean(str(given), known)}")
        self._refused = None if refused is None else np.asarray(refused, dtype=bool)
        try:
            super().fit(X, y, language)
        finally:
            del self._refused
        return self

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        law = None if self.law is None else released_law(self.law)
        ends = []
        for told, rows in zip(ANCHORS[self.anchors], self._groups(y), strict=True):
            if not rows.any():
                raise DataError(
                    f"No prompt for the anchor '{told}' of anchors={self.anchors!r}. Expected some: add prompts or languages where the model does "
                    "so, or pass anchors='classes', which needs no replies."
                )
            ends.append(X[rows].mean(axis=0, keepdims=True))
        self.zero_, self.hundred_ = ends
        self.adapted_: list[str] = []
        self._set_ramp(DEFAULT_RAMP if law is None or self.anchors == "classes" else getattr(law, self.anchors))
        position(X[:1], self.zero_[0], self.hundred_[0])  # refuses anchors that are the same

    def _groups(self, y: np.ndarray) -> tuple[Bool[np.ndarray, " prompt"], Bool[np.ndarray, " prompt"]]:
        if self.anchors == "classes":
            return y, ~y
        if self._refused is None or self._refused.shape != y.shape:
            raise DataError(
                f"anchors={self.anchors!r} needs to know what the unedited model did with each of the {len(y)} prompts. Expected refused=[True, "
                "False, ...], one per prompt, or anchors='classes'."
            )
        complied = ~self._refused
        return y & complied, (y & self._refused if self.anchors == "rejection" else ~y & complied)

    @property
    def ramp(self) -> Ramp:
        """The law in force, unless ``law`` with anchors "classes" sums two."""
        return Ramp(*(float(v) for v in self.ramp_))

    def _set_ramp(self, ramp: Ramp) -> None:
        self.ramp_ = np.array([ramp.slope, ramp.offset, ramp.bias, ramp.low, ramp.high])

    def positions(self, X: Any, language: Any = None) -> Float[np.ndarray, " prompt"]:
        """Return x of each row: 0 at the first anchor, 100 at the second."""
        rows = self._rows(X, language)
        return self._positions(rows.X, _tags(rows))

    def _positions(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        out = np.empty(len(X))
        which = np.array([self.adapted_.index(tag) + 1 if tag in self.adapted_ else 0 for tag in language], dtype=int)
        for k in np.unique(which):
            out[which == k] = position(X[which == k], self.zero_[k], self.hundred_[k])
        return out

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        x = self._positions(X, language)
        return x if self.anchors == "rejection" else 100.0 - x

    def strengths(self, X: Any, language: Any = None) -> Float[np.ndarray, " prompt"]:
        """Return the strength of each row: the ramp at its position; by states of the **unedited** model, each row by itself.

        Raises
        ------
        DataError
            A language that was neither fitted nor recalibrated; "unknown" or None takes the fitted anchors on purpose.
        """
        rows = self._rows(X, language)
        self.threshold_of(_tags(rows))  # refuses a language that was never seen, as predict does
        return self.strength_at(self._positions(rows.X, _tags(rows)))

    def strength_at(self, x: Float[np.ndarray, " prompt"]) -> Float[np.ndarray, " prompt"]:
        """Return the strength at positions x."""
        check_is_fitted(self)
        if self.law is None or self.anchors != "classes":
            return self.ramp(x)
        law = released_law(self.law)
        return law.rejection(x) + law.harmfulness(x)

    def refit(self, X: Any, smallest: Float[np.ndarray, " prompt"], language: Any = None, **clamps: float) -> tuple[Self, FittedRamp]:
        """Return a copy whose ramp is fitted to what sufficed on the user's data, and what the fit rests on.

        Parameters
        ----------
        X : array (prompt, hidden) or GateData
            States of the prompts that were pushed.
        smallest : array (prompt,)
            From :func:`~workbench.gates.adasteer_law.smallest_sufficient`, in units of ``Add(scale="norm")`` so that the law knows no length.
        low, high : float, optional
            Clamps, as in :func:`~workbench.gates.adasteer_law.fit_ramp`, whose procedure is **inferred**.

        Raises
        ------
        DataError
            A gate with released constants, or what :func:`fit_ramp` refuses.
        """
        if self.law is not None:
            raise DataError(f"law={self.law!r} stands for released constants, which a refit would replace. Expected AdaSteer(law=None).")
        fitted = fit_ramp(self.positions(X, language), smallest, **clamps)
        found = copy.deepcopy(self)
        found._set_ramp(fitted.ramp)
        return found, fitted

    def recalibrate(self, X: Any, y: Any = None, *, language: str | None = None, policy: ThresholdPolicy | None = None) -> Self:
        """Return a copy adapted to one language by its examples (``adapt``), and with that language's threshold. See :meth:`Gate.recalibrate`.

        A policy without labels sets the threshold only; so do no examples at all.
        """
        check_is_fitted(self)
        rule: ThresholdPolicy = BalancedF1() if policy is None else as_policy(policy)
        tag, rows = self._examples(X, y, language, rule)
        found = copy.deepcopy(self)
        if self.adapt != "none" and rule.needs_labels and rows.y is not None and rows.y.any() and not rows.y.all():
            found._adapt(tag, rows.X[rows.y].mean(axis=0), rows.X[~rows.y].mean(axis=0))
        return found._recalibrated(tag, rows, rule)

    def _adapt(self, tag: str, harmful: np.ndarray, harmless: np.ndarray) -> None:
        zero, hundred = harmful, harmless
        if self.adapt == "shift":
            middle = float(position(((harmful + harmless) / 2)[None], self.zero_[0], self.hundred_[0])[0])
            moved = (middle - 50.0) / 100.0 * (self.hundred_[0] - self.zero_[0])
            zero, hundred = self.zero_[0] + moved, self.hundred_[0] + moved
        elif self.anchors != "classes":
            raise DataError(
                f"adapt='anchors' knows only harmful and harmless examples; anchors={self.anchors!r} need replies. Expected adapt='shift'."
            )
        position(harmful[None], zero, hundred)
        keep = [0, *(i + 1 for i, known in enumerate(self.adapted_) if known != tag)]
        self.adapted_ = [*(known for known in self.adapted_ if known != tag), tag]
        self.zero_ = np.concatenate([self.zero_[keep], zero[None]])
        self.hundred_ = np.concatenate([self.hundred_[keep], hundred[None]])


def _tags(rows: Rows) -> np.ndarray:
    return np.full(len(rows.X), UNKNOWN) if rows.language is None else rows.language
