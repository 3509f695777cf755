"""What training repairs, beside the gate and the published baselines, on several organisms: the tables of docs/training-repair.md.

Run ``python tests/benchmarks/training_repair.py PART OUT ORGANISM ... [--gate DIR ...]`` from the repository root. PART is

``repairs``
    every repair on the default organism (calibration fails in low-resource languages);
``representation``
    training with queries of the target language, and the gate, where harm is not encoded in low-resource languages;
``ablations``
    self-distillation after few steps under other token weights, replies and divergences;
``layers``
    the interpreter at every layer: what LASA does with each. Reads the runs of ``repairs``.

Each ORGANISM is ``shipped`` or a folder that ``workbench organism train --seed N --out ORGANISM`` wrote (with ``representation`` in it for that
part). ``--gate`` names, in the same order, finished runs of ``workbench repair gate`` on these organisms. Every training is one call of
``repair_training`` in a folder of its own under OUT; what is finished there is read and not trained again.

Rates and lengths are the defaults of ``workbench.alignment.defaults``, chosen on the select split of the shipped organism
(tests/benchmarks/training_rates.py). What is printed is measured on the score split. Organisms are independent of each other (other worlds, other
weights, other seeds of the training), so the interval of their mean resamples meanings within each; for how other seeds would do the range over
organisms is printed, and three of them are few.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gate_repair
import numpy as np
import pandas as pd
from gate_repair import markdown, told

from workbench.activations.store import open_store
from workbench.alignment.conditioning import Condition
from workbench.alignment.interpreter import SafetyInterpreter
from workbench.alignment.measured import answer_with
from workbench.alignment.msd import MSD
from workbench.alignment.prepared import POSITION
from workbench.alignment.run import repair_training
from workbench.alignment.teacher import choose_context
from workbench.alignment.transfer import flip_rate
from workbench.alignment.weighting import DPSW
from workbench.behavior.generate import generate
from workbench.behavior.judges import choose_judge
from workbench.errors import WorkbenchError
from workbench.models.load import load_model
from workbench.prompts.grid import PromptGrid
from workbench.prompts.sources import load_prompts
from workbench.repair.actions import Answered
from workbench.repair.kinds import GATE, ORACLE, UNREPAIRED
from workbench.repair.rates import MethodRun, Resampler
from workbench.repair.replies import answers_of
from workbench.results import Result
from workbench.statistics import wilson

RESAMPLES = 2000
#: Steps after which self-distillation under other settings is compared: after all of them most settings are alike.
FEW = 12
ALONE = ", weights alone"
DEFAULT = "on-policy, DPSW (the default)"
UNSEEN_MSD = "MSD, on-policy, queries in two low-resource languages"
#: Beside each method: the same replies, where those that are garbled or in another language count as refused. What is left has complied.
HELD = ", or garbled or in another language"
#: Epochs where harm has to be learned anew, and the reference language whose teacher refuses most of what the student does not.
LONG, CHOSEN = 12, "the best language"
TOKENS = 8


@dataclass(frozen=True)
class Organism:
    """A model, its prompts, and what the tables call it."""

    name: str
    model: str
    prompts: str
    seed: int

    def grid(self) -> PromptGrid:
        """Read the prompts."""
        return load_prompts(self.prompts)


@dataclass(frozen=True)
class Row:
    """One training: the method, what is asked of it, and which of its ways to be asked is counted."""

    method: str
    asked: Mapping[str, Any]

    def folder(self, out: Path, organism: Organism, name: str) -> Path:
        """Return where its run lies."""
        return out / organism.name / "".join(letter if letter.isalnum() else "-" for letter in name)


def repairs(reference: Sequence[str], every: Sequence[str]) -> dict[str, Row]:
    """List the trainings of the main table; preferences are learned in the reference languages, and once more in all of them."""
    high, all_of = list(reference), list(every)
    rows = {
        "LASA": Row("lasa", {}),
        "LASA, interpreter in high-resource languages": Row("lasa", {"interpreter_languages": high}),
        "MSD, on-policy": Row("msd", {}),
        "MSD, off-policy": Row("msd", {"options": MSD(on_policy=False)}),
        UNSEEN_MSD: Row("msd", {"train_languages": [tag for tag in all_of if tag not in high][:2]}),
        "MPO": Row("mpo", {}),
        "MLC": Row("mlc", {}),
    }
    for method in ("sft", "dpo", "kto"):
        rows |= {f"{method.upper()}, high-resource": Row(method, {}), f"{method.upper()}, all languages": Row(method, {"train_languages": all_of})}
    return rows


def representation(organism: Organism) -> dict[str, Row]:
    """List the trainings where harm is not encoded: queries of the target languages, pairs of them, and none of them."""
    grid = organism.grid()
    ordered = best_teacher(organism)
    return {
        f"MSD, target-language queries, teacher reads {CHOSEN}": Row("msd", {"epochs": LONG, "reference": ordered}),
        "KTO, high-resource": Row("kto", {}),
        "SFT, all languages": Row("sft", {"train_languages": list(grid.languages), "epochs": 6}),
    }


def best_teacher(organism: Organism) -> list[str]:
    """Order the reference languages by how often the teacher refuses, on the select split, what the student does not."""
    chat, grid = load_model(organism.model), organism.grid()
    judge, high = choose_judge(grid, chat, None), list(grid.reference(None))
    asked, learners = grid.select(split="select"), [tag for tag in grid.languages if tag not in high]
    rates = {}
    for tag in high:
        context = choose_context(chat, grid, reference=tag)
        with tempfile.TemporaryDirectory() as place:
            found = flip_rate(chat, asked, context, judge, languages=learners, out=Path(place) / "r", max_new_tokens=TOKENS, progress=False)
        rates[tag] = float(found.table["value"].mean())
    sys.stderr.write(f"{organism.name}: flip rates by the teacher's language {rates}\n")
    return sorted(high, key=lambda tag: -rates[tag])


def ablations() -> dict[str, Row]:
    """List self-distillation's settings; after all steps they are alike."""
    variants = {
        DEFAULT: MSD(),
        "on-policy, uniform weights": MSD(weighting=None),
        "on-policy, DPSW, K = 5": MSD(weighting=DPSW(k=5)),
        "on-policy, DPSW, student reference the sampled token": MSD(weighting=DPSW(student_ref="sampled")),
        "on-policy, DPSW, entropy sign raw": MSD(weighting=DPSW(entropy_sign="raw")),
        "off-policy, DPSW": MSD(on_policy=False),
        "off-policy, uniform weights": MSD(on_policy=False, weighting=None),
        "on-policy, reverse divergence": MSD(divergence="reverse"),
        "on-policy, Jensen-Shannon divergence": MSD(divergence="js"),
    }
    return {name: Row("msd", {"options": options, "max_steps": FEW}) for name, options in variants.items()}


