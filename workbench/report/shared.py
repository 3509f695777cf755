"""What two runs share and what they do not: models, prompts, languages, reference, judges."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from workbench.report.record import RunRecord
from workbench.report.side import STATISTICS, Side
from workbench.report.wording import compact, listed


def paired_prompts(first: Side, second: Side) -> pd.DataFrame:
    """Return the prompts whose outcome both runs noted, with ``refused`` and ``correct`` of each; only of the same prompts and labels."""
    columns = ["prompt_id", "language", "harmful"]
    if not _same_texts(first.run, second.run):
        return pd.DataFrame(columns=columns)
    one, two = (side.outcomes.drop_duplicates("prompt_id") for side in (first, second))
    return one.merge(two, on=columns, suffixes=("_first", "_second"))


def _same_texts(first: RunRecord, second: RunRecord) -> bool:
    """Whether ids mean the same prompts: the same set, or one drawn from the same source (another selection has another hash)."""
    spec = [run.find("manifest.spec.prompts") for run in (first, second)]
    known = [one if isinstance(one, dict) else {"prompts": one} for one in spec]
    if known[0].get("hash") and known[0].get("hash") == known[1].get("hash"):
        return True
    sources = [tuple(str(one.get(key)) for key in ("prompts", "source", "harmless", "harmful", "subset", "strip_punctuation")) for one in known]
    return sources[0] == sources[1] and any(value != "None" for value in sources[0])


def what_is_shared(first: Side, second: Side, common: list[str]) -> list[str]:
    """Say it in sentences, the languages first."""
    return [
        *_languages(first, second, common),
        *_prompts(first, second),
        *_places(first, second),
        *_settings(first.run, second.run),
        *_tables(first, second),
        *_instead(first.run, second.run),
    ]


def _languages(first: Side, second: Side, common: list[str]) -> Iterator[str]:
    yield f"Languages in both runs: {listed(common)}."
    for side, other in ((first, second), (second, first)):
        alone = [tag for tag in side.run.tiers if tag not in other.run.tiers]
        if alone:
            yield f"Only in {side.name}, and not compared: {listed(alone)}."
    moved = [tag for tag in common if first.run.tiers[tag] != second.run.tiers[tag]]
    if moved:
        yield f"The tier differs in {listed(moved)}; the first run's is shown."


def _prompts(first: Side, second: Side) -> Iterator[str]:
    hashes = [run.find("manifest.spec.prompts.hash", "manifest.prompts.hash") for run in (first.run, second.run)]
    ids = [set() if (table := side.run.table("prompts")) is None else set(table["prompt_id"].astype(str)) for side in (first, second)]
    both = len(ids[0] & ids[1])
    if hashes[0] and hashes[0] == hashes[1]:
        yield "The same prompts in both runs."
    elif not _same_texts(first.run, second.run):
        yield "The prompts come from different sets: nothing is paired, and a difference may be one between the sets."
    elif all(ids):
        alone = [len(one) - both for one in ids]
        yield f"Different selections of one source: {both} prompts in both, {alone[0]} only in the first, {alone[1]} only in the second."
    else:
        yield "Which prompts are in both runs was not recorded."
    paired = len(paired_prompts(first, second))
    if paired:
        yield f"Differences are paired over the {paired} prompts whose replies both runs judged; rates beside them are over all of a run's prompts."
    elif first.run.is_repair or second.run.is_repair:
        yield (
            "A gate decides anew for every draw of its examples and has no outcome per prompt: its rates are compared as independent of the other "
            "run's, with intervals over meanings and draws, on the meanings that each run scores."
        )


def _places(first: Side, second: Side) -> Iterator[str]:
    """Say where each run read the state, as far as the two differ."""
    asked = [run.find("manifest.spec.positions") for run in (first.run, second.run)]
    known = [[str(one) for one in found] if isinstance(found, list) else [] for found in asked]
    if all(known) and known[0] != known[1]:
        both = [position for position in known[0] if position in known[1]]
        alone = [
            f"only in the {which}: {listed(extra)}"
            for which, mine, theirs in (("first", *known), ("second", *known[::-1]))
            if (extra := [position for position in mine if position not in theirs])
        ]
        yield f"Positions read in both runs: {listed(both)}; {'; '.join(alone)}." if alone else f"Positions read in both runs: {listed(both)}."
    read = [_read_at(side.run) for side in (first, second)]
    if all(read) and read[0] != read[1]:
        told = "; ".join(f"{listed(places)} in the {which}" for places, which in zip(read, ("first", "second"), strict=True))
        yield f"Harm is read at each run's own choice of places ({told}; position@layer): scores of represented and calibrated are from there."


def _read_at(run: RunRecord) -> list[str]:
    """Return the places that the two stages which read the model's state were decided at."""
    table = run.table("hypotheses")
    if table is None or not {"id", "place"} <= set(table):
        return []
    return sorted(set(table.loc[table["id"].isin(["represented", "calibrated"]), "place"].astype(str)) - {""})


def _settings(first: RunRecord, second: RunRecord) -> Iterator[str]:
    prints = [run.find("manifest.spec.model.fingerprint", "summary.model.fingerprint") for run in (first, second)]
    if prints[0] and prints[0] == prints[1]:
        yield f"The same model ({first.model})."
    else:
        yield f"Different models: {first.model} and {second.model}."
    for name, paths in (
        ("chat template", ("manifest.spec.model.template",)),
        ("system prompt", ("manifest.spec.model.system",)),
        ("seed", ("manifest.spec.seed",)),
        ("limit of prompts", ("manifest.spec.limit",)),
    ):
        one, two = (run.find(*paths) for run in (first, second))
        if one != two:
            yield f"The {name} differs: {compact(one)} and {compact(two)}."
    if sorted(first.reference) != sorted(second.reference):
        yield f"The reference languages differ ({listed(first.reference)}; {listed(second.reference)}): verdicts and gaps are each against their own."
    judges = [_judges(run) for run in (first, second)]
    if all(judges) and judges[0] != judges[1]:
        told = "; ".join(listed(sorted(one)) for one in judges)
        yield f"Refusal was judged by different judges ({told}), so that part of a difference may be theirs."


def _judges(run: RunRecord) -> set[str]:
    table = run.table("refusal")
    return set() if table is None or "judge" not in table else set(table["judge"].astype(str))


def _tables(first: Side, second: Side) -> Iterator[str]:
    for side in (first, second):
        if side.rates.empty:
            yield f"{side.name} has no rates, so that none are compared."
    known = [set(side.rates["statistic"]) for side in (first, second)]
    if all(known):
        lone = [STATISTICS[name][0] for name in STATISTICS if (name in known[0]) != (name in known[1])]
        if lone:
            yield f"Counted in one run only: {listed(lone)}."
    verdicts = [side.run.table("verdicts") is not None for side in (first, second)]
    if any(verdicts) and not all(verdicts):
        yield f"Only {(first if verdicts[0] else second).name} has verdicts."


def _instead(first: RunRecord, second: RunRecord) -> Iterator[str]:
    """Name the command that compares runs of these kinds better."""
    if not first.is_diagnosis and not second.is_diagnosis:
        folders = " ".join(str(run.folder) for run in (first, second))
        yield (
            f"Both runs are repairs: `workbench repair table {folders}` puts them beside the model they began with, on the same resamples and with "
            "what they cost."
        )
    elif first.is_training or second.is_training:
        trained, plain = (first, second) if first.is_training else (second, first)
        yield (
            f"A training has no verdicts: give `workbench diagnose {trained.folder}/model` with the options of {plain.folder}, and compare that run "
            "with it."
        )
