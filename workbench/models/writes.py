"""Where attention and MLP add to the residual stream: found by the names of a block's parts, then verified by adding up.

Sites are ``blocks.{k}.hook_attn_out`` and ``blocks.{k}.hook_mlp_out``, which in TransformerLens mean what is added in every
family. Where a branch is normalised before it is added (Gemma) that is ``ln1_post.hook_out``, elsewhere ``attn.hook_out``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench.errors import ModelCheckError, ModelError
from workbench.models.passes import open_items, opened

BRANCHES = ("attn", "mlp")


class Names(NamedTuple):
    """How a family calls a block's parts: the two branches, and the norm after each where there is one."""

    attn: str
    mlp: str
    attn_norm: str | None = None
    mlp_norm: str | None = None


#: The first row whose names a block all has is taken. Llama, too, has a ``post_attention_layernorm``, *before* the MLP.
FAMILIES = (
    Names("self_attn", "mlp", "post_attention_layernorm", "post_feedforward_layernorm"),  # Gemma-2, Gemma-3, OLMo-2
    Names("self_attn", "mlp", "post_self_attn_layernorm", "post_mlp_layernorm"),  # GLM-4
    Names("self_attn", "mlp"),  # Llama, Mistral, Qwen2, Qwen3, Phi-3
    Names("self_attn", "feed_forward"),
    Names("attn", "mlp"),  # GPT-2
    Names("attention", "mlp"),  # GPT-NeoX
)


class Write(NamedTuple):
    """One thing that adds to the residual stream.

    Attributes
    ----------
    site : str
        TransformerLens name.
    module : Module
        What it returns is added.
    branch : Module
        The attention or the MLP itself.
    norm : Module or None
        The norm between the branch and the stream, where the family has one.
    """

    site: str
    module: nn.Module
    branch: nn.Module
    norm: nn.Module | None


def write_site(block: int, branch: str) -> str:
    """Name what a block's attention or MLP adds, as TransformerLens does.

    Examples
    --------
    >>> write_site(3, "attn")
    'blocks.3.hook_attn_out'
    """
    return f"blocks.{block}.hook_{branch}_out"


#: Other names of a write -> branch, and whether the name stands behind a norm (None: in every family).
_SPELLINGS = {
    "hook_attn_out": ("attn", None),
    "hook_mlp_out": ("mlp", None),
    "attn.hook_out": ("attn", False),
    "mlp.hook_out": ("mlp", False),
    "ln1_post.hook_out": ("attn", True),
    "ln2_post.hook_out": ("mlp", True),
}


def as_write_site(name: str, writes: Callable[[], dict[str, Write]]) -> str | None:
    """Return the canonical name of a write's site, or None if the name is another kind of place's.

    Parameters
    ----------
    name : str
        A TransformerLens name.
    writes : callable
        Gives the model's writes by canonical site; asked only for names of writes.

    Raises
    ------
    ModelError
        If the model has no such block, or the name is not where this family adds.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.(\w+(?:\.hook_out)?)", name)
    if found is None or found[2] not in _SPELLINGS:
        return None
    branch, behind = _SPELLINGS[found[2]]
    site, there = write_site(int(found[1]), branch), writes()
    if site not in there:
        raise ModelError(f"There is no {name!r}: expected a block from 0 to {len(there) // len(BRANCHES) - 1}.")
    if behind is not None and behind != (there[site].norm is not None):
        stands = "no norm follows the branch" if behind else "a norm follows the branch, and what is added stands behind it"
        raise ModelError(f"{name!r} is not what the block adds here: {stands}. Expected {site!r}, which is that in every family.")
    return site


def find_writes(base: nn.Module, blocks: nn.ModuleList) -> dict[str, Write]:
    """Find what every block adds to the residual stream, and verify on four tokens that nothing else does.

    Returns
    -------
    dict of str to Write
        By site, in the order of the forward pass.

    Raises
    ------
    ModelError
        If a block's parts have names that no known family uses.
    ModelCheckError
        If what enters a block plus what attention and MLP add is not what leaves it.
    """
    found: dict[str, Write] = {}
    for k, block in enumerate(blocks):
        there = dict(block.named_children())
        names = next((row for row in FAMILIES if all(n in there for n in row if n is not None)), None)
        if names is None:
            raise ModelError(
                f"Block {k} ({type(block).__name__}) has the parts {sorted(there)}. Expected an attention and an MLP named as one of "
                f"{sorted({row[:2] for row in FAMILIES})}. Edit layers (layers=[...]) instead of everywhere; those need no parts."
            )
        for branch, inner, norm in zip(BRANCHES, names[:2], names[2:], strict=True):
            name = write_site(k, branch)
            found[name] = Write(name, there[norm or inner], there[inner], there[norm] if norm else None)
    _require_sum(base, blocks, found)
    return found


def _require_sum(base: nn.Module, blocks: nn.ModuleList, writes: dict[str, Write]) -> None:
    """Refuse a model whose blocks add something else, or scale what they add."""
    entered: dict[int, Tensor] = {}
    added: dict[str, Tensor] = {}
    left: dict[int, Tensor] = {}
    item = object()

    def entering(k: int, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
        if item in open_items() and kwargs is not None:
            entered[k] = args[0] if args else kwargs["hidden_states"]

    def leaving(store: dict[Any, Tensor], key: int | str, output: Any) -> None:
        if item in open_items():
            store[key] = output[0] if isinstance(output, tuple) else output

    handles = []
    for k, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(lambda _m, args, kwargs=None, k=k: entering(k, args, kwargs), with_kwargs=True))
        handles.append(block.register_forward_hook(lambda _m, _a, output, k=k: leaving(left, k, output)))
    for name, write in writes.items():
        handles.append(write.module.register_forward_hook(lambda _m, _a, output, name=name: leaving(added, name, output)))
    embedding: Any = base.get_input_embeddings()  # type: ignore[operator]
    ids = torch.arange(4, device=embedding.weight.device).remainder(embedding.weight.shape[0]).unsqueeze(0)
    try:
        with torch.inference_mode(), opened(item, alone=True):
            base(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for k in range(len(blocks)):
        parts: Sequence[Tensor | None] = [entered.get(k), *(added.get(write_site(k, branch)) for branch in BRANCHES)]
        if any(part is None for part in parts) or k not in left:
            raise ModelCheckError(f"Block {k} did not run its attention and its MLP. Expected one pass of each; edit layers instead of everywhere.")
        total = torch.stack([part.cpu().double() for part in parts if part is not None]).sum(dim=0)
        expected = left[k].cpu().double()
        gap = float((total - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp_min(1e-12))
        if not gap <= (1e-4 if left[k].dtype in (torch.float32, torch.float64) else 3e-2):
            raise ModelCheckError(
                f"Block {k} ({type(blocks[k]).__name__}): its input plus what its attention and MLP add is not its output (relative gap {gap:.2g}). "
                "Expected a sum; this family scales or adds something else, or another library's hook changes it. Edit layers (layers=[...]) instead."
            )
