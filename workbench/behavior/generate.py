"""Ask a model every prompt of a grid, greedily, and keep what is answered so that a second call goes on where one stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from workbench.behavior.replies import Reply, ReplyFile
from workbench.errors import ModelError
from workbench.models.chat import ChatModel, Tokens
from workbench.prompts.grid import PromptGrid

logger = logging.getLogger(__name__)

COLUMNS = ("prompt_id", "reply", "n_new_tokens", "finished")


def generate(
    chat: ChatModel,
    grid: PromptGrid,
    *,
    max_new_tokens: int = 64,
    token_budget: int = 4096,
    out: str | Path | None = None,
    condition: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Generate one greedy reply per prompt.

    Parameters
    ----------
    chat : ChatModel
        Edits that are active around the call take part; name them in ``condition``, since no fingerprint shows them.
    grid : PromptGrid
        What to ask.
    max_new_tokens : int
        Longest reply in tokens.
    token_budget : int
        Rows times (longest prompt + ``max_new_tokens``) of one batch; halved when memory runs out.
    out : path, optional
        JSON Lines file of the replies. While it is incomplete it is ``out`` + ``.draft``; both are readable by their owner
        only (mode 600), because replies to harmful prompts may be harmful. A second call with the same model, template,
        prompts and options continues it, or reads it back when it is complete.
    condition : str, optional
        What else distinguishes this run, such as an intervention; recorded and compared.
    progress : bool
        Show a bar with prompts per second and the time left.

    Returns
    -------
    DataFrame
        One row per prompt in the grid's order: prompt_id, reply (without special tokens), n_new_tokens (without the
        end-of-sequence token), finished (whether the model ended the reply itself).

    Raises
    ------
    StoreMismatchError
        If ``out`` belongs to another model, template, grid, length or condition; the difference is named.
    ModelError
        If a prompt and its reply exceed the model's context, or one prompt alone does not fit into memory.
    """
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens is {max_new_tokens}; expected at least 1.")
    ids = list(grid.frame["prompt_id"])
    file = ReplyFile.open(out, _header(chat, grid, max_new_tokens, condition)) if out is not None else None
    done: dict[str, Reply] = file.replies() if file else {}
    missing = grid.frame[~grid.frame["prompt_id"].isin(done)]
    tokens = dict(zip(missing["prompt_id"], chat.tokenise(list(missing["text"]), names=list(missing["prompt_id"])), strict=True))
    _require_context(chat, tokens, max_new_tokens)
    # longest first: memory runs out at once or never, and the time left is not underestimated
    waiting = sorted(tokens, key=lambda prompt_id: -len(tokens[prompt_id].ids))
    with tqdm(total=len(ids), initial=len(ids) - len(waiting), unit="prompt", desc="generate", disable=not progress) as bar:
        for batch, replies in _batches(chat, tokens, waiting, max_new_tokens, token_budget):
            answered = dict(zip(batch, replies, strict=True))
            if file:
                file.append(answered)
            done |= answered
            bar.update(len(batch))
    if file:
        file.finish()
    return pd.DataFrame([(prompt_id, *done[prompt_id]) for prompt_id in ids], columns=list(COLUMNS))


def _header(chat: ChatModel, grid: PromptGrid, max_new_tokens: int, condition: str | None) -> dict[str, Any]:
    return {
        "model": chat.fingerprint,
        "template": chat.template.hash,
        "system": chat.system,
        "dtype": str(chat.dtype).removeprefix("torch."),
        "grid": grid.hash,
        "max_new_tokens": max_new_tokens,
        "condition": condition,
    }


def _require_context(chat: ChatModel, tokens: dict[str, Tokens], max_new_tokens: int) -> None:
    too_long = [(len(t.ids), prompt_id) for prompt_id, t in tokens.items() if len(t.ids) + max_new_tokens > chat.context]
    if too_long:
        n, prompt_id = max(too_long)
        raise ModelError(
            f"{len(too_long)} prompts do not fit: {prompt_id} has {n} tokens, and with {max_new_tokens} new ones it exceeds {chat.name}'s context "
            f"of {chat.context}. Leave it out, or ask for fewer new tokens."
        )


def _batches(
    chat: ChatModel, tokens: dict[str, Tokens], waiting: list[str], max_new_tokens: int, budget: int
) -> Iterator[tuple[list[str], list[Reply]]]:
    """Yield (prompt ids, replies); a batch that does not fit into memory is tried again with half the budget."""
    start = 0
    while start < len(waiting):
        width = len(tokens[waiting[start]].ids) + max_new_tokens
        batch = waiting[start : start + max(1, budget // width)]
        try:
            replies = reply_to(chat, [tokens[prompt_id].ids for prompt_id in batch], max_new_tokens)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if len(batch) == 1:
                raise ModelError(
                    f"Prompt {batch[0]} ({width} tokens with its reply) alone does not fit into memory on {chat.device}. "
                    "Ask for fewer new tokens, or load the model in half precision or on more devices (device_map)."
                ) from error
            budget = width * max(1, len(batch) // 2)
            replies = None
        if replies is None:  # outside the except block, where the traceback would still hold the tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logger.warning("out of memory with %d prompts of %d tokens; token budget is now %d", len(batch), width, budget)
            continue
        yield batch, replies
        start += len(batch)


def _out_of_memory(error: RuntimeError) -> bool:
    # accelerators have their own class, the CPU allocator only a message
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower()


def stop_tokens(chat: ChatModel) -> list[int]:
    """Return every token that ends a reply: those of the model's generation config (there may be several) and the tokenizer's."""
    declared = getattr(getattr(chat.model, "generation_config", None), "eos_token_id", None)
    listed = [] if declared is None else list(declared) if isinstance(declared, Sequence | torch.Tensor) else [declared]
    if chat.tokenizer.eos_token_id is not None:
        listed.append(chat.tokenizer.eos_token_id)
    return sorted({int(token) for token in listed})


def reply_to(chat: ChatModel, ids: Sequence[Sequence[int]], max_new_tokens: int) -> list[Reply]:
    """Continue rendered prompts greedily, left-padded under an attention mask, with a KV cache.

    Parameters
    ----------
    ids : sequence of sequences of int
        Token ids of the rendered prompts.

    Returns
    -------
    list of Reply
        In the given order.
    """
    padded, mask = chat.pad(ids, side="left")
    stops = stop_tokens(chat)
    with torch.inference_mode():
        grown = chat.model.generate(input_ids=padded, attention_mask=mask, generation_config=_greedy(chat, max_new_tokens, stops))
    replies = []
    for row in grown[:, padded.shape[1] :].tolist():
        end = next((i for i, token in enumerate(row) if token in stops), None)
        new = row if end is None else row[:end]
        text = chat.tokenizer.decode(new, skip_special_tokens=True).strip()
        replies.append(Reply(text, len(new), end is not None))
    return replies


def _greedy(chat: ChatModel, max_new_tokens: int, stops: list[int]) -> Any:
    """Say every option that a model's own generation config might set otherwise: None would let it through."""
    from transformers import GenerationConfig

    pad = next((token for token in (chat.tokenizer.pad_token_id, *stops) if token is not None), 0)
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_length=0,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        typical_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=stops or None,
        pad_token_id=pad,
        return_dict_in_generate=False,
    )
