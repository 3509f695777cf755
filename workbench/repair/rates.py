"""Rates of every method over prompts and draws, with intervals over both and paired differences between methods.

A method's result depends on which meanings are asked and on which k examples it was given. Both are resampled: meanings with one
set of weights for all languages and methods (translations are twins), draws with another. Differences between methods are taken
within a resample, so what all methods share cancels.

Where no resample differs (every prompt refused, none, or the same replies under two methods) percentiles have no width, though 200 of 200 is
not certainty. The interval is then the Wilson bound of 0 of n meanings around the value, n the meanings of the classes that count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from workbench.errors import DataError
from workbench.repair.actions import Answered
from workbench.repair.groups import UNKNOWN, known_mean, language_groups
from workbench.results import Result
from workbench.statistics import wilson

RATES = ("harmful_refusal", "harmless_refusal", "selectivity", "answer_accuracy")
STATISTICS = (*RATES, "broken", "flagged_harmful", "flagged_harmless", "refused_misses")
#: Statistics that some languages of a group may lack: what a gate missed, where it missed nothing.
_SOME = ("refused_misses",)
#: Which classes of prompts a statistic counts, True for harmful.
_COUNTED = {
    "harmful_refusal": (True,), "flagged_harmful": (True,), "refused_misses": (True,), "harmless_refusal": (False,), "flagged_harmless": (False,),
    "answer_accuracy": (False,), "selectivity": (True, False),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class MethodRun:
    """What one method did in each draw.

    Attributes
    ----------
    refused, correct, broken : float arrays [draw prompt]
        0 or 1; NaN in ``correct`` where there is no key.
    flagged : bool array [draw prompt] or None
        None for methods without a yes or no.
    labels : str
        Which labels of the target language it used.
    """

    refused: Float[np.ndarray, "draw prompt"]
    correct: Float[np.ndarray, "draw prompt"]
    broken: Float[np.ndarray, "draw prompt"]
    flagged: Bool[np.ndarray, "draw prompt"] | None
    labels: str

    @classmethod
    def of(cls, answered: Answered, taken: np.ndarray, flagged: np.ndarray | None, labels: str) -> MethodRun:
        """Look up the answers to the actions taken."""
        refused, correct, broken = (answered.under(taken, kind) for kind in ("refused", "correct", "broken"))
        return cls(refused, correct, broken, flagged, labels)


@dataclass(frozen=True)
class RepairRates(Result):
    """One row per method, language (or mean over a group of them) and statistic.

    Columns: ``method``; ``language`` (a tag, or "mean low", "mean reference", ... over a group of languages); ``tier`` ("unknown" where a
    language has none, "reference" for the mean over reference languages); ``statistic``: harmful_refusal, harmless_refusal, selectivity,
    answer_accuracy (harmless prompts answered right, where there is a key), broken (garbled or off-language), flagged_harmful and
    flagged_harmless (the gate's true and false positive rate), refused_misses (refusal among harmful prompts that the gate missed; NaN where it
    missed none, and a mean over the languages where it missed some); ``value``, ``low``, ``high`` (95 %, over meanings and draws; Wilson over
    meanings where nothing varies); ``n`` meanings, ``draws``, ``labels``.
    """

    required: ClassVar[tuple[str, ...]] = ("method", "language", "tier", "statistic", "value", "low", "high", "n", "draws", "labels")

    def summary(self) -> pd.DataFrame:
        """Return the means over tiers, a row per method."""
        means = self.table[self.table["language"].str.startswith("mean ") & self.table["statistic"].isin(RATES)]
        return means.pivot_table(index="method", columns=["language", "statistic"], values="value", sort=False).reset_index()


@dataclass(frozen=True)
class RepairContrasts(Result):
    """Paired differences: ``method`` minus ``other`` in a statistic, per language or mean over a group; value, low, high, n, draws.

    ``draws`` is the smaller number of the two methods; 1 where one of them takes no examples.
    """

    required: ClassVar[tuple[str, ...]] = ("method", "other", "language", "tier", "statistic", "value", "low", "high", "n", "draws")


class Resampler:
    """Bootstrap estimates of every method on the same resamples of meanings and draws, per language and as means over groups of languages.

    Parameters
    ----------
    prompts : DataFrame
        ``meaning_id, language, tier, harmful``, in the order of the runs.
    runs : mapping of method to MethodRun
    resamples : int
    rng : Generator
    reference : sequence of str
        Languages that the methods were made from. A mean is over what is repaired or over what is not, never over both.

    Attributes
    ----------
    groups : dict of str to tuple of str
        The languages of each mean, by :func:`~workbench.repair.groups.language_groups`; the tier of a language that has none is "unknown".

    Raises
    ------
    DataError
        No method.
    """

    def __init__(
        self,
        prompts: pd.DataFrame,
        runs: Mapping[str, MethodRun],
        *,
        resamples: int = 1000,
        rng: np.random.Generator,
        reference: Sequence[str] = (),
    ) -> None:
        if not runs:
            raise DataError("There is no method to count. Expected at least one.")
        self.prompts, self.runs, self.resamples = prompts, runs, resamples
        harmful = prompts["harmful"].to_numpy(dtype=bool)
        meanings, of_row = np.unique(prompts["meaning_id"].to_numpy().astype(str), return_inverse=True)
        weights = np.empty((resamples + 1, len(meanings)))
        weights[0] = 1.0  # the estimate itself
        for label in (True, False):
            these = np.unique(of_row[harmful == label])
            if len(these):  # a set may hold one class only
                weights[1:, these] = rng.multinomial(len(these), np.full(len(these), 1 / len(these)), size=resamples)
        self.rows = weights[:, of_row]
        self._draws: dict[int, np.ndarray] = {}
        self.rng = rng
        self.harmful = harmful
        self.languages = {str(tag): np.flatnonzero(prompts["language"].to_numpy() == tag) for tag in dict.fromkeys(prompts["language"])}
        tiers = prompts.drop_duplicates("language").set_index("language")["tier"]
        self.tiers = {str(tag): UNKNOWN if pd.isna(tier) else str(tier) for tag, tier in tiers.items()}
        self.groups = language_groups(self.tiers, reference)

    def draws(self, n: int) -> np.ndarray:
        """Return weights [resample draw] that sum to one; methods with as many draws share them, since draw i saw the same examples."""
        if n not in self._draws:
            self._draws[n] = np.vstack([np.full(n, 1 / n), self.rng.multinomial(n, np.full(n, 1 / n), size=self.resamples) / n])
        return self._draws[n]

    def estimates(self, method: str) -> dict[str, dict[str, np.ndarray]]:
        """Return statistic -> language -> [resample]; the first entry is the estimate itself."""
        run = self.runs[method]
        over = self.draws(len(run.refused))
        found: dict[str, dict[str, np.ndarray]] = {name: {} for name in STATISTICS}
        for tag, rows in self.languages.items():
            harmful = self.harmful[rows]
            bad, good = rows[harmful], rows[~harmful]
            refused_bad, refused_good = self._mean(run.refused, over, bad), self._mean(run.refused, over, good)
            found["harmful_refusal"][tag], found["harmless_refusal"][tag] = refused_bad, refused_good
            found["selectivity"][tag] = refused_bad - refused_good
            found["answer_accuracy"][tag] = self._mean(run.correct, over, good)
            found["broken"][tag] = self._mean(run.broken, over, rows)
            if run.flagged is not None:
                flagged = run.flagged.astype(np.float64)
                found["flagged_harmful"][tag], found["flagged_harmless"][tag] = self._mean(flagged, over, bad), self._mean(flagged, over, good)
                found["refused_misses"][tag] = self._mean(np.where(run.flagged, np.nan, run.refused), over, bad)
        return found

    def _mean(self, values: np.ndarray, over: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the mean over draws and rows under each resample's weights; NaN values do not count."""
        part, weight = values[:, rows], self.rows[:, rows]
        known = np.isfinite(part)
        top, bottom = ((over @ np.where(known, part, 0.0)) * weight).sum(axis=1), ((over @ known.astype(np.float64)) * weight).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.nan)

    def meanings(self, method: str, statistic: str, language: str) -> list[int]:
        """Return how many meanings a statistic rests on, for each class that it counts; ``language`` may be a group."""
        run, here = self.runs[method], self.asked(language)
        if statistic == "answer_accuracy":
            here = here & np.isfinite(run.correct).any(axis=0)
        if statistic == "refused_misses" and run.flagged is not None:
            here = here & ~run.flagged.all(axis=0)
        classes = [here & (self.harmful == label) for label in _COUNTED[statistic]] if statistic in _COUNTED else [here]
        return [int(self.prompts.loc[rows, "meaning_id"].nunique()) for rows in classes]

    def asked(self, language: str) -> Bool[np.ndarray, " prompt"]:
        """Return which prompts are of a language, or of the languages of a group."""
        return np.asarray(self.prompts["language"].isin(self.groups.get(language, (language,))))

    def tier_of(self, language: str) -> str:
        """Return the tier of a language or of a group; "reference" for a mean over reference languages that share one with others."""
        return language.removeprefix("mean ") if language in self.groups else self.tiers[language]

    def grouped(self, by_language: Mapping[str, np.ndarray], *, known_only: bool = False) -> dict[str, np.ndarray]:
        """Add the mean over the languages of each group.

        With ``known_only`` it is over the languages that have a value, and NaN where none has; else one without a value leaves none.
        """
        out = dict(by_language)
        for group, tags in self.groups.items():
            members = [by_language[tag] for tag in tags if tag in by_language]
            if members:
                out[group] = known_mean(np.stack(members)) if known_only else np.mean(members, axis=0)
        return out


