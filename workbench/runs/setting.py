"""What every kind of run records of its model, prompts and judge."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid

DEFAULT_NEW_TOKENS = 48


def is_organism(chat: ChatModel) -> bool:
    """Whether the model is an organism, whose results say nothing about real languages."""
    return chat.path is not None and (chat.path / "organism.json").exists()


def prompt_table(acts: xr.Dataset, grid: PromptGrid) -> pd.DataFrame:
    """List the prompts measured, by id and labels, without their text."""
    columns = ["prompt_id", "meaning_id", "language", "tier", "harmful", "category", "split", "source"]
    sizes = pd.DataFrame({"prompt_id": acts["prompt"].values.astype(str), "n_tokens": acts["n_tokens"].values, "n_chars": acts["n_chars"].values})
    return grid.frame[columns].merge(sizes, on="prompt_id", how="left")


def labels_hash(grid: PromptGrid, refusals: str | Path | None) -> str:
    """sha256 (16 hex digits) over everything of a grid, and of a file of refusals, that can change a number."""
    frame = grid.frame.sort_values("prompt_id")
    digest = hashlib.sha256(frame[sorted(frame.columns)].to_csv(index=False).encode())
    if refusals is not None:
        digest.update(Path(refusals).read_bytes() if Path(refusals).is_file() else b"")
    return digest.hexdigest()[:16]


def enough_tokens(chat: ChatModel, grid: PromptGrid) -> int:
    """Room for the longest keyed reply where there is a key, else for the beginning of an answer."""
    if "answer" not in grid.frame or grid.frame["answer"].isna().all():
        return DEFAULT_NEW_TOKENS
    keys = [grid.frame["answer"].dropna()] + ([grid.frame["refusal"].dropna()] if "refusal" in grid.frame else [])
    texts = pd.unique(pd.concat(keys)).tolist()
    return 2 + max(len(ids) for ids in chat.tokenizer(texts, add_special_tokens=False)["input_ids"])


def needs_more_than_scored(judge: Any) -> bool:
    """Whether a judge learns from replies to prompts that are not scored."""
    return bool(getattr(judge, "learns", False))
