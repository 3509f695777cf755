"""Does a diagnosis name the stage that was planted? Confusion matrices over organisms: the tables of docs/diagnosis.md.

Run ``python tests/benchmarks/verdicts.py OUT MODEL ...`` from the repository root; a MODEL is ``organism:NAME`` or a directory that ``workbench
organism train --failure NAME`` wrote (its ``organism.json`` says what was planted). Each is diagnosed by ``diagnose(quick=True)`` into a folder of
its own under OUT; what is finished there is read and not measured again, so a list that grows, or was stopped, costs only what is new.
A cell is one language of one organism. Right: a low-resource language gets the planted stage (in actuation: with its subtype), a high-resource one
"healthy".
"Not enough evidence" counts as wrong and is shown apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import pandas as pd
from scipy.stats import beta

from workbench.diagnosis.diagnose import diagnose
from workbench.models.load import load_model
from workbench.organism.world import World
from workbench.prompts.grid import PromptGrid

OPEN = "not enough evidence"
ORDER = ("calibration", "representation", "actuation, unrouted", "actuation, unresponsive", "understanding", "healthy")


def diagnosed(model: str, out: Path) -> pd.DataFrame:
    """Diagnose one organism, or read what was found before.

    Returns
    -------
    DataFrame
        One row per language: model, seed, planted, construction (1 or 2), language, tier, truth, said, gap, reason.
    """
    chat = load_model(model, check=False)
    record = json.loads((Path(chat.path) / "organism.json").read_text(encoding="utf-8"))
    planted = record.get("failure") or ("healthy" if record["model"].startswith("healthy") else "calibration")
    construction = int(record.get("construction", 1))
    seed = int(record["spec"]["seed"])
    folder = out / f"seed{seed}-{planted}-{construction}"
    if not (folder / "results" / "verdicts.parquet").is_file():
        grid = PromptGrid(World(seed, record["spec"]["languages"]).prompts().drop(columns=["severity"]))
        diagnose(model, prompts=grid, quick=True, out=folder, progress=False)
    found = pd.read_parquet(folder / "results" / "verdicts.parquet")
    truth = planted.replace("-", ", ")
    return found.assign(
        model=model,
        seed=seed,
        planted=truth,
        construction=construction,
        truth=[truth if tier == "low" else "healthy" for tier in found["tier"]],
        said=[", ".join(part for part in (row.verdict, row.subtype) if part) for row in found.itertuples()],
    )


def confusion(cells: pd.DataFrame) -> pd.DataFrame:
    """Count verdicts (columns) by what was planted (rows), with the share named right and its exact 95 % interval."""
    said = [*ORDER, *sorted(set(cells["said"]) - {*ORDER, OPEN}), OPEN]
    table = pd.crosstab(cells["truth"], cells["said"]).reindex(index=[x for x in ORDER if x in set(cells["truth"])], columns=said, fill_value=0)
    for truth, part in cells.groupby("truth"):
        right, n = int((part["said"] == truth).sum()), len(part)
        low, high = beta.ppf(0.025, right, n - right + 1) if right else 0.0, beta.ppf(0.975, right + 1, n - right) if right < n else 1.0
        table.loc[truth, "right"] = f"{right} of {n} [{low:.2f}, {high:.2f}]"
    return table


def as_markdown(table: pd.DataFrame, first: str) -> str:
    """Write a table."""
    rows = [
        [first, *map(str, table.columns)],
        ["---"] * (len(table.columns) + 1),
        *[[str(i), *map(str, row)] for i, row in zip(table.index, table.to_numpy(), strict=True)],
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(out: Path, models: Sequence[str]) -> None:
    """Diagnose all, then print the matrices and every cell that is wrong."""
    parts = []
    for model in models:
        parts.append(diagnosed(model, out))
        low = parts[-1][parts[-1]["tier"] == "low"]
        print(f"{model}: {low['said'].tolist()}; high: {parts[-1][parts[-1]['tier'] != 'low']['said'].tolist()}", flush=True)  # noqa: T201
    cells = pd.concat(parts, ignore_index=True)
    cells.to_parquet(out / "cells.parquet")
    for (construction, tier), part in cells.groupby(["construction", "tier"]):
        by = part.assign(truth=part["planted"]) if tier == "high" else part  # high-resource cells by organism: all are healthy
        table = confusion(part) if tier == "low" else pd.crosstab(by["truth"], by["said"])
        print(f"\nconstruction {construction}, {tier}-resource languages: {part['model'].nunique()} organisms of {part['seed'].nunique()} bases\n")  # noqa: T201
        print(as_markdown(table, "planted"))  # noqa: T201
        share = (part["said"] == part["truth"]).mean()
        print(f"\nall: {share:.3f} of {len(part)} right; {(part['said'] == OPEN).sum()} not enough evidence")  # noqa: T201
    for row in cells[cells["said"] != cells["truth"]].itertuples():
        print(f"- {row.model} {row.language}: {row.said} ({row.reason})")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
