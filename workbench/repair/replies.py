"""Everything the model has to say for a comparison of gates: under each action, and under the strengths of methods without a yes or no.

This is the part that needs the model. What comes after is arithmetic on judged replies, which :class:`GateReplies` keeps without text.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.behavior.outcomes import Judge
from workbench.directions.direction import Direction
from workbench.errors import DataError
from workbench.gates import GateData, GateWarning
from workbench.gates.adasteer import AdaSteer
from workbench.gates.row_strengths import row_strengths
from workbench.interventions.edits import Ablate, Add
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import LEAVE, RELAX, STEER, Answered, answer_under
from workbench.repair.kinds import ADASTEER, ADASTEER_PROMPT
from workbench.repair.methods import Draws
from workbench.repair.price import BUDGET, refusal_means, with_choice
from workbench.repair.strength import SCOPE, STRENGTHS, OracleStrength, oracle_strength

#: Random directions that are added to every prompt, as a control.
RANDOM = 5
#: Methods without a yes or no: action, name, and whether the push is on the prompt's tokens only, as published.
GRADED = (("adasteer", ADASTEER, False), ("adasteer-prompt", ADASTEER_PROMPT, True))
#: Multiples of the strength that are tried for them, and draws of examples that they are tried with.
MULTIPLES = (0.4, 0.6, 0.8, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0)
TRIED_DRAWS = 2
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
    multiples : DataFrame
        ``method, price, harmful_refusal, harmless_refusal, selectivity, within, chosen`` on the select split: the multiple of the strength
        ("price") that each of those methods pushes with.
    """

    strength: OracleStrength
    answered: Answered
    multiples: pd.DataFrame = field(default_factory=pd.DataFrame)

    def graded(self, name: str) -> list[str]:
        """Return the actions of a method without a yes or no, in the order of its draws."""
        return [action for action in self.answered.actions if action.rpartition("-")[0] == name]


def actions_of(direction: Direction, strength: float) -> dict[str, Any]:
    """Every edit a prompt may get: nothing, the push, its opposite, and pushes of the same length along random directions."""
    length = strength * float(direction.metadata["gap"])
    found: dict[str, Any] = {LEAVE: None, STEER: Add(direction, strength, "gap", scope=SCOPE), RELAX: Ablate(direction, layers=None)}
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
    select: GateData,
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
    source, select, score : GateData
        What gates are fitted on; the other splits' prompts, whose strengths AdaSteer reads.
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
    tables = []
    for name, method, published in GRADED:
        law = _Graded(chat, direction, chosen.strength, judge, source, published, options)
        multiple, tried = law.multiple(
            grid.select(split="select", languages=targets), select, examples.examples[:TRIED_DRAWS], chosen, place(f"{name}-select")
        )
        tables.append(tried.assign(method=method))
        for i, shown in enumerate(examples.examples[: max(graded_draws, 1)]):
            asked = scored if i == 0 else scored.select(languages=targets)
            part = law.answered(asked, score, shown, multiple, f"{name}-{i}", place("graded"))
            answered = _joined(answered, part, f"{name}-{i}", f"{name}-0")
    return GateReplies(chosen, answered, pd.concat(tables, ignore_index=True))


@dataclass(frozen=True, eq=False)
class _Graded:
    """AdaSteer's law along the direction that all methods push along, recalibrated to the examples of a draw."""

    chat: ChatModel
    direction: Direction
    strength: float
    judge: Judge
    source: GateData
    published: bool
    options: Mapping[str, Any]

    def answered(self, grid: PromptGrid, data: GateData, shown: Mapping[str, GateData], multiple: float, name: str, out: Path | None) -> Answered:
        """Answer each prompt under its own strength."""
        law = AdaSteer().fit(self.source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GateWarning)  # of single draws, whose spread is what is measured
            for tag, some in shown.items():
                law = law.recalibrate(some, language=tag)
        given = row_strengths(law, data, toward="refusal")
        scope = given.scope if self.published else SCOPE
        edit = Add(self.direction, self.strength * multiple, "gap", scope=scope, rows=given.rows)
        return answer_under(self.chat, grid, {name: edit}, self.judge, out=out, **self.options)

    def multiple(
        self, grid: PromptGrid, data: GateData, draws: Sequence[Mapping[str, GateData]], chosen: OracleStrength, out: Path | None
    ) -> tuple[float, pd.DataFrame]:
        """Choose the multiple of the strength by the rule that chooses prices: best selectivity within the budget of harmless refusal.

        The strength is that of a push by true labels, and a law that pushes by halves may need more. Multiples are tried upwards from 1 until the
        budget is spent, else downwards until it is kept.
        """
        before = float(chosen.table["harmless_refusal"].min())  # the oracle gate leaves harmless prompts alone
        rows: list[dict[str, Any]] = []

        def tried(multiple: float) -> bool:
            parts = [self.answered(grid, data, shown, multiple, f"{multiple:g}-{i}", out) for i, shown in enumerate(draws)]
            means = refusal_means(parts[0], np.stack([next(iter(part.refused.values())) for part in parts]).astype(np.float64))
            rows.append({"price": multiple, **means, "within": means["harmless_refusal"] - before <= BUDGET})
            return bool(rows[-1]["within"])

        ladder = [m for m in MULTIPLES if m > 1] if tried(1.0) else [m for m in reversed(MULTIPLES) if m < 1]
        upwards = rows[0]["within"]
        for multiple in ladder:
            if tried(multiple) != upwards:
                break
        table = with_choice(pd.DataFrame(rows))
        return float(table.loc[table["chosen"], "price"].iloc[0]), table


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
