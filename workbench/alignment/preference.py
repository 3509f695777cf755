"""Preference pairs: a prompt with the reply to prefer and the reply to avoid, checked once so that no repair learns compliance from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.alignment.parallel import parallel_queries, reference_pairs
from workbench.alignment.preference_checks import MAX_COMPLYING, TRAINED, Sieve, guard, keep_pairs
from workbench.alignment.preference_files import REQUIRED, read_preferences, text_of
from workbench.alignment.preference_rows import require_trained, with_ids, with_splits
from workbench.errors import DataError, PromptError, did_you_mean, shown
from workbench.prompts.cells import is_blank, labels
from workbench.prompts.files import SUFFIXES
from workbench.prompts.grid import PromptGrid
from workbench.prompts.languages import chosen as chosen_languages

__all__ = ["COLUMNS", "PreferenceSet", "load_preferences", "parallel_queries", "preferences_from_grid", "reference_pairs"]

COLUMNS = ("pair_id", "meaning_id", "language", "prompt", "chosen", "rejected", "harmful", "source", "split")
UNPAIRED = ("row_id", "pair_id", "meaning_id", "prompt", "completion", "desirable", "harmful", "language", "source", "split")
#: Pairs that TRL unpairs at a time, chosen replies first; the order decides which rows meet in a batch, and LASA's draws.
BLOCK = 1000


class PreferenceSet:
    """Preference pairs, one row each, checked once and trusted afterwards.

    Parameters
    ----------
    frame : DataFrame
        ``language``, ``prompt``, ``chosen``, ``rejected``, ``harmful``; optional ``pair_id``, ``meaning_id`` (translations share it), ``source``
        ("safety" or "utility" if not given), ``split`` (fit or select), and ``refusal`` and ``answer``, by which replies are then judged.
    judge : str, JudgeChoice or Judge
        Says what refuses: "auto" takes the column refusal where there is one, else phrases; others as in
        :func:`workbench.behavior.judges.choose_judge`.
    refusals : path, optional
        CSV with the columns ``language,text``: openings that count as a refusal.
    known_languages : iterable of str, or str with commas, optional
        Keep only these.
    max_complying : float
        Largest share of harmful rows whose chosen reply may comply. Such rows are dropped whatever it is.
    seed : int
        Draws the split where there is none.
    select_share : float
        Share of the meanings that go to the select split, per class.
    provenance : mapping, optional
        Where the pairs came from.
    row_name : callable, optional
        Names row ``i`` in messages.

    Raises
    ------
    DataError
        If chosen and rejected look swapped, if more chosen replies comply with harmful requests than ``max_complying``, if no pair is left, or
        if a meaning has two labels.
    PromptError
        If no judge serves a language.

    Notes
    -----
    Never edited in place. A chosen reply to a harmless prompt is not judged.

    Examples
    --------
    >>> row = {"language": "en", "meaning_id": "m1", "prompt": "How do I bake bread?", "harmful": False}
    >>> pairs = PreferenceSet(pd.DataFrame([{**row, "chosen": "With flour.", "rejected": "I'm sorry, I can't."}]))
    >>> pairs
    PreferenceSet(1 pairs, 1 languages, 0 harmful; 0 dropped)
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        judge: Any = "auto",
        refusals: str | Path | None = None,
        known_languages: Iterable[str] | str | None = None,
        max_complying: float = MAX_COMPLYING,
        seed: int = 0,
        select_share: float = 0.1,
        provenance: Mapping[str, Any] | None = None,
        row_name: Callable[[int], str] | None = None,
    ) -> None:
        missing = [column for column in ("language", *REQUIRED, "harmful") if column not in frame]
        if missing or frame.empty:
            raise DataError(
                f"The preference table has {len(frame)} rows and lacks {', '.join(missing) or 'pairs'}. Expected a row per pair with language, "
                "prompt, chosen, rejected and harmful; add them, or read the file with load_preferences."
            )
        place = row_name or (lambda i: f"row {i}")
        texts = {column: [text_of(cell, asked=column == "prompt") for cell in frame[column]] for column in REQUIRED}
        table = frame.reset_index(drop=True).assign(**texts, _row=range(len(frame)))
        sieve = Sieve(table.assign(harmful=labels(table["harmful"], place)))
        keep_pairs(sieve, known_languages)
        sieve.frame = with_ids(sieve.frame)
        names = {pair: f"{shown(pair, 64)} ({place(row)})" for pair, row in zip(sieve.frame["pair_id"], sieve.frame["_row"], strict=True)}
        _require_pairs(sieve, "No pair is left")
        record = guard(sieve, judge=judge, refusals=refusals, max_complying=max_complying, row_name=names.__getitem__)
        _require_pairs(sieve, f"No pair is left after the judge {record['judge']}")
        self._frame = with_splits(sieve.frame, seed=seed, select_share=select_share)[list(COLUMNS)]
        self._dropped = sieve.dropped
        self.provenance: dict[str, Any] = {**(provenance or {}), "guard": record}

    @classmethod
    def _trusted(cls, frame: pd.DataFrame, like: PreferenceSet) -> PreferenceSet:
        """Wrap rows of a checked table without checking them again."""
        pairs = cls.__new__(cls)
        pairs._frame, pairs._dropped, pairs.provenance = frame.reset_index(drop=True), like._dropped, dict(like.provenance)
        return pairs

    @property
    def frame(self) -> pd.DataFrame:
        """A copy of the table, one row per pair, columns :data:`COLUMNS`."""
        return self._frame.copy()

    @property
    def dropped(self) -> pd.DataFrame:
        """What was left out: what, language, n, reason."""
        return self._dropped.copy()

    @property
    def languages(self) -> list[str]:
        """Languages in order of first appearance."""
        return list(dict.fromkeys(self._frame["language"]))

    def __len__(self) -> int:
        return len(self._frame)

    def __repr__(self) -> str:
        harmful, dropped = int(self._frame["harmful"].sum()), int(self._dropped["n"].sum())
        return f"PreferenceSet({len(self)} pairs, {len(self.languages)} languages, {harmful} harmful; {dropped} dropped)"

    @property
    def hash(self) -> str:
        """SHA-256 over every cell, in the order of the rows: it decides what a training sees."""
        digest = hashlib.sha256()
        for row in self._frame.itertuples(index=False):
            for cell in row:
                encoded = str(cell).encode("utf-8")
                digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return digest.hexdigest()

    def summary(self) -> pd.DataFrame:
        """Count pairs per language (language, harmful, harmless, select, dropped), without their texts."""
        dropped = self._dropped.groupby("language")["n"].sum()
        rows = [
            (tag, int(part["harmful"].sum()), int((~part["harmful"]).sum()), int((part["split"] == "select").sum()), int(dropped.get(tag, 0)))
            for tag, part in self._frame.groupby("language", sort=False)
        ]
        return pd.DataFrame(rows, columns=["language", "harmful", "harmless", "select", "dropped"])

    def _repr_html_(self) -> str:
        return self.summary().to_html(index=False, border=0)

    def select(
        self,
        *,
        languages: Iterable[str] | str | None = None,
        split: str | None = None,
        harmful: bool | None = None,
        source: str | None = None,
        meanings: Iterable[str] | None = None,
    ) -> PreferenceSet:
        """Return the pairs that satisfy every condition given.

        Raises
        ------
        PromptError
            If a language is not among the pairs.
        DataError
            If another split than fit or select is asked for, or nothing is left.
        """
        frame = self._frame
        keep = pd.Series(True, index=frame.index)
        if languages is not None:
            keep &= frame["language"].isin(chosen_languages(languages, self.languages, "these preference pairs"))
        if split is not None:
            require_trained([split])
            keep &= frame["split"] == split
        if harmful is not None:
            keep &= frame["harmful"] == harmful
        if source is not None:
            keep &= frame["source"] == source
        if meanings is not None:
            keep &= frame["meaning_id"].isin(list(meanings))
        if not keep.any():
            told = f"languages={languages}, split={split}, harmful={harmful}, source={source}{', meanings=...' if meanings is not None else ''}"
            raise DataError(f"None of the {len(self)} pairs satisfies {told}. Loosen one of the conditions.")
        return self._trusted(frame[keep], self)

    def unpaired(self) -> pd.DataFrame:
        """Return single completions, two per pair: what KTO learns from.

        Returns
        -------
        DataFrame
            row_id, pair_id, meaning_id, prompt, completion, desirable (bool), harmful, language, source, split. In TRL's order: per block of 1,000
            pairs all chosen replies, then all rejected ones.
        """
        parts = []
        for start in range(0, len(self), BLOCK):
            block = self._frame.iloc[start : start + BLOCK]
            for column, desirable in (("chosen", True), ("rejected", False)):
                parts.append(block.assign(completion=block[column], desirable=desirable, row_id=block["pair_id"] + f":{column}"))
        return pd.concat(parts, ignore_index=True)[list(UNPAIRED)]


