"""The recalibrated gate: a logistic readout of a few directions that high-resource languages share, with a threshold per language.

D = unit differences in means of the source languages         (language x hidden)
B = first r right singular vectors of D, not centred          (hidden x r)
f = B' h, standardised with mean and standard deviation of the training rows
logit = w . f + b, and the gate fires where logit >= threshold of the row's language
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float

from workbench.directions.components import language_differences
from workbench.errors import DataError, did_you_mean
from workbench.gates import solvers
from workbench.gates.inputs import Rows
from workbench.gates.policy import Context, Scores, ThresholdPolicy
from workbench.gates.protocol import UNKNOWN, Gate
from workbench.gates.rowwise import row_dots
from workbench.gates.thresholds import BalancedF1

SOLVERS = ("converged", "paper")


class RecalibratedGate(Gate):
    """Logistic readout of the span of per-language harm directions (arXiv:2606.01196).

    Parameters
    ----------
    rank : int, optional
        Directions kept; default all that the source languages span.
    solver : {"converged", "paper"}
        To the minimum, or 80 AdamW steps from a random start as the authors do; ``compare_solvers`` says what that changes.
    l2 : float
        Penalty of the converged solver (:func:`workbench.gates.solvers.converged`).
    random_state : int
        Seed of the paper solver's start; the converged one uses none.

    Attributes
    ----------
    basis_ : array (hidden, r)
        Orthonormal; column signs as the sum of the directions.
    singular_values_ : array (language,)
        Of the stacked unit directions; equal directions give one of root n and zeros.
    mean_, scale_, coef_ : array (r,), intercept_ : float
    refits_ : dict of language to dict
        Readouts that were fitted with a language's examples among the rows (``recalibrate(..., refit=True)``).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(80) < 40
    >>> X = rng.normal(size=(80, 8)) + np.outer(y, np.full(8, 2.0))
    >>> gate = RecalibratedGate().fit(X, y, language=["en", "de"] * 40)
    >>> gate.basis_.shape, bool((gate.predict(X, language="en") == y).mean() > 0.9)
    ((8, 2), True)
    """

    learned: ClassVar[tuple[str, ...]] = (
        "basis_", "singular_values_", "mean_", "scale_", "coef_", "intercept_", "refits_",
        "training_features_", "training_labels_", "training_source_",
    )  # fmt: skip

    def __init__(self, *, rank: int | None = None, solver: str = "converged", l2: float = solvers.L2, random_state: int = 0) -> None:
        self.rank = rank
        self.solver = solver
        self.l2 = l2
        self.random_state = random_state

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        if self.solver not in SOLVERS:
            raise DataError(f"Unknown solver {self.solver!r}; expected one of {list(SOLVERS)}.{did_you_mean(str(self.solver), SOLVERS)}")
        tags = [str(tag) for tag in dict.fromkeys(language)]
        for tag in tags:
            n, harmful = int((language == tag).sum()), int(y[language == tag].sum())
            if not 0 < harmful < n:
                raise DataError(
                    f"Source language {tag!r} has {harmful} harmful and {n - harmful} harmless rows, one class only. Expected both; leave it out."
                )
        self.basis_, self.singular_values_ = shared_basis(language_differences(X, y, language, tags), self.rank)
        self.training_features_ = self.features(X)
        self.training_labels_ = y
        self.training_source_ = np.array([tags.index(str(tag)) for tag in language], dtype=np.int32)
        self.mean_, self.scale_, self.coef_, self.intercept_ = self._readout(self.training_features_, y)
        self.refits_: dict[str, dict[str, Any]] = {}

    def _readout(self, features: np.ndarray, harmful: np.ndarray) -> solvers.Readout:
        mean, scale = solvers.standardiser(features)
        z = (features - mean) / scale
        if self.solver == "paper":
            weights, intercept = solvers.paper(z, harmful, np.random.default_rng(self.random_state))
        else:
            weights, intercept = solvers.converged(z, harmful, l2=self.l2)
        return solvers.Readout(mean, scale, weights, intercept)

    def features(self, X: Float[np.ndarray, "prompt hidden"]) -> Float[np.ndarray, "prompt rank"]:
        """Return B' h of each row, before standardising; the company a row is in does not change its last bit."""
        return np.stack([row_dots(X, axis) for axis in self.basis_.T], axis=1)

    def readout(self, language: str = UNKNOWN) -> solvers.Readout:
        """Return the linear score of one language: its own where it was refitted, else that of the sources."""
        own = self.refits_.get(language)
        if own is None:
            return solvers.Readout(self.mean_, self.scale_, self.coef_, self.intercept_)
        mean, scale, weights = (np.asarray(own[name]) for name in ("mean", "scale", "weights"))
        return solvers.Readout(mean, scale, weights, float(own["intercept"]))

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        features = self.features(X)
        out = self.readout().logits(features)
        for tag in self.refits_:
            here = language == tag
            out[here] = self.readout(tag).logits(features[here])
        return out

    def recalibrate(self, X: Any, y: Any = None, *, language: str | None = None, policy: ThresholdPolicy | None = None, refit: bool = False) -> Self:
        """Return a copy with a new threshold for one language; this gate stays as it was.

        Parameters
        ----------
        X, y, language, policy
            As for every gate: k harmful and k harmless examples, by default the paper's rule.
        refit : bool
            Also fit the readout anew with the examples among the training rows, unweighted, as the paper does. This language alone gets
            that readout. By default the weights stay, and only the threshold moves: with k examples among hundreds of rows the
            weights hardly change, and every language's scores stay comparable.
        """
        if not refit:
            return super().recalibrate(X, y, language=language, policy=policy)
        rule: ThresholdPolicy = BalancedF1() if policy is None else policy
        tag, rows = self._examples(X, y, language, rule)
        if rows.y is None:
            raise DataError("refit=True adds the examples to the training rows and needs their labels. Expected y, or refit=False.")
        return self._refitted(tag, rows)._recalibrated(tag, rows, rule)

    def _refitted(self, tag: str, rows: Rows) -> Self:
        found = copy.deepcopy(self)
        features = np.concatenate([self.training_features_, self.features(rows.X)])
        own = self._readout(features, np.concatenate([self.training_labels_, np.asarray(rows.y)]))
        found.refits_[tag] = {"mean": own.mean.tolist(), "scale": own.scale.tolist(), "weights": own.weights.tolist(), "intercept": own.intercept}
        return found

    def context(self, language: str = UNKNOWN, unlabelled: np.ndarray | None = None) -> Context:
        """Return what a policy may learn from; for a refitted language the sources are scored by its own readout."""
        found = super().context(language, unlabelled)
        if language not in self.refits_:
            return found
        logits, y = self.readout(language).logits(self.training_features_), self.training_labels_
        rows = {tag: self.training_source_ == i for i, tag in enumerate(self.source_scores_)}
        sources = {tag: Scores(logits[here & y], logits[here & ~y]) for tag, here in rows.items()}
        return Context(sources, {}, unlabelled, language)  # other languages were scored by another readout


