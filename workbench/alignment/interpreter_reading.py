"""How an interpreter reads a model: which view of it, which place that is, and what sets two places apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from workbench.gates.place import Place
from workbench.models.chat import ChatModel
from workbench.models.template import Template

#: The text alone, as the release's interpreter reads it.
RAW = Template("raw", "")


def raw_view(chat: ChatModel) -> ChatModel:
    """Return the same model asked with the text alone, as the release's interpreter reads it: no template, no system prompt."""
    return replace(chat, template=RAW, system=None)


def place_in(chat: ChatModel, layer: int, position: str) -> Place:
    """Return the place that states read from a model now would come from."""
    return Place(layer, position, chat.fingerprint, chat.template.hash, chat.system or "")


class NumberedTexts:
    """Texts as capture wants a grid: numbered, without labels that anyone reads."""

    def __init__(self, texts: Sequence[str]) -> None:
        names = [str(i) for i in range(len(texts))]
        self.frame = pd.DataFrame({"prompt_id": names, "meaning_id": names, "language": "und", "text": list(texts), "harmful": False})
        self.hash, self.has_harm_labels = "texts", False

    def __len__(self) -> int:
        return len(self.frame)


def told_difference(name: str, mine: Any, theirs: Any) -> str:
    """Tell two values apart; what a system prompt says is not repeated."""
    if name != "system":
        return f"{name} {mine!r} and not {theirs!r}"
    mine, theirs = (f"of {len(text)} characters" if text else "none" for text in (mine, theirs))
    return f"the system prompt it was fitted with ({mine}) and not another one ({theirs})"
