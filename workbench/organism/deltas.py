"""A trained variant as what it changes in a model that is kept whole: the changed rows of each weight.

Rows are stored as they are in half precision and not as differences, so that what is loaded is the variant to the last bit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workbench.errors import ModelError

DELTA = "delta.safetensors"
#: Share of a weight's rows from which on the whole weight is kept.
WHOLE = 0.9


def changed_rows(parent: dict[str, Tensor], variant: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors ``NAME`` (a whole weight) or ``NAME:rows`` and ``NAME:values`` for every weight that differs.

    Raises
    ------
    ModelError
        If the two do not have the same weights.
    """
    if (shapes := {k: v.shape for k, v in parent.items()}) != {k: v.shape for k, v in variant.items()}:
        raise ModelError(f"The variant's weights are not those of its parent ({len(shapes)} and {len(variant)}). Expected the same names and shapes.")
    found: dict[str, Tensor] = {}
    for name, before in parent.items():
        after = variant[name]
        rows = (after != before).flatten(1).any(1).nonzero().flatten() if after.ndim > 1 else torch.arange(len(after))
        if torch.equal(after, before):
            continue
        if len(rows) > WHOLE * len(after):
            found[name] = after.contiguous()
        else:
            found |= {f"{name}:rows": rows.int(), f"{name}:values": after[rows].contiguous()}
    return found


def write_delta(parent: Path, variant: Path, out: Path) -> None:
    """Write what a variant's half-precision weights change in those of its parent."""
    before, after = (load_file(folder / "model.safetensors") for folder in (parent, variant))
    save_file(changed_rows(before, after), out / DELTA)


def pack(variant: Path, parent: Path, out: Path) -> None:
    """Copy a trained variant as a delta of another model, which must lie beside the copy when it is loaded."""
    out.mkdir(parents=True, exist_ok=True)
    for file in variant.iterdir():
        if file.name not in ("model.safetensors", "organism.json"):
            shutil.copyfile(file, out / file.name)
    record = json.loads((variant / "organism.json").read_text(encoding="utf-8"))
    (out / "organism.json").write_text(json.dumps(record | {"parent": parent.name}, indent=1), encoding="utf-8")
    write_delta(parent, variant, out)


def parent_of(folder: Path) -> Path | None:
    """Return the folder of the model that a delta belongs to, or None for a model that is kept whole.

    Raises
    ------
    ModelError
        If the parent is named in no ``organism.json`` or is not there.
    """
    if not (folder / DELTA).exists():
        return None
    record = folder / "organism.json"
    name = json.loads(record.read_text(encoding="utf-8")).get("parent") if record.exists() else None
    if not name or not (folder.parent / name / "model.safetensors").exists():
        raise ModelError(
            f"{folder} holds a delta of {name or 'an unnamed model'}, which is not beside it. Expected {folder.parent / (name or 'PARENT')}."
        )
    return folder.parent / str(name)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of an organism, whole or from its parent and its delta, in single precision."""
    parent = parent_of(folder)
    weights = {k: v.float() for k, v in load_file((parent or folder) / "model.safetensors").items()}
    if parent is not None:
        put_delta(weights, folder)
    return weights


def apply_delta(model: nn.Module, folder: Path) -> None:
    """Put a delta's rows into a model that holds its parent's weights."""
    put_delta(model.state_dict(), folder)


@torch.no_grad()
def put_delta(weights: dict[str, Tensor], folder: Path) -> None:
    """Overwrite the rows of weights that a delta holds."""
    found = load_file(folder / DELTA)
    for name, value in found.items():
        weight, _, kind = name.partition(":")
        if kind == "values":
            weights[weight][found[f"{weight}:rows"].long()] = value.to(weights[weight])
        elif not kind:
            weights[weight].copy_(value)
