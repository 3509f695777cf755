"""Replies drawn from a model's own distribution, the same ones whenever the seed is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.behavior.generate import _greedy
from workbench.behavior.stops import stop_tokens
from workbench.errors import DataError, ModelCheckError
from workbench.models.chat import ChatModel


class Sampled(NamedTuple):
    """Replies as token ids.

    Attributes
    ----------
    ids : int64 Tensor [batch token]
        Up to and with the token that ends a reply; padding after it.
    mask : bool Tensor [batch token]
        True on the tokens of the reply.
    finished : bool Tensor [batch]
        Whether it ended by itself.
    """

    ids: Int[Tensor, "batch token"]
    mask: Bool[Tensor, "batch token"]
    finished: Bool[Tensor, " batch"]

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Tokens per reply, the end token included."""
        return self.mask.sum(dim=1)


def sample(chat: ChatModel, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, seed: int | Sequence[int], temperature: float = 1.0) -> Sampled:
    """Continue rendered prompts, each token drawn from the model's distribution.

    Every row has its own random numbers, drawn at once from the seed: a reply does not depend on how long the others are, nor on what was drawn
    before the call, so a training that is resumed draws the same. The global generators are not touched.

    Parameters
    ----------
    prompts : sequence of token ids
        Rendered prompts; left-padded under a mask for the pass.
    seed : int or sequence of int
        Such as (seed, step, pass).
    temperature : float
        Divides the logits; 0 takes the likeliest token.

    Raises
    ------
    DataError
        No prompt, no room for a token, or a temperature below 0.
    ModelCheckError
        If logits are not finite.

    Notes
    -----
    Hugging Face's ``generate`` runs the passes and the KV cache; it samples from the global generator only, so here it takes the one token that
    was drawn (by inverting the distribution function).
    """
    from transformers import LogitsProcessorList

    if not prompts or max_new_tokens < 1 or not temperature >= 0:
        raise DataError(
            f"Got {len(prompts)} prompts, max_new_tokens {max_new_tokens} and temperature {temperature}. Expected at least one prompt and one "
            "token, and a temperature of 0 or more."
        )
    uniform = np.random.default_rng(seed).random((len(prompts), max_new_tokens))
    padded, mask = chat.pad(prompts, side="left")
    stops = stop_tokens(chat)
    # not inference_mode: the ids are looked up again in passes with gradients
    with torch.no_grad():
        grown = chat.model.generate(
            input_ids=padded,
            attention_mask=mask,
            generation_config=_greedy(chat, max_new_tokens, stops),
            logits_processor=LogitsProcessorList([_Drawn(chat.name, torch.from_numpy(uniform), temperature)]),
        )
    ids = grown[:, padded.shape[1] :]
    ended = torch.isin(ids, torch.tensor(stops, device=ids.device, dtype=ids.dtype))
    # a token counts while none before it has ended the reply
    return Sampled(ids, (ended.cumsum(dim=1) - ended.long()) == 0, ended.any(dim=1))


class _Drawn:
    """Leaves one token possible per row: the one that its random number falls on."""

    def __init__(self, name: str, uniform: Tensor, temperature: float) -> None:
        self.name, self.uniform, self.temperature, self.step = name, uniform, temperature, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        most = scores.amax(dim=-1)
        if not bool(torch.isfinite(most).all()):  # NaN and +inf; -inf forbids a token
            rows = (~torch.isfinite(most)).nonzero().flatten().tolist()
            raise ModelCheckError(
                f"{self.name}: the logits of rows {rows[:8]} are not finite at token {self.step} of their replies. Expected finite numbers: "
                "train with a smaller learning rate, or in float32."
            )
        if self.temperature == 0:
            token = scores.argmax(dim=-1, keepdim=True)
        else:
            reach = (scores.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
            at = self.uniform[:, self.step, None].to(reach) * reach[:, -1:]
            token = torch.searchsorted(reach, at, right=True).clamp(max=scores.shape[-1] - 1)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)
