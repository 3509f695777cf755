"""Which languages' classes moved apart between two models, and whether the tuned languages' moved further.

Everything here is paired: the same prompts in both models, and meanings that languages share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from workbench.errors import DataError, did_you_mean
from workbench.geometry.paired_intervals import p_of_zero, shared_contributions, weighted_sum
from workbench.geometry.separation_cells import GROUPS
from workbench.results import Result
from workbench.statistics import Estimate, holm

if TYPE_CHECKING:
    from workbench.geometry.separation import Separation

CELL = ["basis", "position", "layer", "statistic"]


@dataclass(frozen=True)
class SeparationChange(Result):
    """After minus before on the same prompts: basis, position, layer, language, tier, statistic, change, low, high, n, p, p_adjusted, defined.

    ``p_adjusted`` is Holm's over the layers and languages of a basis, position and statistic.
    """

    required: ClassVar[tuple[str, ...]] = ("basis", "position", "layer", "language", "tier", "statistic", "change", "low", "high", "n")

    def summary(self) -> pd.DataFrame:
        """Return the last layer."""
        last = self.table[self.table["layer"] == self.table["layer"].max()]
        return last[["basis", "position", "layer", "language", "statistic", "change", "low", "high"]]


@dataclass(frozen=True)
class SeparationContrast(Result):
    """Mean change of some languages minus that of others: basis, position, layer, statistic, contrast, low, high, n, p, p_adjusted, ...

    ``tuned`` and ``others`` name the languages; ``tuned_change`` and ``others_change`` are the two means; ``n`` counts the
    resampling units; ``p_adjusted`` is Holm's over the layers of a basis, position and statistic.
    """

    required: ClassVar[tuple[str, ...]] = ("basis", "position", "layer", "statistic", "contrast", "low", "high", "n")

    def summary(self) -> pd.DataFrame:
        """Return the last layer."""
        last = self.table[self.table["layer"] == self.table["layer"].max()]
        return last[["basis", "position", "layer", "statistic", "tuned_change", "others_change", "contrast", "low", "high"]]


class _Paired:
    """Values, intervals and influence values of a separation with both models, looked up by cell."""

    def __init__(self, source: Separation) -> None:
        influence = source.influence or {}
        columns = ["model", *CELL, "language", "value", "low", "high"]
        self.estimates = {row[:6]: Estimate(*row[6:]) for row in source.table[columns].itertuples(index=False, name=None)}
        after = source.table[source.table["model"] == "after"]
        self.cells = after[[*CELL, "language", "tier", "n", "n_units"]]
        self.units = {language: held["unit"].values for language, held in influence.items()}
        order = ("model", *CELL, "unit")
        self._values = {language: held.transpose(*order).values for language, held in influence.items()}
        some = next(iter(influence.values()))
        self._at = [{value: i for i, value in enumerate(some[name].values.tolist())} for name in order[:-1]]

    def sum(self, cell: tuple[object, ...], weights: dict[tuple[str, str], float]) -> Estimate:
        """Return a weighted sum over (model, language) with its interval."""
        at = [known[value] for known, value in zip(self._at[1:], cell, strict=True)]
        influences = [self._values[language][(self._at[0][model], *at)] for model, language in weights]
        contributions = shared_contributions(influences, [self.units[language] for _, language in weights])
        terms = [self.estimates[(model, *cell, language)] for model, language in weights]
        return weighted_sum(np.array(list(weights.values())), terms, contributions)


def _adjusted(table: pd.DataFrame) -> pd.Series:
    """Holm's p values over all defined rows of a basis, position and statistic."""
    out = pd.Series(np.nan, index=table.index)
    for _, part in table[table["p"].notna()].groupby(["basis", "position", "statistic"]):
        out[part.index] = holm(part["p"].to_numpy())
    return out


def change_of(source: Separation) -> SeparationChange:
    """Subtract the model before from the model after (see :meth:`workbench.geometry.Separation.change`)."""
    columns = [*SeparationChange.required, "p", "p_adjusted", "defined"]
    if not {"before", "after"} <= set(source.table["model"]):
        return SeparationChange(pd.DataFrame(columns=columns), source.provenance)
    paired = _Paired(_in_memory(source))
    rows = []
    for *cell, language, tier, n, n_units in paired.cells.itertuples(index=False, name=None):
        found = paired.sum(tuple(cell), {("after", language): 1.0, ("before", language): -1.0})
        row = dict(zip(CELL, cell, strict=True)) | {"language": language, "tier": tier, "change": found.value, "low": found.low, "high": found.high}
        rows.append(row | {"n": n, "p": p_of_zero(found, min(n_units, GROUPS)), "defined": bool(np.isfinite(found.value))})
    table = pd.DataFrame(rows)
    table["p_adjusted"] = _adjusted(table)
    return SeparationChange(table[columns], source.provenance)


def contrast_of(source: Separation, tuned: Sequence[str], others: Sequence[str]) -> SeparationContrast:
    """Compare the mean changes of two sets of languages (see :meth:`workbench.geometry.Separation.contrast`)."""
    tuned, others = _languages(source, tuned, "tuned"), _languages(source, others, "others")
    both = sorted(set(tuned) & set(others))
    if both:
        raise DataError(f"{both} stand among the tuned languages and among the others. Expected two sets without a common language.")
    if not {"before", "after"} <= set(source.table["model"]):
        raise DataError("This separation has no model before. Expected both; measure separation(after, before).")
    paired = _Paired(_in_memory(source))
    share = {language: 1 / len(tuned) for language in tuned} | {language: -1 / len(others) for language in others}
    n_units = len(np.unique(np.concatenate([paired.units[language] for language in share])))
    rows = []
    for cell in paired.cells[CELL].drop_duplicates().itertuples(index=False, name=None):
        change = {a: paired.estimates[("after", *cell, a)].value - paired.estimates[("before", *cell, a)].value for a in share}
        found = paired.sum(cell, {(model, a): (w if model == "after" else -w) for a, w in share.items() for model in ("after", "before")})
        row = dict(zip(CELL, cell, strict=True)) | {"tuned": ", ".join(tuned), "others": ", ".join(others)}
        row |= {"tuned_change": float(np.mean([change[a] for a in tuned])), "others_change": float(np.mean([change[a] for a in others]))}
        row |= {"contrast": found.value, "low": found.low, "high": found.high, "n": n_units, "p": p_of_zero(found, min(n_units, GROUPS))}
        rows.append(row | {"defined": bool(np.isfinite(found.value))})
    table = pd.DataFrame(rows)
    table["p_adjusted"] = _adjusted(table)
    return SeparationContrast(table, {**source.provenance, "tuned": list(tuned), "others": list(others)})


def _in_memory(source: Separation) -> Separation:
    if source.influence is None:
        raise DataError(
            "This separation was loaded from a file, which keeps the table only. Expected separation(...) of this session, or load the change "
            "and the contrast that were saved beside it."
        )
    return source


def _languages(source: Separation, given: Sequence[str], name: str) -> list[str]:
    known = list(dict.fromkeys(source.table["language"]))
    given = [given] if isinstance(given, str) else list(dict.fromkeys(given))
    if not given:
        raise DataError(f"No language is among {name!r}. Expected at least one of {known}.")
    for language in given:
        if language not in known:
            raise DataError(f"Language {language!r} (among {name!r}) was not measured; present: {known}.{did_you_mean(language, known)}")
    return given
