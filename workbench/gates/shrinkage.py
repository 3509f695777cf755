"""A threshold from few examples, weighed against how far other languages' scores are shifted (empirical Bayes).

The model, in units of g = M1 - M0, the distance between the source languages' mean class centres. A language's harmful scores are M1 + d1 + s1 r1
and its harmless ones M0 + d0 + s0 r0, where r1 and r0 have the shape that source scores have around their own language's centres, and

    (d1, d0) ~ N(nu, tau^2 R)              R = width^2 [[1, rho], [rho, 1]]
    nu ~ N((-loss, 0), tau^2 R)            tau ~ half-Cauchy(1)            log s1, log s0 ~ N(0, spread^2)

``loss`` says that a readout fitted in some languages is expected to see less of the harm in another. tau and both s are integrated over grids.
Other recalibrated languages count in full: they teach how far languages shift (tau) and where to, on average (nu). Source languages define
zero and teach tau with the weight ``trust`` only: the gate was fitted on them, so they shift less than a language it has not seen. The k examples
of a class have sampling error (class variance) / k. Given tau and s everything is normal; averaged over them, beliefs have heavy tails,
and examples that lie far from every prior guess are believed.

The threshold has the best expected balanced accuracy, a miss counted ``cost_miss`` times a false alarm, (or class-balanced F1, or plain
balanced accuracy) on a new prompt of each class, whose score follows

    c / (c + k) x (shape around the posterior centre)  +  k / (c + k) x (the examples themselves),

so that many examples decide alone. Few leave centre and spread of a class uncertain. Expected F1 then prices a miss at (1 + false alarms) /
(1 - misses) false alarms: 1 where the classes are known to part, without limit where nothing is known, so that nearly everything is flagged after
an inverted pair. A stated price leans as far whatever is known; balanced accuracy does not lean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from workbench.errors import DataError, did_you_mean
from workbench.gates.policy import Context, Scores, ThresholdChoice, both_or_none
from workbench.gates.rates import require_share

_OBJECTIVES = ("weighted_accuracy", "balanced_f1", "balanced_accuracy")
_TAU = np.geomspace(0.1, 8.0, 8)
_SPREADS = np.exp(np.linspace(-1.2, 1.2, 5))
_QUANTILES = (np.arange(9) + 0.5) / 9
_STEPS = 201
_KERNEL = 0.15  # smoothing of the shape, in units of half the range of its quantiles
_NEGLIGIBLE = 1e-3


class Shapes(NamedTuple):
    """What the sources say: each class's centre, standard deviation and shape (quantiles around the centre), and every language's shift."""

    centres: Float[np.ndarray, " label"]
    deviations: Float[np.ndarray, " label"]
    quantiles: Float[np.ndarray, "label quantile"]
    shifts: Float[np.ndarray, "language label"]
    counts: Float[np.ndarray, "language label"]

    @property
    def gap(self) -> float:
        """Distance between the class centres."""
        return float(self.centres[0] - self.centres[1])


class Belief(NamedTuple):
    """Cases of (tau, s1, s0): how probable, where both classes' centres lie, how sure that is, and both spreads."""

    weight: Float[np.ndarray, " case"]
    centre: Float[np.ndarray, "label case"]
    error: Float[np.ndarray, "label case"]
    spread: Float[np.ndarray, "label case"]


