"""All repairs of one model in one table: a page, and the same figures in the terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.report.build import rendered
from workbench.report.drawing import plotted, write_whole
from workbench.report.parts import Figure, Table
from workbench.report.record import RunRecord
from workbench.report.training_verdict import EVERY, duration
from workbench.report.wording import compact, interval, number

if TYPE_CHECKING:
    from workbench.alignment.table import RepairTable

#: Shares as a reader calls them.
NAMES = {
    "attack_success": "harmful not refused",
    "harmless_refusal": "harmless refused",
    "answer_accuracy": "answered right",
    "selectivity": "selectivity",
}
TOLD = (
    "In %, selectivity in points (harmful minus harmless refusal); in brackets 95 % intervals over meanings and draws of examples. Harmful not "
    "refused is attack success, whatever the reply is worth. The gain is the difference in selectivity to the unrepaired model, paired by meaning. "
    "Seen: the weights were trained on text of the language (a gate: fitted with labels of it); which languages these are differs "
    "between repairs. LASA's interpreter may have seen labels of others, and a teacher reads the reference language."
)
NEEDS = (
    "Labelled prompts: their label or reply is learned from; those that choose a strength, a threshold or whether weights are written are not "
    "counted. Parallel queries: a translation stands beside each. A dash: not recorded, or nothing is trained."
)
_DASH = "–"


def repairs_page(table: RepairTable, out: str | Path) -> Path:
    """Write the page: one file that opens offline and fetches nothing.

    Parameters
    ----------
    table : RepairTable
    out : path
        Ends in ``.html``; replaced only once the new page is complete.

    Returns
    -------
    Path
    """
    run, path = RunRecord.read(table.provenance["runs"][0]), Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = {tag: tier for tag, tier in run.tiers.items() if (table.table["language"] == tag).any()}
    page = rendered(
        "repairs.html",
        title=f"Repairs of {run.model}",
        organism=table.provenance["organism"],
        problems=table.provenance["notes"],
        said=said(table),
        tables=[rates_table(table), needs_table(table)],
        figures=_figures(table, list(tags)),
        languages=_by_language(table, tags),
        facts=_facts(table),
        tags=tags,
        run=run,
    )
    write_whole(path, page)
    return path


def said(table: RepairTable) -> list[str]:
    """Say what the means over all languages are, in the order of the runs; nothing is ranked by what is scored."""
    rows = table.table[table.table["language"] == EVERY].set_index("method")
    start = rows.iloc[0]
    before = number(100 * start["attack_success"], ".1f")
    lines = [f"{len(table.methods)} repairs of one model, on the same {int(start['n'])} held-out meanings, by one judge."]
    told = [f"{method} {_share(rows.loc[method], 'attack_success')}" for method in table.methods]
    lines.append(f"Harmful requests that are not refused, in %, mean of all languages: {before} as it is; {'; '.join(told)}.")
    return lines


def rates_table(table: RepairTable) -> Table:
    """Return what every repair does, a row per method and group of languages."""
    rows = []
    for method, part in table.table.groupby("method", sort=False):
        means = part[part["language"].str.startswith("mean ")]
        for i, row in enumerate(means.to_dict("records")):
            gain = _DASH if _missing(row["selectivity_change"]) else _points(row, "selectivity_change", "+.1f")
            name = str(method) if i == 0 else ""
            rows.append([name, row["language"].removeprefix("mean ").replace(" in training", ""), *(_share(row, share) for share in NAMES), gain])
    return Table("What every repair does", ["repair", "mean", *NAMES.values(), "gain"], rows, TOLD)


def needs_table(table: RepairTable) -> Table:
    """Return what making and using every repair takes."""
    rows = []
    for row in table.table[table.table["language"] == EVERY].to_dict("records"):
        if row["kind"] == "model":
            continue
        seconds = _DASH if _missing(row["seconds"]) else duration(row["seconds"])
        counts = (_count(row[name]) for name in ("steps", "tokens", "trained_parameters", "labelled_prompts", "parallel_queries"))
        rows.append([row["method"], seconds, *counts, row["labels"], row["at_inference"]])
    columns = ["repair", "training", "steps", "tokens", "parameters", "labelled prompts", "parallel queries", "learned from", "more at inference"]
    return Table("What every repair takes", columns, rows, NEEDS)


def terminal_tables(table: RepairTable) -> list[Any]:
    """Return both tables for a terminal of 120 columns."""
    from rich.table import Table as Rich

    from workbench.report.terminal import LOOK

    rates, needs = rates_table(table), needs_table(table)
    model = RunRecord.read(table.provenance["runs"][0]).model
    title = f"repairs of {model}" + (": a controlled model with invented languages" if table.provenance["organism"] else "")
    first = Rich(title=title, caption="In %; selectivity and its gain in points. " + "; ".join(table.provenance["notes"]), **LOOK)
    for name in rates.columns:
        first.add_column(name.replace(" not", "\nnot").replace("ss re", "ss\nre").replace("ed ri", "ed\nri"), no_wrap=name != "repair", **_side(name))
    for i, row in enumerate(rates.rows):
        first.add_row(*row, end_section=i + 1 == len(rates.rows) or bool(rates.rows[i + 1][0]))
    second = Rich(title="what they take", caption="A dash: not recorded, or nothing is trained.", **LOOK)
    kept = [i for i, name in enumerate(needs.columns) if name != "learned from"]
    for i in kept:
        second.add_column(needs.columns[i].replace(" ", "\n", 1), **_side(needs.columns[i]))
    for row in needs.rows:
        second.add_row(*(row[i] for i in kept))
    return [first, second]


def _side(column: str) -> dict[str, Any]:
    return {"justify": "left" if column in ("repair", "mean", "more at inference") else "right"}


def _missing(value: Any) -> bool:
    return value is None or math.isnan(float(value))


def _count(value: Any) -> str:
    return _DASH if _missing(value) else f"{int(value):,}"


def _share(row: Any, share: str) -> str:
    return _DASH if _missing(row[share]) else _points(row, share, ".1f")


def _points(row: Any, share: str, form: str) -> str:
    """Return ``12.3 [10, 15]``: the ends in whole points, which is what they are good for."""
    whole = form.replace(".1f", ".0f")
    ends = (100 * row[f"{share}_low"] + 0.0, 100 * row[f"{share}_high"] + 0.0)
    return f"{number(100 * row[share] + 0.0, form)} {interval(*ends, whole)}".strip()


def _figures(table: RepairTable, tags: list[str]) -> list[Figure]:
    from workbench import plots

    rates, contrasts = table.rates(), table.contrasts()
    languages = plots.repaired_languages(rates, seen=table.seen)
    cost = plots.repair_cost(contrasts, language=EVERY)
    return [
        Figure(
            "repaired_languages",
            plotted(languages, "repaired_languages", tags),
            "Refusal in every language before and after each repair. Languages that a training saw nothing of are shaded. Intervals: 95 % over "
            "meanings.",
        ),
        Figure(
            "repair_cost",
            plotted(cost, "repair_cost", tags),
            "Each repair minus the unrepaired model, mean of all languages, paired by meaning; crosses are 95 % intervals. High and left is good. "
            "Where the title names the highest gain, it was picked on what is shown.",
        ),
    ]


def _by_language(table: RepairTable, tags: dict[str, str]) -> list[list[str]]:
    """Return a row per language and method: the tag, the method, whether it was seen, and the shares."""
    rows = []
    for tag in tags:
        for row in table.table[table.table["language"] == tag].to_dict("records"):
            seen = _DASH if row["seen"] is None else "yes" if row["seen"] else "no"
            rows.append([tag, row["method"], seen, *(_share(row, share) for share in NAMES)])
    return rows


def _facts(table: RepairTable) -> list[tuple[str, str]]:
    told = table.provenance
    facts = {
        "model": told["model"], "prompts": told["prompts"], "judge": told["judge"] or "auto", "runs": told["runs"], "resamples": told["resamples"],
        "seed of the resamples": told["seed"],
    }  # fmt: skip
    return [(name, compact(value)) for name, value in facts.items()]


__all__ = ["needs_table", "rates_table", "repairs_page", "said", "terminal_tables"]
