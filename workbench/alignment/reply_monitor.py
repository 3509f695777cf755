"""What the replies of a self-distillation look like while it runs: do they get short, and do they open as refusals where they should not?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from workbench.alignment.distillation import Query
from workbench.alignment.msd import MSDLoss
from workbench.interventions.refusal_tokens import RefusalTokens

#: Parts of a loss that :func:`reply_parts` gives, in the order they are logged.
PARTS = ("divergence", "length", "finished", "opens_refusing_harmful", "opens_refusing_harmless")
COLUMNS = ("prompt_id", "language", "harmful", "token_index", "teacher", "student", "weight", "divergence")


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


def token_weight_rows(step: MSDLoss, queries: Sequence[Query]) -> pd.DataFrame:
    """List how each token of a batch's replies was weighted; no text and no token ids.

    Returns
    -------
    DataFrame
        prompt_id, language, harmful, token_index (from 0), teacher (confidence, 0 to 1), student (risk, 0 to 1), weight, divergence (nats).
    """
    mask = step.replies.mask.cpu()
    row, token = (place.numpy() for place in mask.nonzero(as_tuple=True))
    values = {"teacher": step.weights.teacher, "student": step.weights.student, "weight": step.weights.weight, "divergence": step.divergence}
    labels = pd.DataFrame([(query.prompt_id, query.language, query.harmful) for query in queries], columns=list(COLUMNS[:3]))
    table = labels.iloc[row].reset_index(drop=True).assign(token_index=token)
    return table.assign(**{name: value.float().cpu()[mask].numpy() for name, value in values.items()})[list(COLUMNS)]


def collapse_notes(history: pd.DataFrame, *, shorter: float = 0.5, refusing: float = 0.02, window: int = 5) -> list[str]:
    """Say where a training went wrong by its own replies: the last rows of its history against the first.

    Parameters
    ----------
    history : DataFrame
        step, statistic, value; of several languages the mean. ``length`` and ``opens_refusing_harmless`` are of sampled replies
        (:func:`reply_parts`), ``harmless_refusal`` is what a monitor judged.
    shorter : float
        Share of their first length under which replies count as collapsed.
    refusing : float
        Rise of refusals among harmless requests that is spoken of, as a share.
    window : int
        Steps averaged at either end, at most half of those there are.

    Returns
    -------
    list of str
        Empty where neither shows.
    """
    notes = []
    for name in ("length", "opens_refusing_harmless", "harmless_refusal"):
        values = history[history["statistic"] == name].groupby("step")["value"].mean().to_numpy(dtype=float)
        if len(values) < 2:
            continue
        n = min(window, len(values) // 2)
        first, last = float(values[:n].mean()), float(values[-n:].mean())
        if name == "length" and last < shorter * first:
            notes.append(f"Replies shrank from {first:.1f} to {last:.1f} tokens while training: a sign of collapse to short, over-cautious replies.")
        if name != "length" and last - first > refusing:
            what = "Refusals of harmless requests" if name == "harmless_refusal" else "Replies to harmless requests that open as refusals"
            notes.append(f"{what} rose from {first:.3f} to {last:.3f} while training: over-refusal.")
    return notes
