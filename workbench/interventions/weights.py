"""Remove a direction from a copy's weights: what ablation everywhere does at run time, written into the matrices.

The copy exists for as long as a ``with`` and cannot be saved: a model without its refusal direction is a finding to be
understood here, not something to hand on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.directions.direction import Direction
from workbench.errors import ModelCheckError, ModelError
from workbench.interventions.aim import aim_at
from workbench.models.chat import ChatModel
from workbench.models.hooks import find_parts, record
from workbench.models.writes import Write

#: How families call the matrix through which a branch writes.
_OUTPUTS = ("o_proj", "down_proj", "out_proj", "dense", "c_proj", "fc2", "dense_4h_to_h", "wo", "w2")
_MARK = "workbench_unsavable"


@contextmanager
def orthogonalised(chat: ChatModel, direction: Direction | np.ndarray | Tensor, *, any_model: bool = False) -> Iterator[ChatModel]:
    """Lend a copy of a model that cannot write along a direction; saving it is refused, and it ends with the ``with``.

    The embedding and the output matrix (and bias) of each attention and MLP lose their component along the direction v of
    unit length: W <- W - v v^T W. A head that shared its weights with the embedding keeps the old ones.

    Where a block adds what the matrix returns (Llama, Mistral, Qwen2, Qwen3, Phi-3) the copy computes exactly what the
    model computes under ``Ablate(v)`` (everywhere). Where a norm stands in between (Gemma-2, Gemma-3; the write is
    g * y / rms(y) for a matrix's output y and the norm's gain g) the matrix loses its component along g * v, since then and
    only then is the write orthogonal to v. The copy then equals the model with y projected off g * v *before* the norm and
    the embedding projected off v. It differs from ``Ablate(v)`` there, which projects *after* the norm: the same direction
    is gone from the stream at every layer, but the length of what is left is normalised anew.

    Parameters
    ----------
    chat : ChatModel
        Stays as it is; memory for a second set of weights is needed.
    direction : Direction, or vector [hidden]
        Its length does not matter.
    any_model : bool
        Accept a direction of another model of the same width.

    Yields
    ------
    ChatModel
        The copy; other weights, so another fingerprint.

    Raises
    ------
    ModelError
        For a direction of another width or model, weights that are not plain matrices (quantised ones), or saving the copy.
    ModelCheckError
        If on a pass of four tokens something still writes along the direction.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717, section 4.1 and appendix on weight orthogonalisation.

    Examples
    --------
    >>> with orthogonalised(chat, direction) as without:  # doctest: +SKIP
    ...     replies = generate(without, grid)
    """
    aim = aim_at(direction)
    aim.require_model(chat, any_model=any_model)
    unit = torch.from_numpy(aim.unit)
    model = copy.deepcopy(chat.model)
    _refuse_saving(model, f"{chat.name} without the direction {aim.name}")
    parts = find_parts(model)
    with torch.no_grad():
        _untie(model)
        embedding = model.get_input_embeddings()
        embedding.weight = _without(embedding.weight, unit, axis=1)
        for write in parts.writes.values():
            matrix = _output_matrix(write)
            axis = unit if write.norm is None else _gain(write.norm, matrix.weight) * unit
            matrix.weight = _without(matrix.weight, axis / axis.norm(), axis=0)
            if matrix.bias is not None:
                matrix.bias = _without(matrix.bias, axis / axis.norm(), axis=0)
    lent = replace(chat, model=model, name=f"{chat.name} (without {aim.name})", path=None, checks={})
    _require_orthogonal(lent, unit)
    try:
        yield lent
    finally:
        for module in (model, parts.base):
            module.register_forward_pre_hook(_ended)
        model.to("meta")


def require_savable(model: nn.Module) -> None:
    """Refuse to write a model that exists for an experiment only; every function here that writes weights asks this first.

    Raises
    ------
    ModelError
        For a copy lent by :func:`orthogonalised`, or a copy of one.
    """
    mark = getattr(model, _MARK, None)
    if mark is not None:
        raise ModelError(
            f"{mark} is not saved: it was made to measure what a direction does, and weights whose refusal was removed are not handed on. "
            "Keep the replies and tables; to repair a model, train it (workbench.alignment)."
        )


def _refuse_saving(model: Any, name: str) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        require_savable(model)

    for module in model.modules():
        setattr(module, _MARK, name)
        for method in ("save_pretrained", "push_to_hub"):
            if hasattr(module, method):
                setattr(module, method, refuse)


def _ended(_module: nn.Module, _args: tuple) -> None:
    raise ModelError("This copy was lent for the length of its `with orthogonalised(...)` and has ended. Do what needs it inside the with.")


def _untie(model: Any) -> None:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False


def _without(weight: Tensor, unit: Tensor, *, axis: int) -> nn.Parameter:
    """Project a matrix, along one axis of it, onto what is orthogonal to a unit vector; in float64, rounded once."""
    unit = unit.to(weight.device)
    fine = weight.detach().double().movedim(axis, -1)
    fine = fine - (fine @ unit).unsqueeze(-1) * unit
    return nn.Parameter(fine.movedim(-1, axis).to(weight.dtype).contiguous(), requires_grad=weight.requires_grad)


def _output_matrix(write: Write) -> nn.Linear:
    found = [(name, module) for name, module in write.branch.named_children() if name in _OUTPUTS]
    if len(found) != 1 or not isinstance(found[0][1], nn.Linear) or not found[0][1].weight.is_floating_point():
        seen = {name: type(module).__name__ for name, module in write.branch.named_children()}
        raise ModelError(
            f"{write.site}: no single output matrix among {seen}. Expected one plain linear layer named {', '.join(_OUTPUTS[:4])} or alike, not "
            "quantised and not a mixture of experts. Ablate(direction) does the same at run time for any family."
        )
    return found[0][1]


def _gain(norm: nn.Module, like: Tensor) -> Tensor:
    """Per-feature factor of a root-mean-square norm, up to a constant: what it makes of ones (families store it as g or 1 + g)."""
    return norm(torch.ones(1, like.shape[0], device=like.device, dtype=torch.float32))[0].double().cpu()


def _require_orthogonal(chat: ChatModel, unit: Tensor) -> None:
    """Run four tokens and refuse a copy in which something still writes along the direction."""
    embedding = chat.model.get_input_embeddings().weight
    ids = torch.arange(4, device=embedding.device).remainder(embedding.shape[0]).unsqueeze(0)
    with torch.inference_mode(), record(chat, range(chat.n_layers + 1)) as states:
        chat.parts.base(input_ids=ids, use_cache=False)
    tolerance = 1e-3 if chat.dtype in (torch.float32, torch.float64) else 3e-2
    for layer, state in sorted(states.items()):
        fine = state.cpu().double()
        left = float(((fine @ unit).abs() / fine.norm(dim=-1).clamp_min(1e-12)).max())
        if not left <= tolerance:
            raise ModelCheckError(
                f"{chat.name}: at layer {layer} {left:.2g} of a state's length still lies along the direction; expected at most {tolerance:g}. "
                "Something else writes there (learned positions, a norm with a bias). Ablate(direction) removes it at run time."
            )
