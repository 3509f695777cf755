"""What a model still can do: multiple choice by letter logits, word problems by exact match, keyed answers; before and after an edit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from workbench.behavior.compare import paired_change
from workbench.behavior.generate import generate
from workbench.behavior.numerals import last_number
from workbench.behavior.outcomes import check_outcomes
from workbench.behavior.question_sets import CHOICE_COLUMNS, LETTERS, PROBLEM_COLUMNS
from workbench.errors import DataError, ModelError, shown, shown_list
from workbench.models.chat import ChatModel
from workbench.models.hooks import edits_of
from workbench.models.next_token import next_logits
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import tier_of
from workbench.results import Result
from workbench.statistics import wilson

#: How a letter may be spelled as a token; the likeliest counts. Card: four variants, max-reduced; which four is inferred.
SPELLINGS = ("{A}", " {A}", "{a}", " {a}")


@dataclass(frozen=True)
class Utility(Result):
    """One row per question: whether it was answered right.

    ``margin`` is the right letter's logit less the best wrong one's (above 0: right), ``entropy`` that of the softmax over the letters, in
    nats (ln of the number of choices: undecided); both NaN where answers are words.
    """

    required: ClassVar[tuple[str, ...]] = ("item_id", "meaning_id", "language", "correct", "chance", "margin", "entropy")

    def accuracy(self) -> pd.DataFrame:
        """Return accuracy per language with Wilson's interval: language, tier, value, low, high, n, chance, margin, entropy (means)."""
        rows = []
        for tag, part in self.table.groupby("language", sort=False):
            k, n = int(part["correct"].sum()), len(part)
            low, high = wilson(k, n)
            means = {name: float(part[name].mean()) for name in ("chance", "margin", "entropy")}
            rows.append({"language": tag, "tier": tier_of(str(tag)), "value": k / n, "low": low, "high": high, "n": n, **means})
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """Return :meth:`accuracy`."""
        return self.accuracy()


@dataclass(frozen=True)
class UtilityChange(Result):
    """Change of accuracy per language on the same questions, as :class:`workbench.behavior.compare.RateChange` has it for rates."""

    required: ClassVar[tuple[str, ...]] = ("language", "before", "after", "value", "low", "high", "n", "gained", "lost", "p", "margin_change")


def question_text(question: str, choices: Sequence[str]) -> str:
    """Return what is asked: question, lettered choices, and a cue that the answer is a letter (English, as the card's; wording ours).

    Examples
    --------
    >>> print(question_text("Which is a river?", ["Nile", "Alps"]))
    Which is a river?
    A. Nile
    B. Alps
    Answer with the letter of the right choice.
    Answer:
    """
    lettered = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question}\n{lettered}\nAnswer with the letter of the right choice.\nAnswer:"


