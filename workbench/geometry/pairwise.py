"""Each language against each other by one statistic, for a language x language map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from threadpoolctl import threadpool_limits

from workbench.errors import DataError
from workbench.geometry.cells import complete_cells, each_layer
from workbench.geometry.pairs import Layer
from workbench.geometry.similarity_rows import averaged, check_statistics, draws_for, extreme, nearer, provenance_with, row_of
from workbench.results import Result


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


# products of many small matrices: BLAS threads would spend four times the work on waiting for each other
@threadpool_limits.wrap(limits=1, user_api="blas")
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
        One of those of :func:`workbench.geometry.similarity`; all are symmetric.
    layer : int or sequence of int, optional
        Default all, which gives the map a slider.
    position : str or sequence of str, optional
        Default all captured.

    Returns
    -------
    PairwiseSimilarity
        ``low``, ``high`` as for one language, per pair; ``chance``; ``null_95``: permuted translations at their
        best over all pairs and layers, one number per position.

    Raises
    ------
    DataError
        Unknown statistic, layer, position or split; missing cells; states that are not finite.
    """
    rng = rng or np.random.default_rng(0)
    check_statistics([statistic], permutations)
    cells = complete_cells(acts, split=split, max_meanings=max_meanings, rng=rng)
    draws = draws_for(acts, cells, n_components, permutations, rng)
    places = [position] if isinstance(position, str) else position
    layers = [int(layer)] if isinstance(layer, int | np.integer) else layer
    n_languages = len(cells.languages)
    pairs = [(a, b) for a in range(n_languages) for b in range(a + 1, n_languages)]
    rows: list[dict[str, Any]] = []
    best: dict[str, np.ndarray] = {}
    for k, place, states in each_layer(acts, cells.rows, positions=places, layers=layers):
        found = Layer(states, [statistic], draws).measure(pairs)
        for a, b in pairs:
            one = averaged(found, statistic, [(a, b)], draws)
            best[place] = nearer(statistic, best.get(place), one.null)
            for x, y in ((a, b), (b, a)):
                language, other = cells.languages[x], cells.languages[y]
                tiers = {"tier": cells.tiers[language], "other_tier": cells.tiers[other]}
                rows.append({"position": place, "layer": k, "language": language, "other": other, **tiers, **row_of(statistic, one, cells)})
    table = pd.DataFrame(rows)
    order = {language: i for i, language in enumerate(cells.languages)}
    table = table.sort_values(["position", "layer", "language"], key=lambda c: c.map(order) if c.name == "language" else c, kind="stable")
    table["null_95"] = [extreme(statistic, best[p], draws) for p in table["position"]]
    table.loc[table["value"].isna(), ["chance", "null_95"]] = np.nan
    return PairwiseSimilarity(table.reset_index(drop=True), provenance_with(acts, cells, split, permutations, draws, [statistic]))