def shared_basis(
    differences: Float[np.ndarray, "language hidden"], rank: int | None = None
) -> tuple[Float[np.ndarray, "hidden rank"], Float[np.ndarray, " language"]]:
    """Return an orthonormal basis of what the languages' differences span, strongest shared axis first, and the singular values.

    The rows are brought to length 1 and not centred: about their mean, what the languages share would be taken out.

    Raises
    ------
    DataError
        No difference between the classes, or more directions asked for than the languages span.

    References
    ----------
    arXiv:2606.01196 (card: rank 10 of ten source languages).
    """
    lengths = np.linalg.norm(differences, axis=1, keepdims=True)
    units = np.divide(differences, lengths, out=np.zeros_like(differences), where=lengths > 0)
    if not units.any():
        raise DataError("Harmful and harmless states do not differ in any source language. Expected a layer and position where they do.")
    _, values, axes = np.linalg.svd(units, full_matrices=False)
    span = int((values > 1e-9 * values[0]).sum())
    if rank is not None and not 1 <= rank <= span:
        raise DataError(f"rank={rank}: expected 1 to {span}, what the {len(units)} source languages span; add source languages for more.")
    basis = axes[: rank or span].T
    agreement = units.sum(axis=0) @ basis
    return np.ascontiguousarray(basis * np.where(agreement < 0, -1.0, 1.0)), values
