"""Compute the states of a plan shard by shard, with what memory there is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from workbench.activations.plan import Plan
from workbench.errors import ModelCheckError, ModelError, StoreError
from workbench.models.batching import batches
from workbench.models.chat import ChatModel
from workbench.models.tokens import Tokens

logger = logging.getLogger(__name__)


def computed_shards(
    chat: ChatModel, plan: Plan, tokens: list[Tokens], table: pd.DataFrame, done: set[int], progress: bool
) -> Iterator[tuple[int, range, np.ndarray, int]]:
    """Compute the missing shards one by one.

    Parameters
    ----------
    chat : ChatModel
        The model.
    plan : Plan
        What to keep, and how shards are cut.
    tokens : list of Tokens
        All prompts.
    table : DataFrame
        Their labels, for messages.
    done : set of int
        Shards to leave out.
    progress : bool
        Show a bar.

    Yields
    ------
    shard : int
        Its number.
    rows : range
        Its prompts.
    block : array [prompt, layer, position, hidden]
        Finite values in the plan's precision.
    token_budget : int
        What the shard was read with; after an out-of-memory half of what it was, and kept so.
    """
    shards = plan.shards(len(tokens))
    budget = plan.token_budget
    kept = sum(len(shards[s]) for s in done)
    with tqdm(total=len(tokens), initial=kept, desc=f"capture {Path(chat.name).name[:32]}", unit="prompt", disable=not progress) as bar:
        for number, rows in enumerate(shards):
            if number in done:
                continue
            part = tokens[rows.start : rows.stop]
            start = bar.n
            while True:
                try:
                    block = _read_shard(chat, plan, part, table["prompt_id"].iloc[rows.start : rows.stop].tolist(), budget, bar)
                    break
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    budget = _smaller(error, budget, part)
                    bar.n = start
            yield number, rows, _require_finite(block, plan, table.iloc[rows.start : rows.stop]), budget


def _read_shard(chat: ChatModel, plan: Plan, tokens: list[Tokens], names: list[str], budget: int, bar: Any) -> np.ndarray:
    block = np.empty((len(tokens), len(plan.layers), len(plan.positions), chat.hidden_size), dtype=np.float32)
    waiting: list[tuple[np.ndarray, torch.Tensor]] = []
    for rows in batches([len(t) for t in tokens], budget):
        named = [names[r] for r in rows]
        states = chat.states([tokens[r] for r in rows], layers=plan.layers, positions=plan.positions, prompt_ids=named)
        if states.device.type == "cuda":  # into pinned memory without waiting: the next batch starts meanwhile
            pinned = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
            waiting.append((rows, pinned.copy_(states, non_blocking=True)))
        else:
            block[rows] = states.float().cpu().numpy()
        bar.update(len(rows))
    if waiting:
        torch.cuda.synchronize(states.device)
    for rows, pinned in waiting:
        block[rows] = pinned.float().numpy()
    return block


def _smaller(error: Exception, budget: int, tokens: list[Tokens]) -> int:
    """Halve the budget after an out-of-memory; raise anything else, or when one prompt alone does not fit."""
    told = str(error).lower()
    if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in told and "can't allocate memory" not in told:
        raise error
    longest = max(map(len, tokens))
    if budget < 2 or budget < longest:
        raise ModelError(
            f"Out of memory with one prompt of {longest} tokens per batch. Expected room for at least one: use half precision, device_map='auto', "
            "a smaller model or shorter prompts. Finished shards are kept."
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    logger.warning("Out of memory with token_budget=%d; going on with %d.", budget, budget // 2)
    return budget // 2


def _require_finite(block: np.ndarray, plan: Plan, table: pd.DataFrame) -> np.ndarray:
    """Refuse NaN and infinity, naming prompt and layer, and convert to the stored precision."""
    if not np.isfinite(block).all():
        prompt, layer, position, _ = np.argwhere(~np.isfinite(block))[0]
        row = table.iloc[prompt]
        raise ModelCheckError(
            f"Prompt {row['prompt_id']} ({row['language']}) has NaN or infinite activations from layer {plan.layers[layer]} at "
            f"{plan.positions[position]}. Expected finite values: load the model in float32 (or bfloat16 instead of float16), download a "
            "damaged checkpoint again, or take the prompt out. Finished shards are kept."
        )
    if plan.dtype == "float32":
        return block
    with np.errstate(over="ignore"):
        stored = block.astype(plan.dtype)
    if not np.isfinite(stored).all():
        prompt, layer, position, _ = np.argwhere(~np.isfinite(stored))[0]
        raise StoreError(
            f"Prompt {table.iloc[prompt]['prompt_id']}: activations at layer {plan.layers[layer]}, {plan.positions[position]}, exceed float16 "
            f"(largest {np.abs(block[prompt, layer]).max():.3g}, limit 65504). Capture with dtype='float32' into a new store."
        )
    return stored
