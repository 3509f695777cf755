"""The largest complete part of a table of languages and meanings with holes: one rule for prompts and for activations."""

from __future__ import annotations

import pandas as pd


def largest_complete(present: pd.DataFrame, harmful: pd.Series) -> tuple[list[str], list[str]]:
    """Return the languages and the meanings of the complete part.

    The meanings present in every language; where that would lose most of the cells (a language that is not parallel to
    the others), languages are dropped one by one as long as the part grows and no class is lost.

    Parameters
    ----------
    present : bool DataFrame (meaning, language)
        Which cells there are; the order of both is kept.
    harmful : bool Series (meaning)
        The class of each meaning.
    """

    def worth(tags: list[str]) -> tuple[int, int]:
        whole = present.index[present[tags].all(axis=1)]
        return harmful[whole].nunique(), len(whole) * len(tags)

    kept = list(present.columns)
    while len(kept) > 1:
        best = max(([t for t in kept if t != tag] for tag in kept), key=worth)
        if worth(best) <= worth(kept):
            break
        kept = best
    return kept, list(present.index[present[kept].all(axis=1)])
