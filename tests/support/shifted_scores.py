"""Made-up scores of source languages and of shifted target languages, for the tests of threshold policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


_FAMILIES: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_t(3, n) / np.sqrt(3),
    "skewed": lambda rng, n: (rng.gamma(2, 1, n) - 2) / np.sqrt(2),
}
#: How far both classes move, in units of the distance between the source classes (harmful, harmless).
_MOVED = {
    "stay": (0, 0), "down 1/4": (-0.25, -0.25), "down 1/2": (-0.5, -0.5), "down 1": (-1, -1), "up 1/4": (0.25, 0.25),
    "harmful down 1/4": (-0.25, 0), "harmful down 1/2": (-0.5, 0),
}  # fmt: skip
_STRETCHED = {"": (1, 1), "harmful twice as wide": (2, 1), "both stretched": (1.5, 1.5)}


def shifts(rng: np.random.Generator, *, distance: float = 4.0) -> dict[str, tuple[dict[str, Scores], Scores]]:
    """Sources and a target of one family of shapes, moved and stretched; classes ``distance`` deviations apart in the sources."""
    found = {}
    for family, draw in _FAMILIES.items():

        def classes(n: int, ends: tuple[float, float], widths: tuple[float, float] = (1, 1), draw: Callable = draw) -> Scores:
            return Scores(ends[0] + widths[0] * draw(rng, n), ends[1] - widths[1] * draw(rng, n))  # tails point away from the other class

        for moved, (high, low) in _MOVED.items():
            for stretched, widths in _STRETCHED.items():
                if stretched and moved not in ("stay", "down 1/2", "harmful down 1/4"):
                    continue
                apart = [(distance * (0.5 + rng.normal(0, 0.05)), distance * (-0.5 + rng.normal(0, 0.05))) for _ in range(3)]
                known = {tag: classes(100, ends) for tag, ends in zip(("qaa", "qab", "qac"), apart, strict=True)}
                target = classes(N, (distance * (0.5 + high), distance * (-0.5 + low)), widths)
                found[", ".join(part for part in (family, moved, stretched) if part)] = known, target
    return found
