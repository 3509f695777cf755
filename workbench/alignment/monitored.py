"""What is looked at while a model is trained, on a few prompts of the select split: nothing is decided by it, and nothing is stopped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from workbench.alignment.measured import Asker, answer_with, asker
from workbench.alignment.preference import PreferenceSet, preferences_from_grid
from workbench.alignment.prepared import MONITORED, Prepared
from workbench.alignment.reward_gaps import Pairs, RewardGaps, pairs_to_score, reward_gaps
from workbench.alignment.watch import Monitor
from workbench.behavior.judges import PerLanguageJudge
from workbench.errors import WorkbenchError
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import Answered

logger = logging.getLogger(__name__)

#: Meanings per class and language whose pairs are scored at every step of the monitor: more would take over a tenth of an organism's training.
SCORED = 12


def monitor_of(
    chat: ChatModel, grid: PromptGrid, judge: PerLanguageJudge, prepared: Prepared, pairs: Pairs | None, *, new_tokens: int, seed: int
) -> Monitor:
    """Return what measures a training at a step: refusal, answers and lengths of replies per language, and reward gaps where there are pairs.

    Parameters
    ----------
    grid : PromptGrid
        Of which the select split is asked in part.
    pairs : Pairs, optional
        From :func:`scorable`, with what the method puts in front of replies; those of 12 meanings per class and language are scored.

    Returns
    -------
    callable
        Step and model -> rows of ``training_curve``: harmful_refusal, harmless_refusal, answer_accuracy (shares), length_harmful, length_harmless
        (mean tokens of a reply), reward_gap, reward_gap_harmless (nats per token).
    """
    part = grid.select(split="select").limit(MONITORED, seed=seed)
    few = None if pairs is None else pairs.few(SCORED)

    def monitor(step: int, model: Any) -> list[dict[str, Any]]:
        now = replace(chat, model=model, path=None, checks={})
        own = prepared.asked(now)
        kept: list[pd.DataFrame] = []
        answered = answer_with({"now": _keeping(next(iter(own.values())) if own else asker(now), kept)}, part, judge,
                               max_new_tokens=new_tokens, progress=False)  # fmt: skip
        lengths = kept[0].set_index("prompt_id")["n_new_tokens"].reindex(answered.prompts["prompt_id"]).to_numpy(dtype=float)
        rows = _of_replies(answered, lengths)
        return rows if few is None else rows + _of_pairs(few.scored(now))

    return monitor


def _keeping(ask: Asker, kept: list[pd.DataFrame]) -> Asker:
    """Keep the replies beside what is judged of them."""

    def ask_and_keep(grid: PromptGrid, **options: Any) -> pd.DataFrame:
        kept.append(ask(grid, **options))
        return kept[-1]

    return ask_and_keep


def _of_replies(answered: Answered, lengths: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    refused, correct = answered.refused["now"], answered.correct["now"]
    for tag, part in answered.prompts.groupby("language", sort=False):
        bad = part["harmful"].to_numpy(dtype=bool)
        values = {"harmful_refusal": refused[part.index[bad]], "harmless_refusal": refused[part.index[~bad]]}
        values |= {"length_harmful": lengths[part.index[bad]], "length_harmless": lengths[part.index[~bad]]}
        right = correct[part.index[~bad]]
        values["answer_accuracy"] = right[np.isfinite(right)]
        rows += [{"statistic": name, "language": str(tag), "value": float(value.mean())} for name, value in values.items() if len(value)]
    return rows


def _of_pairs(scored: pd.DataFrame) -> list[dict[str, Any]]:
    table = reward_gaps(scored).table
    table = table[table["statistic"] == "reward_gap"]
    return [
        {"statistic": "reward_gap" if row.harmful else "reward_gap_harmless", "language": str(row.language), "value": float(row.value)}
        for row in table.itertuples()
    ]


def held_out_pairs(grid: PromptGrid, data: Any, *, seed: int) -> pd.DataFrame | None:
    """Return preference pairs that nothing is trained on: of the prompts' keys in every language, else of the select split of a preference file.

    Parameters
    ----------
    grid : PromptGrid
    data : PreferenceSet or anything else
        What the method learns.

    Returns
    -------
    DataFrame or None
        At most 24 meanings per class and language; None where there is no pair.
    """
    if {"refusal", "answer"} <= set(grid.frame) and grid.frame[["refusal", "answer"]].notna().all(axis=1).any():
        return preferences_from_grid(grid.select(split="select").limit(MONITORED, seed=seed), split="select").frame
    if not isinstance(data, PreferenceSet) or not (data.frame["split"] == "select").any():
        return None
    frame = data.select(split="select").frame
    few = frame.drop_duplicates(["language", "harmful", "meaning_id"]).groupby(["language", "harmful"], sort=False).head(MONITORED)
    return few.reset_index(drop=True)


def scorable(chat: ChatModel, grid: PromptGrid, prepared: Prepared, *, seed: int) -> dict[str, Pairs]:
    """Return the held-out pairs as the trained model meets them, the method's own way of being asked first; nothing where they cannot be scored.

    Returns
    -------
    dict
        "own" with what the method puts in front of replies, and "plain" without. Both are the same object where it puts nothing there.
    """
    try:
        frame = held_out_pairs(grid, prepared.data, seed=seed)
        if frame is None:
            return {}
        plain = pairs_to_score(chat, frame, tiers=grid.tiers)
        inserts = prepared.inserts
        own = (
            plain
            if inserts is None
            else pairs_to_score(chat, frame, tiers=grid.tiers, insert=inserts(list(frame["prompt"]), list(frame["language"])))
        )
    except WorkbenchError as error:  # a monitor stops no training
        logger.warning("Reward gaps are not measured: %s", error)
        return {}
    return {"own": own, "plain": plain}


def gaps_of(ways: dict[str, tuple[ChatModel, Pairs]], *, reference: Sequence[str]) -> RewardGaps:
    """Measure reward gaps of several models, or of one asked in several ways.

    Parameters
    ----------
    ways : dict of method to (ChatModel, Pairs)
    reference : sequence of str
        Languages that the others are compared with; those without a pair are left out.

    Returns
    -------
    RewardGaps
        With a column ``method`` in front.
    """
    tables = []
    for method, (chat, pairs) in ways.items():
        scored = pairs.scored(chat)
        found = reward_gaps(scored, reference=[tag for tag in reference if tag in set(scored["language"])])
        tables.append(found.table.assign(method=method)[["method", *found.table.columns]])
    return RewardGaps(pd.concat(tables, ignore_index=True), {**found.provenance, "split": "select", "meanings_per_class": MONITORED})


__all__ = ["MONITORED", "gaps_of", "held_out_pairs", "monitor_of", "scorable"]
