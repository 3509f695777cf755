"""What a model would say if it stopped at a layer: the state there, read through the model's own final norm and head.

The reading is TransformerLens' ``logit_lens`` on the weight-sharing twin; the states are read by the workbench's own hooks,
so prompts of any length share a batch and an edit that is active counts. Layer k is entry k of TransformerLens' accumulated
residual stream: ``0_pre`` is the embedding (layer 0), ``k_pre`` what enters block k, ``final_post`` layer L, which gives the
model's own logits. In early layers the lens is biased: nothing trains a state there to be read by the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ModelCheckError, ModelError, PromptError
from workbench.models.batching import batches
from workbench.models.chat import ChatModel
from workbench.models.hooks import require_layers
from workbench.models.selfcheck import TOLERANCE
from workbench.models.tokens import Tokens, require_positions

#: Logits of one batch, about: 128 MiB in float32.
LOGIT_BUDGET = 2**25
_READOUT_ROWS = 64  # states per unembedding product; TransformerLens keeps about four arrays of rows x vocabulary


class LensBatch(NamedTuple):
    """The lens' logits for some prompts at some layers.

    Attributes
    ----------
    rows : int array [prompt]
        Which of the prompts given these are.
    layers : tuple of int
        Blocks passed (0 = embedding).
    positions : tuple of str
    logits : float32 array [prompt layer position vocab]
        In natural-logarithm units, on the CPU.
    """

    rows: np.ndarray
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    logits: np.ndarray


def lens_logits(
    chat: ChatModel,
    texts: Sequence[str] | Sequence[Tokens],
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[str] = ("t_inst", "t_post_inst"),
    token_budget: int = 2048,
    logit_budget: int = LOGIT_BUDGET,
    names: Sequence[str] | None = None,
) -> Iterator[LensBatch]:
    """Read layers through the model's own final norm and unembedding, one bounded batch after another.

    Held at once: the states of one batch of prompts (all layers at the positions asked for) and the logits of one piece of
    it, at most ``logit_budget`` numbers (more only where a single state's vocabulary is larger); three times that while the
    next piece is joined and you still hold the last one. A piece has fewer layers, and then fewer prompts, the larger the
    vocabulary is: at 152,000 tokens about 220 states. Nothing of the size [token vocab] is made, since the head never sees
    the other tokens.

    Parameters
    ----------
    chat : ChatModel
        The model, as it is asked; edits that are active count.
    texts : sequence of str or of Tokens
        User texts, or what ``chat.tokenise`` made of them.
    layers : sequence of int, optional
        Blocks passed, 0 to L; by default all.
    positions : sequence of str
        ``t_inst``, ``t_post_inst`` or ``post[i]``: places where the model predicts a token. Not ``mean_inst``.
    token_budget : int
        Tokens per forward pass, padding included.
    logit_budget : int
        Logits per batch yielded, about.
    names : sequence of str, optional
        Prompt ids for messages; the row number otherwise.

    Yields
    ------
    LensBatch
        Every prompt with every layer exactly once; long prompts first.

    Raises
    ------
    ModelError
        For an unknown layer or position.
    PromptError
        For an empty prompt, one longer than the context, or one without the template token asked for.
    ModelCheckError
        If TransformerLens does not read this model the way it reads itself (last layer against the model's own logits).

    References
    ----------
    nostalgebraist 2020, "interpreting GPT: the logit lens"; as used for latent languages by Wendler et al. 2024,
    arXiv:2402.10588: softmax(W_U norm(h)), with the final norm.

    Examples
    --------
    >>> for batch in lens_logits(chat, ["Name three rivers."], layers=[0, 12]):  # doctest: +SKIP
    ...     batch.logits.argmax(axis=-1)
    """
    layers = list(range(chat.n_layers + 1)) if layers is None else list(layers)
    _require_places(chat, layers, positions, token_budget, logit_budget)
    tokens, names = _tokens(chat, texts, positions, names)
    if tokens:
        _require_own_logits(chat, min(tokens, key=len))
    for rows in batches([len(t) for t in tokens], token_budget):
        states = chat.states([tokens[r] for r in rows], layers=range(chat.n_layers + 1), positions=positions, prompt_ids=[names[r] for r in rows])
        vocabulary = int(chat.model.get_output_embeddings().weight.shape[0])
        for part, some in _pieces(len(rows), layers, len(positions) * vocabulary, logit_budget):
            yield LensBatch(rows[part], tuple(some), tuple(positions), _read(chat, states[part], some).float().cpu().numpy())


def _pieces(n: int, layers: list[int], per_state: int, budget: int) -> Iterator[tuple[slice, list[int]]]:
    """Cut prompts x layers into pieces of at most ``budget`` logits: layers first, then prompts."""
    states = max(budget // per_state, 1)
    n_rows, n_layers = min(n, states), max(states // n, 1)
    for start in range(0, n, n_rows):
        for first in range(0, len(layers), n_layers):
            yield slice(start, start + n_rows), layers[first : first + n_layers]


def _read(
    chat: ChatModel, states: Float[Tensor, "prompt all_layers position hidden"], layers: list[int]
) -> Float[Tensor, "prompt layer position vocab"]:
    """Put states of all layers where TransformerLens looks for them, and let it read some of them."""
    from transformer_lens import ActivationCache
    from transformer_lens.tools.analysis.logit_lens import logit_lens

    last = chat.n_layers
    cache = {f"blocks.{k}.hook_resid_pre": states[:, k] for k in range(last)} | {f"blocks.{last - 1}.hook_resid_post": states[:, last]}
    with _explained(chat):
        result = logit_lens(chat.bridge, cache=ActivationCache(cache, chat.bridge), layers=layers, positions=None, chunk_size=_READOUT_ROWS)
    expected = ["final_post" if k == last else f"{k}_pre" for k in layers]
    if result.labels != expected:
        raise ModelCheckError(
            f"{chat.name}: TransformerLens read {result.labels} where layers {layers} were asked for (expected {expected}). "
            "Install the version that this package names (transformer-lens>=4.3,<5)."
        )
    return result.values.transpose(0, 1)


def _require_own_logits(chat: ChatModel, tokens: Tokens) -> None:
    """Refuse a model whose logits are not what the lens reads at the last layer; one prompt, once per call."""
    from transformer_lens.tools.analysis.logit_lens import logit_lens

    ids, _ = chat.pad([tokens.ids])
    with _explained(chat):
        logit_lens(chat.bridge, ids, layers=[-1])  # with tokens instead of a cache it checks its own readout too
    states = chat.states([tokens], layers=range(chat.n_layers + 1), positions=["t_post_inst"])
    found = _read(chat, states, [chat.n_layers])[0, 0, 0].double()
    with torch.inference_mode():
        own = chat.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].double().to(found.device)
    gap = float((found - own).square().mean().sqrt() / own.square().mean().sqrt().clamp_min(1e-12))
    limit = TOLERANCE.get(chat.dtype, 3e-2)
    if not gap <= limit:
        raise ModelCheckError(
            f"{chat.name}: read at its last layer, the lens differs from the model's own logits (relative gap {gap:.2g}; expected at most "
            f"{limit:g} in {str(chat.dtype).removeprefix('torch.')}). Load it with dtype='float32' to rule out rounding; if it stays, the head "
            "does something that the lens leaves out, and no layer can be read this way."
        )


@contextmanager
def _explained(chat: ChatModel) -> Iterator[None]:
    """Turn what TransformerLens refuses into an error of the workbench, with the model's name and a remedy."""
    try:
        yield
    except (ValueError, NotImplementedError, TypeError) as error:
        raise ModelCheckError(
            f"{chat.name}: TransformerLens cannot read its layers: {str(error).splitlines()[0]} Expected a decoder whose logits are its "
            "unembedding of the normed last layer; leave the logit lens out for this model."
        ) from error


def _require_places(chat: ChatModel, layers: list[int], positions: Sequence[str], token_budget: int, logit_budget: int) -> None:
    require_layers(chat, layers)
    if not isinstance(positions, str):
        require_positions(positions)
    if isinstance(positions, str) or "mean_inst" in positions or not positions:
        raise ModelError(
            f"positions={positions!r} cannot be read by the lens. Expected a sequence of places where the model predicts a token "
            "(t_inst, t_post_inst, post[i]); a mean over tokens predicts none."
        )
    if not layers or len(set(layers)) < len(layers):
        raise ModelError(f"layers={layers} is empty or names a layer twice. Expected each layer once.")
    if min(token_budget, logit_budget) < 1:
        raise ModelError(f"token_budget={token_budget} and logit_budget={logit_budget} must be at least 1.")


def _tokens(chat: ChatModel, texts: Sequence[Any], positions: Sequence[str], names: Sequence[str] | None) -> tuple[list[Tokens], list[str]]:
    if isinstance(texts, str):
        raise PromptError("Got one text; expected a sequence of texts. Put it in a list: [text].")
    names = [str(i) for i in range(len(texts))] if names is None else list(names)
    given = [isinstance(text, Tokens) for text in texts]
    tokens = list(texts) if texts and all(given) else chat.tokenise(texts, names=names)
    over = [name for name, t in zip(names, tokens, strict=True) if len(t) > chat.context]
    if over:
        raise PromptError(
            f"{len(over)} prompts are longer than the context of {chat.name} ({chat.context} tokens): {', '.join(over[:5])}"
            f"{' ...' if len(over) > 5 else ''}. Expected shorter ones; take them out, in every language of their meaning."
        )
    for name, one in zip(names, tokens, strict=True):
        for position in positions:
            try:
                one.span(position)
            except PromptError as error:
                raise PromptError(f"Prompt {name}: {error}") from error
    return tokens, names
