"""How alike are languages, layer by layer: in coordinates, in shape, in subspace, and in who is whose nearest neighbour?

Each statistic answers another question about the same states (card 5.5, 5.6), and they disagree for good reasons:

================== ============================================================ ======== ================================
statistic          question                                                     similar  chance
================== ============================================================ ======== ================================
mexa               do a prompt and its translation stand out to each other?     1        at most 1/n
adjusted_cosine    is it nearer to its translation than to others, on average?  large    0
p_at_1             is its translation its nearest, language means subtracted?   1        1/n
p_at_1_uncentred   the same without subtracting: a constant shift counts        1        1/n
cka                are meanings arranged alike, whatever the coordinates?       1        0 (unbiased)
procrustes         is one a rotation of the other? residual, held out           0        1
principal_angle    do they vary in the same directions? degrees                 0        random subspaces, near 90
================== ============================================================ ======== ================================

A high CKA with a low cosine: shared shape, different coordinates. The null permutes which prompts are translations (one
permutation for all languages and layers) and takes the maximum over layers, or the minimum where small is similar. The
principal angle does not depend on translations, so its null are random subspaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Int

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import Cells, complete_cells, each_layer, labels_of, positions_of, provenance_of
from workbench.geometry.pairs import DISTANCES, FITTED, FOLDS, SHARES, STATISTICS, SUBSETS, Draws, Layer, Measured
from workbench.geometry.retrieval import proportion_interval
from workbench.geometry.subspaces import subset_interval
from workbench.results import Result
from workbench.statistics import jackknife_influence, jackknife_interval, max_quantile

_RANGES = {"mexa": (0.0, 1.0), "adjusted_cosine": (-2.0, 2.0), "cka": (-1.0, 1.0), "procrustes": (0.0, np.inf), "principal_angle": (0.0, 90.0)}


@dataclass(frozen=True)
class Similarity(Result):
    """Similarity to the references: position, layer, language, tier, statistic, value, low, high, n, chance, null_95, control, ceiling."""

    required: ClassVar[tuple[str, ...]] = ("position", "layer", "language", "tier", "statistic", "value", "low", "high", "n", "null_95", "control")

    def summary(self) -> pd.DataFrame:
        """Return the mean over layers, and the most similar layer with its value, per position, language and statistic."""
        rows = []
        for (position, language, statistic), part in self.table.groupby(["position", "language", "statistic"], sort=False):
            part = part[part["value"].notna()]
            row = {"position": position, "language": language, "statistic": statistic, "mean": part["value"].mean(), "best": np.nan, "layer": pd.NA}
            if len(part):
                best = part.loc[part["value"].idxmin() if statistic in DISTANCES else part["value"].idxmax()]
                row |= {"best": best["value"], "layer": best["layer"]}
            rows.append(row)
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class PairwiseSimilarity(Result):
    """Similarity of each language with each other: position, layer, language, other, tier, other_tier, statistic, value, low, high, n, ...

    Both orders of a pair are rows; a language with itself is not. ``null_95`` is one number per position: what permuted
    translations reach anywhere, over all pairs and layers.
    """

    required: ClassVar[tuple[str, ...]] = ("position", "layer", "language", "other", "tier", "statistic", "value", "low", "high", "n", "null_95")

    def matrix(self, *, layer: int, position: str | None = None) -> pd.DataFrame:
        """Return one layer's language x language table (NaN on its diagonal)."""
        known = list(dict.fromkeys(self.table["position"]))
        part = self.table[(self.table["layer"] == layer) & (self.table["position"] == (position or known[0]))]
        if part.empty:
            raise DataError(
                f"Nothing measured at layer {layer}, position {position or known[0]}; measured: {sorted(set(self.table['layer']))}, {known}."
            )
        order = list(dict.fromkeys(part["language"]))
        return part.pivot(index="language", columns="other", values="value").reindex(index=order, columns=order)


