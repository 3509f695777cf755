"""Does a gate carry over? Fitted in one language, or in all but one, and scored in another: by rank, at its own threshold, at the target's.

AUROC says whether the score ranks the target's prompts (represented), balanced accuracy at the source threshold whether the threshold carries over as
well (calibrated). Their difference to the best threshold of the target is what recalibration can give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd

from workbench.errors import DataError
from workbench.gates import Gate, GateData, RecalibratedGate
from workbench.gates.controls import FEWEST_SEEDS, permuted_labels
from workbench.results import Result
from workbench.statistics import Estimate, auroc_interval, balanced_accuracy_interval, best_threshold

ALL_OTHERS = "all others"
STATISTICS = ("auroc", "balanced_accuracy", "own_balanced_accuracy")


@dataclass(frozen=True)
class GateTransfer(Result):
    """One row per source ("all others": every language but the target; or one language), target and statistic; chance is .5 for all three.

    Statistics, on the target's score split: ``auroc``; ``balanced_accuracy`` at the threshold the sources' fit split gave (k = 0);
    ``own_balanced_accuracy`` at the threshold that was best on the target's select split, which needs all of its labels. ``low`` and ``high``: 95 %
    over scored meanings (score intervals, which keep a width at 1); the fit is held fixed. ``null``: mean over gates
    fitted on permuted labels. ``n`` scored meanings. Source equal to target: fitted on its fit split.
    """

    required: ClassVar[tuple[str, ...]] = ("source", "target", "tier", "statistic", "value", "low", "high", "null", "n")

    def summary(self) -> pd.DataFrame:
        """Return every target as judged from all other languages, and by itself."""
        part = self.table[(self.table["source"] == ALL_OTHERS) | (self.table["source"] == self.table["target"])].copy()
        part["source"] = part["source"].where(part["source"] == ALL_OTHERS, "itself")
        return part.pivot_table(index="target", columns=["statistic", "source"], values="value", sort=False).reset_index()


class _Target(NamedTuple):
    select: GateData
    score: GateData


def gate_transfer(
    data: GateData,
    tiers: Mapping[str, str | None],
    *,
    make: Callable[[], Gate] = RecalibratedGate,
    nulls: int = FEWEST_SEEDS,
    confidence: float = 0.95,
    seed: int = 0,
) -> GateTransfer:
    """Fit a gate on each language and on all but each, and score it on every language that it was meant for.

    Parameters
    ----------
    data : GateData
        At least two languages, with the splits fit, select and score, both classes in each.
    tiers : mapping of language to tier
        For the table; a PromptGrid's ``tiers``.
    make : callable
        Returns an unfitted gate.
    nulls : int
        Gates fitted on permuted labels per source, 5 or more.

    Raises
    ------
    DataError
        One language, a split or class that is missing, fewer than 5 nulls.

    Notes
    -----
    Takes 2 x languages x (1 + nulls) fits; no model is run.
    """
    if nulls < FEWEST_SEEDS:
        raise DataError(f"nulls={nulls}. Expected {FEWEST_SEEDS} gates of permuted labels or more: one alone may rank well by chance.")
    if len(data.languages) < 2:
        raise DataError(f"Only {', '.join(data.languages)} is there. Expected two languages or more: something to carry over to.")
    targets = {tag: _target(data, tag) for tag in data.languages}
    fit, rng, rows = data.select(split="fit"), np.random.default_rng(seed), []
    for source, reached in _sources(data.languages):
        spoken = [source] if source != ALL_OTHERS else [tag for tag in data.languages if tag not in reached]
        shown = fit.select(languages=spoken)
        gate, broken = make().fit(shown), [make().fit(permuted_labels(shown, rng)) for _ in range(nulls)]
        for tag in reached:
            found, chance = _scored(gate, targets[tag], confidence), [_scored(one, targets[tag], confidence) for one in broken]
            for statistic in STATISTICS:
                value, low, high = found[statistic]
                null = float(np.mean([one[statistic].value for one in chance]))
                about = {"source": source, "target": tag, "tier": tiers.get(tag), "statistic": statistic, "null": null}
                rows.append(about | {"value": value, "low": low, "high": high, "n": len(set(targets[tag].score.meaning_id))})
    told = {"gate": repr(make()), "nulls": nulls, "seed": seed, "confidence": confidence, "layer": data.place.layer, "position": data.place.position}
    return GateTransfer(pd.DataFrame(rows)[list(GateTransfer.required)], told)


def _sources(languages: list[str]) -> list[tuple[str, list[str]]]:
    """Every source with the targets it is scored on."""
    return [(tag, languages) for tag in languages] + [(ALL_OTHERS, [tag]) for tag in languages]


def _target(data: GateData, tag: str) -> _Target:
    here = data.select(languages=tag)
    for split in ("fit", "select", "score"):
        part = here.take(here.split == split)
        if not part.y.any() or part.y.all():
            raise DataError(
                f"{tag!r} has {int(part.y.sum())} harmful and {int((~part.y).sum())} harmless prompts in the split {split!r}. Expected both classes "
                "in fit, select and score; leave the language out, or add prompts."
            )
    return _Target(here.select(split="select"), here.select(split="score"))


def _scored(gate: Gate, target: _Target, confidence: float) -> dict[str, Estimate]:
    # in one language every meaning is one row, so intervals over rows are intervals over meanings
    scores, y = gate.decision_function(target.score), target.score.y
    own = best_threshold(target.select.y, gate.decision_function(target.select)).threshold
    return {
        "auroc": auroc_interval(y, scores, confidence),
        "balanced_accuracy": balanced_accuracy_interval(y, scores >= gate.fallback_, confidence),
        "own_balanced_accuracy": balanced_accuracy_interval(y, scores > own, confidence),
    }
