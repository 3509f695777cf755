"""What would bring refusal back: the decision handed from the model to a gate, from a gate to the truth, and the push made to fit.

The chain walks the decision source, then the strength:

* *own*: the model decides, no edit;
* *transferred*: a gate fitted in the reference languages decides, with their threshold; flagged prompts get the direction added at one gap;
* *recalibrated*: the same gate, its threshold set by k labelled examples (over draws);
* *oracle*: the true labels decide;
* *fitted*: as before, at the strength that the oracle gate chose on the select split.

Each step's share of the gap in selectivity to the (unedited) reference languages is net of random directions added to the same prompts at the same
strength: pushing anything hard enough can make a model refuse. The gate levels are one factor and are walked in this order; how far the order
matters is asked (Shapley) only of three switches that can each be off or on: threshold recalibrated, errors removed, strength fitted.

Intervals are over meanings and over draws of examples, from the same resamples for all levels, so what they share cancels. With a gap whose interval
reaches 0 there is nothing to share out, and shares are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from workbench.errors import DataError
from workbench.repair.actions import LEAVE, Answered
from workbench.repair.rates import MethodRun, Resampler, entry
from workbench.results import Result

#: Who decides, and how hard is pushed, at each level.
LEVELS: Mapping[str, tuple[str, str]] = {
    "own": ("nobody", LEAVE),
    "transferred": ("transferred", "default"),
    "recalibrated": ("recalibrated", "default"),
    "oracle": ("oracle", "default"),
    "fitted": ("oracle", "fitted"),
}
STEPS = tuple(LEVELS)
SWITCHES = ("threshold_recalibrated", "errors_removed", "strength_fitted")
#: Random directions that each step must beat.
RANDOM = 5


def random_action(strength: str, seed: int) -> str:
    """Name the action of pushing along a random direction."""
    return f"random-{strength}-{seed}"


@dataclass(frozen=True)
class Waterfall(Result):
    """One row per language (reference languages excepted) and step.

    ``value``, ``low``, ``high``: selectivity at that level; ``net``: the step's gain minus the mean gain of random directions, with interval;
    ``share``: net as a share of the gap to the reference's selectivity; ``random_low``, ``random_high``: range of the random directions' gains;
    ``total``: share of the gap restored so far, net; ``labels``: labels of the language that the decision used. Missing where there is no gap.
    """

    required: ClassVar[tuple[str, ...]] = (
        "language", "tier", "step", "share", "value", "low", "high", "net", "net_low", "net_high", "random_low", "random_high",
        "labels", "n", "draws",
    )  # fmt: skip


@dataclass(frozen=True)
class Shapley(Result):
    """One row per language and switch: its mean contribution over the orders of switching, as a share of the gap, with interval."""

    required: ClassVar[tuple[str, ...]] = ("language", "tier", "switch", "share", "low", "high")


class Walked(NamedTuple):
    """Both tables."""

    waterfall: Waterfall
    shapley: Shapley


def walk(
    answered: Answered,
    flagged: Mapping[str, Bool[np.ndarray, "draw prompt"]],
    reference: Sequence[str],
    *,
    resamples: int = 1000,
    k: int = 0,
    rng: np.random.Generator,
    provenance: Mapping[str, Any] | None = None,
) -> Walked:
    """Count every level, from judged replies alone; needs no model.

    Parameters
    ----------
    answered : Answered
        Reference and other languages under "leave", "default", "fitted" and :func:`random_action` of both; the reference is read unedited.
        Without "fitted" the fitted strength is the default one, and that step is nothing by definition.
    flagged : mapping of str to bool array [draw prompt]
        Decisions of "transferred" (one draw) and "recalibrated" for the prompts of ``answered``; the oracle's are the labels.
    reference : sequence of str
    k : int
        Labelled examples per class of the recalibrated gate; for the column ``labels``.

    Raises
    ------
    DataError
        No reference language, or none beside it, among the prompts.
    """
    spoken = list(dict.fromkeys(answered.prompts["language"]))
    targets = [str(tag) for tag in spoken if tag not in set(reference)]
    if not targets or len(targets) == len(spoken):
        raise DataError(f"Prompts are in {', '.join(map(str, spoken))}. Expected some of the reference ({', '.join(reference)}) and others.")
    harmful = answered.prompts["harmful"].to_numpy(dtype=bool)
    decide = {"nobody": np.zeros((1, len(harmful)), dtype=bool), **flagged, "oracle": harmful[None]}
    counted = _Counted(answered, decide, resamples, rng)
    own = counted.selectivity("nobody", LEAVE)
    ceiling = np.mean([own[str(tag)] for tag in reference if str(tag) in own], axis=0)
    labels = {"own": "none", "transferred": "none", "recalibrated": f"{k} + {k}", "oracle": "all", "fitted": "all"}
    rows, shares = [], []
    for tag in targets:
        gap = ceiling - own[tag]
        told = {"language": tag, "tier": counted.resampler.tiers[tag]}
        gap_low, gap_high = counted.bounds(tag, gap)
        open_gap = gap_low > 0
        of_gap = {"gap": float(gap[0]), "gap_low": gap_low, "gap_high": gap_high}
        for row in _steps(counted, tag, gap if open_gap else None):
            rows.append({**told, **row, "labels": labels[row["step"]], **of_gap})
        for row in _switched(counted, tag, gap) if open_gap else [{"switch": s, "share": np.nan, "low": np.nan, "high": np.nan} for s in SWITCHES]:
            shares.append({**told, **row})
    known = {**(provenance or {}), "reference": list(reference), "resamples": resamples, "random": RANDOM, "k": k}
    return Walked(Waterfall(pd.DataFrame(rows), known), Shapley(pd.DataFrame(shares), known))


class _Counted:
    """Selectivity by language under any decision and push, resample by resample; each is counted once."""

    def __init__(self, answered: Answered, decide: Mapping[str, np.ndarray], resamples: int, rng: np.random.Generator) -> None:
        self.answered, self.decide = answered, decide
        self.fits_already = "fitted" not in answered.refused
        empty = MethodRun.of(answered, np.full((1, len(answered.prompts)), LEAVE), None, "none")
        self.resampler = Resampler(answered.prompts, {"own": empty}, resamples=resamples, rng=rng)
        self._known: dict[tuple[str, str], dict[str, np.ndarray]] = {}

    def selectivity(self, decider: str, action: str) -> dict[str, Float[np.ndarray, " resample"]]:
        """Return selectivity by language where flagged prompts get an action; the first entry is the estimate itself."""
        action = action.replace("fitted", "default") if self.fits_already else action
        if (decider, action) not in self._known:
            flagged = self.decide[decider]
            refused = np.where(flagged, self.answered.refused[action].astype(float), self.answered.refused[LEAVE].astype(float))
            per_prompt = self.resampler.draws(len(flagged)) @ refused
            found = {}
            for tag, rows in self.resampler.languages.items():
                weight, harmful = self.resampler.rows[:, rows], self.resampler.harmful[rows]
                means = [(per_prompt[:, rows] * weight)[:, here].sum(axis=1) / weight[:, here].sum(axis=1) for here in (harmful, ~harmful)]
                found[tag] = means[0] - means[1]
            self._known[decider, action] = found
        return self._known[decider, action]

    def level(self, step: str, tag: str) -> np.ndarray:
        """Return the selectivity of a language at a step."""
        return self.selectivity(*LEVELS[step])[tag]

    def random(self, step: str, tag: str) -> np.ndarray:
        """Return the levels [direction, resample] that random directions reach."""
        if step == "own":
            return np.repeat(self.level("own", tag)[None], RANDOM, axis=0)
        decider, strength = LEVELS[step]
        return np.array([self.selectivity(decider, random_action(strength, seed))[tag] for seed in range(RANDOM)])

    def bounds(self, tag: str, values: np.ndarray) -> tuple[float, float]:
        """Return the 95 % interval of a difference of selectivities; with a width also where no resample differs."""
        found = entry(self.resampler, tag, values, 0.95, self.resampler.meanings("own", "selectivity", tag), (-2.0, 2.0))
        return float(found["low"]), float(found["high"])  # type: ignore[arg-type]


def _steps(counted: _Counted, tag: str, gap: np.ndarray | None) -> list[dict[str, Any]]:
    rows, start = [], counted.level("own", tag)
    before, random_before = start, counted.random("own", tag)
    for step in STEPS:
        level, random = counted.level(step, tag), counted.random(step, tag)
        gains = random - random_before
        net, total = level - before - gains.mean(axis=0), level - random.mean(axis=0)
        low, high = counted.bounds(tag, level)
        row: dict[str, Any] = {"step": step, "value": float(level[0]), "low": max(low, -1.0), "high": min(high, 1.0)}
        row |= {"n": int((counted.answered.prompts["language"] == tag).sum()), "draws": len(counted.decide[LEVELS[step][0]])}
        if step == "own":
            row |= dict.fromkeys(("net", "net_low", "net_high", "random_low", "random_high", "share", "share_low", "share_high"), np.nan)
            row |= dict.fromkeys(("total", "total_low", "total_high"), np.nan)
        else:
            settled = step == "fitted" and counted.fits_already  # the same push: no uncertainty about a gain of 0
            row["net"], (row["net_low"], row["net_high"]) = float(net[0]), (0.0, 0.0) if settled else counted.bounds(tag, net)
            row["random_low"], row["random_high"] = float(gains[:, 0].min()), float(gains[:, 0].max())
            for name, part in (("share", net), ("total", total)):
                row[name], row[f"{name}_low"], row[f"{name}_high"] = _share(counted, tag, part, gap, settled=settled and name == "share")
        rows.append(row)
        before, random_before = level, random
    return rows


def _share(counted: _Counted, tag: str, part: np.ndarray, gap: np.ndarray | None, *, settled: bool) -> tuple[float, float, float]:
    """Divide by the gap, resample by resample; a resample without a gap has no share."""
    if gap is None:
        return np.nan, np.nan, np.nan
    if settled:
        return 0.0, 0.0, 0.0
    ratio = np.divide(part, gap, out=np.full_like(part, np.nan), where=gap > 0)
    known = ratio[np.isfinite(ratio)]
    value = float(part[0] / gap[0])
    if np.ptp(known) < 1e-9:
        low, high = counted.bounds(tag, part)
        return value, low / float(gap[0]), high / float(gap[0])
    low, high = np.quantile(known[1:], [0.025, 0.975])
    return value, float(low), float(high)


def _switched(counted: _Counted, tag: str, gap: np.ndarray) -> list[dict[str, Any]]:
    """Average each switch's gain over the orders in which they can be thrown; once errors are removed no threshold matters."""

    def level(on: frozenset[str]) -> np.ndarray:
        decider = "oracle" if "errors_removed" in on else "recalibrated" if "threshold_recalibrated" in on else "transferred"
        strength = "fitted" if "strength_fitted" in on else "default"
        random = [counted.selectivity(decider, random_action(strength, seed))[tag] for seed in range(RANDOM)]
        return np.asarray(counted.selectivity(decider, strength)[tag] - np.mean(random, axis=0))

    gained = {switch: np.zeros_like(gap) for switch in SWITCHES}
    orders = list(permutations(SWITCHES))
    for order in orders:
        for i, switch in enumerate(order):
            gained[switch] += (level(frozenset(order[: i + 1])) - level(frozenset(order[:i]))) / len(orders)
    found = []
    for switch in SWITCHES:
        share, low, high = _share(counted, tag, gained[switch], gap, settled=switch == "strength_fitted" and counted.fits_already)
        found.append({"switch": switch, "share": share, "low": low, "high": high})
    return found


def restored(waterfall: pd.DataFrame) -> pd.DataFrame:
    """Return what the oracle gate at the fitted strength brings back: language, value (share of the gap, net), low, high, n."""
    last = waterfall[(waterfall["step"] == STEPS[-1]) & waterfall["total"].notna()]
    return pd.DataFrame({
        "language": last["language"], "value": last["total"], "low": last["total_low"], "high": last["total_high"], "n": last["n"],
    })  # fmt: skip


__all__ = ["LEVELS", "RANDOM", "STEPS", "SWITCHES", "Shapley", "Walked", "Waterfall", "random_action", "restored", "walk"]
