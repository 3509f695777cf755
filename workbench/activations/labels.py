"""The labels of activations: one row per prompt, without its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench.activations.plan import Plan

DIMS = ("prompt", "layer", "position", "hidden")
_COLUMNS = ("prompt_id", "meaning_id", "language", "harmful", "category", "split", "tier")


def dataset(residual: Any, plan: Plan, table: pd.DataFrame, provenance: Mapping[str, Any]) -> xr.Dataset:
    """Label an array of activations.

    Parameters
    ----------
    residual : Variable or array [prompt, layer, position, hidden]
        The values.
    plan : Plan
        Names layers and positions.
    table : DataFrame
        One row per prompt; ``prompt_id`` becomes the index.
    provenance : mapping
        Goes into ``attrs``.
    """
    variable = residual if isinstance(residual, xr.Variable) else xr.Variable(DIMS, residual)
    coordinates: dict[str, Any] = {"prompt": table["prompt_id"].to_numpy(dtype=object), "layer": list(plan.layers), "position": list(plan.positions)}
    for column in table.columns.drop("prompt_id"):
        kind = table[column].dtype
        values = table[column].to_numpy(dtype=None if kind.kind in "bif" else object)
        if values.dtype == object:
            values = np.array([None if pd.isna(v) else v for v in values], dtype=object)
        coordinates[column] = ("prompt", values)
    return xr.Dataset({"residual": variable}, coords=coordinates, attrs=dict(provenance))


def prompt_table(frame: pd.DataFrame, tokens: Sequence[Any]) -> pd.DataFrame:
    """Labels of each prompt, without its text; pairs only where there are some, so that tables without stay as they were."""
    table = frame[[c for c in _COLUMNS if c in frame.columns]].reset_index(drop=True).copy()
    for column in (c for c in _COLUMNS if c not in table.columns):
        table[column] = None
    table = table[list(_COLUMNS)]
    if "pair_id" in frame and frame["pair_id"].notna().any():
        table["pair_id"] = frame["pair_id"].to_numpy(dtype=object)
    table["harmful"] = table["harmful"].astype(bool)
    table["n_tokens"] = [len(t) for t in tokens]
    table["n_text_tokens"] = [t.n_inst for t in tokens]
    table["n_chars"] = [t.n_chars for t in tokens]
    return table