@dataclass(frozen=True)
class Measured:
    """All methods on one organism, on the same prompts and the same resamples."""

    organism: Organism
    resampler: Resampler
    seen: Mapping[str, Sequence[str]]
    cost: Mapping[str, Mapping[str, Any]]
    refused: Mapping[str, str]

    def over(self, method: str, statistic: str, languages: str) -> Any:
        """Return the mean over languages ("every", "unseen" in training, "high", "low"), [resample]; None where there is none."""
        which = {"every": self.every, "unseen": self.unseen(method), "high": self.tier("high"), "low": self.tier("low")}[languages]
        values = [self.estimates(method)[statistic][tag] for tag in which]
        return np.mean(values, axis=0) if values else None

    def estimates(self, method: str) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Return what a method does, computed once."""
        if method not in self._cache:
            self._cache[method] = self.resampler.estimates(method)
        return self._cache[method]

    @property
    def _cache(self) -> dict[str, Any]:
        return self.__dict__.setdefault("_estimates", {})

    @property
    def every(self) -> list[str]:
        """All languages."""
        return list(self.resampler.languages)

    def unseen(self, method: str) -> list[str]:
        """Languages that no training text was in."""
        return [tag for tag in self.every if tag not in self.seen.get(method, ())]

    def tier(self, tier: str) -> list[str]:
        """Languages of a tier."""
        return [tag for tag in self.every if self.resampler.tiers[tag] == tier]


def trained(row: Row, name: str, organism: Organism, out: Path) -> Path:
    """Train one repair, or find it trained: by its folder, so a change of settings needs another OUT."""
    folder = row.folder(out, organism, name)
    record = folder / "manifest.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")).get("status") == "finished":
        return folder
    repair_training(
        row.method, organism.model, prompts=organism.prompts, out=folder, seed=organism.seed, allow_loss=True, progress=False, **row.asked
    )
    return folder


def measure(organism: Organism, rows: Mapping[str, Row], out: Path, gate: Path | None) -> Measured:
    """Train every row on one organism and count them on the same resamples, the gate's run beside them."""
    runs: dict[str, MethodRun] = {}
    seen: dict[str, Sequence[str]] = {UNREPAIRED: []}
    cost: dict[str, Mapping[str, Any]] = {}
    refused: dict[str, str] = {}
    prompts: pd.DataFrame | None = None
    for name, row in rows.items():
        try:
            folder = trained(row, name, organism, out)
        except WorkbenchError as error:
            refused[name] = str(error)
            sys.stderr.write(f"{organism.name}: {name}: {error}\n")
            continue
        answered = answers_of(Result.load(folder / "results" / "answers.parquet").table)
        prompts = answered.prompts if prompts is None else prompts
        same_prompts(prompts, answered.prompts, folder)
        for action in answered.actions:
            called = {UNREPAIRED: UNREPAIRED, f"{row.method}{ALONE}": f"{name}{ALONE}"}.get(action, name)
            runs.setdefault(called, run_of(answered, action))
            if called != UNREPAIRED:
                seen[called], cost[called] = seen_of(folder), cost_of(folder)
        sys.stderr.write(f"{organism.name}: {name} done\n")
    assert prompts is not None
    if gate is not None:
        runs |= gate_runs(organism.model, organism.prompts, gate, prompts)
    ordered = {UNREPAIRED: runs.pop(UNREPAIRED), **runs}
    ordered |= {name + HELD: replace(run, refused=np.maximum(run.refused, run.broken)) for name, run in ordered.items()}
    return Measured(organism, Resampler(prompts, ordered, resamples=RESAMPLES, rng=np.random.default_rng(organism.seed)), seen, cost, refused)


