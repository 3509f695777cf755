"""What an edit, or a training step, changed: the same prompts judged before and after, compared pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool
from scipy.stats import binomtest

from workbench.behavior.refusal import STATISTICS, hits_of, judged_rows
from workbench.behavior.resampling import mover_sum
from workbench.errors import DataError, shown
from workbench.prompts.grid import PromptGrid
from workbench.results import Result
from workbench.statistics import Estimate, bootstrap_weights, newcombe_paired


@dataclass(frozen=True)
class RateChange(Result):
    """Change of a rate per language: ``value`` = ``after`` - ``before``, in shares (-1 to 1; 0 is no change), on the same prompts.

    Rates carry Newcombe's paired interval (method 10), selectivity the two classes' combined; ``gained`` and ``lost`` count the prompts that came
    and went, ``p`` is McNemar's exact test of them (two-sided; not adjusted for the number of rows; NaN for selectivity). With a bootstrap,
    ``low_bootstrap`` and ``high_bootstrap`` stand beside.
    """

    required: ClassVar[tuple[str, ...]] = (
        "language", "tier", "statistic", "before", "after", "value", "low", "high", "n", "gained", "lost", "p", "judge", "validated",
    )  # fmt: skip


def compare_rates(
    before: pd.DataFrame, after: pd.DataFrame, grid: PromptGrid, *, bootstrap: int | bool = False, rng: np.random.Generator | None = None
) -> RateChange:
    """Compare the outcomes of two conditions (without and with an edit; two models) on the same prompts.

    Parameters
    ----------
    before, after : DataFrame
        From the same judge: prompt_id, outcome, correct, judge, validated.
    grid : PromptGrid
        Which prompts to compare, as of :func:`workbench.behavior.refusal.refusal_rates`.
    bootstrap : int or bool
        Resamples (True: 2000) of a percentile bootstrap over meanings, the same ones before and after.
    rng : Generator
        Needed for it.

    Raises
    ------
    DataError
        If the two do not hold the same prompts of the grid, or a prompt was judged by two different judges.

    References
    ----------
    Newcombe 1998, Stat. Med. 17:2635; McNemar 1947, Psychometrika 12:153 (exact form).
    """
    resamples = 2000 if bootstrap is True else int(bootstrap)
    if resamples and rng is None:
        raise DataError(f"bootstrap={bootstrap!r} without rng. Give rng=np.random.default_rng(seed), so that the interval can be had again.")
    rows = _both(judged_rows(before, grid), judged_rows(after, grid))
    counted = []
    for tag, part in rows.groupby("language", sort=False):
        label = {"language": tag, "tier": part["tier"].iloc[0]}
        who = {"judge": " + ".join(dict.fromkeys(part["judge"])), "validated": bool(part["validated"].all() and part["validated_after"].all())}
        shares: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in STATISTICS:
            if name in ("selectivity", "unclear"):
                continue
            pair = _pair(part, name)
            if name == "answer_accuracy" and not len(pair[0]):
                continue
            shares[name] = pair
        for name, estimate in _changes(shares).items():
            drawn = {}
            if resamples and rng is not None:
                pairs = [shares["harmful_refusal"], shares["harmless_refusal"]] if name == "selectivity" else [shares[name]]
                low, high = _bootstrap(pairs, resamples, rng)
                drawn = {"low_bootstrap": low, "high_bootstrap": high}
            counted.append({**label, "statistic": name, **estimate, **who, **drawn})
    columns = [*RateChange.required, *(("low_bootstrap", "high_bootstrap") if resamples else ())]
    return RateChange(pd.DataFrame(counted, columns=columns), {"grid": grid.hash, "n_prompts": len(rows)})


def paired_change(before: Bool[np.ndarray, " case"], after: Bool[np.ndarray, " case"]) -> dict[str, float]:
    """Return what changed between two yes/no answers about the same cases: before, after, value, low, high, n, gained, lost, p.

    Examples
    --------
    >>> change = paired_change(np.array([True] * 8 + [False] * 2), np.array([False] * 6 + [True] * 4))
    >>> round(change["value"], 2), change["gained"], change["lost"], round(change["p"], 3)
    (-0.4, 2, 6, 0.289)
    """
    before, after = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    n, gained, lost = len(before), int((after & ~before).sum()), int((before & ~after).sum())
    found = newcombe_paired(after, before)
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    rates = (float(before.mean()), float(after.mean())) if n else (float("nan"), float("nan"))
    return {
        "before": rates[0], "after": rates[1], "value": found.difference, "low": found.low, "high": found.high, "n": n,
        "gained": gained, "lost": lost, "p": p if n else float("nan"),
    }  # fmt: skip


def _both(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    lacking = sorted(set(before["prompt_id"]) ^ set(after["prompt_id"]))
    if lacking:
        raise DataError(
            f"{len(lacking)} prompts, such as {shown(lacking[0], 64)}, were judged before or after only ({len(before)} before, {len(after)} after). "
            "Expected the same prompts; give a grid of those that both have (grid.select), or judge the missing replies."
        )
    rows = before.merge(after[["prompt_id", "outcome", "correct", "judge", "validated"]], on="prompt_id", suffixes=("", "_after"), validate="1:1")
    other = rows[rows["judge"] != rows["judge_after"]]
    if len(other):
        first = other.iloc[0]
        raise DataError(
            f"{len(other)} prompts were judged by different judges before and after, such as {shown(first['prompt_id'], 64)} by "
            f"{first['judge']!r} and {first['judge_after']!r}: a change of judge looks like a change of the model. Judge both with one."
        )
    keyed = rows["correct"].notna() != rows["correct_after"].notna()
    if keyed.any():
        raise DataError(f"Prompt {shown(rows.loc[keyed, 'prompt_id'].iloc[0], 64)} has a key before or after only. Judge both with one grid.")
    return rows


def _pair(part: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    later = part.assign(outcome=part["outcome_after"], correct=part["correct_after"])
    first, counts = hits_of(part, name)
    second, _ = hits_of(later, name)
    return first[counts].to_numpy(dtype=bool), second[counts].to_numpy(dtype=bool)


def _changes(shares: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Return each rate's change, and selectivity's behind the two it is made of."""
    found = {name: paired_change(*pair) for name, pair in shares.items()}
    harmful, harmless = (found[f"{kind}_refusal"] for kind in ("harmful", "harmless"))
    moved = mover_sum([(1.0, _estimate(harmful)), (-1.0, _estimate(harmless))])
    selectivity = {
        "before": harmful["before"] - harmless["before"], "after": harmful["after"] - harmless["after"], **moved._asdict(),
        "n": harmful["n"] + harmless["n"], "gained": 0, "lost": 0, "p": float("nan"),
    }  # fmt: skip
    ordered = {"harmful_refusal": harmful, "harmless_refusal": harmless, "selectivity": selectivity}
    return ordered | {name: change for name, change in found.items() if name not in ordered}


def _estimate(change: dict[str, float]) -> Estimate:
    return Estimate(change["value"], change["low"], change["high"])


def _bootstrap(pairs: list[tuple[np.ndarray, np.ndarray]], resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """Percentile interval of a paired difference, or of the first pair's minus the second's (other meanings, drawn independently)."""
    drawn = np.zeros(resamples)
    for sign, (before, after) in zip((1.0, -1.0), pairs, strict=False):
        n = len(before)
        if not n:
            return float("nan"), float("nan")
        # within a language each meaning is one prompt, so a pair is a meaning
        change = after.astype(np.float64) - before
        drawn += sign * (bootstrap_weights(n, resamples, rng) @ change) / n
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
