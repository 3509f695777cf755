"""Differences in means with any part of the meanings left out, halved or relabelled, from one pass over the states.

Meanings are dealt to at most twenty groups. A difference in means on any set of groups is a weighted sum of the groups' sums, so
every cosine - on all meanings, without each group, between halves, under permuted labels - is a product of small matrices with the
groups' products. The jackknife leaves out whole groups; halves are made of whole groups; labels are permuted by whole groups.

Permuted labels split the groups of *each* class in halves; the direction is the mean of the two differences between halves. Labels
shuffled freely keep part of the true difference by accident, and the null would grow with what it is to judge. The part along the
estimated direction is not taken out as well: where there is no true difference, it is the axis along which states vary most, and
a null without that axis would be too easy to beat.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.errors import DataError
from workbench.geometry.probes import deal
from workbench.geometry.separation_cells import GROUPS

FEWEST = 4  # meanings per class: two halves of two


class Parts(NamedTuple):
    """Which groups are left out (first row: none), which make the first half, and which count as positive in each draw of labels."""

    kept: Bool[np.ndarray, "left group"]
    halves: Bool[np.ndarray, "halving group"]
    relabelled: Bool[np.ndarray, "draw class group"]

    @classmethod
    def drawn(cls, n: int, halvings: int, draws: int, rng: np.random.Generator) -> Parts:
        """Draw halves and labels for ``n`` groups."""
        half = np.arange(n) < n // 2
        more = np.arange(n) < n - n // 2  # where n is odd, one class rounds down and the other up
        kept = np.concatenate([np.ones((1, n), dtype=bool), ~np.eye(n, dtype=bool)])
        halves = rng.permuted(np.broadcast_to(half, (halvings, n)), axis=1)
        labels = np.stack([rng.permuted(np.broadcast_to(part, (draws, n)), axis=1) for part in (half, more)], axis=1)
        return cls(kept, halves, labels)


def groups_of_units(
    units: np.ndarray, positive: Bool[np.ndarray, " row"], languages: np.ndarray, rng: np.random.Generator
) -> Int[np.ndarray, " row"]:
    """Deal resampling units to groups that hold both classes, the same in every language.

    Raises
    ------
    DataError
        A language with fewer than four units of a class.
    """
    known, of_row = np.unique(units, return_inverse=True)
    fewest = len(known)
    for language in dict.fromkeys(map(str, languages)):
        for part in (positive, ~positive):
            n = len(np.unique(of_row[part & (languages == language)]))
            if n < FEWEST:
                raise DataError(
                    f"Language {language!r} has {n} meanings of one class. Expected at least {FEWEST} of each, to compare two halves; add "
                    "prompts, choose another split, or leave the language out."
                )
            fewest = min(fewest, n)
    return deal(of_row, positive, rng.permutation(len(known)), min(fewest, GROUPS))


class Design(NamedTuple):
    """Weights on the sums of one set of rows: flat (class, group), positive class first.

    Parameters
    ----------
    counts : array (cell,)
    whole : array (left, cell)
    halves : array (halving, half, left, cell)
    permuted : array (draw, cell)
    """

    counts: Float[np.ndarray, " cell"]
    whole: Float[np.ndarray, "left cell"]
    halves: Float[np.ndarray, "halving 2 left cell"]
    permuted: Float[np.ndarray, "draw cell"]

    @classmethod
    def of(cls, cells: Int[np.ndarray, " row"], parts: Parts) -> Design:
        """Lay out the weights for rows of which each belongs to a cell (class x groups + group)."""
        n = parts.kept.shape[1]
        counts = np.bincount(cells, minlength=2 * n).astype(np.float64)
        halved = np.stack([parts.halves, ~parts.halves], axis=1)[:, :, None] & parts.kept
        by_class = counts.reshape(2, n)
        permuted = (_shares(parts.relabelled, by_class) - _shares(~parts.relabelled, by_class)).reshape(len(parts.relabelled), -1) / 2
        return cls(counts, _means(parts.kept, counts), _means(halved, counts), permuted)


def _shares(used: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total = (used * counts).sum(axis=-1, keepdims=True)
    return np.divide(used, total, out=np.full(used.shape, np.nan), where=total > 0)


def _means(used: Bool[np.ndarray, "*batch group"], counts: np.ndarray) -> np.ndarray:
    """Return the weights of mean positive minus mean negative over the groups used."""
    n = used.shape[-1]
    return np.concatenate([_shares(used, counts[:n]), -_shares(used, counts[n:])], axis=-1)


class Item(NamedTuple):
    """One difference in means: its design, the sums it weighs, their products, and its reliability without each group."""

    design: Design
    sums: Float[np.ndarray, "cell hidden"]
    products: Float[np.ndarray, "cell cell"]
    reliability: Float[np.ndarray, " left"]
    defined: bool

    @classmethod
    def of(cls, states: Float[np.ndarray, "row hidden"], cells: Int[np.ndarray, " row"], design: Design) -> Item:
        """Sum the states of some rows by cell; the rows' mean is taken off first, which no difference sees."""
        centred = states - states.mean(axis=0)
        sums = np.zeros((len(design.counts), states.shape[1]))
        np.add.at(sums, cells, centred)
        products = sums @ sums.T
        size = float(np.sqrt((states**2).sum(axis=1).mean()))
        length = float(np.sqrt(max(design.whole[0] @ products @ design.whole[0], 0.0)))
        if length <= 1e-7 * size:
            return cls(design, sums, products, np.full(len(design.whole), np.nan), False)
        first, second = design.halves[:, 0], design.halves[:, 1]
        return cls(design, sums, products, _mean_known(_cosines(first, second, products, products, products)), True)

    @property
    def vector(self) -> Float[np.ndarray, " hidden"]:
        """The difference in means itself."""
        return self.design.whole[0] @ self.sums


