"""The run folder: what a diagnosis or a repair leaves on disk, and how a later call continues it.

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

from workbench.errors import DataError, StoreMismatchError, did_you_mean, writing
from workbench.results import Result

MANIFEST = "manifest.json"
#: Which command writes a run of which ``kind``; a diagnosis' manifest names none.
COMMANDS = {"gate repair": "workbench repair gate", "training repair": "workbench repair METHOD"}
_REPAIRED = ("harmful_refusal", "harmless_refusal", "selectivity")
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
    with writing(path):
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str, allow_nan=False), encoding="utf-8")
        draft.replace(path)


@dataclass(frozen=True)
class Run:
    """One diagnosis or repair on disk.

    Parameters
    ----------
    folder : Path
        Holds ``manifest.json``, ``results/``, ``summary.json``, ``activations/`` and, after reporting, ``figures/`` and
        ``report.html``.
    """

    folder: Path

    @classmethod
    def start(cls, folder: str | Path, spec: dict[str, Any]) -> Run:
        """Open a folder for a run; an earlier run of the same spec is continued.

        Raises
        ------
        StoreMismatchError
            If the folder holds a run of something else, or files that are no run.
        """
        cls.earlier(folder, spec)
        folder = Path(folder)
        with writing(folder):
            (folder / "results").mkdir(parents=True, exist_ok=True)
            (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        run = cls(folder)
        run.update_manifest(spec=json.loads(json.dumps(spec, default=str)), status="started", versions=versions())
        return run

    @classmethod
    def earlier(cls, folder: str | Path, spec: dict[str, Any]) -> str | None:
        """Say how far an earlier run of the same spec came in a folder, without touching anything there.

        Returns
        -------
        str or None
            ``"started"``, ``"finished"``, or None where nothing is yet.

        Raises
        ------
        StoreMismatchError
            As of :meth:`start`.
        """
        folder = Path(folder)
        spec = json.loads(json.dumps(spec, default=str))
        if (folder / MANIFEST).is_file():
            manifest = read_json(folder / MANIFEST)
            found, asked = _flat(manifest.get("spec", {})), _flat(spec)
            differing = [k for k in [*asked, *(k for k in found if k not in asked)] if found.get(k) != asked.get(k)]
            if differing:
                told = "; ".join(f"{k}: {found.get(k)!r} there, {asked.get(k)!r} asked" for k in differing)
                raise StoreMismatchError(f"{folder} holds a run of something else ({told}). Nothing there was touched; give another --out.")
            return str(manifest.get("status"))
        if folder.exists() and not folder.is_dir():
            raise StoreMismatchError(f"{folder} is a file, not a folder. Nothing there was touched; give a new or empty folder as --out.")
        if folder.is_dir() and any(folder.iterdir()):
            raise StoreMismatchError(f"{folder} is not empty and holds no run. Nothing there was touched; give a new or empty --out.")
        return None

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a finished or unfinished run for reading."""
        folder = Path(folder)
        if not (folder / MANIFEST).exists():
            raise DataError(f"{folder} is no run folder: it has no {MANIFEST}. Give what was the --out of a workbench command.")
        return cls(folder)

    @property
    def manifest(self) -> dict[str, Any]:
        """What was asked, of which models, with which versions, and how far it came."""
        path = self.folder / MANIFEST
        return read_json(path) if path.exists() else {}

    @property
    def summary(self) -> dict[str, Any]:
        """Headline figures, as documented in docs/run-folder.md."""
        path = self.folder / "summary.json"
        if not path.exists():
            command = command_of(self.manifest)
            raise DataError(f"{self.folder} has no summary.json: the run is unfinished. Give {command} again as it was given; it continues there.")
        return read_json(path, self.manifest)

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
        summary = self.summary
        rows = _method_rows(summary) if "methods" in summary else _language_rows(summary)
        return pd.DataFrame(rows).to_html(index=False, float_format=lambda v: f"{v:.2f}", na_rep="", border=0)


def _language_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A diagnosis: one row per language, its headline figures beside it."""
    return [
        {"language": tag, "tier": entry.get("tier")} | {k: v["value"] for k, v in entry.items() if isinstance(v, dict) and "value" in v}
        for tag, entry in summary["languages"].items()
    ]


def _method_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A repair: for each language the model as it is, and under it with the gate or trained."""
    rows = []
    for tag, entry in summary["languages"].items():
        for name in (summary["unrepaired"], summary.get("gate") or summary["method"]):
            figures = summary["methods"].get(name, {}).get(tag) or {}
            told = {key: (figures.get(key) or {}).get("value") for key in _REPAIRED}
            rows.append({"language": tag, "tier": entry.get("tier"), "method": name} | told)
    return rows


def command_of(manifest: dict[str, Any]) -> str:
    """Name the command that wrote a run, as words of a sentence: by its kind, else by what only a diagnosis asks for."""
    kind, spec = manifest.get("kind"), manifest.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    command = COMMANDS.get(str(kind or spec.get("kind"))) or ("workbench diagnose" if "before" in spec and not kind else None)
    return f"`{command}`" if command else "the workbench command that wrote it"


def read_json(path: Path, manifest: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a file that :func:`write_json` wrote.

    Parameters
    ----------
    manifest : dict, optional
        Of the run that the file belongs to: the remedy names its command.

    Raises
    ------
    DataError
        If it is damaged, or no JSON object.
    """
    command = command_of(manifest or {})
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}). Expected whole JSON; give {command} again with a new --out.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object. Expected one; give {command} again with a new --out.")
    return content


def _flat(entries: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested entries by their way down, so that a difference is told by itself: ``prompts.limit``."""
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
