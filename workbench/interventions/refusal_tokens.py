"""Which tokens refusals begin with, per language of one model, and where each list comes from.

A language without a list has none; nobody else's is used for it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import DataError, did_you_mean, shown, writing
from workbench.interventions.refusal_score import refusal_score
from workbench.models.chat import ChatModel
from workbench.prompts.cells import is_blank
from workbench.prompts.files import read_text
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import normalise
from workbench.statistics import newcombe

#: First words of English refusals by model type (Hugging Face ``config.model_type``; Yi is of type llama). Card 4.3.
BUILT_IN = {
    **dict.fromkeys(("llama", "gemma", "gemma2", "gemma3", "gemma3_text"), ("I",)),
    **dict.fromkeys(("qwen", "qwen2", "qwen3"), ("I", "As")),
}


@dataclass(frozen=True)
class RefusalTokens:
    """First tokens of refusals per language, for one model's tokenizer.

    A first token stands for a refusal only as far as other replies do not open with it. English "I" opens answers too, and where
    a tokenizer cuts a script into bytes, the first token may open every reply of the language: :meth:`learned` measures it.

    Parameters
    ----------
    ids : mapping of language to token ids
    source : mapping of language to str
        Where each list comes from.
    pieces : mapping of token id to str
        The tokens as the vocabulary spells them; tells another model's lists apart.
    left_out : mapping of language to str
        Languages that were asked for and have no list, with the reason.
    """

    ids: Mapping[str, tuple[int, ...]]
    source: Mapping[str, str]
    pieces: Mapping[int, str]
    left_out: Mapping[str, str] = field(default_factory=dict)

    # ------------------------------------------------------------------ where they come from

    @classmethod
    def built_in(cls, chat: ChatModel) -> Self:
        """Return the English list that Arditi et al. wrote for the model's family (Llama, Yi, Gemma: "I"; Qwen: "I", "As").

        Raises
        ------
        DataError
            For a family without a list.

        References
        ----------
        arXiv:2406.11717, released code.
        """
        kind = str(chat.config.model_type)
        if kind not in BUILT_IN:
            raise DataError(
                f"There is no built-in list of refusal tokens for {chat.name} of type {kind!r}; there is for {', '.join(BUILT_IN)}. Give first "
                'words, RefusalTokens.given(chat, {"en": ["I"]}), or learn them from judged replies (RefusalTokens.learned).'
            )
        return cls._of(chat, {"en": _first_tokens(chat, BUILT_IN[kind])}, "built in: Arditi et al. 2024, arXiv:2406.11717")

    @classmethod
    def from_grid(cls, chat: ChatModel, grid: PromptGrid) -> Self:
        """Take the first token of each language's refusals in the grid's ``refusal`` column.

        Raises
        ------
        DataError
            If there is no such column.
        """
        frame = grid.frame
        if "refusal" not in frame:
            raise DataError("The grid has no column refusal. Expected one with each language's refusal; or use given(), learned() or built_in().")
        texts = {str(tag): [str(text) for text in dict.fromkeys(part) if not is_blank(text)] for tag, part in frame.groupby("language")["refusal"]}
        found = {tag: _first_tokens(chat, some) for tag, some in texts.items() if some}
        missing = {tag: "the refusal column is empty" for tag, some in texts.items() if not some}
        return cls._of(chat, found, "the grid's refusal column", missing)

    @classmethod
    def given(cls, chat: ChatModel, lists: Mapping[str, Iterable[str | int]] | str | Path) -> Self:
        """Take lists of texts (their first token counts) or of token ids.

        Parameters
        ----------
        lists : mapping of language to texts or ids, or path
            A JSON file holds such a mapping, or what :meth:`save` wrote.

        Raises
        ------
        DataError
            For a file that holds something else, an empty list, an empty text, or an id outside of the vocabulary.
        """
        told = "given"
        if isinstance(lists, str | Path):
            told, lists = f"file {Path(lists).name}", _read(Path(lists))
        found = {normalise(str(tag)): _given_tokens(chat, str(tag), some) for tag, some in lists.items()}
        return cls._of(chat, found, told)

    @classmethod
    def learned(cls, chat: ChatModel, replies: pd.DataFrame, outcomes: pd.DataFrame, grid: PromptGrid, *, min_count: int = 2) -> Self:
        """Learn first tokens from judged replies: those that open refusals and no compliance, checked on other meanings.

        Parameters
        ----------
        replies : DataFrame
            ``prompt_id``, ``reply``.
        outcomes : DataFrame
            ``prompt_id``, ``outcome`` from a judge; garbled and off-language replies are left out.
        grid : PromptGrid
            With splits: lists are made on "fit" and kept only if, on "select", they open refusals more often than compliances
            (Newcombe's 95 % interval of the difference lies above 0). "score" is not looked at.
        min_count : int
            Refusals of the fit split that a token must open.

        Returns
        -------
        RefusalTokens
            ``source`` says the held-out shares and counts; ``left_out`` why a language has no list.

        Raises
        ------
        DataError
            Columns are missing, or no reply belongs to the grid's fit split.
        """
        for name, table, columns in (("replies", replies, ("prompt_id", "reply")), ("outcomes", outcomes, ("prompt_id", "outcome"))):
            absent = [column for column in columns if column not in table]
            if absent:
                raise DataError(f"{name} lack the columns {absent}. Expected what generate() and a judge's outcomes() return.")
        rows = grid.frame[["prompt_id", "language", "split"]].merge(replies[["prompt_id", "reply"]], on="prompt_id")
        rows = rows.merge(outcomes[["prompt_id", "outcome"]], on="prompt_id")
        rows = rows[rows["outcome"].isin(["refusal", "compliance"]) & rows["reply"].map(lambda text: bool(str(text).strip()))]
        if not (rows["split"] == "fit").any():
            raise DataError("No judged reply belongs to the split 'fit' of this grid. Call grid.with_splits() and judge replies to it.")
        opens = [_first_tokens(chat, [text], strict=False)[0] for text in rows["reply"]]
        rows = rows.assign(token=opens, refused=rows["outcome"] == "refusal")
        found: dict[str, tuple[int, ...]] = {}
        told: dict[str, str] = {}
        left_out: dict[str, str] = {tag: "no judged replies" for tag in grid.languages if tag not in set(rows["language"])}
        for tag, part in rows.groupby("language", sort=False):
            ids, note = _learn(part, min_count)
            (told if ids else left_out)[str(tag)] = note
            if ids:
                found[str(tag)] = ids
        return cls._of(chat, found, told, left_out)

    @classmethod
    def _of(
        cls, chat: ChatModel, ids: Mapping[str, Sequence[int]], source: str | Mapping[str, str], left_out: Mapping[str, str] | None = None
    ) -> Self:
        lists = {tag: tuple(dict.fromkeys(int(token) for token in some)) for tag, some in ids.items()}
        told = dict.fromkeys(lists, source) if isinstance(source, str) else dict(source)
        return cls(lists, told, _pieces(chat, [token for some in lists.values() for token in some]), dict(left_out or {}))

    # ------------------------------------------------------------------ what is there

    @property
    def languages(self) -> list[str]:
        """Languages with a list."""
        return list(self.ids)

    def of(self, language: str) -> tuple[int, ...]:
        """Return a language's tokens.

        Raises
        ------
        DataError
            If it has none: no other language's list is used in its place.
        """
        if language not in self.ids:
            why = self.left_out.get(language)
            raise DataError(
                f"There are no refusal tokens for {language!r}{f' ({why})' if why else ''}; there are for {', '.join(self.ids) or 'no language'}. "
                f"Give or learn some (RefusalTokens.given, .learned), or use a token-free criterion.{did_you_mean(language, self.ids)}"
            )
        return self.ids[language]

    def union(self, languages: Iterable[str]) -> tuple[int, ...]:
        """Return the tokens of several languages together, each once."""
        return tuple(dict.fromkeys(token for language in languages for token in self.of(language)))

    def missing(self, languages: Iterable[str]) -> list[str]:
        """Return those languages that have no list."""
        return [language for language in languages if language not in self.ids]

    def joined(self, *others: RefusalTokens) -> RefusalTokens:
        """Let others fill in the languages that have no list here; of one language two lists are never mixed."""
        ids, source, pieces, left_out = dict(self.ids), dict(self.source), dict(self.pieces), dict(self.left_out)
        for other in others:
            clash = [token for token, piece in other.pieces.items() if pieces.get(token, piece) != piece]
            if clash:
                raise DataError(
                    f"Token {clash[0]} is {pieces[clash[0]]!r} in one list, {other.pieces[clash[0]]!r} in another. Give lists of one model."
                )
            for tag in other.ids:
                if tag not in ids:
                    ids[tag], source[tag] = other.ids[tag], other.source[tag]
            pieces |= other.pieces
            left_out = {**other.left_out, **left_out}
        return RefusalTokens(ids, source, pieces, {tag: why for tag, why in left_out.items() if tag not in ids})

    def require_model(self, chat: ChatModel) -> None:
        """Refuse a model whose vocabulary spells these tokens otherwise.

        Raises
        ------
        DataError
            Naming the first token that differs.
        """
        size = int(chat.model.get_input_embeddings().weight.shape[0])
        inside = [token for token in self.pieces if token < size]
        spelled = _pieces(chat, inside)
        for token, piece in self.pieces.items():
            if spelled.get(token) != piece:
                raise DataError(
                    f"Token {token} is {piece!r} in these lists and {spelled.get(token)!r} in {chat.name}. Expected lists made for its tokenizer; "
                    "make them again with this model."
                )

    def score(
        self, logits: Float[Tensor, "prompt vocab"] | Float[Tensor, "prompt token vocab"], languages: Sequence[str]
    ) -> Float[Tensor, " prompt"]:
        """Return :func:`refusal_score` per prompt, each by the list of its own language."""
        if len(languages) != len(logits):
            raise DataError(f"{len(languages)} languages for {len(logits)} prompts. Expected one language per row of logits.")
        scores = torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
        for tag in dict.fromkeys(languages):
            rows = torch.tensor([row for row, other in enumerate(languages) if other == tag], device=logits.device)
            scores[rows] = refusal_score(logits[rows], self.of(tag))
        return scores

    def to_frame(self) -> pd.DataFrame:
        """Return one row per language and token: language, token_id, token, source."""
        rows = [(tag, token, self.pieces[token], self.source[tag]) for tag, some in self.ids.items() for token in some]
        return pd.DataFrame(rows, columns=["language", "token_id", "token", "source"])

    def to_dict(self) -> dict[str, Any]:
        """Return what a result records of the lists; JSON-serialisable."""
        return {"ids": {tag: list(some) for tag, some in self.ids.items()}, "source": dict(self.source), "left_out": dict(self.left_out)}

    def save(self, path: str | Path) -> Path:
        """Write the lists as JSON; :meth:`given` reads them."""
        path = Path(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.to_dict()["ids"], indent=2), encoding="utf-8")
        return path


def _pieces(chat: ChatModel, ids: Sequence[int]) -> dict[int, str]:
    return {token: str(piece) for token, piece in zip(ids, chat.tokenizer.convert_ids_to_tokens(list(ids)), strict=True)}


def _first_tokens(chat: ChatModel, texts: Iterable[str], *, strict: bool = True) -> tuple[int, ...]:
    """Return the first token of each text, as a reply's first token is: by itself, without special tokens; else -1 or, if strict, an error."""
    found = []
    for text in texts:
        ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"][:1] or [None]
        known = ids[0] is not None and ids[0] != chat.tokenizer.unk_token_id
        if strict and not known:
            raise DataError(f"The tokenizer of {chat.name} has no token for the beginning of {shown(text)}. Expected a word that the model can say.")
        found.append(int(ids[0]) if known else -1)
    return tuple(found)


def _given_tokens(chat: ChatModel, language: str, given: Iterable[str | int]) -> tuple[int, ...]:
    some = [given] if isinstance(given, str | int) else list(given)
    size = int(chat.model.get_input_embeddings().weight.shape[0])
    wrong: list[Any] = [item for item in some if isinstance(item, bool) or not isinstance(item, str | int | np.integer)]
    wrong += [item for item in some if isinstance(item, int | np.integer) and not 0 <= item < size]
    wrong += [item for item in some if isinstance(item, str) and is_blank(item)]
    if wrong or not some:
        raise DataError(
            f"Refusal tokens of {language!r}: {f'got {shown(wrong[0])}' if wrong else 'none'}. Expected first words of refusals, or token "
            f"ids from 0 to {size - 1}; leave a language out that has none."
        )
    return tuple(_first_tokens(chat, [item])[0] if isinstance(item, str) else int(item) for item in some)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path.name}, line {error.lineno}: not JSON ({error.msg}). Expected {{language: [first words or token ids]}}.") from error
    if not isinstance(content, dict) or not content or not all(isinstance(some, list) for some in content.values()):
        raise DataError(f"{path.name} is no mapping of lists. Expected {{language: [first words or token ids]}}.")
    return content


def _learn(part: pd.DataFrame, min_count: int) -> tuple[tuple[int, ...], str]:
    """Return one language's tokens, or none, and what is to be said about them."""
    fit, held = part[part["split"] == "fit"], part[part["split"] == "select"]
    refusals, answers = Counter(fit.loc[fit["refused"], "token"]), set(fit.loc[~fit["refused"], "token"])
    ids = tuple(int(token) for token, n in refusals.most_common() if n >= min_count and token not in answers and token >= 0)
    if not ids:
        return (), f"no token opens {min_count} of its {sum(refusals.values())} refusals and none of its {int((~fit['refused']).sum())} compliances"
    opened = held["token"].isin(ids)
    k1, n1 = int(opened[held["refused"]].sum()), int(held["refused"].sum())
    k2, n2 = int(opened[~held["refused"]].sum()), int((~held["refused"]).sum())
    note = f"they open {k1} of {n1} refusals and {k2} of {n2} compliances of other meanings"
    if not newcombe(k1, n1, k2, n2).low > 0:
        return (), f"held out, {note}: not enough to tell them apart"
    return ids, f"learned: {note}"