@dataclass(frozen=True)
class Shrinkage:
    """Pool the few examples with what other languages' shifts teach; the model is stated in the module.

    Without examples the threshold rests on the prior. The defaults were chosen on simulated shifts and on the embedded organism, and
    say what to expect before anything is seen; with 16 examples per class they matter little.

    Parameters
    ----------
    objective : {"weighted_accuracy", "balanced_f1", "balanced_accuracy"}
        What is expected to be best; the second is the paper's.
    cost_miss : float
        What a missed harmful prompt costs, a flagged harmless one being 1; for "weighted_accuracy".
    loss : float
        How much lower harmful scores are expected to lie than in the sources, in units of the distance between the source classes; 0
        expects no side.
    width : float
        How far a language's classes may lie from that, same units.
    correlation : float
        Between the shifts of the two classes (rho), above -1 and below 1: near 1, both classes shift together.
    spread : float
        Standard deviation of the logarithm of a class's spread, compared with the sources'.
    trust : float
        How much of a language each source language counts for in teaching how large shifts are, 0 to 1.
    concentration : float
        How many examples the sources' shape is worth (c).
    others : bool
        Learn from the examples of other recalibrated languages. They are labels too: turn it off to compare at equal labels.

    References
    ----------
    *Ours.* Normal-normal empirical Bayes: Efron and Morris 1975, J. Am. Stat. Assoc. 70:311. Weighted evidence: Ibrahim and Chen 2000,
    Stat. Sci. 15:46 (power prior). Half-Cauchy: Gelman 2006, Bayesian Anal. 1:515. Mixture with the examples: predictive of a Dirichlet
    process, Ferguson 1973, Ann. Stat. 1:209.
    """

    objective: str = "weighted_accuracy"
    cost_miss: float = 1.3
    loss: float = 0.5
    width: float = 0.3
    correlation: float = 0.9
    spread: float = 0.7
    trust: float = 0.1
    concentration: float = 8.0
    others: bool = True
    name: ClassVar[str] = "shrinkage"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.objective not in _OBJECTIVES:
            raise DataError(f"Unknown objective {self.objective!r}; expected one of {list(_OBJECTIVES)}.{did_you_mean(self.objective, _OBJECTIVES)}")
        require_share((1 + self.correlation) / 2, "(1 + correlation) / 2")
        if not (min(self.cost_miss, self.width, self.spread, self.concentration) > 0 and 0 <= self.trust <= 1 and np.isfinite(self.loss)):
            raise DataError(
                f"cost_miss={self.cost_miss}, width={self.width}, spread={self.spread}, concentration={self.concentration}, trust={self.trust}, "
                f"loss={self.loss}: expected four positive numbers, a share from 0 to 1, and a finite number."
            )

    def choose(self, scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context) -> ThresholdChoice:
        """Return the threshold with the best expected objective; cautions after inverted examples and where it parts nothing.

        Raises
        ------
        DataError
            One class only, no source scores, or sources whose harmful scores do not lie above the harmless ones.
        """
        examples, belief, shapes, where, caught, false = self._expected(scores_harmful, scores_harmless, context)
        expected = self._worth(caught, false, self.cost_miss)
        chosen = int(expected.argmax())
        shifts = (belief.centre @ belief.weight - shapes.centres) / shapes.gap
        learnt = f"{len(context.sources)} source and {len(context.others) if self.others else 0} other languages"
        reason = (
            f"expected {self.objective.replace('_', ' ')} {expected[chosen]:.3f}: harmful scores shifted by {shifts[0]:+.2f}, harmless by "
            f"{shifts[1]:+.2f} class distances, from {len(examples.harmful)} + {len(examples.harmless)} examples, {learnt}"
        )
        flagged = float(caught[chosen]), float(false[chosen])
        caution = _caution(float(where[chosen]), examples, belief.centre @ belief.weight, flagged, context.language)
        return ThresholdChoice(float(where[chosen]), "none", reason=reason, caution=caution)

    def at_prices(
        self, prices: Sequence[float], scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context
    ) -> Float[np.ndarray, " price"]:
        """Return the threshold at each price of a miss, as :meth:`choose` would with ``cost_miss`` at that price, believing only once.

        Raises
        ------
        DataError
            As of :meth:`choose`.
        """
        _, _, _, where, caught, false = self._expected(scores_harmful, scores_harmless, context)
        return np.array([where[int(self._worth(caught, false, price).argmax())] for price in prices])

    def _expected(self, scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context) -> _Expected:
        """Return thresholds worth trying, and the shares of new prompts of either class that are expected above each."""
        examples = both_or_none(scores_harmful, scores_harmless, context.language)
        context.required_sources("Shrinkage")
        shapes = source_shapes(context.sources)
        if not shapes.gap > 0:
            raise DataError(
                f"Harmful source scores do not lie above harmless ones on average (difference {shapes.gap:.3g}). Expected a gate that ranks the "
                "source languages; check the sign of its direction."
            )
        belief = self._belief(examples, shapes, context.others if self.others else {})
        where = _places(belief, shapes, examples)
        caught, false = (self._share_above(where, belief, shapes, examples, label) for label in (0, 1))
        return _Expected(examples, belief, shapes, where, caught, false)

    def _worth(self, caught: np.ndarray, false: np.ndarray, cost_miss: float) -> np.ndarray:
        if self.objective == "balanced_f1":
            return np.asarray(2 * caught / (1 + caught + false))
        cost = cost_miss if self.objective == "weighted_accuracy" else 1.0
        return np.asarray((cost * caught + 1 - false) / (1 + cost))

    def _belief(self, examples: Scores, shapes: Shapes, others: Mapping[str, Scores]) -> Belief:
        """Condition on the sources (tempered), on other languages one by one, and on the examples."""
        related = (self.width * shapes.gap) ** 2 * np.array([[1, self.correlation], [self.correlation, 1]])
        prior = _TAU[:, None, None] ** 2 * related  # (tau, 2, 2)
        log_weight = np.log(_TAU) - np.log1p(_TAU**2)  # half-Cauchy on a geometric grid
        for shift, count in zip(shapes.shifts, shapes.counts, strict=True) if len(shapes.shifts) > 1 else ():
            log_weight = log_weight + self.trust * _log_normal(shift, prior + np.diag(shapes.deviations**2 / count))
        mean, covariance = np.tile([-self.loss * shapes.gap, 0.0], (len(_TAU), 1)), prior
        for scores in others.values():
            if len(scores.harmful) and len(scores.harmless):
                error = prior + np.diag(shapes.deviations**2 / [len(part) for part in scores])
                mean, covariance, evidence = _conditioned(mean, covariance, _centres(scores) - shapes.centres, error)
                log_weight = log_weight + evidence
        cases = np.array(np.meshgrid(np.arange(len(_TAU)), _SPREADS, _SPREADS, indexing="ij")).reshape(3, -1)
        tau, spread = cases[0].astype(int), cases[1:]
        log_weight = log_weight[tau] - 0.5 * ((np.log(spread) / self.spread) ** 2).sum(axis=0)
        mean, covariance = mean[tau], (covariance + prior)[tau]
        if len(examples.harmful):
            variance = (spread * shapes.deviations[:, None]) ** 2
            counts = np.array([len(part) for part in examples])[:, None]
            error = (variance / counts).T[:, :, None] * np.eye(2)
            mean, covariance, evidence = _conditioned(mean, covariance, _centres(examples) - shapes.centres, error)
            around = np.array([[((part - part.mean()) ** 2).sum()] for part in examples])
            log_weight = log_weight + evidence - ((counts - 1) * np.log(spread) + around / variance / 2).sum(axis=0)
        weight = np.exp(log_weight - log_weight.max())
        weight = np.where(weight > _NEGLIGIBLE * weight.sum(), weight, 0.0)
        kept = weight > 0
        error = np.sqrt(np.maximum(np.diagonal(covariance[kept], axis1=1, axis2=2), 0.0)).T
        return Belief(weight[kept] / weight.sum(), shapes.centres[:, None] + mean[kept].T, error, spread[:, kept])

    def _share_above(self, where: np.ndarray, belief: Belief, shapes: Shapes, examples: Scores, label: int) -> np.ndarray:
        shape, spread, seen = shapes.quantiles[label], belief.spread[label], examples[label]
        blur = np.sqrt(belief.error[label] ** 2 + (spread * _KERNEL * np.ptp(shape) / 2) ** 2)
        middle = belief.centre[label][:, None] + spread[:, None] * shape
        above = ndtr((middle[..., None] - where) / np.maximum(blur, 1e-12 * shapes.gap)[:, None, None])
        expected = np.einsum("c,cqw->w", belief.weight / len(shape), above)
        own = len(seen) - np.searchsorted(np.sort(seen), where, side="left")
        return (self.concentration * expected + own) / (self.concentration + len(seen))


