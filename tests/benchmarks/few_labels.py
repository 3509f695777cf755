"""How little it takes: every threshold policy at k = 0 to 16 labels per class, on organisms and on simulated shifts.

Run ``python tests/benchmarks/few_labels.py [ORGANISM ...] [--draws 200] [--json PATH]`` from the repository root. Each ORGANISM is a folder that
``workbench organism train --seed N --out ORGANISM`` wrote; ``shipped`` (the default) is the organism of the package; ``none`` leaves organisms out.

Organisms: ``RecalibratedGate`` fitted on the high-resource languages' fit split at a layer and positions that are given, not searched; examples
from the select split, scored on the score split; means over the low-resource languages. Intervals of the difference to the paper's rule are per
language over draws and meanings (``label_curve``); ends are averaged over languages, as if all languages erred together, which errs on the safe
side: translations are twins and languages share draws.

Simulated: ``tests/support/shifted_scores.py``; one world per shape, k examples from 1,000 prompts per class, scored on others; intervals over draws.

``--json`` writes ``{"organisms", "differences", "simulated"}``, rows as printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
from shifted_scores import shapes, shifts, sources

from workbench.activations.capture import capture
from workbench.gates import (
    BalancedF1,
    ConformalMiss,
    Context,
    CostWeighted,
    FixedFalsePositives,
    MomentMatching,
    RecalibratedGate,
    Scores,
    Shrinkage,
    ThresholdPolicy,
    gate_data,
    label_curve,
)
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts

KS = (0, 1, 2, 4, 8, 16)
LAYER, POSITIONS = 6, ("t_inst", "t_post_inst")
STATISTICS = ("miss", "balanced_accuracy")
POLICIES: Mapping[str, ThresholdPolicy] = {
    "balanced F1 (the paper's)": BalancedF1(),
    "shrinkage": Shrinkage(),
    "shrinkage, expected F1": Shrinkage("balanced_f1"),
    "shrinkage, accuracy": Shrinkage("balanced_accuracy"),
    "fixed false alarms .05": FixedFalsePositives(0.05),
    "conformal miss .05": ConformalMiss(0.05),
    "equal costs": CostWeighted(),
    "moments (no labels)": MomentMatching(prevalence=0.5),
    "mixture (no labels)": MomentMatching("mixture"),
}
OURS = ("shrinkage", "shrinkage, expected F1", "shrinkage, accuracy")


def curves(organism: str, ks: Sequence[int], draws: int) -> pd.DataFrame:
    """Measure every policy on one organism; a row per position, policy, k and statistic, means over low-resource languages."""
    shipped = organism == "shipped"
    chat = load_model("organism:aligned" if shipped else str(Path(organism) / "aligned"))
    grid = load_prompts("organism" if shipped else str(Path(organism) / "prompts.csv"))
    acts = capture(chat, grid, layers=[LAYER], positions=POSITIONS, progress=False)
    low = [tag for tag, tier in grid.tiers.items() if tier == "low"]
    found = []
    for position in POSITIONS:
        data = gate_data(acts, LAYER, position)
        gate = RecalibratedGate().fit(data.select(split="fit", languages=grid.reference(None)))
        table = label_curve(gate, data, low, ks, list(POLICIES.values()), draws, np.random.default_rng(0)).table
        names = dict(zip(dict.fromkeys(table["policy"]), POLICIES, strict=True))
        part = table[table["statistic"].isin(STATISTICS)].assign(policy=lambda t, names=names: t["policy"].map(names))
        columns = ["mean", "difference", "difference_low", "difference_high", "abstained"]
        means = part.groupby(["policy", "k", "statistic"], sort=False)[columns].mean().reset_index()
        found.append(means.assign(organism=Path(organism).name, position=position))
    return pd.concat(found, ignore_index=True)


def by_k(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out miss / balanced accuracy, a column for each k."""
    miss, accuracy = (table[table["statistic"] == name].reset_index(drop=True) for name in STATISTICS)
    cells = [f"{m:.3f} / {a:.3f}" for m, a in zip(miss["mean"], accuracy["mean"], strict=True)]
    told = miss.assign(cell=np.where(miss["abstained"] == 1, "abstains", cells))
    return told.pivot_table(index=["organism", "position", "policy"], columns="k", values="cell", aggfunc="first", sort=False).reset_index()


