"""What the rival gates decide, and what the faults of the released code change: the tables of docs/rivals.md.

Run ``python tests/benchmarks/rivals.py RUN_FOLDER`` from the repository root, with a finished run of ``workbench demo`` (its stored activations
are read, nothing is generated), and the shared data beside it for the released AdaSteer states. Gates are fitted on the high-resource languages'
fit meanings at layer 7 of ``t_inst``, given k examples per class from the select meanings, and score the low-resource languages' score meanings.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd
import xarray as xr

from workbench.activations.store import open_store
from workbench.gates import BalancedF1, Gate, GateData, GateWarning, gate_data
from workbench.gates.adasteer import AdaSteer
from workbench.gates.adasteer_law import RELEASED, position
from workbench.gates.adasteer_vectors import net_strength, projected_share, relative_push
from workbench.gates.cast import RELEASED_STRENGTH, CastGate, fit_cast
from workbench.gates.condition_point import RELEASED_GRID
from workbench.gates.controls import fit_controls
from workbench.gates.latent_guard import LatentGuard, layer_stack
from workbench.gates.one_direction import DirectionGate
from workbench.statistics import auroc, balanced_accuracy

SHARED = Path(os.environ.get("WORKBENCH_SHARED", Path(__file__).parents[3] / "shared"))
LAYER, POSITION, DRAWS = 7, "t_inst", 20
MODELS = {"qwen25-7b-instruct": "qwen2.5-7b-instruct", "gemma2-9b-it": "gemma-2-9b-it"}


class MidpointCast(CastGate):
    """CAST whose few-shot threshold is the other gates'."""

    def recalibrate(self, X: Any, y: Any = None, *, language: str | None = None, policy: Any = None) -> Any:
        """Set the threshold by balanced F1."""
        return super().recalibrate(X, y, language=language, policy=BalancedF1())


def by_language(gate: Gate, scored: GateData, decided: GateData | None = None, tag: str = "unknown") -> tuple[float, float]:
    """Return AUROC and balanced accuracy on some rows."""
    scores = np.nan_to_num(gate.decision_function(scored, tag), nan=-1e9)
    return auroc(scored.y, scores), balanced_accuracy(scored.y, gate.predict(scored, tag))


def measured(gate: Gate, data: GateData, low: Sequence[str]) -> dict[str, np.ndarray]:
    """Measure one gate: AUROC and balanced accuracy at k = 0 by language, and balanced accuracy, mean over languages, by draw."""
    parts = {tag: data.select(languages=tag, split="score") for tag in low}
    found = np.array([by_language(gate, parts[tag]) for tag in low])
    told = {"AUROC": found[:, 0], "k = 0": found[:, 1]}
    for k in (1, 4):
        rng, values = np.random.default_rng(0), np.empty((DRAWS, len(low)))
        for i, j in np.ndindex(values.shape):
            again = gate.recalibrate(data.select(split="select").draw(k, low[j], rng))
            values[i, j] = by_language(again, parts[low[j]], tag=low[j])[1]
        told[f"k = {k}"] = values.mean(axis=1)
    return told


def row(name: str, gates_: Sequence[Gate], data: GateData, low: Sequence[str]) -> dict[str, str]:
    """Measure gates of one kind together: mean [lowest, highest] language, and mean [2.5, 97.5 %] of draws."""
    several = [measured(gate, data, low) for gate in gates_]
    told = {"gate": name if len(several) == 1 else f"{name} ({len(several)} of them)"}
    for column in several[0]:
        values = np.concatenate([each[column] for each in several])
        ends = np.quantile(values, (0.025, 0.975)) if column in ("k = 1", "k = 4") else (values.min(), values.max())
        told[column] = f"{values.mean():.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"
    return told


def gates(acts: xr.Dataset, high: Sequence[str], low: Sequence[str]) -> pd.DataFrame:
    """Fit and measure every gate and control."""
    data = gate_data(acts, LAYER, POSITION)
    source, layers = data.select(languages=high, split="fit"), [int(k) for k in acts["layer"].values if k]
    stack = layer_stack(acts, layers, POSITION)
    rows = [
        row("one direction", [DirectionGate().fit(source)], data, low),
        row("Latent Guard, this layer", [LatentGuard().fit(source)], data, low),
        row("Latent Guard, all layers", [LatentGuard(n_layers=len(layers)).fit(stack.select(languages=high, split="fit"))], stack, low),
        row("CAST, published", [CastGate().fit(source)], data, low),
        row("CAST, signed", [CastGate(signed=True).fit(source)], data, low),
    ]
    for signed in (False, True):
        chosen = fit_cast(acts, layers, POSITION, gate=CastGate(signed=signed), languages=high)
        name = f"CAST, {'signed' if signed else 'published'}, searched (layer {chosen.place_.layer})"
        rows.append(row(name, [chosen], gate_data(acts, chosen.place_.layer, POSITION), low))
    for signed in (False, True):
        kind = MidpointCast(signed=signed)
        rows.append(row(f"CAST, {'signed' if signed else 'published'}, threshold by balanced F1", [kind.fit(source)], data, low))
    rows += [row(f"AdaSteer, adapt={how!r}", [AdaSteer(adapt=how).fit(source)], data, low) for how in ("shift", "anchors")]
    controls = fit_controls(DirectionGate(), source, data.select(split="score"), rng=np.random.default_rng(0))
    for kind in ("random direction", "permuted labels"):
        rows.append(row(kind, [gate for name, gate in controls.items() if name.startswith(kind)], data, low))
    return pd.DataFrame(rows)