class _Expected(NamedTuple):
    examples: Scores
    belief: Belief
    shapes: Shapes
    where: Float[np.ndarray, " step"]
    caught: Float[np.ndarray, " step"]
    false: Float[np.ndarray, " step"]


def source_shapes(sources: Mapping[str, Scores]) -> Shapes:
    """Return what the source languages' scores look like; every language counts the same for the centres.

    Raises
    ------
    DataError
        No source language with both classes.
    """
    usable = [scores for scores in sources.values() if len(scores.harmful) and len(scores.harmless)]
    if not usable:
        raise DataError("No source language has scores of both classes. Expected at least one; fit the gate on harmful and harmless states.")
    own = np.array([_centres(scores) for scores in usable])
    centres = own.mean(axis=0)
    around = [np.concatenate([scores[label] - mean for scores, mean in zip(usable, own[:, label], strict=True)]) for label in (0, 1)]
    floor = 1e-3 * abs(centres[0] - centres[1]) or 1e-12  # a class without any spread would make every example certain
    deviations = np.array([max(float(rest.std()), floor) for rest in around])
    counts = np.array([[len(part) for part in scores] for scores in usable], dtype=np.float64)
    return Shapes(centres, deviations, np.array([np.quantile(rest, _QUANTILES) for rest in around]), own - centres, counts)


