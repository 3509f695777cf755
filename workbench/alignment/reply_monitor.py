"""What replies look like while a model is trained: how their tokens are weighted, whether they get short, or refuse where they should not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch

from workbench.alignment.distillation import Query
from workbench.alignment.msd import MSD, MSDLoss, msd_step
from workbench.interventions.refusal_tokens import RefusalTokens
from workbench.models.chat import ChatModel

#: Parts of a loss that :func:`reply_parts` gives, in the order they are logged.
PARTS = ("divergence", "length", "finished", "opens_refusing_harmful", "opens_refusing_harmless")
COLUMNS = ("prompt_id", "language", "tier", "harmful", "token_index", "teacher", "student", "weight", "divergence")


def reply_parts(step: MSDLoss, queries: Sequence[Query], tokens: RefusalTokens | None = None) -> dict[str, float]:
    """Sum up a batch: the monitors of over-refusal and of collapse to short replies.

    Parameters
    ----------
    step : MSDLoss
        On these queries.
    tokens : RefusalTokens, optional
        First tokens of refusals; queries of a language without a list are not counted.

    Returns
    -------
    dict
        ``divergence`` (mean over replies of the mean over tokens, not weighted, in nats), ``length`` (mean, tokens), ``finished`` (share of replies
        that ended before the longest length), and ``opens_refusing_harmful`` and ``_harmless``: the share of replies whose first token opens a
        refusal, each only where there is such a query.

    References
    ----------
    Constitutional OPSD, arXiv:2606.03089, warns of short, over-cautious replies.
    """
    lengths = step.replies.lengths
    parts = {
        "divergence": float((step.divergence.sum(dim=1) / lengths).mean()),
        "length": float(lengths.float().mean()),
        "finished": float(step.replies.finished.float().mean()),
    }
    opens: dict[str, list[bool]] = {"harmful": [], "harmless": []}
    for query, first in zip(queries, step.replies.ids[:, 0].tolist(), strict=True):
        if tokens is not None and query.language in tokens.ids:
            opens["harmful" if query.harmful else "harmless"].append(first in tokens.ids[query.language])
    return parts | {f"opens_refusing_{name}": float(np.mean(found)) for name, found in opens.items() if found}


def token_weight_rows(step: MSDLoss, queries: Sequence[Query], tiers: Mapping[str, str | None] | None = None) -> pd.DataFrame:
    """List how each token of a batch's replies was weighted; no text and no token ids.

    Parameters
    ----------
    tiers : mapping of language to tier, optional
        None stands for a language without one.

    Returns
    -------
    DataFrame
        prompt_id, language, tier, harmful, token_index (from 0), teacher (confidence, 0 to 1), student (risk, 0 to 1), weight, divergence (nats).
    """
    mask, tiers = step.replies.mask.cpu(), tiers or {}
    row, token = (place.numpy() for place in mask.nonzero(as_tuple=True))
    values = {"teacher": step.weights.teacher, "student": step.weights.student, "weight": step.weights.weight, "divergence": step.divergence}
    told = [(query.prompt_id, query.language, tiers.get(query.language), query.harmful) for query in queries]
    table = pd.DataFrame(told, columns=list(COLUMNS[:4])).iloc[row].reset_index(drop=True).assign(token_index=token)
    return table.assign(**{name: value.float().cpu()[mask].numpy() for name, value in values.items()})[list(COLUMNS)]


def start_weights(
    chat: ChatModel, queries: Sequence[Query], options: MSD, *, tiers: Mapping[str, str | None] | None = None, batch_size: int = 8, seed: int = 0
) -> pd.DataFrame:
    """Weigh the tokens of replies to held-out queries as the first step of a training would: nothing is trained.

    Parameters
    ----------
    chat : ChatModel
        The start, which is student and teacher here, whichever teacher ``options`` names: all three begin as its weights.
    queries : sequence of Query
        Of a split that is neither trained nor scored on.
    options : MSD
        Divergence, weighting and whose replies are weighed, as trained with.
    tiers : mapping of language to tier, optional
    batch_size : int
        Queries of one pass.
    seed : int
        Of the replies; the same seed and batch size give the same table.

    Returns
    -------
    DataFrame
        As :func:`token_weight_rows`.
    """
    parts = []
    for number, first in enumerate(range(0, len(queries), batch_size)):
        batch = queries[first : first + batch_size]
        with torch.no_grad():
            step = msd_step(chat, chat.model, lambda: nullcontext(chat.model), batch, options, seed=(seed, number))
        parts.append(token_weight_rows(step, batch, tiers))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


def collapse_notes(history: pd.DataFrame, *, shorter: float = 0.5, refusing: float = 0.02, one: float = 0.1, window: int = 5) -> list[str]:
    """Say where a training went wrong by its own replies: the last rows of its history against the first.

    Parameters
    ----------
    history : DataFrame
        step, statistic, value; language where there is one ("" for none). ``length_harmless`` and ``harmless_refusal`` are what a monitor found per
        language; ``length`` and ``opens_refusing_harmless`` are of sampled replies (:func:`reply_parts`), and speak where no monitor did. Lengths of
        replies to harmful requests are not looked at: a refusal may well be shorter than what it replaces.
    shorter : float
        Share of their first length under which replies count as collapsed, on average or in one language.
    refusing : float
        Rise of refusals among harmless requests that is spoken of, as a share, on average over languages.
    one : float
        The same in one language, where fewer replies were judged.
    window : int
        Steps averaged at either end, at most a quarter of those there are.

    Returns
    -------
    list of str
        Sentences that name the languages; empty where neither shows. A few replies were looked at: it is a warning, not a measurement.

    References
    ----------
    Constitutional OPSD, arXiv:2606.03089, warns of short, over-cautious replies.
    """
    table = history if "language" in history else history.assign(language="")
    there = set(table["statistic"])
    length = "length_harmless" if "length_harmless" in there else "length"
    refusal = "harmless_refusal" if "harmless_refusal" in there else "opens_refusing_harmless"
    notes = []
    mean, each = _ends(table, length, window)
    short = [f"{tag} {first:.1f} to {last:.1f}" for tag, (first, last) in each.items() if last < shorter * first]
    if mean is not None and (short or mean[1] < shorter * mean[0]):
        whose = "Replies to harmless requests" if length == "length_harmless" else "Replies"
        told = f" ({'; '.join(short)})" if short else ""
        notes.append(f"{whose} shrank from {mean[0]:.1f} to {mean[1]:.1f} tokens while training{told}: a sign of collapse to short replies.")
    mean, each = _ends(table, refusal, window)
    over = [f"{tag} {first:.3f} to {last:.3f}" for tag, (first, last) in each.items() if last - first > one]
    if mean is not None and (over or mean[1] - mean[0] > refusing):
        what = "Refusals of harmless requests" if refusal == "harmless_refusal" else "Replies to harmless requests that open as refusals"
        told = f" ({'; '.join(over)})" if over else ""
        notes.append(f"{what} rose from {mean[0]:.3f} to {mean[1]:.3f} while training{told}: over-refusal.")
    return notes


def _ends(table: pd.DataFrame, statistic: str, window: int) -> tuple[tuple[float, float] | None, dict[str, tuple[float, float]]]:
    """Return first and last value of a statistic: the mean over languages (None with fewer than two steps), and of each language."""
    rows = table[table["statistic"] == statistic]
    wide = rows.pivot_table(index="step", columns="language", values="value", aggfunc="mean").sort_index()
    if len(wide) < 2:
        return None, {}
    n = max(1, min(window, len(wide) // 4))
    first, last = wide.iloc[:n].mean(), wide.iloc[-n:].mean()
    each = {str(tag): (float(first[tag]), float(last[tag])) for tag in wide.columns if tag}
    return (float(first.mean()), float(last.mean())), each
