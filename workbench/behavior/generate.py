"""Ask a model every prompt of a grid, greedily, and keep what is answered so that a second call goes on where one stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from workbench.behavior.inserted import Insert, record_of, require_inserted, with_inserted
from workbench.behavior.replies import Reply, ReplyFile
from workbench.behavior.stops import Stops, stop_tokens
from workbench.errors import ModelCheckError, ModelError
from workbench.models.chat import ChatModel, Tokens
from workbench.models.hooks import edits_of, record
from workbench.models.passes import Batch, announced
from workbench.prompts.grid import PromptGrid

logger = logging.getLogger(__name__)

__all__ = ["COLUMNS", "generate", "reply_to", "stop_tokens"]

COLUMNS = ("prompt_id", "reply", "n_new_tokens", "finished")


def generate(
    chat: ChatModel,
    grid: PromptGrid,
    *,
    max_new_tokens: int = 64,
    token_budget: int = 4096,
    out: str | Path | None = None,
    condition: str | None = None,
    stop: Sequence[str | int] = (),
    insert: Insert | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Generate one greedy reply per prompt.

    Parameters
    ----------
    chat : ChatModel
        Edits that are active around the call take part and are recorded.
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
        What else distinguishes this run; recorded and compared. Active edits are added to it by themselves, so replies
        made under an edit are never taken for replies without.
    stop : sequence of str or int
        Texts or tokens that end a reply, besides the model's own end tokens; they are not part of it.
    insert : mapping of prompt id to token ids, optional
        What follows these rendered prompts, in front of the reply and no part of it. Edits count it as prompt.
    progress : bool
        Show a bar with prompts per second and the time left.

    Returns
    -------
    DataFrame
        One row per prompt in the grid's order: prompt_id, reply (without special tokens), n_new_tokens (without the
        end-of-sequence token or what begins a stop text), finished (whether the reply ended before ``max_new_tokens``).

    Raises
    ------
    StoreMismatchError
        If ``out`` belongs to another model, template, grid, length, insertion or condition; the difference is named.
    PromptError
        If ``insert`` names a prompt that is not in the grid.
    ModelError
        If a prompt and its reply exceed the model's context, or one prompt alone does not fit into memory.
    ModelCheckError
        If logits are NaN, infinite or all alike (what a norm makes of states too long to square), naming prompts, layer and
        the active edits: their strength is too large.
    """
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens is {max_new_tokens}; expected at least 1.")
    ids = list(grid.frame["prompt_id"])
    stops = Stops.of(chat, stop)
    require_inserted(chat, grid, insert)
    file = ReplyFile.open(out, _header(chat, grid, max_new_tokens, condition, stop, insert)) if out is not None else None
    done: dict[str, Reply] = file.replies() if file else {}
    missing = grid.frame[~grid.frame["prompt_id"].isin(done)]
    tokens = dict(zip(missing["prompt_id"], chat.tokenise(list(missing["text"]), names=list(missing["prompt_id"])), strict=True))
    tokens = with_inserted(tokens, insert)
    _require_context(chat, tokens, max_new_tokens)
    # longest first: memory runs out at once or never, and the time left is not underestimated
    waiting = sorted(tokens, key=lambda prompt_id: -len(tokens[prompt_id].ids))
    with tqdm(total=len(ids), initial=len(ids) - len(waiting), unit="prompt", desc="generate", disable=not progress) as bar:
        for batch, replies in _batches(chat, tokens, waiting, max_new_tokens, token_budget, stops):
            answered = dict(zip(batch, replies, strict=True))
            if file:
                file.append(answered)
            done |= answered
            bar.update(len(batch))
    if file:
        file.finish()
    return pd.DataFrame([(prompt_id, *done[prompt_id]) for prompt_id in ids], columns=list(COLUMNS))


