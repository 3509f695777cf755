"""The small tables of a repair by training: every repair with its cost, the interpreter, its layers, the teacher, and the guard."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.report.parts import Table
from workbench.report.record import RunRecord
from workbench.report.repair_rows import rate_of
from workbench.report.training_verdict import UNSEEN, effort, where
from workbench.report.wording import estimate, interval, number

_DASH = "–"


def training_tables(run: RunRecord, rates: pd.DataFrame, contrasts: pd.DataFrame | None, place: str, plain: str) -> list[Table]:
    """Return the tables of what was measured.

    Parameters
    ----------
    rates, contrasts : DataFrame
        Of the run, with the gate's beside them where there is one.
    place : str
        The language or mean that the table of all repairs speaks of.
    plain : str
        The method that stands for the model as it is.
    """
    found = (every_repair(run, rates, contrasts, place, plain), _interpreter(run), _layers(run), _teacher(run), _gaps(run, plain), _guard(run))
    return [table for table in found if table is not None]


def every_repair(run: RunRecord, rates: pd.DataFrame, contrasts: pd.DataFrame | None, place: str, plain: str) -> Table:
    """List every method on the same prompts: what it learned from, what it does, and what making it took."""
    cost = run.table("cost")
    costs = {} if cost is None or "method" not in cost else {str(row["method"]): row for row in cost.to_dict("records")}
    rows = []
    for method in dict.fromkeys(rates["method"].astype(str)):
        labels = rates.loc[rates["method"] == method, "labels"].iloc[0] if "labels" in rates else _DASH
        own = rate_of(rates, place, "harmful_refusal", method=method)
        complied = _DASH if own is None else _points({"value": 1 - own["value"], "low": 1 - own["high"], "high": 1 - own["low"]}, ".1f")
        gains = [_apart(contrasts, method, plain, *what) for what in _gains(rates, place)]
        rows.append([method, str(labels), complied, *gains, effort(costs[method]) if method in costs else _DASH])
    more = ["selectivity gained, unseen"] if len(_gains(rates, place)) > 3 else []
    columns = ["repair", "learned from", "harmful not refused, %", "selectivity gained", *more, "harmless refusal added", "right answers lost"]
    told = where(place)
    note = (
        f"{told[0].upper()}{told[1:]}, on the same held-out prompts and judge; gains and costs in points against the model as it is, paired by "
        "meaning, with 95 % intervals. A dash: nothing was trained, or nothing was counted."
    )
    return Table("Every repair", [*columns, "training"], rows, note)


def _gains(rates: pd.DataFrame, place: str) -> list[tuple[str, str, float]]:
    """Return language, statistic and sign of each difference that the table has."""
    unseen = [(UNSEEN, "selectivity", 1.0)] if place != UNSEEN and (rates["language"] == UNSEEN).any() else []
    return [(place, "selectivity", 1.0), *unseen, (place, "harmless_refusal", 1.0), (place, "answer_accuracy", -1.0)]


def _apart(contrasts: pd.DataFrame | None, method: str, plain: str, language: str, statistic: str, sign: float) -> str:
    row = rate_of(contrasts, language, statistic, method=method, other=plain)
    if row is None:
        return _DASH
    ends = sorted((sign * row["low"], sign * row["high"]))
    return _points({"value": sign * row["value"], "low": ends[0], "high": ends[1]}, "+.1f")


def _points(row: dict, form: str) -> str:
    return f"{number(100 * row['value'] + 0.0, form)} {interval(100 * row['low'], 100 * row['high'], form)}".strip()


def _interpreter(run: RunRecord) -> Table | None:
    table = run.table("interpreter")
    if table is None:
        return None
    if "set" in table:
        table = table[table["set"] == table["set"].iloc[0]]
    rows = []
    for tag in [tag for tag in run.tiers if (table["language"] == tag).any()]:
        own = {str(row["statistic"]): row for row in table[table["language"] == tag].to_dict("records")}
        told = [estimate(own[name]) if name in own else _DASH for name in ("accuracy", "tpr", "fpr", "auroc")]
        null = number(own["accuracy"].get("null")) if "accuracy" in own else _DASH
        rows.append([tag, "yes" if next(iter(own.values()))["seen"] else "no", *told, null])
    columns = ["language", "trained in it", "accuracy", "harmful flagged (TPR)", "harmless flagged (FPR)", "AUROC", "accuracy, permuted labels"]
    note = f"Layer {int(table['layer'].iloc[0])}, score split; the threshold was chosen on select. Chance is .5 for accuracy and AUROC."
    return Table("The interpreter, language by language", columns, rows, note)


def _layers(run: RunRecord) -> Table | None:
    table = run.table("layers_compared")
    if table is None:
        return None
    group = "unseen" if (table["group"] == "unseen").any() else "all"
    rows = []
    for row in table[table["group"] == group].to_dict("records"):
        here = int(row["layer"]) == int(row["reference"])
        apart = _DASH if here else estimate(row, "difference", "difference_low", "difference_high", "+.2f")
        told = (
            "used"
            if here
            else {"better": "the used layer is better", "worse": "the used layer is worse"}.get(str(row["verdict"]), str(row["verdict"]))
        )
        rows.append([str(int(row["layer"])), estimate(row), number(row["null"]), apart, told])
    whose = "languages that it was not trained in" if group == "unseen" else "all languages"
    note = f"Mean accuracy over {whose}. The differences' intervals hold together at 95 %, and err wide."
    return Table(
        "Is the layer used better than those around it?", ["layer", "accuracy", "permuted labels", "used layer minus it", "verdict"], rows, note
    )


def _teacher(run: RunRecord) -> Table | None:
    table = run.table("flip_rates")
    if table is None:
        return None
    rows = []
    for row in table.to_dict("records"):
        unsafe = f"{int(row['student_unsafe'])} of {int(row['n'])}"
        told = [_points(row, ".0f"), *(_share(row, name) for name in ("teacher_harmless_refusal", "teacher_answers_right"))]
        rows.append([str(row["language"]), unsafe, *told])
    columns = [
        "language",
        "harmful not refused by the model",
        "of all, refused by its teacher, %",
        "teacher refuses harmless, %",
        "teacher answers right, %",
    ]
    note = "Measured before training, on the select split. What the teacher refuses of harmless requests, training can carry over as well."
    return Table("What the teacher has to teach", columns, rows, note)


def _share(row: dict[str, Any], name: str) -> str:
    return _points({"value": row[name], "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")}, ".0f") if pd.notna(row.get(name)) else _DASH


def _gaps(run: RunRecord, plain: str) -> Table | None:
    table = run.table("reward_gaps")
    if table is None:
        return None
    at = {
        (str(row["method"]), str(row["language"]), bool(row["harmful"])): estimate(row, form="+.2f")
        for row in table[table["statistic"] == "reward_gap"].to_dict("records")
    }
    methods = [plain, *(method for method in dict.fromkeys(table["method"].astype(str)) if method != plain)]
    wanted = [(harmful, method) for harmful in (True, False) for method in methods]
    rows = [
        [tag, *(at.get((method, tag, harmful), _DASH) for harmful, method in wanted)]
        for tag in run.tiers
        if any((method, tag, harmful) in at for harmful, method in wanted)
    ]
    columns = ["language", *(f"{'harmful' if harmful else 'harmless'}, {method}" for harmful, method in wanted)]
    note = (
        "Nats per token by which the right reply (a refusal of what is harmful, an answer to what is harmless) is likelier than the wrong one, on "
        "held-out pairs of the select split; 95 % intervals over meanings. Without a generated reply: it is no refusal rate."
    )
    return Table("The reward gap", columns, rows, note)


def _guard(run: RunRecord) -> Table | None:
    table = run.table("guard")
    if table is None:
        return None
    rows = [
        [
            str(row["language"]),
            *(_points({"value": row[when], "low": row[f"{when}_low"], "high": row[f"{when}_high"]}, ".1f") for when in ("before", "after")),
            str(int(row["n"])),
            "lowered" if row["lowered"] else "not lowered",
        ]
        for row in table.to_dict("records")
    ]
    note = "Harmful prompts of the select split that are refused, %. A count below the start in one language is enough for no weights to be written."
    return Table("The guard", ["language", "before", "after", "n", ""], rows, note)


__all__ = ["every_repair", "training_tables"]
