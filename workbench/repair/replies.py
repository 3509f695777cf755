"""Everything the model has to say for a comparison of gates: under each action, and under the strengths of methods without a yes or no.

This is the part that needs the model. What comes after is arithmetic on judged replies, which :class:`GateReplies` keeps without text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.behavior.outcomes import Judge
from workbench.directions.direction import Direction
from workbench.errors import DataError
from workbench.gates import GateData
from workbench.gates.adasteer import AdaSteer
from workbench.gates.row_strengths import row_strengths
from workbench.interventions.edits import Ablate, Add
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import LEAVE, RELAX, STEER, Answered, answer_under
from workbench.repair.methods import Draws
from workbench.repair.strength import SCOPE, STRENGTHS, OracleStrength, oracle_strength

#: Random directions that are added to every prompt, as a control.
RANDOM = 5
_KINDS = ("refused", "correct", "broken")


@dataclass(frozen=True, eq=False)
class GateReplies:
    """Judged replies of the score split, and the strength that was chosen on the select split.

    Attributes
    ----------
    strength : OracleStrength
    answered : Answered
        Under "leave", "steer", "relax", "random-0" ... and, for methods that push each prompt by its own strength, "adasteer-0" ... and
        "adasteer-prompt-0" ..., one action per draw of examples.
    """

    strength: OracleStrength
    answered: Answered

    def graded(self, name: str) -> list[str]:
        """Return the actions of a method without a yes or no, in the order of its draws."""
        return [action for action in self.answered.actions if action.rpartition("-")[0] == name]


def actions_of(direction: Direction, strength: float) -> dict[str, Any]:
    """Every edit a prompt may get: nothing, the push, its opposite, and pushes of the same length along random directions."""
    length = strength * float(direction.metadata["gap"])
    found: dict[str, Any] = {LEAVE: None, STEER: Add(direction, strength, "gap", scope=SCOPE), RELAX: Ablate(direction)}
    for seed in range(RANDOM):
        vector = np.random.default_rng(seed).normal(size=len(direction.unit))
        found[f"random-{seed}"] = Add(vector / np.linalg.norm(vector), length, layers=direction.layer, scope=SCOPE)
    return found


def answer_for_gates(
    chat: ChatModel,
    grid: PromptGrid,
    direction: Direction,
    judge: Judge,
    *,
    source: GateData,
    score: GateData,
    examples: Draws,
    graded_draws: int,
    strengths: Sequence[float] = STRENGTHS,
    max_new_tokens: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> GateReplies:
    """Choose the strength, and let the model answer every scored prompt under every action.

    Parameters
    ----------
    grid : PromptGrid
        With splits.
    source, score : GateData
        What gates are fitted on; the scored prompts, whose strengths AdaSteer reads.
    examples : Draws
        Of the target languages.
    graded_draws : int
        Draws that methods without a yes or no are generated anew for, from the first on. The source languages' strengths do not depend on
        the draw, so those are answered once.
    out : path, optional
        Folder of the replies (mode 600); a second call goes on from there.
    """
    folder, targets = None if out is None else Path(out), list(examples.examples[0])
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "progress": progress}

    def place(name: str) -> Path | None:
        return folder / name if folder else None

    told: dict[str, Any] = {"targets": targets, "reference": source.languages, "strengths": strengths}
    chosen = oracle_strength(chat, grid, direction, judge, **told, out=place("select"), **options)
    scored = grid.select(split="score")
    answered = answer_under(chat, scored, actions_of(direction, chosen.strength), judge, out=place("score"), **options)
    for name, published in (("adasteer", False), ("adasteer-prompt", True)):
        for i, shown in enumerate(examples.examples[: max(graded_draws, 1)]):
            law = AdaSteer().fit(source)
            for tag, some in shown.items():
                law = law.recalibrate(some, language=tag)
            given = row_strengths(law, score, toward="refusal")
            edit = Add(direction, chosen.strength, "gap", scope=given.scope if published else SCOPE, rows=given.rows)
            asked = scored if i == 0 else scored.select(languages=targets)
            part = answer_under(chat, asked, {f"{name}-{i}": edit}, judge, out=place("graded"), **options)
            answered = _joined(answered, part, f"{name}-{i}", f"{name}-0")
    return GateReplies(chosen, answered)


def _joined(answered: Answered, part: Answered, action: str, base: str) -> Answered:
    """Add an action that was answered for some prompts only; the others' replies are those of another action."""
    row_of = pd.Index(answered.prompts["prompt_id"]).get_indexer(part.prompts["prompt_id"])
    whole = {}
    for kind in _KINDS:
        table: Mapping[str, np.ndarray] = getattr(answered, kind)
        values = np.array(table[base]) if base in table else np.empty_like(table[LEAVE])
        values[row_of] = getattr(part, kind)[action]
        whole[kind] = {**table, action: values}
    return Answered(answered.prompts, **whole)


def answers_frame(answered: Answered) -> pd.DataFrame:
    """Lay judged replies out as a table: a row per prompt and action, no text."""
    parts = [answered.prompts.assign(action=name, **{kind: getattr(answered, kind)[name] for kind in _KINDS}) for name in answered.actions]
    return pd.concat(parts, ignore_index=True)


def answers_of(frame: pd.DataFrame) -> Answered:
    """Read the table back.

    Raises
    ------
    DataError
        Actions that were not answered for the same prompts.
    """
    parts = {str(name): part.reset_index(drop=True) for name, part in frame.groupby("action", sort=False)}
    columns = ["prompt_id", "meaning_id", "language", "tier", "harmful"]
    prompts = next(iter(parts.values()))[columns]
    unlike = [name for name, part in parts.items() if not part["prompt_id"].equals(prompts["prompt_id"])]
    if unlike:
        raise DataError(f"Action {unlike[0]!r} was answered for other prompts than {next(iter(parts))!r}. Expected the table as it was written.")
    kinds = {kind: {name: part[kind].to_numpy() for name, part in parts.items()} for kind in _KINDS}
    return Answered(prompts, **kinds)
