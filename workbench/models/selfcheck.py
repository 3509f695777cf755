"""Each known way for a model to be silently wrong is one small check, run once at load.

Checks on the model run on token ids drawn at random, so they do not depend on the tokenizer; the check on the template
renders harmless texts. Gaps are relative to the root mean square of the state. The identity of a block (input plus
attention plus MLP equals output) needs TransformerLens, whose import takes seconds, and is tested per family instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.errors import ModelCheckError
from workbench.models.chat import ChatModel, Tokens, twin_of
from workbench.models.hooks import edited, record

logger = logging.getLogger(__name__)

#: Largest relative gap that rounding explains.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.float16: 3e-2, torch.bfloat16: 3e-2}

_TEXTS = ("Hello there.", "How do I bake bread at home?", "Name three rivers,\nand tell me which is the longest of them")
_LENGTHS = (5, 17, 9)
_POSITIONS = ("t_inst", "t_post_inst")


def self_check(chat: ChatModel) -> dict[str, Any]:
    """Run every check and return what was measured.

    Returns
    -------
    dict
        Relative gap by check (0 is exact), and the tolerance used.

    Raises
    ------
    ModelCheckError
        At the first assumption that does not hold, with the remedy.
    """
    chat.tokenise(_TEXTS, names=[f"probe {i}" for i in range(len(_TEXTS))])
    tolerance = TOLERANCE.get(chat.dtype, 3e-2)
    probe = _probe(chat)
    found: dict[str, Any] = {"tolerance": tolerance}
    for name, check in CHECKS.items():
        gap, meaning = check(chat, probe)
        if not gap <= tolerance:
            raise ModelCheckError(
                f"{chat.name}: {meaning} (relative gap {gap:.2g}; expected at most {tolerance:g} in {str(chat.dtype).removeprefix('torch.')}). "
                "Load with dtype='float32' to rule out rounding; if it stays, this architecture is not supported. check=False skips the "
                "self-check, and then no number from this model can be trusted."
            )
        found[name] = gap
    if chat.dtype in (torch.float16, torch.bfloat16):
        logger.info("%s computes in %s: %s", chat.name, chat.dtype, {k: f"{v:.1e}" for k, v in found.items()})
    return found


def _probe(chat: ChatModel) -> list[Tokens]:
    vocabulary = min(chat.model.get_input_embeddings().weight.shape[0], len(chat.tokenizer))
    draw = np.random.default_rng(0)
    ids = [tuple(int(i) for i in draw.integers(0, vocabulary, size=min(n, chat.context))) for n in _LENGTHS]
    return [Tokens(line, 0, max(len(line) - 2, 1), len(line)) for line in ids]


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    """Difference per row, root mean square over the last axis, in units of the row's own."""
    found, expected = found.double().cpu(), expected.double().cpu()
    size = expected.square().mean(-1).sqrt().clamp_min(1e-12)
    return ((found - expected).square().mean(-1).sqrt() / size).nan_to_num(nan=float("inf"))


def _gap(found: Tensor, expected: Tensor) -> float:
    return float(_relative(found, expected).max())


def _states(chat: ChatModel, tokens: Sequence[Tokens]) -> Tensor:
    return chat.states(tokens, layers=range(chat.n_layers + 1), positions=_POSITIONS)


def states_are_finite(chat: ChatModel, probe: list[Tokens]) -> tuple[float, str]:
    """A damaged checkpoint or an overflowing precision shows as NaN or infinity."""
    bad = ~torch.isfinite(_states(chat, probe)).all(-1)
    layers = sorted(set(bad.nonzero()[:, 1].tolist()))
    if not layers:
        return 0.0, ""
    weights = [name for name, weight in chat.model.named_parameters() if weight.device.type != "meta" and not bool(torch.isfinite(weight).all())]
    if weights:
        because = f"{len(weights)} of its weights are (first: {', '.join(weights[:3])}): download the checkpoint again"
    else:
        because = "its weights are finite: load it in float32, or in bfloat16 instead of float16, which reach further"
    raise ModelCheckError(f"{chat.name}: the residual stream is NaN or infinite at layers {layers}. Expected finite numbers; {because}.")


