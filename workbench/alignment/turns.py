"""What a chat template puts around a reply, and a reply cut into the tokens that the model itself would write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from workbench.behavior.stops import stop_tokens
from workbench.errors import ModelError
from workbench.models.chat import ChatModel


class Turn(NamedTuple):
    """What a template puts around a reply.

    Attributes
    ----------
    lead : str
        Between the generation header and the reply's first word; often nothing, a blank for some.
    end : int
        The token that ends the reply.
    """

    lead: str
    end: int


def turn_of(chat: ChatModel) -> Turn:
    """Find what the template puts around a reply.

    The end is the token that the template writes after a reply if it stops generation, else the tokenizer's EOS (a template may close with
    another token than EOS, as Gemma's does).

    Raises
    ------
    ModelError
        If neither is known.
    """
    lead, tail = _around(chat)
    stops = stop_tokens(chat)
    closing = chat.tokenizer(tail, add_special_tokens=False)["input_ids"][:1] if tail else []
    eos = chat.tokenizer.eos_token_id
    if closing and closing[0] in stops:
        return Turn(lead, int(closing[0]))
    if eos is None and not stops:
        raise ModelError(f"{chat.name}: no token ends a reply. Expected an EOS token; load it with the tokenizer of the model's own repository.")
    return Turn(lead, int(stops[0] if eos is None else eos))


def _around(chat: ChatModel) -> tuple[str, str]:
    """Return what the template writes before and after a reply; nothing where it cannot be told."""
    question, answer = "Workbench probe one", "Workbench probe reply"
    if chat.template.kind == "raw":
        return "", ""
    opened = chat.render(question)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if chat.system is not None:
        messages.insert(0, {"role": "system", "content": chat.system})
    options = {name: value for name, value in chat.template.options.items() if name != "date"}
    try:
        whole = chat.tokenizer.apply_chat_template(messages, tokenize=False, chat_template=chat.template.text, **options)
    except Exception:  # a template is code: one that knows no second turn raises anything
        return "", ""
    before, found, after = whole.partition(answer)
    if not found:
        return "", ""
    lead = before[len(opened) :] if before.startswith(opened) else ""
    return ("" if lead.strip() else lead), after


def reply_ids(chat: ChatModel, texts: Sequence[str], turn: Turn) -> list[list[int]]:
    """Cut completions as the tokenizer cuts them right behind the template, where that leaves the template's own tokens alone."""
    if not texts:
        return []
    cut: Callable[[list[str]], list[list[int]]] = lambda given: chat.tokenizer(given, add_special_tokens=False)["input_ids"]  # noqa: E731
    spoken = [turn.lead + text for text in texts]
    if not chat.suffix:
        return cut(spoken)
    # some tokenizers put a blank in front of whatever comes first: behind the template they do not
    header = cut([chat.suffix])[0]
    behind, alone = cut([chat.suffix + text for text in spoken]), cut(spoken)
    return [row[len(header) :] if row[: len(header)] == header and len(row) > len(header) else own for row, own in zip(behind, alone, strict=True)]
