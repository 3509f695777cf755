"""Two models on the same prompts: which rows belong together, and what is resampled when they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Int

from workbench.errors import DataError, shown_list
from workbench.geometry.cells import labels_of, rows_of


def units_of(data: xr.Dataset) -> np.ndarray:
    """Return what each prompt is resampled with: its pair of twins (coordinate ``pair_id``) where it has one, else its meaning."""
    meanings = data["meaning_id"].values.astype(str)
    if "pair_id" not in data.coords:
        return meanings
    pairs = pd.Series(data["pair_id"].values, dtype=object)
    known = (pairs.notna() & ~pairs.isin(["", "None", "nan"])).to_numpy()
    return np.where(known, "pair:" + pairs.astype(str).to_numpy(dtype=str), meanings)


def drawn_units(
    units: np.ndarray, languages: np.ndarray, harmful: Bool[np.ndarray, " prompt"], most: int, rng: np.random.Generator
) -> Bool[np.ndarray, " prompt"]:
    """Keep at most so many resampling units of each language, the same ones wherever languages share them.

    Twins stay together, and harmful, harmless and twin units keep their proportions.
    """
    known, of_row = np.unique(units, return_inverse=True)
    rank, keep = rng.permutation(len(known)), np.zeros(len(units), dtype=bool)
    for language in dict.fromkeys(languages):
        here = languages == language
        present = np.unique(of_row[here])
        kind = sum(2**i * np.isin(present, of_row[here & part]) for i, part in enumerate((harmful, ~harmful)))
        share = min(1.0, most / len(present))
        for each in np.unique(kind):
            members = present[kind == each]
            chosen = members[np.argsort(rank[members])][: max(2, round(share * len(members)))]
            keep |= here & np.isin(of_row, chosen)
    return keep


def _first(values: Sequence[Any], n: int = 5) -> str:
    return shown_list(list(values)[:n]) + (f" and {len(values) - n} more" if len(values) > n else "")


def _same(what: str, after: Sequence[Any], before: Sequence[Any], asked: Sequence[Any] | None) -> None:
    """Refuse layers or positions that only one of the two models has."""
    if asked is not None:
        lacking = {name: [v for v in asked if v not in known] for name, known in (("after", after), ("before", before))}
        for name, missing in lacking.items():
            if missing:
                raise DataError(
                    f"{what.capitalize()} {missing} of the model {name!r} were not captured; present: {list(after if name == 'after' else before)}. "
                    f"Expected {what} that both models have; choose among {[v for v in after if v in before]}, or capture the others."
                )
    elif set(after) != set(before):
        raise DataError(
            f"The two models were captured at different {what}: after {list(after)}, before {list(before)}. "
            f"Expected the same; pass {what}={[v for v in after if v in before]}, which both have, or capture again."
        )


def matched_rows(
    acts: xr.Dataset,
    before: xr.Dataset,
    *,
    split: str | None = None,
    positions: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    same_width: bool = True,
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """Return the row numbers of the same prompts in both stores, in the order of the first.

    Parameters
    ----------
    acts, before : Dataset
        Activations after and before.
    split : str, optional
        Only these prompts are compared.
    same_width : bool
        Also refuse states of different width.

    Raises
    ------
    DataError
        Prompts, their labels, positions, layers or widths that differ; says which and how to select what is common.
    """
    labels, others = labels_of(acts), labels_of(before)
    rows, other_rows = rows_of(labels, split=split), rows_of(others, split=split)
    ids, other_ids = pd.Index(labels["prompt_id"].iloc[rows]), pd.Index(others["prompt_id"].iloc[other_rows])
    for name, index in (("after", ids), ("before", other_ids)):
        if not index.is_unique:
            doubled = _first(index[index.duplicated()])
            raise DataError(f"Prompts appear twice in the activations {name}: {doubled}. Expected each once; drop the copies.")
    only, only_other = ids.difference(other_ids, sort=False), other_ids.difference(ids, sort=False)
    if len(only) or len(only_other):
        told = [f"{len(part)} only {name} ({_first(part)})" for name, part in (("after", only), ("before", only_other)) if len(part)]
        raise DataError(
            f"The two models were measured on different prompts{f' in split {split!r}' if split else ''}: {'; '.join(told)}; {len(ids) - len(only)} "
            "are common. Expected the same prompts; select the common rows: keep = np.isin(acts['prompt'], before['prompt']), "
            "acts.isel(prompt=keep), and likewise for before."
        )
    order = other_rows[other_ids.get_indexer(ids)]
    for column in ("meaning_id", "language", "harmful"):
        differ = (labels[column].iloc[rows].to_numpy() != others[column].iloc[order].to_numpy()).nonzero()[0]
        if len(differ):
            raise DataError(
                f"{len(differ)} prompts carry another {column} in the two stores: {_first(ids[differ])}. Expected the same labels; "
                "capture both models on one prompt grid."
            )
    _same("layers", [int(k) for k in acts["layer"].values], [int(k) for k in before["layer"].values], layers)
    _same("positions", [str(p) for p in acts["position"].values], [str(p) for p in before["position"].values], positions)
    widths = acts.sizes["hidden"], before.sizes["hidden"]
    if same_width and widths[0] != widths[1]:
        raise DataError(
            f"The states after are {widths[0]} wide and those before {widths[1]}, so no basis is common to them. Expected two checkpoints of one "
            "architecture; bases=('own',) compares models of different width, each in its own basis."
        )
    return rows, order
