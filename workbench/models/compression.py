"""How well a model predicts raw text: the measure of a language it knows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from workbench.models.batching import batches
from workbench.models.chat import ChatModel
from workbench.models.passes import Batch, announced

#: Logits held at once.
_LOGITS = 2**25


def bits_per_byte(chat: ChatModel, texts: Sequence[str]) -> Float[np.ndarray, " text"]:
    """Measure cross-entropy of raw texts in bits per UTF-8 byte; lower is better known, 8 is uniform over bytes.

    No template is used. If the tokenizer has a BOS token it is put in front once, and every token of the text counts;
    without one the first token has nothing to be predicted from, so neither it nor its bytes count. Tokens beyond the
    model's context, and their bytes, are left out; end-of-text tokens are not scored.

    Parameters
    ----------
    chat : ChatModel
        The model.
    texts : sequence of str
        Raw texts.

    Returns
    -------
    array [text]
        Bits per byte, float64. Comparable across tokenizers, and within reason across languages of one script width. NaN for
        a text with nothing to predict: an empty one, or one of a single token where the tokenizer has no BOS token.
    """
    bos, eos = chat.tokenizer.bos_token_id, chat.tokenizer.eos_token_id
    start = [bos] if bos is not None and bos != eos else []
    encoded = chat.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
    rows, n_bytes, scored = [], [], []
    for i, (text, ids, offsets) in enumerate(zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)):
        room = chat.context - len(start)
        kept = ids[:room]
        first = 0 if start or not kept else offsets[0][1]
        last = len(text) if len(kept) == len(ids) or not kept else offsets[len(kept) - 1][1]
        n_bytes.append(len(text[first:last].encode("utf-8")))
        rows.append([*start, *kept])
        if len(rows[-1]) > 1 and n_bytes[-1]:
            scored.append(i)
    vocabulary = chat.model.get_output_embeddings().weight.shape[0]
    bits = np.full(len(rows), np.nan)
    for places in batches([len(rows[i]) for i in scored], max(_LOGITS // vocabulary, 1)):
        batch = np.array(scored)[places]
        chosen = [rows[i] for i in batch]
        ids, mask = chat.pad(chosen)
        with torch.inference_mode(), announced(Batch.of(chosen, side="right")):
            logits = chat.model(input_ids=ids, use_cache=False).logits[:, :-1]
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:].to(logits.device), reduction="none")
        total = torch.where(mask[:, 1:].bool().to(losses.device), losses, 0).sum(dim=1, dtype=torch.float64)
        bits[batch] = total.cpu().numpy() / math.log(2)
    return bits / np.maximum(n_bytes, 1)
