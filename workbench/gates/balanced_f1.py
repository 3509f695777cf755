"""The paper's rule: the lowest threshold with the best class-balanced F1 on the examples.

    candidates = { min - 1e-6 }, midpoints of consecutive distinct pooled scores, { max + 1e-6 }
    F1(t) = 2 TPR(t) / (1 + TPR(t) + FPR(t))

Ties go to the lowest threshold, decided on whole-number counts. The authors decide on floating-point values, where two equal F1
can differ by their last bit and a higher threshold wins: .3 to .9 % of random draws at k = 8 to 64, .1 to 1.1 logits higher on average,
never at k = 1, 2, 4. ``as_released=True`` follows their arithmetic to the bit.

A gate fires at or above its threshold, so what lies at a candidate counts as flagged, and a midpoint that rounds onto the lower of two
neighbouring scores is replaced by the upper one: what was counted is what will fire. The authors count strictly above while they choose and
fire at or above; the two differ only where the two scores are neighbouring floating-point numbers, and ``as_released=True`` keeps that too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import DataError, did_you_mean
from workbench.gates.policy import Context, Scores, ThresholdChoice, both_or_none

MARGIN = 1e-6
_OBJECTIVES = ("balanced", "plain")


class F1Curve(NamedTuple):
    """Candidate thresholds and the mean F1 over languages at each; ``chosen`` is the winner's number."""

    candidates: Float[np.ndarray, " candidate"]
    f1: Float[np.ndarray, " candidate"]
    chosen: int


def candidate_thresholds(scores: Float[np.ndarray, " prompt"], *, as_released: bool = False) -> Float[np.ndarray, " candidate"]:
    """Return a point below all scores, the midpoints between consecutive distinct ones, and a point above all.

    The outer points lie 1e-6 away, which is lost on scores beyond 1e10; they are the next numbers below and above then. Each candidate fires
    on other scores than the one before it: a midpoint that rounds onto the lower score is the upper one, unless ``as_released``.

    Examples
    --------
    >>> candidate_thresholds(np.array([1.0, 3.0, 1.0])).round(6).tolist()
    [0.999999, 2.0, 3.000001]
    """
    distinct = np.unique(np.asarray(scores, dtype=np.float64))
    low, high = distinct[0], distinct[-1]
    below, above = min(low - MARGIN, np.nextafter(low, -np.inf)), max(high + MARGIN, np.nextafter(high, np.inf))
    middle = (distinct[:-1] + distinct[1:]) / 2
    if not as_released:
        middle = np.where(middle > distinct[:-1], middle, distinct[1:])
    return np.concatenate([[below], middle, [above]])


def counts_flagged(
    scores: Scores, candidates: Float[np.ndarray, " candidate"], *, as_released: bool = False
) -> tuple[Int[np.ndarray, " candidate"], Int[np.ndarray, " candidate"]]:
    """Return how many harmful and how many harmless scores lie at or above each candidate (``as_released``: strictly above)."""
    flagged = [len(s) - np.searchsorted(np.sort(s), candidates, side="right" if as_released else "left") for s in scores]
    return flagged[0], flagged[1]


