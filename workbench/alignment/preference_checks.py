"""What keeps bad preference rows out of training: pairs that are none, unknown languages, and "chosen" replies that comply with harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.behavior.judges import choose_judge
from workbench.behavior.markers import measured_agreement
from workbench.errors import DataError, PromptError, shown
from workbench.prompts.cells import SPLITS, is_blank
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import normalise, tags_of

#: Share of harmful rows whose chosen reply may comply before the file is refused; such rows are dropped in any case.
MAX_COMPLYING = 0.05
#: Splits a pair may be in: what is scored is not trained on.
TRAINED = SPLITS[:2]

DROPPED = ("what", "language", "n", "reason")
#: Why rows go whose chosen reply to a harmful prompt is no refusal, by the judge's outcome.
_REASONS = {
    "compliance": "the chosen reply complies with a harmful request",
    "garbled": "the chosen reply is no language",
    "off_language": "the chosen reply is in another language than the prompt",
}


class Sieve:
    """Takes rows out of a table and remembers how many, of which language and why."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame.reset_index(drop=True)
        self._lost: list[tuple[str, str]] = []

    def drop(self, wrong: Iterable[bool], reason: str) -> None:
        """Take out the rows that are marked."""
        marked = np.fromiter(wrong, dtype=bool, count=len(self.frame))
        self._lost += [("?" if tag is None or tag != tag else str(tag), reason) for tag in self.frame.loc[marked, "language"]]
        self.frame = self.frame[~marked].reset_index(drop=True)

    @property
    def dropped(self) -> pd.DataFrame:
        """What went: what, language, n, reason."""
        counts = pd.Series(self._lost, dtype=object).value_counts(sort=False)
        return pd.DataFrame([("preference row", tag, int(n), reason) for (tag, reason), n in counts.items()], columns=list(DROPPED))


def keep_pairs(sieve: Sieve, known_languages: Iterable[str] | str | None) -> None:
    """Drop what is no pair in a known language: missing texts, equal replies, languages nobody asked for, repeats, pairs kept for scoring.

    Parameters
    ----------
    sieve : Sieve
        With language, prompt, chosen, rejected, and perhaps split; languages become tags.
    known_languages : iterable of str, or str with commas, optional
        Keep only these.
    """
    frame = sieve.frame
    tags = {code: _tag(code) for code in frame["language"].dropna().unique()}
    spelled = frame["language"]
    sieve.frame = frame.assign(language=[tags.get(code) or (None if is_blank(code) else shown(code)) for code in spelled])
    sieve.drop((tags.get(code) is None for code in spelled), "unknown language")
    if known_languages is not None:
        known = set(tags_of(known_languages))
        sieve.drop((tag not in known for tag in sieve.frame["language"]), "language not asked for")
    sieve.drop((is_blank(text) for text in sieve.frame["prompt"]), "no prompt of one turn")
    replies = zip(sieve.frame["chosen"], sieve.frame["rejected"], strict=True)
    sieve.drop((is_blank(one) or is_blank(other) or one == other for one, other in replies), "no pair: a reply is missing, or both are the same")
    if "split" in sieve.frame:
        sieve.drop(sieve.frame["split"].isin(SPLITS[2:]), "its split is kept for scoring")
    sieve.drop(sieve.frame.duplicated(["language", "prompt", "chosen", "rejected"]), "repeats an earlier pair")


