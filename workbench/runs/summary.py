"""Figures of ``summary.json``: ``{value, low, high, n}``, or null where nothing was measured."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def figure(row: pd.Series, value: str = "value", low: str = "low", high: str = "high", n: float | None = None) -> dict[str, Any] | None:
    """Turn a table's row into ``{value, low, high, n}``, or None when nothing was measured."""
    number = float(row[value])
    if not math.isfinite(number):
        return None

    def bound(name: str) -> float | None:
        return float(row[name]) if math.isfinite(float(row[name])) else None

    count = n if n is not None else row.get("n")
    return {"value": number, "low": bound(low), "high": bound(high), "n": None if count is None or pd.isna(count) else int(count)}
