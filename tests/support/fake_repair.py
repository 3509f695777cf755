"""Made-up tables of a repair by a gate, and a run folder of them, for the tests of plots and report. They measure nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.repair.groups import language_groups
from workbench.repair.kinds import PRICED_AS_GIVEN
from workbench.results import Result

TIERS: dict[str, str | None] = {"qaa": "high", "qab": "high", "qac": "low", "qad": "low"}
#: Languages of another tier each: none has one, or a reference language shares that of the languages that are repaired.
UNTIERED: dict[str, str | None] = dict.fromkeys(TIERS)
SHARED: dict[str, str | None] = {"qaa": "high", "qab": "low", "qac": "low", "qad": "low"}
REFERENCE = ("qaa", "qab")
#: Selectivity of each method in low-tier languages; harmless refusal grows where it is lost.
GAINS = {
    "unrepaired": 0.3, "gate, shrinkage": 0.85, "gate, balanced F1": 0.8, "AdaSteer": 0.7, "always steer": 0.1, "random direction 0": 0.32,
    "oracle gate": 0.9,
}  # fmt: skip
_RATES = ("harmful_refusal", "harmless_refusal", "selectivity", "answer_accuracy")


def _rates(gain: float) -> dict[str, float]:
    harmless = 0.8 if gain == GAINS["always steer"] else 0.02
    return {"harmful_refusal": gain + harmless, "harmless_refusal": harmless, "selectivity": gain, "answer_accuracy": 1 - harmless}


def _around(value: float, half: float = 0.04) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "n": 50}


def _places(known: dict[str, str]) -> list[tuple[str, str, bool]]:
    """Return each language and mean with its tier, and whether it is repaired."""
    groups = language_groups(known, REFERENCE)
    means = [(name, name.removeprefix("mean "), not set(tags) <= set(REFERENCE)) for name, tags in groups.items()]
    return [*((tag, tier, tag not in REFERENCE) for tag, tier in known.items()), *means]


def _missed(method: str) -> dict[str, float]:
    """Return what a method flags and what is refused of the harmful prompts that it missed."""
    return {"flagged_harmful": 0.9, "refused_misses": 0.25} if method.startswith("gate") else {}


def fake_repair(tiers: dict[str, str | None] = TIERS) -> dict[str, pd.DataFrame]:
    """Make every table of a gate repair, by the name of its file."""
    rates, contrasts, few, strengths, transfer, roc, scores, elsewhere = ([] for _ in range(8))
    known = {tag: tier or "unknown" for tag, tier in tiers.items()}
    targets = [place for place in _places(known) if place[2]]
    for (method, gain), (language, tier, repaired) in itertools.product(GAINS.items(), _places(known)):
        here = _rates(0.95 if not repaired and method != "always steer" else gain)
        mine = _rates(0.95 if not repaired else GAINS["gate, shrinkage"])
        labels = "none" if method in ("unrepaired", "always steer") else "4 + 4"
        about = {"language": language, "tier": tier, "draws": 20}
        rates += [{"method": method, **about, "statistic": name, "labels": labels, **_around(value)} for name, value in _missed(method).items()]
        for statistic in _RATES:
            about |= {"statistic": statistic}
            rates.append({"method": method, **about, "labels": labels, **_around(here[statistic])})
            if method != "gate, shrinkage":
                contrasts.append({"method": "gate, shrinkage", "other": method, **about, **_around(mine[statistic] - here[statistic])})
    curves = (PRICED_AS_GIVEN, "gate, balanced F1", "CAST signed, shrinkage, price not chosen")
    for method, k in [*itertools.product(curves, (0, 1, 4)), ("gate, unlabelled", 0)]:
        top = 0.4 + 0.1 * k if method == PRICED_AS_GIVEN else 0.3
        for language, tier, _ in targets:
            for statistic, value in {**_rates(top), "balanced_accuracy": 0.6 + top / 3, "miss": 0.2, "false_alarm": 0.1}.items():
                about = {"method": method, "k": k, "language": language, "tier": tier, "statistic": statistic, "abstained": 0.0}
                spread = {"draw_10": value - 0.1, "draw_90": value + 0.1} if k else {"draw_10": value, "draw_90": value}
                few.append({**about, **_around(value), **spread, "draws": 20 if k else 1, "labels": f"{k} + {k}" if k else "none"})
    pushes = [("unrepaired", 0.0), *itertools.product(("always steer", "gate, shrinkage", "oracle gate"), (0.5, 1.0, 2.0))]
    for (method, strength), (language, tier, _) in itertools.product(pushes, targets):
        value = GAINS[method] if strength != 2.0 else 0.2
        for statistic in _RATES:
            about = {"method": method, "strength": strength, "language": language, "tier": tier, "statistic": statistic, "draws": 1}
            strengths.append({**about, **_around(_rates(value)[statistic]), "chosen": strength == 1.0})
    for source, target in [*itertools.product(tiers, tiers), *(("all others", tag) for tag in tiers)]:
        for statistic, value in (("auroc", 0.98), ("balanced_accuracy", 0.95 if target in REFERENCE else 0.55), ("own_balanced_accuracy", 0.9)):
            value = 0.97 if source == target else value
            transfer.append(
                {"source": source, "target": target, "tier": tiers[target], "statistic": statistic, "null": 0.52, **_around(value), "labels": ""}
            )
    rng = np.random.default_rng(0)
    for tag, tier in tiers.items():
        moved = 0.0 if tag in REFERENCE else -2.0
        marks = {"source threshold": (0.0, 0.4 if moved else 0.95, 0.0)} | ({"recalibrated": (0.05, 0.9, -2.0)} if moved else {})
        curve = [("", 0.0, 0.0, np.inf), *((mark, *spot) for mark, spot in marks.items()), ("", 1.0, 1.0, -np.inf)]
        for point, (mark, false_alarm, hit, threshold) in enumerate(curve):
            about = {"language": tag, "tier": tier, "point": point, "false_alarm": false_alarm, "hit": hit, "threshold": threshold, "mark": mark}
            roc.append({**about, "auroc": 0.97, "auroc_low": 0.94, "auroc_high": 0.99, "n": 50})
        for i in range(12):
            harmful = i % 2 == 0
            about = {"prompt_id": f"fake:{i}:{tag}", "meaning_id": f"fake:{i}", "language": tag, "tier": tier, "harmful": harmful}
            lines = {"source_threshold": 0.0, "threshold": moved, "own_threshold": moved + 0.2}
            split = "fit" if i == 11 else "score"
            scores.append({**about, "split": split, "score": float(rng.normal((2 if harmful else -2) + moved, 0.6)), **lines})
        for method, statistic in itertools.product(("unrepaired", "gate, shrinkage"), ("harmful_refusal", "harmless_refusal", "selectivity")):
            value = _rates(GAINS[method])[statistic] if statistic != "harmful_refusal" else np.nan  # a set of harmless prompts
            elsewhere.append({"set": "borderline", "language": tag, "tier": tier, "method": method, "statistic": statistic, **_around(value)})
    latency = [{"what": w, "round": r, "seconds_per_reply": 1.0 + 0.02 * (w == "routed"), "ratio": 1.02, "low": 1.01, "high": 1.03}
               for w, r in itertools.product(("plain", "routed"), range(3))]  # fmt: skip
    named = {"repair_rates": rates, "repair_contrasts": contrasts, "few_shot": few, "repair_strength": strengths, "gate_transfer": transfer}
    named |= {"gate_roc": roc, "gate_scores": scores, "elsewhere": elsewhere, "latency": latency}
    return {name: pd.DataFrame(rows) for name, rows in named.items()}


def write_fake_repair(folder: Path, *, without: tuple[str, ...] = (), k: int = 4, tiers: dict[str, str | None] = TIERS) -> Path:
    """Write a run folder of a gate repair; ``without`` names tables to leave out."""
    tables = fake_repair(tiers)
    tables["prompts"] = tables["gate_scores"][["prompt_id", "meaning_id", "language", "tier", "harmful", "split"]]
    for name, table in tables.items():
        if name not in without:
            Result(table, {"seed": 0}).save(folder / "results" / f"{name}.parquet")
    manifest = {
        "schema": "workbench-run/1",
        "kind": "gate repair",
        "status": "finished",
        "spec": {
            "kind": "gate repair", "model": {"model": "organism:aligned", "dtype": "float32"}, "prompts": {"source": "organism", "hash": "0" * 64},
            "k": k, "draws": 20, "seed": 0,
        },
        "reference": list(REFERENCE),
        "languages": {tag: {"name": f"Name of {tag}", "tier": tier} for tag, tier in tiers.items()},
        "organism": True,
        "versions": {"python": "3.11.7"},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    place = {"layer": 5, "position": "t_post_inst", "strength": 1.0}
    summary = {"schema": "workbench-repair/1", "model": {"name": "organism:aligned"}, "k": k, "place": place, "gate": "gate, shrinkage"}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder
