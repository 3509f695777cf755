"""A ChatModel, with whatever edits are active, as a model of EleutherAI's lm-evaluation-harness (extra ``[eval]``).

Its tasks read raw continuations with their own tokenising and few-shot prompts. They say how published scores move under an edit, not how the model
answers through its chat template: :mod:`workbench.behavior.utility` does.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from workbench.errors import ModelError
from workbench.models.chat import ChatModel
from workbench.models.hooks import edits_of

#: The end of an edit's label: its scopes, and which prompts it acts on.
_SCOPE = re.compile(r", ([a-z_+]+)(, \d+ of \d+ prompts #\w+)?\)$")


def as_lm(chat: ChatModel, *, batch_size: int = 8, **options: Any) -> Any:
    """Wrap a model for ``lm_eval.simple_evaluate(model=as_lm(chat), tasks=[...])``.

    Call both inside ``with chat.edited(...)`` to measure under an edit: edits act on every pass this thread makes. The model is not copied and its
    tokenizer is a copy of the chat model's. Only edits of scope "all" mean here what they mean elsewhere, since prompt and continuation
    are one text to the harness; others are refused.

    Parameters
    ----------
    batch_size : int
        Rows at a time.
    **options
        Passed to ``lm_eval.models.huggingface.HFLM``.

    Raises
    ------
    ModelError
        If lm-eval is not installed, or an active edit has another scope.

    Examples
    --------
    >>> with chat.edited(Ablate(direction)):  # doctest: +SKIP
    ...     lm_eval.simple_evaluate(model=as_lm(chat), tasks=["global_mmlu_sw"], limit=100)
    """
    require_scope_all(chat)
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ModelError(
            f"lm-eval cannot be imported ({error}). Expected the extra [eval]: pip install 'multilingual-safety-workbench[eval]'; or use "
            "workbench.behavior.utility, which needs nothing more."
        ) from error
    return HFLM(pretrained=chat.model, tokenizer=copy.deepcopy(chat.tokenizer), batch_size=batch_size, **options)


def require_scope_all(chat: ChatModel) -> None:
    """Refuse active edits that act on a part of the prompt only.

    Raises
    ------
    ModelError
        Naming the edit.
    """
    for label in edits_of(chat):
        found = _SCOPE.search(label)
        if found is not None and (set(found[1].split("+")) != {"all"} or found[2]):
            raise ModelError(
                f"The edit [{label}] acts on some tokens or prompts only, and lm-eval's passes do not say where a prompt ends, or which it is. "
                'Expected scope="all" and no rows; or use workbench.behavior.utility, which keeps to them.'
            )
