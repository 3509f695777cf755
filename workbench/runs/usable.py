"""What of a grid can be measured: languages and splits with enough prompts of both classes, and meanings in common."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from workbench.errors import PromptError
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import normalise

#: Prompts per class that a language needs in a split: one to set a threshold, two to have a spread when scored.
LEAST = {"select": 1, "score": 2}
#: Meanings in every language that choosing a layer and comparing languages need each.
LEAST_MEANINGS = 2


def drop_thin(grid: PromptGrid) -> tuple[PromptGrid, pd.DataFrame]:
    """Leave out the languages that lack prompts of a class in a split.

    Parameters
    ----------
    grid : PromptGrid
        With splits.

    Returns
    -------
    grid : PromptGrid
        The other languages.
    dropped : DataFrame
        what, language, n, reason; as of :meth:`PromptGrid.drop_unusable`.

    Raises
    ------
    PromptError
        If no language is left.
    """
    frame = grid.frame
    rows = []
    for tag in grid.languages:
        part = frame[frame["language"] == tag]
        for split, least in LEAST.items():
            of_split = part.loc[part["split"] == split, "harmful"]
            found = {"harmful": int(of_split.sum()), "harmless": int((~of_split).sum())}
            if min(found.values()) < least:
                told = " and ".join(f"{n} {name}" for name, n in found.items())
                rows.append(("language", tag, len(part), f"{told} prompts in split {split}; at least {least} of each are needed"))
                break
    dropped = pd.DataFrame(rows, columns=["what", "language", "n", "reason"])
    kept = [tag for tag in grid.languages if tag not in set(dropped["language"])]
    if not kept:
        raise PromptError(f"Too few prompts to measure anything: {_told(dropped)}. Expected more, by a larger --limit or more prompts: {_ADVICE}.")
    return grid.select(languages=kept), dropped


def reference_of(grid: PromptGrid, wanted: Sequence[str] | None, dropped: pd.DataFrame) -> list[str]:
    """Settle the reference languages, and say so if one that was asked for had to be left out."""
    lost = dropped[dropped["what"] == "language"].set_index("language")["reason"] if len(dropped) else {}
    for tag in map(normalise, wanted or []):
        if tag in lost:
            raise PromptError(f"The reference language {tag} was left out: {lost[tag]}. Name another one with --reference, or add the prompts.")
    if wanted is not None and not wanted:
        raise PromptError(f"--reference names no language. Expected some of {', '.join(grid.languages)}, with commas between.")
    return grid.reference(wanted)


def comparable(grid: PromptGrid, reference: Sequence[str], dropped: pd.DataFrame) -> PromptGrid | None:
    """Return the part of a grid on which languages can be compared meaning by meaning, before anything is computed.

    Returns
    -------
    PromptGrid or None
        Complete: each of its meanings is there in each of its languages. None for a set that is not parallel at all: no
        meaning occurs in two languages, so directions and thresholds can be carried over but nothing compared by meaning.

    Raises
    ------
    PromptError
        For one language only, a reference without both classes to fit on, or too few meanings in common.
    """
    left_out = f" Left out: {_told(dropped)}." if len(dropped) else ""
    if len(grid.languages) < 2:
        raise PromptError(
            f"Only one language ({grid.languages[0]}) can be measured, and nothing to compare it with.{left_out} "
            "Expected at least two: name more with --languages, or add their prompts."
        )
    frame = grid.frame
    fitted = frame[(frame["split"] == "fit") & frame["language"].isin(reference)]
    if fitted["harmful"].nunique() < 2:
        harmful = int(fitted["harmful"].sum())
        raise PromptError(
            f"The reference languages {', '.join(reference)} have {harmful} harmful and {len(fitted) - harmful} harmless prompts in split fit, which "
            f"the harm direction comes from. Expected both; {_ADVICE}.{left_out}"
        )
    if not frame["meaning_id"].duplicated().any():
        return None
    part = grid.complete()
    splits = part.frame.drop_duplicates("meaning_id")["split"]
    n_select = int((splits == "select").sum())
    if len(part.languages) < 2 or min(n_select, len(splits) - n_select) < LEAST_MEANINGS:
        shared = f"{len(splits)}, of them {n_select} in split select, in {', '.join(part.languages)}" if len(part.languages) > 1 else "none"
        raise PromptError(
            f"Too few meanings are there in several of the languages {', '.join(grid.languages)}: {shared}. Expected at least {LEAST_MEANINGS} in "
            f"select and {LEAST_MEANINGS} in the other splits, to compare the same meanings across languages: give translations one meaning_id, or "
            f"raise --limit.{left_out}"
        )
    return part


_ADVICE = "8 meanings per class in each language are enough where the file has no column split: 4 to fit, 2 to select, 2 to score"


def _told(dropped: pd.DataFrame) -> str:
    return "; ".join(f"{', '.join(part['language'])}: {reason}" for reason, part in dropped.groupby("reason", sort=False))
