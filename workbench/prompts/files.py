"""Prompt files of any source: CSV, JSON Lines, JSON and Parquet, with the line in every complaint."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import PromptError, shown_list

SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")


def read_text(path: Path) -> str:
    """Read UTF-8 with or without a byte-order mark, keeping line ends as they are."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PromptError(f"Cannot read {path}: {error.strerror}. Expected a readable file.") from error
    if raw.startswith(b"PK\x03\x04"):
        raise PromptError(f"{path.name} is a zip archive or a spreadsheet, not text. Export it as CSV (UTF-8), or unpack it.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PromptError(f"{path.name}, line {line}: not UTF-8 (byte {raw[error.start]:#04x}). Save the file as UTF-8.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise PromptError(f"{path.name}, line {line}: a NUL character, which no text has. Expected a text file in UTF-8; export it again.")
    return text


def read_lines(path: Path) -> list[str]:
    """Read a file of one text per line; only line feeds, with or without a carriage return, end a line."""
    # a sentence may contain U+2028 or U+0085, at which str.splitlines would shift every later line
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_csv_rows(path: Path, *, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """Read a CSV file as (line number, cells) per record; quoted cells may span lines."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    rows, line = [], 1
    try:
        for cells in reader:
            rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        between = {",": "commas", "\t": "tabs"}.get(delimiter, repr(delimiter))
        raise PromptError(f"{path.name}, line {line}: {error}. Expected a record with {between} between its cells; check its quotes.") from error
    return rows


def read_json_rows(path: Path) -> list[tuple[int, Any]]:
    """Read JSON or JSON Lines as (line number, value) per record, by content: some sets name JSON Lines ``.json``."""
    text = read_text(path)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        return _json_lines(path, text, error)
    if isinstance(whole, dict):
        return [(1, whole)]
    if not isinstance(whole, list):
        raise PromptError(f"{path.name}, line 1: found a single {type(whole).__name__}. Expected a list of objects, or one object per line.")
    return list(enumerate(whole, start=1))


def _json_lines(path: Path, text: str, whole: json.JSONDecodeError) -> list[tuple[int, Any]]:
    # a text may contain U+2028, at which str.splitlines would cut a record in two
    lines = [(number, line) for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1) if line.strip()]
    if not lines:
        raise PromptError(f"{path.name} is empty. Expected one JSON object per line.")
    rows = []
    for number, line in lines:
        try:
            rows.append((number, json.loads(line)))
        except json.JSONDecodeError as error:
            # a broken list is reported where the list breaks
            cause, at = (whole, whole.lineno) if not rows and lines[0][1].lstrip().startswith("[") else (error, number)
            raise PromptError(f"{path.name}, line {at}: not JSON ({cause.msg} at column {cause.colno}). Correct or remove the line.") from error
    return rows


def read_table(path: str | Path, *, default_label: bool | None = None) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Read a prompt file into a table, and a function that names the line of row ``i``.

    Parameters
    ----------
    path : path
        Ends in ``.csv``, ``.jsonl``, ``.json`` or ``.parquet``.
    default_label : bool, optional
        The class of a file without the column ``harmful``.

    Raises
    ------
    PromptError
        If the file is missing, of another kind, or malformed (with the line).
    """
    path = Path(path)
    kind = path.suffix.lower()
    if not path.is_file():
        raise PromptError(f"There is no prompt file at {path}. Expected a path to a file that ends in {', '.join(SUFFIXES)}.")
    if kind not in SUFFIXES:
        raise PromptError(f"{path.name} ends in {kind or 'nothing'}; expected a prompt file that ends in {', '.join(SUFFIXES)}.")
    if kind == ".parquet":
        frame, lines = _parquet(path), None
    else:
        frame, lines = _csv(path) if kind == ".csv" else _json(path)
    if frame.empty:
        raise PromptError(f"{path.name} holds no prompts. Expected at least one row.")
    if default_label is not None and "harmful" not in frame:
        frame["harmful"] = default_label
    return frame, lambda i: f"{path.name}, {f'line {lines[i]}' if lines else f'row {i}'}"


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PromptError(f"{path.name} is not a readable Parquet file ({reason}). Write it again, or give CSV or JSON Lines.") from error


def _csv(path: Path) -> tuple[pd.DataFrame, list[int]]:
    rows = [(line, cells) for line, cells in read_csv_rows(path) if cells]
    if not rows:
        raise PromptError(f"{path.name} is empty. Expected a header line and one line per prompt.")
    header = [name.strip() for name in rows[0][1]]
    if len(header) == 1 and (mark := next((m for m in ";\t|" if m in header[0]), None)):
        raise PromptError(f"{path.name}, line 1: the columns are separated by {mark!r}. Expected commas; export the file with commas.")
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise PromptError(f"{path.name}, line 1: the columns {shown_list(doubled)} occur twice. Expected distinct names; rename one of each.")
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise PromptError(
                f"{path.name}, line {line}: {len(cells)} cells under a header of {len(header)} ({shown_list(header)}). "
                "Quote cells that contain commas or line breaks."
            )
    return pd.DataFrame([cells for _, cells in rows[1:]], columns=header, dtype=object), [line for line, _ in rows[1:]]


def _json(path: Path) -> tuple[pd.DataFrame, list[int]]:
    rows = read_json_rows(path)
    for line, row in rows:
        if not isinstance(row, dict):
            found = type(row).__name__
            raise PromptError(f"{path.name}, line {line}: found a {found}. Expected a JSON object with language, meaning_id, text, harmful.")
    return pd.DataFrame([row for _, row in rows], dtype=object), [line for line, _ in rows]
