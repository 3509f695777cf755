"""Weights that leave a repair: a Hugging Face directory with a card that says what was trained, what it cost, and whether a loss was allowed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from workbench.alignment.engine import TrainedModel
from workbench.alignment.guard import Guard
from workbench.alignment.prepared import Prepared
from workbench.models.chat import ChatModel

CARD = """# {name}: {start} repaired by training ({method})

Trained by `workbench repair {method}` from `{start}` (fingerprint {fingerprint}): {labels}; {steps} steps, {tokens:,} tokens, {seconds:.0f} seconds,
{parameters:,} trained parameters, seed {seed}.
Asked under the start's template ({template}){system}; what loads it must ask it alike.
{conditioned}
Refusal of held-out harmful prompts (select split; 95 % Wilson intervals) before and after:

{table}

{allowed}
A repair is measured on the prompts, languages and judge of its run, and on nothing else. Measure it again where it is to be used.
"""
CONDITIONED = """
The weights expect the interpreter (`interpreter.safetensors`) to read every prompt once, with the *start's* weights, and the sentence in
`condition.json` to be put between a flagged prompt and the reply. Without it they are another model, which the run measured as "weights alone".
"""


def write_weights(
    folder: Path, trained: TrainedModel, start: ChatModel, prepared: Prepared, guard: Guard, *, method: str, allowed: bool, seed: int
) -> Path:
    """Write weights, tokenizer, template, card and what belongs beside them, whole or not at all.

    Parameters
    ----------
    folder : Path
        Is replaced.
    guard : Guard
        Passed, or overridden by ``allowed``, which the card then says.
    """
    draft = folder.with_name(folder.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    trained.save(draft, start)
    prepared.beside(draft)
    if start.path is not None and (start.path / "organism.json").exists():
        shutil.copy(start.path / "organism.json", draft / "organism.json")  # still an organism: nothing on it is about real languages
    lowered = ", ".join(guard.lowered)
    told = f"**It refuses fewer harmful prompts than its start in {lowered}; that was allowed explicitly.**\n" if lowered and allowed else ""
    rows = [
        f"| {row.language} | {row.before:.3f} [{row.before_low:.3f}, {row.before_high:.3f}] | {row.after:.3f} [{row.after_low:.3f}, "
        f"{row.after_high:.3f}] | {row.n} |"
        for row in guard.table.itertuples()
    ]
    card: dict[str, Any] = {
        "name": folder.name, "start": start.name, "method": method, "fingerprint": start.fingerprint, "labels": prepared.labels,
        "steps": trained.steps, "tokens": trained.tokens, "seconds": trained.seconds, "parameters": trained.trained_parameters, "seed": seed,
        "table": "\n".join(["| language | before | after | prompts |", "| --- | --- | --- | --- |", *rows]), "allowed": told,
        "template": f"{start.template.kind}, {start.template.hash}",
        "system": " and a system prompt of its own (--system)" if start.system else "",
        "conditioned": CONDITIONED if method == "lasa" else "",
    }  # fmt: skip
    (draft / "README.md").write_text(CARD.format(**card), encoding="utf-8")
    facts = {
        "method": method,
        "start": start.name,
        "start_fingerprint": start.fingerprint,
        "seed": seed,
        "template": {"kind": start.template.kind, "hash": start.template.hash},
        "system": start.system,
        "allowed_to_lower": guard.lowered if allowed else [],
    }
    (draft / "repair.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return folder


__all__ = ["write_weights"]
