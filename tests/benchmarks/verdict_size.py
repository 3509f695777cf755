"""How many prompts does a verdict need? Diagnoses at several sizes: the figure and the table of docs/diagnosis.md.

Run ``python tests/benchmarks/verdict_size.py OUT [FIGURE.html]`` from the repository root. Three organisms whose truth is known are diagnosed by
``diagnose(quick=True, walk=0)`` on ``SIZES`` meanings per class of the score split (and half as many each to fit on and to choose by), drawn anew
with every seed; the largest size is all there is, so it is taken once. What is finished under OUT is read and not measured again.
A cell is one language of one run. Right: a low-resource language gets the planted stage, every other one "healthy".
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd

from workbench.diagnosis.diagnose import diagnose
from workbench.plots.verdict_size import verdict_size

PLANTED = {"organism:aligned": "calibration", "organism:representation": "representation", "organism:healthy": "healthy"}
SIZES, SEEDS = (10, 20, 50, 100, 200), 5
#: Meanings per class in all, for one of the score split: half are scored, a quarter each fitted on and chosen by.
IN_ALL = 2
OPEN = "not enough evidence"
#: Interval widths told, by stage; that of refusal is the one a verdict begins with.
WIDTHS = {"represented": "AUROC", "calibrated": "balanced accuracy lost", "actuated": "selectivity gap"}


def cells_of(model: str, size: int, seed: int, out: Path) -> pd.DataFrame:
    """Diagnose one organism at one size, or read what was found before: one row per language.

    Returns
    -------
    DataFrame
        model, seed, size, scored (prompts per class of the score split, as counted), language, tier, truth, verdict, outcome, and an interval's
        width per stage.
    """
    folder = out / f"{model.partition(':')[2]}-{size}-{seed}"
    if not (folder / "results" / "verdicts.parquet").is_file():
        diagnose(model, prompts="organism", limit=IN_ALL * size, seed=seed, walk=0, quick=True, out=folder, progress=False)
        shutil.rmtree(folder / "activations")  # large, and nothing here reads it again
    found, stages, prompts = (pd.read_parquet(folder / "results" / f"{name}.parquet") for name in ("verdicts", "stages", "prompts"))
    scored = prompts[prompts["split"] == "score"].groupby(["language", "harmful"]).size().min()
    truth = np.where(found["tier"] == "low", PLANTED[model], "healthy")
    right = found["verdict"].to_numpy() == truth
    outcome = np.where(right, "right", np.where(found["verdict"] == OPEN, OPEN, "wrong"))
    width = stages.assign(width=stages["high"] - stages["low"]).pivot(index="language", columns="stage", values="width")
    cells = found[["language", "tier", "verdict", "reason"]].assign(
        model=model, seed=seed, size=size, scored=int(scored), truth=truth, outcome=outcome
    )  # fmt: skip
    return cells.join(width[list(WIDTHS)], on="language")


def sizes_table(cells: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Return the shares of outcomes, with intervals over runs, and the median interval widths, with their quartiles.

    Parameters
    ----------
    cells : DataFrame
        Rows of :func:`cells_of`.

    Returns
    -------
    DataFrame
        scored, what (what was planted in the cells, or "width"), name (the outcome, or the statistic), value, low, high, n (cells).
    """
    rng = np.random.default_rng(seed)
    rows = []
    for scored, part in cells.groupby("scored"):
        for what, group in part.groupby("truth"):
            counts = pd.crosstab([group["model"], group["seed"]], group["outcome"]).reindex(columns=["right", "wrong", OPEN], fill_value=0).to_numpy()
            drawn = counts[rng.integers(0, len(counts), size=(resamples, len(counts)))].sum(
                axis=1
            )  # runs are drawn: cells of one are not independent
            shares = drawn / drawn.sum(axis=1, keepdims=True)
            for i, name in enumerate(("right", "wrong", OPEN)):
                low, high = np.quantile(shares[:, i], [0.025, 0.975])
                rows.append((scored, what, name, counts[:, i].sum() / counts.sum(), low, high, int(counts.sum())))
        for stage, name in WIDTHS.items():
            width = part[stage].dropna()
            rows.append((scored, "width", name, width.median(), width.quantile(0.25), width.quantile(0.75), len(width)))
    return pd.DataFrame(rows, columns=["scored", "what", "name", "value", "low", "high", "n"])


def as_markdown(table: pd.DataFrame) -> str:
    """Write one line per size."""
    told = table.assign(told=[f"{row.value:.2f}" for row in table.itertuples()])
    told["column"] = told["what"] + ": " + told["name"]
    wide = told.pivot(index="scored", columns="column", values="told")[list(dict.fromkeys(told["column"]))]
    lines = [
        ["scored per class", *wide.columns],
        ["---"] * (len(wide.columns) + 1),
        *[[str(i), *row] for i, row in zip(wide.index, wide.to_numpy(), strict=True)],
    ]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main(out: Path, figure: Path | None = None) -> None:
    """Diagnose all, then print the table and every cell that is wrong."""
    parts = []
    for size in SIZES:
        for seed in range(SEEDS if size < SIZES[-1] else 1):
            for model in PLANTED:
                parts.append(cells_of(model, size, seed, out))
                print(f"{model}, {size}, seed {seed}: {parts[-1]['outcome'].value_counts().to_dict()}", flush=True)  # noqa: T201
    cells = pd.concat(parts, ignore_index=True)
    cells.to_parquet(out / "cells.parquet")
    table = sizes_table(cells)
    table.to_parquet(out / "verdict_size.parquet")
    print(as_markdown(table))  # noqa: T201
    for row in cells[cells["outcome"] == "wrong"].itertuples():
        print(f"- {row.model}, {row.scored} per class, seed {row.seed}, {row.language}: {row.verdict} ({row.reason})")  # noqa: T201
    if figure is not None:
        verdict_size(table).write_html(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
