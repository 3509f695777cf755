"""How often intervals of a silhouette cover, a planted bottleneck is found with its layer, and nothing is found in noise.

Run ``python tests/benchmarks/coverage.py [--draws 100] [--only NAME] [--json PATH]`` from the repository root. Everything is
simulated and labelled as ``capture`` labels it, and goes through ``silhouettes`` and ``find_bottleneck``. Four studies:

* ``bottleneck``: a layer is planted; is a bottleneck found, is the layer in its range, and how wide is that range?
* ``alarms``: nothing is planted (ten times as many draws); how often is a bottleneck found all the same?
* ``intervals``: the difference of silhouettes at one layer, languages given; which interval holds the true value?
* ``languages``: the same with languages drawn anew each time, so that the claim is about languages in general.

The true value is the mean of many further draws. The tables are those of docs/coverage.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.planted import activations, additive
from workbench.geometry import find_bottleneck, silhouettes
from workbench.geometry.distances import cosine_distances, grid_silhouettes, weighted_silhouettes
from workbench.statistics import bootstrap_weights

HIDDEN = 64
#: Strength of language and of meaning (noise 1 per dimension). Topics are drawn anew in each draw, unless they are kept.
KINDS = {
    "noise": (0.0, 0.0),
    "language strong": (1.0, 0.2),
    "meaning strong": (0.2, 1.0),
    "both": (1.0, 1.0),
    "heavy-tailed meanings": (0.5, 1.0),
    "ten topics": (0.5, 1.0),
    "five tight topics": (0.5, 1.0),
    "five tight topics, kept": (0.5, 1.0),
}
TOPICS = {"ten topics": (10, 0.6), "five tight topics": (5, 0.3), "five tight topics, kept": (5, 0.3)}


# bottleneck ----------------------------------------------------------------------------------------------------------


def planted(depth: int, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the strength of language and of meaning by layer, with a dip and a bump around one layer."""
    bump = np.exp(-(((np.arange(depth + 1) - at) / (0.18 * depth)) ** 2))
    return 0.6 - 0.07 * bump, 0.35 + 0.07 * bump


def find_planted(depth: int, n_languages: int, n: int, draws: int, *, one_noise: bool, seed: int = 1) -> dict[str, object]:
    """Plant a layer between 40 and 60 % of depth in each draw and count how it is found."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(draws):
        at = int(rng.integers(np.ceil(0.4 * depth), np.floor(0.6 * depth) + 1))
        states = additive(rng, *planted(depth, at), n_languages=n_languages, n=n, hidden=HIDDEN, shared_noise=one_noise)
        row = find_bottleneck(activations(states), permutations=19, max_meanings=n, rng=rng).table.iloc[0]
        rise = min(row["beats_first"], row["beats_last"])
        rows.append((row["verdict"] == "bottleneck", row["low"] <= at <= row["high"], row["high"] - row["low"], abs(row["layer"] - at), rise))
    found, inside, width, off, rise = np.array(rows, dtype=float).T
    return {
        "blocks": depth,
        "languages": n_languages,
        "meanings": n,
        "noise": "one for all layers" if one_noise else "own in each layer",
        "rise (median)": np.median(rise),
        "draws": draws,
        "detected": found.mean(),
        "range holds the layer": inside.mean(),
        "median width / depth": np.median(width) / depth,
        "layers off (mean)": off.mean(),
    }


def bottleneck(draws: int) -> Iterator[dict[str, object]]:
    """Yield one row per depth and size."""
    for depth, n_languages, n, one_noise in (
        (8, 8, 40, False),
        (8, 8, 40, True),
        (8, 8, 100, False),
        (8, 23, 40, False),
        (8, 23, 100, False),
        (28, 8, 40, False),
        (28, 8, 40, True),
        (32, 8, 40, False),
        (32, 8, 100, False),
    ):
        yield find_planted(depth, n_languages, n, draws, one_noise=one_noise)


# false alarms --------------------------------------------------------------------------------------------------------

DIP = np.array([1.2, 1.0, 0.7, 0.4, 0.3, 0.4, 0.7, 1.0, 1.2])
FLAT = np.ones(9)
#: Strength of language and of meaning by layer, and whether the noise is the same in all layers.
NOTHING = {
    "pure noise": (0 * FLAT, 0 * FLAT, False),
    "language towers, no meaning": (FLAT, 0 * FLAT, False),
    "meaning grows with depth": (FLAT, np.linspace(0, 1.5, 9), False),
    "language falls with depth, no meaning": (np.linspace(1.2, 0, 9), 0 * FLAT, False),
    "language dips in the middle, no meaning": (DIP, 0 * FLAT, False),
}


def false_alarms(profile: str, draws: int, *, seed: int = 2) -> dict[str, object]:
    """Judge a profile without a bottleneck many times."""
    language, meaning, one_noise = NOTHING[profile]
    rng, verdicts = np.random.default_rng(seed), []
    for _ in range(draws):
        states = additive(rng, language, meaning, n_languages=6, n=24, hidden=48, shared_noise=one_noise)
        verdicts.append(find_bottleneck(activations(states), permutations=99, rng=rng).table["verdict"][0])
    counts = pd.Series(verdicts).value_counts(normalize=True)
    return {"profile": profile, "draws": draws, **{v: counts.get(v, 0.0) for v in ("bottleneck", "not enough evidence", "no bottleneck")}}


def alarms(draws: int) -> Iterator[dict[str, object]]:
    """Yield one row per profile without a bottleneck; ten times as many draws."""
    for profile in NOTHING:
        yield false_alarms(profile, 10 * draws)


# intervals -----------------------------------------------------------------------------------------------------------


def one_layer(rng: np.random.Generator, kind: str, towers: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw meanings and noise for given languages; return states (language, meaning, hidden) and the topic of each meaning."""
    language, strength = KINDS[kind]
    n_topics, within = TOPICS.get(kind, (n, 0.0))
    topic = rng.integers(n_topics, size=n) if kind in TOPICS else np.arange(n)
    centres = (np.random.default_rng(5) if kind.endswith("kept") else rng).normal(size=(n_topics, HIDDEN))
    meaning = centres[topic] + within * rng.normal(size=(n, HIDDEN))
    if kind == "heavy-tailed meanings":
        meaning *= 0.8 * np.abs(rng.standard_t(2, size=(n, 1)))
    return language * towers + strength * meaning + rng.normal(size=(len(towers), n, HIDDEN)), topic


