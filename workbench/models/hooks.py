"""The one hook engine: how the residual stream is read and how it is changed.

Hooks act only on passes that the thread (or task) makes which opened them, and are gone after their ``with``. Where the
layers are, :mod:`workbench.models.sites` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.errors import ModelCheckError, ModelError
from workbench.models.passes import begin_pass, current_pass, end_pass, open_items, opened
from workbench.models.sites import Parts, find_parts, layer_of, place_of, require_layers, site

__all__ = [
    "Edit",
    "Parts",
    "Select",
    "edited",
    "edits_of",
    "find_parts",
    "layer_of",
    "place_of",
    "placed",
    "record",
    "require_layers",
    "site",
    "spans",
    "whole",
]

#: A change to the residual stream: [prompt token hidden] in, the same shape out, never in place.
Edit = Callable[[Tensor], Tensor]
#: What to keep of a residual stream, called inside the hook; it must copy, never return a view.
Select = Callable[[Tensor], Tensor]

#: How the label begins of an edit that acts after every write to the stream.
_EVERYWHERE = "everywhere: "


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
    """Read layers of the forward passes that this thread makes inside the ``with``.

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
    item = object()

    def keep(layer: int, residual: Tensor) -> None:
        if item not in open_items():  # a pass of another thread
            return
        states[layer] = select(residual)
        passes[layer] += 1
        if stop and layer == wanted[-1]:
            raise _DeepEnough

    with opened(item), ExitStack() as hooks:
        for layer in wanted:
            if layer == 0:

                def entering(_module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
                    if kwargs is not None:  # None while another thread puts the hook in or out
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


@dataclass(frozen=True, eq=False)
class _Opened:
    """The edits of one ``with``: on which model, and their names by place."""

    blocks: nn.ModuleList
    labels: tuple[tuple[int | str, str], ...]


@contextmanager
def edited(chat: Any, edits: Mapping[int | str, Edit | Sequence[Edit]]) -> Iterator[None]:
    """Rewrite the residual stream inside the ``with``; no hook outlives it, whatever happens.

    Only passes made by the thread (or task) that opened the ``with`` are edited. Recorders see the edited stream, as the
    next block does. Several edits of one place act in the order given; of two nested ``with`` blocks on one place the
    inner acts first.

    Parameters
    ----------
    chat : ChatModel
        Anything with ``parts`` and ``name``.
    edits : mapping of int or str to callable or sequence of callables
        ``edit(residual [prompt token hidden]) -> same shape``, per layer, or per site of what attention or MLP adds
        (``blocks.3.hook_attn_out``). During generation with a KV cache an edit sees the whole prompt first and then one
        token at a time; one with a true attribute ``wants_pass`` is called with the :class:`~workbench.models.passes.Pass`
        too, which says which token is which. It must return a new tensor. A ``label`` attribute, if it has one, names it
        in the provenance of what is measured meanwhile.

    Raises
    ------
    ModelError
        For an unknown place, or an edit that changes the shape or returns nothing.
    """
    chains = placed(chat, [edits])
    item = _Opened(chat.parts.blocks, tuple((place, _label(edit)) for place, chain in chains.items() for edit in chain))
    with opened(item), ExitStack() as hooks:
        if any(getattr(edit, "wants_pass", False) for chain in chains.values() for edit in chain):
            hooks.enter_context(_passes_noted(chat.parts.base, item))
        for place, chain in chains.items():
            hooks.callback(_rewrite(chat, item, place, chain).remove)
        yield


@contextmanager
def _passes_noted(base: nn.Module, item: _Opened) -> Iterator[None]:
    def entering(module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        if kwargs is not None and module is base and item in open_items():
            begin_pass(args, kwargs)

    def leaving(module: nn.Module, _args: tuple, output: Any) -> None:
        if module is base and item in open_items():
            end_pass(output)

    with ExitStack() as hooks:
        hooks.callback(base.register_forward_pre_hook(entering, with_kwargs=True).remove)
        hooks.callback(base.register_forward_hook(leaving).remove)
        yield


def _rewrite(chat: Any, item: _Opened, place: int | str, chain: tuple[Edit, ...]) -> Any:
    """Put one hook in front of the others at a place: whoever records there must see what the next block will see."""
    if place == 0:
        target = chat.parts.blocks[0]
    else:
        target = chat.parts.writes[place].module if isinstance(place, str) else chat.parts.blocks[place - 1]
    calls: list[tuple[Any, bool]] = [(edit, bool(getattr(edit, "wants_pass", False))) for edit in chain]

    def rewritten(residual: Tensor) -> Tensor:
        for edit, wants_pass in calls:
            new = edit(residual, current_pass()) if wants_pass else edit(residual)
            if new is residual:
                continue
            if not isinstance(new, Tensor) or new.shape != residual.shape:
                raise ModelError(
                    f"The edit {_label(edit)} at {_place(place)} returned {_shape(new)}; expected a tensor of shape {tuple(residual.shape)}. "
                    "Return the whole residual stream [prompt, token, hidden], changed or not."
                )
            residual = new.to(residual.dtype)
        return residual

    def entering(module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
        # kwargs is None while a hook is put in or out by another thread; a copy of the module carries the hook along
        if kwargs is None or module is not target or item not in open_items():
            return None
        if args:
            return (rewritten(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": rewritten(kwargs["hidden_states"])}

    def leaving(module: nn.Module, _args: tuple, output: Any) -> Any:
        if module is not target or item not in open_items():
            return None
        if isinstance(output, tuple):
            return (rewritten(output[0]), *output[1:])
        return rewritten(output)

    if place == 0:
        return target.register_forward_pre_hook(entering, with_kwargs=True, prepend=True)
    return target.register_forward_hook(leaving, prepend=True)


def placed(chat: Any, edits: Sequence[Any]) -> dict[int | str, tuple[Edit, ...]]:
    """Sort edits by the place they act on, each checked against the model.

    Parameters
    ----------
    edits : sequence
        Objects that say where they act by ``placed(chat)`` (those of :mod:`workbench.interventions`), mappings of place
        to callable, or sequences of these.

    Returns
    -------
    dict of place to tuple of callables
        In the order given; what :func:`edited` takes.
    """
    found: dict[int | str, tuple[Edit, ...]] = {}
    for edit in edits:
        if isinstance(edit, Mapping):
            pairs = [pair for k, some in edit.items() for e in (some if isinstance(some, Sequence) else (some,)) for pair in _at(chat, k, e)]
        elif isinstance(edit, Sequence) and not isinstance(edit, str):
            pairs = [(place, e) for place, chain in placed(chat, edit).items() for e in chain]
        elif hasattr(edit, "placed"):
            pairs = list(edit.placed(chat))
        else:
            raise ModelError(
                f"{edit!r} is no edit. Expected Add, Ablate or Patch (workbench.interventions), a sequence of them, or {{layer: function}}."
            )
        for place, act in pairs:
            found[place] = (*found.get(place, ()), act)
    return found


def _at(chat: Any, place: int | str, edit: Any) -> list[tuple[int | str, Edit]]:
    """Bind what a mapping puts at a place; one of ours keeps its scope and prompts, and forgets its own layers."""
    return list(edit.moved_to(place).placed(chat)) if hasattr(edit, "moved_to") else [(place_of(chat, place), edit)]


def edits_of(chat: Any) -> list[str]:
    """Name the edits now acting on a model in this thread, so that a measurement can say under which it was made.

    Returns
    -------
    list of str
        By layer, and at one layer in the order they act; what acts after every write to the stream is named once.
    """
    named: list[tuple[int | str, str]] = []
    for item in reversed(open_items()):  # the inner with acts first
        if isinstance(item, _Opened) and item.blocks is chat.parts.blocks:
            named += item.labels
    named.sort(key=lambda pair: (isinstance(pair[0], str), pair[0] if isinstance(pair[0], int) else 0))
    told: list[str] = []
    for place, label in named:
        if not label.startswith(_EVERYWHERE):
            told.append(f"{_place(place)}: {label}")
        elif label not in told:
            told.append(label)
    return told


def _place(place: int | str) -> str:
    return place if isinstance(place, str) else f"layer {place}"


def _label(edit: Any) -> str:
    return getattr(edit, "label", None) or getattr(edit, "__name__", None) or type(edit).__name__


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
