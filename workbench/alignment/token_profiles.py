"""How token weights run along a reply: mean and quartiles over replies by place in the reply, per tier and class of prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from workbench.results import Result

#: What is told of a token: the parts of its weight, and what the weight multiplies.
PARTS = ("teacher", "student", "weight", "divergence")


@dataclass(frozen=True)
class TokenProfiles(Result):
    """One row per tier, class, place in the reply and part.

    Columns: ``tier`` ("unknown" where a language has none), ``harmful``, ``token_index`` (0 is the first token of the reply), ``part`` (teacher,
    student, weight, divergence), ``value`` (mean over replies), ``quarter``, ``three_quarters`` (quartiles over replies: a spread, no interval),
    ``n`` (replies that are as long).
    """

    required: ClassVar[tuple[str, ...]] = ("tier", "harmful", "token_index", "part", "value", "quarter", "three_quarters", "n")


def token_profiles(weights: Result | pd.DataFrame) -> TokenProfiles:
    """Summarise the weights of replies by place in the reply.

    Parameters
    ----------
    weights : Result or DataFrame
        ``prompt_id, tier, harmful, token_index, teacher, student, weight, divergence``, a row per token.

    Returns
    -------
    TokenProfiles
        A place is summarised over the replies that reach it, so that later places rest on fewer, longer ones.
    """
    table = Result(weights if isinstance(weights, pd.DataFrame) else weights.table).table
    parts = [part for part in PARTS if part in table]
    keys = ["tier", "harmful", "token_index"]
    long = table.assign(tier=table["tier"].astype(object).where(table["tier"].notna(), "unknown")).melt(keys, parts, "part")
    by = long.dropna(subset="value").groupby([*keys, "part"], sort=True)["value"]
    found = pd.DataFrame({"value": by.mean(), "quarter": by.quantile(0.25), "three_quarters": by.quantile(0.75), "n": by.count()}).reset_index()
    return TokenProfiles(found[list(TokenProfiles.required)])


__all__ = ["PARTS", "TokenProfiles", "token_profiles"]