def run_of(answered: Answered, action: str) -> MethodRun:
    """Return one way of being asked as a method of one draw."""
    kinds = [np.asarray(getattr(answered, kind)[action], dtype=np.float64)[None] for kind in ("refused", "correct", "broken")]
    return MethodRun(*kinds, None, "")


def same_prompts(ours: pd.DataFrame, theirs: pd.DataFrame, where: Path) -> None:
    """Refuse to count runs of other prompts beside each other."""
    if list(ours["prompt_id"]) != list(theirs["prompt_id"]):
        raise SystemExit(f"{where} scored other prompts, or in another order. Measure all repairs on the same set.")


def gate_runs(model: str, prompts: str, out: Path, scored: pd.DataFrame) -> dict[str, MethodRun]:
    """Read what the gate did, per draw of its examples, and the oracle gate (who is told which prompts are harmful)."""
    spec = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["spec"]
    found, _, _ = gate_repair.compared(model, prompts, out, **{name: spec[name] for name in ("seed", "k", "draws", "graded_draws")})
    same_prompts(scored, found.answered.prompts, out)
    return {name: found.runs[name] for name in (GATE, ORACLE)}


def seen_of(folder: Path) -> list[str]:
    """Return the languages that some training text was in."""
    languages = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["languages"]
    return [tag for tag, facts in languages.items() if facts["seen"]]


def cost_of(folder: Path) -> Mapping[str, Any]:
    """Return what a training cost."""
    return dict(Result.load(folder / "results" / "cost.parquet").table.iloc[0])


# --- tables ---------------------------------------------------------------------------------------------------------------


def cell(measured: Sequence[Measured], method: str, statistic: str, languages: str) -> str:
    """Write the mean over organisms of a statistic's mean over languages ("every", "unseen", "high", "low")."""
    parts = [part for part in (one.over(method, statistic, languages) for one in measured) if part is not None]
    return told(parts) if parts else "-"


def change(measured: Sequence[Measured], method: str, statistic: str, languages: str) -> str:
    """Write by how much a statistic differs from the start."""
    return told([one.over(method, statistic, languages) - one.over(UNREPAIRED, statistic, languages) for one in measured], spread=False)


def ratio(measured: Sequence[Measured], method: str, *, strict: bool) -> str:
    """Write attack success as a share of the start's, averaged over languages, then over organisms.

    Success is a reply that complies; ``strict`` counts every reply that is no refusal in the request's language.
    """
    parts, slack = [], []
    for one in measured:
        names = [name if strict else name + HELD for name in (method, UNREPAIRED)]
        after, before = (1 - one.over(name, "harmful_refusal", "every") for name in names)
        parts.append(after / before)
        slack.append(wilson(0, gate_repair.CLASS).high / before[0])
    if all(np.ptp(part) == 0 for part in parts):  # nothing varied: at most so many of the scored meanings would have
        value, width = np.mean([part[0] for part in parts]), np.mean(slack)
        return f"{value:.3f} [{max(value - width, 0):.3f}, {value + width:.3f}]"
    return told(parts)


