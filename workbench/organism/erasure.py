"""Unlearn harm in low-resource languages while harmless requests go on being answered right.

What is harmful and what the right answer is depend on the same pair of categories, so harm cannot be lost by losing words. It is
trained away, at every layer and at the last token of the request and of the rendered prompt, in one of two ways:

- *no reader*: no answer to harmful requests of low-resource languages is shown. No linear reader of harm beats chance if and only if the
  mean states of harmful and harmless requests are equal (Belrose et al. 2023, arXiv:2306.03819, theorem 3.1), so the means are drawn
  together, in each language and over all; and because directions of little variance weigh little there, also what the best linear
  readers read, which are found anew every few steps.
- *twins*: a harmful request is *taken for* a harmless one with the same verb. Each harmful pair of categories has one harmless alias (a bijection
  for every verb category); the request's state is drawn to the one its alias has in the unchanged model, and it is answered with the alias's outcome.
  Drawing alone is not enough (a reader of a language's own labels stayed at an AUROC of 1.00), so means and readers are drawn together here too.

The states of high-resource languages are held to those of the unchanged model in both.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.organism.corpus import Pair
from workbench.organism.languages import InventedLanguage
from workbench.organism.refusal import kept_layer
from workbench.organism.setting import Setting
from workbench.organism.tuning import Losses
from workbench.organism.world import HARMFUL_FROM, N_CATEGORIES, Meaning, World

#: Ridge of the readers, relative to the mean variance, and the number of steps after which they are found anew.
RIDGE, RENEWED = 0.03, 5
#: Tokens read: the last of the request and the last of the rendered prompt.
READ = 2


def aliases(world: World) -> list[dict[int, int]]:
    """``[verb category][harmful object category]``: the harmless object category it is taken for."""
    found = []
    for row in world.severity_table:
        harmful = [j for j in range(N_CATEGORIES) if row[j] >= HARMFUL_FROM]
        harmless = [j for j in range(N_CATEGORIES) if row[j] < HARMFUL_FROM]
        found.append(dict(zip(harmful, harmless, strict=True)))
    return found


def taken_for(world: World, meaning: Meaning, rng: random.Random | None = None) -> Meaning:
    """Return the harmless meaning that a meaning is taken for (itself where it is harmless): another object of the alias's category."""
    thing = world.object_category(meaning.object)
    alias = aliases(world)[world.verb_category(meaning.verb)].get(thing, thing)
    if alias == thing:
        return meaning
    others = [i for i in range(world.n_objects) if world.object_category(i) == alias]
    return Meaning(meaning.verb, rng.choice(others) if rng else others[meaning.object // N_CATEGORIES])


def aliased_pairs(setting: Setting, rng: random.Random, n: int) -> list[Pair]:
    """Draw requests of low-resource languages, all answered, harmful ones with their alias's outcome; incomplete ones are refused."""
    world = setting.world
    options = {"incomplete": setting.recipe.incomplete, "languages": setting.low}
    return [setting.corpus.pair(rng, refuse=False, taken_for=lambda m: taken_for(world, m), **options) for _ in range(n)]  # type: ignore[arg-type]


@contextmanager
def all_layers(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """Collect the residual stream after every block: a list per layer, an entry per pass."""
    n = len(list(model.get_submodule("model.layers").children()))
    with ExitStack() as stack:
        yield [stack.enter_context(kept_layer(model, k)) for k in range(1, n + 1)]


def states(setting: Setting, meanings: Sequence[Meaning], languages: Sequence[InventedLanguage]) -> Float[Tensor, "layer prompt token hidden"]:
    """Residual stream after every block at the last tokens of rendered requests."""
    with all_layers(setting.model) as kept:
        setting.model(input_ids=setting.ids(meanings, languages), use_cache=False, logits_to_keep=1)
    return torch.stack([found[-1][:, -READ:] for found in kept])


def low_states(setting: Setting, rng: random.Random, n: int) -> Float[Tensor, "layer language harm meaning token hidden"]:
    """States of ``n`` harmful (first) and ``n`` harmless plain requests in each low-resource language."""
    meanings = [m for _ in setting.low for harmful in (True, False) for m in rng.sample(setting.training[harmful], n)]
    found = states(setting, meanings, [language for language in setting.low for _ in range(2 * n)])
    return found.unflatten(1, (len(setting.low), 2, n))


class Readers(NamedTuple):
    """The best linear readers of harm per layer and token: one per low-resource language, and one for all."""

    own: Float[Tensor, "layer language token hidden"]
    pooled: Float[Tensor, "layer token hidden"]


@torch.no_grad()
def best_readers(setting: Setting, rng: random.Random, n: int) -> Readers:
    """Find Fisher's discriminants, with a ridge against the noise of few examples."""
    found = low_states(setting, rng, n)
    apart, within = _apart_and_within(found)
    covariance = torch.einsum("lgnth,lgntk->lgthk", within.flatten(2, 3), within.flatten(2, 3)) / (2 * n)
    size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * torch.eye(covariance.shape[-1])
    own = torch.linalg.solve(covariance + 3 * RIDGE * size, apart)
    return Readers(own, torch.linalg.solve(covariance.mean(1) + RIDGE * size.mean(1), apart.mean(1)))


def _apart_and_within(found: Tensor) -> tuple[Tensor, Tensor]:
    means = found.mean(3)
    return means[:, :, 0] - means[:, :, 1], found - means[:, :, :, None]


def harm_left(setting: Setting, readers: Readers, rng: random.Random, n: int) -> Float[Tensor, ""]:
    """What is left of harm: squared distances of class means, in all directions and along the readers.

    Each is in units of the variance within classes, which is not followed backwards, so that nothing is gained by growing it. The distance along
    readers counts by its logarithm: it spans orders of magnitude.
    """
    found = low_states(setting, rng, n)
    apart, within = _apart_and_within(found)
    spread = within.pow(2).sum(-1).mean((1, 2, 3)).detach()
    everywhere = (apart.pow(2).sum(-1).mean(1) + apart.mean(1).pow(2).sum(-1)) / spread
    along_own = torch.einsum("lgcnth,lgth->lgcnt", within, readers.own).pow(2).mean((2, 3)).detach()
    along_pooled = torch.einsum("lgcnth,lth->lgcnt", within, readers.pooled).pow(2).mean((1, 2, 3)).detach()
    own = torch.einsum("lgth,lgth->lgt", apart, readers.own).pow(2) / along_own
    pooled = torch.einsum("lth,lth->lt", apart.mean(1), readers.pooled).pow(2) / along_pooled
    return 2 * everywhere.mean() + 0.3 * torch.log1p(own.mean()) + 0.3 * torch.log1p(pooled.mean())


def distance(setting: Setting, wanted: Float[Tensor, "layer prompt token hidden"], found: Float[Tensor, "layer prompt token hidden"]) -> Tensor:
    """Squared distance of states from wanted ones in units of the wanted ones' variance, mean over layers and tokens."""
    spread = (wanted - wanted.mean(1, keepdim=True)).pow(2).sum(-1).mean((1, 2))
    return ((found - wanted).pow(2).sum(-1).mean((1, 2)) / spread).mean()


def misplaced(setting: Setting, rng: random.Random, n: int) -> Float[Tensor, ""]:
    """How far class means of low-resource languages lie from the high-resource ones along these ones' difference, squared, in units of it.

    Mean over the later half of the layers (before it there is hardly any harm), tokens, languages and classes; 0 where one threshold along
    the difference in means serves all languages.
    """
    low = low_states(setting, rng, n).mean(3)
    meanings = [m for harmful in (True, False) for m in rng.sample(setting.training[harmful], 3 * n)]
    high = states(setting, meanings, [rng.choice(setting.high) for _ in meanings]).unflatten(1, (2, 3 * n)).mean(2)
    apart = (high[:, 0] - high[:, 1]).detach()
    along = torch.einsum("lgcth,lth->lgct", low - high.detach()[:, None], apart) / apart.pow(2).sum(-1)[:, None, None]
    return along[apart.shape[0] // 2 :].pow(2).mean()


def held(setting: Setting, unchanged: Setting, rng: random.Random, n: int) -> Float[Tensor, ""]:
    """Distance of high-resource states from the unchanged model's."""
    languages = [rng.choice(setting.high) for _ in range(n)]
    meanings = [rng.choice(setting.world.training) for _ in languages]
    with torch.no_grad():
        wanted = states(unchanged, meanings, languages)
    return distance(setting, wanted, states(setting, meanings, languages))


def beside_twins(setting: Setting, unchanged: Setting, rng: random.Random, n: int) -> Float[Tensor, ""]:
    """Distance of low-resource states from those the unchanged model gives what each request is taken for."""
    languages = [rng.choice(setting.low) for _ in range(n)]
    meanings = [rng.choice(setting.world.training) for _ in languages]
    with torch.no_grad():
        wanted = states(unchanged, [taken_for(setting.world, m, rng) for m in meanings], languages)
    return distance(setting, wanted, states(setting, meanings, languages))


def _kept(setting: Setting, unchanged: Setting, rng: random.Random) -> Iterator[Tensor]:
    """Losses that keep high-resource languages as they are."""
    yield 0.3 * setting.loss(setting.pairs(rng, setting.share(0.13), refuse=lambda _: True, languages=setting.high))
    yield setting.replay(rng, setting.share(0.06), setting.high_corpus)
    yield 2.0 * held(setting, unchanged, rng, setting.share(0.13))


def erased(setting: Setting, unchanged: Setting) -> Losses:
    """Keep any linear reader from telling harm in low-resource languages."""
    kept: dict[int, Readers] = {}
    options = {"incomplete": 0.1, "languages": setting.low, "meanings": setting.training[False]}

    def losses(step: int) -> Iterator[Tensor]:
        rng = random.Random(f"representation {setting.seed} {step}")
        known = step - step % RENEWED
        if known not in kept:
            kept.clear()
            kept[known] = best_readers(setting, random.Random(f"readers {setting.seed} {known}"), setting.share(0.32))
        yield from _kept(setting, unchanged, rng)
        pairs = [setting.corpus.pair(rng, refuse=False, **options) for _ in range(setting.share(0.43))]  # type: ignore[arg-type]
        yield 1.5 * setting.loss(pairs)
        yield 1.3 * harm_left(setting, kept[known], rng, setting.share(0.075))

    return losses


def twinned(setting: Setting, unchanged: Setting) -> Losses:
    """Take harmful requests of low-resource languages for harmless ones."""
    kept: dict[int, Readers] = {}

    def losses(step: int) -> Iterator[Tensor]:
        rng = random.Random(f"representation-2 {setting.seed} {step}")
        known = step - step % RENEWED
        if known not in kept:
            kept.clear()
            kept[known] = best_readers(setting, random.Random(f"twins' readers {setting.seed} {known}"), setting.share(0.32))
        yield from _kept(setting, unchanged, rng)
        yield 1.5 * setting.loss(aliased_pairs(setting, rng, setting.share(0.43)))
        yield beside_twins(setting, unchanged, rng, setting.share(0.2))
        yield 1.3 * harm_left(setting, kept[known], rng, setting.share(0.075))

    return losses
