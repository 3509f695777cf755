"""FLORES-200 devtest: 1,012 sentences of Wikinews, Wikijunior and Wikivoyage in 204 languages and scripts, aligned by line.

No sentence is labelled for harm; all count as harmless, and the set serves what needs no label. The category is the domain of
``metadata_devtest.tsv`` where that file is there (the topics are free text in several hundred spellings). About 1,500 lines of
some languages end in a blank, which the grid strips as it does everywhere.

References
----------
NLLB Team 2022, arXiv:2207.04672; github.com/facebookresearch/flores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from workbench.errors import PromptError, shown_list
from workbench.prompts.files import read_lines
from workbench.prompts.parallel import LanguageFile, aligned_rows, files_by_language

NAME = "flores200"
METADATA = "metadata_devtest.tsv"
CATEGORY = "domain"


def read_flores(path: Path, *, languages: Iterable[str] | str | None = None) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Read a local copy.

    Parameters
    ----------
    path : Path
        The folder of the ``*.devtest`` files, or the folder that holds it as ``devtest/``.
    languages : iterable of str, or str with commas, optional
        Open only these files.

    Returns
    -------
    frame : DataFrame
        The grid's columns; meaning ``flores200:17`` is line 17 of every file, counted from 1.
    row_name : callable
        Names the file and line of row ``i``.
    """
    folder = path / "devtest" if (path / "devtest").is_dir() else path
    files = [LanguageFile(file.stem, file) for file in sorted(folder.glob("*.devtest"))]
    if not files:
        raise PromptError(
            f"There are no FLORES-200 files in {path}. Expected files such as devtest/eng_Latn.devtest; "
            "unpack the release of github.com/facebookresearch/flores and give its folder as flores200:PATH."
        )
    kept = files_by_language(files, languages, NAME, expected="names such as eng_Latn.devtest")
    metadata = next((file for file in (folder / METADATA, folder.absolute().parent / METADATA) if file.is_file()), None)
    return aligned_rows(kept, NAME, categories=None if metadata is None else (metadata, _domains(metadata)))


def _domains(file: Path) -> list[str]:
    """Return the domain of each line."""
    lines = [line.split("\t") for line in read_lines(file)]
    header = lines[0] if lines else []
    if CATEGORY not in header:
        raise PromptError(
            f"{file.name} has the columns {shown_list(header) or '(none)'}; expected {CATEGORY} among them, with tabs between. Restore the file, or "
            "take it away: it is optional."
        )
    place = header.index(CATEGORY)
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(header):
            raise PromptError(f"{file.name}, line {number}: {len(cells)} cells under a header of {len(header)}. Restore the file, or take it away.")
    return [cells[place] for cells in lines[1:]]
