"""Read a run folder: the manifest, the summary and the tables, each of which may be missing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import DataError
from workbench.report.checked import impossible
from workbench.results import Result
from workbench.runs.folder import command_of, read_json

#: What the manifest of a repair by a gate calls itself, and the folder of a diagnosis that may hold one.
REPAIR, NESTED = "gate repair", "repair"
#: The same of a repair by training.
TRAINING, NESTED_TRAINING = "training repair", "training"


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says, and nothing else: no model, no prompt text.

    Parameters
    ----------
    folder : Path
        The run folder.
    manifest, summary : dict
        ``manifest.json`` and ``summary.json``; the summary is empty where it is missing or damaged.
    results : dict of str to Result
        Every ``results/*.parquet``, by name.
    repair : RunRecord, optional
        The repair by a gate that belongs to a diagnosis: the run in its folder ``repair/``.
    training : RunRecord, optional
        The repair by training that does: the run in its folder ``training/``.
    broken : dict of str to str
        What could not be read, or cannot be what a run wrote, by name, and why: a damaged table is a gap of the report, not its end.
    """

    folder: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    results: dict[str, Result]
    repair: RunRecord | None = None
    training: RunRecord | None = None
    broken: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path) -> RunRecord:
        """Read a run folder.

        Raises
        ------
        DataError
            If there is no manifest, or it is damaged.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").exists():
            raise DataError(f"{folder} is no run folder: it has no manifest.json. Give what was the --out of a workbench command.")
        manifest = read_json(folder / "manifest.json")
        results: dict[str, Result] = {}
        broken: dict[str, str] = {}
        for path in sorted((folder / "results").glob("*.parquet")):
            try:
                found = Result.load(path)
            except DataError as error:
                broken[path.stem] = str(error)
                continue
            if (fault := impossible(path.stem, found.table)) is None:
                results[path.stem] = found
            else:
                broken[path.stem] = f"{path} is not what a run wrote: {fault}. It was left aside; give {command_of(manifest)} again with a new --out."
        summary: dict[str, Any] = {}
        if (folder / "summary.json").exists():
            try:
                summary = read_json(folder / "summary.json", manifest)
            except DataError as error:
                broken["summary"] = str(error)
        run = cls(folder, manifest, summary, results, broken=broken)
        if not run.is_diagnosis:
            return run
        repair, training = (run._nested(name) for name in (NESTED, NESTED_TRAINING))
        return replace(
            run,
            repair=repair if repair is not None and repair.is_repair else None,
            training=training if training is not None and training.is_training else None,
        )

    def _nested(self, name: str) -> RunRecord | None:
        """Return the run in a folder of this one, or None where there is none; one that cannot be read is noted."""
        if not (self.folder / name / "manifest.json").exists():
            return None
        try:
            return RunRecord.read(self.folder / name)
        except DataError as error:
            self.broken[name] = str(error)
            return None

    def table(self, name: str, *, model: str | None = "after") -> pd.DataFrame | None:
        """Return a table, or None where it is missing or empty.

        ``model`` keeps the rows of one model where the table has that column; None keeps all.
        """
        if name not in self.results:
            return None
        table = self.results[name].table
        if model is not None and "model" in table:
            table = table[table["model"] == model]
        return None if table.empty else table.copy()

    def find(self, *paths: str) -> Any:
        """Return the first entry that exists among dotted paths such as ``"manifest.spec.model"``."""
        for path in paths:
            here: Any = {"manifest": self.manifest, "summary": self.summary}
            for key in path.split("."):
                here = here.get(key) if isinstance(here, dict) else None
            if here is not None and here != {} and here != []:
                return here
        return None

    @property
    def is_repair(self) -> bool:
        """Whether this is a run of repair by a gate, not a diagnosis."""
        return self.find("manifest.kind", "manifest.spec.kind") == REPAIR

    @property
    def is_training(self) -> bool:
        """Whether this is a run of repair by training, not a diagnosis."""
        return self.find("manifest.kind", "manifest.spec.kind") == TRAINING

    @property
    def is_diagnosis(self) -> bool:
        """Whether this is neither repair."""
        return not (self.is_repair or self.is_training)

    @property
    def model(self) -> str:
        """The name of the model diagnosed."""
        return name_in(self.find("summary.model", "manifest.model", "manifest.spec.model")) or "a model without a name"

    @property
    def before(self) -> str | None:
        """The name of the model before alignment, where there is one."""
        return name_in(self.find("summary.before", "manifest.before", "manifest.spec.before"))

    @property
    def is_organism(self) -> bool:
        """Whether the model diagnosed is a controlled model with invented languages."""
        known = [self.model, name_in(self.find("manifest.spec.model")) or "", name_in(self.find("manifest.spec.prompts", "manifest.prompts")) or ""]
        return bool(self.find("manifest.organism")) or any(name == "organism" or name.startswith("organism:") for name in known)

    @property
    def reference(self) -> list[str]:
        """The reference languages: as recorded, else those of tier high."""
        recorded = self.find("manifest.reference", "summary.reference", "manifest.spec.reference")
        if isinstance(recorded, str):
            return [tag.strip() for tag in recorded.split(",")]
        if isinstance(recorded, list):
            return [str(tag) for tag in recorded]
        return [tag for tag, tier in self.tiers.items() if tier == "high"]

    @property
    def tiers(self) -> dict[str, str]:
        """Language -> tier, in the order of all figures."""
        from workbench.plots.style import languages_of

        parts = []
        for result in self.results.values():
            if {"language", "tier"} <= set(result.table.columns):
                parts.append(result.table.loc[result.table["language"].notna(), ["language", "tier"]].astype(object).drop_duplicates())
        if not parts:
            return {}
        table = pd.concat(parts, ignore_index=True)
        table["tier"] = table["tier"].where(table["tier"].notna(), "unknown").astype(str)
        table["language"] = table["language"].astype(str)
        pooled = (table["language"] == "all") | table["language"].str.startswith("mean ")  # these are no languages
        return languages_of(table[~pooled])

    def name_of(self, language: str) -> str:
        """Return a language's name where the run or the language table knows one, else ``""``."""
        from workbench.prompts.languages import name_of

        known = self.find("manifest.languages")
        entry = known.get(language) if isinstance(known, dict) else None
        name = str((entry.get("name") if isinstance(entry, dict) else None) or name_of(language))
        return "" if name == language else name


def name_in(entry: Any) -> str | None:
    """Return the name in a manifest entry that is a name or a record with one."""
    if isinstance(entry, dict):
        for key in ("name", "model", "source", "spec"):
            if isinstance(entry.get(key), str):
                return str(entry[key])
        return None
    return str(entry) if entry is not None else None
