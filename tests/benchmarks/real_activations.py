"""Where real 7-9B chat models separate their classes: released AdaSteer states through ``separation``.

Run ``python tests/benchmarks/real_activations.py`` from the repository root, with the shared data beside it. Two contrasts per
model: "refused" is harmful prompts complied with against harmful prompts refused, "harm" is harmful against benign prompts, both
complied with. States are block outputs at the last token of the prompt, so block b is layer b + 1. The table is that of
docs/real-activations.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[2]))

SHARED = Path(os.environ.get("WORKBENCH_SHARED", Path(__file__).parents[3] / "shared"))
MODELS = ("qwen25-7b-instruct", "gemma2-9b-it")
#: Contrast -> (tensor of the class marked, tensor of the other class).
CONTRASTS = {"refused": ("RD.class_b", "RD.class_a"), "harm": ("HD.class_a", "HD.class_b")}


def store_of(folder: Path, model: str, contrast: str) -> xr.Dataset:
    """Label the states of one contrast as ``capture`` would; the class marked is ``harmful``."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / f"adasteer_{model}.safetensors")
    marked, other = (tensors[name] for name in CONTRASTS[contrast])
    states = np.concatenate([marked, other], axis=1).transpose(1, 0, 2)[:, :, None]
    names = [f"{kind}{i}" for kind, part in (("marked", marked), ("other", other)) for i in range(part.shape[1])]
    coords = {
        "prompt": names,
        "meaning_id": ("prompt", names),
        "language": ("prompt", ["en"] * len(names)),
        "harmful": ("prompt", np.arange(len(names)) < marked.shape[1]),
        "tier": ("prompt", ["high"] * len(names)),
        "layer": np.arange(1, len(marked) + 1),
        "position": ["t_post_inst"],
    }
    return xr.Dataset({"residual": (("prompt", "layer", "position", "hidden"), states)}, coords=coords, attrs={"model": model})


def main() -> None:
    """Measure and print."""
    from workbench.geometry.separation import separation

    columns = (
        "model",
        "contrast",
        "statistic",
        "prompts per class",
        "layer of the largest value",
        "value [95 % interval]",
        "null there, 95 %",
        "layers above",
    )
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for model in MODELS:
        for contrast in CONTRASTS:
            found = separation(store_of(SHARED / "data" / "real_activations", model, contrast), split=None, bases=("own",)).table
            for statistic, part in found.groupby("statistic", sort=False):
                best: pd.Series = part.loc[part["value"].idxmax()]
                tied = part[part["value"] >= best["value"] - 1e-9]["layer"]
                where = str(best["layer"]) if len(tied) == 1 else f"{tied.min()} and {len(tied) - 1} others, last {tied.max()}"
                interval = f"{best['value']:.2f} [{best['low']:.2f}, {best['high']:.2f}]"
                above = int((part["value"] > part["null_95"]).sum())
                name, n = str(statistic).replace("_", " "), str(best["n"] // 2)
                cells = [model, contrast, name, n, where, interval, f"{best['null_95']:.2f}", f"{above} of {len(part)}"]
                lines.append("| " + " | ".join(cells) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
