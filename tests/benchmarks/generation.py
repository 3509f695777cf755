"""What steering and routing cost: batched greedy generation under edits against plain Hugging Face generation of the same batches.

Run ``python tests/benchmarks/generation.py [--json PATH] [--rounds N] [--threads N]`` from the repository root. A 12-layer random Llama (width
512, 32,000 tokens, no end token, so that every reply is 32 tokens long) answers 48 prompts of 16 to 128 tokens.

Times are CPU seconds of the process (all its threads), not wall time, so that a shared machine disturbs them less; methods take turns batch by
batch, and the median over rounds of the ratio within the round is given. Plain generation is handed the padded batches that ``reply_to`` makes;
prompts are tokenised outside the clock. The gate of the routed edits fires on half of the prompts. That strength 0 gives the plain replies, and
the other edits different ones, is asserted; times are not.

``--json`` writes ``{"goals": {name: {"ratio", "goal", "met"}}, "methods": {name: {"cpu_s", "ratio", "cpu_s_rounds"}}, "work": {...},
"machine": {...}}``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from tests.benchmarks.capture import LAYERS, WIDTH, build
from workbench.behavior.generate import _greedy, reply_to
from workbench.gates import Gate, Place
from workbench.interventions import Ablate, Add, Route
from workbench.models import ChatModel
from workbench.models.tokens import Tokens

PROMPTS, NEW, BUDGET = 48, 32, 2048
LAYER = LAYERS // 2
GOAL = 1.05


ROUTED = "Route, half pushed at last prompt token and decoding, half ablated at all tokens"


class Line(Gate):
    """Scores along one vector."""

    learned = ("weight_",)

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        self.weight_ = X[y].mean(axis=0) - X[~y].mean(axis=0)

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        return X @ self.weight_


def halving(chat: ChatModel, batches: list[list[Tokens]]) -> Line:
    """Fit a gate that fires on half of the prompts: its threshold is their median score."""
    states = [chat.states(batch, layers=[LAYER], positions=["t_post_inst"])[:, 0, 0].double().numpy() for batch in batches]
    X = np.concatenate(states)
    gate = Line().fit(X, np.arange(len(X)) % 2 == 0)
    gate.fallback_ = float(np.median(gate.decision_function(X)))
    return gate


def edits(gate: Line) -> dict[str, list[Any]]:
    """Name the edits to be timed."""
    vector = np.random.default_rng(1).normal(size=WIDTH)
    where = {"layers": LAYER, "scope": ("last_prompt", "decode")}
    place = Place(LAYER, "t_post_inst")
    return {
        "reply_to, no edit": [],
        "Add, strength 0": [Add(vector, 0.0, **where)],
        "Add, one layer, last prompt token and decoding": [Add(vector, 4.0, **where)],
        "Add, one layer, all tokens": [Add(vector, 4.0, layers=LAYER)],
        "Add, one layer, in units of each token's norm": [Add(vector, 0.5, "norm", **where)],
        "Ablate, one layer, all tokens": [Ablate(vector, layers=LAYER)],
        "Ablate, everywhere": [Ablate(vector)],
        "Route, half pushed at last prompt token and decoding, half left alone": [Route(gate, flagged=Add(vector, 4.0, **where), place=place)],
        ROUTED: [Route(gate, flagged=Add(vector, 4.0, **where), unflagged=Ablate(vector, layers=LAYER), place=place)],
    }


def prepared(threads: int) -> tuple[ChatModel, list[list[Tokens]]]:
    """Load the model and cut the batches as generate() does: longest first, prompt and reply within the budget."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    chat, grid = build()
    chat.model.generation_config.eos_token_id = None
    chat.tokenizer.eos_token = None
    tokens = sorted(chat.tokenise(grid.frame["text"].tolist()[:PROMPTS]), key=lambda t: -len(t))
    batches = []
    while tokens:
        rows = max(1, BUDGET // (len(tokens[0]) + NEW))
        batches.append(tokens[:rows])
        tokens = tokens[rows:]
    return chat, batches


def plain(chat: ChatModel, batches: list[list[Tokens]]) -> list[str]:
    """Generate with Hugging Face alone, on padded batches."""
    texts = []
    with torch.inference_mode():
        for batch in batches:
            ids, mask = chat.pad([t.ids for t in batch], side="left")
            grown = chat.model.generate(input_ids=ids, attention_mask=mask, generation_config=_greedy(chat, NEW, []))
            texts += chat.tokenizer.batch_decode(grown[:, ids.shape[1] :].tolist(), skip_special_tokens=True)
    return texts


def steered(chat: ChatModel, batches: list[list[Tokens]], some: list[Any]) -> list[str]:
    """Generate as generate() does, under edits."""
    with chat.edited(*some):
        return [reply.reply for batch in batches for reply in reply_to(chat, batch, NEW, prompt_ids=[str(n) for n in range(len(batch))])]


def measure(rounds: int, threads: int) -> dict[str, Any]:
    """Time the methods in turns and compare their replies."""
    chat, batches = prepared(threads)
    methods: dict[str, Callable[[list[list[Tokens]]], list[str]]] = {"plain Hugging Face generate": lambda some: plain(chat, some)}
    for name, given in edits(halving(chat, batches)).items():
        methods[name] = lambda some, given=given: steered(chat, some, given)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    replies: dict[str, list[str]] = {}
    for method in methods.values():
        method([batches[-1][:2]])
    order = list(methods)
    for turn in range(rounds):
        for name in order:
            seconds[name].append(0.0)
            replies[name] = []
        for number, batch in enumerate(batches):  # each batch by every method in turn: what else the machine does then disturbs all alike
            first = (turn + number) % len(order)
            for name in order[first:] + order[:first]:
                start = time.process_time()
                replies[name] += methods[name]([batch])
                seconds[name][-1] += time.process_time() - start
    baseline, *others = methods
    assert replies["reply_to, no edit"] == replies["Add, strength 0"] == [text.strip() for text in replies[baseline]]
    assert all(replies[name] != replies[baseline] for name in others[2:]), "an edit that changes nothing shows nothing"
    ratio = {name: statistics.median(a / b for a, b in zip(times, seconds[baseline], strict=True)) for name, times in seconds.items()}
    timed = ("Add, one layer, last prompt token and decoding", ROUTED)
    return {
        "goals": {f"{name} / plain": {"ratio": ratio[name], "goal": f"at most {GOAL}", "met": ratio[name] <= GOAL} for name in timed},
        "methods": {name: {"cpu_s": statistics.median(seconds[name]), "ratio": ratio[name], "cpu_s_rounds": seconds[name]} for name in methods},
        "work": {"prompts": PROMPTS, "batches": [len(b) for b in batches], "new_tokens": NEW, "layers": LAYERS, "width": WIDTH, "rounds": rounds},
        "machine": {"threads": threads, **{name: version(name) for name in ("torch", "transformers")}},
    }


def table(report: dict[str, Any]) -> str:
    """Lay the figures out for reading."""
    lines = ["| method | CPU seconds | to plain generation |", "| --- | --- | --- |"]
    lines += [f"| {name} | {row['cpu_s']:.2f} | {row['ratio']:.3f} |" for name, row in report["methods"].items()]
    lines.append("")
    lines += [f"{name}: {row['ratio']:.3f}, goal {row['goal']}: {'met' if row['met'] else 'NOT met'}" for name, row in report["goals"].items()]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    report = measure(options.rounds, options.threads)
    sys.stdout.write(table(report) + "\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
