"""What a gate file must hold: entries of the right kind, and arrays that fit the width and are finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workbench.errors import StoreError, shown
from workbench.gates.policy import Scores
from workbench.gates.protocol import UNKNOWN, Gate

_ABSENT = object()
_REMEDY = "The file was changed, or written by something else than save_gate(): fit and save the gate again."


class _Kind(NamedTuple):
    expected: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("inf", "-inf")  # so save_gate writes infinity; a bare Infinity or NaN is none of its doing
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_TEXT = _Kind("a text", lambda v: isinstance(v, str))
_TEXT_OR_NULL = _Kind("a text or null", lambda v: v is None or isinstance(v, str))
_OBJECT = _Kind("an object", lambda v: isinstance(v, dict))
_OBJECT_OR_NULL = _Kind("an object or null", lambda v: v is None or isinstance(v, dict))
_NUMBER = _Kind("a number, or 'inf' or '-inf'", _is_number)
_COUNT = _Kind("a whole number, 0 or more", _is_count)
_WIDTH = _Kind("a whole number, 1 or more", lambda v: _is_count(v) and v > 0)
_FLAG = _Kind("true or false", lambda v: isinstance(v, bool))
_NAMES = _Kind("a list of different texts", lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v) and len(set(v)) == len(v))

_PLACE = {"layer": _COUNT, "position": _TEXT, "fingerprint": _TEXT_OR_NULL, "template": _TEXT_OR_NULL, "system": _TEXT_OR_NULL}
_RECALIBRATION = {"policy": _TEXT, "threshold": _NUMBER, "guarantee": _TEXT, "abstains": _FLAG, "reason": _TEXT, "caution": _TEXT}
_ENTRIES = {
    "class": _TEXT, "parameters": _OBJECT, "thresholds": _OBJECT, "fallback": _NUMBER, "place": _OBJECT_OR_NULL, "provenance": _OBJECT,
    "labels_used": _OBJECT, "recalibrations": _OBJECT, "sources": _NAMES, "examples": _NAMES, "learned": _OBJECT, "n_features": _WIDTH,
}  # fmt: skip


def require_entries(path: str | Path, header: dict[str, Any]) -> None:
    """Refuse a header with an entry of the wrong kind.

    Raises
    ------
    StoreError
        Naming the entry, what it is, what is expected, and the remedy.
    """
    for name, value, kind in _entries(header):
        if value is _ABSENT or not kind.fits(value):
            # a prompt's words could stand where a system prompt is expected
            told = "missing" if value is _ABSENT else shown(value) if isinstance(value, str | int | float) else _json_kind(value)
            raise StoreError(f"{path}: {name} in the header is {told}. Expected {kind.expected}. {_REMEDY}")


def _entries(header: dict[str, Any]) -> Iterator[tuple[str, Any, _Kind]]:
    """Go through the entries; what lies within one comes after it, when it is known to be an object."""
    for name, kind in _ENTRIES.items():
        yield name, header.get(name, _ABSENT), kind
    for name, kind in (("thresholds", _NUMBER), ("labels_used", _COUNT), ("recalibrations", _OBJECT)):
        for tag, value in header[name].items():
            yield f"{name}.{tag}", value, kind
    inner = [("place", header["place"], _PLACE)] if header["place"] is not None else []
    for where, table, known in inner + [(f"recalibrations.{tag}", r, _RECALIBRATION) for tag, r in header["recalibrations"].items()]:
        for name, kind in known.items():
            yield f"{where}.{name}", table.get(name, _ABSENT), kind


def _json_kind(value: Any) -> str:
    return "null" if value is None else "a list" if isinstance(value, list) else "an object"


def require_finite(path: str | Path, gate: Gate, remedy: str = _REMEDY) -> None:
    """Refuse a gate that has learned, or keeps as scores, what is no number: nothing could be compared with its scores.

    Raises
    ------
    StoreError
        Naming the array.
    """
    expected = _shapes(gate)
    found = {f"learned.{name}": (getattr(gate, name), name not in expected or name in _MAY_BE_INFINITE) for name in gate.learned}
    for kind, table in (("sources", gate.source_scores_), ("examples", gate.examples_)):
        found |= {f"{kind}.{tag}.{part}": (scores, False) for tag, both in table.items() for part, scores in zip(Scores._fields, both, strict=True)}
    for name, (values, infinite) in found.items():
        wrong = [v for v in _numbers(values) if np.isnan(v).any() or not (infinite or np.isfinite(v).all())]
        if wrong:
            raise StoreError(f"{path}: {name} holds {'NaN' if np.isnan(wrong[0]).any() else 'infinity'}. Expected finite numbers. {remedy}")


def _numbers(value: Any) -> Iterator[np.ndarray]:
    """Find the numbers in an array or in nested dicts and lists."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)
    elif isinstance(value, np.ndarray | float) and np.asarray(value).dtype.kind == "f":
        yield np.asarray(value)