def _cosines(one: np.ndarray, other: np.ndarray, between: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return cosines of weighted sums, along the last axis of the weights."""
    product = ((one @ between) * other).sum(axis=-1)
    squares = ((one @ mine) * one).sum(axis=-1) * ((other @ theirs) * other).sum(axis=-1)
    return np.divide(product, np.sqrt(np.maximum(squares, 0)), out=np.full(product.shape, np.nan), where=squares > 0)


def _mean_known(values: Float[np.ndarray, "draw left"]) -> Float[np.ndarray, " left"]:
    """Return the mean over draws of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    return np.divide(np.where(known, values, 0).sum(axis=0), known.sum(axis=0), out=np.full(values.shape[1], np.nan), where=known.any(axis=0))


class Cosines(NamedTuple):
    """What two items have in common: the cosine and its like between halves without a meaning in common, without each group; nulls."""

    whole: Float[np.ndarray, " left"]
    apart: Float[np.ndarray, " left"]
    permuted: Float[np.ndarray, " draw"]
    permuted_same: Float[np.ndarray, " draw"]


def cosines(one: Item, other: Item) -> Cosines:
    """Compare two items dealt to the same groups.

    Returns
    -------
    Cosines
        ``permuted``: labels drawn for each on its own; ``permuted_same``: the same meanings relabelled in both, which shows
        how alike any two directions are whose prompts are translations.
    """
    between = one.sums @ other.sums.T
    known = between, one.products, other.products
    crossed = [_cosines(one.design.halves[:, k], other.design.halves[:, 1 - k], *known) for k in (0, 1)]
    mine, theirs = one.design.permuted, other.design.permuted
    return Cosines(
        _cosines(one.design.whole, other.design.whole, *known),
        _mean_known(np.concatenate(crossed)),
        _cosines(mine, np.roll(theirs, 1, axis=0), *known),
        _cosines(mine, theirs, *known),
    )


def cells_of_rows(groups: Int[np.ndarray, " row"], positive: Bool[np.ndarray, " row"], n: int) -> Int[np.ndarray, " row"]:
    """Return each row's cell: its group, after all groups of the positive class where it is negative."""
    return groups + n * (~positive).astype(int)
