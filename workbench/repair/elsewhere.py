"""A repair on prompts it was not made for: another set, with the gate, its thresholds and the strength as they were.

Nothing is fitted, recalibrated or chosen here. Languages that the gate has no threshold for are decided by its fallback, the source
languages' threshold, and the table says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool

from workbench.activations.capture import capture
from workbench.behavior.outcomes import Judge
from workbench.directions.direction import Direction
from workbench.errors import DataError
from workbench.gates import UNKNOWN, Gate, GateData, gate_data
from workbench.gates.controls import shuffled_decisions
from workbench.interventions.edits import Add
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import LEAVE, STEER, answer_under
from workbench.repair.few_shot import aligned_rows
from workbench.repair.kinds import ALWAYS, ORACLE, UNREPAIRED
from workbench.repair.methods import always, routed
from workbench.repair.rates import RepairRates, Resampler, repair_rates
from workbench.repair.strength import SCOPE
from workbench.results import Result

OWN, FALLBACK, MIXED = "own", "fallback", "mixed"


@dataclass(frozen=True)
class ElsewhereRates(Result):
    """One row per prompt set, method, language (or mean over a tier's languages) and statistic.

    Statistics as in :class:`~workbench.repair.rates.RepairRates`; those of a class that a language lacks are left out. ``threshold`` says what a
    gate decided a language by: "own" (fitted in it or recalibrated), "fallback" (the source languages' threshold), in means also "mixed"; "" for
    methods without a gate. ``low`` and ``high``: 95 % over the set's meanings and, where several gates were given, draws.
    """

    required: ClassVar[tuple[str, ...]] = ("set", "language", "tier", "method", "statistic", "value", "low", "high", "n", "threshold")

    def summary(self) -> pd.DataFrame:
        """Return refusal rates and flagged shares as means over tiers, a row per method."""
        means = self.table[self.table["language"].str.startswith("mean ")]
        return means.pivot_table(index=["set", "method"], columns=["language", "statistic"], values="value", sort=False).reset_index()


def elsewhere(
    chat: ChatModel,
    grid: PromptGrid,
    gates: Mapping[str, Gate | Sequence[Gate]],
    direction: Direction,
    strength: float,
    judge: Judge,
    *,
    name: str,
    used: Collection[str] = (),
    max_new_tokens: int = 64,
    token_budget: int = 4096,
    out: str | Path | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> ElsewhereRates:
    """Ask another prompt set, and count what the repair does there.

    Parameters
    ----------
    grid : PromptGrid
        The other set; all of its prompts are asked. One class alone will do.
    gates : mapping of method to gate, or to gates of several draws
        Fitted and recalibrated; each reads at its own place.
    direction : Direction
        What flagged prompts are pushed along.
    strength : float
        In gaps of the direction, as chosen before.
    name : str
        Of the set, for the table.
    used : collection of str
        Meanings that anything was fitted on, recalibrated with or chosen by; none of them may be asked.
    out : path, optional
        Folder of the replies (mode 600); a second call goes on from there.

    Returns
    -------
    ElsewhereRates
        "unrepaired", "always steer" and the gates; in a set of both classes also "oracle gate" and, for each gate, the control "NAME, permuted
        decisions", which fires as often in every language, on other prompts.

    Raises
    ------
    DataError
        Meanings that were used, no gate, a gate without a place, a strength that does not push.
    """
    both = sorted(set(used) & set(grid.meanings))
    if both:
        raise DataError(f"{len(both)} meanings of {name} were used before (first: {both[0]}). Expected prompts that nothing was learnt from.")
    if not gates:
        raise DataError("There is no gate to try. Expected {method: gate}.")
    if not (np.isfinite(strength) and strength > 0):
        raise DataError(f"strength={strength}. Expected the finite number above 0 that the repair uses, in gaps of the direction.")
    draws = {method: [given] if isinstance(given, Gate) else list(given) for method, given in gates.items()}
    states = _states(chat, grid, draws, token_budget, progress)
    actions: dict[str, Any] = {LEAVE: None, STEER: Add(direction, strength, "gap", scope=SCOPE)}
    answered = answer_under(chat, grid, actions, judge, max_new_tokens=max_new_tokens, token_budget=token_budget, out=out, progress=progress)
    runs = {UNREPAIRED: always(answered, LEAVE), ALWAYS: always(answered, STEER)}
    harmful = answered.prompts["harmful"].to_numpy(dtype=bool)
    both_classes = bool(harmful.any() and not harmful.all())
    by: dict[str, dict[str, str]] = {}
    rng = np.random.default_rng(seed)
    for method, fitted in draws.items():
        data = states[_place_of(method, fitted)]
        data = data.take(aligned_rows(answered, data))
        flagged = np.stack([_decide(gate, data) for gate in fitted])
        runs[method] = routed(answered, flagged, labels="")
        by[method] = {tag: OWN if all(tag in gate.thresholds_ for gate in fitted) else FALLBACK for tag in data.languages}
        if both_classes:
            control = f"{method}, permuted decisions"
            runs[control], by[control] = routed(answered, shuffled_decisions(flagged, data.language, rng), labels=""), by[method]
    if both_classes:
        runs[ORACLE] = routed(answered, harmful[None], labels="all")
    table, left_out = _counted(Resampler(answered.prompts, runs, resamples=resamples, rng=np.random.default_rng(seed)), by, confidence)
    told = {
        "set": name,
        "strength": strength,
        "scale": "gap",
        "scope": list(SCOPE),
        "gates": {m: len(g) for m, g in draws.items()},
        "left_out": left_out,
    }
    about = {"prompts": dict(grid.provenance), "grid": grid.hash, "seed": seed, "resamples": resamples, "confidence": confidence}
    return ElsewhereRates(table.assign(set=name)[list(ElsewhereRates.required)], {**chat.provenance(), **told, **about})


def _place_of(method: str, fitted: Sequence[Gate]) -> tuple[int, str]:
    places = {None if gate.place_ is None else (gate.place_.layer, gate.place_.position) for gate in fitted}
    if len(places) != 1 or None in places:
        raise DataError(f"The gate of {method!r} does not say where it reads, or its draws differ in that. Expected gates fitted on GateData.")
    (place,) = places
    assert place is not None
    return place


def _states(
    chat: ChatModel, grid: PromptGrid, gates: Mapping[str, Sequence[Gate]], token_budget: int, progress: bool
) -> dict[tuple[int, str], GateData]:
    """Capture what the gates read, in one pass over the prompts."""
    places = sorted({_place_of(method, fitted) for method, fitted in gates.items()})
    layers, positions = sorted({layer for layer, _ in places}), sorted({position for _, position in places})
    acts = capture(chat, grid, layers=layers, positions=positions, token_budget=token_budget, progress=progress, allow_one_class=True)
    return {place: gate_data(acts, *place) for place in places}


def _decide(gate: Gate, data: GateData) -> Bool[np.ndarray, " prompt"]:
    """Decide each prompt by its language's threshold, by the fallback where there is none."""
    known = [str(tag) if tag in gate.thresholds_ else UNKNOWN for tag in data.language]
    return np.asarray(gate.predict(data, known), dtype=bool)


def _counted(resampler: Resampler, by: Mapping[str, Mapping[str, str]], confidence: float) -> tuple[pd.DataFrame, list[str]]:
    """Count, drop what a language has no prompts for, and say which threshold decided."""
    rates: RepairRates = repair_rates(resampler, confidence=confidence)
    table = rates.table[rates.table["value"].notna()].reset_index(drop=True)
    spoken: dict[str, list[str]] = {tag: [tag] for tag in resampler.languages}
    for tag, tier in resampler.tiers.items():
        spoken.setdefault(f"mean {tier}", []).append(str(tag))

    def threshold(method: str, language: str) -> str:
        found = {by[method][tag] for tag in spoken[language]} if method in by else {""}
        return found.pop() if len(found) == 1 else MIXED

    table["threshold"] = [threshold(m, tag) for m, tag in zip(table["method"], table["language"], strict=True)]
    harmful = resampler.harmful
    lacking = [f"{tag}: no {name} prompts" for tag, rows in resampler.languages.items() for name, y in (("harmful", True), ("harmless", False))
               if not (harmful[rows] == y).any()]  # fmt: skip
    return table, lacking
