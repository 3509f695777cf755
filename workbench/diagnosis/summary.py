"""``summary.json``: the headline figures of a run, versioned, for other programs.

Keys are only ever added. Every figure is ``{value, low, high, n}``; a figure that could not be measured is null.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.runs.summary import figure

SCHEMA = "workbench-summary/1"
RATES = ("harmful_refusal", "harmless_refusal", "selectivity", "answer_accuracy", "garbled", "off_language")


def summarise(
    *,
    model: dict[str, Any],
    before: dict[str, Any] | None,
    tiers: dict[str, str | None],
    bottleneck: pd.DataFrame,
    refusal: pd.DataFrame,
    represented: pd.DataFrame,
    auroc: pd.DataFrame,
    thresholds: pd.DataFrame,
    understanding: pd.DataFrame,
    headline_position: str,
) -> dict[str, Any]:
    """Assemble the summary from the run's tables.

    Parameters
    ----------
    model, before : dict
        What the diagnosed model and the one before alignment were.
    tiers : dict
        Tier of every language that was measured, in the report's order.
    bottleneck, refusal, represented, auroc, thresholds, understanding : DataFrame
        The tables of the same names in ``results/``.
    headline_position : str
        Position whose bottleneck row is the headline; all rows stand under ``bottlenecks``.

    Returns
    -------
    dict
        JSON-serialisable, without NaN.
    """
    rows = {(r["model"], r["position"]): _bottleneck(r) for _, r in bottleneck.iterrows()}
    headline = rows.get(("after", headline_position))
    languages: dict[str, Any] = {}
    after = refusal[refusal["model"] == "after"]
    for tag, tier in tiers.items():
        entry: dict[str, Any] = {"tier": tier}
        rates = after[after["language"] == tag].set_index("statistic")
        for rate in RATES:
            entry[rate] = figure(rates.loc[rate]) if rate in rates.index else None
        entry["refusal_judge"] = None if rates.empty else {"name": str(rates["judge"].iloc[0]), "validated": bool(rates["validated"].iloc[0])}
        entry["auroc"] = {}
        chosen = represented[represented["language"] == tag].set_index("position")
        for position, row in chosen.iterrows():
            at = auroc[(auroc["model"] == "after") & (auroc["position"] == position) & (auroc["language"] == tag) & (auroc["layer"] == row["layer"])]
            n = int(at["n_harmful"].iloc[0] + at["n_harmless"].iloc[0]) if len(at) else None
            value = figure(row, "auroc", n=n)
            entry["auroc"][position] = None if value is None else value | {"layer": int(row["layer"]), "represented": bool(row["represented"])}
        for _, row in thresholds[thresholds["language"] == tag].iterrows():
            entry.setdefault("balanced_accuracy", {})[row["position"]] = {
                "transferred": figure(row, "balanced_accuracy_transferred", "transferred_low", "transferred_high"),
                "own": figure(row, "balanced_accuracy_own", "own_low", "own_high"),
                "gap": figure(row, "gap", "gap_low", "gap_high"),
            }
        known = understanding[understanding["language"] == tag]
        entry["understood"] = "not assessed" if known.empty else str(known["understood"].iloc[0])
        languages[tag] = entry
    return {
        "schema": SCHEMA,
        "model": model,
        "before": before,
        "bottleneck": headline or {"layer": None, "low": None, "high": None, "verdict": "not assessed"},
        "bottlenecks": {name: {p: row for (m, p), row in rows.items() if m == name} for name in sorted({m for m, _ in rows})},
        "languages": languages,
    }


def _bottleneck(row: pd.Series) -> dict[str, Any]:
    def whole(name: str) -> int | None:
        return None if pd.isna(row[name]) else int(row[name])

    return {
        "layer": whole("layer"),
        "low": whole("low"),
        "high": whole("high"),
        "verdict": str(row["verdict"]),
        "position": str(row["position"]),
        "reason": str(row["reason"]),
    }
