"""The logit-lens language track of a model on a grid of prompts: reads with ``models.lens``, attributes with ``geometry.lens``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from workbench.errors import DataError
from workbench.geometry.lens import SMOOTHING, LanguageTrack, TokenLanguages, language_track, token_languages
from workbench.models.chat import ChatModel
from workbench.models.hooks import edits_of
from workbench.models.lens import LensBatch, lens_logits
from workbench.models.tokens import Tokens
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import normalise

_REPLIES = ("answer", "refusal")


def track_languages(
    chat: ChatModel,
    grid: PromptGrid,
    *,
    split: str | None = "score",
    reference: Iterable[str] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[str] = ("t_inst", "t_post_inst"),
    texts: Mapping[str, Sequence[str]] | None = None,
    replies: bool = True,
    smoothing: float = SMOOTHING,
    permutations: int = 100,
    max_meanings: int | None = 40,
    token_budget: int = 2048,
    rng: np.random.Generator | None = None,
    progress: bool = True,
) -> LanguageTrack:
    """Follow through the layers in which language the model would speak, per language of the prompt.

    A token's language is estimated from the meanings that are not scored (the fit split; all but the fit split when that is
    scored; the scored prompts themselves with ``split=None``). Only the tokens of texts count, never the template's.

    Parameters
    ----------
    chat : ChatModel
        The model, as it is asked; edits that are active count.
    grid : PromptGrid
        Prompts in at least two languages; cells may be missing.
    split : str or None
        Meanings scored; None for a grid without splits. Prompts then attribute their own tokens, and the result says so.
    reference : iterable of str, optional
        High-resource languages for the roll-up; by default those of tier high.
    layers, positions, token_budget
        As in :func:`workbench.models.lens.lens_logits`.
    texts : mapping of language to texts, optional
        More text of known language to count: a prompt set is small, and what was never seen cannot be attributed.
    replies : bool
        Count the keyed replies too (columns ``answer`` and ``refusal``), where the grid has them, of the meanings not scored.
    smoothing, permutations
        As in :func:`workbench.geometry.lens.token_languages` and :func:`workbench.geometry.lens.language_track`.
    max_meanings : int, optional
        Scored meanings per language, half of each class; drawn with ``rng`` where there are more.
    progress : bool
        Show a bar.

    Returns
    -------
    LanguageTrack
        ``provenance["own_text"]``: the share that the scored prompts' own text gets for its language, about the most to expect.

    Raises
    ------
    PromptError
        No such split, no reference, or a prompt that is empty or too long (by id).
    DataError
        Fewer than two languages or meanings, or a language without text to count.
    ModelCheckError
        If TransformerLens does not read this model as it reads itself.

    Examples
    --------
    >>> track_languages(load_model("organism:aligned"), load_prompts("organism")).summary()  # doctest: +SKIP
    """
    rng = rng or np.random.default_rng(0)
    scored = _scored(grid, split, max_meanings, rng)
    if len(scored.languages) < 2:
        raise DataError(f"All scored prompts are in {scored.languages[0]!r}. Telling languages apart needs at least two; add another's prompts.")
    named = grid.reference(reference)
    known, counted = _known(chat, _counted(grid, split), texts or {}, replies, smoothing)
    frame = scored.frame
    tokens = chat.tokenise(frame["text"].tolist(), names=frame["prompt_id"].tolist())
    batches = lens_logits(chat, tokens, layers=layers, positions=positions, token_budget=token_budget, names=frame["prompt_id"].tolist())
    provenance = {
        **chat.provenance(),
        "edits": edits_of(chat),
        "grid": grid.hash,
        "split": split,
        "counted": counted,
        "own_tokens_counted": split is None,
        "own_text": _own_text(known, tokens, frame["language"].tolist()),
    }
    n_layers = chat.n_layers + 1 if layers is None else len(layers)
    with tqdm(total=len(tokens) * n_layers, desc=f"logit lens {Path(chat.name).name[:32]}", unit="state", disable=not progress) as bar:
        shown = _shown(batches, bar)
        return language_track(shown, frame, known, reference=named, permutations=permutations, rng=rng, provenance=provenance)


def _scored(grid: PromptGrid, split: str | None, max_meanings: int | None, rng: np.random.Generator) -> PromptGrid:
    scored = grid if split is None else grid.select(split=split)
    if max_meanings is None:
        return scored
    if max_meanings < 2:
        raise DataError(f"max_meanings is {max_meanings}; expected at least 2 (3 for an interval), or None for all.")
    classes = scored.frame["harmful"].nunique()
    return scored.limit(math.ceil(max_meanings / classes), seed=int(rng.integers(2**31)))


def _counted(grid: PromptGrid, split: str | None) -> PromptGrid:
    if split is None:
        return grid
    if split != "fit":
        return grid.select(split="fit")
    frame = grid.frame
    return grid.select(meanings=frame.loc[frame["split"] != "fit", "meaning_id"])


def _known(
    chat: ChatModel, grid: PromptGrid, texts: Mapping[str, Sequence[str]], replies: bool, smoothing: float
) -> tuple[TokenLanguages, dict[str, int]]:
    """Count tokens of the grid's texts, its keyed replies and further texts; also how many texts of each kind there were."""
    frame = grid.frame
    found = [("text", language, name, text) for language, name, text in zip(frame["language"], frame["prompt_id"], frame["text"], strict=True)]
    for column in [c for c in _REPLIES if replies and c in frame]:
        kept = frame[frame[column].notna() & (frame[column].astype(str).str.strip() != "")]
        named = zip(kept["language"], kept["prompt_id"], kept[column].astype(str), strict=True)
        found += [(column, language, f"{name} ({column})", text) for language, name, text in named]
    for tag, more in texts.items():
        found += [("texts", normalise(tag), f"texts[{tag!r}][{i}]", text) for i, text in enumerate(more)]
    tokens = chat.tokenise([text for *_, text in found], names=[name for _, _, name, _ in found])
    ids = [t.ids[t.inst_start : t.inst_end] for t in tokens]
    n_vocab = int(chat.model.get_output_embeddings().weight.shape[0])
    known = token_languages(ids, [language for _, language, _, _ in found], n_vocab, smoothing=smoothing)
    kinds = [kind for kind, *_ in found]
    return known, {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def _own_text(known: TokenLanguages, tokens: Sequence[Tokens], languages: Sequence[str]) -> dict[str, float]:
    ids: dict[str, list[int]] = {}
    for one, language in zip(tokens, languages, strict=True):
        ids.setdefault(language, []).extend(one.ids[one.inst_start : one.inst_end])
    place = {tag: i for i, tag in enumerate(known.languages)}
    return {tag: round(float(known.shares(line)[place[tag]]), 4) for tag, line in ids.items() if tag in place}


def _shown(batches: Iterator[LensBatch], bar: Any) -> Iterator[LensBatch]:
    for batch in batches:
        yield batch
        bar.update(len(batch.rows) * len(batch.layers))
