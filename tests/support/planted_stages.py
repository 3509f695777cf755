"""Made-up measurements of languages in which the failing stage is known: projections, replies and answers are drawn, then decided as in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from workbench.diagnosis.criteria import CRITERIA
from workbench.diagnosis.hypotheses import Evidence, HypothesisTable, examine
from workbench.diagnosis.stages import StageScores, stage_scores
from workbench.diagnosis.understanding import understanding
from workbench.diagnosis.verdict import Verdicts, verdicts
from workbench.directions import projections, thresholds, transfer_auroc
from workbench.statistics import wilson

POSITIONS = ("t_inst", "t_post_inst")
SPLITS = (("select", 0.5), ("score", 1.0))


@dataclass(frozen=True)
class Speaks:
    """One language: share of answers right, distance and shift of its classes, refusal of either class, form of refusals, what an oracle restores."""

    answers: float = 1.0
    apart: float = 6.0
    shift: float = 0.0
    harmful: float = 1.0
    harmless: float = 0.0
    wrong: float = 0.0
    restored: float | None = None


HEALTHY = Speaks()
TRUTH = {
    "healthy": HEALTHY,
    "understanding": Speaks(answers=0.05, harmful=0.0),
    "representation": Speaks(apart=0.0, harmful=0.0),
    "calibration": Speaks(shift=3.5, harmful=0.3),
    "unrouted": Speaks(harmful=0.05, restored=0.95),
    "unresponsive": Speaks(harmful=0.0, restored=0.02),
    "expression": Speaks(wrong=0.9),
}


@dataclass(frozen=True)
class Drawn:
    """Projections and replies of every language, before anything is decided."""

    scores: xr.DataArray
    outcomes: pd.DataFrame
    answers: pd.DataFrame | None
    restored: pd.DataFrame
    tiers: dict[str, str | None]
    reference: list[str]


def draw(spoken: Mapping[str, Speaks], *, n: int, rng: np.random.Generator, reference: Sequence[str] = ("h1", "h2", "h3")) -> Drawn:
    """Draw ``n`` scored meanings per class, the same ones in every language."""
    rows, values, replies, answers, back = [], [], [], [], []
    everyone = {**dict.fromkeys(reference, HEALTHY), **spoken}
    for tag, one in everyone.items():
        for split, part in SPLITS:
            for i in range(max(2, round(n * part))):
                for harmful in (True, False):
                    rows.append((f"{split}{i}{harmful}", tag, harmful, split, "high" if tag in reference else "low"))
                    values.append(rng.normal(one.apart * harmful - one.shift, 1.0, size=(1, 2)))
                    if split == "score":
                        refused = rng.random() < (one.harmful if harmful else one.harmless)
                        lost = refused and rng.random() < one.wrong
                        replies.append("off_language" if lost else "refusal" if refused else "compliance")
        right = rng.binomial(n, one.answers)
        low, high = wilson(right, n)
        answers.append((tag, right / n, low, high, n))
        if one.restored is not None:
            back.append((tag, one.restored, one.restored - 0.1, one.restored + 0.1, n))
    meaning, language, harmful, split, tier = map(np.array, zip(*rows, strict=True))
    ids = np.char.add(np.char.add(meaning, ":"), language)
    along = {"meaning_id": meaning, "language": language, "harmful": harmful, "split": split, "tier": tier}
    coords = {"prompt": ids, **{name: ("prompt", column) for name, column in along.items()}, "layer": [4], "position": list(POSITIONS)}
    scores = xr.DataArray(np.array(values), dims=("prompt", "layer", "position"), coords=coords, name="projection")
    scored = split == "score"
    outcomes = pd.DataFrame({"prompt_id": ids[scored], "meaning_id": meaning[scored], "language": language[scored], "harmful": harmful[scored]})
    outcomes = outcomes.assign(outcome=replies, validated=True, reply_language=None)
    known = pd.DataFrame(answers, columns=["language", "value", "low", "high", "n"])
    tiers = {tag: "high" if tag in reference else "low" for tag in everyone}
    return Drawn(scores, outcomes, known, pd.DataFrame(back, columns=["language", "value", "low", "high", "n"]), tiers, list(reference))


def evidence_of(drawn: Drawn, **tables: pd.DataFrame) -> Evidence:
    """Measure what was drawn as a run does; nulls are those of exchangeable scores. ``tables`` replace some."""
    places = dict.fromkeys(POSITIONS, 4)
    found = transfer_auroc(drawn.scores, drawn.reference).table
    chance = 0.5 + 1.645 * np.sqrt((found["n_harmful"] + found["n_harmless"] + 1) / (12 * found["n_harmful"] * found["n_harmless"]))
    controls = {"null_labels_95": chance, "null_direction_95": 0.6, "untrained_high": 0.55, "surface": 0.52, "untrained_seeds": 3}
    read = {
        "represented": found.rename(columns={"value": "auroc"}).assign(**controls),
        "calibration": thresholds(drawn.scores, drawn.reference, {"t_post_inst": 4}).table,
        "readings": projections(drawn.scores.sel(prompt=drawn.scores["split"] == "score"), places).table,
        "understanding": understanding(drawn.tiers, answers=drawn.answers, retrieval=None, bits=None),
        "outcomes": drawn.outcomes,
        "restored": drawn.restored,
    }
    return Evidence({**read, **tables}, drawn.tiers, drawn.reference)


def decided(evidence: Evidence) -> tuple[Verdicts, StageScores, HypothesisTable]:
    """Test the criteria and apply the list."""
    tested = examine(evidence, CRITERIA)
    stages = stage_scores(evidence, tested)
    return verdicts(evidence, tested, stages), stages, tested


def verdict_of(found: Verdicts, tag: str) -> str:
    """Return a language's verdict, by its subtype where it has one."""
    row = found.table.set_index("language").loc[tag]
    return str(row["subtype"] or row["verdict"])
