"""What the geometry of a real model's size costs: against reading the same store once, and in memory.

Run ``python tests/benchmarks/geometry.py [--json PATH] [--rounds N] [--threads N]`` from the repository root. 23 languages x 100
meanings x 33 layers of width 4096 in float16, 620 MB, written through the Store and Plan that ``capture`` writes with. The states
are made up (a model of that width would run for hours on a CPU): language, meaning, harm and noise of changing strength, far from
zero, with four dimensions much larger than the others. The store is made in the directory for temporary files and removed again.

Every method reads the store itself, one layer at a time. "read and sum" converts each layer to float32 and adds it up; "cosines"
normalises its rows in float32 and multiplies them with each other, once. Times are CPU seconds of the process (all its threads);
methods take turns and the median over rounds is given. Peak memory is the resident set of a fresh process that runs one method,
imports included. Values are asserted, times are not: shares and their intervals against float64 code that decomposes a layer again
for each meaning left out, silhouettes against scikit-learn.

``--json`` writes ``{"goals": {name: {"ratio", "goal", "met"}}, "methods": {name: {"cpu_s", "cpu_s_rounds", "peak_mb"}}, "parity": {...},
"store": {"shape", "dtype", "mb"}, "machine": {"threads", "numpy", "zarr", "xarray"}}``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd
import xarray as xr
from threadpoolctl import threadpool_limits

from tests.benchmarks.memory import own_peak_mb
from workbench.activations.plan import Plan
from workbench.activations.store import Store, open_store
from workbench.geometry import find_bottleneck, harm_variance, silhouettes, variance_shares
from workbench.geometry.variance import shares_of
from workbench.statistics import jackknife_influence, jackknife_interval

LANGUAGES, MEANINGS, LAYERS, WIDTH = 23, 100, 33, 4096
SCALINGS = ("raw", "unit", "standardised")
CHECKED = (0, 17, 32)  # layers whose values are computed again
PEAK_MB = 2000
LABELS = {"language": "language", "meaning": "meaning_id"}


def write_store(path: Path) -> None:
    """Write made-up states as capture would: shard by shard, each recorded with its checksums."""
    plan = Plan(layers=tuple(range(LAYERS)), positions=("t_post_inst",), dtype="float16")
    tags, names = [f"q{chr(97 + a // 26)}{chr(97 + a % 26)}" for a in range(LANGUAGES)], [f"m{i}" for i in range(MEANINGS)]
    table = pd.DataFrame(
        [{"prompt_id": f"{m}:{t}", "meaning_id": m, "language": t, "harmful": i % 2 == 0} for t in tags for i, m in enumerate(names)]
    )
    table = table.assign(category=None, split=None, tier=None, n_tokens=20, n_text_tokens=12, n_chars=60)
    store = Store.create(path, plan=plan, identity={"plan": plan.to_dict()}, provenance={"model": "made up"}, table=table, hidden=WIDTH)
    rng = np.random.default_rng(0)
    towers, meanings, harm = (rng.normal(size=(LAYERS, n, WIDTH)).astype(np.float32) for n in (LANGUAGES, MEANINGS, 1))
    depth = np.linspace(0, 1, LAYERS, dtype=np.float32)
    scale = np.where(np.isin(np.arange(WIDTH), [7, 1000, 2533, 4000]), np.float32(200), np.float32(1))
    for number, rows in enumerate(plan.shards(len(table))):
        at = np.arange(rows.start, rows.stop)
        block = np.empty((len(rows), LAYERS, 1, WIDTH), dtype=np.float16)
        for k in range(LAYERS):
            states = (1.5 - depth[k]) * towers[k][at // MEANINGS] + 2 * depth[k] * (1 - depth[k]) * meanings[k][at % MEANINGS]
            states += 0.3 * depth[k] * harm[k] * (at % MEANINGS % 2 == 0)[:, None] + rng.standard_normal(states.shape, dtype=np.float32)
            block[:, k, 0] = (states + 3) * scale
        store.write(number, rows, block, token_budget=plan.token_budget)
    store.finish()


def read(acts: xr.Dataset) -> None:
    """Read every layer."""
    for k in range(LAYERS):
        _ = acts["residual"].isel(layer=k).values


def read_and_sum(acts: xr.Dataset) -> float:
    """Read every layer, convert it to float32 and add it up."""
    return sum(float(acts["residual"].isel(layer=k).values.astype(np.float32).sum()) for k in range(LAYERS))


def cosines(acts: xr.Dataset) -> None:
    """Compute each layer's matrix of cosines in float32, once."""
    for k in range(LAYERS):
        states = acts["residual"].isel(layer=k, position=0).values.astype(np.float32)
        states /= np.sqrt(np.einsum("rd,rd->r", states, states))[:, None]
        _ = states @ states.T


