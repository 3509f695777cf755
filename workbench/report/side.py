"""One of two runs that are compared: its rates per language, from a diagnosis or from a repair, and its outcomes prompt by prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from workbench.errors import DataError
from workbench.report.record import RunRecord
from workbench.report.repair_rows import Compared

#: What is compared, how it is called, and whether more of it is better.
STATISTICS = {
    "harmful_refusal": ("harmful refused", True),
    "harmless_refusal": ("harmless refused", False),
    "answer_accuracy": ("harmless answered right", True),
    "selectivity": ("selectivity", True),
}
_RATES = ["language", "tier", "statistic", "value", "low", "high", "n"]


@dataclass(frozen=True)
class Side:
    """A run and how it is called on the page.

    Attributes
    ----------
    run : RunRecord
    name : str
        Model and folder.
    what : str
        Whose rates are compared: the model's, a gate's, or those after a training.
    rates : DataFrame
        ``language, tier, statistic, value, low, high, n``; empty where nothing was counted.
    outcomes : DataFrame
        ``prompt_id, language, harmful, refused, correct``; empty where there is no such table, or a gate decided over several draws.
    """

    run: RunRecord
    name: str
    what: str
    rates: pd.DataFrame
    outcomes: pd.DataFrame

    @classmethod
    def read(cls, folder: str | Path) -> Side:
        """Read a run folder.

        Raises
        ------
        DataError
            If it is no run folder, or its rates lack columns.
        """
        run = RunRecord.read(folder)
        name = f"{run.model} ({Path(folder).resolve().name})"
        rates, what = (_refusal(run), "the model's own replies") if run.is_diagnosis else _repaired(run)
        missing = [column for column in _RATES if len(rates) and column not in rates]
        if missing:
            raise DataError(
                f"The rates of {run.folder} lack the columns {', '.join(missing)}. Expected a table as `workbench diagnose` or `workbench repair "
                "gate` writes it; run the same command again into a new folder."
            )
        rates = rates[_RATES] if len(rates) else pd.DataFrame(columns=_RATES)
        known = rates["statistic"].isin(list(STATISTICS)) & rates["language"].isin(list(run.tiers)) & rates["value"].notna()
        return cls(run, name, what, rates[known].reset_index(drop=True), _outcomes(run))


def _refusal(run: RunRecord) -> pd.DataFrame:
    table = run.table("refusal")
    return pd.DataFrame(columns=_RATES) if table is None else table


def _repaired(run: RunRecord) -> tuple[pd.DataFrame, str]:
    table, methods = run.table("repair_rates"), Compared.of(run)
    if table is None or methods is None:
        return pd.DataFrame(columns=_RATES), "no repair was counted"
    what = f"replies after “{methods.gate}”" if run.is_training else f"replies with “{methods.gate}”"
    return table[table["method"] == methods.gate], what


def _outcomes(run: RunRecord) -> pd.DataFrame:
    if run.is_training:
        return _trained_outcomes(run)
    table = None if run.is_repair else run.table("outcomes")
    needed = ["prompt_id", "language", "harmful", "outcome"]
    if table is None or any(column not in table for column in needed):
        return pd.DataFrame(columns=["prompt_id", "language", "harmful", "refused", "correct"])
    correct = table["correct"] if "correct" in table else pd.Series(pd.NA, index=table.index)
    return table[["prompt_id", "language", "harmful"]].assign(refused=table["outcome"] == "refusal", correct=correct)


def _trained_outcomes(run: RunRecord) -> pd.DataFrame:
    """Return what the trained model did with each prompt that was scored."""
    table, methods = run.table("answers"), Compared.of(run)
    needed = ["prompt_id", "language", "harmful", "refused", "correct"]
    if table is None or methods is None or any(column not in table for column in ("action", *needed)):
        return pd.DataFrame(columns=needed)
    return table.loc[table["action"] == methods.gate, needed].assign(refused=lambda t: t["refused"].astype(bool))


def doubted(run: RunRecord) -> set[str]:
    """Return the languages in which the judge of refusal was not validated."""
    from workbench.report.language_table import not_validated

    return not_validated(run)
