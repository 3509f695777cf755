"""Ask what the waterfall counts: prompts of the score split under each push, and the decisions of a gate before and after its examples.

Every prompt is answered once per action; every level and draw is then a look-up. Replies given under an edit are deleted once they are judged.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool

from workbench.behavior.judges import PerLanguageJudge
from workbench.diagnosis.criteria import reference_refuses
from workbench.diagnosis.hypotheses import Evidence, examine
from workbench.diagnosis.verdict import NONE, reference_refusal
from workbench.diagnosis.waterfall import RANDOM, Shapley, Walked, Waterfall, random_action, walk
from workbench.directions.direction import Direction
from workbench.errors import DataError, PromptError
from workbench.gates import GateData, RecalibratedGate, Shrinkage, gate_data
from workbench.interventions.edits import Add
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import LEAVE, Answered, answer_under
from workbench.repair.methods import Draws, decisions, draw_examples
from workbench.repair.strength import SCOPE, oracle_strength
from workbench.runs.asked import Asked
from workbench.runs.folder import Run
from workbench.runs.selected import Note, judged_under_edits

#: Examples per class and language that the gate is recalibrated with, and how often they are drawn.
K, DRAWS = 4, 20
#: Strength of the default push, in gaps of the direction.
DEFAULT = 1.0


def measure_waterfall(
    run: Run,
    asked: Asked,
    acts: xr.Dataset,
    outcomes: pd.DataFrame,
    judge: PerLanguageJudge,
    notes: list[Note],
    *,
    leave_out: Sequence[str] = (),
    n: int,
    new_tokens: int,
    seed: int,
    redact: bool,
    progress: bool,
) -> Walked | None:
    """Walk the chain on ``n`` meanings per class of the score split, along the direction that the run selected; saves both tables.

    Parameters
    ----------
    outcomes : DataFrame
        Judged unedited replies of the score split.
    notes : list
        What could not be had is added to it, and None returned.
    leave_out : sequence of str
        Languages that are not understood: what is replied there counts neither as refusal nor as compliance, so there is no gap to share out.
    """
    path = run.folder / "results" / "selected_direction.safetensors"
    if not n:
        notes.append(("waterfall", "all", None, "not asked for (--steer 0)"))
        return None
    if (stopped := _stopped(asked, outcomes)) is not None:
        notes.append(("waterfall", "all", None, f"not walked, {stopped}"))
        return None
    if not path.is_file():
        notes.append(("waterfall", "all", None, "no direction was selected, so there is nothing to add"))
        return None
    replies = run.folder / "gated"
    if {"waterfall", "shapley"} <= set(run.results):  # replies are deleted, so they must not be asked for again
        _forget(replies)
        known = [run.result(name) for name in ("waterfall", "shapley")]
        return Walked(Waterfall(known[0].table, known[0].provenance), Shapley(known[1].table, known[1].provenance))
    direction = Direction.load(path)
    unheard: list[Note] = []
    kept = [tag for tag in asked.grid.languages if tag in asked.reference or tag in judged_under_edits(judge, [tag], unheard)]
    notes.extend(("waterfall", tag, None, "not walked: the language is not understood") for tag in leave_out if tag in kept)
    kept = [tag for tag in kept if tag not in leave_out]
    try:
        part = _part(asked.grid.select(languages=kept), n, seed)
        setting = _setting(acts, part, direction, asked.reference, seed)
        answered, strength = _answered(
            asked, part, setting, direction, outcomes, judge, replies, n=n, seed=seed, new_tokens=new_tokens, progress=progress
        )
        told = {"layer": direction.layer, "position": direction.position, "default": DEFAULT, "fitted": strength, "meanings": n, "scale": "gap"}
        walked = walk(
            answered, _flagged(setting), asked.reference, k=setting.examples.k, rng=np.random.default_rng(seed), provenance=told
        )  # fmt: skip
    except (DataError, PromptError) as reason:
        _forget(replies)
        notes.append(("waterfall", "all", None, f"not walked: {reason}"))
        return None
    except BaseException:
        if redact:
            _forget(replies)
        raise
    run.save("waterfall", walked.waterfall)
    run.save("shapley", walked.shapley)
    _forget(replies)
    return walked


def _stopped(asked: Asked, outcomes: pd.DataFrame) -> str | None:
    """Say why there is no gap to share out where the reference itself is shown not to refuse selectively."""
    about = asked.grid.frame[["prompt_id", "meaning_id", "language", "harmful"]]
    judged = outcomes[[name for name in ("prompt_id", "outcome", "validated") if name in outcomes]].merge(about, on="prompt_id")
    tested = examine(Evidence({"outcomes": judged}, asked.grid.tiers, asked.reference), [reference_refuses])
    decided = reference_refusal(tested, asked.reference)
    return decided.reason if decided is not None and decided.verdict == NONE else None


def _part(grid: PromptGrid, n: int, seed: int) -> PromptGrid:
    """Keep ``n`` meanings per class of the score split, and of the select split half as many, which the strength is chosen on."""
    keep = [grid.select(split="score").limit(n, seed=seed).frame, grid.select(split="select").limit(max(n // 2, 1), seed=seed).frame]
    ids = set(pd.concat(keep)["prompt_id"])
    return PromptGrid(grid.frame[grid.frame["prompt_id"].isin(ids)].reset_index(drop=True), provenance=grid.provenance)


class _Setting(NamedTuple):
    """What the gate is fitted on (fit split of the reference), the scored rows in the order of the grid, and the examples of the others."""

    source: GateData
    score: GateData
    targets: list[str]
    examples: Draws


def _setting(acts: xr.Dataset, part: PromptGrid, direction: Direction, reference: Sequence[str], seed: int) -> _Setting:
    """Read the states at the direction's place; a language with few examples gives as many as it has."""
    fit, score = (gate_data(acts, direction.layer, direction.position, split=split) for split in ("fit", "score"))
    targets = [tag for tag in part.languages if tag not in set(reference)]
    if not targets:
        raise DataError(f"All languages ({', '.join(part.languages)}) are reference languages: there is no other decision to follow.")
    pool = fit.select(languages=targets)
    known = pd.DataFrame({"language": pool.language, "harmful": pool.y, "meaning": pool.meaning_id})
    least = int(known.groupby(["language", "harmful"])["meaning"].nunique().min())
    rows = pd.Index(score.prompt_id).get_indexer(part.select(split="score").frame["prompt_id"])
    examples = draw_examples(pool, targets, min(K, least), DRAWS, seed=seed)
    return _Setting(fit.select(languages=list(reference)), score.take(rows), targets, examples)