METHODS: dict[str, Callable[[xr.Dataset], Any]] = {
    "read": read,
    "read and sum": read_and_sum,
    **{f"variance_shares, {s}": lambda acts, s=s: variance_shares(acts, scalings=[s]) for s in SCALINGS},
    "variance_shares, all three": variance_shares,
    **{f"harm_variance, {s}": lambda acts, s=s: harm_variance(acts, scalings=[s], permutations=200) for s in SCALINGS},
    "cosines": cosines,
    "silhouettes": lambda acts: silhouettes(acts, max_meanings=100, resamples=1000, permutations=200),
    "silhouettes without null": lambda acts: silhouettes(acts, max_meanings=100, resamples=1000, permutations=0),
    "silhouettes and bottleneck": lambda acts: find_bottleneck(acts, max_meanings=100, resamples=1000, permutations=200),
    "silhouettes, bootstrap": lambda acts: silhouettes(acts, max_meanings=100, interval="bootstrap", resamples=1000, permutations=200),
}
#: Method -> (baseline, the goal for the ratio of CPU seconds).
GOALS = {
    **{f"{name}, {s}": ("read and sum", 3.0) for name in ("variance_shares", "harm_variance") for s in SCALINGS},
    **{name: ("cosines", 6.0) for name in ("silhouettes", "silhouettes and bottleneck", "silhouettes, bootstrap")},
}


def recomputed(states: np.ndarray, scaling: str) -> np.ndarray:
    """Share, low and high of one layer in float64, decomposing again for each meaning left out."""
    states = states.astype(np.float64)
    if scaling == "unit":
        states /= np.linalg.norm(states, axis=-1, keepdims=True)
    if scaling == "standardised":
        states = (states - states.mean(axis=(0, 1))) / states.std(axis=(0, 1))

    def squares(grid: np.ndarray) -> np.ndarray:
        centred = grid - grid.mean(axis=(0, 1))
        by_language, by_meaning = centred.mean(axis=1), centred.mean(axis=0)
        parts = grid.shape[1] * (by_language**2).sum(), grid.shape[0] * (by_meaning**2).sum()
        return np.array([*parts, (centred**2).sum() - sum(parts)])

    share = shares_of(squares(states)[None])[0]
    without = shares_of(np.array([squares(np.delete(states, i, axis=1)) for i in range(states.shape[1])]))
    return np.stack([share, *jackknife_interval(share, jackknife_influence(share, without))], axis=1)


