"""What the model answers to each prompt under each action a gate may take: left alone, steered, relaxed.

An edit acts on a row by itself, so a prompt's reply under "steer" does not depend on which other prompts were steered. Each prompt
is therefore answered once per action, and every gate, policy and draw of examples is scored from that table exactly as if it had
been generated anew (tests/repair/test_gate.py compares with replies under a route).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from workbench.behavior.generate import generate
from workbench.behavior.outcomes import Judge
from workbench.errors import DataError, did_you_mean
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid

#: What a gate may do with a prompt.
LEAVE, STEER, RELAX = "leave", "steer", "relax"


@dataclass(frozen=True, eq=False)
class Answered:
    """Judged replies to every prompt under every action.

    Attributes
    ----------
    prompts : DataFrame
        ``prompt_id, meaning_id, language, tier, harmful``, one row per prompt.
    refused : mapping of action to bool array [prompt]
    correct : mapping of action to float array [prompt]
        1 or 0 for harmless prompts with a key, NaN elsewhere.
    broken : mapping of action to bool array [prompt]
        Garbled or in another language.
    """

    prompts: pd.DataFrame
    refused: Mapping[str, Bool[np.ndarray, " prompt"]]
    correct: Mapping[str, Float[np.ndarray, " prompt"]]
    broken: Mapping[str, Bool[np.ndarray, " prompt"]]

    def __post_init__(self) -> None:
        for kind in (self.refused, self.correct, self.broken):
            wrong = {action: len(values) for action, values in kind.items() if len(values) != len(self.prompts)}
            if wrong:
                raise DataError(f"{wrong} judged replies for {len(self.prompts)} prompts. Expected one per prompt and action.")

    @property
    def actions(self) -> list[str]:
        """The actions answered under."""
        return list(self.refused)

    def under(self, taken: np.ndarray, kind: str = "refused") -> Float[np.ndarray, "draw prompt"]:
        """Look up what follows when each prompt gets its own action.

        Parameters
        ----------
        taken : str array [draw prompt]
            The action taken with each prompt in each draw.
        kind : {"refused", "correct", "broken"}
        """
        table: Mapping[str, np.ndarray] = getattr(self, kind)
        unknown = sorted({str(action) for action in np.unique(taken)} - set(table))
        if unknown:
            raise DataError(f"No prompt was answered under {unknown[0]!r}; there are {self.actions}.{did_you_mean(unknown[0], self.actions)}")
        out = np.full(taken.shape, np.nan)
        for action, values in table.items():
            out = np.where(taken == action, np.asarray(values, dtype=np.float64), out)
        return out


def answer_under(
    chat: ChatModel,
    grid: PromptGrid,
    actions: Mapping[str, Any],
    judge: Judge,
    *,
    max_new_tokens: int = 64,
    token_budget: int = 4096,
    out: str | Path | None = None,
    progress: bool = True,
) -> Answered:
    """Let the model answer every prompt under every action, and judge the replies.

    Parameters
    ----------
    actions : mapping of name to edit, sequence of edits or None
        None acts on nothing.
    out : path, optional
        Folder of the replies, one file (mode 600) per action; a second call goes on from there.

    Raises
    ------
    DataError
        No action, or a name that is no file name.
    """
    if not actions or not all(name.replace("_", "").replace("-", "").replace(".", "").isalnum() for name in actions):
        raise DataError(f"actions are {list(actions)}. Expected at least one, named in letters, digits, '.', '-' and '_'.")
    refused, correct, broken = {}, {}, {}
    for name, edit in actions.items():
        edits = [] if edit is None else list(edit) if isinstance(edit, list | tuple) else [edit]
        file = None if out is None else Path(out) / f"{name}.jsonl"
        with chat.edited(*edits):
            replies = generate(chat, grid, max_new_tokens=max_new_tokens, token_budget=token_budget, out=file, progress=progress)
        judged = judge.outcomes(replies, grid)
        refused[name] = (judged["outcome"] == "refusal").to_numpy()
        broken[name] = judged["outcome"].isin(["garbled", "off_language"]).to_numpy()
        correct[name] = judged["correct"].map(lambda value: np.nan if value is None else float(value)).to_numpy(dtype=np.float64)
    columns = ["prompt_id", "meaning_id", "language", "tier", "harmful"]
    return Answered(grid.frame[columns].reset_index(drop=True), refused, correct, broken)
