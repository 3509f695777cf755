"""Invented languages: word orders, sound inventories and lexicons that belong to no people.

Every language has private-use BCP-47 tags (``qaa`` ...) and an invented name. No word form is shared between two
languages, so whatever a model shares between them it has learned from use, not from spelling.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.errors import PromptError

#: Share of the pretraining text, most spoken first; the first three are the high-resource tier.
SHARES = (0.45, 0.20, 0.12, 0.08, 0.06, 0.04, 0.03, 0.02)
N_HIGH = 3

DEFAULT_NAMES = {
    "qaa": "Vessari",
    "qab": "Ondrel",
    "qac": "Tuumik",
    "qad": "Yashova",
    "qae": "Brenku",
    "qaf": "Lioma",
    "qag": "Dzafir",
    "qah": "Ngelo",
}

#: One sound inventory per language (onsets, vowels, codas), so that a reader can tell them apart at a glance.
_SOUNDS = (
    (("v", "s", "r", "l", "st", "m", "t"), ("e", "a", "i"), ("", "", "n", "s", "r")),
    (("d", "n", "dr", "l", "g", "th", "w"), ("o", "e", "u"), ("", "nd", "l", "r")),
    (("t", "m", "k", "p", "h", "j"), ("uu", "i", "aa", "o"), ("", "", "k", "m")),
    (("y", "sh", "v", "z", "kh", "b"), ("a", "o", "ya"), ("", "", "v", "sh")),
    (("b", "k", "br", "gr", "f", "n"), ("e", "u", "i"), ("", "n", "k", "rt")),
    (("l", "m", "n", "r", "p"), ("io", "a", "ea", "o"), ("", "", "")),
    (("dz", "f", "ts", "r", "q", "g"), ("a", "i", "ei"), ("", "r", "z", "f")),
    (("ng", "g", "l", "mb", "w", "nd"), ("e", "o", "a"), ("", "", "")),
)


@dataclass(frozen=True)
class InventedLanguage:
    """One language of the organism.

    Parameters
    ----------
    tag : str
        BCP-47 private-use tag.
    name : str
        Invented name.
    share : float
        Share of the pretraining statements, in (0, 1).
    tier : str
        ``"high"`` or ``"low"``, declared.
    verb_first : bool
        Word order inside a clause: verb before object, or after it.
    sounds : int
        Index of the sound inventory.
    """

    tag: str
    name: str
    share: float
    tier: str
    verb_first: bool
    sounds: int


def invent_languages(names: Mapping[str, str] | None = None) -> tuple[InventedLanguage, ...]:
    """Build the languages from their tags and names, most spoken first.

    Parameters
    ----------
    names : mapping of tag to name, optional
        Exactly eight; the organism's own when omitted.

    Raises
    ------
    PromptError
        If there are not eight tags, or a tag is not private use (``qaa`` to ``qtz``), so that an organism can never be
        mistaken for a study of a real language.
    """
    names = dict(DEFAULT_NAMES if names is None else names)
    if len(names) != len(SHARES):
        raise PromptError(
            f"{len(names)} languages given ({', '.join(names)}); the organism has {len(SHARES)}, most spoken first. "
            f"Give {len(SHARES)} TAG=Name pairs."
        )
    for tag in names:
        if not re.fullmatch(r"q[a-t][a-z]", tag):
            raise PromptError(f"Language tag {tag!r} is not private use. Expected one of qaa ... qtz: the organism's languages are invented.")
    return tuple(
        InventedLanguage(tag, name, share, "high" if i < N_HIGH else "low", verb_first=i % 2 == 0, sounds=i)
        for i, ((tag, name), share) in enumerate(zip(names.items(), SHARES, strict=True))
    )


def invent_words(languages: Sequence[InventedLanguage], concepts: Sequence[str], seed: int) -> dict[str, dict[str, str]]:
    """Give every concept one word in every language; no two words are spelled alike.

    Parameters
    ----------
    languages : sequence of InventedLanguage
    concepts : sequence of str
        Concept keys.
    seed : int
        Draws the words; the same seed gives the same words on every machine.

    Returns
    -------
    dict
        ``words[tag][concept]``.
    """
    rng = random.Random(f"words {seed}")
    taken = {language.name.lower() for language in languages}
    words: dict[str, dict[str, str]] = {}
    for language in languages:
        onsets, vowels, codas = _SOUNDS[language.sounds % len(_SOUNDS)]
        lexicon = {}
        for concept in concepts:
            syllables = 1 if concept.startswith("function:") else 2
            while True:
                word = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(syllables)) + rng.choice(codas)
                if word not in taken:
                    break
                syllables += rng.random() < 0.3
            taken.add(word)
            lexicon[concept] = word
        words[language.tag] = lexicon
    return words
