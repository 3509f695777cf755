"""What a rule for setting a threshold is given, and what it must answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from workbench.errors import DataError


class GateWarning(UserWarning):
    """A threshold was set, but something about it should be known before it is used."""


class Scores(NamedTuple):
    """A gate's scores of one language, by label; larger is more harmful."""

    harmful: Float[np.ndarray, " prompt"]
    harmless: Float[np.ndarray, " prompt"]


class ThresholdChoice(NamedTuple):
    """A threshold and what may be expected of it.

    Parameters
    ----------
    threshold : float
        In units of the score; the gate fires at or above it. NaN when the policy abstains.
    guarantee : str
        What is promised, for whom and when; ``"none"`` where nothing is.
    abstains : bool
        The policy cannot keep its promise with what it was given, and sets no threshold.
    reason : str
        How the threshold came about, or why there is none and what would help.
    caution : str
        What makes this threshold doubtful; ``""`` where nothing does. ``recalibrate`` turns it into a warning.
    """

    threshold: float
    guarantee: str
    abstains: bool = False
    reason: str = ""
    caution: str = ""


@dataclass(frozen=True)
class Context:
    """What is known besides the language's own examples.

    Parameters
    ----------
    sources : mapping of language to Scores
        Scores of the languages the gate was fitted on, on its training rows.
    others : mapping of language to Scores
        Examples that other languages were recalibrated with before.
    scores_unlabelled : array (prompt,) or None
        Scores of the language's prompts whose labels nobody knows.
    language : str
        For messages.
    """

    sources: Mapping[str, Scores] = field(default_factory=dict)
    others: Mapping[str, Scores] = field(default_factory=dict)
    scores_unlabelled: Float[np.ndarray, " prompt"] | None = None
    language: str = "this language"

    @property
    def pooled(self) -> Scores:
        """The source languages' scores together."""
        parts = list(self.sources.values())
        return Scores(*(np.concatenate([np.empty(0), *(getattr(p, name) for p in parts)]) for name in Scores._fields))

    def required_sources(self, what: str) -> Scores:
        """Return the pooled source scores, or refuse when either class is missing.

        Raises
        ------
        DataError
            ``what`` needs source scores of both classes.
        """
        pooled = self.pooled
        if not len(pooled.harmful) or not len(pooled.harmless):
            raise DataError(
                f"{what} needs the source languages' scores, and got {len(pooled.harmful)} harmful and {len(pooled.harmless)} harmless ones. "
                "Expected both; call it through a fitted gate, or pass Context(sources={language: Scores(...)})."
            )
        return pooled


@runtime_checkable
class ThresholdPolicy(Protocol):
    """A rule that sets one language's threshold. Implementations are frozen dataclasses.

    Attributes
    ----------
    name : str
        Short name for tables.
    needs_labels : bool
        False where the rule looks at unlabelled scores only.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool]

    def choose(self, scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context) -> ThresholdChoice:
        """Set the threshold from the scores of k harmful and k harmless examples (either may be empty) and the context."""
        ...


def checked(values: np.ndarray, what: str) -> Float[np.ndarray, " prompt"]:
    """Return scores as a flat float64 array.

    Raises
    ------
    DataError
        Not one number per prompt, or not finite.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).sum())
        raise DataError(f"The {what} scores have shape {scores.shape}, {bad} of them not finite. Expected one finite number per prompt.")
    return scores


def both_or_none(harmful: np.ndarray, harmless: np.ndarray, language: str) -> Scores:
    """Return the examples' scores; there are some of both classes, or none at all (k = 0).

    Raises
    ------
    DataError
        One class only.
    """
    scores = Scores(checked(harmful, "harmful"), checked(harmless, "harmless"))
    if (len(scores.harmful) > 0) != (len(scores.harmless) > 0):
        raise DataError(
            f"All {len(scores.harmful) + len(scores.harmless)} examples of {language!r} carry the same label. Expected examples of both classes; "
            "add the other class, or choose a policy that needs one class only (FixedFalsePositives: harmless, ConformalMiss: harmful)."
        )
    return scores
