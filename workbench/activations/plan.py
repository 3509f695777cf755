"""What a capture will do, settled before it starts: layers, positions, shards and batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.errors import ModelError, StoreError

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Plan:
    """Which states are kept and in which order prompts are read.

    Prompts are stored in the order given, in shards of consecutive rows. Inside a shard they are read longest first, in
    batches of at most ``token_budget`` tokens padding included. Batches never reach across shards, so a shard's values
    do not depend on what was captured before it.

    Attributes
    ----------
    layers : tuple of int
        Blocks passed (0 to L), ascending.
    positions : tuple of str
        ``t_inst``, ``t_post_inst``, ``mean_inst`` or ``post[i]``.
    dtype : str
        Precision of the stored values: float32 or float16.
    token_budget : int
        Tokens in one batch; a single prompt may exceed it.
    shard_size : int
        Prompts in one shard.
    """

    layers: tuple[int, ...]
    positions: tuple[str, ...]
    dtype: str = "float32"
    token_budget: int = 2048
    shard_size: int = 1024

    def __post_init__(self) -> None:
        for name, value in (("token_budget", self.token_budget), ("shard_size", self.shard_size)):
            if value < 1:
                raise StoreError(f"{name}={value}: expected at least 1. The defaults are token_budget=2048 and shard_size=1024.")
        if self.dtype not in DTYPES:
            raise StoreError(f"dtype={self.dtype!r}: a store holds {' or '.join(DTYPES)}. Half-precision models are stored exactly by float32.")
        if not self.positions or len(set(self.positions)) != len(self.positions):
            raise ModelError(f"positions={list(self.positions)}: expected at least one, each once.")

    @property
    def hash(self) -> str:
        """sha256 over every field (16 hex digits)."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def shards(self, n_prompts: int) -> list[range]:
        """Cut rows 0 to n - 1 into consecutive shards."""
        return [range(start, min(start + self.shard_size, n_prompts)) for start in range(0, n_prompts, self.shard_size)]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-serialisable values."""
        return {**asdict(self), "layers": list(self.layers), "positions": list(self.positions)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Plan:
        """Read back what :meth:`to_dict` returned."""
        return cls(**{**fields, "layers": tuple(fields["layers"]), "positions": tuple(fields["positions"])})


def make_plan(
    chat: Any, *, layers: str | Sequence[int | str] = "all", positions: str | Sequence[str] = ("t_inst", "t_post_inst"), **options: Any
) -> Plan:
    """Check layers and positions against a model and settle the plan.

    Parameters
    ----------
    chat : ChatModel
        Says which layers there are.
    layers : "all" or sequence of int or str
        Blocks passed, or sites such as ``blocks.3.hook_out``.
    positions : str or sequence of str
        Names of positions.
    **options
        ``dtype``, ``token_budget``, ``shard_size`` of :class:`Plan`.

    Raises
    ------
    ModelError
        For an unknown layer or position, naming the nearest.
    """
    from workbench.models.hooks import layer_of, require_layers  # here: opening a store must not import torch
    from workbench.models.tokens import require_positions

    if isinstance(layers, str) and layers != "all":
        layers = [layers]
    chosen = range(chat.n_layers + 1) if layers == "all" else [layer_of(layer) if isinstance(layer, str) else layer for layer in layers]
    require_layers(chat, list(chosen))
    if not chosen:
        raise ModelError(f"layers={layers!r}: expected 'all' or at least one of 0 to {chat.n_layers}.")
    positions = (positions,) if isinstance(positions, str) else tuple(positions)
    require_positions(positions)
    return Plan(layers=tuple(sorted({int(k) for k in chosen})), positions=positions, **options)
