"""One layer of a grid as tiles: a few dimensions of all its rows at a time, scaled and centred, small enough for the cache.

Sums of squares and of products are sums over dimensions, so a tile is all that need be in float32 at once; what is taken
from it is added up in float64. Each dimension is centred before anything is multiplied: in a residual stream the mean of all
rows is most of the length, and a few dimensions are a thousand times larger than the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import all_one_state
from workbench.geometry.half import widen, widened

SCALINGS = ("raw", "unit", "standardised")
FEW_STATES = 8
_VALUES = 2**18  # in one tile: a megabyte in float32
_NARROWEST = 32  # dimensions, two cache lines of float16
_LARGE = 30.0  # times the standard deviation of the median dimension: taken in float64


def require_scalings(scalings: Sequence[str]) -> None:
    """Refuse an unknown scaling, naming the nearest."""
    for scaling in scalings:
        if scaling not in SCALINGS:
            raise DataError(f"Unknown scaling {scaling!r}; expected one of {list(SCALINGS)}.{did_you_mean(scaling, SCALINGS)}")


def one_state(states: Float[np.ndarray, "... hidden"], scaling: str) -> bool:
    """Say whether every row is the same state up to rounding once scaled; rows that differ in length only are, at unit norm."""
    if all_one_state(states):
        return True
    rows = states.reshape(-1, states.shape[-1])
    return scaling == "unit" and all(_same_direction(part) for part in (rows[:: max(1, len(rows) // 8)], rows))


def _same_direction(rows: np.ndarray) -> bool:
    wide = widened(rows, np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return bool(lengths.all()) and all_one_state(wide / lengths)


def tiles(
    states: Float[np.ndarray, "language meaning hidden"], scaling: str, *, precision: type = np.float32
) -> Iterator[Float[np.ndarray, "language meaning dimension"]]:
    """Scale and centre the states, some dimensions after the other.

    Parameters
    ----------
    states : array (language, meaning, hidden)
        Finite, in any precision.
    scaling : str
        "raw", "unit" (each row of norm 1, then centred) or "standardised" (each dimension of variance 1 over all rows).

    Yields
    ------
    array (language, meaning, dimension)
        Of mean zero up to rounding; overwritten by the next. Dimensions with much more variance than the others (zero in the
        tiles they belong to) come last, in float64: without the row that makes one large, little may be left.

    Raises
    ------
    DataError
        Unknown scaling, a row of norm zero ("unit"), or a dimension without variance ("standardised"; left out instead where
        there are fewer than 8 distinct states).
    """
    require_scalings([scaling])
    shape, hidden = states.shape[:2], states.shape[2]
    rows = states.reshape(-1, hidden)
    averaging: np.ndarray = np.full(len(rows), 1 / len(rows), dtype=precision)
    weights = _to_unit_norm(rows, precision) if scaling == "unit" else None
    constant: list[int] = []
    large = []
    for first, part, tile in _each_tile(rows, precision):
        if weights is not None:
            tile *= weights
        spread = _centre(tile, averaging)
        if scaling == "standardised":
            still = _constant(part, spread)
            constant += (first + np.flatnonzero(still)).tolist()
            tile *= np.where(still, 0.0, 1 / np.where(still, 1.0, spread)).astype(precision)
        else:
            above = np.flatnonzero(spread > _LARGE * np.median(spread))
            large.append(tile[:, above].astype(np.float64))
            tile[:, above] = 0.0
        yield tile.reshape(*shape, -1)
    if sum(columns.shape[1] for columns in large):
        yield np.concatenate(large, axis=1).reshape(*shape, -1)
    # with two or three distinct tokens, 16-bit embeddings agree in some dimension by chance: that is no broken capture
    if constant and not _few_states(rows):
        raise DataError(
            f"{len(constant)} of {hidden} features are constant over all prompts (first: {constant[:5]}) and cannot be standardised. "
            "Expected variance in each; pass scalings=('raw', 'unit')."
        )


def _each_tile(rows: np.ndarray, precision: type) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the first dimension of a tile, its states as stored, and a copy of them to work on (one buffer for all)."""
    width = max(_NARROWEST, _VALUES // len(rows))
    buffer = np.empty(len(rows) * min(width, rows.shape[1]), dtype=precision)
    for first in range(0, rows.shape[1], width):
        part = rows[:, first : first + width]
        tile = buffer[: part.size].reshape(part.shape)
        widen(part, tile)
        yield first, part, tile


def _to_unit_norm(rows: np.ndarray, precision: type) -> Float[np.ndarray, "row 1"]:
    squares = np.zeros(len(rows))
    for _, _, tile in _each_tile(rows, precision):
        squares += np.vecdot(tile, tile)
    empty = ~rows[squares == 0].any(axis=1)
    if empty.any():
        raise DataError(
            f"{int(empty.sum())} states are all zero and have no direction. Expected non-zero states; use scaling 'raw' or check the capture."
        )
    return (1 / np.sqrt(squares))[:, None].astype(precision)


def _centre(tile: np.ndarray, averaging: np.ndarray) -> Float[np.ndarray, " dimension"]:
    """Centre each dimension in place and return its standard deviation."""
    for _ in range(3):
        tile -= averaging @ tile
        left = (averaging @ tile).astype(np.float64)
        squares = (averaging @ np.square(tile)).astype(np.float64)
        if not (left**2 > 1e-3 * squares).any():  # else the mean was rounded by more than the states differ: once more
            break
    return np.sqrt(np.maximum(squares - left**2, 0.0))


def _constant(part: np.ndarray, spread: np.ndarray) -> Bool[np.ndarray, " dimension"]:
    """Say which dimensions are constant, and take again in float64, in place, the deviations that float32 cannot hold."""
    still = np.zeros(len(spread), dtype=bool)
    first = np.abs(part[0].astype(np.float64))
    for d in np.flatnonzero((spread <= 1e-5 * first) | ~np.isfinite(spread)):
        values = part[:, d].astype(np.float64)
        spread[d] = values.std()
        still[d] = spread[d] <= 1e-9 * max(float(np.abs(values).max()), 1e-30)
    return still


def _few_states(rows: np.ndarray) -> bool:
    found: set[bytes] = set()
    for row in rows:
        found.add(row.tobytes())
        if len(found) >= FEW_STATES:
            return False
    return True
