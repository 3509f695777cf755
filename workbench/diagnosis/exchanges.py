"""Who receives whose state: a prompt and its twin in the reference language, and in that language a harmful and a harmless prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from workbench.errors import DataError
from workbench.interventions.refusal_tokens import RefusalTokens
from workbench.prompts.grid import PromptGrid

#: Meanings that a language must share with the reference for an interval.
FEWEST = 3
RESTORE, BREAK = "restore", "break"
WAYS = (RESTORE, BREAK)
TWIN, CLASS = "twin", "class"


class Exchanges(NamedTuple):
    """Exchanges to be made, and the languages for which none can be.

    ``table``: one row per exchange: language, tier, pair ("twin" or "class"), way, split, meaning_id and prompt_id of the receiver, donor
    (prompt id), mirror (row of the exchange the other way). ``reference``: the language of the twins.
    """

    table: pd.DataFrame
    reference: str
    left_out: dict[str, str]


def exchanges(grid: PromptGrid, reference: Sequence[str], tokens: RefusalTokens, *, split: str | None, n: int, seed: int) -> Exchanges:
    """Pair prompts for interchange, in both directions.

    Twins: each harmful prompt of a language that is no reference, and the prompt of the same meaning in the first reference language that
    has refusal tokens. Classes: in that language a harmless and a harmful prompt, of other meanings than the twins where there is a select
    split; they show at which layers its own decision can be moved.

    Raises
    ------
    DataError
        No reference language has refusal tokens, or no other language shares enough harmful meanings with it.
    """
    known = [tag for tag in reference if tag in tokens.ids]
    if not known:
        raise DataError(
            f"There are no refusal tokens for the reference {', '.join(reference)}; there are for {', '.join(tokens.languages) or 'no language'}. "
            "Expected some for one of them, since refusal is read at the first token: RefusalTokens.given or .learned, or a column refusal."
        )
    high = known[0]
    others = [tag for tag in grid.languages if tag not in reference]
    left_out = {tag: f"no refusal tokens{f' ({tokens.left_out[tag]})' if tag in tokens.left_out else ''}" for tag in tokens.missing(others)}
    part = grid.select(languages=[high, *(tag for tag in others if tag not in left_out)], split=split, harmful=True).limit(n, seed=seed).frame
    at_home = part[part["language"] == high].set_index("meaning_id")["prompt_id"]
    tables = []
    for tag in (tag for tag in others if tag not in left_out):
        own = part[(part["language"] == tag) & part["meaning_id"].isin(at_home.index)]
        if len(own) < FEWEST:
            left_out[tag] = f"{len(own)} harmful meanings in common with {high}; at least {FEWEST} are needed"
            continue
        twins = at_home.loc[own["meaning_id"]].to_numpy()
        labels = {"language": tag, "tier": own["tier"].iloc[0], "pair": TWIN, "split": split}
        tables.append(_both_ways(own["prompt_id"].to_numpy(), twins, own["meaning_id"].to_numpy(), own["meaning_id"].to_numpy(), labels))
    if not tables:
        told = "; ".join(f"{tag}: {why}" for tag, why in left_out.items()) or "every language is a reference"
        raise DataError(f"There is nothing to exchange with {high}: {told}. Expected translations of its harmful prompts (one meaning_id) elsewhere.")
    return Exchanges(_numbered([*tables, *_classes(grid, high, split, n, seed)]), high, left_out)


def _classes(grid: PromptGrid, high: str, split: str | None, n: int, seed: int) -> list[pd.DataFrame]:
    known = set(grid.frame["split"].dropna())
    where = "select" if split is not None and "select" in known else split
    frame = grid.select(languages=[high], split=where).limit(n, seed=seed).frame
    bad, good = (frame[frame["harmful"] == label] for label in (True, False))
    m = min(len(bad), len(good))
    if m < FEWEST:
        return []
    bad, good = bad.iloc[:m], good.iloc[:m]
    labels = {"language": high, "tier": bad["tier"].iloc[0], "pair": CLASS, "split": where}
    (low, high_), (low_meaning, high_meaning) = ([part[column].to_numpy() for part in (good, bad)] for column in ("prompt_id", "meaning_id"))
    return [_both_ways(low, high_, low_meaning, high_meaning, labels)]


def _both_ways(low: np.ndarray, high: np.ndarray, low_meaning: np.ndarray, high_meaning: np.ndarray, labels: dict[str, object]) -> pd.DataFrame:
    """Let the first receive from the second (restore), and the second from the first (break)."""
    there = pd.DataFrame({"prompt_id": low, "donor": high, "meaning_id": low_meaning, "way": RESTORE})
    back = pd.DataFrame({"prompt_id": high, "donor": low, "meaning_id": high_meaning, "way": BREAK})
    m = len(there)
    mirror = np.r_[np.arange(m) + m, np.arange(m)]
    return pd.concat([there, back], ignore_index=True).assign(mirror=mirror, **labels)


def _numbered(tables: list[pd.DataFrame]) -> pd.DataFrame:
    starts = np.cumsum([0, *(len(table) for table in tables[:-1])])
    return pd.concat([t.assign(mirror=t["mirror"] + start) for t, start in zip(tables, starts, strict=True)], ignore_index=True)
