"""ParaDetox: 11,927 toxic English sentences with one to three neutral rewrites each.

The first rewrite is the twin; the others are not read. Where the rewrite says the same as the toxic sentence (97 pairs) or a
sentence stands in an earlier pair (16 by their rewrite), the pair is left out. The hub's copy lists each rewrite in a row of its own,
so the rows after a toxic sentence's first are left out there, and its ids begin with ``paradetox-hub``. Toxic is counted as
harmful: an insult, which is not a harmful request.

References
----------
Logacheva et al. 2022, "ParaDetox: Detoxification with Parallel Data", ACL; github.com/s-nlp/paradetox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import PromptError
from workbench.prompts.languages import chosen
from workbench.prompts.twins import Twins, read_twins, require_subset, table_of, twin_rows, twins_of

NAME = "paradetox"
HUB_ID = "s-nlp/paradetox"
TOXIC, NEUTRAL = "toxic", "neutral1"
_HUB_FIELDS = {"toxic": "en_toxic_comment", "neutral": "en_neutral_comment"}


def read_paradetox(
    path: Path, *, subset: str | None = None, languages: Iterable[str] | str | None = None, seed: int = 0
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Read ``paradetox.tsv``, given itself or a folder that holds it (also the repository's root).

    Parameters
    ----------
    path : Path
        The file or its folder.
    subset : {"pairs", "unpaired"}, optional
        Both sentences of each pair (the default), or one of each.
    languages : iterable of str, or str with commas, optional
        English is all there is.
    seed : int
        Of ``unpaired``.

    Returns
    -------
    frame : DataFrame
        The grid's columns; pair ``paradetox:17`` is the 17th of the file, counted from 1 without the header.
    row_name : callable
        Names the file and line of row ``i``.
    """
    candidates = [path] if path.is_file() else [path / "paradetox.tsv", path / "paradetox" / "paradetox.tsv"]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise PromptError(f"There is no paradetox.tsv in {path}. Expected paradetox:PATH to name that file or its folder.")
    return _rows(read_twins(file, toxic=TOXIC, neutral=NEUTRAL, delimiter="\t"), NAME, subset, languages, seed)


def paradetox_hub_rows(
    records: Sequence[Mapping[str, Any]], *, subset: str | None = None, languages: Iterable[str] | str | None = None, seed: int = 0
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Turn the hub copy's records into the grid's columns; ids begin with ``paradetox-hub``."""
    named = [(f"{HUB_ID}, row {i}", record) for i, record in enumerate(records, start=1)]
    return _rows(twins_of(named, fields=list(records[0]) if records else [], name=HUB_ID, **_HUB_FIELDS), f"{NAME}-hub", subset, languages, seed)


def _rows(
    twins: list[Twins], source: str, subset: str | None, languages: Iterable[str] | str | None, seed: int
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    subset = require_subset(subset, NAME)
    if languages is not None:
        chosen(languages, ["en"], NAME)
    return table_of({"en": twin_rows(twins, stem=source, language="en", source=source, subset=subset, seed=seed)})
