"""Made-up tables of a repair by training, and a run folder of them, for the tests of plots and report. They measure nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.alignment.measured import EVERY, SEEN, UNSEEN
from workbench.results import Result

TIERS = {"qaa": "high", "qab": "high", "qac": "mid", "qad": "low", "qae": "low"}
TRAINED = ("qaa", "qab")
#: Harmful refusal in a language unseen in training, harmless refusal and answers right, of each method.
RATES = {
    "unrepaired": (0.3, 0.01, 0.99),
    "lasa": (0.97, 0.02, 0.985),
    "lasa, weights alone": (0.6, 0.02, 0.985),
    "msd on-policy": (0.9, 0.05, 0.95),
    "dpo": (0.7, 0.2, 0.8),
    "gate, shrinkage": (0.88, 0.03, 0.96),
}
START = "unrepaired"
_STATISTICS = ("harmful_refusal", "harmless_refusal", "selectivity", "answer_accuracy")


def _of(method: str, seen: float) -> dict[str, float]:
    """Return the rates of a method where a share of the languages was seen in training."""
    harmful, harmless, right = RATES[method]
    harmful = seen * max(0.96, harmful) + (1 - seen) * harmful
    return {"harmful_refusal": harmful, "harmless_refusal": harmless, "selectivity": harmful - harmless, "answer_accuracy": right}


def _places() -> list[tuple[str, str, float]]:
    """Return each language and mean with its tier and the share that training saw."""
    tags = [(tag, tier, float(tag in TRAINED)) for tag, tier in TIERS.items()]
    means = []
    for tier in dict.fromkeys(TIERS.values()):
        seen = [share for _, one, share in tags if one == tier]
        means.append((f"mean {tier}", tier, sum(seen) / len(seen)))
    groups = {SEEN: 1.0, UNSEEN: 0.0, EVERY: len(TRAINED) / len(TIERS)}
    return [*tags, *means, *((name, name.removeprefix("mean "), share) for name, share in groups.items())]


def _around(value: float, half: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "n": 100}


def fake_training(*, replies: int = 6, steps: int = 60, layers: int = 5) -> dict[str, pd.DataFrame]:
    """Make every table of a repair by training, by the name of its file."""
    rng = np.random.default_rng(0)
    out: dict[str, list[dict]] = {}

    def put(name: str, **row: object) -> None:
        out.setdefault(name, []).append(row)

    for method, (language, tier, seen), statistic in itertools.product(RATES, _places(), _STATISTICS):
        about = {"method": method, "language": language, "tier": tier, "statistic": statistic, "draws": 1}
        value, before = _of(method, seen)[statistic], _of(START, seen)[statistic]
        put("repair_rates", **about, **_around(value), labels="none" if method == START else "200 + 200")
        if method != START:
            put("repair_contrasts", **about, other=START, **_around(value - before, 0.02))
    for step in range(1, steps + 1):
        put("training_curve", step=step, statistic="loss", language="", value=0.7 * np.exp(-step / 20) + 0.05 * rng.random())
        put("training_curve", step=step, statistic="gradient_norm", language="", value=1.0)
    for step, (tag, tier) in itertools.product(range(0, steps + 1, steps // 3), TIERS.items()):
        done, place = step / steps, 0.04 * list(TIERS).index(tag)
        first = 0.95 if tier == "high" else 0.3
        put("training_curve", step=step, statistic="harmful_refusal", language=tag, value=first + done * (0.97 - place - first))
        put("training_curve", step=step, statistic="harmless_refusal", language=tag, value=0.02 * done)
        put("training_curve", step=step, statistic="answer_accuracy", language=tag, value=0.99 - 0.01 * done)
        put("training_curve", step=step, statistic="length_harmful", language=tag, value=7.0 - 2 * done)
        put("training_curve", step=step, statistic="length_harmless", language=tag, value=7.0 - done)
        put("training_curve", step=step, statistic="reward_gap", language=tag, value=4 * first - 2 + 2 * done - place)
        put("training_curve", step=step, statistic="reward_gap_harmless", language=tag, value=2.0 - 0.4 * done - place)
    for tag, tier in TIERS.items():
        seen = tag in TRAINED
        flips = {"n": 50, "student_unsafe": 35, "teacher_safe_of_those": 34, "value": 0.68, "low": 0.54, "high": 0.79, "teacher_unsafe_of_safe": 1}
        shares = {"teacher_harmful_refusal": 0.96, "teacher_harmless_refusal": 0.02, "teacher_answers_right": 0.95}
        ends = {
            f"{name}{end}": min(1.0, value + apart) for name, value in shares.items() for end, apart in (("", 0), ("_low", -0.02), ("_high", 0.04))
        }
        own = {"student_harmless_refusal": 0.0, "student_answers_right": 0.99, "teacher_broken": 0.01, "judge": "made up", "validated": True}
        if not seen:
            put("flip_rates", language=tag, tier=tier, n_harmless=50, **flips, **ends, **own)
        for layer, (statistic, value) in itertools.product(range(layers), {"accuracy": 0.95, "tpr": 0.93, "fpr": 0.04, "auroc": 0.98}.items()):
            far = 0.06 * abs(layer - layers // 2) + (0.0 if seen else 0.08) + 0.03 * list(TIERS).index(tag)
            row = {"set": "score", "position": "t_inst", "language": tag, "tier": tier, "seen": seen, "statistic": statistic, "null": 0.55}
            row |= _around(value + far if statistic == "fpr" else value - far)
            put("interpreter_layers", layer=layer + 2, **row)
            if layer == layers // 2:
                put("interpreter", layer=layer + 2, **row)
        for method, harmful in itertools.product((START, "lasa"), (True, False)):
            gap = {"method": method, "language": tag, "tier": tier, "harmful": harmful, "statistic": "reward_gap", "n": 24, "pairs": 24}
            value = (1.5 if seen or method != START else -0.5) if harmful else 2.0
            put("reward_gaps", **gap, value=value, low=value - 0.2, high=value + 0.2)
        put(
            "guard",
            language=tag,
            tier=tier,
            before=0.5,
            before_low=0.4,
            before_high=0.6,
            after=0.9,
            after_low=0.8,
            after_high=0.95,
            n=50,
            lowered=False,
        )
        for reply, harmful in itertools.product(range(replies), (True, False)):
            length = 5 + reply
            decay = np.exp(-np.arange(length) / 2) * (1.0 if harmful else 0.2)
            sure, unsure = rng.uniform(0.7, 0.95), {"high": 0.2, "mid": 0.6, "low": 0.9}[tier] * rng.uniform(0.7, 1.0)
            teacher, student = np.clip(sure * decay + 0.05, 0, 1), np.clip(unsure * decay + 0.03 * rng.random(length), 0, 1)
            weight = teacher * student / (teacher * student).mean()
            for i in range(length):
                put(
                    "token_weights", prompt_id=f"fake:{int(not harmful)}:{reply}:{tag}", language=tag, harmful=harmful, token_index=i,
                    teacher=float(teacher[i]), student=float(student[i]), weight=float(weight[i]), divergence=float(2 * decay[i]),
                )  # fmt: skip
    for group, n in (("all", 5), ("seen", 2), ("unseen", 3)):
        for layer in range(layers):
            apart = 0.06 * abs(layer - layers // 2)
            about = {"layer": layer + 2, "position": "t_inst", "group": group, "n_languages": n, "n_meanings": 100, "null": 0.55, "reference": 4}
            told = "" if not apart else "better" if apart > 0.1 else "not told apart"
            put("layers_compared", **about, value=0.9 - apart, low=0.85 - apart, high=0.94 - apart, difference=apart, difference_low=apart - 0.08,
                difference_high=apart + 0.08, verdict=told)  # fmt: skip
    for number, method in enumerate(one for one in RATES if one not in (START, "gate, shrinkage", "lasa, weights alone")):
        put("cost", method=method, seconds=60.0 * (number + 1), steps=steps, tokens=10_000 * (number + 1), trained_parameters=1_900_000)
    put("dropped", what="preference row", language="qae", n=3, reason="no pair")
    return {name: pd.DataFrame(rows) for name, rows in out.items()}


def write_fake_training(folder: Path, *, without: tuple[str, ...] = (), method: str = "lasa", gate: bool = True) -> Path:
    """Write a run folder of a repair by training; ``without`` names tables to leave out, ``gate`` whether one was measured beside it."""
    for name, table in fake_training().items():
        if name not in without:
            if not gate and "method" in table:
                table = table[~table["method"].str.startswith("gate")].reset_index(drop=True)
            Result(table, {"seed": 0}).save(folder / "results" / f"{name}.parquet")
    manifest = {
        "schema": "workbench-run/1",
        "kind": "training repair",
        "method": method,
        "status": "finished",
        "spec": {
            "kind": "training repair", "method": method, "model": {"model": "organism:aligned", "dtype": "float32"},
            "prompts": {"source": "organism", "hash": "0" * 64}, "train_languages": None, "interpreter_languages": None, "layer": None, "seed": 0,
            "training": {"learning_rate": 3e-4, "epochs": 3, "max_steps": None, "batch_size": 32, "accumulation": 1, "lora": None},
        },
        "reference": list(TRAINED),
        "languages": {tag: {"name": f"Name of {tag}", "tier": tier} for tag, tier in TIERS.items()},
        "organism": True,
        "versions": {"python": "3.11.7"},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    summary = {
        "schema": "workbench-training/1", "model": {"name": "organism:aligned"}, "method": method, "unrepaired": START,
        "labels": "replies in qaa, qab", "languages": {tag: {"tier": tier, "seen": tag in TRAINED} for tag, tier in TIERS.items()},
        "repaired": "model",
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder
