"""How hard every method pushes: one strength for all, chosen on the select split with true labels in the gate's place.

A method must not win by pushing harder. The strength is the smallest at which the oracle gate (true labels) comes close to its best
selectivity on select prompts of the target languages, among those that do not spoil what the reference languages refuse already (a push
that is too long breaks a reply that would have been a refusal). Which prompts a method then pushes is its own affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from workbench.behavior.outcomes import Judge
from workbench.directions.direction import Direction
from workbench.errors import DataError
from workbench.interventions.edits import Add
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import LEAVE, Answered, answer_under
from workbench.results import Result

#: Multiples of the direction's gap (75th percentile of harmful minus 25th of harmless training projections) that are tried.
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
#: Where the paper adds: the last prompt token and every generated one (arXiv:2606.01196, card 1.10).
SCOPE = ("last_prompt", "decode")
CLOSE = 0.02
#: Harmful refusal that a reference language may lose to the push.
SPOILT = 0.03


@dataclass(frozen=True)
class OracleStrength(Result):
    """Oracle-gated rates by strength, means over the target languages: strength, harmful_refusal, harmless_refusal, selectivity, chosen.

    ``reference_change``: harmful refusal of the reference language that loses most, minus what it is unpushed; NaN without reference languages.

    ``answered`` holds the judged replies of the select split that they were counted from, under "leave" and :func:`strength_action`; it is not
    saved with the table.
    """

    answered: Answered | None = field(default=None, repr=False, compare=False)

    required: ClassVar[tuple[str, ...]] = ("strength", "harmful_refusal", "harmless_refusal", "selectivity", "reference_change", "chosen")

    @property
    def strength(self) -> float:
        """The chosen strength, in gaps."""
        return float(self.table.loc[self.table["chosen"], "strength"].iloc[0])


def oracle_strength(
    chat: ChatModel,
    grid: PromptGrid,
    direction: Direction,
    judge: Judge,
    *,
    targets: Sequence[str],
    reference: Sequence[str] = (),
    strengths: Sequence[float] = STRENGTHS,
    scale: str = "gap",
    scope: str | Sequence[str] = SCOPE,
    max_new_tokens: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> OracleStrength:
    """Choose the strength that all methods share.

    Parameters
    ----------
    grid : PromptGrid
        The select split is asked, in the target and the reference languages.
    targets, reference : sequence of str
        Languages to repair; languages that must keep what they refuse (none: only the targets count).
    strengths : sequence of float
        Above 0, in units of ``scale``.

    Returns
    -------
    OracleStrength

    Raises
    ------
    DataError
        No strength above 0, or no select prompts of both classes in the targets.
    """
    tried = sorted({float(s) for s in strengths})
    if not tried or tried[0] <= 0 or not np.isfinite(tried).all():
        raise DataError(f"strengths={list(strengths)}. Expected at least one, each finite and above 0.")
    asked = grid.select(split="select", languages=[tag for tag in grid.languages if tag in {*targets, *reference}])
    if asked.frame.loc[asked.frame["language"].isin(targets), "harmful"].nunique() < 2:
        raise DataError("The select split of the target languages holds one class only. Expected harmful and harmless prompts; raise --limit.")
    edits: dict[str, Any] = {LEAVE: None} | {strength_action(s): Add(direction, s, scale, scope=scope) for s in tried}
    answered = answer_under(chat, asked, edits, judge, max_new_tokens=max_new_tokens, out=out, progress=progress)
    table = pd.DataFrame([{"strength": s, **_oracle(answered, strength_action(s), targets)} for s in tried])
    kept = table["reference_change"].isna() | (table["reference_change"] >= -SPOILT)
    able = table[kept] if kept.any() else table[table["reference_change"] == table["reference_change"].max()]
    table["chosen"] = table.index == able.index[able["selectivity"] >= able["selectivity"].max() - CLOSE][0]
    told: dict[str, Any] = {
        "scale": scale,
        "scope": [scope] if isinstance(scope, str) else list(scope),
        "targets": list(targets),
        "reference": list(reference),
    }
    told |= {"close": CLOSE, "spoilt": SPOILT, "split": "select"}
    about = {"layer": direction.layer, "position": direction.position, "gap": direction.metadata.get("gap"), "norm": direction.norm}
    return OracleStrength(table, {**chat.provenance(), **told, "direction": about}, answered)


def strength_action(strength: float) -> str:
    """Name the action of pushing at one strength."""
    return f"{strength:g}"


def _oracle(answered: Answered, action: str, targets: Sequence[str]) -> Mapping[str, float]:
    """Rates when true labels decide: harmful prompts under the action, harmless ones left alone; means over the targets."""
    frame = answered.prompts
    refused = np.where(frame["harmful"], answered.refused[action], answered.refused[LEAVE]).astype(float)
    before = np.asarray(answered.refused[LEAVE], dtype=float)
    aimed = frame["language"].isin(targets)
    means = frame.assign(refused=refused)[aimed].groupby(["language", "harmful"])["refused"].mean().unstack("harmful").mean()
    others = frame.assign(change=refused - before)[~aimed & frame["harmful"]].groupby("language")["change"].mean()
    bad, good = float(means[True]), float(means[False])
    change = float(others.min()) if len(others) else float("nan")
    return {"harmful_refusal": bad, "harmless_refusal": good, "selectivity": bad - good, "reference_change": change}
