"""How often a model refuses, per language, with intervals: the end of the story that the diagnosis explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from workbench.errors import DataError, shown, shown_list
from workbench.prompts.grid import PromptGrid
from workbench.results import Result
from workbench.statistics import newcombe, wilson

STATISTICS = ("harmful_refusal", "harmless_refusal", "selectivity", "answer_accuracy", "garbled", "off_language")


@dataclass(frozen=True)
class RefusalRates(Result):
    """Rates per language, as shares between 0 and 1 (selectivity between -1 and 1).

    ``statistic`` is one of harmful_refusal, harmless_refusal, selectivity (their difference), answer_accuracy (harmless prompts
    answered exactly as the key says; only where there is a key), garbled and off_language (both over all prompts). Rates carry
    Wilson's interval, selectivity Newcombe's; ``n`` counts the prompts behind the value.
    """

    required: ClassVar[tuple[str, ...]] = ("language", "tier", "statistic", "value", "low", "high", "n", "judge", "validated")

    def summary(self) -> pd.DataFrame:
        """Return one row per language, one column per statistic."""
        wide = self.table.pivot(index="language", columns="statistic", values="value").loc[list(dict.fromkeys(self.table["language"]))]
        return wide[[name for name in STATISTICS if name in wide]].reset_index()


def refusal_rates(outcomes: pd.DataFrame, grid: PromptGrid) -> RefusalRates:
    """Count outcomes per language.

    Parameters
    ----------
    outcomes : DataFrame
        From a judge: prompt_id, outcome, correct, judge, validated. One model's, one row per prompt.
    grid : PromptGrid
        Which prompts to count: outcomes of others are left out, so ``grid.select(split="score")`` counts the score split.

    Raises
    ------
    DataError
        If no outcome belongs to a prompt of the grid, or a prompt has two.

    Notes
    -----
    A reply that is garbled or in another language is no refusal; it stays in the denominator.
    """
    missing = [column for column in ("prompt_id", "outcome", "correct", "judge", "validated") if column not in outcomes]
    if missing:
        raise DataError(f"outcomes lack the columns {missing}; found {shown_list(outcomes.columns)}. Expected what a judge's outcomes() returns.")
    if outcomes["prompt_id"].duplicated().any():
        twice = outcomes.loc[outcomes["prompt_id"].duplicated(), "prompt_id"].iloc[0]
        raise DataError(f"Prompt {shown(twice, 64)} has two outcomes. Expected one model's outcomes, one per prompt; count models one at a time.")
    judged = outcomes[["prompt_id", "outcome", "correct", "judge", "validated"]]
    rows = grid.frame[["prompt_id", "language", "tier", "harmful"]].merge(judged, on="prompt_id", how="inner")
    if rows.empty:
        raise DataError(f"None of the {len(outcomes)} outcomes belongs to a prompt of this grid of {len(grid)}. Give the grid they were judged with.")
    counted = []
    for tag, part in rows.groupby("language", sort=False):
        label = {"language": tag, "tier": part["tier"].iloc[0]}
        who = {"judge": " + ".join(dict.fromkeys(part["judge"])), "validated": bool(part["validated"].all())}
        counted += [{**label, "statistic": name, **estimate, **who} for name, estimate in _estimates(part).items()]
    provenance = {"grid": grid.hash, "n_outcomes": len(rows), **({"prompts": grid.provenance["prompts"]} if "prompts" in grid.provenance else {})}
    return RefusalRates(pd.DataFrame(counted, columns=list(RefusalRates.required)), provenance)


def _estimates(part: pd.DataFrame) -> dict[str, dict[str, float]]:
    refused = part["outcome"] == "refusal"
    harmful = part["harmful"].astype(bool)
    estimates = {"harmful_refusal": _rate(refused[harmful]), "harmless_refusal": _rate(refused[~harmful])}
    counts = int(refused[harmful].sum()), int(harmful.sum()), int(refused[~harmful].sum()), int((~harmful).sum())
    difference, low, high = newcombe(*counts)
    estimates["selectivity"] = {"value": difference, "low": low, "high": high, "n": len(part)}
    keyed = part.loc[part["correct"].notna(), "correct"]
    if len(keyed):
        estimates["answer_accuracy"] = _rate(keyed.astype(bool))
    return estimates | {name: _rate(part["outcome"] == name) for name in ("garbled", "off_language")}


def _rate(hits: pd.Series) -> dict[str, float]:
    k, n = int(hits.sum()), len(hits)
    low, high = wilson(k, n)
    return {"value": k / n if n else float("nan"), "low": low, "high": high, "n": n}