def _header(
    chat: ChatModel, grid: PromptGrid, max_new_tokens: int, condition: str | None, stop: Sequence[str | int], insert: Insert | None
) -> dict[str, Any]:
    under = [*([condition] if condition is not None else []), *edits_of(chat)]
    return {
        "model": chat.fingerprint,
        "template": chat.template.hash,
        "system": chat.system,
        "dtype": str(chat.dtype).removeprefix("torch."),
        "grid": grid.hash,
        "max_new_tokens": max_new_tokens,
        "condition": "; ".join(under) or None,
        "stop": sorted(map(repr, [stop] if isinstance(stop, str) else stop)) or None,
        "insert": record_of(insert),
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
    chat: ChatModel, tokens: dict[str, Tokens], waiting: list[str], max_new_tokens: int, budget: int, stops: Stops
) -> Iterator[tuple[list[str], list[Reply]]]:
    """Yield (prompt ids, replies); a batch that does not fit into memory is tried again with half the budget."""
    start = 0
    while start < len(waiting):
        width = len(tokens[waiting[start]].ids) + max_new_tokens
        batch = waiting[start : start + max(1, budget // width)]
        try:
            replies = reply_to(chat, [tokens[prompt_id] for prompt_id in batch], max_new_tokens, prompt_ids=batch, stops=stops)
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


def reply_to(
    chat: ChatModel,
    rows: Sequence[Tokens | Sequence[int]],
    max_new_tokens: int,
    *,
    prompt_ids: Sequence[str] | None = None,
    stops: Stops | None = None,
) -> list[Reply]:
    """Continue rendered prompts greedily, left-padded under an attention mask, with a KV cache.

    Parameters
    ----------
    rows : sequence of Tokens, or of token ids
        The rendered prompts. Edits with scope "instruction" need Tokens.
    prompt_ids : sequence of str, optional
        Their names, for messages and for edits that act on some prompts only.
    stops : Stops, optional
        What ends a reply; by default the model's own end tokens.

    Returns
    -------
    list of Reply
        In the given order.

    Raises
    ------
    ModelCheckError
        If logits are NaN, infinite or all alike after the prompt or the first generated token.
    """
    from transformers import LogitsProcessorList

    stops = Stops.of(chat) if stops is None else stops
    batch = Batch.of(rows, side="left", prompt_ids=prompt_ids)
    ids = [row.ids if isinstance(row, Tokens) else row for row in rows]
    padded, mask = chat.pad(ids, side="left")
    with torch.inference_mode(), announced(batch):
        try:
            grown = chat.model.generate(
                input_ids=padded,
                attention_mask=mask,
                generation_config=_greedy(chat, max_new_tokens, list(stops.tokens)),
                logits_processor=LogitsProcessorList([_FirstLogitsFinite()]),
                stopping_criteria=stops.criteria(padded.shape[1]),
            )
        except _NotFinite as error:
            raise _not_finite(chat, padded, mask, error.args[0], list(prompt_ids or map(str, range(len(ids))))) from None
    return [Reply(*stops.cut(row)) for row in grown[:, padded.shape[1] :].tolist()]


class _NotFinite(Exception):
    """Carries the rows whose logits say nothing."""


class _FirstLogitsFinite:
    """Looks at the logits after the prompt and after the first generated token, where edits of either kind show; then no more."""

    def __init__(self) -> None:
        self.looks = 2

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.looks:
            self.looks -= 1
            least, most = scores.aminmax(dim=-1)
            telling = torch.isfinite(most) & (least < most)  # NaN is both; -inf forbids a token
            if not bool(telling.all()):
                raise _NotFinite((~telling).nonzero().flatten().tolist())
        return scores


def _not_finite(chat: ChatModel, padded: torch.Tensor, mask: torch.Tensor, wrong: list[int], names: list[str]) -> ModelCheckError:
    """Say at which layer it starts, and under which edits; the prompts are read once more for it."""
    with record(chat, range(chat.n_layers + 1), once=False) as states:
        chat.parts.base(input_ids=padded, attention_mask=mask, use_cache=False)
    real = mask.bool()
    lengths = {k: state[real.to(state.device)].float().square().sum(dim=-1) for k, state in sorted(states.items())}
    layer = next((k for k, squared in lengths.items() if not bool(torch.isfinite(squared).all())), None)
    where = "while generating" if layer is None else f"first at layer {layer}"
    told = ", ".join(names[row] for row in wrong[:5]) + (" ..." if len(wrong) > 5 else "")
    edits = edits_of(chat)
    found = f"the logits of prompts {told} are NaN, infinite or all alike ({where})"
    if edits:
        return ModelCheckError(
            f"{chat.name}: under the edits [{'; '.join(edits)}] {found}. Expected states whose length can be squared: lower the strength, or load "
            "the model in bfloat16 or float32, which reach further than float16."
        )
    return ModelCheckError(
        f"{chat.name}: {found}, without any edit. Expected finite numbers: load the model in float32, or in bfloat16 instead of float16, or "
        "download a damaged checkpoint again."
    )


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