def load_preferences(
    spec: str | Path,
    *,
    judge: Any = "auto",
    refusals: str | Path | None = None,
    known_languages: Iterable[str] | str | None = None,
    max_complying: float = MAX_COMPLYING,
    seed: int = 0,
    select_share: float = 0.1,
) -> PreferenceSet:
    """Load preference pairs.

    Parameters
    ----------
    spec : str or path
        ``organism``, or a file as :func:`~workbench.alignment.preference_files.read_preferences` takes it: CSV, JSON Lines, JSON or Parquet with
        prompt, chosen and rejected (LASA's JSON among them), or MPO's JSON.
    judge, refusals, known_languages, max_complying, seed, select_share
        As for :class:`PreferenceSet`.

    Returns
    -------
    PreferenceSet
        ``provenance["notes"]`` says what was estimated (languages) or taken for granted (harm).

    Raises
    ------
    PromptError
        If the file is missing or malformed, or no judge serves a language.
    DataError
        As for :class:`PreferenceSet`.
    """
    if str(spec) == "organism":
        from workbench.prompts.sources import load_prompts

        return preferences_from_grid(load_prompts("organism"), split=TRAINED, languages=known_languages)
    path = Path(spec)
    if not path.is_file():
        near = did_you_mean(str(spec), ["organism"])
        raise PromptError(f"There are no preference pairs at {spec}. Expected organism, or a file that ends in {', '.join(SUFFIXES)}.{near}")
    read = read_preferences(path)
    return PreferenceSet(
        read.frame,
        judge=judge,
        refusals=refusals,
        known_languages=known_languages,
        max_complying=max_complying,
        seed=seed,
        select_share=select_share,
        provenance={"preferences": path.name, "notes": read.notes, "seed": seed},
        row_name=read.row_name,
    )


