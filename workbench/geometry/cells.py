"""From an activation store to the language x meaning grid, one layer at a time.

Every analysis reads through here, so none holds more than one layer in memory, and all agree on which rows count, in
what order, and on what is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from workbench.errors import DataError, did_you_mean

ALONG_PROMPT = ("meaning_id", "language", "harmful", "category", "split", "tier", "n_tokens", "n_chars")


def labels_of(data: xr.Dataset | xr.DataArray) -> pd.DataFrame:
    """Return one row of labels per prompt (prompt_id, meaning_id, language, harmful, split, tier, ...).

    Missing tiers, splits and categories are None, whatever a store made of them.
    """
    needed = [name for name in ("meaning_id", "language", "harmful") if name not in data.coords]
    if needed:
        raise DataError(f"The activations lack the coordinates {needed} along prompt. Expected what capture() returns.")
    frame = pd.DataFrame({"prompt_id": data["prompt"].values.astype(str)})
    for name in ALONG_PROMPT:
        frame[name] = data[name].values if name in data.coords else None
    for name in ("category", "split", "tier"):
        column = frame[name].astype(object)
        frame[name] = column.where(column.notna() & ~column.isin(["", "None", "nan"]), None)
    frame["language"], frame["meaning_id"] = frame["language"].astype(str), frame["meaning_id"].astype(str)
    frame["harmful"] = frame["harmful"].astype(bool)
    return frame


def tiers_of(labels: pd.DataFrame) -> dict[str, str | None]:
    """Return the tier declared for each language, in order of first appearance."""
    return {str(language): part["tier"].iloc[0] for language, part in labels.groupby("language", sort=False)}


def rows_of(labels: pd.DataFrame, *, split: str | None = None, languages: Sequence[str] | None = None) -> Int[np.ndarray, " row"]:
    """Return the row numbers of a split and of some languages, in store order.

    Raises
    ------
    DataError
        Unknown language, no splits declared, or nothing left.
    """
    keep = np.ones(len(labels), dtype=bool)
    if split is not None:
        known = sorted({s for s in labels["split"] if s is not None})
        if split not in known:
            raise DataError(
                f"No prompt belongs to split {split!r} (splits present: {known or 'none'}). "
                "Give the prompts splits with grid.with_splits() before capture()."
            )
        keep &= (labels["split"] == split).to_numpy()
    if languages is not None:
        known = list(dict.fromkeys(labels["language"]))
        for language in languages:
            if language not in known:
                raise DataError(f"No prompt is in language {language!r}; present: {known}.{did_you_mean(language, known)}")
        keep &= labels["language"].isin(list(languages)).to_numpy()
    if not keep.any():
        raise DataError(f"No prompt left for split {split!r} and languages {languages}. Choose others or add prompts.")
    return np.flatnonzero(keep)


@dataclass(frozen=True)
class Cells:
    """The complete language x meaning grid of one analysis.

    Parameters
    ----------
    rows : int array (language, meaning)
        Row number of each cell in the store.
    languages, meanings : list of str
        In order of first appearance.
    harmful : bool array (meaning,)
    tiers : dict
        Language -> tier or None.
    """

    rows: Int[np.ndarray, "language meaning"]
    languages: list[str]
    meanings: list[str]
    harmful: Bool[np.ndarray, " meaning"]
    tiers: dict[str, str | None]


def complete_cells(acts: xr.Dataset, *, split: str | None = None, max_meanings: int | None = None, rng: np.random.Generator | None = None) -> Cells:
    """Lay the prompts out as languages x meanings and refuse a grid with holes.

    Parameters
    ----------
    acts : Dataset
        What ``capture`` returns.
    split : str, optional
        Only these meanings.
    max_meanings : int, optional
        Draw that many meanings with ``rng`` when there are more.

    Raises
    ------
    DataError
        Missing or doubled cells (named), fewer than two languages or meanings.
    """
    labels = labels_of(acts)
    kept = rows_of(labels, split=split)
    part = labels.iloc[kept]
    languages, meanings = list(dict.fromkeys(part["language"])), list(dict.fromkeys(part["meaning_id"]))
    if len(languages) < 2 or len(meanings) < 2:
        raise DataError(
            f"Got {len(languages)} language(s) and {len(meanings)} meaning(s). "
            "Comparing languages with meanings needs at least two of each; capture more."
        )
    rows = np.full((len(languages), len(meanings)), -1)
    at_language, at_meaning = {v: i for i, v in enumerate(languages)}, {v: i for i, v in enumerate(meanings)}
    harmful = np.zeros(len(meanings), dtype=bool)
    for row, language, meaning, label in zip(kept, part["language"], part["meaning_id"], part["harmful"], strict=True):
        a, i = at_language[language], at_meaning[meaning]
        if rows[a, i] >= 0:
            raise DataError(
                f"Meaning {meaning!r} appears twice in {language!r} (rows {rows[a, i]} and {row}). "
                "Expected one prompt per language and meaning; drop one."
            )
        rows[a, i] = row
        harmful[i] = label
    holes = np.argwhere(rows < 0)
    if len(holes):
        named = ", ".join(f"({languages[a]}, {meanings[i]})" for a, i in holes[:5])
        more = f" and {len(holes) - 5} more" if len(holes) > 5 else ""
        raise DataError(
            f"{len(holes)} of {rows.size} cells (language, meaning) are missing: {named}{more}. Expected each meaning in each language; "
            "capture grid.complete() instead."
        )
    if max_meanings is not None and len(meanings) > max_meanings:
        drawn = np.sort((rng or np.random.default_rng(0)).choice(len(meanings), size=max_meanings, replace=False))
        rows, meanings, harmful = rows[:, drawn], [meanings[i] for i in drawn], harmful[drawn]
    tiers = tiers_of(labels)
    return Cells(rows, languages, meanings, harmful, {language: tiers[language] for language in languages})


def positions_of(acts: xr.Dataset, positions: Sequence[str] | None = None) -> list[str]:
    """Return the positions asked for, or all that were captured."""
    known = [str(p) for p in acts["position"].values]
    for position in positions or ():
        if position not in known:
            raise DataError(f"Position {position!r} was not captured; present: {known}.{did_you_mean(position, known)}")
    return list(positions) if positions is not None else known


def each_layer(
    acts: xr.Dataset, rows: Int[np.ndarray, " ..."], *, positions: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> Iterator[tuple[int, str, Float[np.ndarray, "... hidden"]]]:
    """Read the states of some rows as float64, one layer after another.

    Yields
    ------
    layer, position, states (shape of ``rows``, then hidden)

    Raises
    ------
    DataError
        A state that is not finite, or a layer that was not captured.
    """
    wanted = positions_of(acts, positions)
    known = [int(k) for k in acts["layer"].values]
    at = [[str(p) for p in acts["position"].values].index(p) for p in wanted]
    for layer in known if layers is None else layers:
        if layer not in known:
            raise DataError(f"Layer {layer} was not captured; present: {known}.")
        block = acts["residual"].transpose("prompt", "layer", "position", "hidden").isel(layer=known.index(layer)).values
        for position, index in zip(wanted, at, strict=True):
            states = block[:, index][rows].astype(np.float64)
            bad = ~np.isfinite(states).all(axis=-1)
            if bad.any():
                first = acts["prompt"].values[np.asarray(rows)[bad].flat[0]]
                raise DataError(
                    f"{int(bad.sum())} states at layer {layer}, position {position} are not finite (first: prompt {first}). "
                    "Expected finite numbers; capture again in float32, or leave these prompts out."
                )
            yield layer, position, states


def all_one_state(states: Float[np.ndarray, "... hidden"]) -> bool:
    """Say whether every row is the same state up to rounding, as at layer 0 of a template token."""
    flat = states.reshape(-1, states.shape[-1])
    return bool(np.abs(flat - flat[0]).max() <= 1e-6 * max(float(np.abs(flat[0]).max()), 1e-30))


def provenance_of(acts: xr.Dataset | xr.DataArray, **options: Any) -> dict[str, Any]:
    """Return the store's provenance with this analysis' options added."""
    return {**{str(k): v for k, v in acts.attrs.items()}, **options}
