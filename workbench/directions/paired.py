"""The first principal component of pairs (one positive, one negative), with the three centrings of CAST.

========== ================================================================================================
pairwise   each pair's midpoint is subtracted from both members: principal component of +-(difference) / 2 about zero,
           whatever the pairs have in common gone
center     the mean of all rows is subtracted: what the prompts are about may outweigh the contrast
diff       the differences themselves. PCA subtracts their mean, so the **mean difference is lost** and what is found is
           how the differences vary: half of the pairs may well be ordered wrongly. For comparison only
========== ================================================================================================

Source: Lee et al., arXiv:2409.05907, the authors' code (IBM/activation-steering), whose sign rule is kept: positives project
higher on most pairs; on an exact tie the sign stays as scikit-learn leaves it (largest loading positive).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from workbench.errors import DataError, did_you_mean
from workbench.geometry.components import principal_components

CENTRINGS = ("pairwise", "center", "diff")


class Pairs(NamedTuple):
    """Row numbers of the positive and the negative member of each pair, and whether the pairs were given or drawn."""

    positive: Int[np.ndarray, " pair"]
    negative: Int[np.ndarray, " pair"]
    drawn: bool


def paired_component(
    positive: Float[np.ndarray, "pair hidden"], negative: Float[np.ndarray, "pair hidden"], centring: str = "pairwise"
) -> Float[np.ndarray, " hidden"]:
    """Return the unit first principal component of some pairs; zero where nothing varies.

    Raises
    ------
    DataError
        Unknown centring, fewer than two pairs, or classes of different shape.

    Examples
    --------
    >>> paired_component(np.array([[1.0, 5.0], [1.0, -3.0]]), np.array([[-1.0, 5.0], [-1.0, -3.0]])).tolist()
    [1.0, 0.0]
    """
    if centring not in CENTRINGS:
        raise DataError(f"Unknown centring {centring!r}; expected one of {list(CENTRINGS)}.{did_you_mean(centring, CENTRINGS)}")
    positive, negative = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    if positive.shape != negative.shape or len(positive) < 2:
        raise DataError(f"Got {positive.shape} positive and {negative.shape} negative states. Expected at least two pairs, each with one of both.")
    if centring == "diff":
        rows = positive - negative
    else:
        rows = np.concatenate([positive, negative])
        if centring == "pairwise":
            rows = rows - np.tile((positive + negative) / 2, (2, 1))
    _, _, axes = principal_components(rows, 1)
    if not len(axes):
        return np.zeros(positive.shape[1])
    higher = (positive - negative) @ axes[0]
    return -axes[0] if (higher < 0).sum() > (higher > 0).sum() else axes[0]


def pairs_of(labels: pd.DataFrame, positive: Bool[np.ndarray, " prompt"], rng: np.random.Generator, pair_id: np.ndarray | None = None) -> Pairs:
    """Pair prompts of both classes within each language: as ``pair_id`` says, else at random.

    Parameters
    ----------
    labels : DataFrame
        One row per prompt, with ``language`` and ``meaning_id``.
    pair_id : array (prompt,), optional
        Missing entries belong to no pair. Without any, meanings are put in one random order, the same in all languages, and
        the i-th positive prompt of a language goes with its i-th negative one; the longer class loses its tail.

    Raises
    ------
    DataError
        More than one positive or negative prompt in a pair, or no language with a pair.
    """
    known = np.zeros(len(labels), dtype=bool) if pair_id is None else _known(pair_id)
    if known.any():
        return _given(labels, positive, np.asarray(pair_id), known)
    meanings, of_row = np.unique(labels["meaning_id"].to_numpy().astype(str), return_inverse=True)
    rank = rng.permutation(len(meanings))[of_row]
    first, second = [], []
    for language in dict.fromkeys(labels["language"]):
        here = (labels["language"] == language).to_numpy()
        members = [np.flatnonzero(here & part) for part in (positive, ~positive)]
        members = [rows[np.argsort(rank[rows], kind="stable")] for rows in members]
        n = min(len(rows) for rows in members)
        first.append(members[0][:n])
        second.append(members[1][:n])
    if not sum(map(len, first)):
        raise DataError("No language has prompts of both classes to pair. Expected some; give other languages or contrasts.")
    return Pairs(np.concatenate(first), np.concatenate(second), True)


def _known(pair_id: np.ndarray) -> np.ndarray:
    names = pd.Series(pair_id, dtype=object)
    return (names.notna() & ~names.isin(["", "None", "nan"])).to_numpy()


def _given(labels: pd.DataFrame, positive: np.ndarray, pair_id: np.ndarray, known: np.ndarray) -> Pairs:
    rows = np.flatnonzero(known)
    table = pd.DataFrame({"language": labels["language"].to_numpy()[rows], "pair": pair_id[rows].astype(str), "row": rows, "class": positive[rows]})
    doubled = table.duplicated(["language", "pair", "class"])
    if doubled.any():
        first = table[doubled].iloc[0]
        raise DataError(
            f"Pair {first['pair']!r} has two prompts of one class in {first['language']!r}. Expected one positive and one negative; "
            "correct pair_id, or drop the coordinate so that pairs are drawn."
        )
    whole = table.pivot(index=["language", "pair"], columns="class", values="row").reindex(columns=[True, False]).dropna().astype(int)
    if whole.empty:
        raise DataError("No pair_id has prompts of both classes in one language. Expected some; drop the coordinate so that pairs are drawn.")
    return Pairs(whole[True].to_numpy(), whole[False].to_numpy(), False)
