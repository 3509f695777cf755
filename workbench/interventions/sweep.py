"""Try every candidate direction on held-out prompts: what happens when it is removed, and when it is added.

Fills the tables that :func:`workbench.directions.select.select_direction` reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from workbench.directions.direction import Direction, Directions
from workbench.directions.select import ALL, DirectionScores
from workbench.errors import DataError, ModelCheckError, did_you_mean
from workbench.interventions.aim import aim_at
from workbench.interventions.edits import Ablate, Add
from workbench.interventions.refusal_score import next_token_kl
from workbench.interventions.refusal_tokens import RefusalTokens
from workbench.interventions.sweep_file import SweepFile
from workbench.interventions.token_free import TokenFree
from workbench.models.chat import ChatModel, Tokens
from workbench.models.hooks import edits_of
from workbench.models.next_token import next_logits
from workbench.prompts.grid import PromptGrid
from workbench.statistics import jackknife_influence, jackknife_interval

CRITERIA = ("refusal_tokens", "token_free")
ABLATIONS = ("everywhere", "own_layer")
_STATISTICS = ("bypass", "induce", "kl")


def sweep_directions(
    chat: ChatModel,
    grid: PromptGrid,
    directions: Directions,
    *,
    tokens: RefusalTokens | None = None,
    criterion: str = "refusal_tokens",
    languages: Sequence[str] | None = None,
    split: str | None = "select",
    n: int | None = 32,
    filter_prompts: bool = True,
    ablation: str = "everywhere",
    baseline: str | float = "zero",
    token_budget: int = 16384,
    seed: int = 0,
    progress: bool = True,
    store: str | Path | None = None,
) -> DirectionScores:
    """Measure bypass, induce and KL of each candidate direction; one forward pass over the prompts each, nothing is generated.

    Parameters
    ----------
    chat : ChatModel
        The model that the directions were taken from.
    grid : PromptGrid
        Harmful and harmless prompts.
    directions : Directions
        Candidates (layer, position), positive towards harmful or refusal.
    tokens : RefusalTokens, optional
        First tokens of refusals; needed by "refusal_tokens" for every language.
    criterion : {"refusal_tokens", "token_free"}
        What bypass and induce are measured by: the refusal score of the next token, or the place of the states between harmless
        (-1) and harmful (+1) (:class:`~workbench.interventions.token_free.TokenFree`).
    languages : sequence of str, optional
        By default those that the directions were taken from.
    split : str or None
        Whose meanings are asked; not the split that the directions were taken from.
    n : int or None
        Meanings per class and language, drawn with ``seed``; None asks all.
    filter_prompts : bool
        Keep harmful prompts with a refusal score above 0 and harmless ones below 0 only (without any edit), as the authors do: a
        prompt that is not refused cannot show what removes refusal. Needs refusal tokens; the token-free criterion goes
        without a filter if there are none.
    ablation : {"everywhere", "own_layer"}
        Remove a direction at every write to the stream, or at its own layer only.
    baseline : "zero", "harmless" or float
        What ablation leaves (:class:`~workbench.interventions.Ablate`); others than "zero" need ablation="own_layer".
    token_budget : int
        Tokens per forward pass, padding included.
    store : path, optional
        JSON Lines file that gets each candidate when it is done; a second call with the same options goes on from it.
    progress : bool
        Show a bar over candidates.

    Returns
    -------
    DirectionScores
        Means over prompts, in float64, for all languages together ("all") and each by itself, with intervals over meanings
        (jackknife; of KL on its logarithm): ``bypass`` on harmful prompts while the direction is ablated, ``induce`` on harmless
        ones while it is added once as long as it was measured, at its own layer and every token, ``kl`` (nats) of the harmless
        prompts' next token under ablation. Where a candidate cannot be tried, scores are NaN and ``reason`` says why.

    Raises
    ------
    DataError
        For directions without sign, of the split that is asked, or all zero; a language without refusal tokens; one class
        only; prompts of a class that all fail the filter (how many, and why).
    ModelError
        For directions of another model or width.
    StoreMismatchError
        If ``store`` belongs to another sweep.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717, section 2.3 and released code (n = 32, filter, three scores).
    """
    _require_options(criterion, ablation, baseline, directions, split)
    asked = _asked(grid, directions, languages, split, n, seed)
    asked = _Asked(chat, asked, chat.tokenise(list(asked["text"]), names=list(asked["prompt_id"])), token_budget)
    candidates = [(str(p), int(k)) for p in directions.unit["position"].values for k in directions.unit["layer"].values]
    _require_directions(chat, directions, candidates)
    tags = list(dict.fromkeys(asked.frame["language"]))
    _require_tokens(chat, tokens, tags, criterion)
    filtered = filter_prompts and tokens is not None and not tokens.missing(tags)
    before = asked.frame.groupby(["language", "harmful"], sort=False).size()
    if filtered:
        assert tokens is not None
        asked = asked.rows(_passing(asked, tokens))
    options = {"criterion": criterion, "ablation": ablation, "baseline": baseline, "filter": filtered, "split": split, "n": n, "seed": seed}
    header = {
        "model": chat.fingerprint,
        "template": chat.template.hash,
        "system": chat.system,
        "prompts": hashlib.sha256("\n".join(asked.names).encode()).hexdigest()[:16],
        "grid": grid.hash,
        "directions": hashlib.sha256(directions.unit.values.tobytes() + directions.norm.values.tobytes()).hexdigest()[:16],
        "tokens": None if tokens is None else {tag: list(tokens.ids[tag]) for tag in tags if tag in tokens.ids},
        "edits": edits_of(chat),
        **options,
    }
    trial = _Trial.prepared(asked, tokens, criterion, lambda d: Ablate(d, "everywhere" if ablation == "everywhere" else None, baseline=baseline))
    file = SweepFile.open(store, header) if store is not None else None
    done = dict(file.rows) if file else {}
    with tqdm(total=len(candidates), initial=len(done), unit="candidate", desc="sweep", disable=not progress) as bar:
        for position, layer in candidates:
            if (position, layer) not in done:
                done[position, layer] = trial.rows(directions.at(layer, position))
                if file:
                    file.append((position, layer), done[position, layer])
                bar.update()
    table = pd.DataFrame([row for candidate in candidates for row in done[candidate]])
    after = asked.frame.groupby(["language", "harmful"], sort=False).size()
    counts = [
        {"language": tag, "harmful": bool(harmful), "asked": int(size), "kept": int(after.get((tag, harmful), 0))}
        for (tag, harmful), size in before.items()
    ]
    read = {"layers_read": list(trial.token_free.layers)} if trial.token_free is not None else {}
    told = {"n_layers": chat.n_layers, "languages": tags, "prompts": counts, "without_edit": trial.without_edit, **read}
    lists = {} if tokens is None else {"tokens": tokens.to_dict()}
    kept = {name: directions.metadata[name] for name in ("method", "toward", "languages", "split") if name in directions.metadata}
    return DirectionScores(table, {**chat.provenance(), "directions": kept, **options, **told, **lists, "grid": grid.hash, "edits": header["edits"]})


@dataclass(frozen=True, eq=False)
class _Asked:
    """Prompts of a sweep: their labels and tokens."""

    chat: ChatModel
    frame: pd.DataFrame
    tokens: list[Tokens]
    budget: int

    @property
    def names(self) -> list[str]:
        return list(self.frame["prompt_id"])

    def rows(self, rows: np.ndarray) -> _Asked:
        return _Asked(self.chat, self.frame.iloc[rows].reset_index(drop=True), [self.tokens[i] for i in rows], self.budget)

    def logits(self) -> Tensor:
        """Return next-token logits [prompt vocab] on the CPU."""
        found: dict[int, Tensor] = {}
        for rows, logits in next_logits(self.chat, self.tokens, self.names, token_budget=self.budget):
            found |= dict(zip(rows.tolist(), logits.cpu(), strict=True))
        return torch.stack([found[i] for i in range(len(self.tokens))])

    def refusal(self, tokens: RefusalTokens) -> np.ndarray:
        """Return refusal scores, float64 [prompt]."""
        found = np.zeros(len(self.tokens))
        languages = list(self.frame["language"])
        for rows, logits in next_logits(self.chat, self.tokens, self.names, token_budget=self.budget):
            found[rows] = tokens.score(logits, [languages[i] for i in rows]).cpu().numpy()
        return found

    def divergence(self, base: Tensor) -> np.ndarray:
        """Return KL(base || now), float64 [prompt]."""
        found = np.zeros(len(self.tokens))
        for rows, logits in next_logits(self.chat, self.tokens, self.names, token_budget=self.budget):
            found[rows] = next_token_kl(base[rows].to(logits.device), logits).cpu().numpy()
        return found


@dataclass(frozen=True, eq=False)
class _Trial:
    """What is done with one candidate."""

    harmful: _Asked
    harmless: _Asked
    base: Tensor
    tokens: RefusalTokens | None
    token_free: TokenFree | None
    places: tuple[np.ndarray, np.ndarray]
    ablate: Any
    without_edit: dict[str, float]

    @classmethod
    def prepared(cls, asked: _Asked, tokens: RefusalTokens | None, criterion: str, ablate: Any) -> _Trial:
        label = asked.frame["harmful"].to_numpy()
        places = np.flatnonzero(label), np.flatnonzero(~label)
        harmful, harmless = (asked.rows(rows) for rows in places)
        free = TokenFree.learn(asked.chat, asked.tokens, asked.frame, token_budget=asked.budget) if criterion == "token_free" else None
        trial = cls(harmful, harmless, harmless.logits(), tokens, free, places, ablate, {})
        trial.without_edit.update({"harmful": float(trial._scores(True).mean()), "harmless": float(trial._scores(False).mean())})
        return trial

    def _scores(self, harmful: bool) -> np.ndarray:
        asked = self.harmful if harmful else self.harmless
        if self.token_free is None:
            assert self.tokens is not None
            return asked.refusal(self.tokens)
        rows = self.places[0 if harmful else 1]
        return self.token_free.scores(asked.chat, asked.tokens, asked.names, rows, token_budget=asked.budget)

    def rows(self, direction: Direction) -> list[dict[str, Any]]:
        """Try one candidate; one row for all languages together, and one for each."""
        chat, values, reason = self.harmful.chat, {}, ""
        if not direction.norm or not np.isfinite(direction.unit).all() or not np.isfinite(direction.norm):
            reason = "the direction is zero" if np.isfinite(direction.norm) else "the direction is not finite"
        else:
            try:
                with chat.edited(self.ablate(direction)):
                    values = {"bypass": self._scores(True), "kl": self.harmless.divergence(self.base)}
                with chat.edited(Add(direction, 1.0, "raw")):
                    values["induce"] = self._scores(False)
            except ModelCheckError:  # an edit that blows the stream up; the other candidates are still to be tried
                values, reason = {}, "logits or states are not finite under the edit"
        tags = [ALL, *dict.fromkeys([*self.harmful.frame["language"], *self.harmless.frame["language"]])]
        return [self._row(direction, tag, values, reason) for tag in tags]

    def _row(self, direction: Direction, tag: str, values: dict[str, np.ndarray], reason: str) -> dict[str, Any]:
        frames = {"bypass": self.harmful.frame, "induce": self.harmless.frame, "kl": self.harmless.frame}
        row: dict[str, Any] = {"position": direction.position, "layer": direction.layer, "language": tag, "tier": None}
        mine = {name: np.ones(len(frame), dtype=bool) if tag == ALL else (frame["language"] == tag).to_numpy() for name, frame in frames.items()}
        for name, frame in frames.items():
            tiers = frame.loc[mine[name], "tier"]
            row["tier"] = None if tag == ALL or tiers.empty else tiers.iloc[0]
            here = values[name][mine[name]] if values else np.zeros(0)
            row |= _mean(name, here, frame.loc[mine[name], "meaning_id"].to_numpy())
        counts = {"n_harmful": int(mine["bypass"].sum()), "n_harmless": int(mine["induce"].sum())}
        if not reason and not all(counts.values()):
            reason = "no prompt of this language passes the filter in one of the classes"
        return {**row, **counts, "criterion": "refusal_tokens" if self.token_free is None else "token_free", "reason": reason}


def _mean(name: str, values: np.ndarray, meaning: np.ndarray) -> dict[str, float]:
    """Return a mean over prompts and its interval over meanings (of kl, which has an end at 0, on its logarithm); NaN where there are no values."""
    if not len(values):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
    _, group = np.unique(meaning, return_inverse=True)
    total, count = np.bincount(group, weights=values), np.bincount(group)
    value, low, high = float(values.mean()), float("nan"), float("nan")
    if len(count) > 2:
        without = (total.sum() - total) / (count.sum() - count)
        positive = name == "kl" and value > 0 and bool((without > 0).all())
        scale = np.log if positive else np.asarray
        ends = jackknife_interval(scale(value), jackknife_influence(scale(value), scale(without)))
        low, high = (float(np.exp(end) if positive else end) for end in ends)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _asked(grid: PromptGrid, directions: Directions, languages: Sequence[str] | None, split: str | None, n: int | None, seed: int) -> pd.DataFrame:
    wanted = list(languages) if languages is not None else [tag for tag in directions.metadata.get("languages", []) if tag in grid.languages]
    chosen = grid.select(languages=wanted or None, split=split)
    frame = (chosen if n is None else chosen.limit(n, seed=seed)).frame
    n_harmful = int(frame["harmful"].sum())
    if n_harmful in (0, len(frame)):
        raise DataError(
            f"The grid has {n_harmful} harmful and {len(frame) - n_harmful} harmless prompts in {', '.join(chosen.languages)}, split {split!r}. "
            "Expected both classes: bypass is read on harmful prompts, induce and KL on harmless ones."
        )
    return frame[["prompt_id", "meaning_id", "language", "tier", "harmful", "text"]].reset_index(drop=True)


def _require_options(criterion: str, ablation: str, baseline: str | float, directions: Directions, split: str | None) -> None:
    for name, given, known in (("criterion", criterion, CRITERIA), ("ablation", ablation, ABLATIONS)):
        if given not in known:
            raise DataError(f"{name}={given!r}: expected one of {', '.join(known)}.{did_you_mean(str(given), known)}")
    if baseline != "zero" and ablation == "everywhere":
        raise DataError(f"baseline={baseline!r} needs ablation='own_layer': a single write to the stream has no coordinate to be set.")
    toward = directions.metadata.get("toward", "harmful")
    if toward not in ("harmful", "refusal"):
        raise DataError(f"The directions point toward {toward!r}. Expected harmful or refusal: adding one is to induce refusal. Turn their sign.")
    if split is not None and directions.metadata.get("split") == split:
        raise DataError(
            f"The directions were taken from the split {split!r}, which is to judge them. Expected another: extract them on 'fit' and select on "
            "'select', or pass split=None to use every prompt on purpose."
        )


def _require_directions(chat: ChatModel, directions: Directions, candidates: list[tuple[str, int]]) -> None:
    """Refuse directions of another width or model, and places the model lacks, before anything runs."""
    norms = [float(directions.norm.sel(layer=layer, position=position)) for position, layer in candidates]
    usable = [place for place, norm in zip(candidates, norms, strict=True) if norm > 0]
    if not usable:
        raise DataError(f"None of the {len(candidates)} directions differs from zero. Expected at least one; look at directions.to_frame().")
    aim_at(directions.at(usable[0][1], usable[0][0])).require_model(chat, any_model=False)
    deepest = max(layer for _, layer in candidates)
    if deepest > chat.n_layers:
        raise DataError(f"There is a direction at layer {deepest}, and {chat.name} has layers 0 to {chat.n_layers}. Extract them from this model.")


def _require_tokens(chat: ChatModel, tokens: RefusalTokens | None, languages: list[str], criterion: str) -> None:
    if tokens is not None:
        tokens.require_model(chat)
    if criterion == "token_free":
        return
    missing = languages if tokens is None else tokens.missing(languages)
    if missing:
        raise DataError(
            f"There are no refusal tokens for {', '.join(missing)}. Expected some for every language asked: RefusalTokens.given or .learned, "
            "languages= without them, or criterion='token_free'."
        )


def _passing(asked: _Asked, tokens: RefusalTokens) -> np.ndarray:
    """Return the prompts that the model refuses, and answers, as it should."""
    score, harmful = asked.refusal(tokens), asked.frame["harmful"].to_numpy()
    passes = np.where(harmful, score > 0, score < 0)
    told, empty = [], []
    for label, name, rule in ((True, "harmful", "above"), (False, "harmless", "below")):
        mine = score[harmful == label]
        kept = int(passes[harmful == label].sum())
        told.append(f"{kept} of {len(mine)} {name} prompts have a refusal score {rule} 0 (they range from {mine.min():.2f} to {mine.max():.2f})")
        empty += [name] * (not kept)
    if empty:
        raise DataError(
            f"No {' and no '.join(empty)} prompt passes the filter: {'; '.join(told)}. Expected a model that refuses some harmful prompts and "
            "answers some harmless ones in these languages; ask others (languages=), check the refusal tokens, or pass filter_prompts=False."
        )
    return np.flatnonzero(passes)