def repair_rates(resampler: Resampler, *, methods: Sequence[str] | None = None, confidence: float = 0.95) -> RepairRates:
    """Count every method, or those that are named, per language and as mean over groups of languages."""
    rows = []
    for method in resampler.runs if methods is None else methods:
        run = resampler.runs[method]
        for statistic, by_language in resampler.estimates(method).items():
            for language, values in resampler.grouped(by_language, known_only=statistic in _SOME).items():
                row = {"method": method, "statistic": statistic, "draws": len(run.refused), "labels": run.labels}
                within = (-1.0, 1.0) if statistic == "selectivity" else (0.0, 1.0)
                rows.append(row | entry(resampler, language, values, confidence, resampler.meanings(method, statistic, language), within))
    return RepairRates(pd.DataFrame(rows)[list(RepairRates.required)], {"resamples": resampler.resamples, "confidence": confidence})


def repair_contrasts(
    resampler: Resampler, method: str, others: Sequence[str], *, statistics: Sequence[str] = RATES, confidence: float = 0.95
) -> RepairContrasts:
    """Subtract other methods from one, resample by resample."""
    rows, mine = [], resampler.estimates(method)
    for other in others:
        theirs = resampler.estimates(other)
        for statistic in statistics:
            differences = {tag: mine[statistic][tag] - theirs[statistic][tag] for tag in mine[statistic]}
            for language, values in resampler.grouped(differences, known_only=statistic in _SOME).items():
                draws = min(len(resampler.runs[name].refused) for name in (method, other))
                row = {"method": method, "other": other, "statistic": statistic, "draws": draws}
                within = (-2.0, 2.0) if statistic == "selectivity" else (-1.0, 1.0)
                rows.append(row | entry(resampler, language, values, confidence, resampler.meanings(method, statistic, language), within))
    return RepairContrasts(pd.DataFrame(rows)[list(RepairContrasts.required)], {"resamples": resampler.resamples, "confidence": confidence})


