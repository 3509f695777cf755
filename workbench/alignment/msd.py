"""Multilingual self-distillation: the loss of a batch of queries, on replies of the student or of the teacher, and its three teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.alignment.distillation import Query
from workbench.alignment.divergence import KINDS, token_divergence
from workbench.alignment.logprobs import require_same_shape
from workbench.alignment.sampling import Sampled, sample
from workbench.alignment.weighting import DPSW, TokenWeights, dpsw_weights, uniform_weights
from workbench.errors import DataError, did_you_mean
from workbench.models.chat import ChatModel

TEACHERS = ("frozen", "ema", "live")

#: Opens the teacher: yields a model whose passes carry no gradient.
Teacher = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class MSD:
    """How self-distillation is done.

    Attributes
    ----------
    on_policy : bool
        Learn on replies of the student (True) or of the teacher.
    divergence : {"forward", "reverse", "js"}
        What is lowered at each token, :func:`~workbench.alignment.divergence.token_divergence`. The published direction is not settled. A student
        that is sure of complying gives the refusal hardly any probability, and where it has none the gradients of "reverse" and "js" vanish;
        that of "forward" does not.
    beta, top_k
        Of the divergence.
    weighting : DPSW or None
        None weights all tokens alike: the control.
    teacher : {"frozen", "ema", "live"}
        The start's weights, a moving average of the student's, or the student's own of this moment; in any case without gradient.
    decay : float
        Of "ema", per step: the share of the average that stays.
    temperature : float
        Of sampling; 0 takes the likeliest tokens.
    max_new_tokens : int
        Longest reply.

    References
    ----------
    MSD, arXiv:2605.02971. The frozen teacher is what its relatives use (OPSD, arXiv:2601.18734); which one MSD uses is not known (inferred).
    """

    on_policy: bool = True
    divergence: str = "forward"
    beta: float = 0.5
    top_k: int | None = None
    weighting: DPSW | None = field(default_factory=DPSW)
    teacher: str = "frozen"
    decay: float = 0.99
    temperature: float = 1.0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        for name, given, known in (("divergence", self.divergence, KINDS), ("teacher", self.teacher, TEACHERS)):
            if given not in known:
                raise DataError(f"{name}={given!r}: expected one of {', '.join(known)}.{did_you_mean(str(given), known)}")
        if not 0 < self.decay < 1 or not self.temperature >= 0 or self.max_new_tokens < 1:
            raise DataError(
                f"MSD got decay {self.decay}, temperature {self.temperature} and max_new_tokens {self.max_new_tokens}. Expected a decay "
                "between 0 and 1, a temperature of 0 or more and at least one token."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, JSON-serialisable."""
        return asdict(self)


class MSDLoss(NamedTuple):
    """The loss of a batch and what it is made of; all but ``loss`` without gradient.

    Attributes
    ----------
    loss : Tensor []
        Mean over replies of the mean over their tokens of weight x divergence, in nats.
    divergence : Tensor [batch token]
        Nats; 0 beyond the reply.
    weights : TokenWeights
    replies : Sampled
    """

    loss: Float[Tensor, ""]
    divergence: Float[Tensor, "batch token"]
    weights: TokenWeights
    replies: Sampled


def sample_replies(
    chat: ChatModel, queries: Sequence[Query], *, on_policy: bool, temperature: float = 1.0, seed: int | Sequence[int], max_new_tokens: int
) -> Sampled:
    """Draw a reply to every query: to the student's prompt, or to the teacher's (its judgement stays behind, in the prompt).

    Parameters
    ----------
    chat : ChatModel
        With the model that replies.
    on_policy : bool
        Whose prompt is continued.
    temperature, seed, max_new_tokens
        As in :func:`~workbench.alignment.sampling.sample`.
    """
    prompts = [query.prompt_ids if on_policy else query.teacher_ids for query in queries]
    return sample(chat, prompts, max_new_tokens=max_new_tokens, seed=seed, temperature=temperature)


