"""A finished repair read back from its run folder, by a gate or by training: what each prompt got, and what making it took. No model, no text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import DataError
from workbench.repair.actions import LEAVE, Answered
from workbench.repair.applied import KIND as BY_GATE
from workbench.repair.kinds import GATE, UNREPAIRED
from workbench.repair.methods import always, routed
from workbench.repair.rates import MethodRun
from workbench.repair.replies import answers_of
from workbench.runs.folder import Run, command_of

#: ``kind`` in the manifest of a repair by training.
BY_TRAINING = "training repair"
#: What making a repair took; NaN where that was not recorded.
COSTS = ("seconds", "steps", "tokens", "trained_parameters", "labelled_prompts", "parallel_queries")
NOTHING, PREFILL, READING = "nothing", "one more prefill, with the start's weights", "one reading of the state per prompt"


@dataclass(frozen=True, eq=False)
class FinishedRepair:
    """One run.

    Attributes
    ----------
    run : Run
    kind : {"gate", "training"}
    answered : Answered
        Scored prompts, in the order of their ids.
    start : MethodRun
        The model as it is.
    methods : mapping of method to MethodRun
    seen : list of str
        Languages of the texts that weights were trained on; of a gate, of the labels it was fitted with.
    reference : list of str
    cost : mapping
        Of :data:`COSTS`.
    at_inference : mapping of method to str
        What answering costs more.
    """

    run: Run
    kind: str
    answered: Answered
    start: MethodRun
    methods: Mapping[str, MethodRun]
    seen: list[str]
    reference: list[str]
    cost: Mapping[str, float]
    at_inference: Mapping[str, str] = field(default_factory=dict)

    @property
    def scored(self) -> str:
        """Hash of the prompts that are scored: ids, languages and classes."""
        rows = self.answered.prompts[["prompt_id", "language", "harmful"]].astype(str)
        return hashlib.sha256("\n".join("\t".join(row) for row in rows.itertuples(index=False)).encode()).hexdigest()

    @property
    def spec(self) -> dict[str, Any]:
        """What was asked for."""
        return dict(self.run.manifest.get("spec") or {})


def finished_repair(folder: str | Path) -> FinishedRepair:
    """Read a repair back.

    Raises
    ------
    DataError
        Not a repair, not finished, or without the tables that counting it again needs; with the command to give.
    """
    run = Run.open(folder)
    manifest = run.manifest
    kind, command = manifest.get("kind"), command_of(manifest)
    if kind not in (BY_GATE, BY_TRAINING):
        raise DataError(
            f"{folder} holds no repair: {command} wrote it. Expected run folders of `workbench repair gate` or of a training such as `workbench "
            "repair msd`; two diagnoses are put side by side by `workbench compare`."
        )
    if manifest.get("status") != "finished":
        raise DataError(f"{folder} holds a repair that is not finished. Give {command} again as it was given; it continues there.")
    needed = ["answers", "repair_rates", *(["decisions"] if kind == BY_GATE else ["cost"])]
    lacking = [name for name in needed if name not in run.results]
    if lacking:
        raise DataError(
            f"{folder} lacks the tables {', '.join(lacking)}, which counting it again needs. Give {command} again as it was given; it adds what is "
            "missing."
        )
    answered = _in_order(run.result("answers").table)
    return _by_gate(run, answered) if kind == BY_GATE else _by_training(run, answered)


def _in_order(answers: pd.DataFrame) -> Answered:
    """Sort prompts by id: two runs must agree row by row."""
    return answers_of(answers.sort_values(["action", "prompt_id"], kind="stable"))


def _labels(run: Run, method: str) -> str:
    rates = run.result("repair_rates").table
    told = rates.loc[rates["method"] == method, "labels"]
    return str(told.iloc[0]) if len(told) else ""


def _by_gate(run: Run, answered: Answered) -> FinishedRepair:
    wide = run.result("decisions").table.pivot(index="draw", columns="prompt_id", values="flagged")
    flagged = wide.reindex(columns=answered.prompts["prompt_id"])
    if flagged.isna().to_numpy().any():
        raise DataError(f"{run.folder}: decisions and answers are of other prompts. Give {command_of(run.manifest)} again with a new --out.")
    gate = routed(answered, flagged.to_numpy(dtype=bool), labels=_labels(run, GATE))
    spec, reference = run.manifest["spec"], [str(tag) for tag in run.manifest.get("reference", [])]
    tags = list(dict.fromkeys(answered.prompts["language"].astype(str)))
    cost = dict.fromkeys(COSTS, math.nan) | {"trained_parameters": 0.0, "parallel_queries": 0.0}
    if "prompts" in run.results:
        asked = run.result("prompts").table
        fitted = int(((asked["split"] == "fit") & asked["language"].isin(reference)).sum())
        cost["labelled_prompts"] = fitted + 2.0 * int(spec["k"]) * sum(tag not in reference for tag in tags)
    return FinishedRepair(
        run, "gate", answered, always(answered, LEAVE), {GATE: gate}, tags, reference, cost, {GATE: READING + _slower(run)}
    )  # fmt: skip


def _slower(run: Run) -> str:
    if "latency" not in run.results:
        return ""
    table = run.result("latency").table
    ratio = table.loc[table["what"] == "routed", "ratio"].median()
    return f"; a reply took {ratio:.2f} times as long" if math.isfinite(ratio) else ""


def _by_training(run: Run, answered: Answered) -> FinishedRepair:
    methods = {name: always(answered, name, labels=_labels(run, name)) for name in answered.actions if name != UNREPAIRED}
    if UNREPAIRED not in answered.actions or not methods:
        raise DataError(
            f"{run.folder}: the answers are of {', '.join(answered.actions)}. Expected the model as it is and a trained one; give "
            f"{command_of(run.manifest)} again with a new --out."
        )
    row = run.result("cost").table.iloc[0].to_dict()
    seen = [str(tag) for tag, told in run.summary["languages"].items() if told["seen"]]
    at_inference = {name: PREFILL if name == "lasa" else NOTHING for name in methods}  # asked without its interpreter: the weights alone
    cost = {name: float(row.get(name, np.nan)) for name in COSTS}
    reference = [str(tag) for tag in run.manifest.get("reference", [])]
    return FinishedRepair(run, "training", answered, always(answered, UNREPAIRED, labels="none"), methods, seen, reference, cost, at_inference)


__all__ = ["BY_GATE", "BY_TRAINING", "COSTS", "NOTHING", "PREFILL", "READING", "FinishedRepair", "finished_repair"]
