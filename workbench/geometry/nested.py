"""Sums of squares and variances of a grid whose meanings are nested in two classes, of equal size or not.

    h[a, k, i] = g + A[a] + H[k] + AH[a, k] + M[k, i] + R[a, k, i]      (language a, class k, meaning i within k)

Every language has every meaning, so cells are proportional and the five sums of squares add up to the total exactly.

Expected mean squares
---------------------
Let d[a] be the true vector from harmless to harmful in language a, n the number of meanings, n[k] of class k, L of languages, f[k] = n[k] / n
and n0 = 2 n f[0] f[1]. Meanings are drawn at random within their class; what they add may vary and correlate over languages
in any way, and differently in the two classes. With m[k] and r[k] the expected mean squares of the meanings and of the rest in
class k alone::

    language          E MS = n v_A + sum of f[k] r[k]
    harm              E MS = n0 (L v_H + v_LH) + sum of (1 - f[k]) m[k]
    language x harm   E MS = n0 v_LH           + sum of (1 - f[k]) r[k]
    meaning           E MS = L v_M + v_R
    rest              E MS = v_R

    v_LH = sum over a of |d[a] - mean d|^2 / 2 (L - 1),    v_H = mean over pairs a != b of d[a].d[b] / 2

Solved for v these are free of bias. (With classes of one size and spread they are the textbook's: languages random, harm fixed.)

v_H + v_LH is half the mean squared length of d. This derivation is ours; simulation in the tests agrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from workbench.geometry.sums import MeaningProducts

FACTORS = ("language", "harm", "language x harm", "meaning", "rest")


@dataclass(frozen=True)
class ClassSums:
    """What the sums of squares need of a grid of two classes, for several cases (choices of meanings, or labels of them).

    Squared lengths of sums of states, per case and class: of single rows and of single meanings over all languages (``own``,
    ``own_meanings``, added up), of the class within each language (``of_cells``, added up) and over all (``of_classes``);
    ``of_languages`` and ``of_all`` are the last two over both classes.
    """

    n: Float[np.ndarray, "case 2"]
    own: Float[np.ndarray, "case 2"]
    own_meanings: Float[np.ndarray, "case 2"]
    of_cells: Float[np.ndarray, "case 2"]
    of_classes: Float[np.ndarray, "case 2"]
    of_languages: Float[np.ndarray, " case"]
    of_all: Float[np.ndarray, " case"]
    n_languages: int

    @classmethod
    def of(cls, products: MeaningProducts, members: Float[np.ndarray, "case 2 meaning"]) -> ClassSums:
        """Take them from the products of meanings; ``members`` is 1 where a case has a meaning in a class."""

        def lengths(table: np.ndarray, chosen: np.ndarray) -> np.ndarray:
            return ((chosen @ table) * chosen).sum(axis=-1)

        both = members.sum(axis=1)
        return cls(
            n=members.sum(axis=2),
            own=members @ np.diag(products.within),
            own_meanings=members @ np.diag(products.across),
            of_cells=lengths(products.within, members),
            of_classes=lengths(products.across, members),
            of_languages=lengths(products.within, both),
            of_all=lengths(products.across, both),
            n_languages=products.n_languages,
        )

    def nested(self) -> tuple[Float[np.ndarray, "case 2"], Float[np.ndarray, "case 2"]]:
        """Return the sums of squares of meaning and of the rest, in each class."""
        meaning = (self.own_meanings - self.of_classes / self.n) / self.n_languages
        return meaning, self.own - self.of_cells / self.n - meaning

    def squares(self) -> Float[np.ndarray, "case factor"]:
        """Return the sums of squares of the five factors; they sum to the total about the grand mean."""
        n = self.n.sum(axis=1)
        mean = self.of_all / (self.n_languages * n)
        language = self.of_languages / n - mean
        harm = (self.of_classes / self.n).sum(axis=1) / self.n_languages - mean
        both = (self.of_cells / self.n).sum(axis=1) - mean - language - harm
        return np.stack([language, harm, both, *(part.sum(axis=1) for part in self.nested())], axis=1)

    def variances(self) -> Float[np.ndarray, "case factor"]:
        """Return the five variances of the module's table: free of bias, so sometimes below zero (NaN for a class of one meaning)."""
        squares, n, n_languages = self.squares(), self.n.sum(axis=1), self.n_languages
        share, n0 = self.n / n[:, None], 2 * self.n.prod(axis=1) / n
        with np.errstate(divide="ignore", invalid="ignore"):
            meaning, rest = (part / (self.n - 1) for part in self.nested())
        rest = rest / (n_languages - 1)
        both = (squares[:, 2] / (n_languages - 1) - ((1 - share) * rest).sum(axis=1)) / n0
        harm = ((squares[:, 1] - ((1 - share) * meaning).sum(axis=1)) / n0 - both) / n_languages
        language = (squares[:, 0] / (n_languages - 1) - (share * rest).sum(axis=1)) / n
        pooled = squares[:, 4] / ((n_languages - 1) * (n - 2))
        return np.stack([language, harm, both, (squares[:, 3] / (n - 2) - pooled) / n_languages, pooled], axis=1)


def members_of(harmful: Bool[np.ndarray, "case meaning"]) -> Float[np.ndarray, "case 2 meaning"]:
    """Return which meanings are in the harmless and in the harmful class, for one or several labellings."""
    return np.stack([~harmful, harmful], axis=1).astype(np.float64)


def without_each_meaning(harmful: Bool[np.ndarray, " meaning"]) -> Float[np.ndarray, "meaning 2 meaning"]:
    """Return the two classes with each meaning left out in turn."""
    members = members_of(np.broadcast_to(harmful, (len(harmful), len(harmful))))
    at = np.arange(len(harmful))
    members[at, :, at] = 0.0
    return members
