"""The file of replies: who may read it, whose replies it holds, and how it survives being cut off.

The first line is a header that names the model, template, grid and options; then one reply per line. The file is created
with mode 600 (never widened afterwards, so at no moment can another user read it) and is called ``.draft`` until complete.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from workbench.behavior.private_lines import append_lines, whole_lines
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
            append_lines(file.draft, [{"kind": _KIND, **header}])
            return file
        os.chmod(present, 0o600)
        lines = file._lines(present)
        if not lines:  # cut off within the header
            os.truncate(present, 0)
            append_lines(file.draft, [{"kind": _KIND, **header}])
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
        append_lines(self.draft, ({"prompt_id": prompt_id, **reply._asdict()} for prompt_id, reply in replies.items()))

    def finish(self) -> None:
        """Give the complete file its name."""
        if self.draft.exists():
            os.replace(self.draft, self.path)

    def _lines(self, present: Path) -> list[dict[str, Any]]:
        return whole_lines(present, what="generate()", needed=("prompt_id", *Reply._fields), header=True)

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