def similarity(
    acts: xr.Dataset,
    reference: Sequence[str],
    *,
    split: str | None = "score",
    statistics: Sequence[str] = tuple(STATISTICS),
    positions: Sequence[str] | None = None,
    control: xr.Dataset | None = None,
    permutations: int = 100,
    max_meanings: int = 256,
    n_components: int = 10,
    rng: np.random.Generator | None = None,
) -> Similarity:
    """Measure per position, layer and language how similar its states are to those of the reference languages.

    Parameters
    ----------
    acts : Dataset
        Activations of a complete grid; one layer is read at a time. Labels of harm are not used.
    reference : sequence of str
        Languages compared with, averaged. A language is not compared with itself; a sole reference has value NaN.
    split : str or None
        Meanings measured; None takes all.
    statistics : sequence of str
        Any of mexa, adjusted_cosine, cka, procrustes, principal_angle, p_at_1, p_at_1_uncentred.
    control : Dataset, optional
        The same prompts in the same configuration untrained.
    permutations : int
        Draws of permuted translations; 0 leaves the nulls out.
    max_meanings : int
        More meanings than this are drawn down with ``rng``.
    n_components : int
        Principal components per language for procrustes and principal_angle, at most a quarter of the meanings.
    rng : Generator, optional
        Default ``default_rng(0)``.

    Returns
    -------
    Similarity
        ``low``, ``high``: jackknife over meanings given these languages (a third left out at a time for the two
        statistics on principal components, Wilson's form for shares). ``chance``: what unrelated languages give. ``null_95``: what permuted
        translations (random subspaces for the angle) do as well as or better than in 5 % of draws at their best layer.
        ``control``: the value in the untrained model. ``ceiling``: for the angle, that between two halves of one
        language's meanings. NaN: a language's states are all one constant token, or vary in fewer than
        ``n_components`` directions, or a statistic needs more meanings than there are (see ``provenance``).

    Raises
    ------
    DataError
        Unknown statistic, position, split or reference; missing cells; states that are not finite; a control with other
        prompts or another width.

    References
    ----------
    MEXA, arXiv:2410.05873; semantic hub, arXiv:2411.04986; CKA, arXiv:1905.00414; see the modules mexa, cka, subspaces.
    """
    rng = rng or np.random.default_rng(0)
    known = list(dict.fromkeys(labels_of(acts)["language"]))
    if not reference:
        raise DataError("No reference language given. Expected at least one, for example reference=['en'].")
    for language in reference:
        if language not in known:
            raise DataError(f"Reference language {language!r} is not in these activations; present: {known}.{did_you_mean(language, known)}")
    _check(statistics, permutations)
    cells = complete_cells(acts, split=split, max_meanings=max_meanings, rng=rng)
    draws = _draws(acts, cells, n_components, permutations, rng)
    pairs = [(a, cells.languages.index(r)) for a in range(len(cells.languages)) for r in dict.fromkeys(reference) if cells.languages[a] != r]
    rows: list[dict[str, Any]] = []
    best: dict[tuple[str, str, str], np.ndarray] = {}
    for layer, position, states in each_layer(acts, cells.rows, positions=positions):
        found = Layer(states, statistics, draws).measure(pairs)
        for a, language in enumerate(cells.languages):
            for statistic in statistics:
                one = _averaged(found, statistic, [pair for pair in pairs if pair[0] == a], draws)
                key = position, language, statistic
                best[key] = _nearer(statistic, best.get(key), one.null)
                rows.append(
                    {"position": position, "layer": layer, "language": language, "tier": cells.tiers[language], **_row(statistic, one, cells)}
                )
    table = pd.DataFrame(rows).sort_values(["position", "layer"], kind="stable", ignore_index=True)
    nulls = {key: _extreme(key[2], null, draws) for key, null in best.items()}
    table["null_95"] = [nulls[key] for key in zip(table["position"], table["language"], table["statistic"], strict=True)]
    table.loc[table["value"].isna(), ["chance", "null_95"]] = np.nan
    table["control"] = np.nan
    if control is not None:
        table["control"] = _control(control, acts, cells, pairs, statistics, positions, draws, table)
    return Similarity(
        table,
        _provenance(acts, cells, split, permutations, draws, statistics, reference=list(reference), has_control=control is not None),
    )


