"""Interchange between two prompts: what has to be added to one state so that it carries what another one carries there.

Every interchange of a coordinate or of a whole state is a displacement of the receiver's state, and so is its control: the
same length, another way. One kind of edit therefore serves all of them, with a vector for each prompt.

    coordinate along the unit vector v:   h + ((h' - h) . v) v
    whole state:                          h + (h' - h) = h'

with h the receiver's state and h' the donor's, both at one layer and position of the unedited model.

References
----------
Interchange interventions: Geiger et al. 2021, arXiv:2106.02997; patching along one direction: Arditi et al. 2024,
arXiv:2406.11717 (released code).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import DataError


@dataclass(frozen=True, eq=False)
class Displace:
    """Add to one token of each prompt a vector of its own; for ``chat.edited({layer: Displace(...)})`` around a pass of just these prompts.

    Parameters
    ----------
    shift : array [prompt hidden]
        What is added, in the order of the pass, in units of the residual stream.
    from_end : int array [prompt]
        Which token: 1 is the last of the row.

    Examples
    --------
    >>> Displace(np.array([[0.0, 1.0]]), np.array([1]))(torch.zeros(1, 2, 2)).tolist()
    [[[0.0, 0.0], [0.0, 1.0]]]
    """

    shift: Float[np.ndarray, "prompt hidden"]
    from_end: Int[np.ndarray, " prompt"]
    label: str = field(default="Displace")

    def __call__(self, residual: Float[Tensor, "prompt token hidden"]) -> Float[Tensor, "prompt token hidden"]:
        """Add to the tokens chosen; the others stay as they are."""
        n, width, hidden = residual.shape
        if self.shift.shape != (n, hidden) or len(self.from_end) != n or int(self.from_end.max()) > width:
            raise DataError(
                f"Displacements of shape {self.shift.shape} for {len(self.from_end)} prompts met a pass of shape {tuple(residual.shape)} "
                "[prompt token hidden]. Expected the pass that they were made for: the same prompts, up to the last token."
            )
        moved = residual.clone()
        rows = torch.arange(n, device=residual.device)
        columns = torch.from_numpy(width - np.asarray(self.from_end)).to(residual.device)
        exact = torch.promote_types(residual.dtype, torch.float32)
        shift = torch.from_numpy(np.ascontiguousarray(self.shift)).to(residual.device, exact)
        moved[rows, columns] = (residual[rows, columns].to(exact) + shift).to(residual.dtype)
        return moved


def along(difference: Float[np.ndarray, "prompt hidden"], unit: Float[np.ndarray, " hidden"]) -> Float[np.ndarray, "prompt hidden"]:
    """Return the part of each difference that lies along a unit vector: the displacement that exchanges one coordinate.

    Examples
    --------
    >>> along(np.array([[2.0, 3.0]]), np.array([0.0, 1.0])).tolist()
    [[0.0, 3.0]]
    """
    return np.outer(difference @ unit, unit)


def as_long_as(way: Float[np.ndarray, "prompt hidden"], shift: Float[np.ndarray, "prompt hidden"]) -> Float[np.ndarray, "prompt hidden"]:
    """Return displacements that point another way and are as long as the given ones, prompt by prompt; zero where the way is zero.

    Examples
    --------
    >>> as_long_as(np.array([[0.0, 2.0]]), np.array([[3.0, 4.0]])).tolist()
    [[0.0, 5.0]]
    """
    length = np.linalg.norm(way, axis=1, keepdims=True)
    wanted = np.linalg.norm(shift, axis=1, keepdims=True)
    return np.divide(way * wanted, length, out=np.zeros_like(way), where=length > 0)


def in_another_way(
    shift: Float[np.ndarray, "prompt hidden"], unit: Float[np.ndarray, " hidden"], way: Float[np.ndarray, " hidden"]
) -> Float[np.ndarray, "prompt hidden"]:
    """Return displacements along another direction, as long as the given ones along ``unit`` and with their signs; zero where the way is zero.

    Where one prompt's coordinate rises and another's falls, those of the control do too.

    Examples
    --------
    >>> in_another_way(np.array([[2.0, 0.0], [-3.0, 0.0]]), np.array([1.0, 0.0]), np.array([0.0, 5.0])).tolist()
    [[0.0, 2.0], [-0.0, -3.0]]
    """
    length = np.linalg.norm(way)
    return np.outer(shift @ unit, way / length if length > 0 else way)


def swapped(groups: np.ndarray, rng: np.random.Generator) -> Int[np.ndarray, " prompt"]:
    """Pair the rows of each group off at random and return each row's partner; with an odd number three go round in a ring.

    What two partners would give each other is equal and opposite, so over a group it cancels.

    Examples
    --------
    >>> swapped(np.array(["a", "a"]), np.random.default_rng(0)).tolist()
    [1, 0]
    """
    partner = np.arange(len(groups))
    for group in dict.fromkeys(groups.tolist()):
        rows = rng.permutation(np.flatnonzero(groups == group))
        while len(rows) > 1:
            some, rows = (rows[:3], rows[3:]) if len(rows) == 3 else (rows[:2], rows[2:])
            partner[some] = np.roll(some, -1)
    return partner
