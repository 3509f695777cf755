"""PolyRefuse: harmful and harmless instructions in 14 languages, in train, val and test files.

Traps of the release, all handled here: in test files the translation is ``instruction_translated`` and ``instruction`` is
English, in train and val files ``instruction`` is the translation already; English train and val live in ``splits/``;
there is no Chinese harmless test file; and the Chinese harmless train and val files hold *other* instructions than the
other languages' (text lengths correlate with English at -.01 to .00, against .78 to .96 elsewhere), so their meanings are
their own.

References
----------
Wang et al. 2025, arXiv:2505.17306; github.com/mainlp/Multilingual-Refusal.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from workbench.errors import PromptError, did_you_mean
from workbench.prompts.cells import is_blank
from workbench.prompts.files import read_json_rows

SUBSETS = ("train", "val", "test")
_FILE = re.compile(r"(harmful|harmless)_(train|val|test)_translated_([A-Za-z]{2,3})\.json")
_ENGLISH = {
    ("harmful", "train"): "harmful_train.json",
    ("harmful", "val"): "harmful_val.json",
    ("harmless", "train"): "harmless_train_200_sampled.json",
    ("harmless", "val"): "harmless_val_200_sampled.json",
}
_NOT_PARALLEL = {("harmless", "train", "zh"), ("harmless", "val", "zh")}


def read_polyrefuse(path: Path, subset: str | None = None) -> pd.DataFrame:
    """Read one subset of a local copy.

    Parameters
    ----------
    path : Path
        The folder of the ``*_translated_*.json`` files with ``splits/`` beside them, or the repository's root.
    subset : {"train", "val", "test"}, optional
        ``val`` unless said otherwise.

    Returns
    -------
    DataFrame
        The grid's columns; ``attrs["notes"]`` lists (language, what to know of it).
    """
    subset = subset or "val"
    if subset not in SUBSETS:
        raise PromptError(f"PolyRefuse has no subset {subset!r}; expected {', '.join(SUBSETS)}.{did_you_mean(subset, SUBSETS)}")
    folder = path / "PolyRefuse" if (path / "PolyRefuse").is_dir() else path
    files = {}
    for file in sorted(folder.glob("harm*_translated_*.json")):
        match = _FILE.fullmatch(file.name)
        if match and match[2] == subset:
            files[match[1], match[3].lower()] = file
    if subset != "test":
        for splits in (folder / "splits", path / "dataset" / "splits"):
            for label in ("harmful", "harmless"):
                if (splits / _ENGLISH[label, subset]).is_file():
                    files.setdefault((label, "en"), splits / _ENGLISH[label, subset])
    if not files:
        raise PromptError(
            f"There are no PolyRefuse {subset} files in {path}. Expected files such as harmful_{subset}_translated_de.json; "
            "clone github.com/mainlp/Multilingual-Refusal and give its folder as polyrefuse:PATH."
        )
    frame = pd.DataFrame([row for (label, tag), file in sorted(files.items()) for row in _rows(file, label, subset, tag)])
    frame.attrs["notes"] = [
        (tag, f"{file.name} holds other instructions than the other languages' files; its meanings are not shared with them")
        for (label, tag), file in sorted(files.items())
        if (label, subset, tag) in _NOT_PARALLEL
    ]
    return frame


def _rows(file: Path, label: str, subset: str, tag: str) -> list[dict[str, object]]:
    parallel = (label, subset, tag) not in _NOT_PARALLEL
    rows: list[dict[str, object]] = []
    for index, (line, record) in enumerate(read_json_rows(file)):
        text = record.get("instruction_translated", record.get("instruction")) if isinstance(record, dict) else None
        if is_blank(text):
            raise PromptError(f"{file.name}, record {line}: no instruction. Expected an object with a text in instruction or instruction_translated.")
        rows.append(
            {
                "meaning_id": f"polyrefuse:{label}:{subset}:{index}" if parallel else f"polyrefuse:{label}:{subset}:{tag}:{index}",
                "language": tag,
                "text": text,
                "harmful": label == "harmful",
                "category": record.get("category"),
                "source": "polyrefuse",
            }
        )
    return rows
