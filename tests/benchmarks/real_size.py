"""A real model's size without the hub: random weights in Qwen2.5-0.5B's configuration through ``workbench capture``.

Run ``python tests/benchmarks/real_size.py [--limit N] [--json PATH]`` from the repository root, with the shared data beside it.
The configuration (24 blocks, width 896, 14 heads, 2 key/value heads, vocabulary 151,936, tied embeddings: 494 M parameters) and
the real Qwen2 tokenizer and chat template are saved to a directory; the command line then reads PolyRefuse's validation prompts in
14 languages from it, as it would read the downloaded model. Weights are random, so speed and memory are the point, not values.

``--json`` writes ``{"prompts", "languages", "tokens", "seconds", "prompts_per_second", "tokens_per_second", "peak_mb", "store_mb",
"threads", "torch"}``; seconds are wall time of the whole command, loading and the self-check included, and peak_mb its
resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

SHARED = Path(os.environ.get("WORKBENCH_SHARED", Path(__file__).parents[3] / "shared"))
QWEN25_05B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}


def save_model(folder: Path, **changes: object) -> None:
    """Write a random Qwen2 of this configuration with the real tokenizer and template, in bfloat16 as the hub stores it."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "weights" / "qwen2_tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**{**QWEN25_05B, **changes}, bos_token_id=151_643, eos_token_id=151_645))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=20, help="meanings per class")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, store = Path(scratch) / "qwen2.5-0.5b-random", Path(scratch) / "acts.zarr"
        save_model(folder)
        command = [str(Path(sys.executable).parent / "workbench"), "capture", str(folder)]
        command += ["--prompts", f"polyrefuse:{SHARED / 'data' / 'polyrefuse'}", "--limit", str(asked.limit), "--store", str(store)]
        started = time.monotonic()
        subprocess.run(command, check=True)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        from workbench.activations.store import open_store

        acts = open_store(store)
        tokens = int(acts["n_tokens"].sum())
        result = {
            "prompts": acts.sizes["prompt"],
            "languages": len(set(acts["language"].values.tolist())),
            "tokens": tokens,
            "seconds": round(seconds, 1),
            "prompts_per_second": round(acts.sizes["prompt"] / seconds, 2),
            "tokens_per_second": round(tokens / seconds, 1),
            "peak_mb": round(peak),
            "store_mb": round(sum(f.stat().st_size for f in store.rglob("*") if f.is_file()) / 2**20, 1),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
    width = max(map(len, result))
    sys.stdout.write("".join(f"{name:<{width}}  {value}\n" for name, value in result.items()))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
