"""What a gate's score can reach in each language, and where its thresholds lie on that curve: before and after recalibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from workbench.errors import DataError
from workbench.gates import Gate, GateData
from workbench.results import Result
from workbench.statistics import auroc_interval, best_threshold

SOURCE, RECALIBRATED = "source threshold", "recalibrated"


@dataclass(frozen=True)
class GateRoc(Result):
    """One row per language and point of its ROC curve, from "flag nothing" to "flag everything", on the score split.

    ``false_alarm`` and ``hit`` are the shares of harmless and harmful prompts that score at or above ``threshold``; ``point`` counts from 0 in each
    language. ``mark`` is "source threshold" where the source languages' threshold lies, "recalibrated" where the language's own does, else "";
    marked points lie on the curve. ``auroc`` (chance .5) with its 95 % interval over meanings (score interval) is the same in all rows of a
    language. ``n`` scored meanings.
    """

    required: ClassVar[tuple[str, ...]] = (
        "language", "tier", "point", "false_alarm", "hit", "threshold", "auroc", "auroc_low", "auroc_high", "n", "mark",
    )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """Return the marked points."""
        return self.table[self.table["mark"] != ""].reset_index(drop=True)


def gate_roc(
    gate: Gate, recalibrated: Gate, data: GateData, tiers: Mapping[str, str | None], *, at_most: int = 200, confidence: float = 0.95
) -> GateRoc:
    """Trace a gate's ROC curve in each language.

    Parameters
    ----------
    gate : Gate
        Fitted on the source languages.
    recalibrated : Gate
        The same gate with thresholds of target languages; for languages it was not recalibrated in, only the source threshold is marked.
    data : GateData
        The score split of it is used.
    tiers : mapping of language to tier
        For the table.
    at_most : int
        Points per language, the ends and marks included; the others are spread evenly over the curve's length.

    Raises
    ------
    DataError
        Fewer than 10 points, no language with both classes, or a recalibration that changed scores.
    """
    if at_most < 10:
        raise DataError(f"at_most={at_most} points. Expected 10 or more, to see a curve.")
    scored = data.select(split="score")
    scores, rows, left_out = _same_scores(gate, recalibrated, scored), [], []
    for tag in scored.languages:
        here = scored.language == tag
        y, own = scored.y[here], scores[here]
        if y.all() or not y.any():
            left_out.append({"language": tag, "reason": f"{int(y.sum())} harmful and {int((~y).sum())} harmless prompts"})
            continue
        area, n = auroc_interval(y, own, confidence), len(set(scored.meaning_id[here]))  # one row per meaning
        about = {
            "language": tag,
            "tier": tiers.get(tag),
            "auroc": area.value,
            "auroc_low": area.low,
            "auroc_high": area.high,
            "n": n,
        }
        marks = {SOURCE: gate.fallback_} | ({RECALIBRATED: recalibrated.thresholds_[tag]} if tag in recalibrated.recalibrations_ else {})
        rows += [about | point for point in _curve(y, own, marks, at_most)]
    if not rows:
        raise DataError(f"No language of {', '.join(scored.languages)} has harmful and harmless scored prompts. Expected both classes.")
    told = {"gate": type(gate).__name__, "split": "score", "at_most": at_most, "confidence": confidence, "left_out": left_out}
    return GateRoc(pd.DataFrame(rows)[list(GateRoc.required)], told)


def gate_scores(gate: Gate, recalibrated: Gate, data: GateData, tiers: Mapping[str, str | None]) -> pd.DataFrame:
    """Lay a gate's score of every prompt beside the thresholds of its language.

    Parameters
    ----------
    gate, recalibrated, tiers
        As for :func:`gate_roc`.
    data : GateData
        All its prompts are listed, whatever their split.

    Returns
    -------
    DataFrame
        ``prompt_id, meaning_id, language, tier, harmful, split, score, source_threshold, threshold, own_threshold``. ``threshold`` is the one in
        force (the source's where the gate was not recalibrated). ``own_threshold`` is the best on the language's scored prompts **in hindsight**:
        what no gate can know, NaN where a class is missing. All in units of the score.
    """
    scores = _same_scores(gate, recalibrated, data)
    own = {}
    for tag in data.languages:
        here = (data.language == tag) & (data.split == "score")
        both = bool(data.y[here].any() and not data.y[here].all())
        own[tag] = best_threshold(data.y[here], scores[here]).threshold if both else float("nan")
    names: dict[str, Any] = {"prompt_id": data.prompt_id, "meaning_id": data.meaning_id, "language": data.language}
    columns = names | {
        "tier": [tiers.get(str(tag)) for tag in data.language],
        "harmful": data.y,
        "split": data.split,
        "score": scores,
        "source_threshold": gate.fallback_,
        "threshold": [recalibrated.thresholds_.get(str(tag), recalibrated.fallback_) for tag in data.language],
        "own_threshold": [own[str(tag)] for tag in data.language],
    }
    return pd.DataFrame(columns)


def _same_scores(gate: Gate, recalibrated: Gate, data: GateData) -> np.ndarray:
    scores = gate.decision_function(data)
    if not np.array_equal(scores, recalibrated.decision_function(data), equal_nan=True):
        raise DataError(
            "Recalibrating changed the gate's scores, so that its two thresholds lie on different curves. Expected a recalibration that moves "
            "thresholds only (not AdaSteer's anchors, not refit=True)."
        )
    return scores


def _curve(harmful: np.ndarray, scores: np.ndarray, marks: Mapping[str, float], at_most: int) -> list[dict[str, Any]]:
    """Points by falling threshold; a marked threshold that flags what a corner flags still has a point of its own."""
    corners = _thinned(harmful, scores, at_most - len(marks))
    places = [(float(t), "") for t in corners] + [(float(t), mark) for mark, t in marks.items()]
    places.sort(key=lambda place: -place[0])
    bad, good = np.sort(scores[harmful]), np.sort(scores[~harmful])

    def share(part: np.ndarray, threshold: float) -> float:
        return float(1 - np.searchsorted(part, threshold, side="left") / len(part))

    return [{"point": i, "false_alarm": share(good, t), "hit": share(bad, t), "threshold": t, "mark": mark} for i, (t, mark) in enumerate(places)]


def _thinned(harmful: np.ndarray, scores: np.ndarray, at_most: int) -> np.ndarray:
    """Thresholds at the curve's ends and corners, no more than asked for, evenly spread over its length (false alarms plus hits)."""
    found = np.unique(scores)[::-1]
    thresholds = np.concatenate([[np.nextafter(found[0], np.inf)], found])
    bad, good = np.sort(scores[harmful]), np.sort(scores[~harmful])
    hit, false = (1 - np.searchsorted(part, thresholds, side="left") / len(part) for part in (bad, good))
    steps = np.stack([np.diff(false), np.diff(hit)])
    straight = ((steps[:, 1:] == 0) & (steps[:, :-1] == 0)).any(axis=0)  # the same axis does not move before and after: no corner
    kept = np.concatenate([[True], ~straight, [True]])
    thresholds, length = thresholds[kept], (hit + false)[kept]
    if len(thresholds) <= at_most:
        return thresholds
    wanted = np.linspace(length[0], length[-1], at_most)
    return thresholds[np.unique(np.abs(length[:, None] - wanted).argmin(axis=0))]