def pairwise_similarity(
    acts: xr.Dataset,
    statistic: str,
    *,
    layer: int | Sequence[int] | None = None,
    position: str | Sequence[str] | None = None,
    split: str | None = "score",
    permutations: int = 100,
    max_meanings: int = 256,
    n_components: int = 10,
    rng: np.random.Generator | None = None,
) -> PairwiseSimilarity:
    """Measure one statistic between every two languages, for a language x language map.

    Parameters
    ----------
    acts : Dataset
        Activations of a complete grid; one layer is read at a time.
    statistic : str
        One of those of :func:`similarity`; all are symmetric.
    layer : int or sequence of int, optional
        Default all, which gives the map a slider.
    position : str or sequence of str, optional
        Default all captured.

    Returns
    -------
    PairwiseSimilarity
        ``low``, ``high`` as in :func:`similarity`, per pair; ``chance``; ``null_95``: permuted translations at their
        best over all pairs and layers, one number per position.

    Raises
    ------
    DataError
        Unknown statistic, layer, position or split; missing cells; states that are not finite.
    """
    rng = rng or np.random.default_rng(0)
    _check([statistic], permutations)
    cells = complete_cells(acts, split=split, max_meanings=max_meanings, rng=rng)
    draws = _draws(acts, cells, n_components, permutations, rng)
    places = [position] if isinstance(position, str) else position
    layers = [int(layer)] if isinstance(layer, int | np.integer) else layer
    n_languages = len(cells.languages)
    pairs = [(a, b) for a in range(n_languages) for b in range(a + 1, n_languages)]
    rows: list[dict[str, Any]] = []
    best: dict[str, np.ndarray] = {}
    for k, place, states in each_layer(acts, cells.rows, positions=places, layers=layers):
        found = Layer(states, [statistic], draws).measure(pairs)
        for a, b in pairs:
            one = _averaged(found, statistic, [(a, b)], draws)
            best[place] = _nearer(statistic, best.get(place), one.null)
            for x, y in ((a, b), (b, a)):
                language, other = cells.languages[x], cells.languages[y]
                tiers = {"tier": cells.tiers[language], "other_tier": cells.tiers[other]}
                rows.append({"position": place, "layer": k, "language": language, "other": other, **tiers, **_row(statistic, one, cells)})
    table = pd.DataFrame(rows)
    order = {language: i for i, language in enumerate(cells.languages)}
    table = table.sort_values(["position", "layer", "language"], key=lambda c: c.map(order) if c.name == "language" else c, kind="stable")
    table["null_95"] = [_extreme(statistic, best[p], draws) for p in table["position"]]
    table.loc[table["value"].isna(), ["chance", "null_95"]] = np.nan
    return PairwiseSimilarity(table.reset_index(drop=True), _provenance(acts, cells, split, permutations, draws, [statistic]))


def _check(statistics: Sequence[str], permutations: int) -> None:
    for statistic in statistics:
        if statistic not in STATISTICS:
            raise DataError(f"Unknown statistic {statistic!r}; expected any of {list(STATISTICS)}.{did_you_mean(statistic, STATISTICS)}")
    if not statistics or permutations < 0:
        raise DataError(f"Got {len(statistics)} statistics and {permutations} permutations. Expected at least one statistic and 0 or more draws.")


def _draws(acts: xr.Dataset, cells: Cells, n_components: int, permutations: int, rng: np.random.Generator) -> Draws:
    if n_components < 1:
        raise DataError(f"n_components={n_components}: expected at least 1; the default is 10.")
    return Draws.of(cells.rows.shape[1], n_components, permutations, acts.sizes["layer"], acts.sizes["hidden"], rng)


def _averaged(found: dict[tuple[str, int, int], Measured], statistic: str, pairs: Iterable[tuple[int, int]], draws: Draws) -> Measured:
    """Average a statistic over pairs; undefined if any pair is, since the mean over fewer is another quantity."""
    every = [found.get((statistic, a, b)) for a, b in pairs]
    defined = [one for one in every if one is not None]
    if not defined or len(defined) < len(every):
        return Measured(np.nan, np.full(len(draws.folds), np.nan), np.full(len(draws.shuffles), np.nan), np.nan)
    value, chance, ceiling = (float(np.mean([getattr(one, name) for one in defined])) for name in ("value", "chance", "ceiling"))
    return Measured(value, np.mean([one.without for one in defined], axis=0), np.mean([one.null for one in defined], axis=0), chance, ceiling)


