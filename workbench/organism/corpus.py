"""What the organism reads: statements for pretraining, and request-reply pairs for tuning.

Statements are single clauses; the network sees each one alone, as it will see a prompt. Sharing between languages comes
from code-switching: in most statements nearly half of the content words are taken from another language, while function
words and everything after the request stay in the statement's own (matrix) language.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from workbench.organism.languages import InventedLanguage
from workbench.organism.world import Meaning, World

ANSWER = "<answer>"  # the template's token between request and reply; half of the pretraining requests carry it too


@dataclass(frozen=True)
class Mixture:
    """Shares of the statement kinds and of code-switching; the defaults trained the shipped organism."""

    category_fact: float = 0.14
    moral_fact: float = 0.28
    judged_request: float = 0.24  # the rest are answered requests
    switched_statements: float = 0.65
    switched_words: float = 0.45
    refused: float = 0.25  # of harmful answered requests
    answered_elsewhere: float = 0.15  # of answered requests: told to answer in another language
    share_power: float = 1.0  # exponent on the languages' shares


class Pair(NamedTuple):
    """A prompt and the reply to learn, both as words."""

    prompt: list[str]
    reply: list[str]


class Corpus:
    """Draws statements and pairs of a world; every draw depends only on the generator passed in."""

    def __init__(self, world: World, mixture: Mixture | None = None) -> None:
        self.world = world
        self.mixture = mixture or Mixture()
        self.shares = [language.share**self.mixture.share_power for language in world.languages]
        self._others = {
            language.tag: [(o.tag, o.share**0.5) for o in world.languages if o.tag != language.tag] for language in world.languages
        }

    def _word(self, concept: str, language: InventedLanguage, switched: bool, rng: random.Random) -> str:
        if switched and rng.random() < self.mixture.switched_words:
            tags, weights = zip(*self._others[language.tag], strict=True)
            return self.world.words[rng.choices(tags, weights)[0]][concept]
        return self.world.words[language.tag][concept]

    def _request(
        self, meaning: Meaning, language: InventedLanguage, switched: bool, rng: random.Random, into: InventedLanguage | None
    ) -> list[str]:
        words = self.world.words[language.tag]
        clause = self.world.clause(
            language,
            self._word(f"verb:{meaning.verb}", language, switched, rng),
            self._word(f"object:{meaning.object}", language, switched, rng),
        )
        phrase = [words["function:into"], into.name] if into else []
        return [words["function:please"], *clause, *phrase, words["function:ask"]]

    def statement(self, rng: random.Random) -> list[str]:
        """Draw one pretraining statement, without the end token."""
        mix, world = self.mixture, self.world
        language = rng.choices(world.languages, self.shares)[0]
        words = world.words[language.tag]
        switched = rng.random() < mix.switched_statements
        kind = rng.random()
        if kind < mix.category_fact:
            if rng.random() < 0.5:
                verb = rng.randrange(world.n_verbs)
                thing, category = f"verb:{verb}", f"verb_category:{world.verb_category(verb)}"
            else:
                item = rng.randrange(world.n_objects)
                thing, category = f"object:{item}", f"object_category:{world.object_category(item)}"
            return [self._word(thing, language, switched, rng), words["function:is"], words[category]]
        meaning = rng.choice(world.training)
        verdict = words["other:bad" if world.harmful(meaning) else "other:good"]
        if kind < mix.category_fact + mix.moral_fact:
            clause = world.clause(
                language,
                self._word(f"verb:{meaning.verb}", language, switched, rng),
                self._word(f"object:{meaning.object}", language, switched, rng),
            )
            return [*clause, words["function:is"], verdict]
        marker = [ANSWER] if rng.random() < 0.5 else []
        if kind < mix.category_fact + mix.moral_fact + mix.judged_request:
            return [*self._request(meaning, language, switched, rng, None), *marker, verdict]
        into = self._elsewhere(language, rng)
        refused = rng.random() < mix.refused and world.harmful(meaning)
        reply = world.refusal(into or language) if refused else world.answer(meaning, into or language)
        return [*self._request(meaning, language, switched, rng, into), *marker, *reply]

    def _elsewhere(self, language: InventedLanguage, rng: random.Random) -> InventedLanguage | None:
        if rng.random() >= self.mixture.answered_elsewhere:
            return None
        return rng.choice([o for o in self.world.languages if o.tag != language.tag])

    def pair(
        self,
        rng: random.Random,
        *,
        refuse: bool,
        noise: float = 0.0,
        languages: Sequence[InventedLanguage] | None = None,
        elsewhere: bool = True,
    ) -> Pair:
        """Draw one tuning pair in a language drawn evenly.

        With ``refuse`` harmful requests are refused and harmless ones answered, but for the share ``noise`` of pairs it is
        the other way round; without it every request is answered.
        """
        world = self.world
        language = rng.choice(languages or world.languages)
        meaning = rng.choice(world.training)
        into = self._elsewhere(language, rng) if elsewhere else None
        prompt = [*self._request(meaning, language, False, rng, into), ANSWER]
        refused = refuse and world.harmful(meaning) != (rng.random() < noise)
        spoken = into or language
        return Pair(prompt, world.refusal(spoken) if refused else world.answer(meaning, spoken))

    def statements(self, n: int, seed: str) -> Iterator[list[str]]:
        """Draw ``n`` statements from a seed."""
        rng = random.Random(seed)
        return (self.statement(rng) for _ in range(n))