def copied_rows(distances: np.ndarray, n_languages: int, weights: np.ndarray) -> np.ndarray:
    """Return the difference of silhouettes as copying rows gives it: copies are neighbours at distance zero.

    Equal to scikit-learn on the copied rows (a test shows it); the weights only save the copying.
    """
    n = len(distances) // n_languages
    blocks, at = distances.reshape(-1, n_languages, n), np.arange(len(distances))
    language_of, meaning_of = at // n, at % n
    to_meaning = blocks.mean(axis=1)
    own_meaning = to_meaning[at, meaning_of] * n_languages
    to_meaning[at, meaning_of] = np.inf
    found = []
    for w in weights:
        mine = w[meaning_of]
        to_language = blocks @ w
        own = to_language[at, language_of] / (n - 1)
        to_language[at, language_of] = np.inf
        other = to_language.min(axis=1) / n
        by_language = (other - own) / np.maximum(other, own)
        own = mine * own_meaning / np.maximum(n_languages * mine - 1, 1)
        other = np.where(w > 0, to_meaning, np.inf).min(axis=1)
        by_meaning = (other - own) / np.maximum(other, own)
        found.append(mine @ (by_meaning - by_language) / (n_languages * n))
    return np.array(found)


def intervals_of(states: np.ndarray, topic: np.ndarray, rng: np.random.Generator, *, bootstraps: bool) -> dict[str, tuple[float, float]]:
    """Return every candidate interval of one draw; the bootstraps, which cost more, only if asked."""
    n_languages, n, hidden = states.shape
    acts = activations(states[:, :, None, None]).assign_coords(category=("prompt", np.tile([f"topic {k}" for k in topic], n_languages)))
    options = {"permutations": 0, "max_meanings": n, "rng": rng}

    def bounds(low: str = "low", high: str = "high", **given: object) -> tuple[float, float]:
        row = silhouettes(acts, **options, **given).table.iloc[2]
        return float(row[low]), float(row[high])

    found = {"jackknife": bounds()}
    if 3 <= len(set(topic)) < n:
        found["jackknife over topics"] = bounds(unit="category")
    if bootstraps:
        found["bootstrap, recentred"] = bounds(interval="bootstrap", resamples=200)
        distances, weights = cosine_distances(states.reshape(-1, hidden)), bootstrap_weights(n, 100, rng)
        for name, drawn in (
            ("bootstrap, percentiles", weighted_silhouettes(distances, n_languages, weights)[:, 2]),
            ("bootstrap, copied rows", copied_rows(distances, n_languages, weights)),
        ):
            low, high = np.quantile(drawn, [0.025, 0.975])
            found[name] = float(low), float(high)
    return found


