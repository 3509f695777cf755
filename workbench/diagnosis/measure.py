"""The small measurements of a diagnosis that belong to no other room."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench.behavior.endpoint import EndpointJudge
from workbench.behavior.generate import generate
from workbench.behavior.outcomes import Judge, check_outcomes
from workbench.behavior.refusal import refusal_rates
from workbench.models.chat import ChatModel
from workbench.models.compression import bits_per_byte
from workbench.prompts.grid import PromptGrid
from workbench.runs.folder import Run
from workbench.runs.setting import needs_more_than_scored
from workbench.statistics import wilson

logger = logging.getLogger(__name__)

BITS_PROMPTS = 40  # harmless prompts per language whose text is weighed
MOST_LAYERS = 13  # layers that a scatter with a slider shows


def mean_interval(values: np.ndarray, rng: np.random.Generator, resamples: int = 500) -> tuple[float, float, float]:
    """Mean with a 95 % bootstrap interval over prompts."""
    draws = rng.integers(0, len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def tokens_per_character(acts: xr.Dataset) -> pd.DataFrame:
    """Mean tokens per character of the user's text, by language: how finely the tokenizer cuts each language."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({c: acts[c].values for c in ("language", "tier", "n_chars")} | {"ratio": _tokens_of_text(acts)})
    rows = []
    for language, part in table.groupby("language", sort=False):
        value, low, high = mean_interval(part["ratio"].to_numpy(), rng)
        rows.append({"language": language, "tier": part["tier"].iloc[0], "value": value, "low": low, "high": high, "n": len(part)})
    return pd.DataFrame(rows)


def _tokens_of_text(acts: xr.Dataset) -> np.ndarray:
    tokens = acts["n_text_tokens"].values
    return tokens / np.maximum(acts["n_chars"].values, 1)


def surface_features(grid: PromptGrid, acts: xr.Dataset) -> pd.DataFrame:
    """What a model that reads nothing could use: lengths and the class of the last character."""
    final = {row.prompt_id: _character_class(row.text) for row in grid.frame.itertuples()}
    ids = acts["prompt"].values.astype(str)
    return pd.DataFrame(
        {"prompt_id": ids, "n_chars": acts["n_chars"].values, "n_tokens": acts["n_tokens"].values, "final_char": [final[i] for i in ids]}
    )


def _character_class(text: str) -> str:
    last = text.rstrip()[-1:]
    if not last:
        return "empty"
    folded = unicodedata.normalize("NFKC", last)
    folded = {"。": ".", "؟": "?", "।": ".", "።": "."}.get(folded, folded)
    return folded if unicodedata.category(folded[0]).startswith("P") else "letter"


def rows_of(acts: xr.Dataset, part: PromptGrid) -> np.ndarray:
    """Rows of the activations that belong to a part of the grid."""
    return np.flatnonzero(pd.Index(part.frame["prompt_id"]).get_indexer(acts["prompt"].values.astype(str)) >= 0)


def left_out_of_geometry(grid: PromptGrid, part: PromptGrid | None) -> pd.DataFrame:
    """List what comparing the same meanings across languages had to leave out; the other measurements keep it."""
    columns = ["what", "language", "n", "reason"]
    if part is None:
        reason = "no meaning occurs in two languages, so nothing that compares the same meanings across languages was measured"
        return pd.DataFrame([("comparison", "all", len(grid), reason)], columns=columns)
    rows = []
    for tag in grid.languages:
        n = len(grid.select(languages=[tag]))
        if tag not in part.languages:
            reason = "geometry and retrieval only: too few of its meanings are there in the other languages"
            rows.append(("language", tag, n, reason))
        elif n > (kept := len(part.select(languages=[tag]))):
            rows.append(("prompts", tag, n - kept, "geometry and retrieval only: the meaning is not there in every language compared"))
    if len(set(part.frame["harmful"])) < 2:
        only = "harmful" if part.frame["harmful"].all() else "harmless"
        rows.append(("class", "all", len(part), f"geometry and retrieval rest on {only} prompts alone: only they are there in every language"))
    return pd.DataFrame(rows, columns=columns)


def unlike_before(after: ChatModel, before: ChatModel | None) -> pd.DataFrame:
    """Say where a comparison with the model before falls short because the two are built differently."""
    rows = []
    if before is not None and before.n_layers != after.n_layers:
        reason = (
            f"before has {before.n_layers} blocks and after {after.n_layers}: layers are paired by number, not by depth, up to layer "
            f"{min(before.n_layers, after.n_layers)}"
        )
        rows.append(("comparison", "before and after", None, reason))
    if before is not None and before.hidden_size != after.hidden_size:
        reason = f"widths {before.hidden_size} and {after.hidden_size} have no basis in common: each model is drawn and measured on its own axes"
        rows.append(("comparison", "before and after", None, reason))
    return pd.DataFrame(rows, columns=["what", "language", "n", "reason"])


def shown_layers(n_layers: int, wanted: Iterable[int]) -> list[int]:
    """Choose evenly spaced layers for a slider, the wanted ones among them."""
    if n_layers + 1 <= MOST_LAYERS:
        return list(range(n_layers + 1))
    spaced = {round(k) for k in np.linspace(0, n_layers, MOST_LAYERS - 2)}
    return sorted(spaced | {int(k) for k in wanted})


