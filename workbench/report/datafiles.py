"""The data behind the page: every table with a relative link, its size, and the parameters it was made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from workbench.report.record import RunRecord
from workbench.report.wording import compact

#: What the manifest says once for all tables.
_SAID_BEFORE = {"model", "fingerprint", "architecture", "dtype", "device", "template", "system", "versions", "attention", "name", "grid", "hash"}


@dataclass(frozen=True)
class DataFile:
    """One file of ``results/``: where it is from the page, how many rows it has, and what it was made with."""

    name: str
    href: str
    rows: int
    parameters: str


def data_files(run: RunRecord) -> list[DataFile]:
    """Return the run's tables, and those of the repairs that it holds."""
    held = [one for one in (run.repair, run.training) if one is not None]
    return [*_of(run, "results"), *(file for one in held for file in _of(one, f"{one.folder.name}/results"))]


def _of(run: RunRecord, folder: str) -> list[DataFile]:
    return [
        DataFile(f"{folder}/{name}.parquet", f"{quote(folder)}/{quote(name)}.parquet", len(result.table), _parameters(result.provenance))
        for name, result in run.results.items()
    ]


def _parameters(provenance: dict[str, Any]) -> str:
    kept = {key: value for key, value in provenance.items() if key not in _SAID_BEFORE}
    return "; ".join(f"{key} {compact(value)}" for key, value in kept.items())