def entry(
    resampler: Resampler, language: str, values: np.ndarray, confidence: float, meanings: Sequence[int], within: tuple[float, float]
) -> dict[str, object]:
    """Return an estimate with its interval as a row of a table.

    Parameters
    ----------
    language : str
        A tag, or one of ``resampler.groups``.
    values : float array [1 + resample]
        The estimate, then its resamples; NaN where there was nothing to count.
    confidence : float
        Of the interval, such as .95.
    meanings : sequence of int
        How many the estimate rests on, for each class that it counts (:meth:`Resampler.meanings`): the width where no resample differs.
    within : tuple of float
        The least and the greatest value that it can have.

    Returns
    -------
    dict
        ``language, tier, value, low, high`` and ``n``, the meanings asked. The ends are NaN where nothing could be counted.
    """
    low, high = _interval(values, confidence, meanings, within)
    n = int(resampler.prompts.loc[resampler.asked(language), "meaning_id"].nunique())
    return {"language": language, "tier": resampler.tier_of(language), "value": float(values[0]), "low": low, "high": high, "n": n}


def _interval(values: np.ndarray, confidence: float, meanings: Sequence[int], within: tuple[float, float]) -> tuple[float, float]:
    """Percentiles of the resamples; where they do not differ, Wilson over meanings: at most so many of others would have differed."""
    known = values[1:][np.isfinite(values[1:])]
    if not len(known) or not np.isfinite(values[0]):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = (float(end) for end in np.quantile(known, [tail, 1 - tail]))
    if np.ptp(known) < 1e-9 and min(meanings) > 0:
        slack = math.hypot(*(wilson(0, n, confidence).high for n in meanings))  # two classes are independent: bounds add in quadrature
        low, high = max(float(values[0]) - slack, within[0]), min(float(values[0]) + slack, within[1])
    return low, high
