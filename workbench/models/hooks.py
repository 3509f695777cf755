"""The one hook engine: where the residual stream is, how to read it and how to change it.

Layer ``k`` is the residual stream after ``k`` blocks and before the final norm: 0 is what enters the first block (the
embedding, scaled where the family scales it), ``k`` is the output of block ``k - 1``. Its site, in TransformerLens 4
names, is ``embed.hook_out`` or ``blocks.{k-1}.hook_out``. Hugging Face's ``hidden_states[k]`` is the same tensor for
``k < L`` only; its last entry is taken after the final norm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.errors import ModelCheckError, ModelError, did_you_mean

#: A change to the residual stream: [prompt token hidden] in, the same shape out, never in place.
Edit = Callable[[Tensor], Tensor]
#: What to keep of a residual stream, called inside the hook; it must copy, never return a view.
Select = Callable[[Tensor], Tensor]

_BLOCKS = ("layers", "h", "blocks", "block")
_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f")


@dataclass(frozen=True)
class Parts:
    """The modules of a decoder that the workbench needs, found by structure and not by family name."""

    base: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module | None


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


def whole(residual: Float[Tensor, "prompt token hidden"]) -> Float[Tensor, "prompt token hidden"]:
    """Keep every token's state (a copy)."""
    return residual.detach().clone()


def spans(
    starts: Int[np.ndarray, "prompt position"], ends: Int[np.ndarray, "prompt position"]
) -> Callable[[Float[Tensor, "prompt token hidden"]], Float[Tensor, "prompt position hidden"]]:
    """Keep one state per prompt and position: the token itself, or the mean over a longer span.

    Only the rows asked for are copied out of the residual stream, so nothing else stays in memory. Means are summed in
    float64 over the span's own tokens; what stands at padding cannot reach them.

    Parameters
    ----------
    starts, ends : int arrays [prompt, position]
        Half-open token spans, counted in the right-padded row.
    """
    single = (ends - starts == 1).all(axis=0)
    last = torch.from_numpy(np.where(single, ends - 1, 0).astype(np.int64))
    row = torch.arange(len(starts)).unsqueeze(1)
    averaged = np.flatnonzero(~single)
    placed: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def select(residual: Tensor) -> Tensor:
        device = residual.device
        if device not in placed:  # once per device, not once per layer
            placed[device] = row.to(device), last.to(device)
        kept = residual.detach()[placed[device]]
        if len(averaged):
            kept = kept.float()  # a mean is finer than the half-precision states it is taken over
        for p in averaged:
            first, stop = (torch.from_numpy(np.ascontiguousarray(edge[:, p])).to(device).unsqueeze(1) for edge in (starts, ends))
            token = torch.arange(residual.shape[1], device=device).unsqueeze(0)
            inside = ((token >= first) & (token < stop)).unsqueeze(-1)
            total = torch.where(inside, residual.detach(), 0).sum(dim=1, dtype=torch.float64)
            kept[:, p] = (total / (stop - first)).to(kept.dtype)
        return kept

    return select


class _DeepEnough(Exception):
    """Raised inside the forward pass once the deepest recorded layer is read."""