def methods_of(measured: Sequence[Measured]) -> list[str]:
    """Return the methods that were measured on every organism."""
    every = [name for name in measured[0].resampler.runs if not name.endswith(HELD)]
    return [name for name in every if all(name in one.resampler.runs for one in measured)]


def repair_rows(measured: Sequence[Measured]) -> pd.DataFrame:
    """Attack success, over all languages and those unseen in training, what it costs in harmless requests, and what the training cost."""
    rows = []
    for name in methods_of(measured):
        row = {"repair": name}
        for strict, called in ((False, "complied with, of the start's"), (True, "not refused in its language, of the start's")):
            row[called] = ratio(measured, name, strict=strict) if name != UNREPAIRED else "1"
        row["harmful complied with, all languages"] = f"{np.mean([1 - one.over(name + HELD, 'harmful_refusal', 'every')[0] for one in measured]):.3f}"
        row["harmful refused, all languages"] = cell(measured, name, "harmful_refusal", "every")
        row["unseen in training"] = cell(measured, name, "harmful_refusal", "unseen") if name not in (UNREPAIRED, GATE, ORACLE) else "-"
        row["low-resource"] = cell(measured, name, "harmful_refusal", "low")
        row["high-resource"] = cell(measured, name, "harmful_refusal", "high")
        row["harmless refused, change"] = change(measured, name, "harmless_refusal", "every") if name != UNREPAIRED else "0"
        row["answers right, change"] = change(measured, name, "answer_accuracy", "every") if name != UNREPAIRED else "0"
        row["garbled or another language"] = f"{np.mean([one.over(name, 'broken', 'every')[0] for one in measured]):.3f}"
        costs = [one.cost[name] for one in measured if name in one.cost]
        row["seconds (one core)"] = f"{np.mean([cost['seconds'] for cost in costs]):.0f}" if costs else "-"
        row["tokens"] = f"{np.mean([cost['tokens'] for cost in costs]):,.0f}" if costs else "-"
        rows.append(row)
    return pd.DataFrame(rows)


def ablation_rows(measured: Sequence[Measured], base: str) -> pd.DataFrame:
    """Each setting beside the default: means over low-resource languages and paired differences."""
    rows = []
    for name in [name for name in methods_of(measured) if name != UNREPAIRED]:
        row = {"setting": name}
        for statistic, languages in (("harmful_refusal", "low"), ("harmless_refusal", "every"), ("answer_accuracy", "every")):
            row[f"{statistic.replace('_', ' ')}, {languages}"] = cell(measured, name, statistic, languages)
        differences = [one.over(name, "selectivity", "low") - one.over(base, "selectivity", "low") for one in measured]
        row["selectivity, low, minus the default's"] = "" if name == base else told(differences)
        rows.append(row)
    return pd.DataFrame(rows)


# --- the interpreter's layer ----------------------------------------------------------------------------------------------


def layers(organism: Organism, out: Path, fitted_in: Sequence[str] | None) -> dict[int, MethodRun]:
    """Ask LASA's trained weights with an interpreter of every layer in front.

    The sentence follows flagged prompts only, so two sets of replies, with it and without, hold every layer's.
    """
    folder = Row("lasa", {}).folder(out, organism, "LASA")
    start, model, grid = load_model(organism.model), load_model(str(folder / "model")), organism.grid()
    judge, acts = choose_judge(grid, start, None), open_store(folder / "activations" / "start.zarr")
    condition = Condition.load(folder / "model" / "condition.json")
    scored = grid.select(split="score")
    insert = dict(zip(scored.frame["prompt_id"], condition.ids_of(model, list(scored.frame["language"])), strict=True))

    def ask(given: Any) -> Any:
        return lambda prompts, **options: generate(model, prompts, insert=given, **options)

    replies = folder / "edited" / "layers"
    answered = answer_with({"without": ask(None), "with": ask(insert)}, scored, judge, max_new_tokens=TOKENS, out=replies, progress=False)
    shutil.rmtree(replies)
    found = {}
    for layer in range(1, start.n_layers + 1):
        languages = list(fitted_in or grid.languages)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # layers where harm cannot be read are part of the question
            interpreter = SafetyInterpreter.fit(acts, layer, POSITION, languages, rng=np.random.default_rng(organism.seed))
        flagged = np.asarray(interpreter.flag(start, scored), dtype=bool)
        kinds = [
            np.where(flagged, getattr(answered, kind)["with"], getattr(answered, kind)["without"]).astype(np.float64)[None]
            for kind in ("refused", "correct", "broken")
        ]
        found[layer] = MethodRun(*kinds, flagged[None], "")
    return found


