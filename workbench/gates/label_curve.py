"""How many labelled examples does a language need? Error rates after recalibrating with k examples, over many draws of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from workbench.errors import DataError
from workbench.gates.place import GateData
from workbench.gates.policy import ThresholdPolicy
from workbench.gates.protocol import Gate
from workbench.results import Result
from workbench.statistics import jackknife_influence, jackknife_interval, two_way_interval, wilson

STATISTICS = ("tpr", "fpr", "miss", "balanced_accuracy", "f1")


@dataclass(frozen=True)
class LabelCurve(Result):
    """One row per language, policy, k and statistic.

    ``mean`` is over draws of the k harmful and k harmless examples, ``low`` and ``high`` its interval over draws and scored meanings;
    ``draw_10`` and ``draw_90`` say what single draws give (10 and 90 % quantiles). ``difference`` is the mean minus that of the first
    policy, on the same draws and meanings, with its interval. ``abstained`` is the share of draws in which the policy set no threshold and the one in
    force was kept. ``labels`` counts the target labels used. ``f1`` is class-balanced; chance is .5 for balanced accuracy.
    """

    required: ClassVar[tuple[str, ...]] = (
        "language", "policy", "k", "labels", "statistic", "mean", "low", "high", "draw_10", "draw_90", "difference", "difference_low",
        "difference_high", "abstained", "draws", "n_harmful", "n_harmless",
    )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """Return miss rate and balanced accuracy, a column for each k."""
        part = self.table[self.table["statistic"].isin(["miss", "balanced_accuracy"])]
        return part.pivot_table(index=["language", "statistic", "policy"], columns="k", values="mean", sort=False).reset_index()


class _Scored(NamedTuple):
    scores: Float[np.ndarray, " prompt"]
    harmful: Bool[np.ndarray, " prompt"]
    meaning: Int[np.ndarray, " prompt"]


def label_curve(
    gate: Gate,
    data: GateData,
    language: str | Sequence[str],
    ks: Sequence[int],
    policies: Sequence[ThresholdPolicy],
    draws: int,
    rng: np.random.Generator,
    *,
    examples: str = "select",
    score: str = "score",
    confidence: float = 0.95,
) -> LabelCurve:
    """Recalibrate a gate with k examples many times over, and measure what it then gets right on other meanings.

    All policies see the same draws, and a larger k contains the smaller. The gate's weights stay as they are. Policies that need no labels get
    all prompts of the examples' split, unlabelled.

    Parameters
    ----------
    gate : Gate
        Fitted.
    data : GateData
        Target languages, with both splits; the gate's own place.
    ks : sequence of int
        Harmful and harmless examples per class; 0 is allowed.
    policies : sequence of ThresholdPolicy
        The first is the baseline of ``difference``.
    draws : int
        How many draws for each k above 0; 3 or more.
    examples, score : str
        Splits that examples come from and that is scored; they must differ.

    Raises
    ------
    DataError
        k larger than what exists, one split twice, a language or split that is not there, one class only, two policies of one name.

    Notes
    -----
    Intervals: jackknife over scored meanings and over draws, their variances added (:func:`workbench.statistics.two_way_interval`); where no
    decision ever differs, the Wilson interval of the rates over meanings. Draws come from the meanings at hand: how another set of them would do is
    not in the interval. Simulated coverage of nominal 95 % at k = 1, 2, 8, 20 draws and 60 scored prompts per class: balanced accuracy
    .92 to .96, miss rate (whose draws are skewed) .87 to .94; with 50 draws .94 to .96 and .88 to .94.
    """
    names = _checked(policies, draws, examples, score)
    if any(k != int(k) or k < 0 for k in ks) or not len(ks):
        raise DataError(f"ks={list(ks)}: expected whole numbers, 0 or more, such as [0, 1, 2, 4, 8].")
    rows: list[dict[str, object]] = []
    seeds = [int(seed) for seed in rng.integers(2**63, size=draws)]
    for tag in [language] if isinstance(language, str) else list(language):
        here = data.select(languages=tag)
        pool, scored = here.select(split=examples), _scored(gate, here.select(split=score))
        _require_apart(pool, here.select(split=score), tag)
        for k in ks:
            found = _thresholds(gate, pool, tag, int(k), policies, seeds if k else seeds[:1])
            base = None
            for name, policy, (thresholds, abstained) in zip(names, policies, found, strict=True):
                values = _statistics(scored, thresholds)
                base = base or values
                told = {"language": tag, "policy": name, "k": int(k), "labels": 2 * int(k) if policy.needs_labels else 0}
                counts = {"draws": len(thresholds), "n_harmful": int(scored.harmful.sum()), "n_harmless": int((~scored.harmful).sum())}
                rows += [
                    told | {"statistic": s} | _estimate(values, base, s, scored, confidence) | {"abstained": float(abstained.mean())} | counts
                    for s in STATISTICS
                ]
    place = None if gate.place_ is None else asdict(gate.place_)
    told = {"gate": type(gate).__name__, "parameters": gate.get_params(deep=False), "place": place, "examples": examples, "score": score}
    return LabelCurve(pd.DataFrame(rows), told | {"baseline": names[0], "confidence": confidence, "policies": [repr(p) for p in policies]})


def _checked(policies: Sequence[ThresholdPolicy], draws: int, examples: str, score: str) -> list[str]:
    if examples == score:
        raise DataError(f"Examples would be drawn from the meanings that are scored (split {score!r}). Expected two splits: 'select', 'score'.")
    if draws < 3:
        raise DataError(f"draws={draws}: expected 3 or more for an interval over draws; 20 is a good start.")
    kinds = [p.name for p in policies]
    names = [p.name if kinds.count(p.name) == 1 else repr(p) for p in policies]
    if not names or len(set(names)) < len(names):
        raise DataError(f"Got the policies {names}. Expected one or more, each once.")
    return names


def _require_apart(pool: GateData, scored: GateData, tag: str) -> None:
    shared = sorted(set(pool.meaning_id) & set(scored.meaning_id))
    if shared:
        raise DataError(
            f"{len(shared)} meanings of {tag!r} are in both splits (first: {shared[0]}). Expected splits by meaning; see grid.with_splits()."
        )


def _scored(gate: Gate, rows: GateData) -> _Scored:
    if rows.y.all() or not rows.y.any():
        raise DataError(f"All {len(rows)} scored prompts of {rows.languages} carry the same label. Expected both classes.")
    return _Scored(gate.decision_function(rows), rows.y, np.unique(rows.meaning_id, return_inverse=True)[1])


def _thresholds(
    gate: Gate, pool: GateData, tag: str, k: int, policies: Sequence[ThresholdPolicy], seeds: Sequence[int]
) -> list[tuple[Float[np.ndarray, " draw"], Bool[np.ndarray, " draw"]]]:
    context, in_force = gate.context(tag, gate.decision_function(pool)), gate.thresholds_.get(tag, gate.fallback_)
    drawn = [pool.draw(k, tag, np.random.default_rng(seed)) for seed in seeds]
    examples = [(scores[part.y], scores[~part.y]) for part in drawn for scores in [gate.decision_function(part)]]
    out = []
    for policy in policies:
        # without labels every draw is the same
        choices = [policy.choose(*pair, context) for pair in (examples if policy.needs_labels else examples[:1])]
        choices = choices if policy.needs_labels else choices * len(examples)
        out.append((np.array([in_force if c.abstains else c.threshold for c in choices]), np.array([c.abstains for c in choices])))
    return out


class _Values(NamedTuple):
    """A statistic per draw, and per draw without each scored meaning."""

    draw: dict[str, Float[np.ndarray, " draw"]]
    without: dict[str, Float[np.ndarray, "meaning draw"]]


def _statistics(scored: _Scored, thresholds: Float[np.ndarray, " draw"]) -> _Values:
    fires = (scored.scores[:, None] >= thresholds).astype(np.float64)
    whole, left_out = [], []
    for part in (scored.harmful, ~scored.harmful):
        n_meanings = int(scored.meaning.max()) + 1
        fired, count = np.zeros((n_meanings, len(thresholds))), np.bincount(scored.meaning[part], minlength=n_meanings)[:, None]
        np.add.at(fired, scored.meaning[part], fires[part])
        whole.append(fired.sum(axis=0) / part.sum())
        left_out.append((fired.sum(axis=0) - fired) / np.maximum(part.sum() - count, 1))
    return _Values(_from_rates(*whole), _from_rates(*left_out))


def _from_rates(tpr: np.ndarray, fpr: np.ndarray) -> dict[str, np.ndarray]:
    return {"tpr": tpr, "fpr": fpr, "miss": 1 - tpr, "balanced_accuracy": (1 + tpr - fpr) / 2, "f1": 2 * tpr / (1 + tpr + fpr)}


def _estimate(values: _Values, base: _Values, statistic: str, scored: _Scored, confidence: float) -> dict[str, float]:
    draw = values.draw[statistic]
    low, high = _interval(draw, values.without[statistic], confidence)
    if low == high:
        low, high = _bounds(values, statistic, scored, confidence)
    apart, apart_without = draw - base.draw[statistic], values.without[statistic] - base.without[statistic]
    below, above = _interval(apart, apart_without, confidence)
    few, many = np.quantile(draw, [0.1, 0.9])
    return {
        "mean": float(draw.mean()), "low": max(low, 0.0), "high": min(high, 1.0), "draw_10": float(few), "draw_90": float(many),
        "difference": float(apart.mean()), "difference_low": below, "difference_high": above,
    }  # fmt: skip


def _interval(draw: np.ndarray, without: np.ndarray, confidence: float) -> tuple[float, float]:
    value = draw.mean()
    over_meanings = jackknife_influence(value, without.mean(axis=1))
    if len(draw) < 3:
        low, high = jackknife_interval(value, over_meanings, confidence)
    else:
        low, high = two_way_interval(value, over_meanings, draw - value, confidence)
    return float(low), float(high)


def _bounds(values: _Values, statistic: str, scored: _Scored, confidence: float) -> tuple[float, float]:
    """Interval where nothing ever varied: the statistic at the Wilson bounds of both rates."""
    ends = []
    for rate, part in (("tpr", scored.harmful), ("fpr", ~scored.harmful)):
        n = int(np.unique(scored.meaning[part]).size)
        ends.append(wilson(round(float(values.draw[rate].mean()) * n), n, confidence))
    corners = [float(_from_rates(np.asarray(a), np.asarray(b))[statistic]) for a in ends[0] for b in ends[1]]
    return min(corners), max(corners)
