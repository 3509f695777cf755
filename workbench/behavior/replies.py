"""The file of replies: who may read it, whose replies it holds, and how it survives being cut off.

The first line is a header that names the model, template, grid and options; then one reply per line. The file is created
with mode 600 (never widened afterwards, so at no moment can another user read it) and is called ``.draft`` until complete.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from workbench.errors import StoreError, StoreMismatchError, writing

_KIND = "workbench replies"


class Reply(NamedTuple):
    """What the model said to one prompt."""

    reply: str
    n_new_tokens: int
    finished: bool


@dataclass(frozen=True)
class ReplyFile:
    """Replies of one run on disk.

    Attributes
    ----------
    path : Path
        Where they are once complete.
    header : dict
        What the run is; a file with another header is refused.
    """

    path: Path
    header: dict[str, Any]

    @property
    def draft(self) -> Path:
        """Where they are until then."""
        return self.path.with_name(self.path.name + ".draft")

    @classmethod
    def open(cls, path: str | Path, header: dict[str, Any]) -> Self:
        """Start a file, or take up the one that is there.

        Raises
        ------
        StoreMismatchError
            If it belongs to another run, naming what differs.
        StoreError
            If it is no file of replies.
        """
        file = cls(Path(path), header)
        with writing(file.path):
            file.path.parent.mkdir(parents=True, exist_ok=True)
        present = next((p for p in (file.path, file.draft) if p.exists()), None)
        if present is None:
            file._write(json.dumps({"kind": _KIND, **header}, ensure_ascii=False) + "\n")
            return file
        os.chmod(present, 0o600)
        lines = file._lines(present)
        if not lines:  # cut off within the header
            os.truncate(present, 0)
            file._write(json.dumps({"kind": _KIND, **header}, ensure_ascii=False) + "\n")
            return file
        file._require_same(present, lines[0])
        return file

    def replies(self) -> dict[str, Reply]:
        """Read the replies so far, keyed by prompt id; a last line that was cut off is dropped from the file."""
        present = self.path if self.path.exists() else self.draft
        return {row["prompt_id"]: Reply(row["reply"], int(row["n_new_tokens"]), bool(row["finished"])) for row in self._lines(present)[1:]}

    def append(self, replies: dict[str, Reply]) -> None:
        """Write replies and see them to the disk before going on."""
        if self.path.exists():  # named as complete, but someone took lines out
            os.replace(self.path, self.draft)
        rows = ({"prompt_id": prompt_id, **reply._asdict()} for prompt_id, reply in replies.items())
        self._write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def finish(self) -> None:
        """Give the complete file its name."""
        if self.draft.exists():
            os.replace(self.draft, self.path)

    def _write(self, text: str) -> None:
        with writing(self.draft):
            handle = os.open(self.draft, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o600)
            with os.fdopen(handle, "ab") as draft:
                draft.write(text.encode("utf-8"))
                draft.flush()
                os.fsync(draft.fileno())

    def _lines(self, present: Path) -> list[dict[str, Any]]:
        whole = 0
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(present.read_bytes().split(b"\n"), start=1):
            if not line:
                continue
            complete = present.stat().st_size > whole + len(line)  # its line end was written too
            try:
                row = json.loads(line) if complete else None
            except ValueError as error:
                raise StoreError(
                    f"{present.name}, line {number} is not JSON. Expected replies written by generate(); delete the file to start over."
                ) from error
            if row is None:
                os.truncate(present, whole)
                break
            if not isinstance(row, dict) or (rows and not {"prompt_id", "reply", "n_new_tokens", "finished"} <= set(row)):
                raise StoreError(f"{present.name}, line {number} is no reply. Expected a file written by generate(); delete it to start over.")
            whole += len(line) + 1
            rows.append(row)
        return rows

    def _require_same(self, present: Path, found: dict[str, Any]) -> None:
        if found.get("kind") != _KIND:
            raise StoreError(f"{present} is no file of replies (its first line has no kind {_KIND!r}). Choose another name for out.")
        differing = [key for key in self.header if found.get(key) != self.header[key]]
        if differing:
            listed = "; ".join(f"{key} was {_short(found.get(key))} and is {_short(self.header[key])}" for key in differing)
            raise StoreMismatchError(
                f"{present} holds the replies of another run: {listed}. Expected the same model, template, prompts and options to continue it; "
                "choose another file, or delete this one."
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 24 else text[:20] + "…" + text[-1]
