"""Read a model's residual stream on a grid of prompts, and resume where a broken run stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import xarray as xr

from workbench.activations.labels import dataset, prompt_table
from workbench.activations.manifest import MANIFEST, free_space, one_writer, require_same, size
from workbench.activations.plan import Plan, make_plan
from workbench.activations.shards import computed_shards
from workbench.activations.store import Store, is_store, open_store
from workbench.errors import PromptError, StoreError
from workbench.models.chat import ChatModel
from workbench.models.hooks import edits_of
from workbench.models.tokens import Tokens

logger = logging.getLogger(__name__)


@runtime_checkable
class Grid(Protocol):
    """What capture needs of a PromptGrid."""

    @property
    def frame(self) -> pd.DataFrame:
        """One row per prompt."""

    @property
    def hash(self) -> str:
        """Identity of ids, labels and texts."""


def capture(
    chat: ChatModel,
    grid: Grid,
    *,
    layers: str | Sequence[int | str] = "all",
    positions: str | Sequence[str] = ("t_inst", "t_post_inst"),
    store: str | Path | None = None,
    dtype: str = "float32",
    token_budget: int = 2048,
    shard_size: int = 1024,
    progress: bool = True,
    overwrite: bool = False,
    allow_one_class: bool = False,
) -> xr.Dataset:
    """Capture the residual stream at chosen layers and positions of every prompt.

    The base model alone is run (no head), on right-padded rows of similar length, no deeper than asked; hooks copy out
    only the rows wanted. With ``store`` the result is written shard by shard, and the same call continues after a crash
    with the same values.

    Parameters
    ----------
    chat : ChatModel
        The model, as it is asked.
    grid : PromptGrid
        The prompts.
    layers : "all" or sequence of int or str
        Blocks passed (0 = embedding), or sites.
    positions : sequence of str
        ``t_inst`` (last token of the user's text), ``t_post_inst`` (last token of the prompt), ``post[i]``, ``mean_inst``.
    store : path, optional
        Directory to write; None keeps the result in memory.
    dtype : str
        Stored precision, "float32" or "float16".
    token_budget : int
        Tokens per batch, padding included; halved by itself when memory runs out, which is recorded. On a GPU more (16384) keeps it busier.
    shard_size : int
        Prompts per shard.
    progress : bool
        Show a bar with prompts per second and time left.
    overwrite : bool
        Start an existing store over.
    allow_one_class : bool
        Accept a language without harmful, or without harmless, prompts. Sets without harm labels are accepted anyway.

    Returns
    -------
    Dataset (prompt, layer, position, hidden)
        Variable ``residual`` in the order of the grid; from disk lazily if ``store`` is given.

    Raises
    ------
    ModelError
        For an unknown layer or position.
    PromptError
        For prompts that are too long (by id), empty, or a language with one class only.
    ModelCheckError
        If an activation is NaN or infinite, naming prompt and layer.
    StoreMismatchError
        If the store belongs to another model, template, grid or plan.
    StoreError
        If the disk is full or will be; finished shards are kept.

    Examples
    --------
    >>> acts = capture(chat, grid, store="run/activations/after.zarr")  # doctest: +SKIP
    >>> acts["residual"].sel(position="t_inst", layer=12)  # doctest: +SKIP
    """
    plan = make_plan(chat, layers=layers, positions=positions, dtype=dtype, token_budget=token_budget, shard_size=shard_size)
    frame = grid.frame
    if not len(frame):
        raise PromptError("The grid has no prompts. Expected at least one; check --languages and --limit.")
    if not allow_one_class and hasattr(grid, "require_both_classes") and getattr(grid, "has_harm_labels", True):
        grid.require_both_classes()
    tokens = _tokenised(chat, frame, plan)
    identity, provenance = _identity(chat, grid, plan, tokens)
    table = prompt_table(frame, tokens)

    if store is None:
        values = np.empty((len(frame), len(plan.layers), len(plan.positions), chat.hidden_size), dtype=plan.dtype)
        budgets = set()
        for _, rows, block, budget in computed_shards(chat, plan, tokens, table, set(), progress):
            values[rows.start : rows.stop] = block
            budgets.add(budget)
        return dataset(values, plan, table, {**provenance, "token_budget": min(budgets)})

    path = Path(store)
    _start_if_absent(path, plan, identity, provenance, table, chat.hidden_size, overwrite=overwrite)
    with one_writer(path):
        target = _resumed(path, identity, table)
        _require_space(target)
        with ThreadPoolExecutor(max_workers=1) as writer:  # one shard is written while the next is computed
            pending: Future[None] | None = None
            for shard, rows, block, budget in computed_shards(chat, plan, tokens, table, target.finished, progress):
                if pending is not None:
                    pending.result()
                pending = writer.submit(target.write, shard, rows, block, token_budget=budget)
            if pending is not None:
                pending.result()
        if target.manifest["status"] != "finished":
            target.finish()
    return open_store(path)


def too_long(chat: ChatModel, grid: Grid, *, room: int = 0) -> pd.DataFrame:
    """List the prompts that do not fit the model's context, so that they can be left out with a reason.

    Parameters
    ----------
    chat : ChatModel
        Its template's tokens count too.
    grid : PromptGrid
        The prompts.
    room : int
        Tokens to keep free for a reply.

    Returns
    -------
    DataFrame
        prompt_id, language, n_tokens, context; empty if all fit.
    """
    frame = grid.frame
    lengths = [len(t) for t in chat.tokenise(frame["text"].tolist(), names=frame["prompt_id"].tolist())]
    listed = frame[["prompt_id", "language"]].assign(n_tokens=lengths, context=chat.context)
    return listed[listed["n_tokens"] + room > chat.context].reset_index(drop=True)


def _tokenised(chat: ChatModel, frame: pd.DataFrame, plan: Plan) -> list[Tokens]:
    names = frame["prompt_id"].tolist()
    tokens = chat.tokenise(frame["text"].tolist(), names=names)
    over = [name for name, t in zip(names, tokens, strict=True) if len(t) > chat.context]
    if over:
        raise PromptError(
            f"{len(over)} prompts are longer than the context of {chat.name} ({chat.context} tokens): "
            f"{', '.join(over[:5])}{' ...' if len(over) > 5 else ''}. Expected shorter ones. "
            "Take them out, in every language of their meaning, and capture again. too_long(chat, grid) lists them; diagnose drops them itself."
        )
    for name, one in zip(names, tokens, strict=True):
        for position in plan.positions:
            try:
                one.span(position)
            except PromptError as error:
                raise PromptError(f"Prompt {name}: {error}") from error
    return tokens


def _identity(chat: ChatModel, grid: Grid, plan: Plan, tokens: Sequence[Tokens]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What must agree for two captures to be one, and the flat record that goes into ``attrs``."""
    known = chat.provenance()
    edits = edits_of(chat)
    identity = {
        "model": {"fingerprint": known["fingerprint"], "dtype": known["dtype"]},
        "template": known["template"],
        "system prompt": {"system": known["system"]},
        "grid": {"hash": grid.hash, "prompts": len(grid.frame)},
        "plan": plan.to_dict(),
        "edits": {"active": edits},
        "tokenisation": {"token ids": hashlib.sha256(repr([t.ids for t in tokens]).encode()).hexdigest()[:16]},
    }
    provenance = {
        "model": known["model"],
        "fingerprint": known["fingerprint"],
        "architecture": known["architecture"],
        "model_dtype": known["dtype"],
        "attention": known["attention"],
        "device": known["device"],
        "template": known["template"]["hash"],
        "template_kind": known["template"]["kind"],
        "system": known["system"] or "",
        "prefix": chat.prefix,
        "suffix": chat.suffix,
        "grid": grid.hash,
        "plan": plan.hash,
        "dtype": plan.dtype,
        "token_budget": plan.token_budget,
        "shard_size": plan.shard_size,
        "edits": json.dumps(edits),
        "versions": json.dumps({**known["versions"], "numpy": np.__version__}),
    }
    return identity, provenance


def _start_if_absent(
    path: Path, plan: Plan, identity: dict[str, Any], provenance: dict[str, Any], table: pd.DataFrame, hidden: int, *, overwrite: bool
) -> None:
    if path.is_file():
        raise StoreError(f"{path} is a file. Expected a directory, or a path where nothing is yet, to write a store to.")
    if path.is_dir() and any(path.iterdir()):
        if not (is_store(path) if overwrite else is_store(path) or (path / MANIFEST).exists()):
            raise StoreError(
                f"{path} is a directory with other content; nothing there was touched. Expected a store, or a path where nothing is yet."
            )
        if not overwrite:
            return
    if path.is_dir():
        shutil.rmtree(path)
    Store.create(path, plan=plan, identity=identity, provenance=provenance, table=table, hidden=hidden)


def _resumed(path: Path, identity: dict[str, Any], table: pd.DataFrame) -> Store:
    """Open a store to go on with, after checking that it is the same measurement and undamaged so far."""
    store = Store(path, writable=True)
    require_same(path, store.manifest["identity"], identity)
    store.sweep()
    store.restore_table(table)
    damaged = {d.shard for d in store.damage()}
    if damaged:
        logger.warning("%s: shards %s are damaged and captured again.", path, sorted(damaged))
        store.forget(damaged)
    return store


def _require_space(store: Store) -> None:
    n_prompts, n_layers, n_positions, hidden = store.manifest["shape"]
    left = len(store.plan.shards(n_prompts)) - len(store.finished)
    needed = left * min(store.plan.shard_size, n_prompts) * n_layers * n_positions * hidden * np.dtype(store.plan.dtype).itemsize
    free = free_space(store.path)
    if needed > free:
        raise StoreError(
            f"{store.path} needs {size(needed)} more, {size(free)} are free. Expected enough before starting: free some space, give a store on "
            "another disk, ask for fewer layers or positions, or pass dtype='float16'. Nothing finished is lost."
        )
