"""What a reader must know before the first number, what was left out, and everything that the manifest records."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.report.record import RunRecord
from workbench.report.repair_rows import seen_in
from workbench.report.training_verdict import method_name
from workbench.report.wording import compact, listed


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """What a reader must know before the first number."""
    prompts, recorded = run.table("prompts"), run.find("manifest.spec.prompts")
    if isinstance(recorded, dict):
        recorded = {key: recorded[key] for key in ("source", "hash") if key in recorded} or recorded
    grid = compact(recorded)
    if prompts is not None and "meaning_id" in prompts:
        grid = f"{len(prompts)} prompts, {prompts['meaning_id'].nunique()} meanings, {prompts['language'].nunique()} languages; {grid}"
    model = run.find("manifest.spec.model")
    kind = ", ".join(str(model[key]) for key in ("architecture", "dtype", "device") if model.get(key)) if isinstance(model, dict) else ""
    versions = run.find("manifest.versions")
    shown = [
        ("Model", f"{run.model} ({kind})" if kind else run.model),
        ("Before alignment", run.before or "none given"),
        ("Prompts", grid),
        ("Reference languages", ", ".join(run.reference) or "none"),
        ("Template", compact(run.find("manifest.spec.model.template", "summary.model.template") or "not recorded")),
        ("System prompt", compact(run.find("manifest.spec.model.system", "summary.model.system"))),
        ("Seed", compact(run.find("manifest.spec.seed"))),
        ("Versions", compact(versions).replace("; ", ", ") if versions else "not recorded"),
    ]
    if run.is_diagnosis:
        return shown
    kept = [fact for fact in shown if fact[0] != "Before alignment"]
    return [*kept[:-1], *(_trained_by(run) if run.is_training else _repaired_by(run)), kept[-1]]  # versions last


def _repaired_by(run: RunRecord) -> list[tuple[str, str]]:
    """Where the gate reads, how hard everything pushes, and how many labels were used."""
    place, k = run.find("summary.place") or {}, run.find("summary.k", "manifest.spec.k")
    draws = run.find("manifest.spec.draws")
    where = f"layer {place['layer']} of {place['position']}" if {"layer", "position"} <= set(place) else "not recorded"
    labels = "not recorded" if k is None else f"{k} harmful + {k} harmless per language" + (f", {draws} draws" if draws else "")
    return [
        ("Gate reads", where),
        ("Strength", f"{place['strength']:g} gaps of the direction" if "strength" in place else "not recorded"),
        ("Labelled examples", labels),
    ]


def _trained_by(run: RunRecord) -> list[tuple[str, str]]:
    """Which training, in which languages and from what, and how far it was driven."""
    seen, how = seen_in(run), run.find("manifest.spec.training")
    told = "not recorded"
    if isinstance(how, dict):
        length = f"{how['max_steps']} steps" if how.get("max_steps") else f"{how.get('epochs')} epochs"
        adapter = "every weight" if not how.get("lora") else f"an adapter ({compact(how['lora'])})"
        told = f"{adapter}, learning rate {compact(how.get('learning_rate'))}, {length}"
    return [
        ("Method", method_name(run)),
        ("Seen in training", "not recorded" if seen is None else listed(seen)),
        ("Learned from", compact(run.find("summary.labels") or "not recorded")),
        ("Training", told),
    ]


def provenance(run: RunRecord) -> list[tuple[str, str]]:
    """Flatten the manifest, one line per entry."""
    lines: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            lines.append((prefix, compact(value)))

    walk("", run.manifest)
    return lines


def dropped(run: RunRecord) -> list[list[str]]:
    """Return what was left out: what, language, count and reason."""
    table = run.table("dropped", model=None)
    if table is None:
        return []
    return [
        [str(r["what"]), "" if pd.isna(r["language"]) else str(r["language"]), compact(None if pd.isna(r["n"]) else int(r["n"])), str(r["reason"])]
        for _, r in table.iterrows()
    ]


def doubtful(run: RunRecord) -> list[str]:
    """Return the languages in which the judge of refusal was not validated."""
    table = run.table("refusal")
    if table is None or "validated" not in table:
        return []
    return list(dict.fromkeys(table.loc[~table["validated"].astype(bool), "language"].astype(str)))
