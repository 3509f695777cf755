"""What a model would say next after each prompt: the logits at the last token of the prompt, with whatever edits are active."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ModelCheckError
from workbench.models.batching import batches
from workbench.models.chat import ChatModel
from workbench.models.hooks import edits_of
from workbench.models.passes import Batch, announced
from workbench.models.tokens import Tokens

#: Logits held at once.
_LOGITS = 2**25


def next_logits(
    chat: ChatModel, tokens: Sequence[Tokens], names: Sequence[str], *, token_budget: int = 16384
) -> Iterator[tuple[np.ndarray, Float[Tensor, "prompt vocab"]]]:
    """Yield (row numbers, logits of the next token) for rendered prompts, batch by batch; each row comes once.

    Parameters
    ----------
    tokens : sequence of Tokens
        From ``chat.tokenise``.
    names : sequence of str
        Prompt ids, for edits that act on some prompts only and for messages.
    token_budget : int
        Tokens per pass, padding included. Rows are right-padded and read without a mask: the model is causal.

    Raises
    ------
    ModelCheckError
        If logits are not finite, naming the prompts and the active edits.
    """
    rows_at_once = max(_LOGITS // max(int(chat.model.get_output_embeddings().weight.shape[0]), 1), 1)
    for group in batches([len(t) for t in tokens], token_budget):
        for start in range(0, len(group), rows_at_once):
            rows = group[start : start + rows_at_once]
            some, ids = [tokens[i] for i in rows], [names[i] for i in rows]
            padded, _ = chat.pad([t.ids for t in some])
            ends = torch.tensor([len(t) - 1 for t in some], device=padded.device)
            places, which = ends.unique(return_inverse=True)
            with torch.inference_mode(), announced(Batch.of(some, side="right", prompt_ids=ids)):
                logits = chat.model(input_ids=padded, use_cache=False, logits_to_keep=places).logits
            last = logits[torch.arange(len(some), device=logits.device), which.to(logits.device)]
            finite = torch.isfinite(last).all(dim=-1)
            if not bool(finite.all()):
                wrong = [name for name, fine in zip(ids, finite.tolist(), strict=True) if not fine]
                raise ModelCheckError(
                    f"{chat.name}: the next-token logits of prompts {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''} are not finite "
                    f"under the edits [{'; '.join(edits_of(chat))}]. Lower the strength of the edits, or load the model in float32."
                )
            yield rows, last
