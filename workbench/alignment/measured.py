"""What trained models answer, beside the model they started from: the same prompts, judge and intervals as a repair by a gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.behavior.generate import generate
from workbench.behavior.outcomes import Judge
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import Answered
from workbench.repair.rates import MethodRun, RepairContrasts, RepairRates, Resampler, repair_contrasts, repair_rates

#: Replies to a grid, as :func:`workbench.behavior.generate.generate` returns them; the keywords are its own.
Asker = Callable[..., pd.DataFrame]
SEEN, UNSEEN, EVERY = "mean seen in training", "mean unseen in training", "mean of all"


def asker(chat: ChatModel) -> Asker:
    """Return what asks a model as it is."""

    def ask(grid: PromptGrid, **options: Any) -> pd.DataFrame:
        return generate(chat, grid, **options)

    return ask


def answer_with(
    askers: Mapping[str, Asker], grid: PromptGrid, judge: Judge, *, max_new_tokens: int, out: str | Path | None = None, progress: bool = True
) -> Answered:
    """Let every model answer every prompt, and judge the replies.

    Parameters
    ----------
    askers : mapping of method to Asker
    out : path, optional
        Folder of the replies, one file (mode 600) per method; a second call goes on from there.

    Returns
    -------
    Answered
        Whose actions are the methods.
    """
    refused, correct, broken = {}, {}, {}
    for number, (name, ask) in enumerate(askers.items()):
        file = None if out is None else Path(out) / f"{number}.jsonl"
        judged = judge.outcomes(ask(grid, max_new_tokens=max_new_tokens, out=file, progress=progress), grid)
        refused[name] = (judged["outcome"] == "refusal").to_numpy()
        broken[name] = judged["outcome"].isin(["garbled", "off_language"]).to_numpy()
        correct[name] = judged["correct"].map(lambda value: np.nan if value is None else float(value)).to_numpy(dtype=np.float64)
    columns = ["prompt_id", "meaning_id", "language", "tier", "harmful"]
    return Answered(grid.frame[columns].reset_index(drop=True), refused, correct, broken)


def rates_of(
    answered: Answered, *, start: str, seen: Sequence[str], reference: Sequence[str], labels: Mapping[str, str], seed: int
) -> tuple[RepairRates, RepairContrasts]:
    """Count what every method does, and its paired difference to the start.

    Parameters
    ----------
    answered : Answered
        Whose actions are methods.
    start : str
        The method that the others are compared with.
    seen : sequence of str
        Languages that some training text was in. Means over these, over the others and over all languages stand beside those over tiers.
    reference : sequence of str
        Languages that a repair was made from.
    labels : mapping of method to str
        Which labels each used.
    """

    def run(name: str) -> MethodRun:
        refused, correct, broken = (np.asarray(getattr(answered, kind)[name], dtype=np.float64)[None] for kind in ("refused", "correct", "broken"))
        return MethodRun(refused, correct, broken, None, labels[name])

    resampler = Resampler(
        answered.prompts, {name: run(name) for name in answered.actions}, rng=np.random.default_rng(seed), reference=reference
    )  # fmt: skip
    tags = list(resampler.languages)
    parts = {SEEN: [tag for tag in tags if tag in seen], UNSEEN: [tag for tag in tags if tag not in seen], EVERY: tags}
    resampler.groups |= {name: tuple(members) for name, members in parts.items() if members}
    rates = repair_rates(resampler)
    tables = [repair_contrasts(resampler, name, [start]).table for name in answered.actions if name != start]
    contrasts = RepairContrasts(pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(RepairContrasts.required)))
    return rates, contrasts


__all__ = ["EVERY", "SEEN", "UNSEEN", "Asker", "answer_with", "asker", "rates_of"]
