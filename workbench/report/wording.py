"""How numbers are written in the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

MINUS = "\u2212"


def number(value: Any, form: str = ".2f") -> str:
    """Return a number with a true minus sign, or a dash where there is none."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return "\u2013"
    return format(value, form).replace("-", MINUS) if math.isfinite(value) else "\u2013"


def interval(low: Any, high: Any, form: str = ".2f") -> str:
    """Return ``[low, high]``, or ``""`` where there is none."""
    if number(low) == "\u2013" or number(high) == "\u2013":
        return ""
    return f"[{number(low, form)}, {number(high, form)}]"


def estimate(row: Mapping[str, Any], value: str = "value", low: str = "low", high: str = "high", form: str = ".2f") -> str:
    """Return ``0.97 [0.95, 0.99]``."""
    return f"{number(row[value], form)} {interval(row[low], row[high], form)}".strip()


def listed(items: Iterable[Any]) -> str:
    """Return ``a, b and c``."""
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"


def compact(value: Any) -> str:
    """Return a manifest entry as short text: hashes cut, records as ``key value``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {compact(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(compact(inner) for inner in value)
    text = str(value)
    if len(text) >= 32 and all(c in "0123456789abcdef" for c in text.lower()):
        return text[:12] + "\u2026"
    return text if len(text) <= 160 else text[:157] + "\u2026"