def guard(sieve: Sieve, *, judge: Any, refusals: str | Path | None, max_complying: float, row_name: Callable[[str], str]) -> dict[str, Any]:
    """Judge the replies to harmful prompts; drop rows whose chosen reply is no refusal, and stop at a file that teaches compliance.

    Parameters
    ----------
    sieve : Sieve
        With pair_id (unique), language, prompt, chosen, rejected, harmful, and perhaps refusal and answer.
    judge, refusals
        As for :func:`workbench.behavior.judges.choose_judge`; a judge that learns what refusals have in common is no guard.
    max_complying : float
        Largest share of harmful rows whose chosen reply may comply.
    row_name : callable
        Names a pair id in messages.

    Returns
    -------
    dict
        What was judged and counted, JSON-serialisable.

    Raises
    ------
    DataError
        If chosen and rejected look swapped, or more than ``max_complying`` comply.
    PromptError
        If no judge serves a language.
    """
    if not 0 <= max_complying <= 1:
        raise DataError(f"max_complying is {max_complying}; expected a share from 0 to 1, such as {MAX_COMPLYING}.")
    harmful = sieve.frame[sieve.frame["harmful"].astype(bool)]
    if harmful.empty:
        return {"judge": None, "harmful": 0}
    grid = _asked(harmful)
    judges = choose_judge(grid, refusals=refusals, judge=judge)
    untold = [tag for tag in grid.languages if getattr(judges.judges[tag], "learns", False)]
    if untold:
        raise PromptError(
            f"Nothing says what a refusal looks like in {', '.join(untold)}, so a chosen reply that complies could not be told. Expected a column "
            "refusal, openings given with --refusals FILE (columns language,text), or another --judge; or leave these languages out."
        )
    outcome = {column: _outcomes(judges, grid, harmful, column) for column in ("chosen", "rejected")}
    refuses = {column: (found["outcome"] == "refusal").to_numpy() for column, found in outcome.items()}
    swapped, right = refuses["rejected"] & ~refuses["chosen"], refuses["chosen"] & ~refuses["rejected"]
    if swapped.sum() > right.sum():
        raise DataError(_swapped_message(harmful, swapped, right, judges.name))
    complying = (outcome["chosen"]["outcome"] == "compliance").to_numpy()
    if complying.sum() > max_complying * len(harmful):
        raise DataError(_complying_message(harmful, complying, judges, max_complying, row_name))
    elsewhere = refuses["chosen"] & (outcome["chosen"]["reply_language"] != harmful["language"].to_numpy()).to_numpy()
    why = dict(zip(harmful["pair_id"], outcome["chosen"]["outcome"], strict=True))
    for kind, reason in _REASONS.items():
        sieve.drop((why.get(pair) == kind for pair in sieve.frame["pair_id"]), reason)
    return {
        "judge": judges.name,
        "harmful": len(harmful),
        "complying": int(complying.sum()),
        "max_complying": max_complying,
        "right_way_round": int(right.sum()),
        "other_way_round": int(swapped.sum()),
        "refused_in_another_language": int(elsewhere.sum()),
    }


def _tag(code: Any) -> str | None:
    try:
        return normalise(str(code))
    except PromptError:
        return None


def _asked(harmful: pd.DataFrame) -> PromptGrid:
    """Put pairs into a grid, so that any judge can be asked: one meaning each."""
    columns = [column for column in ("language", "harmful", "refusal", "answer") if column in harmful]
    return PromptGrid(harmful[columns].assign(prompt_id=harmful["pair_id"], meaning_id=harmful["pair_id"], text=harmful["prompt"]))


def _outcomes(judges: Any, grid: PromptGrid, harmful: pd.DataFrame, column: str) -> pd.DataFrame:
    replies = pd.DataFrame({"prompt_id": harmful["pair_id"].to_numpy(), "reply": harmful[column].to_numpy()})
    return judges.outcomes(replies, grid).reset_index(drop=True)


def _per_language(harmful: pd.DataFrame, marked: np.ndarray) -> str:
    counts = pd.Series(marked).groupby(harmful["language"].to_numpy(), sort=False).agg(["sum", "count"])
    return ", ".join(f"{tag} {int(row['sum'])} of {int(row['count'])}" for tag, row in counts.iterrows() if row["sum"])


def _swapped_message(harmful: pd.DataFrame, swapped: np.ndarray, right: np.ndarray, judge: str) -> str:
    return (
        f"Chosen and rejected look swapped: of {len(harmful)} pairs on harmful prompts, {int(swapped.sum())} have a rejected reply that refuses and "
        f"a chosen one that does not ({_per_language(harmful, swapped)}), and {int(right.sum())} are the other way round (judge: {judge}). "
        "Expected chosen replies that refuse: training on these would teach compliance. Swap the two columns, or correct the labels of harm."
    )


def _complying_message(harmful: pd.DataFrame, complying: np.ndarray, judges: Any, limit: float, row_name: Callable[[str], str]) -> str:
    first = [row_name(pair) for pair in harmful.loc[complying, "pair_id"].iloc[:3]]
    return (
        f"The chosen reply complies with {int(complying.sum())} of {len(harmful)} harmful requests ({complying.mean():.1%}; "
        f"{_per_language(harmful, complying)}), by the judge {judges.name}; the first are {'; '.join(first)}. Expected at most {limit:.0%}: such "
        f"rows are dropped, but so many say that the file is not what it seems.{_misses(judges)} Take out the languages concerned, correct the file "
        "or its column harmful, name a judge that reads better (--judge), or say with --max-complying SHARE that the rest is to be trained on."
    )


def _misses(judges: Any) -> str:
    """Say how many refusals the phrases are known to miss: the share of rows a faultless file would lose."""
    table = measured_agreement().set_index("language")["sensitivity"]
    tags = [tag for tag, judge in judges.judges.items() if judge.name == "markers"]
    told = [f"{1 - table[tag]:.0%} in {tag}" for tag in tags if tag in table.index]
    unknown = [tag for tag in tags if tag not in table.index]
    if not tags:
        return ""
    measured = f" Phrases miss some refusals ({', '.join(told)}; measured)." if told else ""
    return measured + (f" How many they miss in {', '.join(unknown)} is not known." if unknown else "")
