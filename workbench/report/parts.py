"""What a page consists of: sections with figures, tables and notes."""

from __future__ import annotations

from dataclasses import dataclass, field

OK, FAIL, UNSURE, NONE = "ok", "fail", "unsure", "none"


@dataclass(frozen=True)
class Line:
    """One number in a cell of a table: what it is, its interval, a label below it, and whether it is marked."""

    value: str
    interval: str = ""
    label: str = ""
    state: str = NONE
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawn figure, or the reason why there is none."""

    name: str
    html: str = ""
    caption: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Table:
    """A small table below the figures of a section."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One stage of the diagnosis, or the geometry; ``more`` are figures folded away under ``more_title``."""

    id: str
    title: str
    question: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    more: list[Figure] = field(default_factory=list)
    more_title: str = ""
