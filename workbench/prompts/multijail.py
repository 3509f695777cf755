"""MultiJail: 315 unsafe prompts in ten languages, one column per language.

References
----------
Deng et al. 2024, arXiv:2310.06474; github.com/DAMO-NLP-SG/multilingual-safety-for-LLMs, data/MultiJail.csv.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import PromptError, shown, shown_list
from workbench.prompts.cells import is_blank
from workbench.prompts.files import read_csv_rows

HUB_ID = "DAMO-NLP-SG/MultiJail"
LANGUAGES = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")


def read_multijail(path: Path) -> pd.DataFrame:
    """Read ``MultiJail.csv``, given itself or a folder that holds it (also the repository's root)."""
    candidates = [path] if path.is_file() else [path / "MultiJail.csv", path / "data" / "MultiJail.csv"]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise PromptError(f"There is no MultiJail.csv in {path}. Expected multijail:PATH to name that file or its folder.")
    rows = read_csv_rows(file)
    if not rows:
        raise PromptError(f"{file.name} is empty. Expected the header id,source,tags,en,... and 315 rows.")
    header = [name.strip() for name in rows[0][1]]
    records = []
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise PromptError(f"{file.name}, line {line}: {len(cells)} cells under a header of {len(header)}. Restore the line, or quote its commas.")
        records.append((f"{file.name}, line {line}", dict(zip(header, cells, strict=True))))
    return multijail_rows(records)


def multijail_rows(records: list[tuple[str, dict[str, Any]]]) -> pd.DataFrame:
    """Turn (where, record) pairs with one field per language into the grid's columns; every prompt is harmful."""
    fields = set(records[0][1]) if records else set()
    tags = [tag for tag in LANGUAGES if tag in fields]
    if "id" not in fields or not tags:
        raise PromptError(
            f"MultiJail has the fields {shown_list(sorted(map(str, fields)))}; "
            f"expected id, source, tags and languages such as {', '.join(LANGUAGES)}. "
            "Give the release's own file; load a file with the grid's columns by its path alone."
        )
    rows = []
    for where, record in records:
        for tag in tags:
            if is_blank(record[tag]):
                raise PromptError(
                    f"{where}: language column {tag!r} of id {shown(record['id'])} is empty. Expected a translation; fill it in or drop the row."
                )
            rows.append(
                {
                    "meaning_id": f"multijail:{str(record['id']).strip()}",
                    "language": tag,
                    "text": record[tag],
                    "harmful": True,
                    "category": _first_tag(record.get("tags")),
                    "source": "multijail",
                }
            )
    return pd.DataFrame(rows)


def _first_tag(tags: Any) -> str | None:
    """``tags`` is a Python list spelled as a string; its first entry is the category."""
    try:
        found = ast.literal_eval(tags) if isinstance(tags, str) else tags
    except (ValueError, SyntaxError):
        found = [tags]
    return str(found[0]) if isinstance(found, list | tuple) and found else None
