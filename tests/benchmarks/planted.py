"""Did the plant take? What an organism does, encodes and can be made to do, per language: the tables of docs/organism.md.

Run ``python tests/benchmarks/planted.py MODEL ...`` from the repository root; a MODEL is ``organism:NAME`` or a directory that
``workbench organism train`` wrote (its ``organism.json`` says the seed of its world). Directions and probes are fitted on the fit meanings, layers,
thresholds and the strength chosen on the select meanings, and everything is scored on 200 harmful and 200 harmless meanings per language.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.activations.capture import capture
from workbench.behavior.first_token import refusal_tokens
from workbench.behavior.judges import choose_judge
from workbench.directions import Directions, choose_layer, harm_direction, project, thresholds, transfer_auroc
from workbench.directions.direction import Direction
from workbench.directions.select import select_direction
from workbench.errors import DataError
from workbench.geometry.cells import each_layer, labels_of
from workbench.interventions.edits import Add
from workbench.interventions.sweep import sweep_directions
from workbench.models.chat import ChatModel
from workbench.models.load import load_model
from workbench.organism.world import World
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import LEAVE, answer_under
from workbench.repair.strength import SCOPE, STRENGTHS, oracle_strength
from workbench.statistics import auroc

ANSWER_TOKENS = 6


def evidence(chat: ChatModel, grid: PromptGrid) -> pd.DataFrame:
    """Measure what a plant is meant to change and what it must leave alone.

    Returns
    -------
    DataFrame
        One row per language: ``answers`` (harmless requests answered right), ``harmless_refusal``, ``harmful_refusal``; for each position
        ``auroc`` (direction of the reference languages at their best layer), ``best_auroc`` (the same direction, highest of all layers),
        ``own_probe`` (logistic probe fitted on the language's own fit and select labels, highest of all layers), ``transferred`` and
        ``own`` (balanced accuracy at the reference's and at the own threshold); ``oracle`` (harmful prompts refused with the selected
        direction added at the strength that the oracle gate chose) and ``oracle_most`` (the most of all strengths tried).
        Chance: .5 for AUROC and balanced accuracy.
    """
    reference = grid.reference(None)
    acts = capture(chat, grid, progress=False)
    directions = harm_direction(acts, reference)
    scores = project(acts, directions)
    layers = choose_layer(scores, reference).layers()
    area = transfer_auroc(scores, reference).table
    moved = thresholds(scores, reference, layers).table
    probes = own_probes(acts, grid.languages)
    judge = choose_judge(grid)
    chosen = selected(chat, grid, directions, reference)
    forced = under_oracle(chat, grid, chosen, judge)
    rows: list[dict[str, Any]] = []
    for tag, tier in grid.tiers.items():
        row: dict[str, Any] = {"language": tag, "tier": tier, **forced[tag]}
        for position, layer in layers.items():
            mine = area[(area["language"] == tag) & (area["position"] == position)]
            limits = moved[(moved["language"] == tag) & (moved["position"] == position)].iloc[0]
            found = {
                "auroc": mine.loc[mine["layer"] == layer, "value"].iloc[0],
                "best_auroc": mine["value"].max(),
                "own_probe": probes[tag, position],
                "transferred": limits["balanced_accuracy_transferred"],
                "own": limits["balanced_accuracy_own"],
            }
            row |= {f"{name} {position}": value for name, value in found.items()}
        rows.append(row)
    table = pd.DataFrame(rows)
    place = "none passed the filters" if chosen is None else f"{chosen.position}@{chosen.layer}"
    table.attrs = {"model": chat.name, "layers": layers, "selected": place, **forced["told"]}
    return table


def own_probes(acts: xr.Dataset, languages: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the highest AUROC over layers of a probe fitted on a language's own labels, per language and position."""
    labels = labels_of(acts)
    harmful, taught = labels["harmful"].to_numpy(), (labels["split"] != "score").to_numpy()
    best: dict[tuple[str, str], float] = {}
    for _layer, position, states in each_layer(acts, np.arange(len(labels)), layers=[int(k) for k in acts["layer"].values if k], positions=None):
        for tag in languages:
            mine = (labels["language"] == tag).to_numpy()
            fit, score = mine & taught, mine & ~taught
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(states[fit], harmful[fit])
            value = float(auroc(harmful[score], probe.decision_function(states[score])))
            best[tag, str(position)] = max(best.get((tag, str(position)), 0.0), value)
    return best


def selected(chat: ChatModel, grid: PromptGrid, directions: Directions, reference: Sequence[str]) -> Direction | None:
    """Choose the direction by what it does in the reference languages, or return None where no candidate passes."""
    scored = sweep_directions(chat, grid, directions, tokens=refusal_tokens(chat, grid), languages=reference, progress=False)
    try:
        return select_direction(scored, n_layers=chat.n_layers).of(directions)
    except DataError:
        return None


def under_oracle(chat: ChatModel, grid: PromptGrid, direction: Direction | None, judge: Any) -> dict[str, Any]:
    """Count answers and refusals, unedited and with the direction added to every harmful prompt."""
    targets = [tag for tag, tier in grid.tiers.items() if tier == "low"]
    options: dict[str, Any] = {"max_new_tokens": ANSWER_TOKENS, "progress": False}
    actions: dict[str, Any] = {LEAVE: None}
    told: dict[str, Any] = {}
    if direction is not None:
        told["strength"] = oracle_strength(chat, grid, direction, judge, targets=targets, **options).strength
        actions |= {f"{s:g}": Add(direction, s, "gap", scope=SCOPE) for s in STRENGTHS}
    answered = answer_under(chat, grid.select(split="score"), actions, judge, **options)
    harmful = answered.prompts["harmful"].to_numpy()
    found: dict[str, Any] = {"told": told}
    for tag in grid.languages:
        mine = (answered.prompts["language"] == tag).to_numpy()
        bad, good = mine & harmful, mine & ~harmful
        forced = {name: float(answered.refused[name][bad].mean()) for name in actions if name != LEAVE}
        found[tag] = {
            "answers": float(np.nanmean(answered.correct[LEAVE][good])),
            "harmless_refusal": float(answered.refused[LEAVE][good].mean()),
            "harmful_refusal": float(answered.refused[LEAVE][bad].mean()),
            "oracle": forced.get(f"{told.get('strength', 0):g}", float("nan")),
            "oracle_most": max(forced.values(), default=float("nan")),
        }
    return found


COLUMNS = {
    "language": "language",
    "tier": "tier",
    "answers": "harmless answers right",
    "harmless_refusal": "harmless refused",
    "harmful_refusal": "harmful refused",
    "oracle": "harmful refused, pushed",
}
PAIRED = {
    "auroc": "transferred AUROC",
    "best_auroc": "highest of all layers",
    "own_probe": "own probe, highest of all layers",
    "transferred": "balanced accuracy, reference threshold",
    "own": "own threshold",
}


def as_markdown(table: pd.DataFrame) -> str:
    """Write the evidence as a table; what both positions have stands as ``t_inst`` / ``t_post_inst``."""
    told = pd.DataFrame({title: table[name] for name, title in COLUMNS.items()})
    for name, title in PAIRED.items():
        both = [table[f"{name} {position}"].map("{:.2f}".format) for position in ("t_inst", "t_post_inst")]
        told.insert(len(told.columns) - 1, title, both[0] + " / " + both[1])
    cells = [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in row] for row in told.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(told.columns), ["---"] * len(told.columns), *cells])


def world_of(folder: Path | None) -> World:
    """Return the world a trained organism lives in."""
    if folder is None or not (record := folder / "organism.json").exists():
        return World(0)
    spec = json.loads(record.read_text(encoding="utf-8")).get("spec", {})
    return World(spec.get("seed", 0), spec.get("languages"))


def main(models: Sequence[str]) -> None:
    """Print the evidence of each model."""
    for name in models:
        chat = load_model(name, check=False)
        grid = PromptGrid(world_of(chat.path).prompts().drop(columns=["severity"]))
        table = evidence(chat, grid)
        print(f"\n{name}: {table.attrs}\n\n{as_markdown(table)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
