"""Settings of a method from words: ``beta=0.2``, ``on_policy=false``, ``weighting=uniform``, ``weighting.k=50``."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from workbench.alignment.trainers import Method, method_of
from workbench.errors import DataError, did_you_mean

NOTHING = ("none", "uniform")
#: Fields of a method that a run fills in, and what they come from.
DECIDED = {"interpreter": "--interpreter-languages and --layer", "reference": "--reference", "max_new_tokens": "--max-new-tokens"}
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", type(None): "none"}


def method_with(name: str, settings: Sequence[str], base: Method | None = None) -> Method | None:
    """Return a method with settings, or None where none is given.

    Parameters
    ----------
    name : str
        As :func:`~workbench.alignment.trainers.method_of` takes it.
    settings : sequence of str
        ``NAME=VALUE``; a dot reaches into a setting that has settings of its own. "none" and "uniform" stand for nothing.

    base : Method, optional
        What is changed; default the method with its defaults.

    Raises
    ------
    DataError
        No such setting, or a value of another kind.

    Examples
    --------
    >>> method_with("dpo", ["beta=0.2"])
    DPO(beta=0.2)
    """
    if not settings:
        return None
    method: Any = base or method_of(name)
    for one in settings:
        path, sign, value = one.partition("=")
        if not sign or not path.strip() or not value.strip():
            raise DataError(f"--set {one!r}. Expected NAME=VALUE, such as {_some(method)}.")
        method = _with(method, path.strip().split("."), value.strip(), one)
    return method


def _with(made: Any, path: Sequence[str], value: str, said: str) -> Any:
    known = _settable(made)
    if path[0] in DECIDED and hasattr(made, path[0]):
        raise DataError(f"--set {said!r}: {path[0]} is decided by {DECIDED[path[0]]}. Expected another setting; use that option instead.")
    if path[0] not in known:
        there = f"one of {', '.join(known)}" if known else "none: it has no settings, so leave --set out"
        raise DataError(f"--set {said!r}: {type(made).__name__} has no setting {path[0]!r}. Expected {there}.{did_you_mean(path[0], known)}")
    if len(path) > 1:
        inner = getattr(made, path[0])
        if not is_dataclass(inner):
            raise DataError(f"--set {said!r}: {path[0]} has no settings of its own. Expected {path[0]}=VALUE.")
        return replace(made, **{path[0]: _with(inner, path[1:], value, said)})
    given = _read(value, get_type_hints(type(made))[path[0]], getattr(made, path[0]), said)
    try:
        return replace(made, **{path[0]: given})
    except DataError as error:
        raise DataError(f"--set {said!r}: {error}") from None


def _settable(made: Any) -> list[str]:
    return [field.name for field in fields(made) if field.name not in DECIDED]


def _read(value: str, kind: Any, now: Any, said: str) -> Any:
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value.lower() in NOTHING and type(None) in kinds:
        return None
    if is_dataclass(now) and value.lower() == type(now).__name__.lower():
        return now
    for one in kinds:
        if one is bool and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if one in (int, float):
            try:
                return one(value)
            except ValueError:
                continue
        if one is str:
            return value
    wanted = " or ".join(WORDS.get(one, str(one)) for one in kinds)
    raise DataError(f"--set {said!r}: {value!r} is none of what it takes. Expected {wanted}, such as {said.partition('=')[0]}={now}.")


def _some(method: Any) -> str:
    plain = [(name, getattr(method, name)) for name in _settable(method) if not is_dataclass(getattr(method, name))]
    return f"{plain[0][0]}={plain[0][1]}" if plain else "nothing: this method has no settings"


__all__ = ["method_with"]