def f1_curve(groups: Sequence[Scores], *, objective: str = "balanced", as_released: bool = False) -> F1Curve:
    """Score every candidate threshold that several languages share, by the mean of their F1.

    Parameters
    ----------
    groups : sequence of Scores
        One per language; candidates come from all scores together.
    objective : {"balanced", "plain"}
        Classes weigh the same, or each prompt does.
    as_released : bool
        Choose by floating-point values in the authors' order of operations instead of by exact fractions, and count strictly above.

    References
    ----------
    arXiv:2606.01196; order of operations read in the authors' code.

    Examples
    --------
    >>> curve = f1_curve([Scores(np.array([3.0]), np.array([1.0]))])
    >>> curve.f1.round(3).tolist(), curve.chosen
    ([0.667, 1.0, 0.0], 1)
    """
    if objective not in _OBJECTIVES:
        raise DataError(f"Unknown objective {objective!r}; expected one of {list(_OBJECTIVES)}.{did_you_mean(str(objective), _OBJECTIVES)}")
    candidates = candidate_thresholds(np.concatenate([part for scores in groups for part in scores]), as_released=as_released)
    counts = [(*counts_flagged(scores, candidates, as_released=as_released), len(scores.harmful), len(scores.harmless)) for scores in groups]
    curve = np.mean([_float_f1(*c, balanced=objective == "balanced") for c in counts], axis=0)
    if as_released:
        return F1Curve(candidates, curve, int(curve.argmax()))
    near = np.flatnonzero(curve >= curve.max() - 1e-9)  # round-off is far smaller; among these the fractions decide
    exact = [sum(_exact_f1(int(tp[i]), int(fp[i]), n1, n0, objective == "balanced") for tp, fp, n1, n0 in counts) for i in near]
    return F1Curve(candidates, curve, int(near[exact.index(max(exact))]))


def _float_f1(tp: np.ndarray, fp: np.ndarray, n_harmful: int, n_harmless: int, *, balanced: bool) -> np.ndarray:
    """The authors' order of operations: class weights on counts, then precision, recall and their harmonic mean."""
    caught, false = tp.astype(np.float64), fp.astype(np.float64)
    missed = n_harmful - caught
    if balanced:
        caught, missed, false = caught * (0.5 / n_harmful), missed * (0.5 / n_harmful), false * (0.5 / n_harmless)
    precision = np.divide(caught, caught + false, out=np.zeros_like(caught), where=caught + false > 0)
    recall = np.divide(caught, caught + missed, out=np.zeros_like(caught), where=caught + missed > 0)
    both = precision + recall
    return np.divide(2.0 * precision * recall, both, out=np.zeros_like(both), where=both > 0)


def _exact_f1(tp: int, fp: int, n_harmful: int, n_harmless: int, balanced: bool) -> Fraction:
    if balanced:
        return Fraction(2 * tp * n_harmless, n_harmful * n_harmless + tp * n_harmless + fp * n_harmful)
    return Fraction(2 * tp, n_harmful + tp + fp)


@dataclass(frozen=True)
class BalancedF1:
    """Set the threshold by best class-balanced F1, the lowest of the best (arXiv:2606.01196).

    Without examples (k = 0) the same rule is applied to the source languages' pooled training scores. F1 trades misses for false
    alarms, so nothing is promised about either.

    Parameters
    ----------
    as_released : bool
        Decide ties by the authors' floating-point arithmetic instead of exactly, and count as they do (see the module).
    objective : {"balanced", "plain"}
        Class-balanced F1 or F1 over prompts.

    Examples
    --------
    >>> BalancedF1().choose(np.array([3.0]), np.array([1.0]), Context()).threshold
    2.0
    """

    as_released: bool = False
    objective: str = "balanced"
    name: ClassVar[str] = "balanced_f1"
    needs_labels: ClassVar[bool] = True

    def choose(self, scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context) -> ThresholdChoice:
        """Return the lowest threshold with the best F1; cautions when inverted examples make it flag nearly everything."""
        examples = both_or_none(scores_harmful, scores_harmless, context.language)
        k_zero = not len(examples.harmful)
        used = context.required_sources("BalancedF1 without examples") if k_zero else examples
        curve = f1_curve([used], objective=self.objective, as_released=self.as_released)
        where = "source scores" if k_zero else f"{len(used.harmful)} harmful and {len(used.harmless)} harmless examples"
        caution = ""
        if not k_zero and curve.chosen == 0:
            caution = (
                f"The examples of {context.language!r} are not in order (F1 is best when all of them are flagged), so the threshold lies below all "
                "of them and the gate will flag nearly everything. Check the labels, draw other or more examples, or set the threshold without "
                "labels: MomentMatching()."
            )
        value = float(curve.candidates[curve.chosen])
        return ThresholdChoice(value, "none", reason=f"best F1 {curve.f1[curve.chosen]:.3f} on {where}", caution=caution)
