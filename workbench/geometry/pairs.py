"""Pairs of languages in one layer: each similarity statistic with what its interval, its null and its chance level need.

A statistic of a pair comes with its value, the values without some meanings, its values under permuted translations, and
what unrelated languages would give. All of them are linear in pairs, so an average over reference languages averages each
of the four.

Sums give the values without each single meaning. The two statistics on principal components are fitted again, on 20 random
subsets of two thirds of the meanings: components of nearly equal size change places when a single meaning leaves, which
makes the one-at-a-time jackknife three times too wide; leaving out a third at a time averages over that (see
:func:`workbench.geometry.subspaces.subset_interval`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.geometry import cka, mexa
from workbench.geometry.cells import all_one_state
from workbench.geometry.retrieval import norms_of, translations_found, unit_states
from workbench.geometry.subspaces import Leading, angle_between, held_out_residual, leading, random_angles, split_half_angle

#: Statistic -> fewest meanings it can be measured on.
STATISTICS = {"mexa": 2, "adjusted_cosine": 2, "cka": cka.LEAST, "procrustes": 8, "principal_angle": 8, "p_at_1": 2, "p_at_1_uncentred": 2}
#: Statistics of which a small value means similar.
DISTANCES = ("procrustes", "principal_angle")
#: Statistics on principal components, fitted again for their interval.
FITTED = ("procrustes", "principal_angle")
#: Shares of meanings, which get Wilson's interval.
SHARES = ("mexa", "p_at_1", "p_at_1_uncentred")
FOLDS, SUBSETS, SPLITS = 5, 20, 4


class Measured(NamedTuple):
    """One statistic of one pair of languages.

    ``without``: value without each meaning, or on each subset of meanings for the two statistics that are fitted;
    ``null``: one value per permutation; ``chance``: expected of unrelated languages; ``ceiling``: what two halves of one
    language's own meanings give (principal angle only).
    """

    value: float
    without: Float[np.ndarray, " left_out"]
    null: Float[np.ndarray, " draw"]
    chance: float
    ceiling: float = float("nan")


@dataclass(frozen=True)
class Draws:
    """The random choices of one analysis, the same in all layers, languages and in the control.

    ``shuffles`` are the permuted translations, ``folds`` what Procrustes is scored on, ``subsets`` the meanings that
    fitted statistics are measured on again, ``halves`` the splits behind the ceiling of the principal angle, and
    ``angles`` those of random subspaces (one row per draw, one column per layer).
    """

    n_components: int
    shuffles: Int[np.ndarray, "draw meaning"]
    folds: Int[np.ndarray, " meaning"]
    subsets: Bool[np.ndarray, "subset meaning"]
    halves: Bool[np.ndarray, "split meaning"]
    angles: Float[np.ndarray, "draw layer"]

    @classmethod
    def of(cls, n: int, n_components: int, permutations: int, n_layers: int, hidden: int, rng: np.random.Generator) -> Draws:
        """Draw everything for ``n`` meanings; components are cut to a quarter of the meanings and to the width."""
        k = max(1, min(n_components, n // 4, hidden))
        half, most = np.arange(n) < n // 2, np.arange(n) >= n // 3
        return cls(
            n_components=k,
            shuffles=rng.permuted(np.broadcast_to(np.arange(n), (permutations, n)), axis=1),
            folds=rng.permutation(n) % FOLDS,
            subsets=np.stack([rng.permutation(most) for _ in range(SUBSETS)]),
            halves=np.stack([rng.permutation(half) for _ in range(SPLITS)]),
            angles=random_angles(k, hidden, max(permutations, 100) * n_layers, rng).reshape(-1, n_layers),
        )

    def values_only(self) -> Draws:
        """Drop what only nulls and intervals need, for a control that is measured without them."""
        return replace(self, shuffles=self.shuffles[:0], subsets=self.subsets[:0], halves=self.halves[:0])


class _Fitted(NamedTuple):
    """The leading components of one language on all meanings, and on each subset of them."""

    whole: Leading | None
    parts: list[Leading | None]


class Layer:
    """The states of one layer, reduced to what pairs of languages need.

    Parameters
    ----------
    states : array (language, meaning, hidden)
    statistics : collection of str
        Of ``STATISTICS``.
    draws : Draws
    """

    def __init__(self, states: Float[np.ndarray, "language meaning hidden"], statistics: Collection[str], draws: Draws) -> None:
        self.n = states.shape[1]
        self.statistics = [s for s in statistics if self.n >= STATISTICS[s]]
        self.draws = draws
        self.varies = [not all_one_state(part) for part in states]
        self.units = unit_states(states, centre=False)
        self.centred = unit_states(states)
        self.norms = norms_of(states - states.mean(axis=1, keepdims=True))
        self._grams: dict[int, np.ndarray] = {}
        self._fits: dict[int, _Fitted] = {}
        self._ceilings: dict[int, float] = {}
        self._u: dict[int, np.ndarray] = {}

    def gram(self, a: int) -> Float[np.ndarray, "meaning meaning"]:
        """Return the inner products within one language, its mean subtracted."""
        if a not in self._grams:
            self._grams[a] = self._products(self.centred[a] @ self.centred[a].T, a, a)
        return self._grams[a]

    def _products(self, cosines: np.ndarray, a: int, b: int) -> Float[np.ndarray, "meaning meaning"]:
        return cosines * self.norms[a][:, None] * self.norms[b]

    def u(self, a: int) -> Float[np.ndarray, "meaning meaning"]:
        """Return the U-centred inner products within one language."""
        if a not in self._u:
            self._u[a] = cka.u_centred(self.gram(a))
        return self._u[a]

    def fitted(self, a: int) -> _Fitted:
        """Return the leading components of one language."""
        if a not in self._fits:
            gram, k = self.gram(a), self.draws.n_components
            self._fits[a] = _Fitted(leading(gram, k), [leading(gram[np.ix_(rows, rows)], k) for rows in self.draws.subsets])
        return self._fits[a]

    def ceiling(self, a: int) -> float:
        """Return the principal angle between two halves of one language's meanings."""
        if a not in self._ceilings:
            self._ceilings[a] = split_half_angle(self.gram(a), self.draws.n_components, self.draws.halves)
        return self._ceilings[a]

    def measure(self, pairs: Sequence[tuple[int, int]]) -> dict[tuple[str, int, int], Measured]:
        """Measure every statistic for each (language, reference) pair; permuted translations permute the reference.

        Undefined, thus left out: a pair in which a language's states are all one constant token.
        """
        found: dict[tuple[str, int, int], Measured] = {}
        for b in sorted({b for _, b in pairs}):
            if not self.varies[b]:
                continue
            moved = cka.permuted(self.u(b), self.draws.shuffles) if "cka" in self.statistics else None
            for a in [a for a, other in pairs if other == b and self.varies[a]]:
                for statistic, one in self._pair(a, b, moved).items():
                    found[statistic, a, b] = one
        return found

    def _pair(self, a: int, b: int, moved: np.ndarray | None) -> dict[str, Measured]:
        wanted = self.statistics
        out: dict[str, Measured] = {}
        if {"mexa", "adjusted_cosine", "p_at_1_uncentred"} & set(wanted):
            similar = self.units[a] @ self.units[b].T
            if "mexa" in wanted:
                out["mexa"] = _mexa(similar, self.draws.shuffles)
            if "adjusted_cosine" in wanted:
                out["adjusted_cosine"] = _adjusted(similar, self.draws.shuffles)
            if "p_at_1_uncentred" in wanted:
                out["p_at_1_uncentred"] = Measured(*translations_found(similar, self.draws.shuffles), 1 / self.n)
        centred = self.centred[a] @ self.centred[b].T
        if "p_at_1" in wanted:
            out["p_at_1"] = Measured(*translations_found(centred, self.draws.shuffles), 1 / self.n)
        if moved is not None:
            out["cka"] = self._cka(a, b, moved)
        if "procrustes" in wanted:
            out |= self._procrustes(a, b)
        if "principal_angle" in wanted:
            out |= self._angle(a, b, self._products(centred, a, b))
        return out

    def _cka(self, a: int, b: int, moved: np.ndarray) -> Measured:
        one, two = self.u(a), self.u(b)
        null = moved @ one.astype(np.float32).ravel() / float(np.linalg.norm(one) * np.linalg.norm(two))
        return Measured(cka.cosine_of(one, two), cka.cka_without(self.gram(a), self.gram(b)), null.astype(np.float64), 0.0)

    def _procrustes(self, a: int, b: int) -> dict[str, Measured]:
        one, two, folds = self.fitted(a), self.fitted(b), self.draws.folds
        if one.whole is None or two.whole is None:
            return {}
        scores = two.whole.scores
        shuffled = held_out_residual(one.whole.scores, np.concatenate([scores[None], scores[self.draws.shuffles]]), folds)
        without = np.full(len(self.draws.subsets), np.nan)
        ours, theirs = [p.scores for p in one.parts if p is not None], [p.scores for p in two.parts if p is not None]
        if 0 < len(without) == len(ours) == len(theirs):
            without = held_out_residual(np.stack(ours), np.stack(theirs), np.stack([folds[rows] for rows in self.draws.subsets]))
        return {"procrustes": Measured(float(shuffled[0]), without, shuffled[1:], 1.0)}

    def _angle(self, a: int, b: int, cross: np.ndarray) -> dict[str, Measured]:
        one, two = self.fitted(a), self.fitted(b)
        if one.whole is None or two.whole is None:
            return {}
        without = [
            np.nan if x is None or y is None else angle_between(x, y, cross[np.ix_(rows, rows)])
            for x, y, rows in zip(one.parts, two.parts, self.draws.subsets, strict=True)
        ]
        ceiling = (self.ceiling(a) + self.ceiling(b)) / 2 if len(self.draws.halves) else float("nan")
        value = angle_between(one.whole, two.whole, cross)
        null = np.full(len(self.draws.shuffles), np.nan)  # random subspaces are the null, whatever the layer
        return {"principal_angle": Measured(value, np.array(without), null, float(self.draws.angles.mean()), ceiling)}


def _mexa(similar: np.ndarray, shuffles: np.ndarray) -> Measured:
    n = len(similar)
    best = mexa.mutual_best(similar)
    null = best[np.arange(n), shuffles].mean(axis=1)
    return Measured(float(np.diag(best).mean()), mexa.mexa_without(similar), null, float(best.sum()) / n**2)


def _adjusted(similar: np.ndarray, shuffles: np.ndarray) -> Measured:
    n = len(similar)
    paired = similar[np.arange(n), shuffles].sum(axis=1)
    null = paired / n - (similar.sum() - paired) / (n * (n - 1))
    return Measured(mexa.adjusted_cosine(similar), mexa.adjusted_without(similar), null, 0.0)
