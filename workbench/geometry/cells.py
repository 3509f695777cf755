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
from workbench.geometry.half import finite_rows, widened
from workbench.prompts.completeness import largest_complete as largest_complete_part

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
        Missing or doubled cells (named, with the size of the largest complete part), a meaning with two labels, fewer than two
        languages or meanings.
    """
    if max_meanings is not None and max_meanings < 2:
        raise DataError(f"max_meanings={max_meanings}: expected at least 2 (3 for an interval), to compare meanings; leave it out for the default.")
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
    for row, language, meaning in zip(kept, part["language"], part["meaning_id"], strict=True):
        a, i = at_language[language], at_meaning[meaning]
        if rows[a, i] >= 0:
            raise DataError(
                f"Meaning {meaning!r} appears twice in {language!r} (rows {rows[a, i]} and {row}). "
                "Expected one prompt per language and meaning; drop one."
            )
        rows[a, i] = row
    holes = np.argwhere(rows < 0)
    if len(holes):
        named = ", ".join(f"({languages[a]}, {meanings[i]})" for a, i in holes[:5])
        more = f" and {len(holes) - 5} more" if len(holes) > 5 else ""
        whole = tuple(map(len, _largest_complete(part)))
        offer = f"largest_complete(acts) returns the largest complete part ({whole[0]} languages x {whole[1]} meanings)"
        raise DataError(
            f"{len(holes)} of {rows.size} cells (language, meaning) are missing: {named}{more}. Expected each meaning in each language; "
            f"{f'{offer}, or ' if min(whole) > 1 else ''}capture grid.complete() instead."
        )
    harmful = labels["harmful"].to_numpy()[rows]
    if (harmful != harmful[0]).any():
        i = int((harmful != harmful[0]).any(axis=0).argmax())
        raise DataError(f"Meaning {meanings[i]!r} is harmful in one language and harmless in another. Expected one label per meaning; correct it.")
    harmful = harmful[0]
    if max_meanings is not None and len(meanings) > max_meanings:
        drawn = np.sort((rng or np.random.default_rng(0)).choice(len(meanings), size=max_meanings, replace=False))
        rows, meanings, harmful = rows[:, drawn], [meanings[i] for i in drawn], harmful[drawn]
    tiers = tiers_of(labels)
    return Cells(rows, languages, meanings, harmful, {language: tiers[language] for language in languages})


def _largest_complete(labels: pd.DataFrame) -> tuple[list[str], list[str]]:
    languages, meanings = list(dict.fromkeys(labels["language"])), list(dict.fromkeys(labels["meaning_id"]))
    present = pd.crosstab(labels["meaning_id"], labels["language"]).loc[meanings, languages] > 0
    return largest_complete_part(present, labels.drop_duplicates("meaning_id").set_index("meaning_id")["harmful"])


def largest_complete(acts: xr.Dataset, split: str | None = None) -> xr.Dataset:
    """Return the prompts of the largest complete language x meaning grid; nothing is filled in.

    The rule is that of ``PromptGrid.complete``: the meanings present in every language, and where that would lose most of
    the prompts, without the languages that are not parallel to the others.

    Parameters
    ----------
    acts : Dataset
        What ``capture`` returns; stays lazy.
    split : str, optional
        Only the meanings of this split.

    Returns
    -------
    Dataset
        Its rows in their order; ``attrs["complete"]`` names the languages dropped and counts the meanings dropped.

    Raises
    ------
    DataError
        If no two languages share two meanings.
    """
    labels = labels_of(acts)
    kept = rows_of(labels, split=split)
    part = labels.iloc[kept]
    languages, meanings = _largest_complete(part)
    if len(languages) < 2 or len(meanings) < 2:
        raise DataError(
            f"The largest complete part of {len(part)} prompts has {len(languages)} language(s) and {len(meanings)} meaning(s). Expected at "
            "least two of each; capture languages that are translations of each other."
        )
    inside = (part["language"].isin(languages) & part["meaning_id"].isin(meanings)).to_numpy()
    dropped = {
        "languages_dropped": [tag for tag in dict.fromkeys(part["language"]) if tag not in languages],
        "meanings_dropped": part["meaning_id"].nunique() - len(meanings),
    }
    return acts.isel(prompt=kept[inside]).assign_attrs(complete=dropped)


def positions_of(acts: xr.Dataset, positions: Sequence[str] | None = None) -> list[str]:
    """Return the positions asked for, or all that were captured."""
    known = [str(p) for p in acts["position"].values]
    if positions is not None and not len(positions):
        raise DataError(f"No position was asked for. Expected some of {known}, or None for all.")
    positions = [positions] if isinstance(positions, str) else positions
    for position in positions or ():
        if position not in known:
            raise DataError(f"Position {position!r} was not captured; present: {known}.{did_you_mean(position, known)}")
    return list(positions) if positions is not None else known


def each_layer(
    acts: xr.Dataset,
    rows: Int[np.ndarray, " ..."],
    *,
    positions: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    dtype: type | None = np.float64,
) -> Iterator[tuple[int, str, Float[np.ndarray, "... hidden"]]]:
    """Read the states of some rows, one layer after another.

    Parameters
    ----------
    dtype : type or None
        Precision of what is yielded; None for the stored one, then without a copy where the rows lie in order (do not write
        to it).

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
    residual = acts["residual"].transpose("prompt", "layer", "position", "hidden")
    flat = np.asarray(rows).ravel()
    if layers is not None and not len(layers):
        raise DataError(f"No layer was asked for. Expected some of {known}, or None for all.")
    for layer in known if layers is None else layers:
        if layer not in known:
            raise DataError(f"Layer {layer} was not captured; present: {known}.")
        here = residual.isel(layer=known.index(layer))
        block = here.values if len(wanted) == acts.sizes["position"] else here.isel(position=at).values
        for place, position in enumerate(wanted):
            states = _in_order(block[:, at[place] if block.shape[1] == acts.sizes["position"] else place], flat)
            finite = finite_rows(states)
            if not finite.all():
                first = acts["prompt"].values[flat[~finite][0]]
                raise DataError(
                    f"{int((~finite).sum())} states at layer {layer}, position {position} are not finite (first: prompt {first}). "
                    "Expected finite numbers; capture again in float32, or leave these prompts out."
                )
            if dtype is not None:
                states = widened(states, dtype)
            yield layer, position, states.reshape(*np.shape(rows), -1)


def _in_order(states: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return some rows; a view where they follow each other."""
    together = len(rows) > 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
    return states[rows[0] : rows[0] + len(rows)] if together else states[rows]


def all_one_state(states: Float[np.ndarray, "... hidden"]) -> bool:
    """Say whether every row is the same state up to rounding, as at layer 0 of a template token."""
    flat = states.reshape(-1, states.shape[-1])
    first = flat[0].astype(np.float64)
    near = 1e-6 * max(float(np.abs(first).max()), 1e-30)
    some = flat[:: max(1, len(flat) // 8)]  # a few rows settle it nearly always
    return all(bool(np.abs(part - first).max() <= near) for part in (some, flat))


def provenance_of(acts: xr.Dataset | xr.DataArray, **options: Any) -> dict[str, Any]:
    """Return the store's provenance with this analysis' options added."""
    return {**{str(k): v for k, v in acts.attrs.items()}, **options}
