"""The layer that LASA's published rule picks, and what its authors report beside it: for comparison with the paper.

The rule (arXiv:2604.12710, ``select_best_layer.py`` and ``analyze_layer_clustering.py`` at b792792): the first ten queries
that exist in at least two of the chosen languages; the last token of the raw text; unit norm; cosine distance; for each
layer from 1 on, silhouette with query labels minus silhouette with language labels; the first layer with the largest
difference wins.

There is no interval and no null here, and the rule names a layer in pure noise as well. For a verdict use
:func:`workbench.geometry.find_bottleneck`.

Where this differs from the release
-----------------------------------
* A layer that cannot be scored (a state that is not finite, or of norm zero) is left out with its reason. In the release
  its difference is 0, which wins whenever every other layer is below 0.
* One language, or one query, is refused; the release scores 0 in every layer and names the first one.
* The state of the last layer is taken before the final norm (the release: after it), see docs/hooks-and-layers.md.
* Similarities of different labels are means over all pairs; ``cross_pairs=10_000`` samples them as the release does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int

from workbench.errors import DataError
from workbench.geometry.cells import each_layer, labels_of, positions_of, provenance_of, rows_of
from workbench.geometry.distances import cosine_distances, label_silhouette
from workbench.results import Result

TOP = 5
_SCORES = ("silhouette_language", "silhouette_query", "difference", "language_gap", "query_gap", "dominance")


@dataclass(frozen=True)
class LasaLayers(Result):
    """One row per layer from 1 on: the two silhouettes, their difference and rank (1 is the layer chosen), and the gaps.

    ``language_gap`` and ``query_gap`` are mean cosine of pairs with the same label minus mean cosine of pairs with
    different ones (-2 to 2, expected 0 for labels without meaning); ``dominance`` is the first minus the second. ``reason``
    says why a layer has no values.
    """

    required: ClassVar[tuple[str, ...]] = ("layer", *_SCORES, "rank", "n_points", "reason")

    @property
    def best_layer(self) -> int:
        """The layer with the largest difference, the first of equals."""
        return self.top[0]

    @property
    def top(self) -> list[int]:
        """Up to five layers by difference, the best first."""
        ranked = self.table[self.table["rank"].notna()].sort_values("rank")
        return [int(layer) for layer in ranked["layer"].head(TOP)]

    @property
    def by_language_at_the_ends_only(self) -> bool:
        """Whether language dominates at the first and last layer and queries at the middle one: the authors' hypothesis."""
        dominance = self.table["dominance"].to_numpy()
        first, middle, last = dominance[0], dominance[len(dominance) // 2], dominance[-1]
        return bool(first > 0 and last > 0 and middle < 0)

    def summary(self) -> pd.DataFrame:
        """Return the top five layers."""
        return self.table[self.table["rank"] <= TOP].sort_values("rank")


class Chooser(Protocol):
    """What sampling pairs needs: ``default_rng(0)``, or ``RandomState(0)`` for the release's own pairs."""

    def choice(self, a: int, size: int, replace: bool) -> np.ndarray:
        """Draw ``size`` of ``range(a)``."""


def select_queries(labels: pd.DataFrame, n_queries: int, languages: Sequence[str] | None = None) -> Int[np.ndarray, " row"]:
    """Return the rows of the first queries, in order of first appearance, that exist in at least two of the languages.

    The grid need not be complete: a query is kept in whichever of the languages it has.

    Raises
    ------
    DataError
        Fewer than two languages or two such queries; an unknown language.
    """
    kept = rows_of(labels, languages=languages)
    part = labels.iloc[kept]
    spoken = part.groupby("meaning_id", sort=False)["language"].nunique()
    queries = spoken.index[spoken >= 2][:n_queries]
    chosen = part["meaning_id"].isin(queries).to_numpy()
    n_languages = part.loc[chosen, "language"].nunique()
    if len(queries) < 2 or n_languages < 2:
        raise DataError(
            f"{len(queries)} queries exist in two or more of the languages {list(dict.fromkeys(part['language']))}. Expected at least two queries "
            "(n_queries) in two languages: the rule compares queries with languages."
        )
    return kept[chosen]


def label_gap(
    cosines: Float[np.ndarray, "row row"], labels: Sequence[object] | np.ndarray, *, cross_pairs: int | None = None, rng: Chooser | None = None
) -> float:
    """Return the mean cosine of pairs with the same label minus that of pairs with different labels.

    Parameters
    ----------
    cross_pairs : int, optional
        Sample at most so many pairs, repeats allowed, and average those with different labels, as the release does;
        None takes all pairs.
    rng : Generator or RandomState
        For ``cross_pairs``.

    Returns
    -------
    float
        NaN where all labels are equal, or none.
    """
    codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]
    n = len(codes)
    alike = codes[:, None] == codes
    within = cosines[alike & ~np.eye(n, dtype=bool)]
    if cross_pairs is None:
        across = cosines[~alike]
    else:
        chooser = rng or np.random.default_rng(0)
        drawn = np.array([chooser.choice(n, 2, replace=False) for _ in range(min(cross_pairs, n * (n - 1) // 2))])
        across = cosines[drawn[:, 0], drawn[:, 1]][codes[drawn[:, 0]] != codes[drawn[:, 1]]]
    return float(within.mean() - across.mean()) if len(within) and len(across) else float("nan")


def score_layer(
    states: Float[np.ndarray, "row hidden"],
    languages: Sequence[object] | np.ndarray,
    queries: Sequence[object] | np.ndarray,
    *,
    cross_pairs: int | None = None,
    rng: Chooser | None = None,
) -> dict[str, float]:
    """Return one layer's two silhouettes, their difference, the two gaps and the dominance.

    Raises
    ------
    DataError
        States that are not finite or of norm zero; one label, or as many as rows.
    """
    if not np.isfinite(states).all():
        bad = ~np.isfinite(states).all(axis=1)
        raise DataError(f"{int(bad.sum())} of {len(states)} states are not finite. Expected finite numbers; capture them again in float32.")
    distances = cosine_distances(states)
    by_language, by_query = label_silhouette(distances, languages), label_silhouette(distances, queries)
    gaps = [label_gap(1 - distances, labels, cross_pairs=cross_pairs, rng=rng) for labels in (languages, queries)]
    return dict(zip(_SCORES, (by_language, by_query, by_query - by_language, *gaps, gaps[0] - gaps[1]), strict=True))


def lasa_layers(
    acts: xr.Dataset,
    *,
    n_queries: int = 10,
    languages: Sequence[str] | None = None,
    position: str = "t_post_inst",
    cross_pairs: int | None = None,
    rng: Chooser | None = None,
) -> LasaLayers:
    """Rank the layers by LASA's published rule; prompts are taken in the order of the store.

    Parameters
    ----------
    acts : Dataset
        Activations (prompt, layer, position, hidden), which may be incomplete. To follow the paper: harmful prompts only
        (``acts.isel(prompt=acts["harmful"].values)``), captured from ``load_model(..., template="raw")``, and all layers.
    n_queries : int
        Meanings taken; fewer if there are fewer.
    languages : sequence of str, optional
        Default all. The release's script: en zh ar ko vi th it; its README: all ten.
    position : str
        The last token that the model reads is ``"t_post_inst"`` in every template; with raw text it is also
        ``"t_inst"``, unless the tokenizer ends a text with a token of its own.
    cross_pairs, rng : int, Generator or RandomState, optional
        Sample pairs with different labels, see :func:`label_gap`.

    Returns
    -------
    LasaLayers
        ``provenance["differs"]`` lists in which respects the store is not what the paper reads.

    Raises
    ------
    DataError
        Fewer than two languages or queries; no layer that can be scored; a position or language that is not there.

    References
    ----------
    LASA, arXiv:2604.12710, stage 1.
    """
    labels = labels_of(acts)
    positions_of(acts, [position])
    rows = select_queries(labels, n_queries, languages)
    part = labels.iloc[rows]
    spoken, queries = part["language"].to_numpy(), part["meaning_id"].to_numpy()
    found: list[dict[str, Any]] = []
    for layer in [int(k) for k in acts["layer"].values if k > 0]:
        scores: dict[str, Any] = {**dict.fromkeys(_SCORES, np.nan), "reason": ""}
        try:
            (_, _, states) = next(each_layer(acts, rows, positions=[position], layers=[layer]))
            scores |= score_layer(states, spoken, queries, cross_pairs=cross_pairs, rng=rng)
        except DataError as unusable:
            scores["reason"] = str(unusable)
        found.append({"layer": layer, **scores, "n_points": len(rows)})
    if not found or all(row["reason"] for row in found):
        why = found[0]["reason"] if found else f"captured: {acts['layer'].values.tolist()}"
        raise DataError(f"No layer from 1 on can be scored ({why}) Expected at least one; capture all layers.")
    table = pd.DataFrame(found)
    table["rank"] = (-table["difference"]).rank(method="first")
    return LasaLayers(
        table,
        provenance_of(
            acts,
            position=position,
            languages=list(dict.fromkeys(spoken)),
            queries=list(dict.fromkeys(queries)),
            n_queries=len(set(queries)),
            n_points=len(rows),
            cross_pairs=cross_pairs,
            differs=_differences(acts, part, position),
        ),
    )


def _differences(acts: xr.Dataset, part: pd.DataFrame, position: str) -> list[str]:
    """Say in which respects this is not what the paper reads."""
    said = ["the last layer is taken before the final norm"]
    if acts.attrs.get("template_kind", "raw") != "raw":
        said.append(f"template {acts.attrs['template_kind']!r} instead of the raw text")
    if position not in ("t_post_inst", "t_inst"):
        said.append(f"position {position} instead of the last token")
    if not part["harmful"].all():
        said.append("harmless prompts among the queries")
    return said
