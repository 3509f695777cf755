"""JSON Lines that only their owner may read, appended so that a crash costs at most the last line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.errors import StoreError, writing


def append_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows in one piece and see them to the disk before going on.

    The file is created with mode 600, never widened afterwards, so at no moment can another user read it; a link is not followed.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with writing(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())


def whole_lines(path: Path, *, what: str, needed: Iterable[str], header: bool = False) -> list[dict[str, Any]]:
    """Read the rows of a file; a last line that was cut off is dropped from the file.

    Parameters
    ----------
    path : Path
        Exists.
    what : str
        What wrote it, for messages.
    needed : iterable of str
        Keys that each row has.
    header : bool
        The first line is a header and may lack them.

    Raises
    ------
    StoreError
        Naming the line that is no such row.
    """
    rows: list[dict[str, Any]] = []
    whole, keys = 0, set(needed)
    content = path.read_bytes()
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line:
            continue
        if len(content) <= whole + len(line):  # its line end was not written
            os.truncate(path, whole)
            break
        try:
            row = json.loads(line)
        except ValueError as error:
            raise StoreError(f"{path.name}, line {number} is not JSON. Expected what {what} wrote; delete the file to start over.") from error
        if not isinstance(row, dict) or ((rows or not header) and not keys <= set(row)):
            raise StoreError(f"{path.name}, line {number} is no row of {what}. Expected a file that it wrote; delete it to start over.")
        whole += len(line) + 1
        rows.append(row)
    return rows
