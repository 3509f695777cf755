"""Made-up tables of verdicts, stages, hypotheses, the waterfall and the restoration map, for the tests of plots and report. They measure nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

STAGES = {
    "understood": ("harmless answer accuracy", 1.0),
    "represented": ("AUROC", 0.98),
    "calibrated": ("balanced accuracy gap", 0.0),
    "actuated": ("selectivity gap", 0.0),
    "expressed": ("right form", 1.0),
}
STEPS = {"own": 0.25, "transferred": 0.4, "recalibrated": 0.8, "oracle": 0.9, "fitted": 0.9}


def fake_verdicts(tiers: dict[str, str], layers: int) -> dict[str, pd.DataFrame]:
    """Make the tables: reference languages are healthy, the others fail at calibration, the last one is open."""
    verdicts, stages, tested = [], [], []
    last = list(tiers)[-1]
    for tag, tier in tiers.items():
        high = tier == "high"
        verdict = "healthy" if high else "not enough evidence" if tag == last else "calibration"
        gap = {"gap": 0.0, "gap_low": -0.03, "gap_high": 0.03} if high else {"gap": 0.6, "gap_low": 0.5, "gap_high": 0.7}
        stage = "calibrated" if verdict == "calibration" else ""
        verdicts.append({"language": tag, "tier": tier, "verdict": verdict, "subtype": "", "stage": stage, **gap, "reason": f"made up for {tag}"})
        for name, (statistic, good) in STAGES.items():
            passed = True if high or name in ("understood", "represented") else None if tag == last or name == "expressed" else False
            value = good if passed else 0.2 if name == "calibrated" else -0.6
            row = {"language": tag, "tier": tier, "stage": name, "hypothesis": name, "statistic": statistic, "value": value, "low": value - 0.03}
            row |= {"high": value + 0.03, "null": 0.5, "criterion": f"criterion of {name}", "passed": passed, "assessed": name != "expressed"}
            stages.append({**row, "n": 40, "reason": f"reason of {name} in {tag}"})
            number = {"value": value, "low": value - 0.03, "high": value + 0.03, "null": 0.5, "effect": value - 0.5, "p": 0.01, "p_corrected": 0.02}
            about = {"id": name, "statement": f"Statement of {name}.", "statistic": statistic, "test": "superiority", "margin": 0.0}
            tested.append({**about, **number, "language": tag, "n": 40, "place": "t_post_inst@2", "shown": passed})
    targets = {tag: tier for tag, tier in tiers.items() if tier != "high"}
    out = {"verdicts": verdicts, "stages": stages, "hypotheses": tested, "waterfall": _waterfall(targets), "shapley": _shapley(targets)}
    out["restoration"] = _restoration(tiers, targets, layers)
    tables = {name: pd.DataFrame(rows) for name, rows in out.items() if rows}
    for name, column in (("stages", "passed"), ("hypotheses", "shown")):
        tables[name][column] = [None if value is None or pd.isna(value) else bool(value) for value in tables[name][column]]
        tables[name] = tables[name].astype({column: object})
    return tables


def _around(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def _waterfall(targets: dict[str, str]) -> list[dict]:
    rows = []
    for (tag, tier), (step, level) in itertools.product(targets.items(), STEPS.items()):
        before = dict(zip(list(STEPS)[1:], STEPS.values(), strict=False)).get(step, level)
        net, total = level - before, level - STEPS["own"]
        row = {"language": tag, "tier": tier, "step": step, "value": level, "low": level - 0.1, "high": level + 0.1, **_around("gap", 0.7, 0.1)}
        shares = {**_around("net", net, 0.05), **_around("share", net / 0.7, 0.08), **_around("total", total / 0.7, 0.1)}
        shares |= {"random_low": -0.02, "random_high": 0.03}
        row |= dict.fromkeys(shares, np.nan) if step == "own" else shares
        rows.append({**row, "labels": {"recalibrated": "4 + 4", "oracle": "all", "fitted": "all"}.get(step, "none"), "n": 32, "draws": 1})
    return rows


def _shapley(targets: dict[str, str]) -> list[dict]:
    switches = {"threshold_recalibrated": 0.5, "errors_removed": 0.3, "strength_fitted": 0.0}
    return [
        {"language": tag, "tier": tier, "switch": switch, "share": share, "low": share - 0.1, "high": share + 0.1}
        for (tag, tier), (switch, share) in itertools.product(targets.items(), switches.items())
    ]


def _restoration(tiers: dict[str, str], targets: dict[str, str], layers: int) -> list[dict]:
    kinds = [("harm_coordinate", ""), ("refusal_coordinate", ""), ("state", "")]
    kinds += [(control, kind) for control in ("control_random", "control_permuted") for kind, _ in kinds]
    means = {f"mean {tier}": tier for tier in dict.fromkeys(targets.values())}
    places = {next(iter(tiers)): next(iter(tiers.values())), **targets, **means}
    rows = []
    for (tag, tier), (kind, matched), way, layer in itertools.product(places.items(), kinds, ("restore", "break"), range(layers)):
        value = (1 if way == "restore" else -1) * layer * (0.1 if matched else 1.0)
        row = {"language": tag, "tier": tier, "kind": kind, "matched": matched, "way": way, "layer": layer, "position": "t_post_inst"}
        row |= {
            "pair": "class" if tag == next(iter(tiers)) else "twin",
            "outcome": "log_odds",
            "value": value,
            "low": value - 0.2,
            "high": value + 0.2,
        }
        row |= {"increment": value / 2, "increment_low": value / 2 - 0.1, "increment_high": value / 2 + 0.1, "n": 12, "peak_share": 0.8}
        rows.append({**row, "trivial": kind == "state" and layer == layers - 1, "peak": not matched and layer == layers // 2})
    return rows