def reply_logits(model: Any, prompts: Sequence[Sequence[int]], replies: Sampled) -> Float[Tensor, "batch token vocab"]:
    """Return the logits that predict each token of the replies, after prompts that may differ from those they were given to.

    One pass over right-padded rows, without a mask (the model is causal); the head sees the places asked for only.

    Parameters
    ----------
    model : Module
        A causal language model of transformers; with gradients unless they are switched off around the call.
    prompts : sequence of token ids

    Returns
    -------
    Tensor [batch token vocab]
        Entry i predicts ``replies.ids[:, i]``; what stands beyond a reply means nothing.
    """
    device, width = replies.ids.device, replies.ids.shape[1]
    starts = torch.tensor([len(prompt) for prompt in prompts], device=device)
    reply = torch.arange(width, device=device)
    rows = torch.zeros(len(prompts), int(starts.max()) + width, dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        rows[row, : len(prompt)] = torch.tensor(prompt, device=device)
    rows.scatter_(1, starts[:, None] + reply, replies.ids)
    places, which = (starts[:, None] + reply - 1).unique(return_inverse=True)
    logits = model(input_ids=rows, use_cache=False, logits_to_keep=places).logits
    return logits[torch.arange(len(prompts), device=logits.device)[:, None], which.to(logits.device)]


def msd_batch_loss(
    student_logits: Float[Tensor, "batch token vocab"],
    teacher_logits: Float[Tensor, "batch token vocab"],
    sampled: Int[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"],
    divergence: str,
    weighting: DPSW | None,
    *,
    beta: float = 0.5,
    top_k: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch token"], TokenWeights]:
    """Compare student and teacher token by token, and average.

    L = E_x E_y [ (1 / |y|) sum_t w_t D_t ]

    Parameters
    ----------
    student_logits, teacher_logits : Tensor [batch token vocab]
        Aligned: entry i of both predicts ``sampled[:, i]``. Only the student's get a gradient.
    sampled : int Tensor [batch token]
    mask : bool Tensor [batch token]
        True on the tokens of the reply.
    divergence, beta, top_k
        As in :func:`~workbench.alignment.divergence.token_divergence`.
    weighting : DPSW or None
        None weights all tokens alike.

    Returns
    -------
    loss, divergence [batch token], weights
        The last two without gradient, 0 beyond the reply.

    Raises
    ------
    DataError
        Shapes that differ, or a reply without a token.

    References
    ----------
    MSD, arXiv:2605.02971; objective as in the notes on it (inferred).
    """
    require_same_shape(sampled=sampled, mask=mask, logits=student_logits[..., 0])
    lengths = mask.sum(dim=-1)
    if not bool((lengths > 0).all()):
        raise DataError(f"{int((lengths == 0).sum())} of {len(lengths)} replies have no token. Expected at least the token that ends them.")
    weights = uniform_weights(mask) if weighting is None else dpsw_weights(student_logits, teacher_logits, sampled, mask, weighting)
    # not a product: 0 times what a model leaves at padding may be nan
    apart = torch.where(mask, token_divergence(student_logits, teacher_logits, divergence, beta, top_k), 0.0)
    loss = ((weights.weight * apart).sum(dim=-1) / lengths).mean()
    return loss, apart.detach(), weights


def msd_step(
    chat: ChatModel, policy: Any, teacher: Teacher, queries: Sequence[Query], options: MSD, *, seed: int | Sequence[int], forward: Any = None
) -> MSDLoss:
    """Draw replies to a batch of queries and compare student and teacher on them.

    Parameters
    ----------
    chat : ChatModel
        The start: tokenizer, padding and end tokens.
    policy : Module
        The student; in eval mode and with a KV cache while it replies, then as it was.
    teacher : callable
        ``with teacher() as model``: the model that reads the teacher's prompts, without gradients.
    seed : int or sequence of int
        Of the replies, such as (seed, step, pass).
    forward : Module, optional
        What the student's pass with gradients calls, where it is wrapped (several processes); by default ``policy``.

    Returns
    -------
    MSDLoss
    """
    from workbench.alignment.watch import asked

    options_of_sampling: dict[str, Any] = {"temperature": options.temperature, "seed": seed, "max_new_tokens": options.max_new_tokens}
    replies: Sampled | None = None
    if options.on_policy:
        with asked(policy) as plain:
            replies = sample_replies(replace(chat, model=plain), queries, on_policy=True, **options_of_sampling)
    # the teacher before the student: its weights may be the student's own, exchanged for the while
    with teacher() as model, torch.no_grad(), asked(model) as plain:
        if replies is None:
            replies = sample_replies(replace(chat, model=plain), queries, on_policy=False, **options_of_sampling)
        teacher_logits = reply_logits(plain, [query.teacher_ids for query in queries], replies)
    student_logits = reply_logits(policy if forward is None else forward, [query.prompt_ids for query in queries], replies)
    loss, apart, weights = msd_batch_loss(
        student_logits, teacher_logits, replies.ids, replies.mask, options.divergence, options.weighting, beta=options.beta, top_k=options.top_k
    )
    return MSDLoss(loss, apart, weights, replies)
