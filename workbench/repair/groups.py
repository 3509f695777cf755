"""Which languages are averaged together: those of a tier that are repaired, apart from those that a repair was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

#: The tier of languages that have none, and the mean over reference languages that share a tier with languages that are repaired.
UNKNOWN, REFERENCE = "unknown", "mean reference"


def language_groups(tiers: Mapping[str, str], reference: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Part the languages by tier, and reference languages from the others.

    Parameters
    ----------
    tiers : mapping of tag to tier
    reference : sequence of str
        Languages that the methods were made from.

    Returns
    -------
    dict of str to tuple of str
        "mean TIER" over the other languages of a tier; reference languages are "mean TIER" where no other language shares that tier, and
        "mean reference" where one does.
    """
    repaired = {tier for tag, tier in tiers.items() if tag not in reference}
    found: dict[str, tuple[str, ...]] = {}
    for tag, tier in tiers.items():
        group = REFERENCE if tag in reference and tier in repaired else f"mean {tier}"
        found[group] = (*found.get(group, ()), tag)
    return found


def known_mean(values: Float[np.ndarray, "language ..."]) -> Float[np.ndarray, " ..."]:
    """Mean over the first axis without NaN; NaN where there is nothing else."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
