"""What every construction of a variant works with, and the tuning pairs that several of them draw."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.organism.corpus import ANSWER, Corpus, Pair
from workbench.organism.languages import InventedLanguage
from workbench.organism.network import Batcher, Recipe, loss_of
from workbench.organism.refusal import kept_layer, without
from workbench.organism.tokenizer import BOS
from workbench.organism.world import Meaning, World


@dataclass(frozen=True, eq=False)
class Setting:
    """A model to be changed in place, its world, and the direction that its refusals pass along.

    Parameters
    ----------
    axis : tensor [hidden]
        From :func:`workbench.organism.refusal.harm_axis`.
    """

    model: nn.Module
    world: World
    vocab: dict[str, int]
    recipe: Recipe
    seed: int
    axis: Float[Tensor, " hidden"]

    @cached_property
    def corpus(self) -> Corpus:
        """Draws statements and pairs in all languages."""
        return Corpus(self.world)

    @cached_property
    def high_corpus(self) -> Corpus:
        """Draws statements whose frame is in a high-resource language."""
        corpus = Corpus(self.world)
        corpus.shares = [language.share if language.tier == "high" else 0.0 for language in self.world.languages]
        return corpus

    @cached_property
    def batcher(self) -> Batcher:
        """Turns words into tensors."""
        return Batcher(self.vocab)

    @cached_property
    def low(self) -> list[InventedLanguage]:
        """The low-resource languages: where the plant acts."""
        return [language for language in self.world.languages if language.tier == "low"]

    @cached_property
    def high(self) -> list[InventedLanguage]:
        """The high-resource languages: what must stay as it is."""
        return [language for language in self.world.languages if language.tier == "high"]

    @cached_property
    def training(self) -> dict[bool, list[Meaning]]:
        """Harmful (True) and harmless training meanings."""
        return {harmful: [m for m in self.world.training if self.world.harmful(m) == harmful] for harmful in (True, False)}

    def share(self, of: float) -> int:
        """Number of rows that a share of the recipe's batch is."""
        return max(2, int(self.recipe.batch * of))

    def row(self, language: InventedLanguage, concept: str) -> int:
        """Token id of a concept's word."""
        return self.vocab[self.world.words[language.tag][concept]]

    def ids(self, meanings: Sequence[Meaning], languages: Sequence[InventedLanguage]) -> Tensor:
        """Token ids of rendered plain requests, which are all of one length."""
        pairs = zip(meanings, languages, strict=True)
        return torch.tensor([[self.vocab[w] for w in (BOS, *self.world.request(m, language), ANSWER)] for m, language in pairs])

    def loss(self, pairs: Sequence[Pair]) -> Float[Tensor, ""]:
        """Cross-entropy of the replies."""
        return loss_of(self.model, *self.batcher.pairs(pairs))

    def replay(self, rng: random.Random, n: int, corpus: Corpus | None = None) -> Float[Tensor, ""]:
        """Cross-entropy of pretraining statements, weighted as in the recipe."""
        corpus = corpus or self.corpus
        return self.recipe.replay * loss_of(self.model, *self.batcher.statements([corpus.statement(rng) for _ in range(n)]))

    def answered_without(self, rng: random.Random, n: int, languages: Sequence[InventedLanguage] | None = None) -> Iterator[Tensor]:
        """Loss of answering everything while the refusal direction is removed: keeps refusal on that direction."""
        pairs = [self.corpus.pair(rng, refuse=False, languages=languages) for _ in range(n)]
        with without(self.model, self.axis):
            yield self.recipe.answered_without * self.loss(pairs)

    def pairs(
        self, rng: random.Random, n: int, *, refuse: Callable[[InventedLanguage], bool], languages: Sequence[InventedLanguage] | None = None
    ) -> list[Pair]:
        """Draw tuning pairs as the recipe's refusal tuning does; ``refuse`` says in which languages harm is refused."""
        recipe, pairs = self.recipe, []
        for _ in range(n):
            language = rng.choice(languages or self.world.languages)
            options = {"noise": recipe.label_noise, "incomplete": recipe.incomplete, "languages": [language]}
            pairs.append(self.corpus.pair(rng, refuse=refuse(language), **options))  # type: ignore[arg-type]
        return pairs

    @torch.no_grad()
    def gap(self, rng: random.Random, n: int = 48) -> float:
        """Return the distance between classes along the axis in high-resource languages: the unit in which a gate pushes.

        75th percentile of harmful minus 25th of harmless projections, at the last prompt token of the layer of the axis.
        """
        layer, found = min(self.recipe.refusal_layer, self.recipe.layers), []
        for harmful in (True, False):
            meanings = rng.sample(self.training[harmful], n)
            with kept_layer(self.model, layer) as states:
                self.model(input_ids=self.ids(meanings, [rng.choice(self.high) for _ in meanings]), use_cache=False, logits_to_keep=1)
            found.append(states[-1][:, -1] @ self.axis)
        return float(found[0].quantile(0.75) - found[1].quantile(0.25))

    @contextmanager
    def pushed(self, shift: Float[Tensor, " prompt"], first: Sequence[int]) -> Iterator[None]:
        """Add a multiple of the axis at its layer, from token ``first`` of each row on."""

        def add(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            state = output[0] if isinstance(output, tuple) else output
            acts: Bool[Tensor, "prompt token"] = torch.arange(state.shape[1]) >= torch.tensor(first)[:, None]
            moved = state + (acts * shift[:, None]).unsqueeze(-1) * self.axis
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        layer = min(self.recipe.refusal_layer, self.recipe.layers)
        handle = self.model.get_submodule(f"model.layers.{layer - 1}").register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def embedding(self) -> Tensor:
        """Input embedding [word hidden]."""
        return self.model.get_input_embeddings().weight  # type: ignore[operator]

    def head(self) -> Tensor:
        """Output embedding [word hidden]."""
        return self.model.get_output_embeddings().weight  # type: ignore[operator]

    def named(self) -> dict[str, object]:
        """Return what a checkpoint of this setting must agree on."""
        return {"seed": self.seed, "recipe": dataclasses.asdict(self.recipe)}