def faults(acts: xr.Dataset, high: Sequence[str], low: Sequence[str]) -> pd.DataFrame:
    """Measure what the published similarity and each fault of CAST's released code change, at k = 0 on the low-resource languages' score rows."""
    data, above = gate_data(acts, LAYER, POSITION), gate_data(acts, LAYER + 1, POSITION)
    source, elsewhere = (part.select(languages=high, split="fit") for part in (data, above))
    scored = data.select(languages=low, split="score")
    variants = {
        "none (signed)": (CastGate(signed=True).fit(source), None),
        "published similarity": (CastGate().fit(source), None),
        "threshold rounded after the search": (CastGate(signed=True, as_released=True).fit(source), None),
        "released grid 0 to .06": (CastGate(signed=True, grid=RELEASED_GRID).fit(source), None),
        "vector one layer higher than tested": (CastGate(signed=True).fit(source, condition_states=elsewhere), None),
        "first row of 16 only": (CastGate(signed=True, first_row_only=True).fit(source), 16),
    }
    rows = []
    for name, (gate, batch) in variants.items():
        order = np.random.default_rng(0).permutation(len(scored))
        cuts = np.array_split(order, len(order) // batch) if batch else [order]
        fires = np.concatenate([gate.predict(scored.take(rows_), "unknown") for rows_ in cuts])
        y = scored.y[np.concatenate(cuts)]
        cosine = float(gate.condition_ @ variants["none (signed)"][0].condition_)
        told = {"fault": name, "cosine of the vector": cosine, "threshold": gate.point_threshold_, "fires": gate.comparator_}
        rows.append(told | {"F1 in the search": gate.f1_, "F1 running": gate.f1_running_, "balanced accuracy": balanced_accuracy(y, fires)})
    return pd.DataFrame(rows)


def released_laws(folder: Path) -> Iterator[dict[str, Any]]:
    """Say what the released constants do at the released anchors: means over prompts, and over layers for the net multiple of RD."""
    from safetensors.numpy import load_file

    for name, model in MODELS.items():
        states, law = {k: v.astype(np.float64) for k, v in load_file(folder / f"adasteer_{name}.safetensors").items()}, RELEASED[model]
        share = projected_share(states["HD.mean_diff"], states["RD.mean_diff"])
        ends = {
            "RD": [states[f"RD.class_{part}"][law.rejection_layer - 1].mean(axis=0) for part in "ab"],
            "HD": [states[f"HD.class_{part}"][law.harmfulness_layer - 1].mean(axis=0) for part in "ab"],
        }
        for group, tensor in (("harmful, complied", "RD.class_a"), ("harmful, refused", "RD.class_b"), ("benign, complied", "HD.class_b")):
            x = {
                "RD": position(states[tensor][law.rejection_layer - 1], *ends["RD"]),
                "HD": position(states[tensor][law.harmfulness_layer - 1], *ends["HD"]),
            }
            alpha, beta = law.rejection(x["RD"]), law.harmfulness(x["HD"])
            net = net_strength(alpha, beta, share)
            push = np.array([relative_push(1.0, net[i][:, None] * states["RD.mean_diff"], states[tensor]) for i in range(len(net))])
            yield {
                "model": model, "group": group, "n": len(alpha), "x on RD": x["RD"].mean(), "x on HD": x["HD"].mean(),
                "alpha": alpha.mean(), "beta": beta.mean(), "alpha + beta rho": net.mean(),
                "push / length of a state": np.median(np.abs(push).mean(axis=0)),
            }  # fmt: skip


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run", type=Path, help="a run folder of `workbench demo`")
    acts = open_store(arguments.parse_args().run / "activations" / "after.zarr")
    tiers = dict(zip(acts["language"].values, acts["tier"].values, strict=True))
    high, low = ([str(tag) for tag, tier in tiers.items() if tier == wanted] for wanted in ("high", "low"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateWarning)
        tables = [gates(acts, high, low), faults(acts, high, low)]
    folder = SHARED / "data" / "real_activations"
    if folder.is_dir():
        tables.append(pd.DataFrame(released_laws(folder)))
        for name, model in MODELS.items():
            from safetensors.numpy import load_file

            states = load_file(folder / f"adasteer_{name}.safetensors")["RD.class_a"].astype(np.float64)
            lengths = np.sqrt((states**2).sum(axis=2).mean(axis=1))
            at = [k for k in (15, 19, 23) if k <= len(lengths)]
            told = ", ".join(f"layer {k}: {RELEASED_STRENGTH / lengths[k - 1]:.3f}" for k in at)
            sys.stdout.write(f"CAST strength {RELEASED_STRENGTH} / length of a state, {model}: {told}\n")
    for table in tables:
        lines = ["| " + " | ".join(table.columns) + " |", "| --- " * len(table.columns) + "|"]
        cells = table.map(lambda v: "" if pd.isna(v) else f"{v:.3f}" if isinstance(v, float) else str(v))
        sys.stdout.write("\n".join([*lines, *("| " + " | ".join(r) + " |" for r in cells.to_numpy())]) + "\n\n")


if __name__ == "__main__":
    main()