def differences(table: pd.DataFrame, k: int = 1) -> pd.DataFrame:
    """Lay out what our policies gain over the paper's at k labels per class."""
    rows = []
    part = table[(table["k"] == k) & table["policy"].isin(OURS)]
    for (organism, position, policy), here in part.groupby(["organism", "position", "policy"], sort=False):
        by = here.set_index("statistic")
        row = {"organism": organism, "position": position, "policy": policy}
        for statistic in STATISTICS:
            it = by.loc[statistic]
            row[statistic] = f"{it['difference']:+.3f} [{it['difference_low']:+.3f}, {it['difference_high']:+.3f}]"
        rows.append(row)
    return pd.DataFrame(rows)


def simulated(scores: Scores, context: Context, policies: Mapping[str, ThresholdPolicy], draws: int, k: int = 1) -> dict[str, np.ndarray]:
    """Return each policy's miss rate and balanced accuracy, [draw 2]; all see the same examples."""
    rng = np.random.default_rng(6)
    pairs = [tuple(rng.choice(part[:1000], k, replace=False) for part in scores) for _ in range(draws)]
    harmful, harmless = (np.sort(part[1000:]) for part in scores)
    found = {}
    for name, policy in policies.items():
        thresholds = np.array([policy.choose(*pair, context).threshold for pair in pairs])
        miss = np.searchsorted(harmful, thresholds) / len(harmful)
        passed = np.searchsorted(harmless, thresholds) / len(harmless)
        found[name] = np.stack([miss, (1 - miss + passed) / 2], axis=1)
    return found


def simulated_table(draws: int, policies: Mapping[str, ThresholdPolicy]) -> pd.DataFrame:
    """Return a row per shape: miss and balanced accuracy of each policy, and the difference of each of ours with its interval over draws."""
    rows: list[dict[str, Any]] = []
    first, *ours = policies
    worlds = {name: (Context(sources(np.random.default_rng(4))), target) for name, target in shapes(np.random.default_rng(5)).items()}
    for distance in (2.5, 4.0):
        moved = shifts(np.random.default_rng(7), distance=distance)
        worlds |= {f"{distance:g} apart: {name}": (Context(known), target) for name, (known, target) in moved.items()}
    for name, (context, target) in worlds.items():
        found = simulated(target, context, policies, draws)
        rows.append({"shape": name, first: found[first].mean(axis=0)} | {policy: found[policy].mean(axis=0) for policy in ours})
        for policy in ours:
            apart = found[policy] - found[first]
            half = 1.96 * apart.std(axis=0, ddof=1) / np.sqrt(draws)
            rows[-1][f"difference, {policy}"] = np.stack([apart.mean(axis=0), half])
    return pd.DataFrame(rows)


def simulated_text(table: pd.DataFrame) -> pd.DataFrame:
    """Lay out the simulated shifts, and their mean."""
    given = [name for name in table.columns if name != "shape" and not name.startswith("difference")]
    mean = {name: table[name].mean() for name in given}
    mean |= {f"difference, {name}": np.stack([(mean[name] - mean[given[0]]), [np.nan, np.nan]]) for name in given[1:]}
    rows = [*table.to_dict("records"), {"shape": "mean", **mean}]
    for row in rows:
        for name in row:
            if name.startswith("difference"):
                row[name] = "; ".join(f"{d:+.3f}" + ("" if np.isnan(h) else f" ± {h:.3f}") for d, h in row[name].T)
            elif name != "shape":
                row[name] = f"{row[name][0]:.3f} / {row[name][1]:.3f}"
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "| --- " * len(table.columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in table.to_numpy())]) + "\n\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("organisms", nargs="*", default=["shipped"], help="folders of `workbench organism train`, 'shipped', or 'none'")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--ks", type=int, nargs="+", default=KS, help="labels per class, on organisms")
    parser.add_argument("--no-simulation", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    tables: dict[str, pd.DataFrame] = {}
    if asked.organisms != ["none"]:
        measured = []
        for organism in asked.organisms:
            measured.append(curves(organism, asked.ks, asked.draws))
            sys.stderr.write(f"{organism} done\n")
        table = pd.concat(measured, ignore_index=True)
        tables |= {"organisms": by_k(table), "differences": differences(table)}
    if not asked.no_simulation:
        tables["simulated"] = simulated_text(simulated_table(asked.draws, {name: POLICIES[name] for name in (next(iter(POLICIES)), *OURS)}))
    for printed in tables.values():
        sys.stdout.write(markdown(printed))
    if asked.json:
        asked.json.write_text(json.dumps({name: printed.to_dict("records") for name, printed in tables.items()}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
