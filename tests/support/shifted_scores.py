"""Made-up scores of source languages and of shifted target languages, for the tests of threshold policies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workbench.gates import Scores

N = 4000


def sources(rng: np.random.Generator) -> dict[str, Scores]:
    """Three languages without a shift to speak of: classes six apart, deviation one and a half."""
    shifts = {"qaa": (0.2, -0.1), "qab": (-0.3, 0.2), "qac": (0.1, -0.1)}
    return {tag: Scores(rng.normal(3 + a, 1.5, 100), rng.normal(-3 + b, 1.5, 100)) for tag, (a, b) in shifts.items()}


def shapes(rng: np.random.Generator) -> Mapping[str, Scores]:
    """Target languages: whole-language shifts, lost class distance, other spreads, tails and numbers of heaps."""

    def normal(mean: float, deviation: float) -> np.ndarray:
        return rng.normal(mean, deviation, N)

    two = np.where(rng.random(N) < 0.5, normal(3, 1.5), normal(-2, 1))
    return {
        "no shift": Scores(normal(3, 1.5), normal(-3, 1.5)),
        "both down by half": Scores(normal(0, 1.5), normal(-6, 1.5)),
        "both up by half": Scores(normal(6, 1.5), normal(0, 1.5)),
        "both down by all": Scores(normal(-3, 1.5), normal(-9, 1.5)),
        "half the distance": Scores(normal(0, 1.5), normal(-3, 1.5)),
        "overlapping": Scores(normal(-0.5, 1.8), normal(-2.5, 1.8)),
        "wider harmful": Scores(normal(0, 3), normal(-4, 1.5)),
        "both wider": Scores(normal(0, 3), normal(-5, 3)),
        "two heaps": Scores(two, normal(-5, 1.2)),
        "heavy tails": Scores(1 + 1.2 * rng.standard_t(3, N), -4 + 1.2 * rng.standard_t(3, N)),
        "skewed": Scores(rng.gamma(2, 1.5, N) - 2.5, -2 - rng.gamma(2, 1.5, N)),
    }
