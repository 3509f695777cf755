"""Half-precision states, quickly: numpy converts and tests float16 one number at a time, but integers many at once.

A float16 has 1 sign, 5 exponent and 10 fraction bits. Shifted by 13 places they are those of a float32 whose exponent lies 112 too
low, also for subnormal numbers, so one multiplication by a power of two makes the value exact.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

_EXPONENT = np.int16(0x7C00)
_KEPT = np.int32(-0x70000001)  # all but the copies of the sign that the shift leaves below it
_LIFT = np.float32(2.0**112)
_ROWS = 64  # rows worked on at once stay in the cache


def widen(states: Float[np.ndarray, "*shape"], out: Float[np.ndarray, "*shape"]) -> None:
    """Write finite states into a float32 or float64 array, exactly (infinite float16 come out finite: test them before).

    Examples
    --------
    >>> out = np.empty(3, dtype=np.float32)
    >>> widen(np.array([1.5, -0.0, 6e-8], dtype=np.float16), out)
    >>> out.tolist()
    [1.5, -0.0, 5.960464477539063e-08]
    """
    if states.dtype != np.float16 or out.dtype != np.float32:
        out[...] = states
        return
    bits = out.view(np.int32)
    bits[...] = states.view(np.int16)
    bits <<= 13
    bits &= _KEPT
    out *= _LIFT


def widened(states: Float[np.ndarray, "row hidden"], dtype: type = np.float32) -> Float[np.ndarray, "row hidden"]:
    """Return a copy of finite states in another precision, a few rows at a time."""
    out: np.ndarray = np.empty(states.shape, dtype=dtype)
    for start in range(0, len(states), _ROWS):
        widen(states[start : start + _ROWS], out[start : start + _ROWS])
    return out


def finite_rows(states: Float[np.ndarray, "row hidden"]) -> Bool[np.ndarray, " row"]:
    """Say of each state whether all its numbers are finite."""
    if states.dtype != np.float16:
        return np.isfinite(states).all(axis=1)
    found = np.empty(len(states), dtype=bool)
    for start in range(0, len(states), _ROWS):
        part = slice(start, start + _ROWS)
        found[part] = (states[part].view(np.int16) & _EXPONENT).max(axis=1, initial=0) < _EXPONENT
    return found