def multiple_choice(chat: ChatModel, questions: pd.DataFrame, *, token_budget: int = 16384) -> Utility:
    """Answer questions by the letter whose token is likeliest right after the prompt, zero-shot, under whatever edits are active.

    Parameters
    ----------
    questions : DataFrame
        From :func:`workbench.behavior.question_sets.read_questions`: item_id, meaning_id, language, question, choices, key.

    Returns
    -------
    Utility
        Also ``choice`` (place of the letter chosen) and ``key``.

    Raises
    ------
    DataError
        For missing columns, doubled ids, fewer than two choices or a key outside of them.
    ModelError
        If a letter is no token of its own, or a prompt is longer than the context.

    Notes
    -----
    One position of the prompt is read: damage that shows only while text is generated is invisible here (card 1.12). Use
    :func:`word_problems` beside it.

    References
    ----------
    Aziz et al. 2026, arXiv:2606.01196 (letter logits at the last prompt position, four spellings, the largest counts).
    """
    _require(questions, CHOICE_COLUMNS)
    sizes = questions["choices"].map(len)
    wrong = questions[(sizes < 2) | (sizes > len(LETTERS)) | (questions["key"] < 0) | (questions["key"] >= sizes)]
    if len(wrong):
        first = wrong.iloc[0]
        raise DataError(
            f"Question {shown(first['item_id'], 64)} has {len(first['choices'])} choices and the key {first['key']}. Expected 2 to {len(LETTERS)} "
            "choices and the place of the right one, from 0."
        )
    letters = letter_tokens(chat, int(sizes.max()))
    names = list(questions["item_id"])
    tokens = chat.tokenise([question_text(q, c) for q, c in zip(questions["question"], questions["choices"], strict=True)], names=names)
    long = [name for name, t in zip(names, tokens, strict=True) if len(t) > chat.context]
    if long:
        raise ModelError(f"{len(long)} questions, such as {long[0]}, are longer than {chat.name}'s context of {chat.context}. Leave them out.")
    scores = np.full((len(names), len(letters)), np.nan)
    for rows, logits in next_logits(chat, tokens, names, token_budget=token_budget):
        scores[rows] = np.stack([logits[:, ids].double().amax(dim=-1).cpu().numpy() for ids in letters], axis=1)
    found = [_decided(row[:size], int(key)) for row, size, key in zip(scores, sizes, questions["key"], strict=True)]
    table = questions[["item_id", "meaning_id", "language", "key"]].reset_index(drop=True).join(pd.DataFrame(found))
    return Utility(table.assign(chance=1 / sizes.to_numpy()), _provenance(chat, questions, "multiple choice"))


def word_problems(
    chat: ChatModel, problems: pd.DataFrame, *, max_new_tokens: int = 320, out: str | Path | None = None, progress: bool = True
) -> Utility:
    """Answer word problems in words and compare the last number of the reply with the key, under whatever edits are active.

    Parameters
    ----------
    problems : DataFrame
        From :func:`workbench.behavior.question_sets.read_questions`: item_id, meaning_id, language, question, answer.
    max_new_tokens, out, progress
        As of :func:`workbench.behavior.generate.generate`; ``out`` makes it resumable.

    Returns
    -------
    Utility
        Also ``finished``: whether the reply ended by itself. Zero-shot, without worked examples, so below the published few-shot numbers.

    References
    ----------
    Shi et al. 2022, arXiv:2210.03057 (MGSM, exact match).
    """
    _require(problems, PROBLEM_COLUMNS)
    frame = problems.rename(columns={"item_id": "prompt_id", "question": "text"})[["prompt_id", "meaning_id", "language", "text"]]
    grid = PromptGrid(frame.assign(text=frame["text"].astype(str) + "\n\n" + _NUMBER_LAST, harmful=False))
    replies = generate(chat, grid, max_new_tokens=max_new_tokens, out=out, progress=progress).set_index("prompt_id").loc[list(problems["item_id"])]
    said = zip(replies["reply"], problems["answer"], strict=True)
    correct = [any(abs(number - answer) < 1e-6 for number in last_number(reply)) for reply, answer in said]
    table = problems[["item_id", "meaning_id", "language"]].reset_index(drop=True)
    table = table.assign(correct=correct, chance=0.0, margin=np.nan, entropy=np.nan, finished=replies["finished"].to_numpy())
    return Utility(table, _provenance(chat, problems, "exact match"))


_NUMBER_LAST = "Work it out step by step, and end with the answer as a number."


def answer_utility(outcomes: pd.DataFrame, grid: PromptGrid) -> Utility:
    """Take harmless prompts with a key (the organism's) for questions: right where the reply is the key.

    Parameters
    ----------
    outcomes : DataFrame
        From a judge; ``correct`` is None where there is no key.

    Raises
    ------
    DataError
        If no prompt of the grid has a key.
    """
    labels = grid.frame[["prompt_id", "meaning_id", "language"]]
    keyed = labels.merge(check_outcomes(outcomes)[["prompt_id", "correct"]], on="prompt_id").dropna(subset=["correct"])
    if keyed.empty:
        raise DataError(
            "No harmless prompt of this grid has a key. Expected a column answer (as the organism's prompts have); or use multiple_choice."
        )
    table = keyed.rename(columns={"prompt_id": "item_id"}).assign(correct=keyed["correct"].astype(bool), chance=0.0, margin=np.nan, entropy=np.nan)
    return Utility(table.reset_index(drop=True), {"kind": "keyed answers", "grid": grid.hash})


