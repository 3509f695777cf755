"""The sums that a decomposition of variance needs, taken from the states once.

For centred states x[a, i] of language a and meaning i, with S[a] = sum over meanings, T[i] = sum over languages and G = sum
over all, every sum of squares of the two-factor form, with any one meaning or language left out, follows from

    |x[a, i]|^2,  x[a, i].S[a],  x[a, i].T[i],  S[a].G,  T[i].G

because |S[a] - x[a, i]|^2 = |S[a]|^2 - 2 x[a, i].S[a] + |x[a, i]|^2, and so on. No state is read twice and no model is fitted
again. The three-factor form asks for products of any two meanings; these are two tables of meanings x meanings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from workbench.geometry.tiles import tiles

_Sums = TypeVar("_Sums")


@dataclass(frozen=True)
class GridSums:
    """Row products of a complete grid of centred states.

    Parameters
    ----------
    own : array (language, meaning)
        Squared length of each row.
    with_language, with_meaning : array (language, meaning)
        Its product with the sum of its language, and with the sum of its meaning.
    language_with_all, meaning_with_all : array (language,), (meaning,)
        Products of those sums with the sum of all rows (close to zero, since states are centred).
    """

    own: Float[np.ndarray, "language meaning"]
    with_language: Float[np.ndarray, "language meaning"]
    with_meaning: Float[np.ndarray, "language meaning"]
    language_with_all: Float[np.ndarray, " language"]
    meaning_with_all: Float[np.ndarray, " meaning"]

    @classmethod
    def of(cls, states: Float[np.ndarray, "language meaning hidden"], scaling: str = "raw") -> GridSums:
        """Take the sums from the states of one layer and position."""
        return _in_enough_precision(cls._taken, states, scaling)

    @classmethod
    def _taken(cls, states: np.ndarray, scaling: str, precision: type) -> tuple[GridSums, float]:
        n_languages, n_meanings, _ = states.shape
        own, with_language, with_meaning = (np.zeros((n_languages, n_meanings)) for _ in range(3))
        language_with_all, meaning_with_all = np.zeros(n_languages), np.zeros(n_meanings)
        each_meaning: np.ndarray = np.ones((1, n_meanings), dtype=precision)
        each_language: np.ndarray = np.ones(n_languages, dtype=precision)
        for tile in tiles(states, scaling, precision=precision):
            by_language = np.matmul(each_meaning, tile)
            by_meaning = (each_language @ tile.reshape(n_languages, -1)).reshape(n_meanings, -1)
            everything = by_meaning.sum(axis=0, dtype=np.float64)
            own += np.vecdot(tile, tile)
            with_language += np.vecdot(tile, by_language)
            with_meaning += np.vecdot(tile, by_meaning)
            language_with_all += by_language[:, 0] @ everything
            meaning_with_all += by_meaning @ everything
        return cls(own, with_language, with_meaning, language_with_all, meaning_with_all), float(own.sum())

    def squares(self) -> Float[np.ndarray, " factor"]:
        """Return the sums of squares of language, meaning and interaction; they sum to the total about the grand mean."""
        n_languages, n = self.own.shape
        all_rows = self.meaning_with_all.sum() / (n_languages * n)
        language = self.with_language.sum() / n - all_rows
        meaning = self.with_meaning.sum() / n_languages - all_rows
        return np.array([language, meaning, self.own.sum() - all_rows - language - meaning])

    def squares_without_each_meaning(self) -> Float[np.ndarray, "meaning factor"]:
        """Return the sums of squares with each meaning left out in turn."""
        n_languages, n = self.own.shape
        own = self.own.sum(axis=0)
        of_meaning = self.with_meaning.sum(axis=0)  # |T[i]|^2
        all_rows = (self.meaning_with_all.sum() - 2 * self.meaning_with_all + of_meaning) / (n_languages * (n - 1))
        language = (self.with_language.sum() - 2 * self.with_language.sum(axis=0) + own) / (n - 1) - all_rows
        meaning = (of_meaning.sum() - of_meaning) / n_languages - all_rows
        return np.stack([language, meaning, own.sum() - own - all_rows - language - meaning], axis=1)

    def squares_without_each_language(self) -> Float[np.ndarray, "language factor"]:
        """Return the sums of squares with each language left out in turn."""
        n_languages, n = self.own.shape
        own = self.own.sum(axis=1)
        of_language = self.with_language.sum(axis=1)  # |S[a]|^2
        all_rows = (self.language_with_all.sum() - 2 * self.language_with_all + of_language) / ((n_languages - 1) * n)
        language = (of_language.sum() - of_language) / n - all_rows
        meaning = (self.with_meaning.sum() - 2 * self.with_meaning.sum(axis=1) + own) / (n_languages - 1) - all_rows
        return np.stack([language, meaning, own.sum() - own - all_rows - language - meaning], axis=1)


@dataclass(frozen=True)
class MeaningProducts:
    """Products of every two meanings of a complete grid of centred states.

    With weights w over meanings, w' within w = sum over languages of |sum of w[i] x[a, i]|^2, and w' across w = |sum of
    w[i] T[i]|^2: whatever is contrasted over meanings, its sums of squares need no state.

    Parameters
    ----------
    within : array (meaning, meaning)
        Sum over languages of x[a, i].x[a, j].
    across : array (meaning, meaning)
        T[i].T[j].
    n_languages : int
    """

    within: Float[np.ndarray, "meaning meaning"]
    across: Float[np.ndarray, "meaning meaning"]
    n_languages: int

    @classmethod
    def of(cls, states: Float[np.ndarray, "language meaning hidden"], scaling: str = "raw") -> MeaningProducts:
        """Take the products from the states of one layer and position."""
        return _in_enough_precision(cls._taken, states, scaling)

    @classmethod
    def _taken(cls, states: np.ndarray, scaling: str, precision: type) -> tuple[MeaningProducts, float]:
        n_languages, n, _ = states.shape
        within, across = np.zeros((n, n)), np.zeros((n, n))
        for tile in tiles(states, scaling, precision=precision):
            side_by_side = tile.transpose(1, 0, 2).reshape(n, -1)
            by_meaning = tile.sum(axis=0)
            within += side_by_side @ side_by_side.T
            across += by_meaning @ by_meaning.T
        return cls(within, across, n_languages), float(np.trace(within))


def _in_enough_precision(take: Callable[[np.ndarray, str, type], tuple[_Sums, float]], states: np.ndarray, scaling: str) -> _Sums:
    """Take sums in float32; in float64 where states are stored so, or are so large or small that their squares leave float32."""
    if states.dtype.itemsize <= 4:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            sums, total = take(states, scaling, np.float32)
        if 1e-30 < total < np.inf:
            return sums
    return take(states, scaling, np.float64)[0]
