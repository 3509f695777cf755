"""Directions on disk: one safetensors file, what they are in its header as JSON. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import StoreError, writing


def write(path: str | Path, tensors: Mapping[str, np.ndarray], key: str, header: Mapping[str, Any]) -> Path:
    """Write arrays and a header; the file is replaced only once the new one is complete.

    Raises
    ------
    StoreError
        The place cannot be written.
    """
    from safetensors.numpy import save

    path = Path(path)
    draft = path.with_suffix(path.suffix + ".draft")
    arrays = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(save(arrays, metadata={key: json.dumps(dict(header), default=_plain)}))
        draft.replace(path)
    return path


def read(path: str | Path, key: str, what: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the header of a file that :func:`write` wrote.

    Parameters
    ----------
    what : str
        For the message, such as "directions" or "direction".

    Raises
    ------
    StoreError
        No such file, a broken one, or one that holds something else.
    """
    from safetensors import SafetensorError, safe_open

    path, owner = Path(path), what.capitalize()
    if not path.exists():
        raise StoreError(f"There are no directions at {path}. Expected a .safetensors file written by {owner}.save(); extract them again.")
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = (file.metadata() or {}).get(key)
            if header is None:
                raise StoreError(f"{path} holds no {what}. Expected a file written by {owner}.save().")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header)
    except SafetensorError as broken:
        raise StoreError(
            f"{path} is not a whole safetensors file ({broken}). Expected one written by {owner}.save(); extract the directions again."
        ) from broken


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
