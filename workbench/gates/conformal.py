"""A threshold that promises how many harmful prompts it will miss, from harmful examples alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.stats import beta

from workbench.errors import DataError
from workbench.gates.policy import Context, ThresholdChoice, checked
from workbench.gates.rates import needed, require_share, whole


@dataclass(frozen=True)
class ConformalMiss:
    """Miss at most a given share of harmful prompts, whatever the scores' distribution (split conformal prediction).

    The threshold is the m-th smallest of n harmful scores, m = floor(alpha x (n + 1)), and the gate fires at or above it. If a new harmful
    prompt is exchangeable with the examples, it is missed with probability m / (n + 1) <= alpha (less with ties). This is an
    average over draws of the examples: given one draw the miss rate follows Beta(m, n + 1 - m), which at n = 19 exceeds 14.6 % one time in
    twenty. With ``confidence``, m is the largest number for which Beta(m, n + 1 - m) stays below alpha with that probability.

    Below n = 1 / alpha - 1 no threshold but "flag everything" keeps the promise; the policy says so and abstains. What it costs in
    false alarms it cannot know: harmless examples are not looked at. They may be reported beside it.

    Parameters
    ----------
    alpha : float
        Miss rate allowed.
    confidence : float, optional
        Probability over draws of the examples with which the miss rate stays below alpha; None promises the average only.

    References
    ----------
    Vovk, Gammerman and Shafer 2005; Vovk 2012, arXiv:1209.2673 (the Beta distribution given the examples). On this task:
    about .05 held in six languages with 100 examples, where best F1 missed .02 to .39.

    Examples
    --------
    >>> ConformalMiss(0.05).choose(np.arange(19.0), np.empty(0), Context()).threshold
    0.0
    >>> ConformalMiss(0.05).choose(np.arange(18.0), np.empty(0), Context()).abstains
    True
    """

    alpha: float = 0.05
    confidence: float | None = None
    name: ClassVar[str] = "conformal_miss"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_share(self.alpha, "alpha")
        if self.confidence is not None:
            require_share(self.confidence, "confidence")

    @property
    def examples_needed(self) -> int:
        """How many harmful examples the promise takes."""
        if self.confidence is None:
            return needed(self.alpha)
        return int(np.ceil(np.log1p(-self.confidence) / np.log1p(-self.alpha) - 1e-9))

    def choose(self, scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context) -> ThresholdChoice:
        """Return the threshold, or abstain when there are too few harmful examples for the promise."""
        harmful = np.sort(checked(scores_harmful, "harmful"))
        n, rank = len(harmful), self._rank(len(harmful))
        if rank < 1:
            sure = "" if self.confidence is None else f" with confidence {self.confidence:.3g}"
            reason = (
                f"A miss rate of {self.alpha:.3g}{sure} cannot be promised from {n} harmful examples of {context.language!r}; it takes "
                f"{self.examples_needed}. Add harmful examples, allow a larger alpha, or choose a policy without a promise."
            )
            return ThresholdChoice(float("nan"), "none", abstains=True, reason=reason)
        sure = "on average" if self.confidence is None else f"with probability {self.confidence:.3g}"
        promise = f"miss rate <= {self.alpha:.3g} {sure} over draws of the examples, for prompts like them"
        return ThresholdChoice(float(harmful[rank - 1]), promise, reason=f"the {rank}. smallest of {n} harmful scores")

    def _rank(self, n: int) -> int:
        if self.confidence is None:
            return whole(self.alpha * (n + 1))
        ranks = np.arange(1, n + 1)
        return int((beta.cdf(self.alpha, ranks, n + 1 - ranks) >= self.confidence - 1e-9).sum())


def miss_quantile(rank: int, n: int, quantile: float) -> float:
    """Return the quantile of the miss rate given n harmful examples, when the threshold is their ``rank``-th smallest score.

    Raises
    ------
    DataError
        A rank that is not among them.

    Examples
    --------
    >>> round(miss_quantile(1, 19, 0.95), 3)
    0.146
    """
    if not 1 <= rank <= n:
        raise DataError(f"rank {rank} of {n} examples: expected 1 to {n}.")
    return float(beta.ppf(quantile, rank, n + 1 - rank))
