"""What capture costs: against the bare forward pass, against careless batches, against TransformerLens; and peak memory.

Run ``python tests/benchmarks/capture.py [--json PATH] [--rounds N] [--threads N]`` from the repository root. The last token's residual
stream at all 13 layers of a 12-layer random Llama (width 512, 32,000 tokens) is read on 256 prompts of 16 to 128 tokens.

Times are CPU seconds of the process (all its threads), not wall time, so that a shared machine disturbs them less; methods take
turns and the median over rounds is given. Capture and the bare pass on its plan use capture's default of 2048 tokens a
batch: on a CPU smaller batches pad less (at 4096 the three ratios were 1.02, 0.73 and 2.15).
The model is loaded and prompts are made outside the clock; tokenising is part of capture, while the other methods are handed token
ids. Peak memory is the resident set of a fresh process that runs one method, model and imports included. Values are asserted to
agree; times are not.

``--json`` writes ``{"goals": {name: {"ratio", "goal", "met"}}, "methods": {name: {"cpu_s", "cpu_s_rounds", "peak_mb"}}, "parity": {...},
"plan": {"prompts", "token_budget", "tokens", "positions_computed"}, "machine": {"threads", "torch", "transformers", "transformer_lens"}}``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import numpy as np
import pandas as pd
import torch

from tests.benchmarks.memory import own_peak_mb
from workbench.activations.capture import capture
from workbench.models import ChatModel, load_model
from workbench.models.batching import batches
from workbench.models.hooks import site
from workbench.prompts import PromptGrid

LAYERS, WIDTH, VOCABULARY, PROMPTS, BUDGET = 12, 512, 32_000, 256, 2048
#: Name of the comparison -> (method, baseline, ratio of CPU seconds, which side of it is the goal).
GOALS = {
    "capture / bare forward, same plan": ("capture", "bare, same plan", 1.05, "at most"),
    "capture / bare forward, unsorted batches of 16": ("capture", "bare, batches of 16", 0.70, "at most"),
    "TransformerLens / capture": ("TransformerLens", "capture", 2.3, "at least"),
}


def build() -> tuple[ChatModel, PromptGrid]:
    """Make the model, a tokenizer of one token per word, and prompts of known length."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    chat = load_model(model, tokenizer=tokenizer, template="raw", check=False)
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(2, VOCABULARY, size=n)) for n in rng.integers(16, 129, size=PROMPTS)]
    rows = [{"language": "en", "meaning_id": f"m{i}", "text": text, "harmful": i % 2 == 0} for i, text in enumerate(texts)]
    return chat, PromptGrid(pd.DataFrame(rows))


def by_capture(chat: ChatModel, grid: PromptGrid, ids: list[tuple[int, ...]]) -> np.ndarray:
    """Capture as a user would call it, in memory."""
    return capture(chat, grid, positions=["t_post_inst"], token_budget=BUDGET, progress=False)["residual"].values[:, :, 0]


def bare_same_plan(chat: ChatModel, grid: PromptGrid, ids: list[tuple[int, ...]]) -> None:
    """Run the base model on capture's batches and keep nothing."""
    with torch.inference_mode():
        for rows in batches([len(i) for i in ids], BUDGET):
            chat.parts.base(input_ids=chat.pad([ids[r] for r in rows])[0], use_cache=False)


def bare_unsorted(chat: ChatModel, grid: PromptGrid, ids: list[tuple[int, ...]]) -> None:
    """Run the base model on batches of 16 in the order given and keep nothing."""
    with torch.inference_mode():
        for start in range(0, len(ids), 16):
            chat.parts.base(input_ids=chat.pad(ids[start : start + 16])[0], use_cache=False)


def by_transformerlens(chat: ChatModel, grid: PromptGrid, ids: list[tuple[int, ...]]) -> np.ndarray:
    """Run run_with_cache with a names filter and pos_slice=-1 on left-padded, masked batches of 16."""
    names = [site(k) for k in range(LAYERS + 1)]
    found = []
    with torch.no_grad():
        for start in range(0, len(ids), 16):
            padded, mask = chat.pad(ids[start : start + 16], side="left")
            _, cache = chat.bridge.run_with_cache(padded, attention_mask=mask, names_filter=names, pos_slice=-1)
            found.append(torch.stack([cache[name][:, -1] for name in names], dim=1))
    return torch.cat(found).numpy()


