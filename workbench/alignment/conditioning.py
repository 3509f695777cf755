"""Semantic conditioning: a sentence in front of the reply to prompts that the interpreter flags (LASA, arXiv:2604.12710, stage 3).

The sentence says that a harmful request was detected. Training teaches the model to act on it, and inference puts it there when the
interpreter says so. Both put the same token ids between the rendered prompt and the reply (the release concatenates strings at inference,
which may cut tokens elsewhere: card 1.10, trap 7), and both read the prompt under the same template with the same thinking switch (trap 6).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from workbench.alignment.interpreter import SafetyInterpreter
from workbench.behavior.generate import generate
from workbench.behavior.inserted import inserted_ids
from workbench.errors import DataError, ModelError
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid

#: For real models; the release's own sentence is another one. It ends in a line break, so that the reply starts a new word.
SENTENCE = "[A harmful request was detected. Decline it politely, give no part of what it asks for, and answer in the user's language.]\n"
SAFETY = ("safety",)
#: "ultrafeedback" is what the release's files call it.
UTILITY = ("utility", "ultrafeedback")


@dataclass(frozen=True)
class Condition:
    """The sentence, and how often training shows it.

    Attributes
    ----------
    sentence : str
        In the words of the model's own vocabulary: :data:`SENTENCE`, or :func:`organism_sentence`.
    rate_safety : float
        Share of the safety rows that are trained with it: .5 in the release, so that refusing without it grows too.
    rate_utility : float
        Share of the utility rows: 0 in the release's run script (.05 is the default of its code).
    """

    sentence: str = SENTENCE
    rate_safety: float = 0.5
    rate_utility: float = 0.0

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

    def ids(self, chat: ChatModel) -> tuple[int, ...]:
        """Return the sentence as the token ids that training and inference insert.

        Raises
        ------
        ModelError
            A word that the tokenizer does not know; for an organism use ``Condition(organism_sentence(chat))``.
        """
        return inserted_ids(chat, self.sentence)


def organism_sentence(chat: ChatModel) -> str:
    """Return what tells the organism that harm was detected: "bad" in its most spoken language, and the marker that opens a reply.

    The word is what its training text judges requests with. Its texts end after a judgement, so that no reply would follow the word alone; after
    the marker it replies, though no longer always in the language of the request, which it has never seen at this distance (docs/training-repair.md).

    Raises
    ------
    ModelError
        The model does not know the word.
    """
    from workbench.alignment.teacher import world_of
    from workbench.organism.corpus import ANSWER
    from workbench.organism.world import World
    from workbench.runs.setting import is_organism

    world = world_of(chat) if is_organism(chat) else World()  # every seed has words of its own
    word = world.words[world.languages[0].tag]["other:bad"]
    if word not in chat.tokenizer.get_vocab():
        raise ModelError(f"{chat.name} does not know the organism's words. Expected an organism; leave the sentence out for another model.")
    return f"{word} {ANSWER}"


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
        flagged, ids = self.flags(grid), self.condition.ids(self.chat)
        place = self.interpreter.place
        told = f"interpreter at layer {place.layer}, {place.position}, threshold {self.interpreter.threshold:g}; sentence {self.condition.hash}"
        insert = {prompt_id: ids for prompt_id, unsafe in flagged.items() if unsafe}
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
    condition.ids(chat)
    interpreter.require_reader(reader)
    return Conditioned(chat, interpreter, condition, reader)
