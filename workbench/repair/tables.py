"""The tables of a repair that follow once the model has answered: curves, places, other sets, and what routing costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from workbench.activations.capture import too_long
from workbench.behavior.judges import PerLanguageJudge
from workbench.directions import Direction
from workbench.errors import DataError, ModelError, PromptError
from workbench.gates import gate_data
from workbench.interventions.edits import Add
from workbench.interventions.routing import Route
from workbench.prompts.grid import PromptGrid
from workbench.repair.contestants import Contestant, contestants, reader_of
from workbench.repair.elsewhere import ElsewhereRates, elsewhere
from workbench.repair.few_shot import KS, FewShot, few_shot
from workbench.repair.gate import GateComparison
from workbench.repair.kinds import GATE, PAPER, PRICED_AS_GIVEN, UNPRICED
from workbench.repair.latency import latency
from workbench.repair.methods import recalibrated
from workbench.repair.replies import GateReplies
from workbench.repair.roc import gate_roc, gate_scores
from workbench.repair.setting import GateSetting, GateSettings
from workbench.repair.strength import SCOPE
from workbench.repair.strengths import strength_by_method
from workbench.repair.transfer import gate_transfer
from workbench.runs.asked import Asked
from workbench.runs.folder import Run
from workbench.runs.selected import Note, judged_under_edits

#: Meanings per class and language that are timed.
TIMED = 4


@dataclass(frozen=True)
class Protocol:
    """The numbers of one comparison."""

    k: int
    draws: int
    graded_draws: int
    new_tokens: int
    seed: int
    progress: bool


@dataclass(frozen=True, eq=False)
class Other:
    """Another prompt set and who judges it."""

    grid: PromptGrid
    judge: PerLanguageJudge


def gate_tables(
    run: Run, acts: xr.Dataset, tiers: Mapping[str, str | None], settings: GateSettings, compared: GateComparison, replies: GateReplies,
    protocol: Protocol,
) -> None:  # fmt: skip
    """Save everything that follows from states and judged replies: no model is asked."""
    ours, fitted = settings.ours, compared.methods[GATE].gate
    run.save("few_shot", _few_shot(settings, replies, protocol))
    run.save("repair_strength", strength_by_method(
        replies.strength, ours.select, ours.examples, {GATE: compared.methods[GATE]}, reference=ours.source.languages, seed=protocol.seed
    ))  # fmt: skip
    run.save("gate_roc", gate_roc(fitted, compared.gate, ours.score, tiers))
    run.save("gate_scores", gate_scores(fitted, compared.gate, ours.score, tiers))
    place = ours.source.place
    everything = gate_data(acts, place.layer, place.position, languages=[*ours.source.languages, *ours.targets])
    run.save("gate_transfer", gate_transfer(everything, tiers, seed=protocol.seed))


def _few_shot(settings: GateSettings, replies: GateReplies, protocol: Protocol) -> FewShot:
    """Count curves over k at the default price of a miss: a price chosen on the select split would have seen more labels than k."""
    plain = contestants(settings.sources)
    curves: dict[str, Contestant] = {PRICED_AS_GIVEN: plain[GATE]}
    curves |= {name: plain[name] for name in (PAPER, "gate, unlabelled", "CAST as published")}
    curves |= {f"{name}, shrinkage{UNPRICED}": plain[f"{name}, shrinkage"] for name in ("one direction", "Latent Guard", "CAST signed")}
    parts = []
    for place in dict.fromkeys(settings.by[reader_of(name)].source.place for name in curves):
        rows = next(one for one in settings.by.values() if one.source.place == place)
        here = {name: one for name, one in curves.items() if settings.by[reader_of(name)].source.place == place}
        parts.append(few_shot(
            replies.answered, rows.source, rows.score, rows.pool, rows.targets, here, ks=KS, draws=protocol.draws, seed=protocol.seed
        ))  # fmt: skip
    return FewShot(pd.concat([part.table for part in parts], ignore_index=True), parts[0].provenance)


def meet_elsewhere(
    run: Run, asked: Asked, setting: GateSetting, compared: GateComparison, direction: Direction, others: Mapping[str, Other], protocol: Protocol,
    notes: list[Note],
) -> None:  # fmt: skip
    """Let the gate meet other prompt sets as it is; what a set does not allow is noted, and everything else stands."""
    if not others or "elsewhere" in run.results:
        return
    fitted, policy = compared.methods[GATE]
    gates = {GATE: [recalibrated(fitted, shown, policy) for shown in setting.examples.examples]}
    tables: list[pd.DataFrame] = []
    for name, other in others.items():
        try:
            kept = _unseen(asked, name, other, protocol.new_tokens, notes)
            found = elsewhere(
                asked.after, kept, gates, direction, compared.strength.strength, other.judge, name=name, max_new_tokens=protocol.new_tokens,
                out=run.folder / "edited" / f"elsewhere-{len(tables)}", seed=protocol.seed, progress=protocol.progress,
            )  # fmt: skip
            tables.append(found.table)
        except (DataError, PromptError, ModelError) as reason:
            notes.append(("elsewhere", "all", None, f"{name}: {reason}"))
    if tables:
        run.save("elsewhere", ElsewhereRates(pd.concat(tables, ignore_index=True), {"sets": list(others)}))


def _unseen(asked: Asked, name: str, other: Other, new_tokens: int, notes: list[Note]) -> PromptGrid:
    """Leave out what cannot be judged or asked, and every prompt of which anything was learned: by meaning within a source, and by text.

    Raises
    ------
    PromptError
        Nothing is left.
    """
    grid = other.grid.select(languages=judged_under_edits(other.judge, other.grid.languages, notes))
    long = set(too_long(asked.after, grid, room=new_tokens)["prompt_id"])
    used = asked.grid.frame[asked.grid.frame["split"] != "score"]
    meanings, texts = set(zip(used["source"], used["meaning_id"], strict=True)), set(used["text"])
    frame = grid.frame
    too_far = frame["prompt_id"].isin(long).to_numpy()
    known = np.array([key in meanings for key in zip(frame["source"], frame["meaning_id"], strict=True)]) | frame["text"].isin(texts).to_numpy()
    for rows, reason in ((too_far, "longer than the context"), (known, "something was learned from it, or chosen by it")):
        if rows.any():
            notes.append(("elsewhere", "all", int(rows.sum()), f"{name}: prompts left out ({reason})"))
    kept = frame[~too_far & ~known]
    if kept.empty:
        raise PromptError("no prompt is left that fits the model's context and that nothing was learned from")
    return PromptGrid(kept.reset_index(drop=True), provenance=grid.provenance)


def time_replies(run: Run, asked: Asked, grid: PromptGrid, compared: GateComparison, direction: Direction, protocol: Protocol) -> None:
    """Time plain replies against routed ones on a few scored prompts."""
    if "latency" in run.results:
        return
    few = grid.select(split="score").limit(TIMED, seed=protocol.seed)
    route = Route(compared.gate, flagged=Add(direction, compared.strength.strength, "gap", scope=SCOPE), languages=few)
    run.save("latency", latency(asked.after, few, route, max_new_tokens=protocol.new_tokens))
