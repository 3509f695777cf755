"""One table of all repairs: gates and trainings that began with one model, counted again on the same prompts, meanings and judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from workbench.alignment.finished import COSTS, NOTHING, FinishedRepair, finished_repair
from workbench.alignment.measured import EVERY, SEEN, UNSEEN
from workbench.errors import DataError
from workbench.repair.groups import language_groups
from workbench.repair.kinds import UNREPAIRED
from workbench.repair.rates import MethodRun, Resampler, repair_contrasts, repair_rates
from workbench.results import Result

SCHEMA = "workbench-repairs/1"
#: Shares that the table gives, with ``_low`` and ``_high``, and ``_change``, ``_change_low`` and ``_change_high`` against the unrepaired start.
SHARES = ("attack_success", "harmless_refusal", "answer_accuracy", "selectivity")
#: The statistic of the rates behind each share.
_STATISTICS = {name: "harmful_refusal" if name == "attack_success" else name for name in SHARES}
_ENDS = ("", "_low", "_high")
#: Share of the prompts on which two runs may disagree about the model they both began with: batches differ, and with them the last bits.
SAME_START = 0.02
#: What must agree, and what to do where it does not.
_ALIKE = {
    "model": (("model.fingerprint",), "repair the same model"),
    "chat template or system prompt": (("model.template", "model.system"), "give the same --template and --system"),
    "set of prompts": (("prompts.hash", "prompts.labels"), "give the same --prompts, --languages, --limit, --seed and --refusals"),
    "judge": (("judge", "judge_fallback", "refusals"), "give the same --judge, --judge-fallback and --refusals"),
}


@dataclass(frozen=True)
class RepairTable(Result):
    """One row per method and language, or mean over a group of languages.

    Columns: ``method`` ("unrepaired" once); ``run`` (folder name), ``kind`` ("model", "gate", "training"); ``language`` (a tag, "mean of all",
    "mean high", ..., "mean seen in training" and "mean unseen in training", which differ between methods); ``tier``; ``seen`` (of a tag: the
    weights were trained on text of it; a gate: fitted with labels of it); for each of attack_success (1 - harmful refusal: harmful requests that
    are not refused), harmless_refusal, answer_accuracy (harmless requests answered right; NaN without a key) and selectivity: the share, ``_low``,
    ``_high`` (95 %, over meanings and draws of examples), and ``_change``, ``_change_low``, ``_change_high``, the paired difference to the unrepaired
    start; ``n`` meanings, ``draws``; ``seconds``, ``steps``, ``tokens`` (read in training), ``trained_parameters``, ``labelled_prompts`` (whose label
    or reply is learned from), ``parallel_queries`` (that a translation must stand beside), NaN where it was not recorded; ``labels``;
    ``at_inference``, what answering costs more.
    """

    required: ClassVar[tuple[str, ...]] = (
        "method", "run", "kind", "language", "tier", "seen", "n", "draws", *(f"{name}{end}" for name in SHARES for end in _ENDS),
        *(f"{name}_change{end}" for name in SHARES for end in _ENDS), *COSTS, "labels", "at_inference",
    )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """Return the means over all languages, a row per method."""
        columns = ["method", *SHARES, "selectivity_change", "selectivity_change_low", "selectivity_change_high", "seconds", "at_inference"]
        return self.table.loc[self.table["language"] == EVERY, columns].reset_index(drop=True)

    def to_json(self) -> str:
        """Return rows and provenance as JSON; what was not measured is null."""
        rows = json.loads(self.table.to_json(orient="records"))
        return json.dumps({"schema": SCHEMA, "provenance": self.provenance, "rows": rows}, default=str, ensure_ascii=False)

    @property
    def methods(self) -> list[str]:
        """The repairs, in the order that their runs were given."""
        return [method for method in dict.fromkeys(self.table["method"].astype(str)) if method != UNREPAIRED]

    @property
    def seen(self) -> dict[str, list[str]]:
        """Languages that each repair by training saw."""
        rows = self.table[(self.table["kind"] == "training") & ~self.table["language"].str.startswith("mean ")]
        return {str(method): part.loc[part["seen"].astype(bool), "language"].astype(str).tolist() for method, part in rows.groupby("method")}

    def rates(self) -> pd.DataFrame:
        """Return the rates as :class:`~workbench.repair.rates.RepairRates` lays them out, for figures."""
        return self._long("")

    def contrasts(self) -> pd.DataFrame:
        """Return the differences to the start as :class:`~workbench.repair.rates.RepairContrasts` lays them out, for figures."""
        repaired = self._long("_change")
        return repaired[repaired["method"] != UNREPAIRED].assign(other=UNREPAIRED).reset_index(drop=True)

    def _long(self, what: str) -> pd.DataFrame:
        about = ["method", "language", "tier", "n", "draws", "labels"]
        parts = []
        for name in _STATISTICS:
            ends = self.table[[f"{name}{what}{end}" for end in _ENDS]].to_numpy(dtype=float)
            if name == "attack_success":  # back to refusal; a difference only changes its sign
                ends = (0.0 if what else 1.0) - ends[:, [0, 2, 1]]
            values = pd.DataFrame(ends, columns=["value", "low", "high"])
            told = self.table[about].reset_index(drop=True)
            parts.append(pd.concat([told.assign(statistic=_STATISTICS[name]), values], axis=1))
        return pd.concat(parts, ignore_index=True)


def repair_table(folders: Sequence[str | Path], *, seed: int = 0, resamples: int = 1000) -> RepairTable:
    """Put finished repairs into one table.

    Everything is counted again from judged replies, with the same resamples of meanings for all methods.

    Parameters
    ----------
    folders : sequence of path
        Run folders of ``workbench repair gate`` and of trainings. Methods of one name are told apart by their folder's.
    seed : int
        Of the resamples.

    Returns
    -------
    RepairTable
        Per method the means over all languages, each tier, the languages seen in training and the others, then the languages. Of a gate only the
        method that it is for (:data:`~workbench.repair.kinds.GATE`).

    Raises
    ------
    DataError
        No folder, one that holds no finished repair, or runs that differ in the model they began with, the prompts that are scored, or the judge.
    """
    if not folders:
        raise DataError("There is no run to tabulate. Expected folders of `workbench repair gate` or of trainings.")
    repairs = [finished_repair(folder) for folder in folders]
    _require_alike(repairs)
    named = _named(repairs)
    starts, notes = _starts(repairs)
    runs = {UNREPAIRED: repairs[0].start, **{name: start for name, start in starts.values() if name != UNREPAIRED}}
    runs |= {name: repair.methods[method] for name, (repair, method) in named.items()}
    reference = repairs[0].reference
    resampler = Resampler(repairs[0].answered.prompts, runs, resamples=resamples, rng=np.random.default_rng(seed), reference=reference)
    tables = [_rows(resampler, UNREPAIRED, None, {"run": "", "kind": "model", "at_inference": NOTHING})]
    for name, (repair, method) in named.items():
        about = {"run": repair.run.folder.resolve().name, "kind": repair.kind, "at_inference": repair.at_inference[method], **repair.cost}
        tables.append(_rows(resampler, name, starts[id(repair)][0], about, repair.seen))
    spec = repairs[0].spec
    told = {
        "model": spec.get("model"), "prompts": spec.get("prompts"), "judge": spec.get("judge"), "scored": repairs[0].scored, "seed": seed,
        "resamples": resamples, "runs": [str(folder) for folder in folders], "notes": notes, "reference": reference,
        "organism": bool(repairs[0].run.manifest.get("organism")),
    }  # fmt: skip
    return RepairTable(pd.concat(tables, ignore_index=True)[list(RepairTable.required)], told)


def _require_alike(repairs: Sequence[FinishedRepair]) -> None:
    first = repairs[0]
    for other in repairs[1:]:
        both = f"{first.run.folder} and {other.run.folder}"
        if first.run.folder.resolve() == other.run.folder.resolve():
            raise DataError(f"{other.run.folder} is given twice. Expected each run once.")
        for what, (paths, remedy) in _ALIKE.items():
            found = [[_at(one.spec, path) for path in paths] for one in (first, other)]
            if found[0] != found[1] or (what == "set of prompts" and first.scored != other.scored):
                raise DataError(
                    f"{both} cannot stand in one table: the {what} differs ({_difference(first, other, what, paths)}). Run one of them again and "
                    f"{remedy}."
                )


def _difference(first: FinishedRepair, other: FinishedRepair, what: str, paths: Sequence[str]) -> str:
    """Tell two runs apart in few words; of prompts by what a user set, since hashes say nothing."""
    if what == "set of prompts":
        told = [
            f"{len(one.answered.prompts)} scored prompts in {', '.join(_languages(one))}, limit {one.spec.get('limit')}" for one in (first, other)
        ]
    else:
        differing = [path for path in paths if _at(first.spec, path) != _at(other.spec, path)]
        told = [", ".join(f"{path.rpartition('.')[2]} {_at(one.spec, path)}" for path in differing) for one in (first, other)]
        names = [str(_at(one.spec, "model.model")) for one in (first, other)] if what == "model" else ["", ""]
        told = [f"{name} {text}".strip() for name, text in zip(names, told, strict=True)]
    return f"{told[0]}; {told[1]}" if told[0] != told[1] else f"{told[0]} in both, but not the same ones"


def _languages(repair: FinishedRepair) -> list[str]:
    return list(dict.fromkeys(repair.answered.prompts["language"].astype(str).sort_values()))


def _at(spec: Mapping[str, Any], path: str) -> Any:
    found: Any = spec
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _named(repairs: Sequence[FinishedRepair]) -> dict[str, tuple[FinishedRepair, str]]:
    """Name every method once: by itself, else with its folder."""
    every = [(repair, method) for repair in repairs for method in repair.methods]
    for name in (lambda r, m: m, lambda r, m: f"{m} ({r.run.folder.resolve().name})", lambda r, m: f"{m} ({r.run.folder})"):
        names = [m if [one for _, one in every].count(m) == 1 else name(r, m) for r, m in every]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, every, strict=True))


def _starts(repairs: Sequence[FinishedRepair]) -> tuple[dict[int, tuple[str, MethodRun]], list[str]]:
    """Return the start that each repair is compared with: one for all, its own where a reply fell otherwise."""
    first, found, notes = repairs[0], {}, []
    for repair in repairs:
        differs = (repair.start.refused != first.start.refused) | (repair.start.correct != first.start.correct)
        differs &= ~(np.isnan(repair.start.correct) & np.isnan(first.start.correct) & (repair.start.refused == first.start.refused))
        share = float(differs.mean())
        if share > SAME_START:
            raise DataError(
                f"{first.run.folder} and {repair.run.folder} cannot stand in one table: the unrepaired model answers {share:.1%} of the prompts "
                f"otherwise (at most {SAME_START:.0%} is taken for rounding). Run one of them again with the same --max-new-tokens, --dtype and "
                "version."
            )
        name = UNREPAIRED if not differs.any() else f"{UNREPAIRED}, {repair.run.folder}"
        found[id(repair)] = (name, repair.start)
        if differs.any():
            told = f"{int(differs.sum())} of {differs.size}"
            notes.append(f"{repair.run.folder.name}: {told} replies of the unrepaired model fell otherwise; it is compared with its own start.")
    return found, notes


def _rows(resampler: Resampler, method: str, start: str | None, about: Mapping[str, Any], seen: Sequence[str] | None = None) -> pd.DataFrame:
    """Count one method over the groups of languages that it has, and beside its start."""
    tags = list(resampler.languages)
    groups = {EVERY: tuple(tags), **language_groups(resampler.tiers)}
    if seen is not None:
        parts = {SEEN: tuple(tag for tag in tags if tag in seen), UNSEEN: tuple(tag for tag in tags if tag not in seen)}
        groups |= {name: members for name, members in parts.items() if members}
    resampler.groups = groups
    rates = repair_rates(resampler, methods=[method]).table
    order = {place: i for i, place in enumerate([*groups, *tags])}
    wide = rates.drop_duplicates("language")[["method", "language", "tier", "n", "draws", "labels"]].set_index("language")
    wide = wide.loc[sorted(wide.index, key=order.__getitem__)]
    columns = dict(_shares(rates, wide.index, ""))
    apart = None if start is None else repair_contrasts(resampler, method, [start]).table
    columns |= dict(_shares(apart, wide.index, "_change"))
    known = {tag: tag in seen for tag in tags} if seen is not None else {}
    return wide.assign(**columns, **(dict.fromkeys(COSTS, np.nan) | dict(about)), seen=[known.get(place) for place in wide.index]).reset_index()


def _shares(table: pd.DataFrame | None, places: pd.Index, what: str) -> list[tuple[str, np.ndarray]]:
    """Return the columns of every share; NaN where nothing was compared."""
    out = []
    for name, statistic in _STATISTICS.items():
        ends = np.full((len(places), 3), np.nan)
        if table is not None:
            rows = table[table["statistic"] == statistic].set_index("language")
            ends = rows.reindex(places)[["value", "low", "high"]].to_numpy(dtype=float)
        if name == "attack_success":
            ends = (0.0 if what else 1.0) - ends[:, [0, 2, 1]]
        out += [(f"{name}{what}{end}", ends[:, i]) for i, end in enumerate(_ENDS)]
    return out


__all__ = ["SAME_START", "SHARES", "RepairTable", "repair_table"]
