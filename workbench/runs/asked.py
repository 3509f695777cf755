"""What a diagnosis is asked: the models, and the prompts that both of them and every comparison can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from workbench.activations.capture import too_long
from workbench.errors import ModelError, PromptError
from workbench.models.chat import ChatModel
from workbench.models.load import load_model
from workbench.prompts.grid import PromptGrid
from workbench.prompts.sources import load_prompts
from workbench.runs.usable import comparable, drop_thin, reference_of


@dataclass(frozen=True)
class Asked:
    """The models as they are asked, the grid that all of them can answer, and the part whose meanings are in each language.

    ``part`` is None where no meaning occurs in two languages.
    """

    after: ChatModel
    before: ChatModel | None
    grid: PromptGrid
    part: PromptGrid | None
    reference: list[str]
    dropped: pd.DataFrame


def chat_of(model: Any, options: dict[str, Any]) -> ChatModel:
    """Load a model, or take one that is loaded."""
    if not isinstance(model, ChatModel):
        if isinstance(model, nn.Module):
            raise ModelError(f"{type(model).__name__}: a model in memory comes without a tokenizer. Give load_model(model, tokenizer=...) instead.")
        return load_model(model, **options)
    extra = [name for name, value in options.items() if value]
    if extra:
        raise ModelError(f"{', '.join(extra)} given together with a loaded model. They shape how a model is loaded: pass them to load_model instead.")
    return model


def listed(value: Sequence[str] | str | None) -> list[str] | None:
    """Split ``"a,b"`` into its parts; a sequence becomes a list, None stays None."""
    if value is None:
        return None
    return [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else list(value)


def grid_of(
    prompts: str | Path | PromptGrid,
    harmless: str | None,
    harmful: str | None,
    subset: str | None,
    languages: Sequence[str] | str | None,
    limit: int | None,
    seed: int,
    tiers: str | Path | None,
    strip_punctuation: bool,
) -> PromptGrid:
    """Load the prompts, or take a grid that is loaded."""
    if isinstance(prompts, PromptGrid):
        given = {"harmless": harmless, "harmful": harmful, "subset": subset, "tiers": tiers}
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise PromptError(
                f"{', '.join(extra)} given together with a PromptGrid. They shape how a set is loaded: pass them to load_prompts instead."
            )
        grid = prompts if languages is None else prompts.select(languages=listed(languages))
        grid = grid if limit is None else grid.limit(limit, seed=seed)
        return grid.strip_final_punctuation() if strip_punctuation else grid
    return load_prompts(
        prompts,
        harmless=harmless,
        harmful=harmful,
        subset=subset,
        languages=listed(languages),
        limit=limit,
        seed=seed,
        tiers=tiers,
        strip_punctuation=strip_punctuation,
    )


def ask(after: ChatModel, before: ChatModel | None, grid: PromptGrid, reference: list[str] | None, seed: int, new_tokens: int) -> Asked:
    """Leave out what cannot be measured, with the reason, and settle splits and reference languages."""
    dropped = []
    for chat, room in [(after, new_tokens)] if before is None else [(after, new_tokens), (before, 0)]:
        long = too_long(chat, grid, room=room)
        if len(long):
            for language, part in long.groupby("language", sort=False):
                least, most = int(part["n_tokens"].min()), int(part["n_tokens"].max())
                reply = f" with {room} for the reply" if room else ""
                reason = f"longer than the context of {chat.context} tokens ({least} to {most}{reply}): {chat.name}"
                dropped.append({"what": "prompts", "language": language, "n": len(part), "reason": reason})
            kept = grid.frame[~grid.frame["prompt_id"].isin(long["prompt_id"])]
            if kept.empty:
                free = f", {room} of them for the reply" if room else ""
                raise PromptError(
                    f"No prompt fits the context of {chat.context} tokens of {chat.name}{free}. Expected shorter prompts, fewer --max-new-tokens, "
                    "or a model with a longer context."
                )
            grid = PromptGrid(kept.reset_index(drop=True), provenance=grid.provenance)
    grid, unusable = grid.drop_unusable()
    grid, thin = drop_thin(grid.with_splits(seed=seed))
    tables = [table for table in (pd.DataFrame(dropped), unusable, thin) if len(table)]
    listed = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"what": [], "language": [], "n": [], "reason": []})
    settled = reference_of(grid, reference, listed)
    return Asked(after, before, grid, comparable(grid, settled, listed), settled, listed)
