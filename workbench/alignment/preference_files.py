"""Preference files of any source as one table: plain rows, conversations, and MPO's rows that hold two languages each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from workbench.alignment.language_guess import guess_language
from workbench.errors import DataError, did_you_mean, shown_list
from workbench.prompts.cells import clean_text, is_blank, labels
from workbench.prompts.files import read_table

REQUIRED = ("prompt", "chosen", "rejected")
CARRIED = ("pair_id", "meaning_id", "split", "refusal", "answer")
#: What sources say of harm where a file has no column for it; LASA's release calls its harmless half "ultrafeedback".
HARMLESS_SOURCES = ("utility", "ultrafeedback")

_MPO = "source_conversations"
_ASKS, _REPLIES = ("human", "user"), ("gpt", "assistant", "model")


class PreferenceRows(NamedTuple):
    """What a file holds, not yet checked.

    Attributes
    ----------
    frame : DataFrame
        language (None where not told), prompt, chosen, rejected (None where there is no such single text), harmful (bool), source, and
        what of pair_id, meaning_id, split, refusal and answer the file has.
    row_name : callable
        Names row ``i`` in messages.
    notes : dict
        What was estimated or taken for granted: "language", "harmful".
    """

    frame: pd.DataFrame
    row_name: Callable[[int], str]
    notes: dict[str, str]


def read_preferences(path: str | Path) -> PreferenceRows:
    """Read a preference file.

    Parameters
    ----------
    path : path
        CSV, JSON Lines, JSON or Parquet with the columns prompt, chosen and rejected, each a text or a conversation of one turn; language,
        harmful, source, meaning_id, pair_id and split if it has them. Or MPO's JSON: a source and a target conversation with both replies.

    Returns
    -------
    PreferenceRows
        A file without languages gets estimated ones (:func:`~workbench.alignment.language_guess.guess_language`); without labels of harm,
        the source decides ("utility" and "ultrafeedback" are harmless), and without sources every prompt counts as harmful, so that
        all chosen replies are checked.

    Raises
    ------
    PromptError
        If the file is missing or malformed, or a label is neither class; with the line.
    DataError
        If a column is missing.
    """
    table, row_name = read_table(path)
    return _mpo(table, row_name, Path(path).stem) if _MPO in table else _plain(table, row_name, Path(path))


def _plain(table: pd.DataFrame, row_name: Callable[[int], str], path: Path) -> PreferenceRows:
    missing = [column for column in REQUIRED if column not in table]
    if missing:
        near = "".join(did_you_mean(column, map(str, table.columns)) for column in missing)
        raise DataError(
            f"{path.name} has the columns {shown_list(table.columns)}; expected {', '.join(REQUIRED)} (or MPO's source_ and target_ "
            f"conversations).{near} Rename or add {', '.join(missing)}."
        )
    frame = pd.DataFrame({column: [text_of(cell, asked=column == "prompt") for cell in table[column]] for column in REQUIRED}, dtype=object)
    notes: dict[str, str] = {}
    if "language" in table:
        frame["language"] = [None if is_blank(code) else str(code).strip() for code in table["language"]]
    else:
        frame["language"] = [None if text is None else guess_language(text) for text in frame["prompt"]]
        notes["language"] = "estimated from scripts and stop words of the prompts"
    source = pd.Series([None if is_blank(name) else str(name).strip() for name in table["source"]] if "source" in table else None, index=table.index)
    if "harmful" in table:
        frame["harmful"] = labels(table["harmful"], row_name)
    else:
        frame["harmful"] = ~source.isin(HARMLESS_SOURCES)
        notes["harmful"] = "by source" if "source" in table else "every prompt counts as harmful: the file does not say"
    frame["source"] = source.where(source.notna(), np.where(frame["harmful"], "safety", "utility")).astype(object)
    for column in CARRIED:
        if column in table:
            frame[column] = table[column].to_numpy()
    if "meaning_id" not in frame and "idx" in table:
        # the same number may stand for another meaning in another source
        frame["meaning_id"] = [None if is_blank(i) else f"{name}:{i}" for name, i in zip(frame["source"], table["idx"], strict=True)]
    return PreferenceRows(frame, row_name, notes)


def _mpo(table: pd.DataFrame, row_name: Callable[[int], str], stem: str) -> PreferenceRows:
    """Take MPO's rows apart: the source pair, in the language the model is best aligned in, and the target pair of the same meaning."""
    meanings: dict[str, str] = {}
    rows, places = [], []
    for i, row in enumerate(table.to_dict("records")):
        question = text_of(row[_MPO], asked=True)
        meaning = meanings.setdefault(question or f"\0{i}", f"{stem}:{len(meanings)}")
        for side in ("source", "target"):
            prompt = text_of(row.get(f"{side}_conversations"), asked=True)
            replies = {column: text_of(row.get(f"{side}_{column}")) for column in ("chosen", "rejected")}
            language = None if prompt is None else guess_language(prompt)
            rows.append({"language": language, "prompt": prompt, **replies, "harmful": True, "source": "safety", "meaning_id": meaning})
            places.append(f"{row_name(i)} ({side})")
    notes = {
        "language": "estimated from scripts and stop words of the prompts: the file does not say",
        "harmful": "every prompt counts as harmful: MPO's pairs are all of safety",
    }
    return PreferenceRows(pd.DataFrame(rows, dtype=object).astype({"harmful": bool}), places.__getitem__, notes)


def text_of(cell: Any, *, asked: bool = False) -> str | None:
    """Return the one text of a cell: a string, a message, or a conversation of one turn.

    Parameters
    ----------
    asked : bool
        Whether it is what the user says; otherwise the reply, which may follow the user's message.

    Returns
    -------
    str or None
        Cleaned; None where there is no text, more than one turn, or a system prompt (it would change what is trained).

    Examples
    --------
    >>> text_of([{"role": "user", "content": "Bread? "}], asked=True), text_of({"from": "gpt", "value": "Flour."})
    ('Bread?', 'Flour.')
    >>> text_of([{"role": "user", "content": "Bread?"}, {"role": "assistant", "content": "Flour."}], asked=True) is None
    True
    """
    if isinstance(cell, str):
        return clean_text(cell) or None
    if isinstance(cell, Mapping):
        cell = [cell]
    if not isinstance(cell, list | tuple | np.ndarray) or not all(isinstance(message, Mapping) for message in cell):
        return None
    turns = [(message.get("role") or message.get("from"), message.get("content") or message.get("value")) for message in cell]
    if not asked and len(turns) == 2 and turns[0][0] in _ASKS:
        turns = turns[1:]
    if len(turns) != 1 or turns[0][0] not in (_ASKS if asked else _REPLIES) or not isinstance(turns[0][1], str):
        return None
    return clean_text(turns[0][1]) or None