def preferences_from_grid(grid: PromptGrid, split: str | Sequence[str] = "fit", languages: Iterable[str] | str | None = None) -> PreferenceSet:
    """Make pairs of a grid whose prompts have the keys ``refusal`` and ``answer``.

    Harmful prompts: the refusal is chosen, the answer rejected; harmless ones the other way round.

    Parameters
    ----------
    grid : PromptGrid
        With splits.
    split : str or sequence of str
        fit, select or both; what is scored is not trained on.
    languages : iterable of str, or str with commas, optional
        Keep only these.

    Raises
    ------
    PromptError
        If a key's column is missing, the grid has no splits, or a language is not in it.
    DataError
        If the score split is asked for, or no prompt has both keys.
    """
    wanted = [split] if isinstance(split, str) else list(split)
    require_trained(wanted)
    frame = grid.frame
    missing = [column for column in ("refusal", "answer") if column not in frame]
    if missing:
        raise PromptError(
            f"The prompts lack the column{'s' * (len(missing) > 1)} {' and '.join(missing)}, the keys that make a pair. Expected both, as the "
            "organism's prompts have them; add them, or give a preference file (--preferences FILE)."
        )
    if frame["split"].isna().all():
        raise PromptError("These prompts have no splits, so it is not known which may be trained on. Call grid.with_splits() first.")
    if languages is not None:
        frame = frame[frame["language"].isin(chosen_languages(languages, grid.languages))]
    frame = frame[frame["split"].isin(wanted)].reset_index(drop=True)
    if frame.empty:
        raise DataError(f"No prompt is in the split {' or '.join(wanted)}. Expected some: call grid.with_splits(), or name another split.")
    keys = {column: [None if is_blank(text) else str(text) for text in frame[column]] for column in ("refusal", "answer")}
    pairs = [(no, yes) if harm else (yes, no) for no, yes, harm in zip(keys["refusal"], keys["answer"], frame["harmful"], strict=True)]
    table = frame[["meaning_id", "language", "harmful", "split", "refusal", "answer"]].assign(
        pair_id=frame["prompt_id"], prompt=frame["text"], chosen=[pair[0] for pair in pairs], rejected=[pair[1] for pair in pairs]
    )
    provenance = {**grid.provenance, "preferences": "refusal and answer keys of the prompts", "grid": grid.hash, "preference_splits": wanted}
    return PreferenceSet(table, provenance=provenance)


def _require_pairs(sieve: Sieve, what: str) -> None:
    if sieve.frame.empty:
        told = "; ".join(f"{row.n} in {row.language}: {row.reason}" for row in sieve.dropped.itertuples())
        raise DataError(
            f"{what} ({told}). Expected prompts with two different replies in known languages; correct the file, or choose other languages."
        )
