"""What routing costs while the model answers: seconds per reply, plain and under a route, batch by batch in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from workbench.behavior.generate import reply_to
from workbench.errors import DataError
from workbench.models.chat import ChatModel, Tokens
from workbench.prompts.grid import PromptGrid
from workbench.results import Result
from workbench.statistics import Estimate

PLAIN, ROUTED = "plain", "routed"


@dataclass(frozen=True)
class Latency(Result):
    """One row per round and way of answering ("plain", "routed").

    ``seconds_per_reply``: of the whole round, CPU time of the process on a CPU (another program's load disturbs it less), wall time on a GPU.
    ``ratio``: to the plain replies of the same round; ``low`` and ``high`` its smallest and largest value over rounds. ``tokens_per_reply``: new
    tokens; a route that refuses more answers shorter, and a ratio mixes both.
    """

    required: ClassVar[tuple[str, ...]] = ("what", "round", "seconds_per_reply", "ratio", "low", "high", "tokens_per_reply")

    @property
    def ratio(self) -> Estimate:
        """Routed over plain: the median over rounds, the smallest and the largest."""
        values = self.table.loc[self.table["what"] == ROUTED, "ratio"]
        return Estimate(float(values.median()), float(values.min()), float(values.max()))

    def summary(self) -> pd.DataFrame:
        """Return medians over rounds."""
        return self.table.groupby("what", sort=False)[["seconds_per_reply", "ratio", "low", "high", "tokens_per_reply"]].median().reset_index()


def latency(
    chat: ChatModel, grid: PromptGrid, route: Any, *, rounds: int = 5, max_new_tokens: int = 32, token_budget: int = 4096, clock: Any = None
) -> Latency:
    """Time the same prompts with and without a route.

    Every batch is answered both ways in turn, and who begins alternates, so that what else the machine does falls on both. Texts are tokenised
    and the edit is set up outside the clock; a first round is not counted.

    Parameters
    ----------
    grid : PromptGrid
        What to ask; some dozens of prompts are enough.
    route : Route, edit or sequence of edits
        As for ``chat.edited``.
    rounds : int
        At least 1; 3 or more to see a spread.
    clock : callable, optional
        Returns seconds; default by device.

    Raises
    ------
    DataError
        No round.
    """
    if rounds < 1:
        raise DataError(f"rounds={rounds}. Expected at least 1, and 3 or more to see how much rounds differ.")
    edits = list(route) if isinstance(route, list | tuple) else [route]
    now, told = (clock, "given") if clock is not None else _clock(chat)
    batches = _batches(chat, grid, max_new_tokens, token_budget)
    seconds = {PLAIN: np.zeros(rounds), ROUTED: np.zeros(rounds)}
    tokens = dict.fromkeys(seconds, 0)
    for turn in range(-1, rounds):
        for number, (names, batch) in enumerate(batches):
            order = [PLAIN, ROUTED] if (turn + number) % 2 else [ROUTED, PLAIN]
            for what in order:
                with chat.edited(*edits) if what == ROUTED else nullcontext():
                    start = now()
                    replies = reply_to(chat, batch, max_new_tokens, prompt_ids=names)
                    spent = now() - start
                if turn >= 0:
                    seconds[what][turn] += spent
                    tokens[what] += sum(reply.n_new_tokens for reply in replies)
    each = {what: spent / len(grid) for what, spent in seconds.items()}
    ratios = {PLAIN: np.ones(rounds), ROUTED: each[ROUTED] / each[PLAIN]}
    rows = [
        {
            "what": what, "round": turn, "seconds_per_reply": float(each[what][turn]), "ratio": float(ratios[what][turn]),
            "low": float(ratios[what].min()), "high": float(ratios[what].max()), "tokens_per_reply": tokens[what] / rounds / len(grid),
        }
        for turn in range(rounds) for what in (PLAIN, ROUTED)
    ]  # fmt: skip
    about = {"clock": told, "prompts": len(grid), "batches": len(batches), "max_new_tokens": max_new_tokens, "threads": torch.get_num_threads()}
    return Latency(pd.DataFrame(rows)[list(Latency.required)], {**chat.provenance(), **about})


def _clock(chat: ChatModel) -> tuple[Callable[[], float], str]:
    if chat.device.type == "cpu":
        return time.process_time, "CPU seconds of the process"

    def wall() -> float:
        if chat.device.type == "cuda":
            torch.cuda.synchronize(chat.device)
        return time.perf_counter()

    return wall, "wall seconds"


def _batches(chat: ChatModel, grid: PromptGrid, max_new_tokens: int, budget: int) -> list[tuple[list[str], Sequence[Tokens]]]:
    """Cut batches as generate() does: longest first, prompt and reply within the budget."""
    frame = grid.frame
    ids = list(frame["prompt_id"])
    tokens = dict(zip(ids, chat.tokenise(list(frame["text"]), names=ids), strict=True))
    waiting = sorted(ids, key=lambda prompt_id: -len(tokens[prompt_id].ids))
    found: list[tuple[list[str], Sequence[Tokens]]] = []
    while waiting:
        rows = max(1, budget // (len(tokens[waiting[0]].ids) + max_new_tokens))
        found.append((waiting[:rows], [tokens[prompt_id] for prompt_id in waiting[:rows]]))
        waiting = waiting[rows:]
    return found
