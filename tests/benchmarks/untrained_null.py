"""What an untrained model seems to know about harm: PolyRefuse through ``diagnose`` on random weights, three seeds.

Run ``python tests/benchmarks/untrained_null.py [--limit N] [--seeds 3] [--json PATH]`` from the repository root, with the shared data
beside it. A small Qwen2 configuration (8 blocks, width 256, never trained) with the real Qwen2 tokenizer and template is diagnosed
as if it were a model. Its AUROC is well above .5, because the classes differ on the surface; the report must not call that
representation.

``--json`` writes ``{"seeds": [{"seed", "auroc": {position: {"mean", "low", "high"}}, "represented", "cells"}]}``: mean, least and largest
AUROC over languages at the layer chosen on the select split, and how many language-position cells were called represented.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED = Path(os.environ.get("WORKBENCH_SHARED", Path(__file__).parents[3] / "shared"))
SMALL = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2}


def untrained(seed: int, limit: int, folder: Path) -> dict[str, object]:
    """Diagnose one untrained model and return what its report says about harm."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from workbench.diagnosis.diagnose import diagnose

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "weights" / "qwen2_tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(1000 + seed)
        model = Qwen2ForCausalLM(Qwen2Config(**SMALL, vocab_size=151_936, max_position_embeddings=4096, tie_word_embeddings=True))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    run = diagnose(
        str(folder / "model"),
        prompts=f"polyrefuse:{SHARED / 'data' / 'polyrefuse'}",
        subset="train",
        limit=limit,
        null_seeds=3,
        seed=seed,
        max_new_tokens=2,
        out=folder / "run",
    )
    table = run.result("harm_represented").table
    auroc = {
        position: {"mean": round(part["auroc"].mean(), 3), "low": round(part["auroc"].min(), 3), "high": round(part["auroc"].max(), 3)}
        for position, part in table.groupby("position")
    }
    return {"seed": seed, "auroc": auroc, "represented": int(table["represented"].sum()), "cells": len(table)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=100, help="meanings per class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(untrained(seed, asked.limit, Path(scratch)))
        sys.stdout.write(f"{json.dumps(rows[-1])}\n")
    if asked.json:
        asked.json.write_text(json.dumps({"seeds": rows}, indent=1), encoding="utf-8")
    if any(row["represented"] for row in rows):
        sys.exit("An untrained model was said to represent harm.")


if __name__ == "__main__":
    main()
