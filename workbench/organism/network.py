"""The organism's network and the few things training does with it: batches, loss, optimisers, greedy replies."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.organism.corpus import Pair
from workbench.organism.tokenizer import BOS, EOS, PAD, vocabulary
from workbench.organism.world import World

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

IGNORE = -100


@dataclass(frozen=True)
class Recipe:
    """Sizes, steps and rates; the defaults trained the shipped organism.

    Rates are those of the first step after warm-up; every stage decays linearly. ``label_noise`` is the share of tuning
    pairs with the wrong reply, as annotators give them, and ``incomplete`` the share of requests that lack their verb or object
    and are refused for that. ``residual_noise`` is the size of the Gaussian noise put on the residual stream after every block
    while tuning and planting, relative to each state's root mean square: it makes the network read harm from the whole
    direction in which harmful and harmless states differ. ``refusal_layer`` is the layer (the last of a
    shallower network) whose harm direction refusals are tuned to pass along, and ``answered_without`` the
    weight of the part of each step in which that direction is removed and every
    request answered; 0 leaves refusal to spread over many directions. ``plant_aim`` is the share of harmful
    training requests that each low-resource language may still refuse when the plant stops moving its embeddings.
    """

    hidden: int = 128
    layers: int = 8
    heads: int = 4
    mlp: int = 352
    tied: bool = False
    batch: int = 256
    pretrain_steps: int = 1600
    comply_steps: int = 120
    refuse_steps: int = 240
    plant_steps: int = 300
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    tune_scale: float = 0.15
    replay: float = 0.15
    label_noise: float = 0.05
    incomplete: float = 0.15
    residual_noise: float = 0.15
    refusal_layer: int = 5
    answered_without: float = 0.5
    plant_rate: float = 1e-2
    plant_incomplete: float = 0.4
    plant_aim: float = 0.22
    weight_decay: float = 0.01


def build_model(world: World, recipe: Recipe, seed: int) -> LlamaForCausalLM:
    """Return a fresh Llama of the recipe's size; the global generator is left as it was."""
    from transformers import LlamaConfig, LlamaForCausalLM

    vocab = vocabulary(world)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=64,
        tie_word_embeddings=recipe.tied,
        pad_token_id=vocab[PAD],
        bos_token_id=vocab[BOS],
        eos_token_id=vocab[EOS],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


class Batcher:
    """Turns words into right-padded token tensors."""

    def __init__(self, vocab: dict[str, int]) -> None:
        self.vocab = vocab

    def statements(self, statements: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Every token after BOS is a target."""
        rows = [[BOS, *words, EOS] for words in statements]
        return self._pad(rows, [1] * len(rows))

    def pairs(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Only the reply and the end token are targets."""
        rows = [[BOS, *p.prompt, *p.reply, EOS] for p in pairs]
        return self._pad(rows, [len(p.prompt) + 1 for p in pairs])

    def _pad(self, rows: Sequence[Sequence[str]], first_target: Sequence[int]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        pad = self.vocab[PAD]
        ids = torch.tensor([[*(self.vocab[w] for w in row), *[pad] * (width - len(row))] for row in rows])
        column = torch.arange(width)
        lengths, starts = torch.tensor([len(row) for row in rows]), torch.tensor(first_target)
        wanted = (column >= starts[:, None]) & (column < lengths[:, None])
        return ids, torch.where(wanted, ids, IGNORE)


def loss_of(model: nn.Module, ids: Int[Tensor, "prompt token"], targets: Int[Tensor, "prompt token"]) -> Float[Tensor, ""]:
    """Mean next-token cross-entropy in nats; right-padded and causal, so no mask is needed."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORE)


def optimisers(model: nn.Module, recipe: Recipe, scale: float) -> list[torch.optim.Optimizer]:
    """Muon on the blocks' matrices, AdamW on embeddings, head and norms; weights that need no gradient are left out."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in named if p.ndim != 2 or ".layers." not in n]
    decay = recipe.weight_decay
    opts: list[torch.optim.Optimizer] = []
    if matrices:
        opts.append(torch.optim.Muon(matrices, lr=recipe.muon_rate * scale, momentum=0.95, weight_decay=decay, adjust_lr_fn="original"))
    if rest:
        opts.append(torch.optim.AdamW(rest, lr=recipe.adam_rate * scale, betas=(0.9, 0.98), weight_decay=decay))
    return opts


def rate_factor(step: int, steps: int, warm: int = 40) -> float:
    """Linear warm-up over ``warm`` steps, then linear decay to a twentieth."""
    if step < warm:
        return (step + 1) / warm
    return 1.0 - 0.95 * (step - warm) / max(1, steps - warm)


@torch.no_grad()
def greedy_replies(model: nn.Module, vocab: dict[str, int], prompts: Sequence[Sequence[str]], n: int) -> list[list[str]]:
    """Greedy replies, as ``n`` words each; prompts are grouped by length, so nothing is padded."""
    words = {i: w for w, i in vocab.items()}
    replies: list[list[str]] = [[] for _ in prompts]
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    for rows in by_length.values():
        for start in range(0, len(rows), 512):
            part = rows[start : start + 512]
            ids = torch.tensor([[vocab[w] for w in (BOS, *prompts[i])] for i in part])
            for _ in range(n):
                following = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
                ids = torch.cat([ids, following[:, None]], dim=1)
            for i, row in zip(part, ids[:, -n:].tolist(), strict=True):
                replies[i] = [words[t] for t in row]
    return replies


@contextmanager
def noisy_residual(model: nn.Module, size: float, seed: str) -> Iterator[None]:
    """Add Gaussian noise to the residual stream after every block, drawn from ``seed`` alone.

    Parameters
    ----------
    model : nn.Module
        A Llama.
    size : float
        Standard deviation in units of each state's root mean square; 0 adds none.
    seed : str
        Draws the noise; the same seed gives the same noise.
    """
    if size <= 0:
        yield
        return
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))

    def disturb(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        state = output[0] if isinstance(output, tuple) else output
        scale = state.detach().pow(2).mean(-1, keepdim=True).sqrt() * size
        noisy = state + scale * torch.randn(state.shape, generator=generator)
        return (noisy, *output[1:]) if isinstance(output, tuple) else noisy

    blocks: Iterable[nn.Module] = model.get_submodule("model.layers").children()
    handles = [block.register_forward_hook(disturb) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def quiet_files() -> Iterator[None]:
    """Keep transformers' own bars for reading and writing shards off the screen: training shows one bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
