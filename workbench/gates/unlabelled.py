"""A threshold without any label: where the source threshold lies in a language's own, unlabelled scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from workbench.errors import DataError, did_you_mean
from workbench.gates.balanced_f1 import BalancedF1
from workbench.gates.policy import Context, Scores, ThresholdChoice, checked
from workbench.gates.rates import require_share

FEWEST = 20
_STEPS = 500
_METHODS = ("moments", "mixture")


class Heaps(NamedTuple):
    """Two heaps of unlabelled scores: centres (low, high), share of the high one, and how much better two explain them than one.

    ``evidence`` is the difference of the Bayesian information criteria, one heap minus two; above 10 is called very strong.
    """

    low: float
    high: float
    share: float
    evidence: float


@dataclass(frozen=True)
class MomentMatching:
    """Move the source languages' threshold to a language's unlabelled scores. No label is looked at.

    moments
        threshold = mean + (source threshold - source mean) x deviation / source deviation, the sources' mean and deviation taken at the
        share of harmful prompts stated in ``prevalence``. A wrong share moves the threshold as a shift would.
    mixture
        Two normal heaps are fitted to the scores, and the threshold is put between their centres where it lies between the sources' class
        centres. No share of harmful prompts has to be known, but each class must be one heap.

    What neither can know: whether the higher heap is the harmful one, and whether a shift is one of the classes or of their shares. Where
    the scores show one heap only, the mixture has nothing to hold on to and abstains.

    Parameters
    ----------
    method : {"moments", "mixture"}
    prevalence : float, optional
        Share of harmful prompts among the unlabelled ones, for "moments"; None assumes the sources' share, and cautions.
    evidence : float
        For "mixture": by how much two heaps must beat one (difference of Bayesian information criteria).

    References
    ----------
    *Ours* in this form. Shares and shifts are told apart by no unlabelled sample without such assumptions: Zhang et al. 2013, Domain adaptation under
    target and conditional shift (ICML). Scale of the evidence: Kass and Raftery 1995, J. Am. Stat. Assoc. 90:773.
    """

    method: str = "moments"
    prevalence: float | None = None
    evidence: float = 10.0
    name: ClassVar[str] = "moment_matching"
    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise DataError(f"Unknown method {self.method!r}; expected one of {list(_METHODS)}.{did_you_mean(str(self.method), _METHODS)}")
        if self.prevalence is not None:
            require_share(self.prevalence, "prevalence")

    def choose(self, scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context) -> ThresholdChoice:
        """Return the matched threshold from ``context.scores_unlabelled``, or abstain; the labelled scores are ignored.

        Raises
        ------
        DataError
            No source scores.
        """
        sources = context.required_sources("MomentMatching")
        given = checked(np.empty(0) if context.scores_unlabelled is None else context.scores_unlabelled, "unlabelled")
        if len(given) < FEWEST or np.ptp(given) == 0:
            what = f"{len(given)} unlabelled scores of {context.language!r}" + (", all equal," if len(given) >= FEWEST else "")
            return _abstains(f"{what} do not show how they are spread; it takes {FEWEST} or more. Add unlabelled prompts, or a few labelled ones.")
        threshold = BalancedF1().choose(np.empty(0), np.empty(0), context).threshold
        return self._moments(given, sources, threshold, context) if self.method == "moments" else self._mixture(given, sources, threshold, context)

    def _moments(self, given: np.ndarray, sources: Scores, threshold: float, context: Context) -> ThresholdChoice:
        share = len(sources.harmful) / sum(len(part) for part in sources) if self.prevalence is None else self.prevalence
        high, low = sources.harmful.mean(), sources.harmless.mean()
        mean = share * high + (1 - share) * low
        deviation = np.sqrt(share * sources.harmful.var() + (1 - share) * sources.harmless.var() + share * (1 - share) * (high - low) ** 2)
        value = given.mean() + (threshold - mean) * given.std() / deviation
        caution = ""
        if self.prevalence is None:
            caution = (
                f"{share:.0%} of the unlabelled prompts of {context.language!r} are taken to be harmful, as in the sources; no label says so. Pass "
                "prevalence= if you know the share, or method='mixture'."
            )
        reason = f"mean and deviation of {len(given)} unlabelled scores, {share:.0%} harmful"
        return ThresholdChoice(float(value), "none", reason=reason, caution=caution)

    def _mixture(self, given: np.ndarray, sources: Scores, threshold: float, context: Context) -> ThresholdChoice:
        heaps = two_heaps(given)
        if not heaps.evidence > self.evidence:
            return _abstains(
                f"The {len(given)} unlabelled scores of {context.language!r} look like one heap (evidence for two {heaps.evidence:.1f}, expected "
                f"more than {self.evidence:g}), so they cannot tell where the classes part. Add labelled examples, or use method='moments' with a "
                "known prevalence."
            )
        low, high = sources.harmless.mean(), sources.harmful.mean()
        value = heaps.low + (threshold - low) / (high - low) * (heaps.high - heaps.low)
        reason = f"two heaps in {len(given)} unlabelled scores, {heaps.share:.0%} in the higher one, evidence {heaps.evidence:.0f}"
        return ThresholdChoice(float(value), "none", reason=reason)


def two_heaps(scores: Float[np.ndarray, " prompt"]) -> Heaps:
    """Fit one and two normal distributions to scores by maximum likelihood (standardised first, best of three starts).

    Examples
    --------
    >>> heaps = two_heaps(np.concatenate([np.linspace(-6, -4, 60), np.linspace(3, 5, 40)]))
    >>> round(heaps.low), round(heaps.high), round(heaps.share, 2), heaps.evidence > 10
    (-5, 4, 0.4, True)
    """
    middle, width = float(np.mean(scores)), float(np.std(scores))
    z = np.sort((np.asarray(scores, dtype=np.float64) - middle) / width)
    fits = [_two_normals(z, np.quantile(z, ends)) for ends in ((0.25, 0.75), (0.1, 0.6), (0.4, 0.9))]
    found, centres, shares = max(fits, key=lambda fit: fit[0])
    low, high = np.argsort(centres)
    one = -0.5 * len(z) * (np.log(2 * np.pi) + 1)  # standardised scores under their own normal distribution
    evidence = 2 * (found - one) - 3 * np.log(len(z))  # five numbers against two
    return Heaps(middle + width * float(centres[low]), middle + width * float(centres[high]), float(shares[high]), float(evidence))


def _two_normals(z: np.ndarray, centres: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Expectation-maximisation from two centres: log likelihood, centres and shares; no heap gets narrower than a hundredth of the whole."""
    variances, shares, before = np.full(2, 0.25), np.full(2, 0.5), -np.inf
    for _ in range(_STEPS):
        log_joint = np.log(shares) - 0.5 * np.log(2 * np.pi * variances) - 0.5 * (z[:, None] - centres) ** 2 / variances
        log_total = np.logaddexp(log_joint[:, 0], log_joint[:, 1])
        if log_total.sum() - before < 1e-7 * len(z):
            break
        before = log_total.sum()
        belongs = np.exp(log_joint - log_total[:, None])
        counts = np.maximum(belongs.sum(axis=0), 1e-9)
        shares, centres = counts / counts.sum(), (belongs * z[:, None]).sum(axis=0) / counts
        variances = (belongs * (z[:, None] - centres) ** 2).sum(axis=0) / counts + 1e-4
    return float(log_total.sum()), centres, shares


def _abstains(reason: str) -> ThresholdChoice:
    return ThresholdChoice(float("nan"), "none", abstains=True, reason=reason)