def _stream(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def record(chat: Any, layers: Sequence[int], select: Select = whole, *, once: bool = True, stop: bool = False) -> Iterator[dict[int, Tensor]]:
    """Read layers of the forward passes made inside the ``with``.

    Parameters
    ----------
    chat : ChatModel
        Anything with ``parts`` and ``name``.
    layers : sequence of int
        Layers to read (0 to L).
    select : callable, optional
        What to keep of each residual stream; :func:`whole` by default, :func:`spans` for chosen positions.
    once : bool
        Ask that each layer is passed exactly once (set False around ``generate``; the last pass is then kept).
    stop : bool
        End the ``with`` body as soon as the deepest layer is read: the blocks above and the head never run.

    Yields
    ------
    dict of int to Tensor
        Filled by the forward pass.

    Raises
    ------
    ModelError
        For a layer that the model does not have.
    ModelCheckError
        If a layer was passed never, or more than once while ``once`` is set.

    Examples
    --------
    >>> with record(chat, [0, 4]) as states:  # doctest: +SKIP
    ...     chat.parts.base(input_ids=ids, use_cache=False)
    >>> states[4].shape  # doctest: +SKIP
    """
    blocks = chat.parts.blocks
    require_layers(chat, layers)
    wanted = sorted(set(layers))
    states: dict[int, Tensor] = {}
    passes = dict.fromkeys(wanted, 0)

    def keep(layer: int, residual: Tensor) -> None:
        states[layer] = select(residual)
        passes[layer] += 1
        if stop and layer == wanted[-1]:
            raise _DeepEnough

    with ExitStack() as hooks:
        for layer in wanted:
            if layer == 0:

                def entering(_module: nn.Module, args: tuple, kwargs: dict) -> None:
                    keep(0, args[0] if args else kwargs["hidden_states"])

                hooks.callback(blocks[0].register_forward_pre_hook(entering, with_kwargs=True).remove)
            else:

                def leaving(_module: nn.Module, _args: tuple, output: Any, layer: int = layer) -> None:
                    keep(layer, _stream(output))

                hooks.callback(blocks[layer - 1].register_forward_hook(leaving).remove)
        try:
            yield states
        except _DeepEnough:
            pass
    wrong = {layer: n for layer, n in passes.items() if (n != 1 if once else n < 1)}
    if wrong:
        raise ModelCheckError(
            f"{chat.name}: layers {wrong} (layer: passes) were not read {'exactly once' if once else 'at all'}. Expected one pass of each block per "
            "forward. Call the model once inside `record`, or pass once=False around generate; a model that skips or repeats blocks is not supported."
        )


@contextmanager
def edited(chat: Any, edits: Mapping[int, Edit | Sequence[Edit]]) -> Iterator[None]:
    """Rewrite the residual stream inside the ``with``; no hook outlives it, whatever happens.

    Recorders see the edited stream, as the next block does. Several edits of one layer act in the order given; of two
    nested ``with`` blocks on one layer the inner acts first.

    Parameters
    ----------
    chat : ChatModel
        Anything with ``parts`` and ``name``.
    edits : mapping of int to callable or sequence of callables
        ``edit(residual [prompt token hidden]) -> same shape``, per layer. During generation with a KV cache an edit sees
        the whole prompt first and then one token at a time. It must return a new tensor. A ``label`` attribute, if it
        has one, names it in the provenance of what is measured meanwhile.

    Raises
    ------
    ModelError
        For an unknown layer, or an edit that changes the shape or returns nothing.
    """
    require_layers(chat, list(edits))
    blocks = chat.parts.blocks
    with ExitStack() as hooks:
        for layer, given in edits.items():
            chain = tuple(given) if isinstance(given, Sequence) else (given,)

            def rewritten(residual: Tensor, layer: int = layer, chain: tuple[Edit, ...] = chain) -> Tensor:
                for edit in chain:
                    new = edit(residual)
                    if not isinstance(new, Tensor) or new.shape != residual.shape:
                        raise ModelError(
                            f"The edit {_label(edit)} at layer {layer} returned {_shape(new)}; expected a tensor of shape {tuple(residual.shape)}. "
                            "Return the whole residual stream [prompt, token, hidden], changed or not."
                        )
                    residual = new.to(residual.dtype)
                return residual

            def entering(_module: nn.Module, args: tuple, kwargs: dict, rewritten: Edit = rewritten) -> tuple[tuple, dict]:
                if args:
                    return (rewritten(args[0]), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": rewritten(kwargs["hidden_states"])}

            def leaving(_module: nn.Module, _args: tuple, output: Any, rewritten: Edit = rewritten) -> Any:
                if isinstance(output, tuple):
                    return (rewritten(output[0]), *output[1:])
                return rewritten(output)

            hook: Any = entering if layer == 0 else leaving
            hook.workbench_edits = [(layer, _label(edit)) for edit in chain]
            # prepend: whoever records this layer must see what the next block will see
            if layer == 0:
                hooks.callback(blocks[0].register_forward_pre_hook(entering, with_kwargs=True, prepend=True).remove)
            else:
                hooks.callback(blocks[layer - 1].register_forward_hook(leaving, prepend=True).remove)
        yield


def edits_of(chat: Any) -> list[str]:
    """Name the edits now acting on a model, so that a measurement can say under which it was made."""
    found = []
    for block in chat.parts.blocks:
        for hook in [*block._forward_pre_hooks.values(), *block._forward_hooks.values()]:
            found += [f"layer {layer}: {label}" for layer, label in getattr(hook, "workbench_edits", [])]
    return found


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


def _label(edit: Any) -> str:
    return getattr(edit, "label", None) or getattr(edit, "__name__", None) or type(edit).__name__


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
