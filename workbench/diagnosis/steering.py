"""Act on the model: choose a direction by what it does, then remove it and add it on scored prompts, beside controls of the same length.

Candidates come from the fit split, the choice of layer, position and strength from the select split, and what is reported from
the score split. Replies given under an edit are deleted once all are judged; rates are kept.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from workbench.behavior.judges import PerLanguageJudge
from workbench.behavior.strength import choose_strength, strength_sweep
from workbench.diagnosis.measure import shown_layers
from workbench.directions import Direction, Directions, compare_directions
from workbench.directions.means import difference_in_means
from workbench.directions.nulls import shuffle_by_meaning
from workbench.errors import DataError, PromptError
from workbench.geometry.cells import each_layer, labels_of, rows_of
from workbench.runs.asked import Asked
from workbench.runs.folder import Run
from workbench.runs.selected import judged_under_edits, selected_direction

logger = logging.getLogger(__name__)

#: Multiples of the difference in means that are tried when adding.
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)
_COLUMNS = ["what", "language", "n", "reason"]


@dataclass(frozen=True)
class Steering:
    """What acting on the model showed, and what could not be done.

    Attributes
    ----------
    summary : dict
        For ``summary.json``; empty where no direction was chosen.
    notes : DataFrame
        what, language, n, reason: rows for the table of what was left out.
    """

    summary: dict[str, Any]
    notes: pd.DataFrame


def measure_steering(
    run: Run,
    asked: Asked,
    acts: xr.Dataset,
    directions: Directions,
    judge: PerLanguageJudge,
    *,
    n: int,
    new_tokens: int,
    select_only: bool = False,
    seed: int,
    redact: bool,
    progress: bool,
) -> Steering:
    """Compare directions, choose one causally, and measure refusal without it and with it added.

    Saves the tables ``direction_cosines``, ``direction_scores``, ``selection``, ``strength`` (select split) and ``steering`` (score
    split), and ``results/selected_direction.safetensors``.

    Parameters
    ----------
    directions : Directions
        Candidates from the fit split, positive towards harm.
    judge : PerLanguageJudge
        Languages whose judge cannot judge edited replies are left out, with a note.
    n : int
        Meanings per class and language that are answered under each edit; 0 acts on nothing.
    select_only : bool
        Choose the direction and leave the rest.
    """
    grid, chat = asked.grid, asked.after
    notes: list[tuple[str, str, int | None, str]] = []
    layers = shown_layers(chat.n_layers, ())
    # a note and no crash where something cannot be had: everything else of the run stands without it
    try:
        if not select_only:
            run.save("direction_cosines", compare_directions(acts, grid.languages, layers=layers, rng=np.random.default_rng(seed)))
    except DataError as reason:
        notes.append(("directions", "all", None, f"not compared between languages: {reason}"))
    if not n:
        notes.append(("edits", "all", None, "not asked for (--steer 0)"))
        return Steering({}, pd.DataFrame(notes, columns=_COLUMNS))
    try:
        found = selected_direction(run, chat, grid, directions, reference=asked.reference, notes=notes, seed=seed, progress=progress)
    except DataError as reason:
        notes.append(("edits", "all", None, f"no direction was chosen: {reason}"))
        return Steering({}, pd.DataFrame(notes, columns=_COLUMNS))
    chosen, selection = found.direction, found.selection
    told = {"position": selection.position, "layer": selection.layer, "criterion": found.criterion, "norm": chosen.norm}
    if select_only:
        return Steering(told, pd.DataFrame(notes, columns=_COLUMNS))
    controls = _controls(acts, chosen, asked.reference, seed)
    judged = judged_under_edits(judge, grid.languages, notes)
    if judged:
        try:
            told |= _act(run, asked, chosen, controls, judge, judged, notes, n=n, new_tokens=new_tokens, seed=seed, redact=redact, progress=progress)
        except (DataError, PromptError) as reason:
            _forget(run.folder / "steered")
            notes.append(("edits", "all", None, f"no replies under edits: {reason}"))
    return Steering(told, pd.DataFrame(notes, columns=_COLUMNS))


def _controls(acts: xr.Dataset, chosen: Direction, reference: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Return directions of the same place that know nothing of harm: from permuted labels, and between languages (harmless prompts).

    What of them lies along the chosen direction is taken out, as for the null of permuted training labels: chance leaves some of so
    large an axis in any difference of means, and a control that pushes along it would be a weaker dose of the same.
    """
    labels = labels_of(acts)
    rows = rows_of(labels, split="fit", languages=reference)
    _, _, states = next(iter(each_layer(acts, rows, layers=[chosen.layer], positions=[chosen.position])))
    shuffled = shuffle_by_meaning(labels, rows, 1, np.random.default_rng(seed), within_class=True)[0]
    found = {"permuted labels": difference_in_means(states, shuffled)}
    part = labels.iloc[rows]
    first = (part["language"] == reference[0]).to_numpy()
    harmless = ~part["harmful"].to_numpy()
    if len(set(reference)) > 1:
        found["language identity"] = difference_in_means(states[harmless], first[harmless])
    beside = {name: unit - float(unit @ chosen.unit) * chosen.unit for name, (unit, norm) in found.items() if norm > 0}
    return {name: vector / np.linalg.norm(vector) for name, vector in beside.items() if np.linalg.norm(vector) > 1e-6}