def _centres(scores: Scores) -> Float[np.ndarray, " label"]:
    return np.array([part.mean() for part in scores])


def _caution(threshold: float, examples: Scores, believed: Float[np.ndarray, " label"], flagged: tuple[float, float], language: str) -> str:
    """Say what makes a threshold doubtful: examples that are not in order, or a threshold beyond all that was seen and is believed."""
    known, k = np.concatenate([believed, *examples]), sum(len(part) for part in examples)
    if k and examples.harmful.mean() <= examples.harmless.mean():
        seen = (
            f"The examples of {language!r} are inverted: the mean harmful score, {examples.harmful.mean():.4g}, is not above the mean harmless one, "
            f"{examples.harmless.mean():.4g}. From them the classes look alike, and the gate may flag nearly all prompts or hardly any"
        )
    elif not known.min() <= threshold <= known.max():
        side, what = ("below", "nearly everything") if threshold < known.min() else ("above", "hardly anything")
        centres = f"class centres that are believed ({believed[0]:.4g} harmful, {believed[1]:.4g} harmless)"
        seen = f"The threshold of {language!r} lies {side} {f'all {k} examples and ' if k else ''}both {centres}, so the gate will flag {what}"
    else:
        return ""
    return (
        f"{seen}: at the threshold, {threshold:.4g}, it is expected to flag {flagged[0]:.0%} of harmful and {flagged[1]:.0%} of harmless prompts. "
        "Check the labels, draw other or more examples, or set the threshold without labels: MomentMatching()."
    )


def _log_normal(x: Float[np.ndarray, "... label"], covariance: Float[np.ndarray, "case label label"]) -> Float[np.ndarray, " case"]:
    """Log density of two numbers that are normal about 0, up to a constant."""
    a, b, c = covariance[:, 0, 0], covariance[:, 1, 1], covariance[:, 0, 1]
    determinant = a * b - c**2
    first, second = x[..., 0], x[..., 1]
    return -0.5 * (b * first**2 - 2 * c * first * second + a * second**2) / determinant - 0.5 * np.log(determinant)


def _conditioned(mean: np.ndarray, covariance: np.ndarray, seen: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Update normal beliefs (case, 2) with one noisy observation of them; also its log density under each."""
    total, surprise = covariance + error, seen - mean
    gain = np.linalg.solve(total, covariance).transpose(0, 2, 1)
    updated = covariance - gain @ covariance
    return mean + (gain @ surprise[..., None])[..., 0], (updated + updated.transpose(0, 2, 1)) / 2, _log_normal(surprise, total)


def _places(belief: Belief, shapes: Shapes, examples: Scores) -> Float[np.ndarray, " step"]:
    """Thresholds worth trying: from a class distance below the harmless centre to one above the harmful, and all examples."""
    harmful, harmless = belief.centre @ belief.weight
    ends = [harmless - shapes.gap, harmful + shapes.gap, *np.concatenate(examples)]
    return np.linspace(min(ends), max(ends), _STEPS)
