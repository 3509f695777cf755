"""XSafety: 13 unsafe categories and one of everyday common sense (the harmless part), 200 prompts each, ten languages.

A prompt is row *i* of a category's file, the same in every language. Traps of the release, all handled here: byte-order
marks and CRLF in some languages only; file names that differ per language; Spanish in ``sp/``; Hindi common sense twice;
one blank row in ``ru/Insult.csv``, which shifts every later row for whoever drops blank rows before counting.

References
----------
Wang et al. 2024, arXiv:2310.00905; github.com/Jarviswang94/Multilingual_safety_benchmark.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import PromptError
from workbench.prompts.cells import is_blank
from workbench.prompts.files import read_csv_rows

logger = logging.getLogger(__name__)

HUB_ID = "ToxicityPrompts/XSafety"
HARMLESS = "commonsense"
CATEGORIES = (
    "Crimes_And_Illegal_Activities",
    "Ethics_And_Morality",
    "Goal_Hijacking",
    "Inquiry_With_Unsafe_Opinion",
    "Insult",
    "Mental_Health",
    "Physical_Harm",
    "Privacy_And_Property",
    "Prompt_Leaking",
    "Reverse_Exposure",
    "Role_Play_Instruction",
    "Unfairness_And_Discrimination",
    "Unsafe_Instruction_Topic",
    HARMLESS,
)
_FOLDERS = {"sp": "es"}
#: The categories by their letters only; Hindi's second translation of common sense comes last and loses to the first.
_SPELLINGS = {category.lower().replace("_", ""): category for category in CATEGORIES} | {
    "crimesandillegalactivitie": "Crimes_And_Illegal_Activities",
    "commensense": HARMLESS,
}


def read_xsafety(path: Path) -> pd.DataFrame:
    """Read a local copy: one folder per language, one one-column CSV file per category."""
    files: dict[tuple[str, str], Path] = {}
    unread: list[tuple[str, str]] = []
    for folder in sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []:
        tag = _FOLDERS.get(folder.name, folder.name)
        # the usual spelling first
        for file in sorted(folder.glob("*.csv"), key=lambda f: (category_of(f.stem) != f.stem, f.name)):
            category = category_of(file.stem)
            if category is None:
                continue
            if (tag, category) in files:
                logger.info("XSafety %s/%s repeats %s; %s is used", folder.name, file.name, category, files[tag, category].name)
                continue
            files[tag, category] = file
        if list(folder.glob("*.xlsx")) and not any(language == tag for language, _ in files):
            unread.append((tag, f"XSafety {folder.name} holds spreadsheets only and is left out; save them as CSV to use it"))
    if not files:
        raise PromptError(
            f"There are no XSafety files in {path}. Expected folders such as en/ and zh/ with a CSV file per category; "
            "clone github.com/Jarviswang94/Multilingual_safety_benchmark and give its folder as xsafety:PATH."
        )
    # one column is documented, two files have empty ones after it
    frame = xsafety_rows({key: [cells[0] if cells else "" for _, cells in read_csv_rows(file)] for key, file in files.items()})
    frame.attrs["notes"] += unread
    return frame


def xsafety_hub_rows(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Group the hub copy's records (text, category, language) into one list per language and category, in their order."""
    texts: dict[tuple[str, str], list[Any]] = {}
    spelled: dict[tuple[str, str], str] = {}
    for record in records:
        tag, category = _FOLDERS.get(record["language"], record["language"]), category_of(str(record["category"]))
        if category is None:
            continue
        if spelled.setdefault((tag, category), record["category"]) == record["category"]:
            texts.setdefault((tag, category), []).append(record["text"])
    return xsafety_rows(texts)


def xsafety_rows(texts: dict[tuple[str, str], list[Any]]) -> pd.DataFrame:
    """Turn one list of texts per (language, category) into the grid's columns; the place in the list is the meaning.

    A list of another length than most languages' is not aligned with them and is left out. ``attrs["notes"]`` of the result lists
    (language, what to know of it).
    """
    notes: list[tuple[str, str]] = []
    usual = {}
    for category in {category for _, category in texts}:
        lengths = Counter(_length(cells) for (_, c), cells in texts.items() if c == category)
        usual[category] = max(lengths, key=lambda n: (lengths[n], n))
    rows = []
    for tag, category in sorted(texts, key=lambda key: (key[0], CATEGORIES.index(key[1]))):
        cells = texts[tag, category]
        if _length(cells) != usual[category]:
            notes.append((tag, f"XSafety {tag}/{category} has {_length(cells)} rows, not {usual[category]}: not aligned, so it is left out"))
            continue
        for index, text in enumerate(cells[: usual[category]]):
            if is_blank(text):
                notes.append((tag, f"XSafety {tag}/{category}: row {index} is blank; the cell is missing and later rows keep their places"))
                continue
            rows.append(
                {
                    "meaning_id": f"xsafety:{category}:{index}",
                    "language": tag,
                    "text": text,
                    "harmful": category != HARMLESS,
                    "category": category,
                    "source": "xsafety",
                }
            )
    frame = pd.DataFrame(rows)
    frame.attrs["notes"] = notes
    return frame


def category_of(name: str) -> str | None:
    """Return the category a file name or a hub label means (``Insult_n``, ``Crimes_And_Illegal_Activities_en``), or None."""
    for ending in ("", "_n", "_en"):
        found = _SPELLINGS.get(name.removesuffix(ending).lower().replace("_", ""))
        if found is not None:
            return found
    return None


def _length(cells: list[Any]) -> int:
    """Count rows up to the last one that holds text."""
    return max((i + 1 for i, cell in enumerate(cells) if not is_blank(cell)), default=0)