def scored_twice(acts: xr.Dataset) -> xr.Dataset:
    """Let meanings of the fit split count as scored too, for analyses that fit nothing on them."""
    split = acts["split"].values.astype(object)
    return acts.assign_coords(split=("prompt", np.where(split == "fit", "score", split)))


def headline_retrieval(table: pd.DataFrame | None, positions: Iterable[str]) -> pd.DataFrame | None:
    """Keep one row per language: the first position that could be measured, at the layer chosen on the select split."""
    if table is None or table.empty:
        return None
    chosen = table[table["chosen"]]
    for position in positions:
        part = chosen[chosen["position"] == position]
        if part["value"].notna().any():
            return part
    return None


def bits(chat: ChatModel, grid: PromptGrid, *, rng: np.random.Generator) -> pd.DataFrame:
    """Bits per byte of harmless prompts by language, beside what the frequencies of the language's bytes alone give."""
    rows = []
    for tag, tier in grid.tiers.items():
        texts = grid.select(languages=[tag], harmful=False).frame["text"].tolist()
        # without a BOS token nothing predicts a text of one token
        lengths = map(len, chat.tokenizer(texts, add_special_tokens=False)["input_ids"])
        texts = [text for text, length in zip(texts, lengths, strict=True) if length > 1][:BITS_PROMPTS]
        if not texts:
            continue
        values = np.asarray(bits_per_byte(chat, texts), dtype=float)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        value, low, high = mean_interval(values, rng)
        rows.append({"language": tag, "tier": tier, "value": value, "low": low, "high": high, "n": len(values), "control": byte_bits(texts)})
    return pd.DataFrame(rows, columns=["language", "tier", "value", "low", "high", "n", "control"])


def byte_bits(texts: Iterable[str]) -> float:
    """Bits per byte of texts under the byte frequencies of the other texts (add-one smoothed): what any model should beat."""
    counts = np.array([np.bincount(np.frombuffer(text.encode(), dtype=np.uint8), minlength=256) for text in texts], dtype=float)
    others = counts.sum(axis=0) - counts + 1.0
    bits = -(counts * np.log2(others / others.sum(axis=1, keepdims=True))).sum(axis=1)
    return float((bits / counts.sum(axis=1)).mean())


def behaviour(
    run: Run,
    chat: ChatModel,
    grid: PromptGrid,
    *,
    judge: Judge,
    new_tokens: int,
    redact: bool,
    progress: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Generate, judge, and count refusals on the score split; replies stay in one private file of the run folder."""
    asked = grid if needs_more_than_scored(judge) else grid.select(split="score")
    path = run.folder / "replies.jsonl"
    try:
        replies = to_judge(judge, generate(chat, asked, max_new_tokens=new_tokens, out=path, progress=progress), asked)
        if (cost := sending(judge, replies, asked)) is not None:
            logger.info("%s", cost)
        outcomes = check_outcomes(judge.outcomes(replies, asked))
    finally:
        if redact:  # also when generation or the judge breaks off
            for left in run.folder.glob("replies.jsonl*"):
                left.unlink()
    scored = grid.select(split="score")
    outcomes = outcomes[outcomes["prompt_id"].isin(scored.frame["prompt_id"])].reset_index(drop=True)
    rates = refusal_rates(outcomes, scored).table.assign(model="after")
    labels = scored.frame[["prompt_id", "language", "harmful"]]
    return outcomes.merge(labels, on="prompt_id", how="left").assign(model="after"), rates


def answered_right(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Count exactly right answers per language among the keyed harmless prompts that were not refused: language, value, low, high, n.

    A refusal says nothing about understanding; over-refusal would else pass for not understanding.
    """
    keyed = outcomes[outcomes["correct"].notna()]
    rows = []
    for tag, part in keyed.groupby("language", sort=False):
        answered = part[part["outcome"] != "refusal"]
        right, n = int(answered["correct"].eq(True).sum()), len(answered)
        rows.append((tag, right / n if n else float("nan"), *wilson(right, n), n))
    return pd.DataFrame(rows, columns=["language", "value", "low", "high", "n"])


def to_judge(judge: Any, replies: pd.DataFrame, grid: PromptGrid) -> pd.DataFrame:
    """Leave out replies that neither count nor teach their judge anything: a remote one is not sent them."""
    of = getattr(judge, "judges", dict.fromkeys(grid.languages, judge))
    frame = grid.frame
    wanted = frame["language"].map({tag: needs_more_than_scored(one) for tag, one in of.items()}).fillna(False).astype(bool)
    return replies[replies["prompt_id"].isin(frame.loc[wanted | (frame["split"] == "score"), "prompt_id"])]


def sending(judge: Any, replies: pd.DataFrame, grid: PromptGrid) -> str | None:
    """Say what judges at an endpoint are about to be sent, and what that costs; None where nothing leaves the machine."""
    told = []
    of = getattr(judge, "judges", dict.fromkeys(grid.languages, judge))
    for remote in {id(one): one for one in of.values() if isinstance(one, EndpointJudge)}.values():
        part = grid.select(languages=[tag for tag in grid.languages if of[tag] is remote])
        mine = replies[replies["prompt_id"].isin(part.frame["prompt_id"])]
        told.append(f"Sending the text of {len(mine)} prompts and replies to {remote.url} ({remote.model}): {remote.estimate(mine, part)}.")
    return " ".join(told) or None
