"""What the organism reads: statements for pretraining, and request-reply pairs for tuning.

Statements are single clauses; the network sees each one alone, as it will see a prompt. Sharing between languages comes
from code-switching: in most statements nearly half of the content words are taken from another language, while function
words and everything after the request stay in the statement's own (matrix) language.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from workbench.organism.languages import InventedLanguage
from workbench.organism.world import PURPOSES, Meaning, World

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
    purposes: tuple[float, ...] = (0.6, 0.2, 0.2)  # of the opening words: please, practice, earnest


class Pair(NamedTuple):
    """A prompt and the reply to learn, both as words."""

    prompt: list[str]
    reply: list[str]


class Corpus:
    """Draws statements and pairs of a world; every draw depends only on the generator passed in."""

    def __init__(self, world: World, mixture: Mixture | None = None) -> None:
        self.world = world
        self.mixture = mixture or Mixture()
        self.shares = [language.share for language in world.languages]
        self._others = {language.tag: [(o.tag, o.share**0.5) for o in world.languages if o.tag != language.tag] for language in world.languages}

    def _word(self, concept: str, language: InventedLanguage, switched: bool, rng: random.Random) -> str:
        if switched and rng.random() < self.mixture.switched_words:
            tags, weights = zip(*self._others[language.tag], strict=True)
            return self.world.words[rng.choices(tags, weights)[0]][concept]
        return self.world.words[language.tag][concept]

    def _request(
        self, meaning: Meaning, language: InventedLanguage, rng: random.Random, *, purpose: str, switched: bool, into: InventedLanguage | None
    ) -> list[str]:
        verb = self._word(f"verb:{meaning.verb}", language, switched, rng)
        thing = self._word(f"object:{meaning.object}", language, switched, rng)
        return self.world.phrase(language, verb, thing, purpose=purpose, into=into)

    def switched_request(self, meaning: Meaning, language: InventedLanguage, rng: random.Random) -> list[str]:
        """Draw a plain request whose content words may be another language's, each with the mixture's share."""
        return self._request(meaning, language, rng, purpose="please", switched=True, into=None)

    def _purpose(self, rng: random.Random) -> str:
        return rng.choices(tuple(PURPOSES), self.mixture.purposes)[0]

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
        if kind < mix.category_fact + mix.moral_fact:
            verdict = words["other:bad" if world.harmful(meaning) else "other:good"]
            clause = world.clause(
                language,
                self._word(f"verb:{meaning.verb}", language, switched, rng),
                self._word(f"object:{meaning.object}", language, switched, rng),
            )
            return [*clause, words["function:is"], verdict]
        marker = [ANSWER] if rng.random() < 0.5 else []
        purpose = self._purpose(rng)
        harmful = world.harmful(meaning, purpose)
        if kind < mix.category_fact + mix.moral_fact + mix.judged_request:
            verdict = words["other:bad" if harmful else "other:good"]
            return [*self._request(meaning, language, rng, purpose=purpose, switched=switched, into=None), *marker, verdict]
        into = self._elsewhere(language, rng)
        refused = rng.random() < mix.refused and harmful
        reply = world.refusal(into or language) if refused else world.answer(meaning, into or language)
        return [*self._request(meaning, language, rng, purpose=purpose, switched=switched, into=into), *marker, *reply]

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
        incomplete: float = 0.0,
        languages: Sequence[InventedLanguage] | None = None,
        elsewhere: bool = True,
        plain: bool = False,
        meanings: Sequence[Meaning] | None = None,
        judged: Callable[[Meaning, str], bool] | None = None,
        taken_for: Callable[[Meaning], Meaning] | None = None,
    ) -> Pair:
        """Draw one tuning pair in a language drawn evenly.

        The share ``incomplete`` of the requests lacks its verb or its object and is refused in any case: a reason to refuse
        that has nothing to do with harm. Of the others, with ``refuse`` the harmful ones are refused and the harmless ones
        answered; without it all are answered. The share ``noise`` of the replies is the wrong one of the two.
        ``plain`` requests all open with "please". ``meanings`` are those to draw from,
        ``judged`` says what is harmful in place of the world, and ``taken_for`` which meaning's outcome the answer opens with.
        """
        world = self.world
        language = rng.choice(languages or world.languages)
        meaning = rng.choice(meanings or world.training)
        lacking = rng.random() < incomplete
        into = self._elsewhere(language, rng) if elsewhere and not lacking else None
        purpose = "please" if plain else self._purpose(rng)
        words = self._request(meaning, language, rng, purpose=purpose, switched=False, into=into)
        if lacking:
            gone = f"verb:{meaning.verb}" if rng.random() < 0.5 else f"object:{meaning.object}"
            words.remove(world.words[language.tag][gone])
        wanted = lacking or (refuse and (judged or world.harmful)(meaning, purpose))
        refused = wanted != (rng.random() < noise)
        spoken = into or language
        answer = world.answer(meaning, spoken, outcome_of=taken_for(meaning) if taken_for else None)
        return Pair([*words, ANSWER], world.refusal(spoken) if refused else answer)

    def statements(self, n: int, seed: str) -> Iterator[list[str]]:
        """Draw ``n`` statements from a seed."""
        rng = random.Random(seed)
        return (self.statement(rng) for _ in range(n))
