"""A chat model: weights, tokenizer and template together, and the only place where text becomes tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.errors import ModelCheckError, PromptError
from workbench.models import hooks
from workbench.models.fingerprint import fingerprint
from workbench.models.hooks import Parts, find_parts, record, spans
from workbench.models.passes import Batch, announced
from workbench.models.template import Renderer, Template
from workbench.models.tokens import Tokens


def adds_bos(tokenizer: Any) -> bool:
    """Say whether the tokenizer by itself puts its BOS token in front of a text."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


@dataclass(frozen=True, eq=False, repr=False)
class ChatModel:
    """A causal language model as it is asked: with its tokenizer, template and system prompt.

    Made by :func:`workbench.models.load.load_model`, which checks what the measurements rest on.

    Attributes
    ----------
    model : PreTrainedModel
        The plain Hugging Face model, in eval mode.
    tokenizer : PreTrainedTokenizerBase
        A copy that belongs to this object.
    name : str
        What it was loaded from, for labels.
    path : Path or None
        Its directory, if it has one.
    template : Template
        How prompts are rendered.
    system : str or None
        System prompt; None leaves the template's default.
    checks : dict
        What the self-check at load measured; empty if it was skipped.
    """

    model: Any
    tokenizer: Any
    name: str
    path: Path | None
    template: Template
    system: str | None
    checks: dict[str, Any]

    def __repr__(self) -> str:
        precision = str(self.dtype).removeprefix("torch.")
        kind = f"{type(self.model).__name__}, {self.n_layers} blocks of width {self.hidden_size}, {precision} on {self.device}"
        return f"ChatModel({self.name}: {kind}, template {self.template.kind!r}{', system prompt set' if self.system is not None else ''})"

    @cached_property
    def parts(self) -> Parts:
        """The base model, its blocks and its final norm."""
        return find_parts(self.model)

    @cached_property
    def _renderer(self) -> Renderer:
        return Renderer(self.tokenizer, self.template, self.system, self.name)

    @property
    def config(self) -> Any:
        """The configuration of the text decoder."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        """Number of blocks L; layers are 0 to L."""
        return len(self.parts.blocks)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def context(self) -> int:
        """Longest prompt in tokens."""
        return int(getattr(self.config, "max_position_embeddings", None) or 1_000_000)

    @property
    def device(self) -> torch.device:
        """Where token ids must be."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model computes in."""
        return self.model.dtype

    @property
    def fingerprint(self) -> str:
        """Hash of configuration and weights; computed anew at each call, so it follows an edit of the weights."""
        return fingerprint(self.model)

    @property
    def prefix(self) -> str:
        """What the template puts before the user's text."""
        return self._renderer.prefix

    @property
    def suffix(self) -> str:
        """What the template puts after the user's text."""
        return self._renderer.suffix

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer by itself puts a BOS token in front."""
        return adds_bos(self.tokenizer)

    @cached_property
    def bridge(self) -> Any:
        """The TransformerLens twin: every inner hook point, on the same weights.

        Made on first use, which imports transformer_lens (seconds). The plain model stays as it is.
        """
        from transformer_lens.model_bridge import TransformerBridge

        twin = twin_of(self.model)
        twin.config.architectures = [type(self.model).__name__]
        return TransformerBridge.boot_transformers(self.name, hf_model=twin, tokenizer=copy.deepcopy(self.tokenizer), device=str(self.device))

    def render(self, text: str) -> str:
        """Show exactly what the model reads when asked ``text``."""
        return self._renderer(text)[0]

    def tokenise(self, texts: Sequence[str], *, names: Sequence[str] | None = None) -> list[Tokens]:
        """Render and tokenise user texts.

        Parameters
        ----------
        texts : sequence of str
            User texts.
        names : sequence of str, optional
            Prompt ids for messages; the row number otherwise (texts are never shown).

        Returns
        -------
        list of Tokens
            One per text.

        Raises
        ------
        PromptError
            If a text is empty.
        ModelCheckError
            If BOS is missing or doubled, a text cannot be found again among the tokens, or a token is outside the vocabulary.
        """
        names = [str(i) for i in range(len(texts))] if names is None else list(names)
        empty = [name for name, text in zip(names, texts, strict=True) if not text.strip()]
        if empty:
            raise PromptError(f"Empty text in prompts {_some(empty)}. Expected at least one visible character; take these prompts out.")
        rendered, edges = [], []
        for name, text in zip(names, texts, strict=True):
            try:
                whole, start, end = self._renderer(text)
            except ModelCheckError as error:
                raise ModelCheckError(f"Prompt {name}: {error}") from error
            rendered.append(whole)
            edges.append((start, end))
        if not rendered:
            return []
        raw = self.template.kind == "raw"
        encoded = self.tokenizer(rendered, add_special_tokens=raw, return_offsets_mapping=True, return_attention_mask=False)
        return [
            self._located(name, ids, offsets, start, end)
            for name, ids, offsets, (start, end) in zip(names, encoded["input_ids"], encoded["offset_mapping"], edges, strict=True)
        ]

    def _located(self, name: str, ids: list[int], offsets: list[tuple[int, int]], start: int, end: int) -> Tokens:
        self._require_one_bos(name, ids)
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        if max(ids) >= vocabulary:
            raise ModelCheckError(
                f"Prompt {name}: token {max(ids)} is outside the model's vocabulary of {vocabulary}. {self.name} and its tokenizer do not belong "
                "together; pass the tokenizer the model was trained with."
            )
        inside = [t for t, (first, stop) in enumerate(offsets) if first < end and stop > start and stop > first]
        # half: normalisers may drop characters (joiners, accents), broken offsets lose nearly all
        if not inside or min(offsets[inside[-1]][1], end) - max(offsets[inside[0]][0], start) < (end - start) / 2:
            raise ModelCheckError(
                f"Prompt {name}: the tokenizer's offsets do not lead back to the text ({len(inside)} tokens touch its {end - start} characters). "
                "Load the fast tokenizer of the model's own repository."
            )
        return Tokens(tuple(ids), inside[0], inside[-1] + 1, end - start)

    def _require_one_bos(self, name: str, ids: list[int]) -> None:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is None:
            return
        doubled = ids[:2] == [bos, bos] or (bos != eos and ids.count(bos) > 1)
        if doubled:
            raise ModelCheckError(
                f"Prompt {name}: {ids.count(bos)} BOS tokens ({self.tokenizer.bos_token!r}); expected one, in front. The template "
                f"{self.template.kind!r} adds it twice, or the text contains it: pass a .jinja template with one bos_token, or take the prompt out."
            )
        if self.adds_bos and ids[0] != bos:
            raise ModelCheckError(
                f"Prompt {name}: no BOS token in front, though the tokenizer adds {self.tokenizer.bos_token!r} by itself: the model knows no "
                f"other start. The template {self.template.kind!r} leaves it out: pass a .jinja template that starts with {{{{ bos_token }}}}."
            )

    def pad(self, ids: Sequence[Sequence[int]], *, side: str = "right") -> tuple[Int[Tensor, "prompt token"], Int[Tensor, "prompt token"]]:
        """Pad token ids to one length.

        Right-padded ids need no mask to be read (the model is causal); left-padded ones, for generation, do.

        Returns
        -------
        ids, mask : int64 tensors [prompt, token]
            On the model's device.
        """
        width = max(map(len, ids))
        filler = next((t for t in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if t is not None), 0)
        padded = np.full((len(ids), width), filler, dtype=np.int64)
        mask = np.zeros_like(padded)
        for row, line in enumerate(ids):
            here = slice(0, len(line)) if side == "right" else slice(width - len(line), width)
            padded[row, here], mask[row, here] = line, 1
        return torch.from_numpy(padded).to(self.device, non_blocking=True), torch.from_numpy(mask).to(self.device, non_blocking=True)

    def states(
        self, tokens: Sequence[Tokens], *, layers: Sequence[int], positions: Sequence[str], prompt_ids: Sequence[str] | None = None
    ) -> Float[Tensor, "prompt layer position hidden"]:
        """Read the residual stream of one batch of prompts.

        One pass of the base model (no head) over right-padded rows, stopped after the deepest layer asked for.
        ``prompt_ids`` names the rows for edits that act on some prompts only.

        Returns
        -------
        Tensor [prompt, layer, position, hidden]
            In the order given, in the model's precision, on the device of the first layer asked for.
        """
        edges = np.array([[t.span(position) for position in positions] for t in tokens])
        ids, _ = self.pad([t.ids for t in tokens])
        batch = Batch.of(tokens, side="right", prompt_ids=prompt_ids)
        with torch.inference_mode(), announced(batch), record(self, layers, spans(edges[..., 0], edges[..., 1]), stop=True) as kept:
            self.parts.base(input_ids=ids, use_cache=False)
        device = kept[layers[0]].device
        return torch.stack([kept[layer].to(device) for layer in layers], dim=1)

    @contextmanager
    def edited(self, *edits: Any) -> Iterator[ChatModel]:
        """Change the residual stream in every pass this thread makes inside the ``with``: in ``generate``, ``capture`` and bare calls.

        Parameters
        ----------
        *edits
            :class:`~workbench.interventions.Add`, ``Ablate``, ``Patch``, sequences of them, or ``{layer: function}``. Those
            of one place act in the order given.

        Yields
        ------
        ChatModel
            This model.

        Examples
        --------
        >>> with chat.edited(Add(direction, 2.0, scope=("last_prompt", "decode"))):  # doctest: +SKIP
        ...     replies = generate(chat, grid)
        """
        with hooks.edited(self, hooks.placed(self, edits)):
            yield self

    def provenance(self) -> dict[str, Any]:
        """What a number needs to name about the model it came from; JSON-serialisable."""
        import transformers

        return {
            "model": self.name,
            "fingerprint": self.fingerprint,
            "architecture": type(self.model).__name__,
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": str(getattr(self.config, "_attn_implementation", None)),
            "device": self.device.type,
            "template": {"kind": self.template.kind, "hash": self.template.hash, **self.template.options},
            "system": self.system,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }


def twin_of(model: nn.Module) -> Any:
    """Copy a model's module tree on the same weights: hooks and modes of the copy do not touch the original."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo=shared)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
