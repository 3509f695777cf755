"""The section "Repair by training": what it changes language by language, the figures, and every repair beside it with its cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from workbench.report import drawing, training_captions
from workbench.report.parts import Figure, Section
from workbench.report.record import RunRecord
from workbench.report.repair import Repair
from workbench.report.repair_rows import Compared, repair_rows, seen_in
from workbench.report.repair_verdict import targets_of
from workbench.report.training_tables import training_tables
from workbench.report.training_verdict import main_place, method_name, training_verdict

_Caption = Callable[[RunRecord, pd.DataFrame], str]
_NOTE = (
    "Left of the arrow the model as it is, right of it the trained one; brackets are 95 % intervals over meanings, on the score split, of which "
    "nothing was trained or chosen. ✓: the gain's interval is above zero; ✕: below zero; ?: it includes zero (not said of reference languages, "
    "which have nothing to gain). Seen: some training text was in that language."
)


def training_of(run: RunRecord) -> Repair | None:
    """Return the repair by training that a run is, or that a diagnosis holds; None where there is none or nothing was counted."""
    found = run if run.is_training else run.training
    if found is None or (not run.is_training and found.table("repair_rates") is None):
        return None
    compared, place = Compared.of(found), main_place(found)
    rates, contrasts = found.table("repair_rates"), found.table("repair_contrasts")
    tables = []
    if rates is not None and compared is not None and place is not None:
        rates, contrasts, place = _with_gate(found, run.repair, rates, contrasts, place)
        tables = training_tables(found, rates, contrasts, place, compared.plain)
    section = Section(
        "training",
        "Repair by training",
        f"Does training ({method_name(found)}) restore refusal, also in languages that it saw nothing of, without refusing what is harmless?",
        _figures(run, found, rates, contrasts, place, compared),
        tables,
    )
    return Repair(section, training_verdict(found), repair_rows(found), _NOTE, oracle=False)


def _with_gate(
    found: RunRecord, gate: RunRecord | None, rates: pd.DataFrame, contrasts: pd.DataFrame | None, place: str
) -> tuple[pd.DataFrame, pd.DataFrame | None, str]:
    """Put the gate of the same diagnosis beside a training, if it was measured on the same prompts, and speak of languages that both have."""
    compared, own = None if gate is None else Compared.of(gate), Compared.of(found)
    same = gate is not None and all(_same(found, gate, path) for path in ("manifest.spec.prompts.hash", "manifest.spec.model.fingerprint"))
    if not same or gate is None or compared is None or own is None or contrasts is None or (rates["method"] == compared.gate).any():
        return rates, contrasts, place
    theirs = [gate.table(name) for name in ("repair_rates", "repair_contrasts")]
    if theirs[0] is None or theirs[1] is None:
        return rates, contrasts, place
    mine = set(rates["language"].astype(str))
    shared = next((target.place for target in targets_of(gate) if target.place in mine), None)
    if shared is None:
        return rates, contrasts, place
    one = theirs[0][(theirs[0]["method"] == compared.gate) & theirs[0]["language"].isin(mine)]
    apart = theirs[1][(theirs[1]["method"] == compared.gate) & (theirs[1]["other"] == compared.plain) & theirs[1]["language"].isin(mine)]
    both = [pd.concat(pair, ignore_index=True) for pair in ((rates, one), (contrasts, apart.assign(other=own.plain)))]
    return both[0], both[1], shared


def _same(one: RunRecord, other: RunRecord, path: str) -> bool:
    return one.find(path) == other.find(path)


def _figures(
    run: RunRecord, found: RunRecord, rates: pd.DataFrame | None, contrasts: pd.DataFrame | None, place: str | None, compared: Compared | None
) -> list[Figure]:
    """Draw what was measured; what this method does not measure is left out."""
    from workbench import plots

    tiers, about = found.tiers, _reading(found)
    start = "" if compared is None else compared.plain
    seen, trained = seen_in(found), _trained(found, start)
    wanted: list[tuple[str, str, Callable[[pd.DataFrame], Any], _Caption]] = [
        (
            "repaired_languages",
            "repair_rates",
            lambda t: plots.repaired_languages(rates, start=start, seen=None if seen is None else dict.fromkeys(trained, seen)),
            training_captions.languages,
        ),
        (
            "repair_cost",
            "repair_contrasts",
            lambda t: plots.repair_cost(contrasts, language=str(place), start=start),
            lambda r, t: training_captions.cost(r, contrasts if contrasts is not None else t, str(place)),
        ),
        ("training_curves", "training_curve", lambda t: plots.training_curves(t, tiers=tiers), training_captions.curves),
        ("interpreter_layers", "interpreter_layers", lambda t: plots.interpreter_layers(t, **about), training_captions.layers),
        ("token_weights", "token_weights", lambda t: plots.token_weights(t, tiers=tiers), training_captions.weights),
        ("token_weight_strips", "token_weights", lambda t: plots.token_weight_strips(t, tiers=tiers), training_captions.strips),
    ]
    return [
        drawing.figure(found, name, needs, draw, caption, None, into=run.folder)
        for name, needs, draw, caption in wanted
        if found.table(needs) is not None
    ]


def _trained(found: RunRecord, start: str) -> list[str]:
    """Return the methods that are the training's own: a gate beside them saw no training text."""
    rates = found.table("repair_rates")
    return [] if rates is None else [method for method in dict.fromkeys(rates["method"].astype(str)) if method != start and not _is_gate(method)]


def _is_gate(method: str) -> bool:
    from workbench.repair.kinds import KINDS, kind_of

    return kind_of(method) in KINDS


def _reading(found: RunRecord) -> dict[str, Any]:
    """Return the layer that an interpreter reads, and the range of the bottleneck where one was found."""
    result, scores = found.results.get("layers_compared"), found.table("interpreter")
    told = {} if result is None else result.provenance.get("reference", {})
    layer = told.get("layer") if isinstance(told, dict) else None
    if layer is None and scores is not None:
        layer = int(scores["layer"].iloc[0])
    ends = (told.get("low"), told.get("high")) if isinstance(told, dict) else (None, None)
    known = all(isinstance(end, float | int) and end == end for end in ends)  # NaN where no bottleneck was found
    return {"layer": layer, "bottleneck": ends if known else None}


__all__ = ["training_of"]
