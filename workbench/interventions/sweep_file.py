"""The file of a sweep: a header that says which one it is, then one line per candidate that is done."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from workbench.errors import StoreError, StoreMismatchError, writing

_KIND = "workbench direction sweep"


@dataclass(frozen=True)
class SweepFile:
    """Rows by candidate (position, layer), kept as they come; a line that was cut off is measured again.

    Attributes
    ----------
    path : Path
    rows : dict
        What was there when it was opened, and what was appended since.
    """

    path: Path
    rows: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path, header: dict[str, Any]) -> Self:
        """Start a file, or take up the one that is there.

        Raises
        ------
        StoreMismatchError
            If it belongs to another sweep, naming what differs.
        StoreError
            If it is something else.
        """
        path, header = Path(path), json.loads(json.dumps({"kind": _KIND, **header}, default=str))
        with writing(path):
            if not path.exists() or not path.stat().st_size:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(header) + "\n", encoding="utf-8")
                return cls(path)
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        found = _json(lines[0])
        if not isinstance(found, dict) or found.get("kind") != _KIND:
            raise StoreError(f"{path} is no file of a direction sweep. Expected one that sweep_directions(store=...) wrote, or a new name.")
        differs = [name for name in header if found.get(name) != header[name]]
        if differs:
            told = "; ".join(f"{name} was {found.get(name)!r}, is {header[name]!r}" for name in differs[:3])
            raise StoreMismatchError(
                f"{path} belongs to another sweep ({told}). Expected the same; give a new name, or repeat the call that began it."
            )
        whole = [line for line in lines[1:] if line.endswith("\n") and isinstance(_json(line), dict)]
        file = cls(path)
        for entry in map(json.loads, whole):
            file.rows[entry["position"], entry["layer"]] = entry["rows"]
        if len(whole) < len(lines) - 1:
            with writing(path):
                draft = path.with_name(path.name + ".draft")
                draft.write_text("".join([lines[0], *whole]), encoding="utf-8")
                draft.replace(path)
        return file

    def append(self, candidate: tuple[str, int], rows: list[dict[str, Any]]) -> None:
        """Keep a candidate's rows."""
        self.rows[candidate] = rows
        position, layer = candidate
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"position": position, "layer": layer, "rows": rows}) + "\n")


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
