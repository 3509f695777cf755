"""The prompt grid: languages x meanings, each cell one prompt, each meaning harmful or harmless."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import PromptError, did_you_mean
from workbench.prompts.cells import COLUMNS, LABELLED, SPLITS, check_rows, clean_table
from workbench.prompts.completeness import largest_complete
from workbench.prompts.drawing import assigned_splits, limited
from workbench.prompts.languages import TIERS, chosen, name_of, normalise, tier_of

logger = logging.getLogger(__name__)

_FINAL_PUNCTUATION = re.compile(r"[\s.!?…。！？｡।॥؟۔։፧។៕]+$")


class PromptGrid:
    """Prompts in several languages, one row per prompt, checked once and trusted afterwards.

    Parameters
    ----------
    frame : DataFrame
        Columns ``language``, ``meaning_id``, ``text``, ``harmful``; optional ``prompt_id``, ``category``, ``split``
        (fit, select, score), ``source``, ``tier``; ``pair_id``, which a harmful and a harmless meaning share that were written
        as twins; any others (``answer``, ``refusal``) are carried along.
    tiers : mapping of language to tier, optional
        Wins over the ``tier`` column, which wins over the built-in table.
    provenance : mapping, optional
        Where the prompts came from; steps such as splitting add to it.
    row_name : callable, optional
        Names row ``i`` in messages; readers of files pass the line.

    Raises
    ------
    PromptError
        If a required column or cell is missing, a label or language is unknown, a meaning occurs twice in a language or
        has two labels, an id is used twice, or a pair is not one harmful and one harmless meaning in one split.

    Notes
    -----
    Never edited in place: every method that changes something returns a new grid.

    Examples
    --------
    >>> rows = [dict(language=tag, meaning_id=m, text=f"{tag} {m}", harmful=m == "b") for tag in ("en", "swh") for m in "ab"]
    >>> grid = PromptGrid(pd.DataFrame(rows))
    >>> grid.languages, len(grid), grid.tiers
    (['en', 'sw'], 4, {'en': 'high', 'sw': 'low'})
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        tiers: Mapping[str, str] | None = None,
        provenance: Mapping[str, Any] | None = None,
        row_name: Callable[[int], str] | None = None,
    ) -> None:
        row_name = row_name or (lambda i: f"row {i}")
        table = clean_table(frame, where="The prompt table", row_name=row_name)
        check_rows(table, row_name)
        self._frame = _with_tiers(table, {normalise(tag): tier for tag, tier in (tiers or {}).items()})
        self.provenance: dict[str, Any] = dict(provenance or {})

    @classmethod
    def _trusted(cls, table: pd.DataFrame, provenance: Mapping[str, Any]) -> PromptGrid:
        """Wrap rows of a checked table without checking them again."""
        grid = cls.__new__(cls)
        grid._frame = table.reset_index(drop=True)
        grid.provenance = dict(provenance)
        return grid

    # ------------------------------------------------------------------ what is there

    @property
    def frame(self) -> pd.DataFrame:
        """A copy of the table, one row per prompt."""
        return self._frame.copy()

    @property
    def languages(self) -> list[str]:
        """Languages in order of first appearance."""
        return list(dict.fromkeys(self._frame["language"]))

    @property
    def meanings(self) -> list[str]:
        """Meaning ids in order of first appearance."""
        return list(dict.fromkeys(self._frame["meaning_id"]))

    @property
    def tiers(self) -> dict[str, str | None]:
        """Resource tier per language; None where it is not known."""
        return dict(zip(self._frame["language"], self._frame["tier"], strict=True))

    @property
    def names(self) -> dict[str, str]:
        """Name per language: a ``language_name`` column if there is one, else the English name."""
        given = dict(zip(self._frame["language"], self._frame["language_name"], strict=True)) if "language_name" in self._frame else {}
        return {tag: given.get(tag) or name_of(tag) for tag in self.languages}

    def __len__(self) -> int:
        return len(self._frame)

    def __repr__(self) -> str:
        harmful = self._frame.loc[self._frame["harmful"], "meaning_id"].nunique()
        harmless = len(self.meanings) - harmful
        return f"PromptGrid({len(self)} prompts, {len(self.languages)} languages, {harmful} harmful and {harmless} harmless meanings)"

    @property
    def has_pairs(self) -> bool:
        """Whether some prompts name the twin they were written with (``pair_id``)."""
        return "pair_id" in self._frame and bool(self._frame["pair_id"].notna().any())

    @property
    def has_harm_labels(self) -> bool:
        """False for FLORES-200 or a parallel corpus of your own without a harmful prompt: such a grid serves what needs no label."""
        return bool(self._frame["harmful"].any()) or bool(self._frame["source"].isin(LABELLED).any())

    @property
    def hash(self) -> str:
        """SHA-256 over ids, languages, labels, texts, splits, tiers and pairs, whatever the order of the rows.

        Splits and tiers count, because a store keeps them: one made for other splits must not be scored with these.
        """
        columns = ["prompt_id", "meaning_id", "language", "harmful", "text", "split", "tier"]
        digest = hashlib.sha256()
        if self.has_pairs:  # a grid without pairs keeps the hash it had before there were any
            columns.append("pair_id")
            digest.update(b"pair_id")
        for row in self._frame.sort_values("prompt_id")[columns].itertuples(index=False):
            for cell in row:
                encoded = str(cell).encode("utf-8")
                digest.update(len(encoded).to_bytes(8, "big") + encoded)  # lengths first: no two tables spell the same bytes
        return digest.hexdigest()

    def summary(self) -> pd.DataFrame:
        """Count prompts per language (language, name, tier, harmful, harmless, missing), without their texts."""
        missing = self.missing_cells()["language"].value_counts()
        names, tiers, rows = self.names, self.tiers, []
        for tag, part in self._frame.groupby("language", sort=False):
            n_harmful = int(part["harmful"].sum())
            rows.append((tag, names[tag], tiers[tag], n_harmful, len(part) - n_harmful, int(missing.get(tag, 0))))
        return pd.DataFrame(rows, columns=["language", "name", "tier", "harmful", "harmless", "missing"])

    def _repr_html_(self) -> str:
        return self.summary().to_html(index=False, border=0, na_rep="")

    # ------------------------------------------------------------------ taking parts

    def select(
        self,
        *,
        languages: Iterable[str] | None = None,
        split: str | None = None,
        harmful: bool | None = None,
        meanings: Iterable[str] | None = None,
    ) -> PromptGrid:
        """Return the rows that satisfy every condition given.

        Raises
        ------
        PromptError
            If a language or split is not in the grid (the nearest are named), or nothing is left.
        """
        keep = pd.Series(True, index=self._frame.index)
        if languages is not None:
            wanted = chosen(languages, self.languages)
            keep &= self._frame["language"].isin(wanted)
        if split is not None:
            if split not in SPLITS:
                raise PromptError(f"Unknown split {split!r}; expected {', '.join(SPLITS)}.{did_you_mean(split, SPLITS)}")
            if self._frame["split"].isna().all():
                raise PromptError(f"These prompts have no splits, so split={split!r} selects nothing. Call grid.with_splits() first.")
            keep &= self._frame["split"] == split
        if harmful is not None:
            keep &= self._frame["harmful"] == harmful
        if meanings is not None:
            keep &= self._frame["meaning_id"].isin(list(meanings))
        if not keep.any():
            conditions = f"languages={languages}, split={split}, harmful={harmful}{', meanings=...' if meanings is not None else ''}"
            raise PromptError(f"None of the {len(self)} prompts satisfies {conditions}. Loosen one of the conditions.")
        return self._trusted(self._frame[keep], self.provenance)

    def limit(self, n: int, *, seed: int = 0) -> PromptGrid:
        """Return ``n`` meanings per class and language, the same ones in every language that has them.

        Meanings are drawn in a seeded order that puts those present in more languages first, so a larger ``n`` only adds. A
        language that lacks one of them (or whose prompts are not parallel to the others') gets its next ones. Pairs are taken
        whole. Splits that are there keep their proportions.
        """
        if n < 1:
            raise PromptError(f"limit is {n}; expected at least 1 meaning per class.")
        return self._trusted(self._frame[limited(self._frame, n, seed=seed)], {**self.provenance, "limit": n, "limit_seed": seed})

    def with_splits(self, *, seed: int = 0, fractions: Sequence[float] = (0.5, 0.25, 0.25)) -> PromptGrid:
        """Assign fit, select and score by meaning, stratified by class, both of a pair to one split; those that have a split keep it.

        Parameters
        ----------
        seed : int
            Orders the meanings; with the ids it determines the splits, whatever the order of the rows.
        fractions : three floats
            Shares of fit, select and score; they sum to 1.
        """
        if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
            raise PromptError(f"fractions are {tuple(fractions)}; expected three shares of fit, select and score that sum to 1.")
        if self._frame["split"].notna().all():
            return self
        assigned = assigned_splits(self._frame, seed=seed, fractions=fractions)
        table = self._frame.copy()
        table["split"] = table["meaning_id"].map(assigned).astype(object)
        return self._trusted(table, {**self.provenance, "split_seed": seed, "split_fractions": list(fractions)})

    # ------------------------------------------------------------------ completeness

    def missing_cells(self) -> pd.DataFrame:
        """List the cells (meaning_id, language) that a complete grid of these languages and meanings would have."""
        have = set(zip(self._frame["meaning_id"], self._frame["language"], strict=True))
        languages = self.languages
        gaps = [(meaning, tag) for meaning in self.meanings for tag in languages if (meaning, tag) not in have]
        return pd.DataFrame(gaps, columns=["meaning_id", "language"])

    def complete(self) -> PromptGrid:
        """Return a complete sub-grid: the meanings present in every language.

        Where that would lose most of the prompts (a language that is not parallel to the others), languages are dropped
        one by one as long as the sub-grid grows and no class is lost; ``provenance["complete"]`` and a warning name them.
        """
        present = pd.crosstab(self._frame["meaning_id"], self._frame["language"]) > 0
        harm = self._frame.drop_duplicates("meaning_id").set_index("meaning_id")["harmful"].reindex(present.index)

        kept, whole = largest_complete(present[self.languages], harm)
        if not whole:
            raise PromptError(f"No meaning occurs in every one of {', '.join(self.languages)}. Select languages that are translations of each other.")
        left_out = [tag for tag in self.languages if tag not in kept]
        if left_out:
            logger.warning("complete(): left out %s, whose meanings are not those of the other languages", ", ".join(left_out))
        grid = self.select(languages=kept, meanings=whole)
        grid.provenance["complete"] = {"languages_dropped": left_out, "meanings_dropped": len(self.meanings) - len(whole)}
        return grid

    def languages_without_both_classes(self) -> dict[str, str]:
        """Name the languages that lack harmful or harmless prompts, each with the reason."""
        counts = self._frame.groupby("language", sort=False)["harmful"].agg(["sum", "count"])
        lacking = {}
        for tag, row in counts.iterrows():
            if row["sum"] in (0, row["count"]):
                has, lacks = ("harmful", "harmless") if row["sum"] else ("harmless", "harmful")
                lacking[str(tag)] = f"{row['count']} {has} prompts and no {lacks} ones"
        return lacking

    def require_both_classes(self) -> None:
        """Refuse a grid with a language that lacks a class.

        Raises
        ------
        PromptError
            Naming those languages and the remedy.
        """
        if not self.has_harm_labels:
            sources = " and ".join(sorted(set(self._frame["source"])))
            raise PromptError(
                f"A harm label is needed, and {sources} carries none: all {len(self)} prompts count as harmless. Expected harmful and harmless "
                "prompts: polyrefuse, xsafety, textdetox, paradetox and organism carry both, multijail the harmful ones. Name one of these with "
                f"--prompts. {sources} serves what needs no label: capture it, and compare meanings across languages."
            )
        lacking = self.languages_without_both_classes()
        if lacking:
            listed = "; ".join(f"{tag} ({name_of(tag)}): {reason}" for tag, reason in lacking.items())
            usable = [tag for tag in self.languages if tag not in lacking]
            remedy = f"Restrict to --languages {','.join(usable)}" if usable else "Add the other class with --harmless SET or --harmful SET"
            raise PromptError(f"Expected harmful and harmless prompts in every language, found {listed}. {remedy}, or call grid.drop_unusable().")

    def drop_unusable(self) -> tuple[PromptGrid, pd.DataFrame]:
        """Return the grid without languages that lack a class, and what was dropped (what, language, n, reason)."""
        lacking = self.languages_without_both_classes()
        kept = [tag for tag in self.languages if tag not in lacking]
        if not kept:
            self.require_both_classes()
        counts = self._frame["language"].value_counts()
        rows = [("language", tag, int(counts[tag]), reason) for tag, reason in lacking.items()]
        return self.select(languages=kept), pd.DataFrame(rows, columns=["what", "language", "n", "reason"])

    # ------------------------------------------------------------------ the rest

    def reference(self, explicit: Iterable[str] | None = None) -> list[str]:
        """Return the reference languages: those named, else those of tier high.

        Raises
        ------
        PromptError
            If a named one is not in the grid, or none is named and no language has tier high.
        """
        if explicit is not None:
            return self.select(languages=explicit).languages
        high = [tag for tag, tier in self.tiers.items() if tier == "high"]
        if not high:
            raise PromptError(
                f"No language of {', '.join(self.languages)} has the tier high, so there is no reference. "
                "Name one with --reference, or give tiers with --tiers FILE."
            )
        return high

    def strip_final_punctuation(self) -> PromptGrid:
        """Return the grid with sentence-final punctuation removed: it tells harmless from harmful in some sets."""
        table = self._frame.copy()
        stripped = table["text"].map(lambda text: _FINAL_PUNCTUATION.sub("", text))
        table["text"] = stripped.where(stripped != "", table["text"])
        return self._trusted(table, {**self.provenance, "final_punctuation": "stripped"})

    def save(self, path: str | Path) -> Path:
        """Write the table as ``.parquet``, ``.csv`` or ``.jsonl``; :func:`load_prompts` reads each of them back."""
        path = Path(path)
        writers: dict[str, Callable[[Path], Any]] = {
            ".parquet": lambda draft: self._frame.to_parquet(draft, index=False),
            ".csv": lambda draft: self._frame.to_csv(draft, index=False, encoding="utf-8"),
            ".jsonl": lambda draft: self._frame.to_json(draft, orient="records", lines=True, force_ascii=False),
        }
        if path.suffix not in writers:
            raise PromptError(f"Cannot write prompts as {path.name!r}; expected a name that ends in {', '.join(writers)}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(path.suffix + ".draft")
        writers[path.suffix](draft)
        return draft.replace(path)


def _with_tiers(table: pd.DataFrame, tiers: Mapping[str, str]) -> pd.DataFrame:
    """Fill the tier of every row from the file's tiers, the language's own column, or the built-in table."""
    wrong = {tag: tier for tag, tier in tiers.items() if tier not in TIERS}
    if wrong:
        raise PromptError(f"Unknown tiers {wrong}; expected {', '.join(TIERS)}.")
    declared = table.groupby("language", sort=False)["tier"].agg(lambda cells: sorted(set(cells.dropna())))
    chosen: dict[str, str | None] = {}
    for tag, found in declared.items():
        if len(found) > 1:
            raise PromptError(f"Language {tag!r} has the tiers {' and '.join(found)} in different rows. Expected one; correct the column.")
        chosen[str(tag)] = tiers.get(str(tag)) or (found[0] if found else tier_of(str(tag)))
    table["tier"] = pd.Series([chosen[tag] for tag in table["language"]], index=table.index, dtype=object)
    return table[[*COLUMNS, *(c for c in table.columns if c not in COLUMNS)]]