def _row(statistic: str, one: Measured, cells: Cells) -> dict[str, Any]:
    n = cells.rows.shape[1]
    if statistic in SHARES:
        low, high = proportion_interval(one.value, one.without)
    else:
        if statistic in FITTED:
            low, high = subset_interval(one.value, one.without, n, n // 3)
        else:
            low, high = (float(v) for v in jackknife_interval(one.value, jackknife_influence(np.asarray(one.value), one.without)))
        least, most = _RANGES[statistic]
        low, high = np.maximum(low, least), np.minimum(high, most)  # NaN stays NaN
    return {
        "statistic": statistic,
        "value": one.value,
        "low": low,
        "high": high,
        "n": n,
        "chance": one.chance,
        "ceiling": one.ceiling,
    }


def _nearer(statistic: str, best: np.ndarray | None, null: np.ndarray) -> np.ndarray:
    """Keep the more similar of two sets of null draws, draw by draw; undefined layers do not count."""
    if best is None:
        return null
    return np.fmin(best, null) if statistic in DISTANCES else np.fmax(best, null)


def _extreme(statistic: str, null: np.ndarray, draws: Draws) -> float:
    """Return what 5 % of the null draws reach."""
    if not len(draws.shuffles):
        return float("nan")
    if statistic == "principal_angle":
        null = draws.angles.min(axis=1)
    return -float(max_quantile(-null)) if statistic in DISTANCES else float(max_quantile(null))


def _control(
    control: xr.Dataset,
    acts: xr.Dataset,
    cells: Cells,
    pairs: list[tuple[int, int]],
    statistics: Sequence[str],
    positions: Sequence[str] | None,
    draws: Draws,
    table: pd.DataFrame,
) -> list[float]:
    """Return the untrained model's value at the place of each row (NaN where it was not captured)."""
    if control.sizes["hidden"] != acts.sizes["hidden"]:
        raise DataError(
            f"The control is {control.sizes['hidden']} wide, the model {acts.sizes['hidden']}. Expected the same configuration untrained; "
            "capture it with untrained weights of this model."
        )
    rows = _same_rows(control, cells)
    shared = [p for p in positions_of(acts, positions) if p in {str(q) for q in control["position"].values}]
    layers = [k for k in acts["layer"].values.tolist() if k in control["layer"].values]
    values: dict[tuple[str, int, str, str], float] = {}
    only = draws.values_only()
    for layer, position, states in each_layer(control, rows, positions=shared, layers=layers):
        found = Layer(states, statistics, only).measure(pairs)
        for a, language in enumerate(cells.languages):
            for statistic in statistics:
                one = _averaged(found, statistic, [pair for pair in pairs if pair[0] == a], only)
                values[position, layer, language, statistic] = one.value
    keys = zip(table["position"], table["layer"], table["language"], table["statistic"], strict=True)
    return [values.get(key, np.nan) for key in keys]


def _same_rows(control: xr.Dataset, cells: Cells) -> Int[np.ndarray, "language meaning"]:
    """Find the rows of the same prompts in another store."""
    labels = labels_of(control)
    at = {(language, meaning): row for row, (language, meaning) in enumerate(zip(labels["language"], labels["meaning_id"], strict=True))}
    if len(at) < len(labels):
        raise DataError(f"The control holds {len(labels) - len(at)} prompts twice. Expected one per language and meaning; drop the copies.")
    missing = [(language, meaning) for language in cells.languages for meaning in cells.meanings if (language, meaning) not in at]
    if missing:
        named = ", ".join(f"({language}, {meaning})" for language, meaning in missing[:3])
        raise DataError(
            f"The control lacks {len(missing)} of {cells.rows.size} prompts (language, meaning): {named}. "
            "Expected the same prompts in the untrained model; capture it with the same grid."
        )
    return np.array([[at[language, meaning] for meaning in cells.meanings] for language in cells.languages])


def _provenance(
    acts: xr.Dataset, cells: Cells, split: str | None, permutations: int, draws: Draws, statistics: Sequence[str], **more: Any
) -> dict[str, Any]:
    n = cells.rows.shape[1]
    return provenance_of(
        acts,
        split=split,
        languages=cells.languages,
        statistics=list(statistics),
        n_meanings=n,
        permutations=permutations,
        n_components=draws.n_components,
        folds=FOLDS,
        interval=f"jackknife over meanings; procrustes and principal_angle: a third left out, {SUBSETS} times",
        null="permuted translations, best layer; principal_angle: random subspaces",
        too_few_meanings={s: f"needs {STATISTICS[s]}" for s in statistics if n < STATISTICS[s]},
        **more,
    )
