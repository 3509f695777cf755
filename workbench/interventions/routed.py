"""What a routed edit does at every pass: read the gate's state where it passes, decide once per row, and act on the rows decided so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import DataError, ModelCheckError, ModelError
from workbench.interventions.acts import Act
from workbench.interventions.decisions import OUTCOMES, Decision, Log
from workbench.interventions.prompt_languages import PromptLanguages, Thresholds
from workbench.interventions.scopes import weights
from workbench.models.hooks import spans
from workbench.models.passes import Batch, Pass
from workbench.models.tokens import post_index

#: A pass whose cache was made by the model itself can be continued; so many of them are remembered at once.
_REMEMBERED = 16


class Held:
    """What was decided about the rows of one batch, until its replies end."""

    def __init__(self, n: int) -> None:
        self.outcome = np.full(n, -1, dtype=np.int8)  # index into OUTCOMES
        self._factors: dict[Any, bool | Tensor] = {}

    @property
    def decided(self) -> Bool[np.ndarray, " prompt"]:
        """Which rows are."""
        return self.outcome >= 0

    def decide(self, rows: Int[np.ndarray, " some"], outcome: Int[np.ndarray, " some"]) -> None:
        """Settle some rows."""
        self.outcome[rows] = outcome
        self._factors = {}

    def factor(self, outcome: int, like: Tensor) -> bool | Tensor:
        """Return 1 for rows decided so and 0 for others: True, False or [prompt 1 1], made once and not at every token."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        key = (outcome, like.device, dtype)
        if key not in self._factors:
            chosen = self.outcome == outcome
            mixed = torch.from_numpy(chosen).to(device=like.device, dtype=dtype).view(-1, 1, 1)
            self._factors[key] = bool(chosen.any()) if chosen.all() or not chosen.any() else mixed
        return self._factors[key]


