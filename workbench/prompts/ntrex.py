"""NTREX-128: 1,997 sentences of English news and their translations into 128 languages and variants, aligned by line.

No sentence is labelled for harm; all count as harmless, and the set serves what needs no label. The category is the document a
sentence comes from (``DOCUMENT_IDS.tsv``, 123 documents) where that file is there. All files of the release but one end their lines
with CRLF, which would tell languages apart and is stripped.

References
----------
Federmann et al. 2022, "NTREX-128: News Test References for MT Evaluation of 128 Languages"; github.com/MicrosoftTranslator/NTREX.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from workbench.errors import PromptError
from workbench.prompts.files import read_lines
from workbench.prompts.parallel import LanguageFile, aligned_rows, files_by_language

NAME = "ntrex128"
DOCUMENTS = "DOCUMENT_IDS.tsv"
_FILE = re.compile(r"newstest2019-(?:src|ref)\.([A-Za-z0-9-]+)\.txt")


def read_ntrex(path: Path, *, languages: Iterable[str] | str | None = None) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Read a local copy.

    Parameters
    ----------
    path : Path
        The folder of the ``newstest2019-*.txt`` files, or the folder that holds it as ``NTREX-128/`` (the repository's root).
    languages : iterable of str, or str with commas, optional
        Open only these files.

    Returns
    -------
    frame : DataFrame
        The grid's columns; meaning ``ntrex128:17`` is line 17 of every file, counted from 1.
    row_name : callable
        Names the file and line of row ``i``.
    """
    folder = path / "NTREX-128" if (path / "NTREX-128").is_dir() else path
    named = [(_FILE.fullmatch(file.name), file) for file in sorted(folder.glob("newstest2019-*.txt"))]
    files = [LanguageFile(match[1], file) for match, file in named if match]
    if not files:
        raise PromptError(
            f"There are no NTREX-128 files in {path}. Expected files such as NTREX-128/newstest2019-ref.deu.txt; "
            "clone github.com/MicrosoftTranslator/NTREX and give its folder as ntrex128:PATH."
        )
    kept = files_by_language(files, languages, NAME, expected="names such as newstest2019-ref.deu.txt")
    documents = next((file for file in (folder / DOCUMENTS, folder.absolute().parent / DOCUMENTS) if file.is_file()), None)
    return aligned_rows(kept, NAME, categories=None if documents is None else (documents, read_lines(documents)))
