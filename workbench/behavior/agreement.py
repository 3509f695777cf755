"""How far two judges say the same, per language: counts first, then kappa and, where one is the truth, sensitivity and specificity."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from workbench.behavior.markers import measured_agreement
from workbench.behavior.outcomes import check_outcomes
from workbench.errors import DataError, did_you_mean, shown
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import tier_of
from workbench.results import Result
from workbench.statistics import Interval, wilson

#: Replies of either kind that a language needs to stand alone; smaller ones are pooled.
LEAST = 10
_DRAWS = 4000
_COUNTS = ("both", "first_only", "second_only", "neither")


@dataclass(frozen=True)
class JudgeAgreement(Result):
    """One row per pair of judges and language (or pool of small ones).

    ``first`` and ``second`` name the judges, ``both``, ``first_only``, ``second_only`` and ``neither`` count who called a reply a refusal.
    ``kappa`` is Cohen's, ``kappa_low`` and ``kappa_high`` its interval (0 is chance, 1 is perfect; NaN where neither varies). Where the
    second is the truth (``truth``): ``sensitivity`` (its refusals found) over ``n_refusals`` and ``specificity`` (its others left alone) over
    ``n_others``, with Wilson's intervals. ``pooled`` names the languages of a pool: those with fewer than ten replies of either kind.
    """

    required: ClassVar[tuple[str, ...]] = (
        "language", "tier", "first", "second", "n", *_COUNTS, "agreement", "kappa", "kappa_low", "kappa_high", "truth", "sensitivity",
        "sensitivity_low", "sensitivity_high", "n_refusals", "specificity", "specificity_low", "specificity_high", "n_others", "pooled",
    )  # fmt: skip


def judge_agreement(
    judges: Mapping[str, pd.DataFrame], grid: PromptGrid, *, truth: str | None = None, least: int = LEAST, seed: int = 0
) -> JudgeAgreement:
    """Compare the outcomes that two or more judges gave the same replies.

    Parameters
    ----------
    judges : mapping of name to outcomes
        Each from a judge's ``outcomes``. Refusal or not is compared; prompts that one of them lacks are left out.
    grid : PromptGrid
        For the languages.
    truth : str, optional
        The judge whose labels are taken for the truth (a person's); every other one is then compared with it.
    least : int
        Replies called a refusal, and others, by the second judge that a language needs; smaller ones are pooled in one row.
    seed : int
        Of the draws behind kappa's intervals.

    Raises
    ------
    DataError
        For fewer than two judges, an unknown ``truth``, outcomes outside of the four, or two judges without a reply in common.

    References
    ----------
    Cohen 1960, Educ. Psychol. Meas. 20:37. Interval: quantiles of kappa over Dirichlet(counts + 1/2), so that a perfect score keeps a
    width (inferred; coverage tested).
    """
    if len(judges) < 2:
        raise DataError(f"Got the outcomes of {len(judges)} judges. Expected at least two, by name.")
    if truth is not None and truth not in judges:
        raise DataError(f"truth={truth!r} is none of the judges {', '.join(judges)}.{did_you_mean(truth, judges)}")
    labels = grid.frame[["prompt_id", "language"]]
    refuses = {name: check_outcomes(table).set_index("prompt_id")["outcome"].eq("refusal") for name, table in judges.items()}
    pairs = [(name, truth) for name in judges if name != truth] if truth is not None else list(itertools.combinations(judges, 2))
    counted = []
    for first, second in pairs:
        rows = labels.assign(first=labels["prompt_id"].map(refuses[first]), second=labels["prompt_id"].map(refuses[second])).dropna()
        if rows.empty:
            raise DataError(f"{shown(first, 64)} and {shown(second, 64)} judged no reply of this grid in common. Give outcomes of the same replies.")
        for tag, part in rows.groupby("language", sort=False):
            one, two = part["first"].to_numpy(dtype=bool), part["second"].to_numpy(dtype=bool)
            counts = [int(n.sum()) for n in (one & two, one & ~two, ~one & two, ~one & ~two)]
            counted.append({"language": str(tag), "first": first, "second": str(second), **dict(zip(_COUNTS, counts, strict=True))})
    table = _with_estimates(pd.DataFrame(counted), truth is not None, least, np.random.default_rng(seed))
    return JudgeAgreement(table, {"grid": grid.hash, "judges": list(judges), "truth": truth, "least": least, "seed": seed})


def marker_judge_agreement(*, least: int = LEAST, seed: int = 0) -> JudgeAgreement:
    """Return how the shipped refusal phrases agree with WildGuard's labels, from the stored measurement (docs/judges.md).

    Counts are those that the stored shares stand for, to their rounding.
    """
    measured = measured_agreement()
    both = (measured["sensitivity"] * measured["n_refusals"]).round().astype(int)
    neither = (measured["specificity"] * measured["n_others"]).round().astype(int)
    rows = measured[["language"]].assign(first="markers", second="WildGuard", both=both, first_only=measured["n_others"] - neither)
    rows = rows.assign(second_only=measured["n_refusals"] - both, neither=neither)
    return JudgeAgreement(_with_estimates(rows, True, least, np.random.default_rng(seed)), {"source": "marker_agreement.csv", "truth": "WildGuard"})


def cohen_kappa(both: float, first_only: float, second_only: float, neither: float) -> float:
    """Return Cohen's kappa of a two-by-two table; 0 is chance, NaN where nothing varies.

    Examples
    --------
    >>> round(cohen_kappa(20, 5, 10, 15), 3), cohen_kappa(9, 0, 0, 0)
    (0.4, nan)
    """
    return float(_kappa(np.array([both, first_only, second_only, neither], dtype=np.float64)))


def _kappa(table: np.ndarray) -> np.ndarray:
    """Kappa over the last axis (both, first only, second only, neither)."""
    p = table / table.sum(axis=-1, keepdims=True)
    first, second = p[..., 0] + p[..., 1], p[..., 0] + p[..., 2]
    chance = first * second + (1 - first) * (1 - second)
    return np.divide(p[..., 0] + p[..., 3] - chance, 1 - chance, out=np.full(chance.shape, np.nan), where=chance < 1)


def kappa_interval(counts: np.ndarray, rng: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Return kappa's interval: quantiles over Dirichlet(counts + 1/2); NaN where kappa is."""
    value = float(_kappa(np.asarray(counts, dtype=np.float64)))
    if not np.isfinite(value):
        return Interval(float("nan"), float("nan"))
    drawn = _kappa(rng.dirichlet(np.asarray(counts, dtype=np.float64) + 0.5, size=_DRAWS))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(min(float(low), value), max(float(high), value))


def _with_estimates(counts: pd.DataFrame, truth: bool, least: int, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    few = (counts["both"] + counts["second_only"] < least) | (counts["first_only"] + counts["neither"] < least)
    small_ones = set(counts.loc[few, "language"])  # the same ones for every pair, so that rows can be compared
    for (first, second), pair in counts.groupby(["first", "second"], sort=False):
        small = pair["language"].isin(small_ones)
        alone = pair if len(small_ones) < 2 else pair[~small]
        groups: list[tuple[str, str | None, pd.DataFrame, str]] = [
            (str(tag), tier_of(str(tag)), part, "") for tag, part in alone.groupby("language", sort=False)
        ]
        if len(alone) < len(pair):  # one alone stays as it is, with its wide interval
            tags = ", ".join(pair.loc[small, "language"])
            groups.append((f"{int(small.sum())} small ones", None, pair[small], tags))
        for tag, tier, part, pooled in groups:
            cells = part[list(_COUNTS)].sum().to_numpy(dtype=np.int64)
            label: dict[str, Any] = {"language": tag, "tier": tier, "first": first, "second": second, "truth": truth, "pooled": pooled}
            rows.append(label | _estimates(cells, truth, rng))
    return pd.DataFrame(rows)[list(JudgeAgreement.required)]


def _estimates(cells: np.ndarray, truth: bool, rng: np.random.Generator) -> dict[str, Any]:
    both, first_only, second_only, neither = (int(cell) for cell in cells)
    n, refusals, others = int(cells.sum()), both + second_only, first_only + neither
    low, high = kappa_interval(cells, rng)
    found: dict[str, Any] = {"n": n, **dict(zip(_COUNTS, map(int, cells), strict=True)), "agreement": (both + neither) / n}
    found |= {"kappa": cohen_kappa(*map(float, cells)), "kappa_low": low, "kappa_high": high, "n_refusals": refusals, "n_others": others}
    for name, k, m in (("sensitivity", both, refusals), ("specificity", neither, others)):
        known = truth and m > 0
        bounds = wilson(k, m) if known else Interval(float("nan"), float("nan"))
        found |= {name: k / m if known else float("nan"), f"{name}_low": bounds.low, f"{name}_high": bounds.high}
    return found
