"""Do the intervals of separations, of their changes and of their contrasts cover? A simulation through ``separation``.

Run ``python tests/benchmarks/separation_coverage.py [--draws 100] [--quick] [--json PATH]`` from the repository root.
Each draw makes two languages in two models on the same prompts: meanings share part of their noise between languages and models
(so changes and contrasts are paired), the classes lie apart along one random direction, further after than before and only in the
first language. The target of an interval is the mean of the statistic over all draws of a setting: the expected value for so
many prompts. Spectra: "flat" (every dimension alike: axes are found in noise), "power" (variance 1/j) and "steep" (variance 1/j^2).
"twins": each harmful prompt has a harmless twin that shares most of its noise, and ``pair_id`` names the pair.

``--json`` writes one row per setting, basis and statistic: mean, coverage, median width, and how often a change or contrast excludes 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[2]))

SHARED_BY_MODELS, SHARED_BY_LANGUAGES, SHARED_BY_TWINS = 0.7, 0.5, 0.8
DEVIATION = {"flat": lambda j: np.ones_like(j), "power": lambda j: j**-0.5, "steep": lambda j: j**-1.0}
#: Distance of the classes before and after, in root total variances.
EFFECTS = {"none": (0.0, 0.0), "weak": (0.05, 0.2), "strong": (0.2, 1.0)}
WHOLE = [("power", n, width, "weak", False) for n in (50, 100, 200) for width in (64, 256, 1024)]
EXTRA = [("flat", 50, 64, "none", False), ("flat", 50, 1024, "weak", False), ("flat", 100, 256, "strong", False), ("power", 50, 256, "none", False)]
EXTRA += [("steep", 50, 64, "none", False), ("steep", 50, 256, "weak", False), ("steep", 100, 256, "strong", False)]
EXTRA += [
    ("power", 50, 256, "strong", False),
    ("power", 50, 256, "weak", True),
    ("power", 100, 256, "strong", True),
    ("steep", 50, 256, "none", True),
]


def _mixed(rng: np.random.Generator, base: np.ndarray, share: float) -> np.ndarray:
    return np.sqrt(share) * base + np.sqrt(1 - share) * rng.normal(size=base.shape)


def draw(rng: np.random.Generator, spectrum: str, n: int, width: int, effect: str, twins: bool) -> list[np.ndarray]:
    """Return the states before and after: [language x prompt, hidden], harmful prompts first in each language."""
    deviation = DEVIATION[spectrum](np.arange(1.0, width + 1))
    direction = rng.normal(size=width)
    direction *= np.sqrt((deviation**2).sum()) / np.linalg.norm(direction)
    harmful = rng.normal(size=(n, width))
    meaning = np.concatenate([harmful, _mixed(rng, harmful, SHARED_BY_TWINS if twins else 0.0)])
    sign, out = np.repeat([0.5, -0.5], n)[:, None], [[], []]
    for language in range(2):
        here = _mixed(rng, meaning, SHARED_BY_LANGUAGES)
        for states, distance in zip(out, (EFFECTS[effect][0], EFFECTS[effect][language == 0]), strict=True):
            states.append(_mixed(rng, here, SHARED_BY_MODELS) * deviation + sign * distance * direction)
    return [np.concatenate(parts) for parts in out]


def stores(draws: list[list[np.ndarray]], n: int, twins: bool) -> list[xr.Dataset]:
    """Label draws as two stores; every draw is one layer."""
    meanings = np.tile([f"m{i}" for i in range(2 * n)], 2)
    coords = {
        "prompt": [f"{a}:{i}" for a in ("qaa", "qab") for i in range(2 * n)],
        "meaning_id": ("prompt", meanings),
        "language": ("prompt", np.repeat(["qaa", "qab"], 2 * n)),
        "harmful": ("prompt", np.tile(np.arange(2 * n) < n, 2)),
        "layer": np.arange(len(draws)),
        "position": ["t_inst"],
    }
    if twins:
        coords["pair_id"] = ("prompt", np.tile([f"p{i % n}" for i in range(2 * n)], 2))
    stacked = [np.stack([found[model] for found in draws], axis=1)[:, :, None] for model in (0, 1)]
    return [xr.Dataset({"residual": (("prompt", "layer", "position", "hidden"), states)}, coords=coords) for states in stacked]


def measure(setting: tuple[str, int, int, str, bool], draws: int, seed: int) -> list[dict[str, object]]:
    """Simulate one setting and return its rows."""
    from workbench.geometry.separation import separation

    _, n, width, _, twins = setting
    rng, tables = np.random.default_rng(seed), []
    for first in range(0, draws, 10):
        before, after = stores([draw(rng, *setting) for _ in range(min(10, draws - first))], n, twins)
        found = separation(after, before, split=None, permutations=0)
        values = found.table[found.table["language"] == "qaa"].assign(what=lambda t: "value " + t["model"])
        change = found.change().table.query("language == 'qaa'").rename(columns={"change": "value"}).assign(what="change")
        contrast = found.contrast(["qaa"], ["qab"]).table.rename(columns={"contrast": "value"}).assign(what="contrast")
        tables += [part[["what", "basis", "statistic", "value", "low", "high"]] for part in (values, change, contrast)]
    rows = []
    for (what, basis, statistic), part in pd.concat(tables).groupby(["what", "basis", "statistic"], sort=False):
        mean = part["value"].mean()
        rows.append(
            {
                **dict(zip(("spectrum", "n", "width", "effect", "twins"), setting, strict=True)),
                "what": what,
                "basis": basis,
                "statistic": statistic,
                "mean": float(mean),
                "spread": float(part["value"].std()),
                "coverage": float(((part["low"] <= mean) & (mean <= part["high"])).mean()),
                "width": float((part["high"] - part["low"]).median()),
                "excludes_0": float(((part["low"] > 0) | (part["high"] < 0)).mean()),
            }
        )
    return [row | {"interval_width": row.pop("width")} | {"width": width} for row in rows]


def say(text: str) -> None:
    """Write a line at once: a run takes minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="only the narrow settings with 50 prompts per class")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: list[dict[str, object]] = []
    for number, setting in enumerate(itertools.chain(WHOLE, EXTRA)):
        if asked.quick and (setting[1] > 50 or setting[2] > 256):
            continue
        found = measure(setting, asked.draws, asked.seed + 1000 * number)
        rows += found
        told = pd.DataFrame(found)
        told["cell"] = told["what"] + " " + told["basis"]
        say(f"\n{setting[0]}, {setting[1]} per class, width {setting[2]}, effect {setting[3]}{', twins' if setting[4] else ''}")
        say(told.pivot(index="statistic", columns="cell", values="coverage").round(2).to_string())
        if asked.json:
            asked.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    table = pd.DataFrame(rows)
    say("\nLeast and median coverage over settings, median interval width, and how often 0 is excluded where nothing changed and where it did")
    nothing = table["effect"] == "none"
    keys = ["statistic", "basis", "what"]
    told = table.groupby(keys).agg(least=("coverage", "min"), median=("coverage", "median"), width=("interval_width", "median"))
    for name, part in (("excluded, no effect", table[nothing]), ("excluded, effect", table[~nothing])):
        told[name] = part.groupby(keys)["excludes_0"].mean()
    say(told.round(3).to_string())


if __name__ == "__main__":
    main()
