"""Serve a chat model behind a gate: flagged prompts are pushed along a direction while they are answered.

Run ``python examples/serve_gate.py MODEL --repair RUN < prompts.txt`` with the run folder of ``workbench repair gate``: flagged prompts are pushed as
was measured there, the others left alone. Or bring a gate and a direction of your own: ``--gate gate.safetensors --direction
direction.safetensors``; unflagged prompts then have the direction removed. Each line of the input is a prompt, or a language tag, a tab and a
prompt; each line of the output is a JSON object with the decision and the reply. Without a tag, and for a language the gate was never calibrated
for, the gate's fallback threshold holds, and the output says so (language "unknown").

Such a gate and direction come from a capture of the same model:

    acts = capture(chat, grid, layers=[4], positions=["t_inst"])
    gate = RecalibratedGate().fit(gate_data(acts, 4, "t_inst", split="fit", languages=["en", "de"]))
    gate = gate.recalibrate(gate_data(acts, 4, "t_inst").draw(4, "sw", np.random.default_rng(0)))
    save_gate(gate, "gate.safetensors")
    harm_direction(acts, ["en", "de"]).at(4, "t_inst").save("direction.safetensors")
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from workbench.directions import Direction
from workbench.errors import WorkbenchError
from workbench.gates import load_gate
from workbench.interventions import Route
from workbench.models import ChatModel, load_model
from workbench.models.passes import Batch, announced
from workbench.repair.applied import repair_route


def answer(chat: ChatModel, text: str, max_new_tokens: int) -> str:
    """Generate one reply with transformers alone; whatever edit is active takes part."""
    [tokens] = chat.tokenise([text])
    ids, mask = chat.pad([tokens.ids], side="left")
    # announced: the gate's position, and the user's text for a language detector, are found in any batch
    with torch.inference_mode(), announced(Batch.of([tokens], side="left")):
        grown = chat.model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=ids[0, 0].item())
    return chat.tokenizer.decode(grown[0, ids.shape[1] :], skip_special_tokens=True).strip()


def answers(chat: ChatModel, route: Route, lines: Iterator[str], said: dict[str, str | None], max_new_tokens: int) -> Iterator[dict[str, Any]]:
    """Answer line by line; the edit is opened once, and decides anew for every prompt."""
    with chat.edited(route):
        for line in lines:
            tag, tab, text = line.rstrip("\n").partition("\t")
            said["language"], text = (tag.strip(), text) if tab else (None, tag)
            if not text.strip():
                continue
            reply = answer(chat, text, max_new_tokens)
            [decision] = route.decisions
            found = {name: getattr(decision, name) for name in ("language", "score", "threshold", "decision")}
            yield {**found, "reply": reply}


def main() -> None:
    """Read the command line, load, and answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="hub id, directory, or organism:aligned")
    parser.add_argument("--repair", type=Path, help="run folder of `workbench repair gate`")
    parser.add_argument("--gate", type=Path)
    parser.add_argument("--direction", type=Path)
    parser.add_argument("--strength", type=float, default=1.0, help="in gaps of the direction's training projections")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args()
    said: dict[str, str | None] = {"language": None}
    try:
        # a function of the user's text; here the client says the language, a detector would look at the text
        telling: dict[str, Any] = {"languages": lambda _text: said["language"], "fallback": "gate"}
        if options.repair:
            route = repair_route(options.repair, **telling)
        elif options.gate and options.direction:
            route = Route.along(load_gate(options.gate), Direction.load(options.direction), options.strength, **telling)
        else:
            parser.error("give --repair RUN, or --gate FILE and --direction FILE")
        chat = load_model(options.model)
        for found in answers(chat, route, iter(sys.stdin), said, options.max_new_tokens):
            sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
            sys.stdout.flush()
    except WorkbenchError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
