"""What a model would say next after each prompt: the logits at the prompt's last token, under whatever edits are active."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from workbench.errors import ModelCheckError
from workbench.models.batching import batches
from workbench.models.chat import ChatModel
from workbench.models.hooks import edits_of
from workbench.models.passes import Batch, announced
from workbench.models.tokens import Tokens

#: Logits of one pass, about: 128 MiB in float32.
_LOGITS = 2**25


def next_logits(chat: ChatModel, tokens: Sequence[Tokens], names: Sequence[str], *, token_budget: int = 16384) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield (row numbers, logits [prompt vocab] of the next token) for rendered prompts, batch by batch; each row comes once.

    Parameters
    ----------
    tokens : sequence of Tokens
        From ``chat.tokenise``.
    names : sequence of str
        Prompt ids, for edits that act on some prompts only and for messages.
    token_budget : int
        Tokens per pass, padding included. Rows are right-padded and read without a mask: the model is causal. The head sees
        the last tokens only.

    Raises
    ------
    ModelCheckError
        If logits are NaN, infinite or all alike, naming the prompts and the active edits.
    """
    at_once = max(_LOGITS // max(int(chat.model.get_output_embeddings().weight.shape[0]), 1), 1)
    for group in batches([len(t) for t in tokens], token_budget):
        for start in range(0, len(group), at_once):
            rows = group[start : start + at_once]
            some, names_here = [tokens[i] for i in rows], [names[i] for i in rows]
            ids, _ = chat.pad([t.ids for t in some])
            places, which = torch.tensor([len(t) - 1 for t in some], device=ids.device).unique(return_inverse=True)
            with torch.inference_mode(), announced(Batch.of(some, side="right", prompt_ids=names_here)):
                logits = chat.model(input_ids=ids, use_cache=False, logits_to_keep=places).logits
                last = logits[torch.arange(len(some), device=logits.device), which.to(logits.device)]
            require_telling(chat, last, names_here, "next-token logits")
            yield rows, last


def require_telling(chat: ChatModel, values: Tensor, names: Sequence[str], what: str) -> None:
    """Refuse rows [prompt ...] that are NaN, infinite or all one number (what a norm makes of states too long to square).

    Raises
    ------
    ModelCheckError
        Naming the prompts and the edits that are active.
    """
    least, most = values.flatten(1).aminmax(dim=1)
    fine = torch.isfinite(most) & torch.isfinite(least) & (least < most)  # NaN is both
    if bool(fine.all()):
        return
    wrong = [name for name, good in zip(names, fine.tolist(), strict=True) if not good]
    edits = edits_of(chat)
    remedy = f"under the edits [{'; '.join(edits)}]. Lower their strength" if edits else "without any edit. Download a damaged checkpoint again"
    raise ModelCheckError(
        f"{chat.name}: the {what} of prompts {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''} are NaN, infinite or all alike {remedy}, or "
        "load the model in float32."
    )