def parity(acts: xr.Dataset) -> dict[str, float]:
    """Compare some layers with code that shares nothing with the package, and assert that they agree."""
    from sklearn.metrics import silhouette_score

    part = acts.isel(layer=list(CHECKED))
    shares, harm = variance_shares(part).table, harm_variance(part, permutations=0).table
    # every fifth meaning here: one float64 decomposition per meaning left out takes its time
    fewer = acts.isel(layer=list(CHECKED), prompt=np.flatnonzero(np.arange(LANGUAGES * MEANINGS) % MEANINGS % 5 == 0))
    few, gaps = variance_shares(fewer).table, []
    for scaling in SCALINGS:
        for layer in CHECKED:
            states = fewer["residual"].sel(layer=layer).values.reshape(LANGUAGES, MEANINGS // 5, WIDTH)
            rows = few[(few["scaling"] == scaling) & (few["layer"] == layer)]
            gaps.append(np.abs(rows[["share", "low", "high"]].to_numpy() - recomputed(states, scaling)).max())
    two = shares.pivot(index=["scaling", "layer"], columns="factor", values="share")
    five = harm.pivot(index=["scaling", "layer"], columns="factor", values="share")
    regrouped = np.abs(five["harm"] + five["meaning"] - two["meaning"]).max()
    first = acts["residual"].isel(layer=CHECKED[1], position=0).values.astype(np.float64)
    ours = silhouettes(acts.isel(layer=[CHECKED[1]]), max_meanings=100, permutations=0).table.set_index("statistic")["value"]
    theirs = {name: silhouette_score(first, acts[coordinate].values, metric="cosine") for name, coordinate in LABELS.items()}
    found = {
        "shares_and_intervals": float(max(gaps)),
        "three_factors_regrouped": float(regrouped),
        "silhouettes": float(max(abs(ours[name] - value) for name, value in theirs.items())),
    }
    assert all(gap < 1e-6 for gap in (found["shares_and_intervals"], found["three_factors_regrouped"])), found
    assert found["silhouettes"] < 1e-5, found
    return found


def peak_mb(method: str, store: Path, threads: int) -> float:
    """Run one method in a process of its own and return its peak resident set in MB."""
    command = [sys.executable, __file__, "--only", method, "--store", str(store), "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout.split()[-1])


def measure(store: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Time the methods in turns, compare values, measure memory."""
    acts = open_store(store)
    agreed = parity(acts)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    read(acts)  # into the operating system's cache
    for _ in range(rounds):
        for name, method in METHODS.items():
            start = time.process_time()
            method(acts)
            seconds[name].append(time.process_time() - start)
    cpu = {name: statistics.median(times) for name, times in seconds.items()}
    goals = {}
    for name, (baseline, goal) in GOALS.items():
        ratio = cpu[name] / cpu[baseline]
        goals[f"{name} / {baseline}"] = {"ratio": ratio, "goal": f"at most {goal:g}", "met": ratio <= goal}
    peaks = {name: peak_mb(name, store, threads) for name in METHODS}
    goals["largest peak, MB"] = {"ratio": max(peaks.values()), "goal": f"at most {PEAK_MB}", "met": max(peaks.values()) <= PEAK_MB}
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    return {
        "goals": goals,
        "methods": {name: {"cpu_s": cpu[name], "cpu_s_rounds": seconds[name], "peak_mb": peaks[name]} for name in METHODS},
        "parity": agreed,
        "store": {"shape": list(acts["residual"].shape), "dtype": str(acts["residual"].dtype), "mb": size / 1e6},
        "machine": {"threads": threads, **{name: version(name) for name in ("numpy", "zarr", "xarray")}},
    }


def table(report: dict[str, Any]) -> str:
    """Lay the figures out for reading."""
    summed = report["methods"]["read and sum"]["cpu_s"]
    lines = [f"{'method':<40}{'CPU s':>8}{'/ read and sum':>16}{'peak MB':>9}"]
    for name, row in report["methods"].items():
        lines.append(f"{name:<40}{row['cpu_s']:>8.2f}{row['cpu_s'] / summed:>16.2f}{row['peak_mb']:>9.0f}")
    lines.append("")
    for name, row in report["goals"].items():
        lines.append(f"{name:<50}{row['ratio']:>9.2f}  goal {row['goal']:<14}{'met' if row['met'] else 'NOT met'}")
    lines.append("values agree: " + ", ".join(f"{name} {gap:.1e}" for name, gap in report["parity"].items()))
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=METHODS, help="run one method once and write its peak memory (MB)")
    parser.add_argument("--store", type=Path, help="the store for --only")
    options = parser.parse_args()
    with threadpool_limits(options.threads):
        if options.only:
            METHODS[options.only](open_store(options.store))
            sys.stdout.write(f"{own_peak_mb():.0f}\n")
            return
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "store.zarr"
            write_store(store)
            report = measure(store, options.rounds, options.threads)
    sys.stdout.write(table(report) + "\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
