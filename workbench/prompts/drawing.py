"""Which meanings are drawn first, and which split each goes to: seeded, parallel across languages, twins together.

The unit drawn is a meaning, or a pair of them: texts written as twins of each other in the two classes (column ``pair_id``)
are taken together, left out together and put in the same split.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd

from workbench.prompts.cells import SPLITS


class Unit(NamedTuple):
    """What is drawn as one: a meaning, or the two of a pair."""

    meanings: tuple[str, ...]
    classes: tuple[bool, ...]
    split: str | None


def drawn(frame: pd.DataFrame, *, seed: int) -> list[Unit]:
    """Return the units in a seeded order, so that any first part of it is a fair draw.

    Those present in more languages come first, those present in the same ones together, and among these the splits
    alternate in proportion to their sizes.

    Parameters
    ----------
    frame : DataFrame
        A checked table of prompts.
    seed : int
        With the ids it determines the order, whatever the order of the rows.
    """
    first = frame.drop_duplicates("meaning_id").set_index("meaning_id")
    harmful, splits = first["harmful"].to_dict(), first["split"].to_dict()
    twins = first["pair_id"].dropna().to_dict() if "pair_id" in first else {}
    where: dict[str, set[str]] = defaultdict(set)
    for meaning, language in zip(frame["meaning_id"], frame["language"], strict=True):
        where[meaning].add(language)
    members: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for meaning in sorted(where):
        members[("pair", twins[meaning]) if meaning in twins else (meaning,)].append(meaning)
    units: dict[str, Unit] = {}
    present: dict[str, tuple[str, ...]] = {}
    strata: dict[Any, list[str]] = defaultdict(list)
    for name, meanings in members.items():
        key = hashlib.sha256("\0".join((str(seed), *name)).encode()).hexdigest()
        given = [splits[m] for m in meanings if not pd.isna(splits[m])]
        units[key] = Unit(tuple(meanings), tuple(sorted({bool(harmful[m]) for m in meanings})), given[0] if given else None)
        present[key] = tuple(sorted(set.intersection(*(where[m] for m in meanings))))
        strata[present[key], units[key].classes, units[key].split].append(key)
    place = {key: (i + 0.5) / len(keys) for keys in strata.values() for i, key in enumerate(sorted(keys))}
    return [units[key] for key in sorted(units, key=lambda key: (-len(present[key]), present[key], place[key], key))]


def limited(frame: pd.DataFrame, n: int, *, seed: int) -> list[bool]:
    """Mark the rows of ``n`` meanings per class and language; a pair is taken whole or not at all.

    A pair that would exceed ``n`` in one class is passed over, and later units fill the other.
    """
    rank = {meaning: i for i, unit in enumerate(drawn(frame, seed=seed)) for meaning in unit.meanings}
    rows = sorted((rank[meaning], language, i) for i, (meaning, language) in enumerate(zip(frame["meaning_id"], frame["language"], strict=True)))
    harmful = frame["harmful"].tolist()
    taken: dict[tuple[str, bool], int] = defaultdict(int)
    keep = [False] * len(frame)
    for (_, language), group in groupby(rows, key=lambda row: row[:2]):
        unit = [i for _, _, i in group]
        needs = [(language, harmful[i]) for i in unit]
        if all(taken[need] < n for need in needs):
            for i, need in zip(unit, needs, strict=True):
                keep[i] = True
                taken[need] += 1
    return keep


def assigned_splits(frame: pd.DataFrame, *, seed: int, fractions: Sequence[float]) -> dict[str, str]:
    """Return a split for every meaning, in the proportions of ``fractions`` within each class and among pairs; what has one keeps it."""
    counts: dict[tuple[bool, ...], list[int]] = defaultdict(lambda: [0] * len(SPLITS))
    assigned: dict[str, str] = {}
    for unit in drawn(frame, seed=seed):
        split = unit.split  # where one of a pair has a split, the other follows
        if split is None:
            # to whichever split is furthest behind its share: every stretch of meanings is split in proportion
            so_far = counts[unit.classes]
            behind = [fraction * (sum(so_far) + 1) - count for fraction, count in zip(fractions, so_far, strict=True)]
            choice = behind.index(max(behind))
            so_far[choice] += 1
            split = SPLITS[choice]
        assigned |= dict.fromkeys(unit.meanings, split)
    return assigned
