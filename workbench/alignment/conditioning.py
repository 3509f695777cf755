"""Semantic conditioning: a sentence in front of the reply to prompts that the interpreter flags (LASA, arXiv:2604.12710, stage 3).

The sentence says that a harmful request was detected. Training teaches the model to act on it, and inference puts it there when the
interpreter says so. Both put the same token ids between the rendered prompt and the reply (the release concatenates strings at inference,
which may cut tokens elsewhere: card 1.10, trap 7), and both read the prompt under the same template with the same thinking switch (trap 6).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from workbench.alignment.interpreter import SafetyInterpreter
from workbench.behavior.generate import generate
from workbench.behavior.inserted import inserted_ids
from workbench.errors import DataError, ModelError
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import name_of

if TYPE_CHECKING:
    from workbench.organism.world import World

#: For real models; the release's own sentence is another one. It ends in a line break, so that the reply starts a new word.
SENTENCE = "[A harmful request was detected. Decline it politely, give no part of what it asks for, and answer in the user's language.]\n"
#: Where a sentence names the prompt's language.
LANGUAGE = "{language}"
SAFETY = ("safety",)
#: "ultrafeedback" is what the release's files call it.
UTILITY = ("utility", "ultrafeedback")


@dataclass(frozen=True)
class Condition:
    """The sentence, and how often training shows it.

    Attributes
    ----------
    sentence : str
        In the words of the model's own vocabulary: :data:`SENTENCE`, or :func:`organism_sentence`. ``{language}`` in it stands for the name of the
        prompt's language.
    rate_safety : float
        Share of the safety rows that are trained with it: .5 in the release, so that refusing without it grows too.
    rate_utility : float
        Share of the utility rows: 0 in the release's run script (.05 is the default of its code).
    names : mapping of tag to name
        What ``{language}`` becomes; English names otherwise.
    """

    sentence: str = SENTENCE
    rate_safety: float = 0.5
    rate_utility: float = 0.0
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sentence.strip() or not all(0 <= rate <= 1 for rate in (self.rate_safety, self.rate_utility)):
            raise DataError(
                f"The condition has a sentence of {len(self.sentence.strip())} characters and rates {self.rate_safety} and {self.rate_utility}. "
                "Expected at least one word, and shares from 0 to 1."
            )

    @property
    def hash(self) -> str:
        """Eight hex digits of the sentence, for records."""
        return hashlib.sha256(self.sentence.encode()).hexdigest()[:8]

    def ids(self, chat: ChatModel, language: str | None = None) -> tuple[int, ...]:
        """Return the sentence as the token ids that training and inference insert.

        Parameters
        ----------
        language : str, optional
            Tag of the prompt's language; needed where the sentence names it.

        Raises
        ------
        DataError
            The sentence names the language, and none is given.
        ModelError
            A word that the tokenizer does not know; for an organism use :func:`organism_condition`.
        """
        if LANGUAGE not in self.sentence:
            return inserted_ids(chat, self.sentence)
        if language is None:
            raise DataError(f"The sentence says {LANGUAGE}, and no language is given. Expected the tag of the prompt's language.")
        return inserted_ids(chat, self.sentence.replace(LANGUAGE, self.names.get(language) or name_of(language)))

    def ids_of(self, chat: ChatModel, languages: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the sentence's token ids for prompts in these languages, each worked out once."""
        known = {tag: self.ids(chat, tag) for tag in dict.fromkeys(map(str, languages))}
        return [known[str(tag)] for tag in languages]

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Condition:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            The file is no condition.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} is no condition of a repair. Expected condition.json beside weights that `workbench repair lasa` wrote."
            ) from error


def organism_sentence(chat: ChatModel) -> str:
    """Return what tells the organism that harm was detected: "bad", "into" the prompt's language, and the marker that opens a reply.

    In words of its most spoken language. "Bad" is what its training text judges requests with, "into" with a name is how requests ask for a language
    of the reply, and its texts end after a judgement, so that without the marker no reply would come. :data:`SENTENCE` asks for the user's language
    too, which real models work out by themselves; the organism, which never saw words between marker and reply, does not.

    Raises
    ------
    ModelError
        The model does not know the word.
    """
    from workbench.organism.corpus import ANSWER

    world = _world(chat)
    spoken = world.words[world.languages[0].tag]
    said = [spoken["other:bad"], spoken["function:into"]]
    if not set(said) <= set(chat.tokenizer.get_vocab()):
        raise ModelError(f"{chat.name} does not know the organism's words. Expected an organism; leave the sentence out for another model.")
    return " ".join([*said, LANGUAGE, ANSWER])


def organism_condition(chat: ChatModel, condition: Condition | None = None) -> Condition:
    """Put the organism's sentence, and the names of its languages, into a condition.

    Parameters
    ----------
    condition : Condition, optional
        Whose rates are kept.
    """
    names = {language.tag: language.name for language in _world(chat).languages}
    return replace(condition or Condition(), sentence=organism_sentence(chat), names=names)


def _world(chat: ChatModel) -> World:
    from workbench.alignment.teacher import world_of
    from workbench.organism.world import World
    from workbench.runs.setting import is_organism

    return world_of(chat) if is_organism(chat) else World()  # every seed has words of its own


