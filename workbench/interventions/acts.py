"""What an edit does to one tensor, once it is checked and bound: the functions the hook engine calls at every pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.errors import DataError
from workbench.interventions.scopes import in_order, weights
from workbench.models.passes import Pass


@dataclass(eq=False)
class Act:
    """One edit, checked against a model and bound to it: what the hook engine calls."""

    scope: tuple[str, ...]
    rows: dict[str, float] | np.ndarray | None
    label: str
    wants_pass: bool = True
    _on: dict[Any, Tensor] = field(default_factory=dict)

    def __call__(self, residual: Tensor, at: Pass | None = None) -> Tensor:
        weight = weights(at, self.scope, self.rows, residual)
        if weight is False:
            return residual
        return self.change(residual, None if weight is True else weight, at)

    def change(self, residual: Tensor, weight: Tensor | None, at: Pass | None) -> Tensor:
        raise NotImplementedError

    def on(self, values: np.ndarray, residual: Tensor, dtype: torch.dtype) -> Tensor:
        """Bring numbers to the device and precision of a residual stream; once, not once per token."""
        key = (id(values), residual.device, dtype)
        if key not in self._on:
            self._on[key] = torch.from_numpy(np.ascontiguousarray(values)).to(device=residual.device, dtype=dtype)
        return self._on[key]


def _fine(residual: Tensor) -> torch.dtype:
    """Projections are summed in float32 at least."""
    return torch.promote_types(residual.dtype, torch.float32)


def _moved(residual: Tensor, coefficient: Tensor, unit: Tensor) -> Tensor:
    """Return ``residual + coefficient * unit``, rounded to the stream's precision once."""
    return torch.addcmul(residual.to(unit.dtype), coefficient, unit).to(residual.dtype)


@dataclass(eq=False)
class Adding(Act):
    shift: np.ndarray = field(default_factory=lambda: np.zeros(0))
    per_norm: bool = False

    def change(self, residual: Tensor, weight: Tensor | None, at: Pass | None) -> Tensor:
        if self.per_norm:
            shift = self.on(self.shift, residual, _fine(residual))
            size = residual.to(shift.dtype).norm(dim=-1, keepdim=True)
            return _moved(residual, size if weight is None else size * weight, shift)
        shift = self.on(self.shift, residual, residual.dtype)
        return residual + shift if weight is None else torch.addcmul(residual, weight.to(residual.dtype), shift)


@dataclass(eq=False)
class Ablating(Act):
    unit: np.ndarray = field(default_factory=lambda: np.zeros(0))
    toward: float = 0.0

    def change(self, residual: Tensor, weight: Tensor | None, at: Pass | None) -> Tensor:
        unit = self.on(self.unit, residual, _fine(residual))
        coefficient = (residual.to(unit.dtype) @ unit).unsqueeze(-1)
        if self.toward:
            coefficient = coefficient - self.toward
        return _moved(residual, -coefficient if weight is None else -coefficient * weight, unit)


@dataclass(eq=False)
class Patching(Act):
    values: Any = None
    unit: np.ndarray | None = None

    def change(self, residual: Tensor, weight: Tensor | None, at: Pass | None) -> Tensor:
        if self.unit is None:
            values = self._values(residual, at, residual.dtype)
            return values.expand_as(residual).clone() if weight is None else torch.lerp(residual, values, weight.to(residual.dtype))
        unit = self.on(self.unit, residual, _fine(residual))
        missing = self._values(residual, at, unit.dtype) - (residual.to(unit.dtype) @ unit).unsqueeze(-1)
        return _moved(residual, missing if weight is None else missing * weight, unit)

    def _values(self, residual: Tensor, at: Pass | None, dtype: torch.dtype) -> Tensor:
        """Return [1 or prompt, 1 or token, hidden or 1]."""
        whole = self.unit is None
        if not isinstance(self.values, Mapping) and self.values.ndim == (1 if whole else 0):  # one for all
            return self.on(self.values, residual, dtype).view(1, 1, -1)
        if not isinstance(self.values, Mapping) and self.values.ndim == 3:
            if self.values.shape != residual.shape:
                raise DataError(
                    f"values has shape {self.values.shape} and the pass {tuple(residual.shape)} [prompt token hidden]. Expected the same; to "
                    'patch while generating, leave generated tokens alone (scope="prompt").'
                )
            return self.on(self.values, residual, dtype)
        if at is None:
            raise DataError("values goes by prompt, and a block was called by itself. Call the model.")

        def ordered() -> Tensor:
            rows = np.array(in_order(self.values, at, "values"), dtype=np.float64)
            return torch.from_numpy(rows).to(device=residual.device, dtype=dtype).view(len(rows), 1, -1)

        return at.keep((id(self.values), residual.device, dtype), ordered)


@dataclass(eq=False)
class Nothing(Act):
    def __call__(self, residual: Tensor, at: Pass | None = None) -> Tensor:
        return residual


def as_values(values: Any, *, whole: bool) -> Any:
    """Read what :class:`Patch` writes as float64 arrays of known shape."""
    expected = "[hidden], [prompt hidden], [prompt token hidden] or prompt id to [hidden]" if whole else "a number, [prompt] or prompt id to number"
    by_id = hasattr(values, "items") and not isinstance(values, np.ndarray | Tensor)
    try:
        found = {str(k): _as_array(v) for k, v in values.items()} if by_id else _as_array(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"values is {type(values).__name__} and holds no numbers. Expected {expected}.") from error
    arrays = list(found.values()) if isinstance(found, dict) else [found]
    allowed = ((1,) if by_id else (1, 2, 3)) if whole else ((0,) if by_id else (0, 1))
    if not arrays or any(a.ndim not in allowed for a in arrays):
        raise DataError(f"values has shape {arrays[0].shape if arrays else '()'}. Expected {expected}{'' if whole else ' (with along=)'}.")
    if not all(np.isfinite(a).all() for a in arrays):
        raise DataError("values holds NaN or infinity. Expected finite states; look where they come from.")
    return found


def _as_array(values: Any) -> np.ndarray:
    return values.detach().double().cpu().numpy().copy() if isinstance(values, Tensor) else np.array(values, dtype=np.float64)
