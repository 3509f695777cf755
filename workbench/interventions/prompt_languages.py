"""Which language each prompt of a pass is in, for a gate whose threshold goes by language: declared, detected or unknown."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.errors import DataError, ModelError, PromptError, shown
from workbench.models.passes import Pass
from workbench.prompts.languages import normalise

#: Said on purpose: the gate's fallback threshold holds.
UNKNOWN = "unknown"

Given = Mapping[str, str] | Callable[[str], str | None] | str | Any


@dataclass(frozen=True, eq=False)
class PromptLanguages:
    """Answers the language of each row of a pass.

    Attributes
    ----------
    label : str
        How languages are known, with a hash of what was declared.
    one : str or None
        The same tag for every prompt.
    declared : mapping of prompt id to tag, or None
    detect : callable or None
        From the user's text to a tag; None or ``"unknown"`` where it cannot tell.
    """

    label: str
    one: str | None = None
    declared: Mapping[str, str] | None = None
    detect: Callable[[str], str | None] | None = None

    @classmethod
    def of(cls, given: Given) -> PromptLanguages:
        """Read what a user says about languages.

        Parameters
        ----------
        given : str, mapping, grid or callable
            ``"unknown"``, one tag for all, prompt id to tag (a mapping or Series), a PromptGrid (or table with prompt_id and
            language), or a function from the user's text to a tag.

        Raises
        ------
        DataError
            For anything else.
        """
        if isinstance(given, str):
            return cls("unknown" if given == UNKNOWN else f"all {given}", one=given)
        table = getattr(given, "frame", given)
        if isinstance(table, pd.DataFrame):
            missing = [name for name in ("prompt_id", "language") if name not in table]
            if missing:
                raise DataError(f"languages is a table without {' and '.join(missing)}. Expected the columns prompt_id and language.")
            given = dict(zip(table["prompt_id"].astype(str), table["language"].astype(str), strict=True))
        if hasattr(given, "items"):
            by = {str(name): str(tag) for name, tag in given.items()}
            if not by:
                raise DataError("languages is empty. Expected a tag for each prompt id, or 'unknown'.")
            told = hashlib.sha256(repr(sorted(by.items())).encode()).hexdigest()[:8]
            return cls(f"declared for {len(by)} prompts #{told}", declared=by)
        if callable(given):
            return cls(f"detected by {getattr(given, '__qualname__', type(given).__name__)}", detect=given)
        raise DataError(
            f"languages is {type(given).__name__}. Expected a grid, a mapping from prompt id to tag, one tag, a function from the user's text to a "
            "tag, or 'unknown' (the gate's fallback threshold then holds)."
        )

    @property
    def known(self) -> list[str]:
        """The tags that are known before anything runs."""
        found = [self.one] if self.one is not None else list(dict.fromkeys((self.declared or {}).values()))
        return [tag for tag in found if tag != UNKNOWN]

    def tags(self, at: Pass, tokenizer: Any) -> list[str]:
        """Return one tag per row of a pass.

        Raises
        ------
        DataError
            If prompts are declared by id and the pass has no ids, or others.
        ModelError
            If languages are to be detected and the pass does not say where the user's text is.
        """
        if self.one is not None:
            return [self.one] * at.n_prompts
        if self.declared is not None:
            return self._declared(at)
        if at.batch is None or at.batch.inst is None or at.ids is None or at.past:
            raise ModelError(
                "A language is to be detected from the user's text, and this pass does not say where that is. Run prompts through generate() or "
                "chat.states(), announce the batch with its tokens (workbench.models.passes.announced; token ids and no embeddings, the prompt in "
                "one pass), or declare the languages."
            )
        assert self.detect is not None
        texts = [tokenizer.decode(row[start:end]) for row, (start, end) in zip(at.ids.tolist(), at.batch.inst, strict=True)]
        return [self._detected(self.detect(text)) for text in texts]

    def _declared(self, at: Pass) -> list[str]:
        assert self.declared is not None
        names = at.batch.prompt_ids if at.batch is not None else None
        if names is None:
            raise DataError(
                "languages goes by prompt id, and this pass does not say which prompts it has. Run them through generate() or capture(), pass "
                "prompt_ids= to chat.states(), announce the batch (workbench.models.passes.announced), or say languages='unknown'."
            )
        missing = [name for name in names if name not in self.declared]
        if missing:
            raise DataError(
                f"languages says nothing about {len(missing)} prompts of this batch: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}. "
                "Expected a tag for each, or 'unknown' as the tag."
            )
        return [self.declared[name] for name in names]

    def _detected(self, tag: str | None) -> str:
        if tag is None:
            return UNKNOWN
        if not isinstance(tag, str):
            raise DataError(f"The language detector answered {type(tag).__name__}. Expected a tag such as 'sw', 'unknown' or None.")
        return tag


@dataclass(frozen=True)
class Thresholds:
    """A gate's threshold by language.

    Attributes
    ----------
    known : mapping of tag to float
        NaN where a policy abstained.
    fallback : float
        For prompts whose language is unknown.
    unseen : float or None
        For a language the gate has no threshold for; None refuses it.
    """

    known: Mapping[str, float]
    fallback: float
    unseen: float | None = None

    def of(self, tag: str) -> tuple[str, float]:
        """Return the tag as the gate spells it (``"unknown"`` where the fallback holds) and the threshold.

        Raises
        ------
        DataError
            For a language the gate has no threshold for, naming those it has.
        """
        if tag == UNKNOWN:
            return UNKNOWN, self.fallback
        for spelling in (tag, _normalised(tag)):
            if spelling in self.known:
                return spelling, self.known[spelling]
        if self.unseen is None:
            raise DataError(
                f"The gate has no threshold for language {shown(tag)}; it knows {', '.join(sorted(self.known)) or 'none by name'}. Recalibrate it "
                "with examples of this language, or say fallback='gate' (its stated fallback threshold) or fallback=NUMBER."
            )
        return UNKNOWN, self.unseen


def _normalised(tag: str) -> str:
    try:
        return normalise(tag)
    except PromptError:
        return tag
