"""How much a model prefers the right reply, per language, without generating a token: the monitor while it is trained.

A reward gap is small in languages where attacks succeed, so it warns before replies are sampled and judged. It is no refusal rate:
a model may prefer the refusal to one given answer and still answer in another way.

How the two go together: harmful refusal counts prompts whose greedy reply refuses, the gap of harmful pairs averages by how much the refusal is
likelier than one answer, per token. Where the gap is below 0 for most prompts the model usually complies, and a repair must raise it; above 0 it
may go on rising while refusal has long been complete, so its size is compared between languages and steps, never with a rate. The gap of harmless
pairs is the control: it falls where a model learns to refuse everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from workbench.alignment.multilingual import reward_gap
from workbench.alignment.sequences import Example, collate, completion_logprobs, encode
from workbench.behavior.resampling import pooled_share
from workbench.errors import DataError
from workbench.models.chat import ChatModel
from workbench.prompts.languages import tier_of
from workbench.results import Result
from workbench.statistics import Estimate, jackknife_interval

_NUMBERS = ("chosen_sum", "chosen_len", "rejected_sum", "rejected_len")
_LABELS = ("meaning_id", "language", "harmful")


@dataclass(frozen=True)
class RewardGaps(Result):
    """One row per language, class and statistic.

    ``harmful`` True are pairs whose chosen completion refuses; the harmless rows beside them are the control (a model that refuses everything
    gains on the one and loses on the other). ``statistic`` is ``reward_gap`` (nats per token; 0 is no preference), ``preferred`` (share of pairs
    with a gap above 0; chance .5), ``length_difference`` (tokens, chosen - rejected: a gap between completions of very different length may
    be one of length) and ``below_reference`` (the reference languages' mean gap minus this one, same meanings; nats per token). ``value, low,
    high``: 95 % over meanings, NaN below three of them; ``n`` meanings, ``pairs``.
    """

    required: ClassVar[tuple[str, ...]] = ("language", "tier", "harmful", "statistic", "value", "low", "high", "n", "pairs")

    def summary(self) -> pd.DataFrame:
        """Return a row per language and class, a column per statistic."""
        wide = self.table.pivot_table(index=["language", "harmful"], columns="statistic", values="value", sort=False)
        return wide.reset_index()


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs as tokens, made once and scored under several models.

    Attributes
    ----------
    labels : DataFrame
        meaning_id, language, tier, harmful: one row per pair.
    chosen, rejected : list of Example
    """

    labels: pd.DataFrame
    chosen: list[Example]
    rejected: list[Example]

    def few(self, meanings: int) -> Pairs:
        """Return the pairs of the first meanings per language and class, in the order of the rows."""
        labels = self.labels
        first = labels.drop_duplicates(list(_LABELS))
        kept = first[first.groupby(["language", "harmful"], sort=False).cumcount() < meanings]
        wanted = set(kept[list(_LABELS)].itertuples(index=False, name=None))
        rows = [i for i, row in enumerate(labels[list(_LABELS)].itertuples(index=False, name=None)) if row in wanted]
        return Pairs(labels.iloc[rows].reset_index(drop=True), [self.chosen[i] for i in rows], [self.rejected[i] for i in rows])

    def scored(self, chat: ChatModel, *, token_budget: int = 2048) -> pd.DataFrame:
        """Return what :func:`reward_gaps` averages: the summed log-probability of either completion, in nats, and its tokens.

        Parameters
        ----------
        chat : ChatModel
            With the tokenizer and template the pairs were made with.
        token_budget : int
            Tokens of one pass, padding included.
        """
        examples = [*self.chosen, *self.rejected]
        order = sorted(range(len(examples)), key=lambda i: -len(examples[i]))
        size = max(1, token_budget // max(len(examples[order[0]]), 1))
        found = np.full((len(examples), 2), np.nan)
        with torch.no_grad():
            for first in range(0, len(order), size):
                rows = order[first : first + size]
                sums, lengths = completion_logprobs(chat.model, collate(chat, [examples[i] for i in rows]))
                found[rows, 0], found[rows, 1] = sums.double().cpu().numpy(), lengths.cpu().numpy()
        n = len(self.chosen)
        numbers = np.concatenate([found[:n], found[n:]], axis=1)
        return self.labels.assign(**dict(zip(_NUMBERS, numbers.T, strict=True)))


def pairs_to_score(
    chat: ChatModel, frame: pd.DataFrame, *, tiers: Mapping[str, str | None] | None = None, insert: Sequence[Any] | None = None
) -> Pairs:
    """Turn preference pairs into tokens.

    Parameters
    ----------
    frame : DataFrame
        As of a ``PreferenceSet``: pair_id, meaning_id, language, harmful, prompt, chosen, rejected; of a split that nothing is trained on.
    tiers : mapping of language to tier, optional
        By default from the table of languages.
    insert : sequence, optional
        What stands between each prompt and its completions, as :func:`workbench.alignment.sequences.encode` takes it.

    Raises
    ------
    DataError
        A prompt that leaves no room for a completion.
    """
    known = frame["language"].map(tier_of) if tiers is None else frame["language"].map(dict(tiers))
    names = [str(name) for name in frame["pair_id"]]
    chosen, rejected = (
        encode(chat, [str(text) for text in frame["prompt"]], [str(text) for text in frame[column]], names, insert)
        for column in ("chosen", "rejected")
    )
    return Pairs(frame[list(_LABELS)].assign(tier=known).reset_index(drop=True), chosen, rejected)


def reward_gaps(frame: pd.DataFrame, *, reference: Sequence[str] = (), confidence: float = 0.95) -> RewardGaps:
    """Average reward gaps per language, with intervals over meanings.

    Parameters
    ----------
    frame : DataFrame
        One row per pair: ``meaning_id, language, harmful``, ``chosen_sum, rejected_sum`` (summed log-probabilities of completions, nats) and
        ``chosen_len, rejected_len`` (their tokens). ``tier`` if known, else from the table of languages.
    reference : sequence of str
        Languages to compare with; none leaves ``below_reference`` out.
    confidence : float
        Of the intervals.

    Returns
    -------
    RewardGaps

    Raises
    ------
    DataError
        Columns missing, no row, numbers that are not finite, a completion without a token, or a reference language that is not there.

    References
    ----------
    MPO, arXiv:2505.16869 (the gap falls with attack success over languages); intervals by the jackknife over meanings, shares after Wilson.
    """
    rows = _checked(frame, reference)
    counted = []
    for (language, harmful), part in rows.groupby(["language", "harmful"], sort=False):
        mates = rows[(rows["harmful"] == harmful) & rows["language"].isin(reference)]
        label = {"language": language, "tier": part["tier"].iloc[0], "harmful": bool(harmful)}
        for statistic, estimate, n, pairs in _statistics(part, mates, language in set(reference), confidence):
            counted.append(label | {"statistic": statistic} | estimate._asdict() | {"n": n, "pairs": pairs})
    return RewardGaps(pd.DataFrame(counted, columns=list(RewardGaps.required)), {"reference": list(reference), "confidence": confidence})


def _statistics(part: pd.DataFrame, mates: pd.DataFrame, is_reference: bool, confidence: float) -> Iterator[tuple[str, Estimate, int, int]]:
    """Yield (statistic, estimate, meanings, pairs) of one language and class."""
    gap, length = (part.groupby("meaning_id")[name].mean() for name in ("gap", "length_difference"))
    yield "reward_gap", _mean(gap, confidence), len(gap), len(part)
    yield "preferred", pooled_share(part["gap"].to_numpy() > 0, part["meaning_id"].to_numpy(), confidence), len(gap), len(part)
    yield "length_difference", _mean(length, confidence), len(gap), len(part)
    if len(mates) and not is_reference:
        # each reference language counts alike in a meaning, however many pairs it has there
        theirs = mates.groupby(["meaning_id", "language"])["gap"].mean().groupby("meaning_id").mean()
        below = (theirs - gap).dropna()
        yield "below_reference", _mean(below, confidence), len(below), int(part["meaning_id"].isin(below.index).sum())


def _mean(values: pd.Series, confidence: float) -> Estimate:
    """Return the mean over meanings with its jackknife interval."""
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"))
    mean, array = float(values.mean()), values.to_numpy(dtype=np.float64)
    low, high = jackknife_interval(mean, array - mean, confidence)
    return Estimate(mean, float(low), float(high))


def _checked(frame: pd.DataFrame, reference: Sequence[str]) -> pd.DataFrame:
    """Return the rows with ``gap``, ``length_difference`` and ``tier``, in numbers that can be averaged."""
    missing = [name for name in (*_LABELS, *_NUMBERS) if name not in frame.columns]
    if missing or frame.empty:
        raise DataError(
            f"The frame of {len(frame)} pairs lacks {missing or 'rows'}. Expected a row per pair with {', '.join((*_LABELS, *_NUMBERS))}: "
            "sum the log-probabilities of both completions under the model, with their token counts."
        )
    absent = sorted(set(reference) - set(frame["language"]))
    if absent:
        raise DataError(f"The reference languages {absent} have no pair. Expected some of {', '.join(dict.fromkeys(frame['language']))}.")
    numbers = frame[list(_NUMBERS)].astype(np.float64)
    broken = ~np.isfinite(numbers).all(axis=1)
    if broken.any():
        ids = list(dict.fromkeys(frame.loc[broken, "meaning_id"].astype(str)))[:5]
        raise DataError(
            f"{int(broken.sum())} of {len(frame)} pairs have sums or lengths that are not finite (meanings {ids}). Score them in float32."
        )
    parts = (torch.from_numpy(numbers[name].to_numpy(copy=True)) for name in _NUMBERS)
    tiers = frame["tier"] if "tier" in frame.columns else frame["language"].map(tier_of)
    lengths = numbers["chosen_len"] - numbers["rejected_len"]
    return frame[list(_LABELS)].assign(gap=reward_gap(*parts).numpy(), length_difference=lengths, tier=tiers)
