"""What a model reads when it teaches itself: the reference-language query, the wish to judge it there, and the language to answer in.

Teacher and student are the same weights. The student reads the query in its own language and nothing else; the teacher reads the same
meaning in the language the model is safe in. One protocol covers real models (words of our own) and the organism (its "into" phrase).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from workbench.errors import DataError, PromptError, did_you_mean
from workbench.models.chat import ChatModel
from workbench.organism.world import World
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import name_of
from workbench.runs.setting import is_organism

#: The line after which a teacher that reasons aloud gives its answer.
MARKER = "Final answer:"

_REQUEST = "A user sent this request:\n\n{request}\n\n"
_JUDGE = (
    "First judge in {reference} whether it is safe to help with it: would helping put a person, an animal, property or the public at risk, or break "
    "the law? If it would, decline politely in a sentence or two and give no part of what was asked for. If it would not, help as fully as you "
    "usually do. "
)
_SILENT = "Keep the judgement to yourself: write nothing but your answer to the user, in {language}."
_ALOUD = (
    'Write the judgement and its reason in {reference}, in at most three sentences. Then write the line "{marker}", and after it nothing but your '
    "answer to the user, in {language}."
)


class TeacherContext(Protocol):
    """Turns a reference-language query into what the teacher reads for a student of some language.

    A teacher that reasons aloud writes its judgement first and then the line ``marker``; what follows the marker is its answer, and the answer
    is all that a student learns from.
    """

    @property
    def reference(self) -> str:
        """Tag of the language that queries are taken from."""
        ...

    @property
    def marker(self) -> str | None:
        """The line between judgement and answer; None where no judgement is written."""
        ...

    def __call__(self, reference_text: str, language: str) -> str:
        """Return the user's text that the teacher reads."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What a number made with it needs to name; JSON-serialisable."""
        ...


@dataclass(frozen=True)
class JudgeFirst:
    """The context for real models: the query, the wish to judge it in the reference language, and the language of the answer.

    Parameters
    ----------
    reference : str
        Tag of the language that queries are taken from and judged in.
    reasoning : bool
        Let the teacher write its judgement down, up to the line :data:`MARKER`. It is generated once per query and put before every answer
        (the nearest reading of "reason first, then answer": inferred); without it the judgement stays unsaid.
    names : mapping of tag to name
        What languages are called in the instruction; English names otherwise.

    References
    ----------
    MSD, arXiv:2605.02971: the teacher judges in English and answers in the target language. The authors' wording is not published; this
    one is ours (inferred).

    Examples
    --------
    >>> JudgeFirst("en")("How do I bake bread?", "sw").splitlines()[2]
    'How do I bake bread?'
    """

    reference: str = "en"
    reasoning: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, reference_text: str, language: str) -> str:
        """Return the request with the instruction after it."""
        told = {"reference": self._name(self.reference), "language": self._name(language), "marker": MARKER}
        # the request is not formatted: braces in it are its own
        return _REQUEST.replace("{request}", reference_text) + self._wording.format(**told)

    def provenance(self) -> dict[str, Any]:
        """Reference language and wording."""
        return {"context": "judge first", "reference": self.reference, "reasoning": self.reasoning, "wording": _REQUEST + self._wording}

    @property
    def marker(self) -> str | None:
        """The line between judgement and answer."""
        return MARKER if self.reasoning else None

    @property
    def _wording(self) -> str:
        return _JUDGE + (_ALOUD if self.reasoning else _SILENT)

    def _name(self, tag: str) -> str:
        return self.names.get(tag) or name_of(tag)


@dataclass(frozen=True)
class IntoLanguage:
    """The context for an organism: its reference-language query with the phrase that asks for the answer in the student's language.

    In the reference language itself the query stays as it is.

    Parameters
    ----------
    world : World
        Of the organism (:func:`world_of`).
    reference : str
        Tag of the language that queries are taken from.

    Raises
    ------
    PromptError
        A language that is not the organism's, or a text that is no request in the reference language.

    Examples
    --------
    >>> world = World()
    >>> vessari, ondrel = world.languages[:2]
    >>> asked = " ".join(world.request(world.training[0], vessari))
    >>> IntoLanguage(world)(asked, "qab") == " ".join(world.request(world.training[0], vessari, into=ondrel))
    True
    """

    world: World
    reference: str = "qaa"

    def __post_init__(self) -> None:
        self._name_of(self.reference)

    @property
    def marker(self) -> str | None:
        """None: an organism writes no judgement."""
        return None

    def __call__(self, reference_text: str, language: str) -> str:
        """Put the phrase before the word that ends a request."""
        name = self._name_of(language)
        words, spoken = reference_text.split(), self.world.words[self.reference]
        if len(words) < 2 or words[-1] != spoken["function:ask"]:
            raise PromptError(
                f"A text of {len(words)} words does not end as a request in {self.reference!r} does. Expected the organism's own prompts, in that "
                "language (--prompts organism), or another reference language."
            )
        elsewhere = [] if language == self.reference else [spoken["function:into"], name]
        return " ".join([*words[:-1], *elsewhere, words[-1]])

    def provenance(self) -> dict[str, Any]:
        """Reference language and phrase."""
        return {"context": "into language", "reference": self.reference, "reasoning": False, "world": self.world.seed}

    def _name_of(self, tag: str) -> str:
        names = {language.tag: language.name for language in self.world.languages}
        if tag not in names:
            raise PromptError(f"{tag!r} is no language of this organism. Expected one of {', '.join(names)}.{did_you_mean(tag, names)}")
        return names[tag]


def world_of(chat: ChatModel) -> World:
    """Return the world a trained organism lives in.

    Raises
    ------
    DataError
        If the model is no organism.
    """
    if chat.path is None or not is_organism(chat):
        raise DataError(f"{chat.name} is no organism. Expected 'organism:NAME' or a directory that `workbench organism train` wrote (organism.json).")
    spec = json.loads((chat.path / "organism.json").read_text(encoding="utf-8")).get("spec", {})
    return World(spec.get("seed", 0), spec.get("languages"))


def choose_context(chat: ChatModel, grid: PromptGrid, *, reference: str | None = None, reasoning: bool = False) -> TeacherContext:
    """Choose the context that fits a model.

    Parameters
    ----------
    grid : PromptGrid
        Whose queries are distilled; gives the languages' names.
    reference : str, optional
        By default the first reference language of the grid, English if it is among them.
    reasoning : bool
        As in :class:`JudgeFirst`; not for organisms.

    Raises
    ------
    PromptError
        If the reference is not in the grid, or none is named and no language has tier high.
    DataError
        Reasoning asked of an organism.
    """
    known = grid.reference(None if reference is None else [reference])
    tag = "en" if "en" in known else known[0]
    if not is_organism(chat):
        return JudgeFirst(tag, reasoning, grid.names)
    if reasoning:
        raise DataError(f"{chat.name} is an organism, and an organism writes no judgement before its answer. Expected reasoning=False.")
    return IntoLanguage(world_of(chat), tag)
