"""Which prompts a direction points to, and which it points away from.

========== ================================== ====================== ==============================================
contrast   direction                          standard position      asks
========== ================================== ====================== ==============================================
harm       harmful minus harmless             t_inst                 what the model was asked
refusal    refused minus accepted             t_post_inst            what the model then did
========== ================================== ====================== ==============================================

Where every harmful prompt is refused and every harmless one accepted, the two differ by their position only. Any position may
be taken; which one it was stays with the direction. Source: Zhao et al. 2025, arXiv:2507.11878.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Int

from workbench.errors import DataError, did_you_mean, shown
from workbench.geometry.cells import labels_of, rows_of
from workbench.results import Result

STANDARD_POSITION = {"harm": "t_inst", "refusal": "t_post_inst"}
TOWARD = {"harm": "harmful", "refusal": "refusal"}
_CLASSES = {"harm": ("harmful", "harmless"), "refusal": ("refused", "accepted")}
_MEANS = {"refusal": True, "compliance": False, "garbled": None, "off_language": None}


@dataclass(frozen=True)
class Contrast:
    """Two classes of prompts.

    Parameters
    ----------
    name : {"harm", "refusal"}
    refused : mapping, DataFrame or Result, optional
        For "refusal": prompt_id -> refused (bool), or a table of prompt_id with ``refused`` (bool) or ``outcome`` as judges give
        it ("refusal" is refused, "compliance" accepted, "garbled" and "off_language" neither). Prompts that are absent count in
        neither class.
    among : {"harmful", "harmless"}, optional
        Only these prompts. "harmful" holds harm constant, so that refusing is all that tells the classes apart.

    Examples
    --------
    >>> Contrast("refusal", {"p1": True, "p2": False}).toward
    'refusal'
    """

    name: str = "harm"
    refused: Mapping[str, Any] | pd.DataFrame | Result | None = None
    among: str | None = None

    def __post_init__(self) -> None:
        if self.name not in TOWARD:
            raise DataError(f"Unknown contrast {self.name!r}; expected one of {list(TOWARD)}.{did_you_mean(self.name, TOWARD)}")
        if self.name == "refusal" and self.refused is None:
            raise DataError("The contrast 'refusal' needs to know what was refused. Pass Contrast('refusal', outcomes), a judge's table.")
        if self.name == "harm" and (self.refused is not None or self.among is not None):
            raise DataError("The contrast 'harm' takes the labels of the prompts. Expected no refused= and no among=; or did you mean 'refusal'?")
        if self.among not in (None, "harmful", "harmless"):
            raise DataError(f"among={self.among!r}: expected 'harmful', 'harmless' or None.{did_you_mean(self.among, ['harmful', 'harmless'])}")

    @property
    def toward(self) -> str:
        """What the positive class is: "harmful" or "refusal"."""
        return TOWARD[self.name]


class Classes(NamedTuple):
    """Rows of both classes, which of them are positive, their labels, and what to record about them."""

    rows: Int[np.ndarray, " row"]
    positive: Bool[np.ndarray, " row"]
    labels: pd.DataFrame
    recorded: dict[str, Any]


def as_contrast(contrast: Contrast | str) -> Contrast:
    """Return a contrast from its name."""
    return Contrast(contrast) if isinstance(contrast, str) else contrast


def classes_of(acts: xr.Dataset, languages: list[str], contrast: Contrast | str, split: str | None) -> Classes:
    """Find the rows of both classes in some languages.

    Raises
    ------
    DataError
        No language, an unknown one, no such split, or one class only; a table of outcomes that cannot be read.
    """
    contrast = as_contrast(contrast)
    if not len(languages):
        raise DataError("No language given to take the direction from. Expected the high-resource ones; pass languages=['en'].")
    labels = labels_of(acts)
    rows = rows_of(labels, split=split, languages=languages)
    part = labels.iloc[rows].reset_index(drop=True)
    recorded: dict[str, Any] = {"contrast": contrast.name, "toward": contrast.toward, "standard_position": STANDARD_POSITION[contrast.name]}
    if contrast.name == "harm":
        positive = part["harmful"].to_numpy()
    else:
        told = part["prompt_id"].map(refused_of(contrast.refused))
        kept = told.notna().to_numpy()
        recorded |= {"among": contrast.among, "n_without_outcome": int((~kept).sum())}
        if contrast.among is not None:
            kept = kept & (part["harmful"].to_numpy() == (contrast.among == "harmful"))
        rows, part, positive = rows[kept], part[kept].reset_index(drop=True), told[kept].astype(bool).to_numpy()
    first, second = _CLASSES[contrast.name]
    n = int(positive.sum())
    if not n or n == len(positive):
        raise DataError(
            f"All {len(positive)} prompts of {list(languages)} in split {split!r} carry the same label: {n} {first}, {len(positive) - n} {second}. "
            "Expected both classes; add prompts or languages, or judge the replies of this split."
        )
    return Classes(rows, positive, part, recorded | {f"n_{first}": n, f"n_{second}": len(positive) - n})


def refused_of(refused: Mapping[str, Any] | pd.DataFrame | Result | None) -> dict[str, bool]:
    """Return prompt_id -> refused for the prompts that were either refused or accepted.

    Raises
    ------
    DataError
        Missing columns, a prompt with two outcomes, or an outcome that is none.
    """
    table = refused.table if isinstance(refused, Result) else refused
    if isinstance(table, pd.DataFrame):
        column = next((name for name in ("refused", "outcome") if name in table), None)
        if column is None or "prompt_id" not in table:
            raise DataError(f"Cannot tell who was refused from the columns {list(table.columns)}. Expected prompt_id, and refused or outcome.")
        twice = table["prompt_id"].duplicated()
        if twice.any():
            first = shown(table.loc[twice, "prompt_id"].iloc[0], 64)
            raise DataError(f"{int(twice.sum())} prompts, such as {first}, have two outcomes. Expected one each; choose one judge's rows.")
        pairs = iter(dict(zip(table["prompt_id"], table[column], strict=True)).items())
    else:
        pairs = iter(dict(table or {}).items())
    found = {}
    for prompt_id, value in pairs:
        meant = _meant(value)
        if meant is not None:
            found[str(prompt_id)] = meant
    return found


def _meant(value: Any) -> bool | None:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, str) and value in _MEANS:
        return _MEANS[value]
    raise DataError(f"{shown(value)} is no outcome. Expected True or False, or one of {list(_MEANS)}.{did_you_mean(str(value)[:24], _MEANS)}")
