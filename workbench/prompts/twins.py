"""Pairs of sentences, one toxic and one neutral, of which the second was written as a rewrite of the first.

They make the two classes differ in toxicity and in little else, which is the hard setting: a direction that tells twins
apart cannot live off topic or length alone. The easy setting takes one sentence of each pair, so that no two are twins.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from workbench.errors import PromptError, did_you_mean, shown_list
from workbench.prompts.cells import clean_text, is_blank
from workbench.prompts.files import read_csv_rows

#: ``pairs``: both sentences of each pair; ``unpaired``: the toxic one of half the pairs, the neutral one of the others.
SUBSETS = ("pairs", "unpaired")


class Twins(NamedTuple):
    """A pair: its number in the file, counted from 1 without the header, the two sentences, and where they stand."""

    number: int
    toxic: str
    neutral: str
    where: str


class TwinRows(NamedTuple):
    """Rows of a grid, where each stands, and what was left out."""

    rows: list[dict[str, Any]]
    places: list[str]
    notes: list[str]


def require_subset(subset: str | None, name: str) -> str:
    """Return the subset meant, ``pairs`` unless said otherwise."""
    if subset is not None and subset not in SUBSETS:
        raise PromptError(f"{name} has no subset {subset!r}; expected {' or '.join(SUBSETS)}.{did_you_mean(subset, SUBSETS)}")
    return subset or SUBSETS[0]


def read_twins(file: Path, *, toxic: str, neutral: str, delimiter: str = ",") -> list[Twins]:
    """Read a table with a column of toxic and a column of neutral sentences.

    Raises
    ------
    PromptError
        If a column is missing, or a cell is; with the line.
    """
    rows = [(line, cells) for line, cells in read_csv_rows(file, delimiter=delimiter) if cells]
    header = [name.strip() for name in rows[0][1]] if rows else []
    for line, cells in rows:
        if len(cells) != len(header):
            raise PromptError(f"{file.name}, line {line}: {len(cells)} cells under a header of {len(header)}. Restore the line, or quote its cells.")
    records = [(f"{file.name}, line {line}", dict(zip(header, cells, strict=True))) for line, cells in rows[1:]]
    return twins_of(records, fields=header, toxic=toxic, neutral=neutral, name=file.name)


def twins_of(records: Iterable[tuple[str, Mapping[str, Any]]], *, fields: Sequence[str], toxic: str, neutral: str, name: str) -> list[Twins]:
    """Turn (where, record) pairs into pairs of sentences."""
    missing = [column for column in (toxic, neutral) if column not in fields]
    if missing:
        near = "".join(did_you_mean(column, fields) for column in missing)
        raise PromptError(
            f"{name} has the columns {shown_list(fields) or '(none)'}; expected {toxic} and {neutral}.{near} Restore the release's file."
        )
    found = []
    for number, (where, record) in enumerate(records, start=1):
        for column in (toxic, neutral):
            if is_blank(record[column]):
                raise PromptError(f"{where}: column {column} is empty. Expected both sentences of the pair; fill it in, or drop the row.")
        found.append(Twins(number, str(record[toxic]), str(record[neutral]), where))
    if not found:
        raise PromptError(f"{name} holds no pairs. Expected a row per pair with {toxic} and {neutral}.")
    return found


def twin_rows(twins: Sequence[Twins], *, stem: str, language: str, source: str, subset: str, seed: int) -> TwinRows:
    """Turn the pairs of one language into rows of a grid.

    A pair is left out if its sentences are the same (one text would be both harmful and harmless) or one of them stands in
    an earlier pair (a text could be fitted on and scored).

    Parameters
    ----------
    twins : sequence of Twins
        The pairs in the order of the file.
    stem : str
        Start of the ids: ``textdetox:en`` makes pair ``textdetox:en:17`` of ``textdetox:en:17:toxic`` and ``:neutral``.
    language, source : str
        Go into the rows.
    subset : {"pairs", "unpaired"}
        Both sentences of each pair, or one of each, as many toxic as neutral ones.
    seed : int
        Chooses which, for ``unpaired``.

    Returns
    -------
    TwinRows
        With ``pair_id`` for ``pairs`` only.
    """
    kept, lost = distinct(twins)
    notes = [f"{source} {language}: {n} pair{'s' * (n > 1)} left out: {reason}" for reason, n in lost.items()]
    names = {pair: f"{stem}:{pair.number}" for pair in kept}
    wanted = [(pair, kind) for pair in kept for kind in ("toxic", "neutral")]
    if subset == "unpaired":
        order = sorted(kept, key=lambda pair: hashlib.sha256(f"{seed}\0unpaired\0{names[pair]}".encode()).hexdigest())
        half = len(order) // 2  # an odd one is nobody's
        side = dict.fromkeys(order[:half], "toxic") | dict.fromkeys(order[half : 2 * half], "neutral")
        wanted = [(pair, kind) for pair, kind in wanted if side.get(pair) == kind]
    rows = []
    for pair, kind in wanted:
        row = {
            "meaning_id": f"{names[pair]}:{kind}",
            "language": language,
            "text": pair.toxic if kind == "toxic" else pair.neutral,
            "harmful": kind == "toxic",
            "source": source,
        }
        rows.append(row | {"pair_id": names[pair]} if subset == "pairs" else row)
    return TwinRows(rows, [pair.where for pair, _ in wanted], notes)


def distinct(twins: Iterable[Twins]) -> tuple[list[Twins], Counter[str]]:
    """Return the pairs of two different sentences that no earlier pair has, and how many others there were by reason."""
    seen: set[str] = set()
    kept: list[Twins] = []
    lost: Counter[str] = Counter()
    for pair in twins:
        texts = {clean_text(pair.toxic), clean_text(pair.neutral)}
        if len(texts) < 2:
            lost["the two sentences are the same"] += 1
        elif texts & seen:
            lost["one of the sentences stands in an earlier pair"] += 1
        else:
            kept.append(pair)
            seen |= texts
    return kept, lost


def table_of(parts: Mapping[str, TwinRows]) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Stack the rows of several languages, and name their places; ``attrs["notes"]`` lists (language, what to know of it)."""
    frame = pd.DataFrame([row for part in parts.values() for row in part.rows])
    frame.attrs["notes"] = [(tag, note) for tag, part in parts.items() for note in part.notes]
    return frame, [place for part in parts.values() for place in part.places].__getitem__
