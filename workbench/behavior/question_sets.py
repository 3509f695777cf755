"""Readers of public question sets, by their own column names: MMLU, Global-MMLU, XCOPA and MGSM, from local files."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.behavior.numerals import read_number
from workbench.errors import PromptError, did_you_mean, shown_list
from workbench.prompts.files import read_csv_rows, read_table
from workbench.prompts.languages import normalise

LETTERS = "ABCDEFGHIJ"
CHOICE_COLUMNS = ("item_id", "meaning_id", "language", "question", "choices", "key")
PROBLEM_COLUMNS = ("item_id", "meaning_id", "language", "question", "answer")

_TAG = re.compile(r"^[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?$")


def read_questions(path: str | Path, *, format: str | None = None, language: str | None = None) -> pd.DataFrame:
    """Read a file of a question set.

    Parameters
    ----------
    path : path
        CSV, JSON Lines, JSON or Parquet; for MGSM also its TSV without a header.
    format : str, optional
        "mmlu" (``question, choices, answer``; or a CSV without a header: question, A, B, C, D, answer), "global-mmlu" (``question, option_a`` to
        ``option_d``, ``answer``; ``sample_id``), "xcopa" (``premise, choice1, choice2, question, label``), "mgsm" (``question,
        answer_number`` or two columns without a header). By default by the columns.
    language : str, optional
        By default the column ``language``, else a tag in the file's name (``mgsm_sw.tsv``, ``test.sw.jsonl``) or its folder's.

    Returns
    -------
    DataFrame
        Multiple choice: item_id, meaning_id, language, question, choices (tuple of str), key (place of the right one, from 0). MGSM: item_id,
        meaning_id, language, question, answer (float). Rows of one place in two languages' files share their meaning_id.

    Raises
    ------
    PromptError
        For columns of no known set, a key outside of the choices, an empty cell (row named), or an unknown language.

    References
    ----------
    Hendrycks et al. 2021, arXiv:2009.03300; Singh et al. 2024, arXiv:2412.03304; Ponti et al. 2020, arXiv:2005.00333; Shi et al. 2022,
    arXiv:2210.03057.
    """
    path = Path(path)
    if format is not None and format not in _READERS:
        raise PromptError(f"format={format!r}: expected one of {', '.join(_READERS)}.{did_you_mean(format, _READERS)}")
    table, named = _headless(path, format) or _with_header(path)
    found = format or next((name for name, (needed, _) in _READERS.items() if needed <= set(table.columns)), None)
    if found is None or not _READERS[found][0] <= set(table.columns):
        wanted = "; ".join(f"{name}: {', '.join(sorted(needed))}" for name, (needed, _) in _READERS.items())
        raise PromptError(f"{path.name} has the columns {shown_list(table.columns)}. Expected those of {format or 'a known set'} ({wanted}).")
    tags = _languages(table, path, language)
    rows = []
    for i, (tag, (place, content)) in enumerate(zip(tags, _READERS[found][1](table, named), strict=True)):
        meaning = f"{found}:{place}"
        rows.append({"item_id": f"{meaning}:{tag}", "meaning_id": meaning, "language": tag, **content})
        if not str(content["question"]).strip() or any(not str(c).strip() for c in content.get("choices", ("x",))):
            raise PromptError(f"{named(i)}: the question or a choice is empty. Expected text in each; drop the row.")
    return pd.DataFrame(rows, columns=list(PROBLEM_COLUMNS if found == "mgsm" else CHOICE_COLUMNS))


def _headless(path: Path, format: str | None) -> tuple[pd.DataFrame, Callable[[int], str]] | None:
    """Read MGSM's TSV and MMLU's original CSV, which have no header."""
    if path.suffix.lower() == ".tsv" and path.is_file():
        # quotes are ordinary characters there
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        wrong = next((i for i, cells in enumerate(lines) if len(cells) != 2), None)
        if wrong is not None:
            raise PromptError(f"{path.name}, line {wrong + 1}: {len(lines[wrong])} cells. Expected question and answer with a tab between.")
        return pd.DataFrame(lines, columns=["question", "answer_number"]), lambda i: f"{path.name}, line {i + 1}"
    if path.suffix.lower() == ".csv" and format in (None, "mmlu") and path.is_file():
        try:
            rows = [(line, cells) for line, cells in read_csv_rows(path) if cells]
        except (PromptError, csv.Error):
            return None
        if rows and all(len(cells) == 6 and cells[5].strip() in LETTERS[:4] for _, cells in rows):
            table = pd.DataFrame({"question": [c[0] for _, c in rows], "choices": [c[1:5] for _, c in rows], "answer": [c[5] for _, c in rows]})
            table = table.assign(id=[f"{path.stem}:{i}" for i in range(len(rows))], language="en")  # one file per subject, all in English
            return table, lambda i: f"{path.name}, line {rows[i][0]}"
    return None


def _with_header(path: Path) -> tuple[pd.DataFrame, Callable[[int], str]]:
    return read_table(path)


def _languages(table: pd.DataFrame, path: Path, language: str | None) -> list[str]:
    if language is not None:
        return [normalise(language)] * len(table)
    if "language" in table:
        return [normalise(str(tag)) for tag in table["language"]]
    parts = [*reversed(re.split(r"[._]", path.stem)), path.parent.name]
    for part in parts:
        if _TAG.match(part) and part not in ("test", "val", "dev"):
            try:
                return [normalise(part)] * len(table)
            except PromptError:
                continue
    raise PromptError(f"Neither a column language nor the name of {path.name} says which language it is. Give language=.")


def _key(value: Any, n: int, where: str) -> int:
    text = str(value).strip()
    place = int(float(text)) if re.fullmatch(r"\d+(?:\.0)?", text) else LETTERS.find(text.upper()) if len(text) == 1 else -1
    if not 0 <= place < n:
        raise PromptError(
            f"{where}: the answer is none of the {n} choices. Expected a letter from A to {LETTERS[n - 1]} or a number from 0 to {n - 1}."
        )
    return place


Row = tuple[Any, dict[str, Any]]


def _mmlu(table: pd.DataFrame, named: Callable[[int], str]) -> Iterator[Row]:
    for i, row in enumerate(table.to_dict("records")):
        choices = tuple(map(str, row["choices"]))
        yield row.get("id", i), {"question": row["question"], "choices": choices, "key": _key(row["answer"], len(choices), named(i))}


def _global_mmlu(table: pd.DataFrame, named: Callable[[int], str]) -> Iterator[Row]:
    for i, row in enumerate(table.to_dict("records")):
        choices = tuple(str(row[f"option_{letter}"]) for letter in "abcd")
        yield row.get("sample_id", i), {"question": row["question"], "choices": choices, "key": _key(row["answer"], 4, named(i))}


def _xcopa(table: pd.DataFrame, named: Callable[[int], str]) -> Iterator[Row]:
    asks = {"cause": "What was the cause?", "effect": "What happened as a result?"}
    for i, row in enumerate(table.to_dict("records")):
        if row["question"] not in asks:
            raise PromptError(f"{named(i)}: question is neither 'cause' nor 'effect'. Expected the column of XCOPA.")
        question = f"{row['premise']}\n{asks[row['question']]}"
        key = _key(row["label"], 2, named(i))
        yield row.get("idx", i), {"question": question, "choices": (str(row["choice1"]), str(row["choice2"])), "key": key}


def _mgsm(table: pd.DataFrame, named: Callable[[int], str]) -> Iterator[Row]:
    for i, row in enumerate(table.to_dict("records")):
        answer = read_number(str(row["answer_number"]))
        if answer is None:
            raise PromptError(f"{named(i)}: the answer is no number. Expected one such as 18 or 2,125.")
        yield row.get("id", i), {"question": row["question"], "answer": answer}


_READERS: dict[str, tuple[set[str], Callable[[pd.DataFrame, Callable[[int], str]], Iterator[Row]]]] = {
    "mmlu": ({"question", "choices", "answer"}, _mmlu),
    "global-mmlu": ({"question", "option_a", "option_b", "option_c", "option_d", "answer"}, _global_mmlu),
    "xcopa": ({"premise", "choice1", "choice2", "question", "label"}, _xcopa),
    "mgsm": ({"question", "answer_number"}, _mgsm),
}
