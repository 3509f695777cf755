"""``summary.json`` of a repair by a gate: what each method did in each language, for other programs.

Keys are only ever added. Every figure is ``{value, low, high, n}``; a figure that could not be measured is null.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.directions import Direction
from workbench.gates import Place
from workbench.repair.kinds import GATE, UNREPAIRED, kind_of
from workbench.runs.folder import Run
from workbench.runs.summary import figure

SCHEMA = "workbench-repair/1"


def gate_summary(run: Run, *, model: dict[str, Any], tiers: dict[str, str | None], k: int, reads: Place, direction: Direction) -> dict[str, Any]:
    """Assemble the summary from the run's tables.

    Returns
    -------
    dict
        ``model``, ``k``, ``place`` (layer and position that the gate reads, and the strength in gaps), ``push`` (layer and position of the
        direction), ``methods.<name>.<language or "mean tier">.<statistic>`` (with ``kind`` and ``labels`` of each method) and
        ``differences.<other>.<language or "mean tier">.<statistic>``: the gate minus that method.
    """
    rates, contrasts = run.result("repair_rates").table, run.result("repair_contrasts").table
    strength = run.result("oracle_strength").table
    methods: dict[str, Any] = {}
    for name, part in rates.groupby("method", sort=False):
        method = str(name)
        methods[method] = {"kind": kind_of(method), "labels": str(part["labels"].iloc[0]), "draws": int(part["draws"].iloc[0])} | _by_language(part)
    apart = {str(other): _by_language(part) for other, part in contrasts.groupby("other", sort=False)}
    place = {"layer": reads.layer, "position": reads.position, "strength": float(strength.loc[strength["chosen"], "strength"].iloc[0])}
    return {
        "schema": SCHEMA,
        "model": model,
        "languages": {tag: {"tier": tier} for tag, tier in tiers.items()},
        "k": k,
        "place": place,
        "push": {"layer": direction.layer, "position": direction.position},
        "gate": GATE,
        "unrepaired": UNREPAIRED,
        "methods": methods,
        "differences": apart,
    }


def _by_language(part: pd.DataFrame) -> dict[str, Any]:
    """Return language -> statistic -> figure."""
    found: dict[str, Any] = {}
    for _, row in part.iterrows():
        found.setdefault(str(row["language"]), {})[str(row["statistic"])] = figure(row)
    return found
