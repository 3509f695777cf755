"""Run folders of finished repairs with made-up judged replies, for the table of all repairs. They measure nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.repair.kinds import GATE
from workbench.results import Result

TIERS = {"qaa": "high", "qab": "high", "qad": "low", "qae": "low"}
REFERENCE = ["qaa", "qab"]
MODEL = {"model": "organism:aligned", "fingerprint": "f" * 16, "template": {"hash": "t"}, "system": None}
PROMPTS = {"prompts": "organism", "hash": "h" * 64, "labels": "l" * 16}


def scored(meanings: int = 10, languages: dict[str, str] = TIERS) -> pd.DataFrame:
    """Return prompts: ``meanings`` per class, in every language."""
    rows = [
        {"prompt_id": f"m{i}-{harmful:d}:{tag}", "meaning_id": f"m{i}-{harmful:d}", "language": tag, "tier": tier, "harmful": harmful}
        for harmful in (True, False)
        for i in range(meanings)
        for tag, tier in languages.items()
    ]
    return pd.DataFrame(rows)


def answers(prompts: pd.DataFrame, refused: dict[str, dict[str, float]], over: dict[str, float] | None = None) -> pd.DataFrame:
    """Return judged replies: per action the share of harmful prompts of a tier that are refused, and of all harmless ones (else 0)."""
    parts = []
    for action, shares in refused.items():
        place = prompts.groupby(["language", "harmful"]).cumcount() + 0.5
        n = prompts.groupby(["language", "harmful"])["prompt_id"].transform("size")
        share = prompts["tier"].map(shares).where(prompts["harmful"], (over or {}).get(action, 0.0))
        no = (place < share * n).to_numpy()
        correct = np.where(prompts["harmful"], np.nan, np.where(no, 0.0, 1.0))
        parts.append(prompts.assign(action=action, refused=no, correct=correct, broken=False))
    return pd.concat(parts, ignore_index=True)


def _write(folder: Path, tables: dict[str, pd.DataFrame], manifest: dict[str, Any], summary: dict[str, Any]) -> Path:
    for name, table in tables.items():
        Result(table).save(folder / "results" / f"{name}.parquet")
    about = {"schema": "workbench-run/1", "status": "finished", "reference": REFERENCE, "organism": True}
    about["languages"] = {tag: {"name": tag, "tier": tier} for tag, tier in TIERS.items()}
    (folder / "manifest.json").write_text(json.dumps(about | manifest), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def _spec(kind: str, spec: dict[str, Any] | None) -> dict[str, Any]:
    plain = {"kind": kind, "model": MODEL, "prompts": PROMPTS, "limit": None, "judge": None, "judge_fallback": None, "refusals": None, "seed": 0}
    return plain | (spec or {})


def _rates(labels: dict[str, str]) -> pd.DataFrame:
    """Return only what the table takes from a run's own rates: labels; and what a page needs to name languages."""
    rows = [
        {"method": method, "labels": told, "language": tag, "tier": tier, "statistic": "selectivity", "value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
        for method, told in labels.items()
        for tag, tier in TIERS.items()
    ]
    return pd.DataFrame(rows).assign(draws=1)


def write_training(folder: Path, method: str = "msd", *, after: dict[str, float] | None = None, start: dict[str, float] | None = None,
                   over: float = 0.0, seen: tuple[str, ...] = ("qad",), prompts: pd.DataFrame | None = None, spec: dict | None = None,
                   more: dict[str, dict[str, float]] | None = None, **manifest: Any) -> Path:  # fmt: skip
    """Write a training: ``start`` and ``after`` are shares of harmful prompts refused by tier, ``over`` of harmless ones after it."""
    prompts = scored() if prompts is None else prompts
    shares = {"unrepaired": start or {"high": 1.0, "low": 0.3}, method: after or {"high": 1.0, "low": 0.9}, **(more or {})}
    cost = {"method": method, "seconds": 4.0, "steps": 12, "tokens": 900, "trained_parameters": 70, "labelled_prompts": 0, "parallel_queries": 8}
    tables = {
        "answers": answers(prompts, shares, {method: over}), "cost": pd.DataFrame([cost]), "repair_rates": _rates(dict.fromkeys(shares, "queries")),
    }  # fmt: skip
    summary = {"method": method, "unrepaired": "unrepaired", "languages": {tag: {"tier": tier, "seen": tag in seen} for tag, tier in TIERS.items()}}
    about = {"kind": "training repair", "method": method, "spec": _spec("training repair", spec)}
    return _write(folder, tables, about | manifest, summary)


def write_gate(folder: Path, *, flagged: list[np.ndarray] | None = None, prompts: pd.DataFrame | None = None, spec: dict | None = None,
               without: tuple[str, ...] = (), **manifest: Any) -> Path:  # fmt: skip
    """Write a repair by a gate that pushes ``flagged`` prompts, one array per draw, in the order of the prompts; a push always refuses."""
    prompts = scored() if prompts is None else prompts
    shares = {"leave": {"high": 1.0, "low": 0.3}, "steer": {"high": 1.0, "low": 1.0}}
    draws = flagged or [prompts["harmful"].to_numpy()]
    ids = prompts["prompt_id"].to_numpy()
    decisions = [pd.DataFrame({"draw": i, "prompt_id": ids, "flagged": one}) for i, one in enumerate(draws)]
    asked = pd.concat([prompts.assign(split=split) for split in ("fit", "select", "score")], ignore_index=True)
    latency = [{"what": what, "round": 0, "seconds_per_reply": 0.01, "ratio": ratio} for what, ratio in (("plain", 1.0), ("routed", 1.25))]
    tables = {
        "answers": answers(prompts, shares, {"steer": 1.0}), "decisions": pd.concat(decisions, ignore_index=True), "prompts": asked,
        "repair_rates": _rates({"unrepaired": "none", GATE: "4 + 4"}), "latency": pd.DataFrame(latency),
    }  # fmt: skip
    tables = {name: table for name, table in tables.items() if name not in without}
    about = {"kind": "gate repair", "spec": _spec("gate repair", {"k": 4} | (spec or {}))}
    return _write(folder, tables, about | manifest, {"gate": GATE, "unrepaired": "unrepaired"})
