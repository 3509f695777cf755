"""Where the residual stream is: a decoder's parts, and the names of places in it.

Layer ``k`` is the residual stream after ``k`` blocks and before the final norm: 0 is what enters the first block (the
embedding, scaled where the family scales it), ``k`` is the output of block ``k - 1``. Its site, in TransformerLens 4
names, is ``embed.hook_out`` or ``blocks.{k-1}.hook_out``. Hugging Face's ``hidden_states[k]`` is the same tensor for
``k < L`` only; its last entry is taken after the final norm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from workbench.errors import ModelError, did_you_mean
from workbench.models.writes import Write, as_write_site, find_writes

_BLOCKS = ("layers", "h", "blocks", "block")
_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f")


@dataclass(frozen=True)
class Parts:
    """The modules of a decoder that the workbench needs, found by structure and not by family name."""

    base: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module | None

    @cached_property
    def writes(self) -> dict[str, Write]:
        """What attention and MLP of every block add to the stream, by site; verified once, on a pass of four tokens."""
        return find_writes(self.base, self.blocks)


def find_parts(model: nn.Module) -> Parts:
    """Locate the decoder without its head, its blocks in order and its final norm.

    Parameters
    ----------
    model : Module
        A Hugging Face causal language model.

    Returns
    -------
    Parts
        ``base`` takes token ids and runs ``blocks`` one after the other, then ``norm``.

    Raises
    ------
    ModelError
        If no list of blocks is found where the known families keep one.
    """
    known: Any = model
    finders: tuple[Callable[[], Any], ...] = (lambda: known.get_decoder(), lambda: known.base_model, lambda: known.base_model.get_decoder())
    looked: list[str] = []
    for find in finders:
        try:
            base = find()
        except (AttributeError, NotImplementedError):
            continue
        for name in _BLOCKS:
            blocks = getattr(base, name, None)
            if isinstance(blocks, nn.ModuleList) and len(blocks):
                norm = next((getattr(base, n) for n in _NORMS if isinstance(getattr(base, n, None), nn.Module)), None)
                return Parts(base, blocks, norm)
        looked.append(f"{type(base).__name__} with {[n for n, _ in base.named_children()]}")
    raise ModelError(
        f"{type(model).__name__}: no list of decoder blocks found. Expected one named {' or '.join(_BLOCKS)} on the base model; looked at "
        f"{'; '.join(looked) or 'nothing (it has neither get_decoder nor base_model)'}. Load a decoder-only causal language model."
    )


def site(layer: int) -> str:
    """Name a layer as TransformerLens does.

    Examples
    --------
    >>> site(0), site(3)
    ('embed.hook_out', 'blocks.2.hook_out')
    """
    if layer < 0:
        raise ModelError(f"Layer {layer} does not exist: layers count blocks passed, from 0 (the embedding). Count from the start.")
    return "embed.hook_out" if layer == 0 else f"blocks.{layer - 1}.hook_out"


def layer_of(name: str) -> int:
    """Read a residual site's name back as a layer; ``blocks.k.hook_in`` is layer ``k`` too.

    Examples
    --------
    >>> layer_of("blocks.2.hook_out"), layer_of("blocks.3.hook_in"), layer_of("embed.hook_out")
    (3, 3, 0)
    """
    if name in ("embed.hook_out", "hook_embed"):
        return 0
    found = re.fullmatch(r"blocks\.(\d+)\.(hook_in|hook_out|hook_resid_pre|hook_resid_post)", name)
    if not found:
        known = ["embed.hook_out", "blocks.0.hook_in", "blocks.0.hook_out"]
        raise ModelError(
            f"{name!r} is no layer. Expected a whole number (blocks passed, 0 is the embedding), or a site of the residual stream: "
            f"'embed.hook_out', 'blocks.K.hook_in' or 'blocks.K.hook_out'."
            f"{did_you_mean(name, known)}"
        )
    return int(found[1]) + (found[2] in ("hook_out", "hook_resid_post"))


def place_of(chat: Any, name: int | str) -> int | str:
    """Read a place: a layer (number, or site of the residual stream), or the site of what attention or MLP adds.

    Returns
    -------
    int or str
        Layers as int, the others by their canonical site.

    Raises
    ------
    ModelError
        For a place that the model does not have.
    """
    write = as_write_site(name, lambda: chat.parts.writes) if isinstance(name, str) else None
    if write is not None:
        return write
    layer = layer_of(name) if isinstance(name, str) else name
    require_layers(chat, [layer])
    return int(layer)


def require_layers(chat: Any, layers: Sequence[int]) -> None:
    """Refuse layers that the model does not have."""
    n = len(chat.parts.blocks)
    unknown = [layer for layer in layers if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not 0 <= layer <= n]
    if unknown:
        nearest = sorted({min(max(round(float(u)), 0), n) for u in unknown if isinstance(u, int | float | np.number)}) or [0, n]
        raise ModelError(
            f"{chat.name} has no layer {', '.join(map(repr, unknown))}: expected whole numbers from 0 (embedding) to {n} (after the last block). "
            f"Nearest: {', '.join(map(str, nearest))}."
        )
