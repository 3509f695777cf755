"""From a run's measurements to its verdicts: gather the evidence, test the criteria, decide stages and verdicts, and save the four tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from workbench.diagnosis.criteria import CRITERIA
from workbench.diagnosis.harm import Harm, read_at
from workbench.diagnosis.hypotheses import Evidence, Hypothesis, HypothesisTable, examine
from workbench.diagnosis.stages import StageScores, stage_scores
from workbench.diagnosis.verdict import Verdicts, verdicts
from workbench.diagnosis.waterfall import Walked, restored
from workbench.directions.direction import Direction
from workbench.runs.asked import Asked
from workbench.runs.folder import Run

Place = tuple[str, int]


def decide(
    run: Run,
    asked: Asked,
    harm: Harm,
    outcomes: pd.DataFrame,
    known: pd.DataFrame,
    walked: Walked | None,
    *,
    hypotheses: Sequence[Hypothesis] = (),
) -> dict[str, dict[str, Any]]:
    """Save ``hypotheses``, ``stages`` and ``verdicts``, and return ``verdict`` and ``stages`` of every language for ``summary.json``.

    Parameters
    ----------
    outcomes : DataFrame
        Judged replies of the score split.
    known : DataFrame
        The table ``understanding``.
    walked : Walked, optional
        What edits brought back; without it actuation has no subtype.
    hypotheses : sequence of Hypothesis
        Further ones; they are tested and told, and decide nothing.
    """
    represented, decided = places(run, asked, harm)
    meanings = asked.grid.frame[["prompt_id", "meaning_id"]]
    gathered = {
        "understanding": known,
        "outcomes": outcomes.merge(meanings, on="prompt_id", how="left"),
        **read_at(harm, asked.reference, represented, decided),
        **({} if walked is None else {"restored": restored(walked.waterfall.table)}),
    }
    saved = {name: run.result(name).table for name in run.results if name not in ("hypotheses", "stages", "verdicts")} if hypotheses else {}
    evidence = Evidence({**saved, **gathered}, asked.grid.tiers, asked.reference)
    tested = examine(evidence, [*CRITERIA, *hypotheses])
    stages = stage_scores(evidence, tested)
    found = verdicts(evidence, tested, stages)
    run.save("hypotheses", tested)
    run.save("stages", stages)
    run.save("verdicts", found)
    return summary_of(stages, found)


def places(run: Run, asked: Asked, harm: Harm) -> tuple[list[Place], list[Place]]:
    """Return where harm is read, and where thresholds are compared: the selected direction's place, and the harm layer of the same position.

    The second is chosen before the last fifth of the depth, where a state is already the reply: a threshold there would only repeat the behaviour
    that it is to explain. Without a selected direction both positions are compared.
    """
    path = run.folder / "results" / "selected_direction.safetensors"
    chosen = [(position, layer) for position, layer in harm.layers.items()]
    n = asked.after.n_layers
    if path.is_file():
        selected = Direction.load(path)
        decided = [(selected.position, selected.layer), (selected.position, harm.deciding_layer(selected.position, n))]
    else:
        decided = [(position, harm.deciding_layer(position, n)) for position in harm.layers]
    return list(dict.fromkeys([*decided, *chosen])), list(dict.fromkeys(decided))


def summary_of(stages: StageScores, found: Verdicts) -> dict[str, dict[str, Any]]:
    """Return per language what goes into ``summary.json``; what was not measured is null."""
    told: dict[str, dict[str, Any]] = {}
    for row in found.table.to_dict("records"):
        scores = stages.of(str(row["language"]))
        told[str(row["language"])] = {
            "verdict": {name: str(row[name]) for name in ("verdict", "subtype", "reason")},
            "stages": {
                stage: {
                    **{name: float(score[name]) if math.isfinite(score[name]) else None for name in ("value", "low", "high")},
                    "n": int(score["n"]), "passed": score["passed"], "assessed": bool(score["assessed"]), "criterion": str(score["criterion"]),
                }
                for stage, score in scores.items()
            },
        }  # fmt: skip
    return told


__all__ = ["HypothesisTable", "decide", "places", "summary_of"]