@dataclass(eq=False)
class Reading:
    """The gate's own hook: it changes nothing, reads each row's state at one position and decides.

    Attributes
    ----------
    score : callable
        float64 states [prompt hidden] and their language tags to scores [prompt].
    band : (float, float)
        Rows with ``low <= score - threshold < high`` are unsure.
    """

    label: str
    position: str
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    thresholds: Thresholds
    languages: PromptLanguages
    band: tuple[float, float]
    tokenizer: Any
    log: Log
    wants_pass: bool = True
    _held: WeakKeyDictionary[Any, Held] = field(default_factory=WeakKeyDictionary)
    _without_cache: deque[tuple[Pass, Held]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def __call__(self, residual: Tensor, at: Pass | None = None) -> Tensor:
        if at is None:
            raise DataError("A gate reads passes of the whole model, and a block was called by itself. Call the model.")
        if at.past and (at.batch is None or at.past >= at.batch.width):
            return residual  # a step of generation: what was decided holds
        held = self._known(at)
        generated = at.batch is not None and at.past + at.n_tokens > at.batch.width
        fresh = held is None or (at.past == 0 and not generated)
        if fresh or held is None:
            held = self._new(at)
        starts, ends, inside = _columns(at, self.position)
        # with replies in the pass (no KV cache) the prompts are read again; they were decided at the first reading
        rows = np.flatnonzero(inside & ~held.decided)
        if len(rows):
            self._decide(residual, at, held, rows, (starts, ends, inside), fresh=fresh)
        return residual

    def held(self, at: Pass | None) -> Held:
        """Return what was decided about the rows of a pass.

        Raises
        ------
        DataError
            If its prompts, or some of them, did not pass the gate.
        """
        if at is None:
            raise DataError("A routed edit acts on passes of the whole model, and a block was called by itself. Call the model.")
        found = self._known(at)
        if found is None or len(found.outcome) != at.n_prompts:
            seen = "another number of rows" if found is not None else "none of its prompts"
            raise DataError(
                f"A pass of {at.n_prompts} rows goes on from {at.past} cached tokens, and the gate has seen {seen}. Expected the prompts to be read "
                "inside the same `with`, one row per reply (no beams or expanded rows, no cache filled before); announce the batch "
                "(workbench.models.passes.announced) where the prompt is read in pieces."
            )
        if not found.decided.all():
            raise DataError(
                f"{int((~found.decided).sum())} of {at.n_prompts} rows are not decided yet: the prompt is read in pieces, and the edit acts on "
                f"tokens before the one the gate reads ({self.position}). Expected the prompt in one pass, or scope=('last_prompt', 'decode')."
            )
        return found

    def _known(self, at: Pass) -> Held | None:
        line = at.batch if at.batch is not None else at.cache
        if line is not None and line in self._held:
            return self._held[line]
        return next((held for past, held in list(self._without_cache) if past is at or (line is not None and past.cache is line)), None)

    def _new(self, at: Pass) -> Held:
        held, line = Held(at.n_prompts), at.batch if at.batch is not None else at.cache
        if line is None:
            self._without_cache.append((at, held))
        else:
            self._held[line] = held
        return held

    def _decide(self, residual: Tensor, at: Pass, held: Held, rows: np.ndarray, columns: tuple[np.ndarray, ...], *, fresh: bool) -> None:
        starts, ends, inside = columns
        # rows whose token is in another piece of the prompt are read at a dummy place and not looked at
        first, stop = np.where(inside, starts - at.past, 0), np.where(inside, ends - at.past, 1)
        states = spans(first[:, None], stop[:, None])(residual)[:, 0].double().cpu().numpy()[rows]
        names = [at.batch.prompt_ids[row] if at.batch is not None and at.batch.prompt_ids else None for row in rows]
        _require_finite(states, names, rows, self.label, "states")
        tags = [self.thresholds.of(tag) for tag in np.array(self.languages.tags(at, self.tokenizer))[rows].tolist()]
        threshold = np.array([value for _, value in tags])
        score = np.asarray(self.score(states, np.array([tag for tag, _ in tags])), dtype=np.float64)
        _require_finite(score[:, None], names, rows, self.label, "scores")
        outcome = outcomes(score, threshold, self.band)
        held.decide(rows, outcome)
        found = zip(names, rows.tolist(), tags, score.tolist(), outcome.tolist(), strict=True)
        self.log.note([Decision(name, row, tag, z, t, OUTCOMES[o]) for name, row, (tag, t), z, o in found], fresh=fresh)


@dataclass(eq=False)
class Routed:
    """One edit, restricted to the rows decided so."""

    inner: Act
    outcome: int
    reading: Reading
    label: str
    wants_pass: bool = True

    def __call__(self, residual: Tensor, at: Pass | None = None) -> Tensor:
        weight = weights(at, self.inner.scope, self.inner.rows, residual)
        if weight is False:
            return residual
        chosen = self.reading.held(at).factor(self.outcome, residual)
        if chosen is False:
            return residual
        if chosen is not True:
            weight = chosen if weight is True else weight * chosen
        return self.inner.change(residual, None if weight is True else weight, at)


def outcomes(score: Float[np.ndarray, " prompt"], threshold: Float[np.ndarray, " prompt"], band: tuple[float, float]) -> Int[np.ndarray, " prompt"]:
    """Decide from scores: flagged where ``score - threshold >= high``, unflagged where it is below ``low``, else unsure.

    Returns
    -------
    int array [prompt]
        Index into ``OUTCOMES``; unsure, too, where the threshold is NaN (a policy that abstains).
    """
    with np.errstate(invalid="ignore"):
        margin = score - threshold
        return np.where(margin >= band[1], 2, np.where(margin < band[0], 0, 1)).astype(np.int8)


def _columns(at: Pass, position: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find a position's columns [start, end) in each padded row, and whether they lie in this pass."""
    if at.batch is None:
        if position != "t_post_inst":
            raise ModelError(
                f"A gate reads {position}, and this pass was not announced with token spans: only the last prompt token is known. Run the prompts "
                "through generate(), capture() or chat.states(), or call the model inside `with announced(Batch.of(chat.tokenise(texts), "
                "side='left')):` (workbench.models.passes)."
            )
        last = at.region("last_prompt")
        assert isinstance(last, Tensor)
        column = last.to(torch.int8).argmax(dim=1).cpu().numpy()
        return column, column + 1, np.ones(at.n_prompts, dtype=bool)
    starts, ends = position_columns(at.batch, position)
    until = at.past + at.n_tokens
    torn = (starts < until) & (ends > until) | (starts < at.past) & (ends > at.past)
    if torn.any():
        raise DataError(f"A gate reads {position}, and the prompt is read in pieces that cut it. Expected the prompt in one pass.")
    return starts, ends, (starts >= at.past) & (ends <= until)


def position_columns(batch: Batch, position: str) -> tuple[Int[np.ndarray, " prompt"], Int[np.ndarray, " prompt"]]:
    """Return a position's columns [start, end) in the padded rows of a batch.

    Raises
    ------
    ModelError
        If the batch does not say where the user's text is, or a prompt has no such template token.
    """
    if position == "t_post_inst":
        return batch.ends - 1, batch.ends
    if batch.inst is None:
        raise ModelError(
            f"A gate reads {position}, and this batch was announced by token ids only. Expected Tokens (chat.tokenise), which say where the user's "
            "text is."
        )
    if position in ("t_inst", "mean_inst"):
        return (batch.inst[:, 1] - 1 if position == "t_inst" else batch.inst[:, 0]), batch.inst[:, 1]
    start = batch.inst[:, 1] + post_index(position)
    if (start >= batch.ends).any():
        raise ModelError(f"A gate reads {position}, and {int((start >= batch.ends).sum())} prompts have fewer template tokens after the user's text.")
    return start, start + 1


def _require_finite(values: np.ndarray, names: Sequence[str | None], rows: np.ndarray, label: str, what: str) -> None:
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        wrong = [str(name if name is not None else f"row {row}") for name, row, good in zip(names, rows, finite, strict=True) if not good]
        raise ModelCheckError(
            f"{label}: the {what} of prompts {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''} are NaN or infinite, and nothing can be "
            "decided. Expected finite numbers: load the model in bfloat16 or float32, or lower the strength of edits before the gate."
        )