_MAY_BE_INFINITE = {"ramp_"}  # a ramp without a clamp


def _shapes(gate: Any) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes that the workbench's own gates' arrays must have, None where any length will do; empty for other gates.

    A length of 1 would be broadcast without a word, so that scoring a state does not show it.
    """
    kinds, width = {kind.__name__ for kind in type(gate).__mro__ if kind.__module__.startswith("workbench.gates.")}, gate.n_features_in_
    if "RecalibratedGate" in kinds:
        rank, rows = np.size(gate.coef_), np.size(gate.training_labels_)
        each = {"mean_": (rank,), "scale_": (rank,), "coef_": (rank,), "singular_values_": (None,), "basis_": (width, rank)}
        return each | {"training_features_": (rows, rank), "training_labels_": (rows,), "training_source_": (rows,)}
    if kinds & {"DirectionGate", "RandomDirectionGate"}:
        return {"unit_": (width,)}
    if "CastGate" in kinds:
        return {"condition_": (width,)}
    if "LatentGuard" in kinds:
        return dict.fromkeys(("harmful_", "harmless_"), (gate.n_layers, width // gate.n_layers))
    if "AdaSteer" in kinds:
        return {"zero_": (1 + len(gate.adapted_), width), "hundred_": (1 + len(gate.adapted_), width), "ramp_": (5,)}
    return {"decisions_": (len(gate.prompt_ids_),)} if "KnownDecisions" in kinds else {}


def require_fitting(path: str | Path, gate: Gate) -> None:
    """Refuse a gate whose arrays do not fit the width of its states or each other: shapes first, then by scoring a state per language.

    Raises
    ------
    StoreError
        Naming the array, or what came of scoring.
    """
    try:
        expected = _shapes(gate)
    except Exception as error:  # parameters and lists of the wrong kind fail in as many ways as there are gates
        raise StoreError(f"{path}: what the gate has learned does not fit together ({error}). {_REMEDY}") from error
    for name, shape in expected.items():
        found = np.shape(getattr(gate, name))
        if len(found) != len(shape) or any(n is not None and n != m for n, m in zip(shape, found, strict=True)):
            told = tuple("any" if n is None else n for n in shape)
            raise StoreError(f"{path}: learned.{name} has the shape {found}. Expected {told}, for states of width {gate.n_features_in_}. {_REMEDY}")
    tags = np.array([UNKNOWN, *gate.thresholds_])
    try:
        with np.errstate(all="ignore"):
            scores = np.asarray(gate._score(np.ones((len(tags), gate.n_features_in_)), tags), dtype=np.float64)
    except Exception as error:  # as above, and gates of the user's own
        raise StoreError(f"{path}: the gate cannot score states of width {gate.n_features_in_}, its n_features ({error}). {_REMEDY}") from error
    if scores.shape != tags.shape:
        raise StoreError(f"{path}: the gate scores {len(tags)} states with an array of shape {scores.shape}. Expected one score each. {_REMEDY}")
    require_finite(path, gate)