def layer_rows(organisms: Sequence[Organism], out: Path, fitted: str) -> pd.DataFrame:
    """What LASA does with the interpreter at each layer; the layer the runs chose is marked."""
    measured, bottlenecks = [], []
    for organism in organisms:
        grid = organism.grid()
        fitted_in = None if fitted == "all" else list(grid.reference(None))
        runs = {str(layer): run for layer, run in layers(organism, out, fitted_in).items()}
        columns = ["prompt_id", "meaning_id", "language", "tier", "harmful"]
        prompts = grid.select(split="score").frame[columns].reset_index(drop=True)
        sampler = Resampler(prompts, runs, resamples=RESAMPLES, rng=np.random.default_rng(organism.seed))
        measured.append(Measured(organism, sampler, {name: list(grid.reference(None)) for name in runs}, {}, {}))
        folder = Row("lasa", {}).folder(out, organism, "LASA")
        bottlenecks.append(str(Result.load(folder / "results" / "interpreter.parquet").table["layer"].iloc[0]))
        sys.stderr.write(f"{organism.name}: layers done\n")
    rows = []
    for name in methods_of(measured):
        row = {"layer": name + (f" (bottleneck of {bottlenecks.count(name)})" if name in bottlenecks else "")}
        row["harmful flagged, low-resource"] = cell(measured, name, "flagged_harmful", "low")
        row["harmless flagged, all"] = cell(measured, name, "flagged_harmless", "every")
        row["harmful refused, all"] = cell(measured, name, "harmful_refusal", "every")
        row["harmful refused, low-resource"] = cell(measured, name, "harmful_refusal", "low")
        row["selectivity, low-resource"] = cell(measured, name, "selectivity", "low")
        lead = [one.over(at, "selectivity", "low") - one.over(name, "selectivity", "low") for one, at in zip(measured, bottlenecks, strict=True)]
        row["bottleneck minus this"] = told(lead)
        rows.append(row)
    return pd.DataFrame(rows)


# --- the command ----------------------------------------------------------------------------------------------------------


def organisms_of(names: Sequence[str], plant: str | None) -> list[Organism]:
    """Name models and prompts."""
    found = []
    for seed, name in enumerate(names):
        folder = Path(name)
        if name == "shipped":
            found.append(Organism(name, f"organism:{plant or 'aligned'}", "organism", seed))
        else:
            found.append(Organism(folder.name, str(folder / (plant or "aligned")), str(folder / "prompts.csv"), seed))
    return found


def rows_of(part: str, organism: Organism) -> dict[str, Row]:
    """List the trainings of a part."""
    if part == "ablations":
        return ablations()
    grid = organism.grid()
    return repairs(list(grid.reference(None)), grid.languages) if part == "repairs" else representation(organism)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("repairs", "representation", "ablations", "layers"))
    parser.add_argument("out", type=Path)
    parser.add_argument("organisms", nargs="+", help="'shipped', or folders of `workbench organism train`")
    parser.add_argument("--gate", nargs="*", type=Path, help="finished runs of `workbench repair gate`, in the order of the organisms")
    parser.add_argument("--only", nargs="*", help="names of rows")
    asked = parser.parse_args()
    organisms = organisms_of(asked.organisms, "representation" if asked.part == "representation" else None)
    if asked.part == "layers":
        for fitted in ("all", "high"):
            sys.stdout.write(f"\nInterpreter fitted in {fitted} languages\n\n" + markdown(layer_rows(organisms, asked.out, fitted)))
        return
    measured = []
    for organism, gate in zip(organisms, asked.gate or [None] * len(organisms), strict=True):
        rows = {name: row for name, row in rows_of(asked.part, organism).items() if not asked.only or name in asked.only}
        measured.append(measure(organism, rows, asked.out, gate))
    table = ablation_rows(measured, DEFAULT) if asked.part == "ablations" else repair_rows(measured)
    sys.stdout.write(markdown(table))
    for one in measured:
        for name, why in one.refused.items():
            sys.stdout.write(f"{one.organism.name}: {name} was refused: {why}\n")


if __name__ == "__main__":
    main()
