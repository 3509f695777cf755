"""Sets of one file per language: the files by language, and those in which line i is the same sentence in every file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from workbench.errors import PromptError
from workbench.prompts.cells import is_blank
from workbench.prompts.files import read_lines
from workbench.prompts.languages import chosen, normalise


class LanguageFile(NamedTuple):
    """A language as the set spells it, and its file."""

    spelling: str
    path: Path


def files_by_language(files: Iterable[LanguageFile], languages: Iterable[str] | str | None, name: str, *, expected: str) -> dict[str, LanguageFile]:
    """Return the files of the languages asked for by their tags, without opening any.

    Parameters
    ----------
    files : iterable of LanguageFile
        All files of the set.
    languages : iterable of str, or str with commas, optional
        Keep only these; all if None.
    name, expected : str
        The set and its file names, for messages.

    Raises
    ------
    PromptError
        If a file is named by no language, two are named by the same, or a language asked for has none.
    """
    found: dict[str, LanguageFile] = {}
    for file in files:
        try:
            tag = normalise(file.spelling)
        except PromptError as error:
            raise PromptError(f"{name}: the name of {file.path.name} begins with no language. Expected {expected}. {error}") from error
        if tag in found:
            raise PromptError(
                f"{name}: {found[tag].path.name} and {file.path.name} are both of the language {tag}. Expected one file per language; take one away."
            )
        found[tag] = file
    return found if languages is None else {tag: found[tag] for tag in chosen(languages, list(found), name)}


def aligned_rows(
    files: Mapping[str, LanguageFile], name: str, *, categories: tuple[Path, Sequence[str]] | None = None
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Read files of aligned lines into the grid's columns; the line is the meaning, and no sentence is harmful.

    Parameters
    ----------
    files : mapping of tag to LanguageFile
        Only these are opened.
    name : str
        The set: source, and start of the meaning ids.
    categories : (path, sequence of str), optional
        One category per line, and the file they come from.

    Returns
    -------
    frame : DataFrame
        ``attrs["notes"]`` lists (language, what to know of it): blank lines are missing cells, and the other lines keep
        their numbers.
    row_name : callable
        Names the file and line of row ``i``.

    Raises
    ------
    PromptError
        If the files differ in their number of lines, naming them, or are empty.
    """
    texts = {tag: read_lines(file.path) for tag, file in files.items()}
    lengths = {files[tag].path.name: len(lines) for tag, lines in texts.items()}
    if categories is not None:
        lengths[categories[0].name] = len(categories[1])
    _require_equal(lengths, name)
    rows, places, notes = [], [], []
    for tag, lines in texts.items():
        file = files[tag].path.name
        kept = [number for number, text in enumerate(lines, start=1) if not is_blank(text)]
        if len(kept) < len(lines):
            first = min(set(range(1, len(lines) + 1)) - set(kept))
            lost = f"{len(lines) - len(kept)} blank line{'s' * (len(lines) - len(kept) > 1)} left out (the first is line {first})"
            notes.append((tag, f"{name} {file}: {lost}; the others keep their numbers"))
        for number in kept:
            rows.append((f"{name}:{number}", files[tag].spelling, lines[number - 1], False, categories and categories[1][number - 1], name))
            places.append(f"{file}, line {number}")
    frame = pd.DataFrame(rows, columns=["meaning_id", "language", "text", "harmful", "category", "source"])
    frame.attrs["notes"] = notes
    return frame, places.__getitem__


def _require_equal(lengths: Mapping[str, int], name: str) -> None:
    """Refuse files of different lengths, or of none, by name."""
    by_length: dict[int, list[str]] = defaultdict(list)
    for file, length in lengths.items():
        by_length[length].append(file)
    told = "; ".join(
        f"{', '.join(group[:4])}{f' and {len(group) - 4} more' if len(group) > 4 else ''} have {length}"
        for length, group in sorted(by_length.items(), key=lambda item: len(item[1]))
    )
    if len(by_length) > 1:
        raise PromptError(
            f"{name}: the files differ in their number of lines: {told}. Expected line i to be the same sentence in each; restore the "
            "release's files."
        )
    if set(by_length) == {0}:
        raise PromptError(f"{name}: {', '.join(by_length[0][:4])} have no lines. Expected one sentence per line; restore the release's files.")
