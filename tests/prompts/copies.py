"""Small made-up copies of public sets, byte by byte, and a pretended hub."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest


def write(path: Path, text: str, *, bom: bool = False) -> Path:
    """Write bytes as they are: no newline is translated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode("utf-8"))
    return path


def pretend_hub(monkeypatch: pytest.MonkeyPatch, sets: dict[str, Any]) -> list[str]:
    """Replace the datasets package by one that knows some sets."""
    asked: list[str] = []

    def load_dataset(name: str) -> Any:
        asked.append(name)
        if name not in sets:
            raise ConnectionError("no network\nat all")
        return sets[name]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked
