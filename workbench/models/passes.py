"""What a forward pass is looking at: which of its tokens are prompt, which are generated, which are padding.

"The last prompt token" is another column in every row and at every step. Two sources say which: the batch that a runner
announces (:func:`announced`: token spans and prompt ids) and the pass itself (attention mask, length of the KV cache).
Both live in context variables: what one thread announces or opens, no other thread sees, and the model knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from workbench.errors import ModelError
from workbench.models.tokens import Tokens

#: Regions of a pass, and what is in them.
REGIONS = {
    "all": "prompt and generated tokens, never padding",
    "prompt": "every token of the rendered prompt",
    "last_prompt": "the prompt's last token, where the reply begins",
    "instruction": "the tokens of the user's text",
    "decode": "every generated token",
}

_OPEN: ContextVar[tuple[Any, ...]] = ContextVar("workbench_open", default=())
_BATCH: ContextVar[Batch | None] = ContextVar("workbench_batch", default=None)
_PASS: ContextVar[Pass | None] = ContextVar("workbench_pass", default=None)


@dataclass(frozen=True, eq=False)
class Batch:
    """The prompts of the passes to come, as padded rows.

    Attributes
    ----------
    width : int
        Columns of the padded prompts; whatever a pass sees beyond was generated.
    starts, ends : int arrays [prompt]
        First column of the prompt, and the one after its last.
    inst : int array [prompt 2] or None
        Columns [start, end) of the user's text; None where only token ids were known.
    prompt_ids : tuple of str or None
        Names of the rows.
    """

    width: int
    starts: np.ndarray
    ends: np.ndarray
    inst: np.ndarray | None
    prompt_ids: tuple[str, ...] | None

    @classmethod
    def of(cls, rows: Sequence[Tokens | Sequence[int]], *, side: str, prompt_ids: Sequence[str] | None = None) -> Batch:
        """Describe rows as ``ChatModel.pad`` lays them out.

        Parameters
        ----------
        rows : sequence of Tokens, or of token ids
            Token ids alone say nothing about where the user's text is.
        side : str
            "left" or "right", as given to ``pad``.
        prompt_ids : sequence of str, optional
            Their names.
        """
        lengths = np.array([len(row) for row in rows])
        width = int(lengths.max())
        starts = width - lengths if side == "left" else np.zeros_like(lengths)
        known = [(row.inst_start, row.inst_end) for row in rows if isinstance(row, Tokens)]
        inst = np.array(known) + starts[:, None] if len(known) == len(rows) else None
        return cls(width, starts, starts + lengths, inst, None if prompt_ids is None else tuple(prompt_ids))

    def columns(self, region: str, column: np.ndarray) -> np.ndarray:
        """Say which of some columns belong to a region: bool [prompt column]."""
        if region == "decode":
            return np.broadcast_to(column >= self.width, (len(self.starts), len(column)))
        if region == "last_prompt":
            return column == self.ends[:, None] - 1
        if region == "instruction":
            if self.inst is None:
                raise ModelError(_NO_SPANS)
            return (column >= self.inst[:, :1]) & (column < self.inst[:, 1:])
        prompt = (column >= self.starts[:, None]) & (column < self.ends[:, None])
        return prompt if region == "prompt" else prompt | (column >= self.width)


_NO_SPANS = (
    'Scope "instruction" needs to know where the user\'s text is, and this pass was not announced with token spans. Run the prompts through '
    "generate(), capture() or chat.states(), or call the model inside `with announced(Batch.of(chat.tokenise(texts), side='left')):` "
    "(workbench.models.passes) with rows padded by chat.pad on the same side."
)


@contextmanager
def announced(batch: Batch) -> Iterator[None]:
    """Say what the passes made inside the ``with``, by this thread, consist of.

    Examples
    --------
    >>> tokens = chat.tokenise(["Name three rivers."])  # doctest: +SKIP
    >>> with announced(Batch.of(tokens, side="right")), chat.edited(edit):  # doctest: +SKIP
    ...     chat.model(input_ids=chat.pad([t.ids for t in tokens])[0])
    """
    token = _BATCH.set(batch)
    try:
        yield
    finally:
        _BATCH.reset(token)


@contextmanager
def opened(item: Any, *, alone: bool = False) -> Iterator[None]:
    """Let hooks of ``item`` act in this thread, or context, until the ``with`` ends; with ``alone`` those of nothing else."""
    token = _OPEN.set((item,) if alone else (*_OPEN.get(), item))
    passing = _PASS.set(None)
    try:
        yield
    finally:
        _PASS.reset(passing)
        _OPEN.reset(token)


def open_items() -> tuple[Any, ...]:
    """Return what is open here, outermost first. A hook whose item is not among it must do nothing."""
    return _OPEN.get()


def current_pass() -> Pass | None:
    """Return the pass of the base model that is running here; None outside of one."""
    return _PASS.get()


def begin_pass(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Note what the base model was called with."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    read = kwargs.get("inputs_embeds") if ids is None else ids
    if read is None:
        raise ModelError("The base model was called without input_ids and inputs_embeds. Expected one of them; an edit must know the tokens.")
    cache = kwargs.get("past_key_values")
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    at = Pass(_BATCH.get(), mask, 0 if cache is None else int(cache.get_seq_length()), int(read.shape[0]), int(read.shape[1]), ids)
    at.note_cache(cache)
    _PASS.set(at)


def end_pass(output: Any = None) -> None:
    """Forget it again, once it is known which KV cache it left behind."""
    at = _PASS.get()
    if at is not None and at.cache is None:
        at.note_cache(getattr(output, "past_key_values", None))
    _PASS.set(None)


@dataclass(eq=False)
class Pass:
    """One call of the base model: its tokens by region, worked out when first asked for and then kept.

    In a pass that was announced, columns beyond the prompts' width are generated. Otherwise the pass that starts with an
    empty KV cache is the prompt and every later one is generated.

    Attributes
    ----------
    batch : Batch or None
        What was announced.
    mask : Tensor or None
        Attention mask [prompt token], 1 for what is no padding.
    past : int
        Tokens already in the KV cache.
    n_prompts, n_tokens : int
        Shape of the pass.
    ids : Tensor or None
        Token ids [prompt token]; None where the model was given embeddings.
    """

    batch: Batch | None
    mask: Any
    past: int
    n_prompts: int
    n_tokens: int
    ids: Tensor | None = None
    _cache: Callable[[], Any] | None = None
    _kept: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch is not None and len(self.batch.starts) != self.n_prompts:
            raise ModelError(
                f"A pass has {self.n_prompts} rows, and {len(self.batch.starts)} prompts were announced. Expected the announced batch; "
                "announce each batch by itself, and no beams or several replies per prompt."
            )

    def note_cache(self, cache: Any) -> None:
        """Remember, weakly, the KV cache this pass fills: later passes that fill the same one continue its prompts."""
        if hasattr(cache, "get_seq_length"):
            self._cache = ref(cache)

    @property
    def cache(self) -> Any:
        """The KV cache that this pass fills; None without one, and before the end of a pass that made it itself."""
        return None if self._cache is None else self._cache()

    def keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made under ``key`` in this pass, making it the first time."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def region(self, name: str) -> bool | Tensor:
        """Return the tokens of a region: True (every one), False (none) or a bool tensor [prompt token]."""
        return self.keep(("region", name), lambda: self._region(name))

    def _region(self, name: str) -> bool | Tensor:
        if self.batch is not None:
            if self.past >= self.batch.width:  # a step of generation: nothing to look at
                return name in ("all", "decode")
            inside = self.batch.columns(name, self.past + np.arange(self.n_tokens))
            return bool(inside.flat[0]) if inside.all() or not inside.any() else torch.from_numpy(inside.copy())
        if name == "instruction":
            raise ModelError(_NO_SPANS)
        if name == "decode":
            return self._real() if self.past else False
        if name == "last_prompt":
            return False if self.past else self._last()
        return False if name == "prompt" and self.past else self._real()

    def _real(self) -> bool | Tensor:
        """Every token that is not padding, by the attention mask."""
        if self.mask is None:
            return True
        if not isinstance(self.mask, Tensor) or self.mask.dim() != 2:
            shape = f"of shape {tuple(self.mask.shape)}" if isinstance(self.mask, Tensor) else f"as {type(self.mask).__name__}"
            raise ModelError(
                f"The attention mask came {shape}; expected [prompt token], which says what is padding. Pass that one (a static cache makes "
                "transformers expand it: use the default cache), or announce the batch (workbench.models.passes.announced)."
            )
        inside = self.mask[:, self.past : self.past + self.n_tokens].bool()
        # on an accelerator asking would wait for it at every step
        return True if inside.device.type == "cpu" and bool(inside.all()) else inside

    def _last(self) -> Tensor:
        real = self._real()
        column = torch.arange(self.n_tokens)
        if real is True:
            return (column == self.n_tokens - 1).expand(self.n_prompts, -1)
        assert isinstance(real, Tensor)
        column = column.to(real.device)
        return column == torch.where(real, column, -1).amax(dim=1, keepdim=True)
