"""TextDetox 2024: toxic sentences and neutral rewrites of them in nine languages, 1,000 pairs each (400 dev, 600 test).

The pairs of one language are no translations of another's: no meaning is shared, and languages can be compared by direction and
threshold, not meaning by meaning. Local copies hold the test part, the hub the dev part, so their ids differ (``textdetox:en:17``,
``textdetox-dev:en:17``). Toxic is counted as harmful: an insult, which is not a harmful request.

References
----------
Dementieva et al. 2024, "Overview of the Multilingual Text Detoxification Task at PAN 2024", CLEF; huggingface.co/textdetox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import PromptError
from workbench.prompts.languages import chosen
from workbench.prompts.parallel import LanguageFile, files_by_language
from workbench.prompts.twins import read_twins, require_subset, table_of, twin_rows, twins_of

NAME = "textdetox"
HUB_ID = "textdetox/multilingual_paradetox"
TOXIC, NEUTRAL = "toxic_sentence", "neutral_sentence"
LANGUAGES = ("en", "ru", "uk", "de", "es", "am", "zh", "ar", "hi")


def read_textdetox(
    path: Path, *, subset: str | None = None, languages: Iterable[str] | str | None = None, seed: int = 0
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Read a local copy: one CSV file per language with the columns ``toxic_sentence`` and ``neutral_sentence``.

    Parameters
    ----------
    path : Path
        The folder of files such as ``english_test.csv`` or ``en.csv``, or one such file.
    subset : {"pairs", "unpaired"}, optional
        Both sentences of each pair (the default), or one of each.
    languages : iterable of str, or str with commas, optional
        Open only these files.
    seed : int
        Of ``unpaired``.

    Returns
    -------
    frame : DataFrame
        The grid's columns; pair ``textdetox:en:17`` is the 17th of its file, counted from 1 without the header.
    row_name : callable
        Names the file and line of row ``i``.
    """
    subset = require_subset(subset, NAME)
    listed = [path] if path.is_file() else sorted(path.glob("*.csv"))
    files = [LanguageFile(file.stem.removesuffix("_test"), file) for file in listed]
    if not files:
        raise PromptError(
            f"There are no TextDetox files in {path}. Expected a CSV file per language, such as english_test.csv, with the columns "
            f"{TOXIC},{NEUTRAL}; give their folder as textdetox:PATH."
        )
    kept = files_by_language(files, languages, NAME, expected="names such as english_test.csv or en.csv")
    parts = {}
    for tag, (spelling, file) in kept.items():
        twins = read_twins(file, toxic=TOXIC, neutral=NEUTRAL)
        parts[tag] = twin_rows(twins, stem=f"{NAME}:{tag}", language=spelling, source=NAME, subset=subset, seed=seed)
    return table_of(parts)


def textdetox_hub_rows(
    splits: Mapping[str, Sequence[Mapping[str, Any]]], *, subset: str | None = None, languages: Iterable[str] | str | None = None, seed: int = 0
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Turn the hub copy's splits, one per language, into the grid's columns; ids begin with ``textdetox-dev``."""
    subset = require_subset(subset, NAME)
    found = [split for split in splits if split in LANGUAGES]  # further ones came later, hin (Hinglish) among them
    if not found:
        raise PromptError(f"{HUB_ID} has the splits {', '.join(splits)}; expected languages such as {', '.join(LANGUAGES)}. Give textdetox:PATH.")
    source = f"{NAME}-dev"
    parts = {}
    for tag in found if languages is None else chosen(languages, found, HUB_ID):
        records = [(f"{HUB_ID} {tag}, row {i}", record) for i, record in enumerate(splits[tag], start=1)]
        twins = twins_of(records, fields=list(records[0][1]) if records else [], toxic=TOXIC, neutral=NEUTRAL, name=f"{HUB_ID} {tag}")
        parts[tag] = twin_rows(twins, stem=f"{source}:{tag}", language=tag, source=source, subset=subset, seed=seed)
    return table_of(parts)
