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
    """What the sums of squares need of a grid of two classes, for one or several choices of its meanings.

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
    def of(cls, products: MeaningProducts, harmful: Bool[np.ndarray, " meaning"], *, without_each: bool = False) -> ClassSums:
        """Take them from the products of meanings: one case of all meanings, or one without each meaning in turn."""
        members = np.stack([~harmful, harmful], axis=1).astype(np.float64)
        left_out = members if without_each else np.zeros((1, 2))

        def lengths(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            own, with_class = np.diag(table)[:, None], table @ members
            single, of_class, of_both = (members * own).sum(axis=0), (members * with_class).sum(axis=0), with_class.sum(keepdims=True)[0]
            if not without_each:
                return single[None], of_class[None], of_both
            # |sum without i|^2 = |sum|^2 - 2 i.sum + |i|^2
            return single - members * own, of_class - members * (2 * with_class - own), of_both - 2 * with_class.sum(axis=1) + own[:, 0]

        own, of_cells, of_languages = lengths(products.within)
        own_meanings, of_classes, of_all = lengths(products.across)
        return cls(members.sum(axis=0) - left_out, own, own_meanings, of_cells, of_classes, of_languages, of_all, products.n_languages)

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
        meaning, rest = (part / np.where(self.n > 1, self.n - 1, np.nan) for part in self.nested())
        rest = rest / (n_languages - 1)
        both = (squares[:, 2] / (n_languages - 1) - ((1 - share) * rest).sum(axis=1)) / n0
        harm = ((squares[:, 1] - ((1 - share) * meaning).sum(axis=1)) / n0 - both) / n_languages
        language = (squares[:, 0] / (n_languages - 1) - (share * rest).sum(axis=1)) / n
        pooled = squares[:, 4] / ((n_languages - 1) * (n - 2))
        return np.stack([language, harm, both, (squares[:, 3] / (n - 2) - pooled) / n_languages, pooled], axis=1)


def squares_of_labels(products: MeaningProducts, harmful: Bool[np.ndarray, "case meaning"]) -> Float[np.ndarray, "case 2"]:
    """Return the sums of squares of harm and of language x harm under other labels of the meanings."""
    counts = harmful.sum(axis=1, keepdims=True), (~harmful).sum(axis=1, keepdims=True)
    contrast = np.where(harmful, 1 / counts[0], -1 / counts[1])
    weight = (counts[0] * counts[1] / harmful.shape[1])[:, 0]
    within, across = (weight * ((contrast @ table) * contrast).sum(axis=1) for table in (products.within, products.across))
    return np.stack([across / products.n_languages, within - across / products.n_languages], axis=1)