METHODS: dict[str, Callable[[ChatModel, PromptGrid, list[tuple[int, ...]]], Any]] = {
    "capture": by_capture,
    "bare, same plan": bare_same_plan,
    "bare, batches of 16": bare_unsorted,
    "TransformerLens": by_transformerlens,
}


def prepared(threads: int) -> tuple[ChatModel, PromptGrid, list[tuple[int, ...]]]:
    """Load everything that is not timed."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    chat, grid = build()
    ids = [t.ids for t in chat.tokenise(grid.frame["text"].tolist())]
    assert {min(map(len, ids)), max(map(len, ids))} == {16, 128}
    return chat, grid, ids


def peak_mb(method: str, threads: int) -> float:
    """Run one method in a process of its own and return its peak resident set in MB."""
    command = [sys.executable, __file__, "--only", method, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout.split()[-1])


def measure(rounds: int, threads: int) -> dict[str, Any]:
    """Time the methods in turns, compare their values, measure their memory."""
    chat, grid, ids = prepared(threads)
    _ = chat.bridge
    warm = PromptGrid(grid.frame.head(8))
    for method in METHODS.values():
        method(chat, warm, ids[:8])
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    values: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, method in METHODS.items():
            start = time.process_time()
            result = method(chat, grid, ids)
            seconds[name].append(time.process_time() - start)
            if result is not None:
                values[name] = result
    ours, theirs = values["capture"], values["TransformerLens"]
    scale = float(np.sqrt(np.mean(theirs**2)))
    gap = float(np.abs(ours - theirs).max())
    assert ours.shape == theirs.shape == (PROMPTS, LAYERS + 1, WIDTH)
    assert gap < 1e-3 * scale, f"capture and TransformerLens differ by {gap:.2g} at scale {scale:.2g}"
    cpu = {name: statistics.median(times) for name, times in seconds.items()}
    goals = {}
    for name, (top, bottom, goal, side) in GOALS.items():
        ratio = cpu[top] / cpu[bottom]
        goals[name] = {"ratio": ratio, "goal": f"{side} {goal}", "met": ratio <= goal if side == "at most" else ratio >= goal}
    lengths = [len(i) for i in ids]
    return {
        "goals": goals,
        "methods": {name: {"cpu_s": cpu[name], "cpu_s_rounds": seconds[name], "peak_mb": peak_mb(name, threads)} for name in METHODS},
        "parity": {"largest_difference": gap, "root_mean_square": scale},
        "plan": {
            "prompts": PROMPTS,
            "token_budget": BUDGET,
            "tokens": sum(lengths),
            "positions_computed": {
                "same plan": sum(len(rows) * max(lengths[r] for r in rows) for rows in batches(lengths, BUDGET)),
                "batches of 16": sum(16 * max(lengths[s : s + 16]) for s in range(0, PROMPTS, 16)),
            },
        },
        "machine": {"threads": threads, **{name: version(name.replace("_", "-")) for name in ("torch", "transformers", "transformer_lens")}},
    }


def table(report: dict[str, Any]) -> str:
    """Lay the figures out for reading."""
    lines = [f"{'method':<24}{'CPU s':>8}{'/ bare':>8}{'peak MB':>9}"]
    bare = report["methods"]["bare, same plan"]["cpu_s"]
    for name, row in report["methods"].items():
        lines.append(f"{name:<24}{row['cpu_s']:>8.2f}{row['cpu_s'] / bare:>8.2f}{row['peak_mb']:>9.0f}")
    lines.append("")
    for name, row in report["goals"].items():
        lines.append(f"{name:<50}{row['ratio']:>6.2f}  goal {row['goal']:<14}{'met' if row['met'] else 'NOT met'}")
    parity = report["parity"]
    lines.append(f"values agree: largest difference {parity['largest_difference']:.1e} at root mean square {parity['root_mean_square']:.2g}")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=METHODS, help="run one method once and write its peak memory (MB)")
    options = parser.parse_args()
    if options.only:
        METHODS[options.only](*prepared(options.threads))
        sys.stdout.write(f"{own_peak_mb():.0f}\n")
        return
    report = measure(options.rounds, options.threads)
    sys.stdout.write(table(report) + "\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
