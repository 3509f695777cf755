"""What every preference row gets: a meaning, an id, a source and a split, given ones kept."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from workbench.alignment.preference_checks import TRAINED
from workbench.alignment.preference_files import HARMLESS_SOURCES
from workbench.errors import DataError, did_you_mean, shown
from workbench.prompts.cells import is_blank
from workbench.prompts.drawing import assigned_splits


def require_trained(splits: Sequence[str]) -> None:
    """Refuse splits that are not for training.

    Raises
    ------
    DataError
        For the score split, an unknown one, or none.
    """
    wrong = [name for name in splits if name not in TRAINED]
    if wrong or not splits:
        near = did_you_mean(wrong[0], TRAINED) if wrong else ""
        raise DataError(f"split={wrong[0] if wrong else None!r}: expected {' or '.join(TRAINED)}; prompts that are scored are not trained on.{near}")


def with_ids(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in meanings (each distinct prompt is its own where none is given), pair ids and sources; refuse a meaning with two labels."""
    given = frame["meaning_id"] if "meaning_id" in frame else pd.Series(None, index=frame.index, dtype=object)
    first: dict[tuple[str, str], str] = {}
    own = [first.setdefault((tag, text), f"prompt:{row}") for tag, text, row in zip(frame["language"], frame["prompt"], frame["_row"], strict=True)]
    meaning = [name if is_blank(value) else str(value).strip() for value, name in zip(given, own, strict=True)]
    harmful = frame["harmful"]
    two = harmful.groupby(pd.Series(meaning, index=frame.index)).nunique()
    if (two > 1).any():
        raise DataError(
            f"Meaning {shown(two.index[two > 1][0], 64)} is harmful in one row and harmless in another ({int((two > 1).sum())} such meanings). "
            "Expected translations to share their label; correct column harmful, or give them separate meaning_ids."
        )
    source = frame["source"] if "source" in frame else pd.Series(None, index=frame.index, dtype=object)
    sources = [("safety" if harm else HARMLESS_SOURCES[0]) if is_blank(name) else str(name) for name, harm in zip(source, harmful, strict=True)]
    ids = frame["pair_id"] if "pair_id" in frame else pd.Series(None, index=frame.index, dtype=object)
    derived = [f"{name}:{tag}" if is_blank(value) else str(value) for value, name, tag in zip(ids, meaning, frame["language"], strict=True)]
    return frame.assign(meaning_id=meaning, harmful=harmful, source=sources, pair_id=_distinct(derived))


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the second and later of equal names: a prompt may come with several pairs."""
    taken: set[str] = set()
    found = []
    for name in names:
        own, number = name, 1
        while own in taken:
            number += 1
            own = f"{name}#{number}"
        taken.add(own)
        found.append(own)
    return found


def with_splits(frame: pd.DataFrame, *, seed: int, select_share: float) -> pd.DataFrame:
    """Assign fit and select by meaning, stratified by class; those that have a split keep it."""
    if not 0 <= select_share < 1:
        raise DataError(f"select_share is {select_share}; expected a share from 0 to below 1, such as 0.1.")
    given = frame["split"] if "split" in frame else pd.Series(None, index=frame.index, dtype=object)
    split = pd.Series([None if is_blank(name) else str(name).strip() for name in given], index=frame.index, dtype=object)
    require_trained([name for name in dict.fromkeys(split) if name is not None] or list(TRAINED))
    told = pd.DataFrame({"meaning_id": frame["meaning_id"], "split": split}).dropna()
    torn = told.groupby("meaning_id")["split"].nunique()
    if (torn > 1).any():
        raise DataError(f"Meaning {shown(torn.index[torn > 1][0], 64)} is in both splits. Expected translations in one; correct column split.")
    known = split.groupby(frame["meaning_id"]).transform("first")
    drawn = assigned_splits(
        frame.assign(split=known)[["meaning_id", "language", "harmful", "split"]], seed=seed, fractions=(1 - select_share, select_share, 0.0)
    )
    return frame.assign(split=frame["meaning_id"].map(drawn))
