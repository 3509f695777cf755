"""The run folder: what a diagnosis leaves on disk, and how a later call continues it.

``manifest.json`` says what was asked and by which versions; ``results/*.parquet`` hold every number; ``summary.json``
holds the headline figures for other programs. A folder that was made for something else is refused, never overwritten.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import DataError, StoreMismatchError, did_you_mean
from workbench.results import Result

MANIFEST = "manifest.json"
PACKAGES = ("torch", "transformers", "numpy", "scikit-learn", "xarray", "zarr", "plotly", "transformer-lens")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    draft = path.with_suffix(path.suffix + ".draft")
    draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str, allow_nan=False), encoding="utf-8")
    draft.replace(path)


@dataclass(frozen=True)
class Run:
    """One diagnosis on disk.

    Parameters
    ----------
    folder : Path
        Holds ``manifest.json``, ``results/``, ``summary.json``, ``activations/`` and, after reporting, ``figures/`` and
        ``report.html``.
    """

    folder: Path

    @classmethod
    def start(cls, folder: str | Path, spec: dict[str, Any]) -> Run:
        """Open a folder for a diagnosis; an earlier run of the same spec is continued.

        Raises
        ------
        StoreMismatchError
            If the folder holds a run of something else, or files that are no run.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        spec = json.loads(json.dumps(spec, default=str))
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8")).get("spec", {})
            differing = sorted(k for k in {*found, *spec} if found.get(k) != spec.get(k))
            if differing:
                told = "; ".join(f"{k}: {found.get(k)!r} there, {spec.get(k)!r} asked" for k in differing)
                raise StoreMismatchError(f"{folder} holds a run of something else ({told}). Nothing there was touched; give another --out.")
        elif folder.exists() and any(folder.iterdir()):
            raise StoreMismatchError(f"{folder} is not empty and holds no run. Nothing there was touched; give a new or empty --out.")
        (folder / "results").mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        run = cls(folder)
        run.update_manifest(spec=spec, status="started", versions=versions())
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a finished or unfinished run for reading."""
        folder = Path(folder)
        if not (folder / MANIFEST).exists():
            raise DataError(f"{folder} is no run folder: it has no {MANIFEST}. Give the folder that `workbench diagnose --out` wrote.")
        return cls(folder)

    @property
    def manifest(self) -> dict[str, Any]:
        """What was asked, of which models, with which versions, and how far it came."""
        path = self.folder / MANIFEST
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @property
    def summary(self) -> dict[str, Any]:
        """Headline figures, as documented in docs/run-folder.md."""
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    @property
    def results(self) -> list[str]:
        """Names of the tables that exist."""
        return sorted(p.stem for p in (self.folder / "results").glob("*.parquet"))

    def update_manifest(self, **entries: Any) -> None:
        """Add entries to the manifest."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(self.folder / MANIFEST, {"schema": "workbench-run/1", **self.manifest, **entries, "updated": now})

    def save(self, name: str, table: pd.DataFrame | Result, provenance: dict[str, Any] | None = None) -> Result:
        """Save one table under ``results/``."""
        result = table if isinstance(table, Result) else Result(table, provenance or {})
        result.save(self.folder / "results" / f"{name}.parquet")
        return result

    def result(self, name: str) -> Result:
        """Read one table back."""
        if name not in self.results:
            raise DataError(f"{self.folder} has no result {name!r}; it has {', '.join(self.results)}.{did_you_mean(name, self.results)}")
        return Result.load(self.folder / "results" / f"{name}.parquet")

    def _repr_html_(self) -> str:
        rows = [
            {"language": tag, "tier": entry.get("tier")} | {k: v["value"] for k, v in entry.items() if isinstance(v, dict) and "value" in v}
            for tag, entry in self.summary["languages"].items()
        ]
        return pd.DataFrame(rows).to_html(index=False, float_format=lambda v: f"{v:.2f}", border=0)