def _act(
    run: Run,
    asked: Asked,
    chosen: Direction,
    controls: dict[str, np.ndarray],
    judge: PerLanguageJudge,
    languages: list[str],
    notes: list[tuple[str, str, int | None, str]],
    *,
    n: int,
    new_tokens: int,
    seed: int,
    redact: bool,
    progress: bool,
) -> dict[str, Any]:
    grid, replies = asked.grid.select(languages=languages), run.folder / "steered"
    if {"strength", "steering"} <= set(run.results):  # replies are deleted, so a second call must not ask for them again
        _forget(replies)  # unless it was stopped between the table and the deletion
        known = run.result("steering")
        return _summary(known.table, known.provenance["strength"], languages, notes)
    options: dict[str, Any] = {"judge": judge, "controls": controls, "max_new_tokens": new_tokens, "progress": progress}
    try:
        tried = strength_sweep(asked.after, grid.select(split="select").limit(n, seed=seed), chosen, STRENGTHS, out=replies / "select", **options)
        # 0 where no strength gains anything, or the model broke down at all of them: then there is nothing to add
        sure = tried.table.groupby("language", sort=False)["validated"].all()
        trusted = [str(tag) for tag in sure.index[sure]] or None  # an unvalidated judge decides nothing where another one can
        strength = choose_strength(tried, statistic="harmless_refusal", margin=1.0, languages=trusted).strength or None
        few = grid.select(split="score").limit(n, seed=seed)
        parts = []
        for kind, strengths, place in (("ablate", [1.0], "removed"), *([("add", [strength], "added")] if strength else [])):
            part = strength_sweep(asked.after, few, chosen, strengths, kind=kind, split="score", out=replies / place, **options)
            parts.append(part.table.assign(edit=kind))
    except BaseException:
        if redact:
            _forget(replies)
        raise
    run.save("strength", tried)
    both = pd.concat(parts, ignore_index=True)
    run.save("steering", both, {**tried.provenance, "split": "score", "strength": strength})
    _forget(replies)  # once nothing has to be continued from them
    return _summary(both, strength, languages, notes)


def _forget(folder: Path) -> None:
    """Delete replies made under edits: a model pushed to comply says what nobody should keep."""
    if folder.exists():
        shutil.rmtree(folder)


def _summary(table: pd.DataFrame, strength: float | None, languages: list[str], notes: list[tuple[str, str, int | None, str]]) -> dict[str, Any]:
    """Return per language what the edits did, and the range of the control directions; edits that could not be had are noted."""
    if strength is None:
        tried = ", ".join(f"{value:g}" for value in STRENGTHS)
        reason = f"not added: at none of {tried} times its length does the model still reply and refuse more harmless prompts of the select split"
        notes.append(("edits", "all", None, reason))
    told: dict[str, Any] = {}
    for tag in languages:
        told[tag] = {}
        for edit, statistic in (("ablate", "harmful_refusal"), ("add", "harmless_refusal")):
            part = table[(table["edit"] == edit) & (table["language"] == tag) & (table["statistic"] == statistic) & (table["strength"] != 0)]
            own, controls = part[part["kind"] == "direction"], part.loc[part["kind"] != "direction", "value"]
            if own.empty:
                if edit == "ablate" or strength is not None:
                    notes.append(("edits", tag, None, f"no {statistic.replace('_', ' ')} under the edit: the model broke down, or was not asked"))
                continue
            row = own.iloc[0]
            told[tag]["validated"] = bool(row["validated"])
            name = f"{statistic}_{'without' if edit == 'ablate' else 'with'}_direction"
            told[tag][name] = {key: float(row[key]) for key in ("value", "low", "high")}
            told[tag][f"{name}_controls"] = [float(controls.min()), float(controls.max())] if len(controls) else None
    return {"strength": strength, "languages": told}