def prompts_are_independent(chat: ChatModel, probe: list[Tokens]) -> tuple[float, str]:
    """A prompt's states must not change with the prompts padded beside it."""
    together = _states(chat, probe)
    alone = torch.cat([_states(chat, [one]) for one in probe])
    # worst layer, averaged over rows: in half precision single rows scatter
    gap = float(_relative(together, alone).mean(dim=(0, 2)).max())
    return gap, "a prompt's activations change with the prompts batched beside it, so padding reaches attention"


def layers_agree_with_hidden_states(chat: ChatModel, probe: list[Tokens]) -> tuple[float, str]:
    """Layer k is ``hidden_states[k]`` below the top, and the final norm leads from layer L to the last entry.

    Asked on a copy that shares the weights: the first such call leaves recorders behind on the blocks.
    """
    twin = twin_of(chat.model)
    longest = max(probe, key=len)
    ids, _ = chat.pad([longest.ids])
    layers = list(range(chat.n_layers + 1))
    ours = chat.states([longest], layers=layers, positions=["t_post_inst"])[0, :, 0]
    with torch.inference_mode():
        outputs = twin.base_model(input_ids=ids, use_cache=False, output_hidden_states=True)
        theirs = [state[0, -1] for state in outputs.hidden_states]
        if len(theirs) != len(layers):
            return float("inf"), f"transformers reports {len(theirs)} hidden states where {len(layers)} were expected"
        below = max(_gap(ours[k], theirs[k]) for k in layers[:-1])
        norm = chat.parts.norm
        top = _gap(norm(ours[-1].to(_device(norm, ours))), theirs[-1]) if norm is not None else 0.0
    return max(below, top), "the layers read by hooks differ from transformers' own hidden states"


def blocks_are_a_chain(chat: ChatModel, probe: list[Tokens]) -> tuple[float, str]:
    """What leaves block k - 1 must be what enters block k, else layer k is not one place."""
    entered: dict[int, Tensor] = {}
    ids, _ = chat.pad([probe[0].ids])
    handles = [
        block.register_forward_pre_hook(
            lambda _m, args, kwargs, k=k: entered.__setitem__(k, (args[0] if args else kwargs["hidden_states"]).detach().clone()), with_kwargs=True
        )
        for k, block in enumerate(chat.parts.blocks)
    ]
    try:
        with torch.inference_mode(), record(chat, range(chat.n_layers + 1)) as left:
            chat.parts.base(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return max(_gap(left[k], entered[k]) for k in entered), "the output of one block is not the input of the next"


def cache_changes_nothing_under_an_edit(chat: ChatModel, probe: list[Tokens]) -> tuple[float, str]:
    """A steered prompt must give the same logits read at once and step by step through the KV cache."""
    middle = max(chat.n_layers // 2, 1)
    push = torch.linspace(-1, 1, chat.hidden_size)

    def steer(residual: Tensor) -> Tensor:
        return residual + push.to(residual)

    ids, _ = chat.pad([max(probe, key=len).ids])
    head = max(ids.shape[1] - 2, 1)
    with torch.inference_mode(), edited(chat, {middle: steer}):
        at_once = chat.model(input_ids=ids, use_cache=False).logits[0, head - 1 :]
        step = chat.model(input_ids=ids[:, :head], use_cache=True)
        by_step = [step.logits[0, -1]]
        for t in range(head, ids.shape[1]):
            step = chat.model(input_ids=ids[:, t : t + 1], past_key_values=step.past_key_values, use_cache=True)
            by_step.append(step.logits[0, -1])
    return _gap(torch.stack(by_step), at_once), "with the KV cache a steered prompt gives other logits than without"


def _device(module: Any, like: Tensor) -> torch.device:
    return next((weight.device for weight in module.parameters()), like.device)


#: Name in the record -> check; each returns a relative gap and what a large one would mean.
CHECKS: dict[str, Callable[[ChatModel, list[Tokens]], tuple[float, str]]] = {
    "finite": states_are_finite,
    "batch equals solo": prompts_are_independent,
    "hidden states": layers_agree_with_hidden_states,
    "chain of blocks": blocks_are_a_chain,
    "KV cache under an edit": cache_changes_nothing_under_an_edit,
}
