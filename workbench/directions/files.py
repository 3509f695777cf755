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


def read(
    path: str | Path, key: str, what: str, *, writer: str | None = None, remedy: str = "extract the directions again"
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the header of a file that :func:`write` wrote.

    Parameters
    ----------
    what : str
        For the message, such as "directions" or "direction".
    writer, remedy : str
        For the message: what writes such a file (default: the method ``save`` of what it holds), and what to do for another one.

    Raises
    ------
    StoreError
        No such file, a folder, one that cannot be read, a broken one, or one that holds something else.
    """
    from safetensors import SafetensorError, safe_open

    path, expected = Path(path), f"Expected a .safetensors file written by {writer or f'{what.capitalize()}.save()'}"
    if not path.exists():
        raise StoreError(f"There are no directions at {path}. {expected}; extract them again.")
    if path.is_dir():
        raise StoreError(f"{path} is a folder. {expected}; give the path of the file in it.")
    try:
        with safe_open(str(path), framework="numpy") as file:
            told = (file.metadata() or {}).get(key)
            arrays = {} if told is None else {name: file.get_tensor(name) for name in file.keys()}
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}. {expected} that you may read.") from error
    except (SafetensorError, TypeError) as broken:  # a type that numpy does not have
        raise StoreError(f"{path} is not a whole safetensors file ({broken}). {expected}; {remedy}.") from broken
    if told is None:
        raise StoreError(f"{path} holds no {what}. {expected}; give another path, or {remedy}.")
    try:
        header = json.loads(told)
    except ValueError as error:
        raise StoreError(f"The header of {path} is no JSON ({error}). {expected}; {remedy}.") from error
    if not isinstance(header, dict):
        raise StoreError(f"The header of {path} is no JSON object. {expected}; {remedy}.")
    return arrays, header


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