def _flagged(setting: _Setting) -> dict[str, Bool[np.ndarray, "draw prompt"]]:
    gate = RecalibratedGate().fit(setting.source)
    transferred = gate.decision_function(setting.score) >= gate.fallback_
    return {"transferred": transferred[None], "recalibrated": decisions(gate, setting.score, setting.examples, policy=Shrinkage())}


def _answered(
    asked: Asked, part: PromptGrid, setting: _Setting, direction: Direction, outcomes: pd.DataFrame, judge: PerLanguageJudge, folder: Path, *,
    n: int, seed: int, new_tokens: int, progress: bool,
) -> tuple[Answered, float]:  # fmt: skip
    """Answer the other languages' prompts under every push; what was answered unedited is known."""
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "progress": progress}
    fitted = oracle_strength(asked.after, part, direction, judge, targets=setting.targets, out=folder / "select", **options).strength
    scored = part.select(split="score")
    pushed = scored.select(languages=setting.targets)
    edits = _pushes(direction, {"default": DEFAULT} | ({} if fitted == DEFAULT else {"fitted": fitted}))
    replied = answer_under(asked.after, pushed, edits, judge, out=folder / "score", **options)
    known = outcomes.set_index("prompt_id")["outcome"].reindex(scored.frame["prompt_id"])
    if known.isna().any():
        raise DataError(f"{int(known.isna().sum())} prompts of the score split have no judged reply. Expected all; give the run's outcomes.")
    leave = (known == "refusal").to_numpy()
    at = pd.Index(scored.frame["prompt_id"]).get_indexer(pushed.frame["prompt_id"])
    refused = {LEAVE: leave}
    for name in edits:
        refused[name] = leave.copy()  # the reference languages are never pushed
        refused[name][at] = replied.refused[name]
    columns = ["prompt_id", "meaning_id", "language", "tier", "harmful"]
    unknown = {name: np.full(len(leave), np.nan) for name in refused}
    return Answered(scored.frame[columns].reset_index(drop=True), refused, unknown, {name: np.zeros(len(leave), bool) for name in refused}), fitted


def _pushes(direction: Direction, strengths: Mapping[str, float]) -> dict[str, Any]:
    """Return the edits by name: along the direction, and along random ones of the same length."""
    found: dict[str, Any] = {}
    for name, strength in strengths.items():
        found[name] = Add(direction, strength, "gap", scope=SCOPE)
        for seed in range(RANDOM):
            vector = np.random.default_rng(seed).normal(size=len(direction.unit))
            length = strength * float(direction.metadata["gap"])
            found[random_action(name, seed)] = Add(vector / np.linalg.norm(vector), length, layers=direction.layer, scope=SCOPE)
    return found


def _forget(folder: Path) -> None:
    """Delete replies made under edits."""
    if folder.exists():
        shutil.rmtree(folder)


__all__ = ["DEFAULT", "DRAWS", "K", "measure_waterfall"]
