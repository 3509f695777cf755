"""What every gate is: a scikit-learn classifier of states, with one threshold per language and a stated one for the rest.

A subclass says how it learns (``_learn``) and how it scores (``_score``), and names what it has learnt (``learned``). Checks of the input,
thresholds, recalibration and files are the same for all.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from workbench.errors import DataError, did_you_mean
from workbench.gates.inputs import Rows, as_rows, labelled_rows
from workbench.gates.place import GateData, Place
from workbench.gates.policy import Context, GateWarning, Scores, ThresholdChoice, ThresholdPolicy
from workbench.gates.thresholds import POLICIES, BalancedF1, policy_named

#: Passed on purpose as a language: decide by the fallback threshold.
UNKNOWN = "unknown"


class Recalibration(NamedTuple):
    """How one language's threshold was set: the policy's name and its answer."""

    policy: str
    threshold: float
    guarantee: str
    abstains: bool
    reason: str
    caution: str


class Gate(ClassifierMixin, BaseEstimator):
    """Decides harmful or harmless from a state, with a threshold per language.

    Attributes
    ----------
    n_features_in_ : int
    classes_ : bool array, (False, True)
    place_ : Place or None
        Where the states came from; None when fitted on a plain array.
    fallback_ : float
        Threshold of a language that was never seen: best class-balanced F1 on the source languages' training scores (k = 0).
    thresholds_ : dict of language to float
        The fallback for the source languages, what ``recalibrate`` set for others.
    labels_used_ : dict of language to int
        Labelled examples that ``recalibrate`` used, both classes together; 0 where only unlabelled ones were.
    recalibrations_ : dict of language to Recalibration
    source_scores_ : dict of language to Scores
        Training scores, which some policies learn from.
    examples_ : dict of language to Scores
        Scores of the examples used so far.
    """

    #: Names of the fitted attributes a subclass adds (arrays, numbers, texts, lists and dicts of them); exactly these are saved.
    learned: ClassVar[tuple[str, ...]] = ()

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        """Set the attributes named in ``learned``."""
        raise NotImplementedError

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        """Return one score per row, larger = more harmful; most gates ignore the language."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: Any, y: Any = None, language: Any = None) -> Self:
        """Learn from the source languages' labelled states.

        Parameters
        ----------
        X : array (prompt, hidden) or GateData
            With GateData, place, labels and languages are taken from it.
        y : bool array (prompt,)
            True where harmful.
        language : str or sequence of str, optional
            Source languages. None: one unnamed source.

        Raises
        ------
        DataError
            One class only, states that are not finite, lengths that differ.
        """
        rows = labelled_rows(as_rows(X, y, language), "fit")
        self.n_features_in_, self.classes_, self.place_ = rows.X.shape[1], np.array([False, True]), rows.place
        tags = np.full(len(rows.y), UNKNOWN) if rows.language is None else rows.language
        self._learn(rows.X, rows.y, tags)
        scores = np.asarray(self._score(rows.X, tags), dtype=np.float64)
        self.source_scores_ = {str(tag): Scores(scores[(tags == tag) & rows.y], scores[(tags == tag) & ~rows.y]) for tag in dict.fromkeys(tags)}
        self.fallback_ = BalancedF1().choose(np.empty(0), np.empty(0), Context(self.source_scores_)).threshold
        self.thresholds_ = {tag: self.fallback_ for tag in self.source_scores_ if tag != UNKNOWN}
        self.labels_used_: dict[str, int] = {}
        self.recalibrations_: dict[str, Recalibration] = {}
        self.examples_: dict[str, Scores] = {}
        return self

    def decision_function(self, X: Any, language: Any = None) -> Float[np.ndarray, " prompt"]:
        """Return the raw score of each row; larger is more harmful. No threshold is subtracted: ``predict`` compares with it.

        Raises
        ------
        NotFittedError
        DataError
            Another width or place than the gate was fitted on, or states that are not finite.
        """
        rows = self._rows(X, language)
        tags = np.full(len(rows.X), UNKNOWN) if rows.language is None else rows.language
        return np.asarray(self._score(rows.X, tags), dtype=np.float64)

    def predict(self, X: Any, language: Any = None) -> Bool[np.ndarray, " prompt"]:
        """Say for each row whether the gate fires: score at or above the threshold of the row's language.

        Parameters
        ----------
        language : str or sequence of str, optional
            None or "unknown" decides by the fallback threshold, on purpose. A language without a threshold is an error.
        """
        rows = self._rows(X, language)
        tags = np.full(len(rows.X), UNKNOWN) if rows.language is None else rows.language
        return np.asarray(self._score(rows.X, tags), dtype=np.float64) >= self.threshold_of(tags)

    def threshold_of(self, language: Any) -> Float[np.ndarray, " prompt"]:
        """Return the threshold of each language given; the fallback for None and "unknown".

        Raises
        ------
        DataError
            A language that has no threshold.
        """
        check_is_fitted(self)
        given = [language] if language is None or isinstance(language, str) else list(language)
        out = np.empty(len(given))
        for i, tag in enumerate(given):
            if tag is not None and tag != UNKNOWN and str(tag) not in self.thresholds_:
                known = list(self.thresholds_)
                raise DataError(
                    f"The gate has no threshold for language {str(tag)!r}; it has {known}.{did_you_mean(str(tag), known)} Recalibrate it with "
                    f"examples of that language, or pass language='unknown' to use the source languages' threshold ({self.fallback_:.4g})."
                )
            out[i] = self.fallback_ if tag is None or tag == UNKNOWN else self.thresholds_[str(tag)]
        return out

    def recalibrate(self, X: Any, y: Any = None, *, language: str | None = None, policy: Any = None) -> Self:
        """Return a copy with a new threshold for one language; this gate stays as it was.

        Parameters
        ----------
        X : array (prompt, hidden) or GateData
            k harmful and k harmless examples; no rows for k = 0; unlabelled states for a policy that needs no labels (labels that come
            with GateData are not looked at then).
        y : bool array (prompt,)
        language : str, optional
            Which language; taken from GateData where that has one.
        policy : ThresholdPolicy or str, optional
            Default BalancedF1(), the paper's. A name of :data:`~workbench.gates.thresholds.POLICIES` stands for its default settings.

        Warns
        -----
        GateWarning
            The policy abstains (the threshold in force is kept), or says that its threshold is doubtful.

        Raises
        ------
        DataError
            One class only, no or several languages, another language than that of the GateData, another place, something that is no policy, or
            what the policy refuses.
        """
        check_is_fitted(self)
        rule: ThresholdPolicy = BalancedF1() if policy is None else as_policy(policy)
        tag, rows = self._examples(X, y, language, rule)
        return self._recalibrated(tag, rows, rule)

    def _recalibrated(self, tag: str, rows: Rows, rule: ThresholdPolicy) -> Self:
        rule = as_policy(rule)
        found = copy.deepcopy(self)
        scores = np.asarray(found._score(rows.X, np.full(len(rows.X), tag)), dtype=np.float64)
        labelled = rule.needs_labels and rows.y is not None
        y = rows.y if labelled and rows.y is not None else np.zeros(len(scores), dtype=bool)
        examples = Scores(scores[y], scores[~y]) if labelled else Scores(np.empty(0), np.empty(0))
        choice = rule.choose(examples.harmful, examples.harmless, found.context(tag, None if labelled else scores))
        found._record(tag, rule, choice, examples)
        return found

    def context(self, language: str = UNKNOWN, unlabelled: np.ndarray | None = None) -> Context:
        """Return what a policy may learn from beside a language's own examples."""
        check_is_fitted(self)
        others = {tag: scores for tag, scores in self.examples_.items() if tag != language}
        return Context(dict(self.source_scores_), others, unlabelled, language)

    def _record(self, tag: str, rule: ThresholdPolicy, choice: ThresholdChoice, examples: Scores) -> None:
        in_force = self.thresholds_.get(tag, self.fallback_)
        if choice.abstains:
            kept = f"The threshold in force, {in_force:.4g}, is kept."
            warnings.warn(f"{rule.name} abstains for {tag!r}: {choice.reason} {kept}", GateWarning, stacklevel=4)
        elif choice.caution:
            warnings.warn(choice.caution, GateWarning, stacklevel=4)
        value = in_force if choice.abstains else float(choice.threshold)
        self.thresholds_[tag] = value
        self.recalibrations_[tag] = Recalibration(rule.name, value, choice.guarantee, choice.abstains, choice.reason, choice.caution)
        self.examples_[tag], self.labels_used_[tag] = examples, sum(len(part) for part in examples)

    def _rows(self, X: Any, language: Any) -> Rows:
        check_is_fitted(self)
        given = as_rows(X, None, language, name=type(self).__name__, width=self.n_features_in_)
        if given.place is not None and self.place_ is not None:
            self.place_.require_same(given.place)
        return given

    def _examples(self, X: Any, y: Any, language: str | None, rule: ThresholdPolicy) -> tuple[str, Rows]:
        rule = as_policy(rule)
        rows = self._rows(X, None)._replace(y=as_rows(X, y, None).y)
        tags = [language] if language is not None else X.languages if isinstance(X, GateData) else []
        if len(tags) != 1 or not isinstance(tags[0], str) or tags[0] == UNKNOWN or not tags[0].strip():
            raise DataError(f"recalibrate sets the threshold of one language, and got {tags or 'none'}. Expected one; pass language='sw'.")
        if isinstance(X, GateData) and len(X) and X.languages != tags:
            raise DataError(
                f"recalibrate was asked for language={tags[0]!r}, and the examples are of {X.languages}. Expected examples of {tags[0]!r} alone; "
                f"take them with data.select(languages={tags[0]!r}), or pass the states and labels as arrays."
            )
        if rule.needs_labels and rows.y is None and len(rows.X):
            raise DataError(
                f"The policy {rule.name} needs the labels of the {len(rows.X)} examples. Expected y (True = harmful), or a policy without labels: "
                "MomentMatching()."
            )
        return tags[0], rows


def as_policy(given: Any) -> ThresholdPolicy:
    """Return a policy as it is, or the one of that name.

    Raises
    ------
    DataError
        An unknown name, a class where one of its policies is expected, or something else.
    """
    if isinstance(given, str):
        return policy_named(given)
    if isinstance(given, ThresholdPolicy) and not isinstance(given, type):
        return given
    classes = [kind.__name__ for kind in POLICIES.values()]
    name = given.__name__ if isinstance(given, type) else type(given).__name__
    example = f"{name}()" if isinstance(given, type) and isinstance(given, ThresholdPolicy) else "Shrinkage()"
    raise DataError(
        f"The policy is {'the class' if isinstance(given, type) else 'of type'} {name}. Expected a policy, such as {example}, or one of the names "
        f"{list(POLICIES)}.{did_you_mean(name, classes) if name not in classes else ''}"
    )


__all__ = ["UNKNOWN", "Gate", "GateWarning", "Place", "Recalibration", "as_policy"]