def unsafe_flags(sources: Sequence[str], condition: Condition, rng: random.Random) -> Bool[np.ndarray, " row"]:
    """Draw which training rows carry the sentence, from their source alone, as the release does.

    One draw per safety or utility row, in the order of the rows and also where the rate is 0; none for other sources. The chosen and the
    rejected row of a pair are drawn independently.

    Parameters
    ----------
    sources : sequence of str
        "safety", "utility" ("ultrafeedback"), or anything else, which never carries it.
    rng : random.Random
        Python's generator, so that ``random.Random(42)`` gives the release's own flags.

    Examples
    --------
    >>> unsafe_flags(["safety", "given", "utility", "safety"], Condition(), random.Random(0)).tolist()
    [False, False, False, True]
    """
    rates = {**dict.fromkeys(SAFETY, condition.rate_safety), **dict.fromkeys(UTILITY, condition.rate_utility)}
    return np.array([source in rates and rng.random() < rates[source] for source in sources], dtype=bool)


def training_flags(
    rows: pd.DataFrame,
    condition: Condition,
    *,
    signal: str = "source",
    rng: random.Random | None = None,
    interpreter: SafetyInterpreter | None = None,
    chat: ChatModel | None = None,
) -> Bool[np.ndarray, " row"]:
    """Say which training rows carry the sentence.

    Parameters
    ----------
    rows : DataFrame
        ``prompt`` and ``source``, such as ``PreferenceSet.unpaired()``.
    signal : {"source", "interpreter"}
        By the source of the row (as released; draws from ``rng``), or by what the interpreter says of the prompt as the untrained model
        reads it (as the paper describes; every flagged row, ``interpreter`` and ``chat`` are needed).

    Raises
    ------
    DataError
        Another signal, or what the signal needs is not there.
    """
    if signal == "source":
        return unsafe_flags([str(source) for source in rows["source"]], condition, rng or random.Random(0))
    if signal != "interpreter" or interpreter is None or chat is None:
        raise DataError(f"signal={signal!r}: expected 'source', or 'interpreter' together with interpreter= and chat=.")
    prompts = list(dict.fromkeys(rows["prompt"]))  # a pair shares its prompt; each is read once
    flagged = dict(zip(prompts, interpreter.flag(chat, prompts), strict=True))
    return np.array([flagged[prompt] for prompt in rows["prompt"]], dtype=bool)


@dataclass(frozen=True)
class Conditioned:
    """A model that is asked with the interpreter in front of it.

    Attributes
    ----------
    chat : ChatModel
        Answers.
    interpreter : SafetyInterpreter
        Decides, once per prompt and before the first token of the reply.
    condition : Condition
        What flagged prompts are followed by.
    reader : ChatModel
        Whose states the interpreter reads: the one it was fitted on.
    """

    chat: ChatModel
    interpreter: SafetyInterpreter
    condition: Condition
    reader: ChatModel

    def flags(self, grid: PromptGrid) -> pd.Series:
        """Return whether each prompt is flagged, by prompt id."""
        return pd.Series(self.interpreter.flag(self.reader, grid), index=list(grid.frame["prompt_id"]), name="flagged")

    def generate(self, grid: PromptGrid, *, condition: str | None = None, **options: Any) -> pd.DataFrame:
        """Answer a grid; options and result are those of :func:`workbench.behavior.generate`.

        The reply file records the interpreter, the sentence and which prompts it follows, so these replies are never taken for others.
        """
        flagged = self.flags(grid)
        place = self.interpreter.place
        told = f"interpreter at layer {place.layer}, {place.position}, threshold {self.interpreter.threshold:g}; sentence {self.condition.hash}"
        ids = self.condition.ids_of(self.chat, list(grid.frame["language"]))
        insert = {prompt_id: told for (prompt_id, unsafe), told in zip(flagged.items(), ids, strict=True) if unsafe}
        return generate(self.chat, grid, condition="; ".join(filter(None, (condition, told))), insert=insert, **options)


def conditioned(
    chat: ChatModel, interpreter: SafetyInterpreter, condition: Condition | None = None, *, reader: ChatModel | None = None
) -> Conditioned:
    """Put an interpreter in front of a model.

    Parameters
    ----------
    chat : ChatModel
        The model that answers, usually trained with the same condition.
    reader : ChatModel, optional
        The model the interpreter was fitted on, if ``chat`` is no longer that one: training changes its weights. Default ``chat``, for
        which the interpreter must have been fitted or carried over (``interpreter.moved(acts)``). Asked under the same template.

    Raises
    ------
    StoreMismatchError
        The interpreter belongs to another model, template, thinking switch or system prompt than the reader's.
    DataError
        Reader and answering model are asked differently.
    ModelError
        A sentence of words that the model does not know.
    """
    condition, reader = condition or Condition(), reader or chat
    if (reader.template.hash, reader.system) != (chat.template.hash, chat.system):
        raise DataError(
            f"{reader.name} reads under another template, thinking switch or system prompt than {chat.name} answers under. Expected the same, or "
            "the interpreter would judge another prompt than the one that is answered; load both alike."
        )
    for tag in condition.names or [None]:
        condition.ids(chat, tag)
    interpreter.require_reader(reader)
    return Conditioned(chat, interpreter, condition, reader)
