"""Twins across languages: each query beside its reference-language version, each pair beside its reference-language pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from workbench.errors import PromptError
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import chosen

if TYPE_CHECKING:
    from workbench.alignment.preference import PreferenceSet

DROPPED = ("what", "language", "n", "reason")
QUERIES = ("prompt_id", "meaning_id", "language", "text", "reference_text", "harmful", "split")


def parallel_queries(grid: PromptGrid, reference_language: str) -> pd.DataFrame:
    """Put beside every query its version in the reference language.

    Parameters
    ----------
    grid : PromptGrid
        Translations share their meaning id.
    reference_language : str
        Any spelling.

    Returns
    -------
    DataFrame
        prompt_id, meaning_id, language, text, reference_text, harmful, split: a row per prompt of the other languages that has a twin.
        ``attrs["dropped"]`` is a table of what has none: what, language, n, reason.

    Raises
    ------
    PromptError
        If the reference language is not in the grid, there is no other one, or nothing has a twin.
    """
    (reference,) = chosen([reference_language], grid.languages)
    frame = grid.frame
    twin = frame[frame["language"] == reference].set_index("meaning_id")["text"]
    others = frame[frame["language"] != reference]
    if others.empty:
        raise PromptError(
            f"{reference} is the only language of these prompts, and queries in other languages are what is to be learned. Expected prompts that are "
            "parallel across languages; leave --languages out, or name a set with translations."
        )
    found = others["meaning_id"].isin(twin.index)
    dropped = _without_twin(others, found, "query", reference)
    if not found.any():
        raise PromptError(
            f"None of the {len(others)} prompts in {', '.join(dict.fromkeys(others['language']))} has a twin in {reference}: no meaning id is "
            "shared. Expected translations under one meaning_id; give parallel prompts, or another reference language (--reference)."
        )
    kept = others[found]
    table = kept.assign(reference_text=kept["meaning_id"].map(twin))[list(QUERIES)].reset_index(drop=True)
    table.attrs["dropped"] = dropped
    return table


def reference_pairs(preferences: PreferenceSet, reference_language: str) -> pd.DataFrame:
    """Put beside every preference pair the pair of the same meaning in the reference language (MPO compares their reward gaps).

    Returns
    -------
    DataFrame
        The pairs of the other languages with reference_prompt, reference_chosen and reference_rejected; the first pair of a meaning that has
        several. ``attrs["dropped"]`` as for :func:`parallel_queries`.

    Raises
    ------
    PromptError
        If the reference language has no pair, or no pair has a twin.

    References
    ----------
    MPO, arXiv:2505.16869: the gap of the dominant language is what the others are drawn to.
    """
    (reference,) = chosen([reference_language], preferences.languages, "these preference pairs")
    frame = preferences.frame
    twin = frame[frame["language"] == reference].drop_duplicates("meaning_id").set_index("meaning_id")[["prompt", "chosen", "rejected"]]
    others = frame[frame["language"] != reference]
    if others.empty:
        raise PromptError(
            f"{reference} is the only language of these preference pairs, and the others are what is to be brought to it. Expected parallel pairs in "
            "several languages; name more (--train-languages), or give such pairs (--preferences FILE)."
        )
    found = others["meaning_id"].isin(twin.index)
    if not found.any():
        raise PromptError(
            f"None of the {len(others)} pairs in other languages has a twin in {reference}. Expected pairs of one meaning_id in both; give parallel "
            "preference pairs, or another reference language (--reference)."
        )
    dropped = _without_twin(others, found, "preference row", reference)
    table = others[found].join(twin.add_prefix("reference_"), on="meaning_id").reset_index(drop=True)
    table.attrs["dropped"] = dropped
    return table


def _without_twin(others: pd.DataFrame, found: pd.Series, what: str, reference: str) -> pd.DataFrame:
    """Count what has no twin; a language without any is named as such."""
    rows: list[Sequence[object]] = []
    for tag, has in found.groupby(others["language"], sort=False):
        lost = int((~has).sum())
        if lost:
            whole = lost == len(has)
            rows.append(
                ("language" if whole else what, tag, lost, f"none of its meanings occurs in {reference}" if whole else f"no twin in {reference}")
            )
    return pd.DataFrame(rows, columns=list(DROPPED))