def compare_utility(before: Utility, after: Utility) -> UtilityChange:
    """Compare accuracy on the same questions, pair by pair: after - before with Newcombe's paired interval and McNemar's exact p.

    Raises
    ------
    DataError
        If the questions differ.
    """
    lacking = sorted(set(before.table["item_id"]) ^ set(after.table["item_id"]))
    if lacking:
        raise DataError(f"{len(lacking)} questions, such as {shown(lacking[0], 64)}, were asked before or after only. Expected the same questions.")
    hashes = before.provenance.get("questions"), after.provenance.get("questions")
    if hashes[0] != hashes[1]:
        raise DataError("The questions have the same ids and other texts or keys before and after. Expected one set; ask it twice.")
    rows = before.table.merge(after.table[["item_id", "correct", "margin"]], on="item_id", suffixes=("", "_after"), validate="1:1")
    counted = []
    for tag, part in rows.groupby("language", sort=False):
        change = paired_change(part["correct"].to_numpy(dtype=bool), part["correct_after"].to_numpy(dtype=bool))
        counted.append({"language": tag, **change, "margin_change": float((part["margin_after"] - part["margin"]).mean())})
    told = {f"{name}_edits": result.provenance.get("edits") for name, result in (("before", before), ("after", after))}
    return UtilityChange(pd.DataFrame(counted), {"questions": hashes[0], **told})


def letter_tokens(chat: ChatModel, n: int) -> list[list[int]]:
    """Return the tokens of the first ``n`` letters: every one of the four spellings that is a single token.

    Raises
    ------
    ModelError
        If a letter has none, or shares its tokens with another.
    """
    found = []
    for letter in LETTERS[:n]:
        spelled = [form.replace("{A}", letter).replace("{a}", letter.lower()) for form in SPELLINGS]
        ids = {ids[0] for ids in chat.tokenizer(spelled, add_special_tokens=False)["input_ids"] if len(ids) == 1}
        found.append(sorted(ids - {chat.tokenizer.unk_token_id}))
    alone = all(found) and sum(map(len, found)) == len({token for ids in found for token in ids})
    if not alone:
        raise ModelError(f"The tokenizer of {chat.name} has no token of its own for some of the letters {LETTERS[:n]}. Use word_problems instead.")
    return found


def _decided(scores: np.ndarray, key: int) -> dict[str, Any]:
    below = scores - scores.max()
    p = np.exp(below) / np.exp(below).sum()
    margin = float(scores[key] - np.delete(scores, key).max())
    # a tie is no right answer: margin above 0, not argmax, which would favour the first letter
    return {"choice": int(scores.argmax()), "correct": margin > 0, "margin": margin, "entropy": float(-(p * np.log(np.maximum(p, 1e-300))).sum())}


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing or table.empty:
        raise DataError(
            f"Questions lack the columns {missing}; found {shown_list(table.columns)} in {len(table)} rows. Expected what read_questions gives."
        )
    twice = table["item_id"].duplicated()
    if twice.any():
        raise DataError(f"Question {shown(table.loc[twice, 'item_id'].iloc[0], 64)} occurs twice. Expected unique item_id; join files of one set.")


def _provenance(chat: ChatModel, questions: pd.DataFrame, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(questions.astype(str).sort_values("item_id").to_csv(index=False).encode()).hexdigest()
    return {"kind": kind, "questions": digest, "edits": edits_of(chat), **chat.provenance()}
