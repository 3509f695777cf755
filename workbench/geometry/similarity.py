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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Int
from threadpoolctl import threadpool_limits

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import Cells, complete_cells, each_layer, labels_of, positions_of
from workbench.geometry.pairs import DISTANCES, STATISTICS, Draws, Layer
from workbench.geometry.similarity_rows import averaged, check_statistics, draws_for, extreme, nearer, provenance_with, row_of
from workbench.results import Result


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


# products of many small matrices: BLAS threads would spend four times the work on waiting for each other
@threadpool_limits.wrap(limits=1, user_api="blas")
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
    reference = [reference] if isinstance(reference, str) else reference
    known = list(dict.fromkeys(labels_of(acts)["language"]))
    if not reference:
        raise DataError("No reference language given. Expected at least one, for example reference=['en'].")
    for language in reference:
        if language not in known:
            raise DataError(f"Reference language {language!r} is not in these activations; present: {known}.{did_you_mean(language, known)}")
    check_statistics(statistics, permutations)
    cells = complete_cells(acts, split=split, max_meanings=max_meanings, rng=rng)
    draws = draws_for(acts, cells, n_components, permutations, rng)
    pairs = [(a, cells.languages.index(r)) for a in range(len(cells.languages)) for r in dict.fromkeys(reference) if cells.languages[a] != r]
    rows: list[dict[str, Any]] = []
    best: dict[tuple[str, str, str], np.ndarray] = {}
    for layer, position, states in each_layer(acts, cells.rows, positions=positions):
        found = Layer(states, statistics, draws).measure(pairs)
        for a, language in enumerate(cells.languages):
            for statistic in statistics:
                one = averaged(found, statistic, [pair for pair in pairs if pair[0] == a], draws)
                key = position, language, statistic
                best[key] = nearer(statistic, best.get(key), one.null)
                rows.append(
                    {"position": position, "layer": layer, "language": language, "tier": cells.tiers[language], **row_of(statistic, one, cells)}
                )
    table = pd.DataFrame(rows).sort_values(["position", "layer"], kind="stable", ignore_index=True)
    nulls = {key: extreme(key[2], null, draws) for key, null in best.items()}
    table["null_95"] = [nulls[key] for key in zip(table["position"], table["language"], table["statistic"], strict=True)]
    table.loc[table["value"].isna(), ["chance", "null_95"]] = np.nan
    table["control"] = np.nan
    if control is not None:
        table["control"] = _control(control, acts, cells, pairs, statistics, positions, draws, table)
    return Similarity(
        table,
        provenance_with(acts, cells, split, permutations, draws, statistics, reference=list(reference), has_control=control is not None),
    )


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
                one = averaged(found, statistic, [pair for pair in pairs if pair[0] == a], only)
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
