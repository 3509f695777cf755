"""On which tokens of which prompts an edit acts, as one weight per token of a pass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.errors import DataError, did_you_mean
from workbench.models.passes import REGIONS, Pass

#: What an edit can act on; a tuple of names is their union.
SCOPES = dict(REGIONS)


def as_scope(scope: str | Sequence[str]) -> tuple[str, ...]:
    """Read one scope or several.

    Raises
    ------
    DataError
        For an unknown one.

    Examples
    --------
    >>> as_scope("all"), as_scope(["last_prompt", "decode"])
    (('all',), ('last_prompt', 'decode'))
    """
    given = (scope,) if isinstance(scope, str) else tuple(scope)
    unknown = [name for name in given if name not in SCOPES]
    if unknown or not given:
        near = did_you_mean(str(unknown[0]), SCOPES) if unknown else ""
        raise DataError(f"scope={scope!r}: expected one or several of {', '.join(SCOPES)}.{near}")
    return given


def as_rows(rows: Any) -> dict[str, float] | np.ndarray | None:
    """Read the prompts an edit acts on: nothing (all), a mapping by prompt id, or a sequence in the order of the batch.

    Returns
    -------
    dict, float array or None
        True and False became 1 and 0.

    Raises
    ------
    DataError
        For values that are no finite numbers.
    """
    if rows is None:
        return None
    given = dict(rows.items()) if hasattr(rows, "items") else None  # a pandas Series by prompt id is a mapping too
    try:
        values = np.array(list(rows if given is None else given.values()), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("rows holds something other than numbers. Expected True, False or a strength per prompt.") from error
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise DataError(f"rows has shape {values.shape} or values that are not finite. Expected one finite number, True or False per prompt.")
    return values if given is None else dict(zip(map(str, given), values.tolist(), strict=True))


def rows_label(rows: Mapping[str, float] | np.ndarray | None) -> str:
    """Name a choice of prompts shortly: how many, and a hash of which."""
    if rows is None:
        return ""
    pairs = sorted(rows.items()) if isinstance(rows, Mapping) else list(enumerate(rows.tolist()))
    chosen = sum(value != 0 for _, value in pairs)
    return f", {chosen} of {len(pairs)} prompts #{hashlib.sha256(repr(pairs).encode()).hexdigest()[:8]}"


def in_order(values: Any, at: Pass, what: str) -> list[Any]:
    """Bring what was given per prompt into the order of a pass's rows.

    Parameters
    ----------
    values : mapping by prompt id, or sequence
        One entry per prompt.
    at : Pass
        The pass.
    what : str
        Its name in messages.

    Raises
    ------
    DataError
        If the pass has no prompt ids for a mapping, or prompts that it lacks; if a sequence has another length, or meets
        batches that a runner cut and sorted by itself.
    """
    names = at.batch.prompt_ids if at.batch is not None else None
    if isinstance(values, Mapping):
        if names is None:
            raise DataError(
                f"{what} goes by prompt id, and this pass does not say which prompts it has. Run them through generate() or capture(), pass "
                f"prompt_ids= to chat.states(), announce the batch (workbench.models.passes.announced), or give {what} in the order of the batch."
            )
        missing = [name for name in names if name not in values]
        if missing:
            raise DataError(
                f"{what} says nothing about {len(missing)} prompts of this batch: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}. "
                "Expected an entry for every prompt (False or 0 leaves one alone)."
            )
        return [values[name] for name in names]
    if names is not None:
        raise DataError(
            f"{what} goes by order, but this batch was cut and sorted by its runner. Expected a mapping from prompt id: "
            f"{what}=dict(zip(grid.frame['prompt_id'], ...))."
        )
    if len(values) != at.n_prompts:
        raise DataError(f"{what} has {len(values)} entries, the batch {at.n_prompts} prompts. Expected one per prompt, in the order of the batch.")
    return list(values)


def weights(at: Pass | None, scope: tuple[str, ...], rows: Mapping[str, float] | np.ndarray | None, like: Tensor) -> bool | Tensor:
    """Return how strongly an edit acts on each token of a pass.

    Worked out once per pass, scope, choice of prompts and device, not once per layer.

    Parameters
    ----------
    at : Pass or None
        None outside of a pass of the base model: then only "all" tokens of all prompts have a meaning.
    scope : tuple of str
        Union of regions.
    rows : mapping, float array or None
        Factor per prompt.
    like : Tensor [prompt token hidden]
        The residual stream there.

    Returns
    -------
    True, False or Tensor [prompt token 1]
        Everywhere 1, everywhere 0, or the weights, in at least float32.
    """
    if at is None:
        if scope == ("all",) and rows is None:
            return True
        raise DataError(
            f"scope {'+'.join(scope)} acts on passes of the whole model, and a block was called by itself. Call the model, or use "
            "scope='all' without rows."
        )
    accumulated = torch.promote_types(like.dtype, torch.float32)
    found = at.keep((scope, id(rows), like.device, accumulated), lambda: _weights(at, scope, rows, like.device, accumulated))
    if isinstance(found, Tensor) and found.shape[:2] not in (like.shape[:2], (like.shape[0], 1)):
        raise DataError(f"A block saw {tuple(like.shape[:2])} prompts and tokens where the pass has {tuple(found.shape[:2])}. Expected the same.")
    return found


def _weights(
    at: Pass, scope: tuple[str, ...], rows: Mapping[str, float] | np.ndarray | None, device: torch.device, dtype: torch.dtype
) -> bool | Tensor:
    inside: bool | Tensor = False
    for region in (at.region(name) for name in scope):
        if inside is True or region is True:
            inside = True
        elif isinstance(inside, Tensor) and isinstance(region, Tensor):
            inside = inside | region
        elif isinstance(region, Tensor):
            inside = region
    if inside is False:
        return False
    where = inside.to(device=device, dtype=dtype).unsqueeze(-1) if isinstance(inside, Tensor) else True
    if rows is None:
        return where
    factors = np.array(in_order(rows, at, "rows"), dtype=np.float64)
    if not factors.any():
        return False
    if (factors == 1).all():
        return where
    factor = torch.from_numpy(factors).to(device=device, dtype=dtype).view(-1, 1, 1)
    return factor if where is True else where * factor
