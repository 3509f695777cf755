"""Interpreters on disk: one safetensors file with the weights, and everything that gives them a meaning in its header as JSON.

The release's trainer writes one architecture and its loader builds another, with a layer and a threshold that are written by hand
(card 1.10, traps 1 and 2). Here the header names the architecture, the place and the threshold, and weights that do not fit are refused.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.alignment.interpreter import SafetyInterpreter
from workbench.alignment.interpreter_network import WIDTHS, InterpreterOptions, build_network
from workbench.directions import files
from workbench.errors import StoreError
from workbench.gates.place import Place

FORMAT, VERSION = "workbench-interpreter", 1
_KEY = "workbench.interpreter"
_ENTRIES = {"format", "width", "hidden_size", "place", "threshold", "languages", "record"}
_REMEDY = "Expected a file of SafetyInterpreter.save(), unchanged; fit and save the interpreter again."


def save_interpreter(interpreter: SafetyInterpreter, path: str | Path) -> Path:
    """Write an interpreter; the file is replaced only once the new one is complete.

    Raises
    ------
    StoreError
        The place cannot be written, or a weight is not finite.
    """
    arrays = {name: values.numpy() for name, values in interpreter.network.state_dict().items()}
    if not all(np.isfinite(values).all() for values in arrays.values()):
        raise StoreError(f"{path}: the network has weights that are not finite. Nothing was written; fit it again on finite states.")
    header = {
        "format": f"{FORMAT}/{VERSION}",
        "width": interpreter.width,
        "hidden_size": interpreter.hidden_size,
        "place": asdict(interpreter.place),
        "threshold": interpreter.threshold,
        "languages": list(interpreter.languages),
        "record": interpreter.record,
    }
    return files.write(path, arrays, _KEY, header)


def load_interpreter(path: str | Path) -> SafetyInterpreter:
    """Read an interpreter that :func:`save_interpreter` wrote.

    Raises
    ------
    StoreError
        No such file, something else, a newer format, entries of the wrong kind, weights of another architecture or not finite.
    """
    if not Path(path).exists():
        raise StoreError(f"There is no interpreter at {path}. Expected a .safetensors file of SafetyInterpreter.save(); fit one and save it.")
    arrays, header = files.read(path, _KEY, "interpreter", writer="SafetyInterpreter.save()", remedy="fit the interpreter again")
    place = _checked(path, header)
    network = build_network(int(header["hidden_size"]), header["width"])
    expected = {name: tuple(values.shape) for name, values in network.state_dict().items()}
    found = {name: values.shape for name, values in arrays.items()}
    if found != expected:
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise StoreError(
            f"{path}: the weights are not those of a {header['width']!r} interpreter of states of width {header['hidden_size']} (differing: "
            f"{wrong[:4]}). {_REMEDY}"
        )
    if not all(np.isfinite(values).all() for values in arrays.values()):
        raise StoreError(f"{path} holds weights that are not finite. {_REMEDY}")
    network.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in arrays.items()})
    return SafetyInterpreter(network.eval(), header["width"], place, float(header["threshold"]), tuple(header["languages"]), dict(header["record"]))


def _checked(path: str | Path, header: dict[str, Any]) -> Place:
    """Refuse a header that is not whole and of the right kinds."""
    name, _, version = str(header.get("format", "")).partition("/")
    if name != FORMAT or not version.isdigit():
        raise StoreError(f"{path} has the format {header.get('format')!r}, not '{FORMAT}/{VERSION}'. {_REMEDY}")
    if int(version) > VERSION:
        raise StoreError(f"{path} has the newer format {name}/{version}; this version reads up to {FORMAT}/{VERSION}. Update the workbench.")
    missing = sorted(_ENTRIES - set(header))
    if missing:
        raise StoreError(f"{path} lacks {missing}. {_REMEDY}")
    place, threshold, record = header["place"], header["threshold"], header["record"]
    names, options = {f.name for f in fields(Place)}, {f.name for f in fields(InterpreterOptions)}
    right = {
        f"width (one of {list(WIDTHS)})": header["width"] in WIDTHS,
        "hidden_size (a whole number)": isinstance(header["hidden_size"], int) and header["hidden_size"] > 0,
        "threshold (between 0 and 1)": isinstance(threshold, float) and math.isfinite(threshold) and 0 < threshold < 1,
        "languages (a list of texts)": isinstance(header["languages"], list) and all(isinstance(tag, str) for tag in header["languages"]),
        "place (layer, position, model)": isinstance(place, dict) and set(place) == names and isinstance(place["layer"], int),
        "record (with options)": isinstance(record, dict) and set(record.get("options", {})) <= options,
    }
    wrong = [what for what, fits in right.items() if not fits]
    if wrong:
        raise StoreError(f"{path}: the header's {wrong[0]} is not as expected. {_REMEDY}")
    return Place(**place)
