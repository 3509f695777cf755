"""Refusal that goes through one direction, as Arditi et al. found it in thirteen chat models, here by construction.

Refusal tuning alone spreads the decision over many directions of so small a network: with the difference in means of any
layer projected out it went on refusing most harmful requests. So while refusals are tuned, part of each step runs with one
fixed direction removed from everything that is written to the residual stream, and there every request is to be answered.
What refuses must then pass along that direction. It is the one along which the helpful model, before any refusal was tuned,
tells harmful from harmless in the middle of its depth; it is kept beside the weights as the truth that a method should find.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.organism.corpus import ANSWER
from workbench.organism.tokenizer import BOS
from workbench.organism.world import World

#: File beside the weights: tensor ``unit`` [hidden], the direction that refusal was tuned to pass along.
PLANTED = "planted_direction.safetensors"
REQUESTS = 4000


@torch.no_grad()
def harm_axis(model: nn.Module, world: World, vocab: dict[str, int], *, layer: int, seed: int) -> Float[Tensor, " hidden"]:
    """Return the unit vector from the mean state of harmless to that of harmful training requests.

    Parameters
    ----------
    model : nn.Module
        A Llama; read at the last token of the rendered request.
    layer : int
        Residual stream after that many blocks.
    seed : int
        Draws the requests, in the high-resource languages.
    """
    rng = random.Random(f"harm axis {seed}")
    spoken = [language for language in world.languages if language.tier == "high"]
    by_length: dict[int, list[tuple[list[int], bool]]] = {}
    for _ in range(REQUESTS):
        meaning = rng.choice(world.training)
        ids = [vocab[word] for word in (BOS, *world.request(meaning, rng.choice(spoken)), ANSWER)]
        by_length.setdefault(len(ids), []).append((ids, world.harmful(meaning)))
    states, harmful = [], []
    with kept_layer(model, layer) as found:
        for rows in by_length.values():
            model(input_ids=torch.tensor([ids for ids, _ in rows]), use_cache=False, logits_to_keep=1)
            states.append(found[-1][:, -1].double())
            harmful += [harm for _, harm in rows]
    together, wanted = torch.cat(states), torch.tensor(harmful)
    difference = together[wanted].mean(0) - together[~wanted].mean(0)
    return (difference / difference.norm()).float()


@contextmanager
def kept_layer(model: nn.Module, layer: int) -> Iterator[list[Tensor]]:
    """Collect the residual stream after ``layer`` blocks of every pass."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    place = model.get_submodule("model.embed_tokens" if layer == 0 else f"model.layers.{layer - 1}")
    handle = place.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def without(model: nn.Module, unit: Float[Tensor, " hidden"]) -> Iterator[None]:
    """Project a direction off the embedding and off whatever attention and MLP write; gone after the ``with``."""

    def project(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        written = output[0] if isinstance(output, tuple) else output
        rest = written - (written @ unit).unsqueeze(-1) * unit
        return (rest, *output[1:]) if isinstance(output, tuple) else rest

    places = [model.get_submodule("model.embed_tokens")]
    for block in model.get_submodule("model.layers").children():
        places += [block.get_submodule("self_attn"), block.get_submodule("mlp")]
    handles = [place.register_forward_hook(project) for place in places]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def save_planted(folder: Path, unit: Float[Tensor, " hidden"]) -> None:
    """Write the direction beside the weights."""
    from safetensors.torch import save_file

    save_file({"unit": unit.contiguous()}, folder / PLANTED)


def load_planted(folder: str | Path) -> Float[Tensor, " hidden"]:
    """Read the direction that the refusals of an organism pass along."""
    from safetensors.torch import load_file

    return load_file(Path(folder) / PLANTED)["unit"]
