"""Gates on disk: one safetensors file, what the arrays are in its header as JSON. No pickle, and no code from a file is run."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from workbench.directions import files
from workbench.errors import StoreError, did_you_mean
from workbench.gates.file_checks import require_entries, require_finite, require_fitting
from workbench.gates.place import Place
from workbench.gates.policy import Scores
from workbench.gates.protocol import Gate, Recalibration

FORMAT = "workbench-gate"
VERSION = 1
_KEY = "workbench.gate"
_HEADER = {
    "format", "class", "parameters", "thresholds", "fallback", "place", "provenance", "labels_used", "recalibrations", "sources", "examples",
    "learned", "n_features",
}  # fmt: skip


def save_gate(gate: Gate, path: str | Path, *, provenance: dict[str, Any] | None = None) -> Path:
    """Write a fitted gate; the file is replaced only once the new one is complete.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors``.
    provenance : dict, optional
        JSON-serialisable: which prompts, which seed, which run. No prompt texts.

    Raises
    ------
    NotFittedError
    StoreError
        The place cannot be written; the gate has learned NaN, which could not be read back.
    """
    check_is_fitted(gate)
    require_finite(path, gate, "Nothing was written; fit the gate again on finite states.")
    arrays, plain = {}, {}
    for name in gate.learned:
        value = getattr(gate, name)
        if isinstance(value, np.ndarray):
            arrays[f"learned.{name}"] = value
        else:
            plain[name] = value
    for kind, table in (("sources", gate.source_scores_), ("examples", gate.examples_)):
        for i, scores in enumerate(table.values()):
            arrays |= {f"{kind}.{i}.{part}": values for part, values in scores._asdict().items()}
    header = {
        "format": f"{FORMAT}/{VERSION}",
        "class": type(gate).__name__,
        "parameters": gate.get_params(deep=False),
        "thresholds": {tag: _told(value) for tag, value in gate.thresholds_.items()},
        "fallback": _told(gate.fallback_),
        "place": None if gate.place_ is None else asdict(gate.place_),
        "provenance": provenance or {},
        "labels_used": gate.labels_used_,
        "recalibrations": {tag: r._asdict() | {"threshold": _told(r.threshold)} for tag, r in gate.recalibrations_.items()},
        "sources": list(gate.source_scores_),
        "examples": list(gate.examples_),
        "learned": plain,
        "n_features": gate.n_features_in_,
    }
    return files.write(path, arrays, _KEY, header)


def load_gate(path: str | Path, *, classes: Sequence[type[Gate]] = ()) -> Any:
    """Read a gate that :func:`save_gate` wrote.

    Parameters
    ----------
    classes : sequence of Gate subclasses, optional
        Gates of your own; those of the workbench are known.

    Raises
    ------
    StoreError
        No such file, something else than a gate, a newer format, an unknown class, fields that this version does not know, entries of the
        wrong kind, arrays that do not fit or are not finite.
    """
    if not Path(path).exists():
        raise StoreError(f"There is no gate at {path}. Expected a .safetensors file written by save_gate(); fit the gate again.")
    arrays, header = files.read(path, _KEY, "gate", writer="save_gate()", remedy="fit the gate again")
    _require_format(path, header)
    require_entries(path, header)
    kind = _class_of(path, header["class"], classes)
    gate = kind(**_known(path, "parameters", header["parameters"], kind().get_params(deep=False)))
    tables = {f"{table}.{i}.{part}" for table in ("sources", "examples") for i in range(len(header[table])) for part in Scores._fields}
    expected = tables | {f"learned.{name}" for name in kind.learned}
    _known(path, "arrays", arrays, expected)
    _known(path, "learned", header["learned"], kind.learned)
    missing = sorted(expected - set(arrays) - {f"learned.{name}" for name in header["learned"]})
    if missing:
        raise StoreError(f"{path} lacks {missing}. Expected a whole file of save_gate(); save the gate again.")
    for name in kind.learned:
        setattr(gate, name, arrays[f"learned.{name}"] if f"learned.{name}" in arrays else header["learned"][name])
    for table, attribute in (("sources", "source_scores_"), ("examples", "examples_")):
        setattr(gate, attribute, {tag: Scores(*(arrays[f"{table}.{i}.{p}"] for p in Scores._fields)) for i, tag in enumerate(header[table])})
    gate.thresholds_ = {tag: float(value) for tag, value in header["thresholds"].items()}
    gate.fallback_, gate.labels_used_ = float(header["fallback"]), dict(header["labels_used"])
    told = {tag: _known(path, "recalibrations", r, Recalibration._fields) for tag, r in header["recalibrations"].items()}
    gate.recalibrations_ = {tag: Recalibration(**r | {"threshold": float(r["threshold"])}) for tag, r in told.items()}
    place = header["place"]
    gate.place_ = None if place is None else Place(**_known(path, "place", place, [f.name for f in fields(Place)]))
    gate.n_features_in_, gate.classes_ = int(header["n_features"]), np.array([False, True])
    require_fitting(path, gate)
    return gate


def _told(value: float) -> float | str:
    """JSON has no infinity; ``float()`` reads the word back."""
    return float(value) if math.isfinite(value) else str(float(value))


def _require_format(path: str | Path, header: dict[str, Any]) -> None:
    name, _, version = str(header.get("format", "")).partition("/")
    if name != FORMAT or not version.isdigit():
        raise StoreError(f"{path} has the format {header.get('format')!r}. Expected '{FORMAT}/{VERSION}', a file of save_gate().")
    if int(version) > VERSION:
        raise StoreError(f"{path} has the newer format {name}/{version}; this version reads up to {FORMAT}/{VERSION}. Update the workbench.")
    _known(path, "header", header, _HEADER)
    missing = sorted(_HEADER - set(header))
    if missing:
        raise StoreError(f"{path} lacks {missing}. Expected a whole file of save_gate(); save the gate again.")


def _known(path: str | Path, what: str, given: dict[str, Any], known: Any) -> dict[str, Any]:
    unknown = sorted(set(given) - set(known))
    if unknown:
        near = did_you_mean(unknown[0], known)
        raise StoreError(
            f"{path}: {what} has the unknown fields {unknown}; expected only {sorted(known)}.{near} It was written by another version or changed "
            "by hand: update the workbench, or fit and save the gate again."
        )
    return given


def _class_of(path: str | Path, name: str, classes: Sequence[type[Gate]]) -> type[Gate]:
    import workbench.gates

    known = {kind.__name__: kind for kind in classes}
    for module in pkgutil.iter_modules(workbench.gates.__path__, "workbench.gates."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Gate) and value is not Gate and not value.__name__.startswith("_"):
                known.setdefault(value.__name__, value)
    if name not in known:
        raise StoreError(
            f"{path} holds a gate of class {name!r}; known: {sorted(known)}.{did_you_mean(name, known)} Update the workbench, or pass your own class "
            "with load_gate(path, classes=[...])."
        )
    return known[name]