def value_of(states: np.ndarray) -> float:
    """Return the difference of silhouettes of one draw."""
    return float(grid_silhouettes(cosine_distances(states.reshape(-1, HIDDEN)), len(states), jackknife=False)[0][2])


def _summary(setting: dict[str, object], truth: float, found: dict[str, list[tuple[float, float]]]) -> Iterator[dict[str, object]]:
    for name, bounds in found.items():
        low, high = np.array(bounds).T
        covered = (low <= truth) & (truth <= high)
        measured = {"interval": name, "draws": len(bounds), "covers": covered.mean(), "median width": np.median(high - low)}
        yield {**setting, "true value": truth, **measured}


def intervals(draws: int) -> Iterator[dict[str, object]]:
    """Yield one row per size, kind of data and interval; the languages stay the same in all draws."""
    for n_languages, n in ((8, 40), (23, 40)):
        for kind in KINDS:
            rng = np.random.default_rng(3)
            towers = rng.normal(size=(n_languages, 1, HIDDEN))
            found: dict[str, list[tuple[float, float]]] = {}
            for draw in range(2 * draws):
                for name, bounds in intervals_of(*one_layer(rng, kind, towers, n), rng, bootstraps=draw < draws).items():
                    found.setdefault(name, []).append(bounds)
            truth = float(np.mean([value_of(one_layer(rng, kind, towers, n)[0]) for _ in range(10 * draws)]))
            yield from _summary({"languages": n_languages, "meanings": n, "data": kind}, truth, found)


def languages(draws: int) -> Iterator[dict[str, object]]:
    """Yield one row per size, kind of data and interval; languages are drawn from a population in each draw."""
    for n_languages, n in ((12, 40), (23, 40)):
        for kind in KINDS:
            rng = np.random.default_rng(4)
            found: dict[str, list[tuple[float, float]]] = {"jackknife over meanings": [], "meanings and languages": []}
            for _ in range(2 * draws):
                states, _topic = one_layer(rng, kind, rng.normal(size=(n_languages, 1, HIDDEN)), n)
                row = silhouettes(activations(states[:, :, None, None]), permutations=0, rng=rng).table.iloc[2]
                found["jackknife over meanings"].append((row["low"], row["high"]))
                found["meanings and languages"].append((row["low_languages"], row["high_languages"]))
            truth = float(np.mean([value_of(one_layer(rng, kind, rng.normal(size=(n_languages, 1, HIDDEN)), n)[0]) for _ in range(10 * draws)]))
            yield from _summary({"languages": n_languages, "meanings": n, "data": kind}, truth, found)


# table ---------------------------------------------------------------------------------------------------------------

STUDIES = {"bottleneck": bottleneck, "alarms": alarms, "intervals": intervals, "languages": languages}


def markdown(rows: list[dict[str, object]]) -> str:
    """Lay rows out as a table."""
    names = list(rows[0])
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *cells))


def side_by_side(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Put the intervals of one setting into one row: share of draws covered (median width)."""
    settings: dict[tuple[object, ...], dict[str, object]] = {}
    names = dict.fromkeys(str(row["interval"]) for row in rows)
    for row in rows:
        key = tuple(row[k] for k in ("languages", "meanings", "data", "true value"))
        setting = settings.setdefault(key, dict(zip(("languages", "meanings", "data", "true value"), key, strict=True)) | dict.fromkeys(names, ""))
        setting[str(row["interval"])] = f"{row['covers']:.3f} ({row['median width']:.3f})"
    return list(settings.values())


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="draws of a planted bottleneck; the other studies take multiples")
    parser.add_argument("--only", choices=list(STUDIES))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    tables = {}
    for name in [asked.only] if asked.only else STUDIES:
        start = time.process_time()
        tables[name] = list(STUDIES[name](asked.draws))
        shown = side_by_side(tables[name]) if "interval" in tables[name][0] else tables[name]
        sys.stdout.write(f"\n## {name}\n\n{markdown(shown)}\n\n{time.process_time() - start:.0f} CPU seconds\n")
        sys.stdout.flush()
    if asked.json:
        asked.json.write_text(json.dumps(tables, indent=1, default=float), encoding="utf-8")


if __name__ == "__main__":
    main()
