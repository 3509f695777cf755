"""Thresholds for a wanted rate of false alarms, and for stated costs of both errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from workbench.errors import DataError
from workbench.gates.balanced_f1 import candidate_thresholds, counts_flagged
from workbench.gates.policy import Context, ThresholdChoice, both_or_none, checked


@dataclass(frozen=True)
class FixedFalsePositives:
    """Flag at most a given share of harmless prompts: the lowest threshold that does.

    The threshold lies just above the m-th largest of n harmless scores, m = floor(rate x (n + 1)) (split conformal on the harmless
    class). A new harmless prompt is then flagged with probability (m - 1 + ties) / (n + 1) or less, hence at most ``rate``. With fewer than
    1 / rate - 1 examples it lies just above the largest, which promises less than was asked, and says so. Without examples
    the sources' harmless scores are used. Harmful examples are not looked at.

    Parameters
    ----------
    rate : float
        Wanted share of harmless prompts flagged, between 0 and 1, both excluded.

    References
    ----------
    Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World (conformal prediction); true positives at 1 % false
    positives are asked for in arXiv:2604.18901.
    """

    rate: float = 0.05
    name: ClassVar[str] = "fixed_false_positives"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_share(self.rate, "rate")

    def choose(self, scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context) -> ThresholdChoice:
        """Return the lowest threshold that keeps to the rate; cautions when there are too few examples to promise it."""
        own = checked(scores_harmless, "harmless")
        used = own if len(own) else context.required_sources("FixedFalsePositives without examples").harmless
        n, allowed = len(used), whole(self.rate * (len(used) + 1))
        value = float(np.nextafter(np.sort(used)[::-1][max(allowed, 1) - 1], np.inf))
        if not len(own):
            caution = f"No harmless example of {context.language!r}: the rate holds for the source languages only."
            return ThresholdChoice(value, "none", reason=f"{n} harmless source scores", caution=caution)
        if not allowed:
            short = (
                f"{n} harmless examples of {context.language!r} promise at most {1 / (n + 1):.1%} false alarms, not {self.rate:.1%}: that takes "
                f"{needed(self.rate)}. The threshold lies above all of them; add harmless examples, or ask for a larger rate."
            )
            return ThresholdChoice(value, "none", reason=f"above all {n} harmless examples", caution=short)
        promise = f"false alarms <= {self.rate:.3g} on average over draws of the examples, for prompts like them"
        return ThresholdChoice(value, promise, reason=f"above the {allowed}. largest of {n} harmless examples")


@dataclass(frozen=True)
class CostWeighted:
    """Set the threshold with the lowest expected cost of misses and false alarms on the examples.

        cost(t) = prevalence x cost_miss x miss(t) + (1 - prevalence) x cost_false_alarm x FPR(t)

    The examples' class sizes do not matter, the stated prevalence does. Among equal costs the threshold in the widest gap wins (it
    moves least when examples change), then the lowest. Equal costs at prevalence one half give best balanced accuracy, as
    :func:`workbench.statistics.best_threshold`. Without examples the sources' scores are used.

    Parameters
    ----------
    cost_miss, cost_false_alarm : float
        In any one unit; positive.
    prevalence : float
        Share of harmful prompts where the gate will be used, between 0 and 1.
    """

    cost_miss: float = 1.0
    cost_false_alarm: float = 1.0
    prevalence: float = 0.5
    name: ClassVar[str] = "cost_weighted"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 < self.cost_miss < np.inf and 0 < self.cost_false_alarm < np.inf):
            raise DataError(f"Costs of {self.cost_miss} (miss) and {self.cost_false_alarm} (false alarm). Expected two positive numbers.")
        require_share(self.prevalence, "prevalence")

    def choose(self, scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context) -> ThresholdChoice:
        """Return the cheapest threshold; cautions when that is to flag everything or nothing."""
        examples = both_or_none(scores_harmful, scores_harmless, context.language)
        own = len(examples.harmful) > 0
        used = examples if own else context.required_sources("CostWeighted without examples")
        candidates = candidate_thresholds(np.concatenate(used))
        caught, false = counts_flagged(used, candidates)
        miss = self.prevalence * self.cost_miss * (1 - caught / len(used.harmful))
        cost = miss + (1 - self.prevalence) * self.cost_false_alarm * false / len(used.harmless)
        gaps = np.concatenate([[0.0], np.diff(np.unique(np.concatenate(used))), [0.0]])
        tied = np.flatnonzero(cost <= cost.min() + 1e-12 * cost.max())
        chosen = int(tied[np.argmax(gaps[tied])])
        caution = ""
        if own and chosen in (0, len(candidates) - 1):
            what = "everything" if chosen == 0 else "nothing"
            caution = (
                f"On these examples of {context.language!r} it is cheapest to flag nearly {what}. Draw other or more examples, or use "
                "MomentMatching() on unlabelled prompts."
            )
        counted = f"{len(used.harmful)} harmful and {len(used.harmless)} harmless {'examples' if own else 'source scores'}"
        reason = f"expected cost {cost[chosen]:.3g} on {counted}"
        return ThresholdChoice(float(candidates[chosen]), "none", reason=reason, caution=caution)


def require_share(value: float, what: str) -> None:
    """Refuse what is no share strictly between 0 and 1."""
    if not 0 < value < 1:
        raise DataError(f"{what}={value}: expected a share between 0 and 1, both excluded, such as 0.05.")


def whole(value: float) -> int:
    """Round down, but not because of rounding errors: .29 x 100 is 29."""
    return int(np.floor(value + 1e-9))


def needed(rate: float) -> int:
    """Return how many examples a conformal promise of this rate takes: the smallest n with rate x (n + 1) >= 1.

    Examples
    --------
    >>> needed(0.05), needed(0.1)
    (19, 9)
    """
    return int(np.ceil(1 / rate - 1e-9)) - 1
