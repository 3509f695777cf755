"""The protocol of repair by a gate: prompts in, run folder out; every long part resumable.

Examples come from the fit split, place and strength from the select split, and every number that is reported from the score split.
Replies given under edits are deleted once all are judged; what was judged is kept, without text.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from workbench.activations.capture import capture
from workbench.behavior.choice import spec_of
from workbench.behavior.judges import PerLanguageJudge, choose_judge, read_refusals
from workbench.directions import Direction, harm_direction
from workbench.directions.select import SelectionRule
from workbench.errors import DataError, PromptError
from workbench.gates import gate_data, save_gate
from workbench.interventions.edits import Add
from workbench.interventions.routing import Route
from workbench.prompts.grid import PromptGrid
from workbench.prompts.sources import load_prompts
from workbench.repair.contestants import reader_of
from workbench.repair.elsewhere import ElsewhereRates, elsewhere
from workbench.repair.few_shot import KS, FewShot, few_shot
from workbench.repair.gate import GateComparison, compare_replies
from workbench.repair.kinds import GATE, PAPER, PRICED_AS_GIVEN
from workbench.repair.latency import latency
from workbench.repair.methods import recalibrated
from workbench.repair.replies import GateReplies, answer_for_gates, answers_frame, answers_of
from workbench.repair.roc import gate_roc, gate_scores
from workbench.repair.setting import GateSetting, GateSettings, gate_settings
from workbench.repair.strength import SCOPE, OracleStrength
from workbench.repair.strengths import strength_by_method
from workbench.repair.summary import gate_summary
from workbench.repair.transfer import gate_transfer
from workbench.runs.asked import Asked, ask, chat_of, grid_of, listed
from workbench.runs.folder import Run, write_json
from workbench.runs.judge import judges_asked
from workbench.runs.selected import Note, judged_under_edits, selected_direction
from workbench.runs.setting import enough_tokens, is_organism, labels_hash, prompt_table

logger = logging.getLogger(__name__)

POSITIONS = ("t_inst", "t_post_inst")
KIND = "gate repair"
#: Methods of the few-shot curve: our rule, the paper's, and the same rules on other scores.
_CURVES = (
    GATE, PRICED_AS_GIVEN, PAPER, "gate, unlabelled", "one direction, shrinkage", "Latent Guard, shrinkage", "CAST as published",
    "CAST signed, shrinkage",
)  # fmt: skip
#: Meanings per class and language that are timed.
TIMED = 4


@dataclass(frozen=True, eq=False)
class _Other:
    """Another prompt set and who judges it."""

    grid: PromptGrid
    judge: PerLanguageJudge


@dataclass(frozen=True)
class _Protocol:
    """The numbers of one comparison."""

    k: int
    draws: int
    graded_draws: int
    new_tokens: int
    seed: int
    progress: bool


def repair_gate(
    model: Any,
    *,
    prompts: str | Path | PromptGrid,
    harmless: str | None = None,
    harmful: str | None = None,
    subset: str | None = None,
    languages: Sequence[str] | str | None = None,
    reference: Sequence[str] | str | None = None,
    tiers: str | Path | None = None,
    template: str | None = None,
    system: str | None = None,
    limit: int | None = None,
    refusals: str | Path | None = None,
    judge: Any = "auto",
    judge_model: str | None = None,
    judge_template: str | Path | None = None,
    judge_fallback: Any = None,
    max_new_tokens: int | None = None,
    strip_punctuation: bool = False,
    k: int = 4,
    draws: int = 20,
    graded_draws: int = 5,
    elsewhere_sets: Sequence[str] = (),
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    out: str | Path = "runs/repair",
    trust_remote_code: bool = False,
    progress: bool = True,
) -> Run:
    """Repair a model's safety decision with a recalibrated gate, and measure it beside its rivals and controls.

    Parameters
    ----------
    model : str, path or ChatModel
        The model to repair; its weights stay as they are.
    prompts, harmless, harmful, subset, languages, limit, tiers, strip_punctuation
        As in :func:`workbench.prompts.sources.load_prompts`. ``limit`` is meanings per class.
    reference : sequence of str or "a,b", optional
        Languages the direction and the gates are fitted on; default the high tier. All others are repaired.
    template, system, dtype, device, trust_remote_code
        As in :func:`workbench.models.load.load_model`.
    refusals, judge, judge_model, judge_template, judge_fallback, max_new_tokens
        As in :func:`workbench.diagnosis.diagnose.diagnose`. A judge that sends replies away, or that was measured on unedited replies only, cannot
        judge a repair: its languages are left out, with a note.
    k : int
        Harmful, and harmless, labelled examples per language.
    draws : int
        How often the examples are drawn anew.
    graded_draws : int
        Draws for which methods that push each prompt by its own strength (AdaSteer) are generated.
    elsewhere_sets : sequence of str
        Other prompt sets (``NAME`` or ``NAME:PATH``) that the gate meets as it is: out of distribution.
    seed : int
        Of splits, draws and resamples.
    out : path
        Run folder, new or holding an unfinished run of the same request, which is continued.

    Returns
    -------
    Run
        ``run.folder``, ``run.summary``, ``run.result(name)``; ``gate.safetensors`` is recalibrated to the first draw's examples, and
        ``results/selected_direction.safetensors`` is what it pushes along.

    Raises
    ------
    PromptError, ModelError, DataError, StoreMismatchError
        For input that does not allow a repair, before anything long begins; no direction that passes the selection filters.

    Notes
    -----
    The protocol of Aziz et al. 2026 (arXiv:2606.01196), with every choice made on meanings that are not scored.

    Examples
    --------
    >>> run = repair_gate("organism:aligned", prompts="organism", k=4, out="runs/repair")  # doctest: +SKIP
    """
    for name, value, least in (("k", k, 1), ("draws", draws, 3), ("graded_draws", graded_draws, 1)):
        if value < least:
            raise DataError(f"{name}={value}. Expected at least {least}.")
    given = {"model": judge_model, "template": judge_template, "send_to": None, "cache": Path(out) / "judge.jsonl"}
    choice, fallback = judges_asked(judge, judge_fallback, given, redact=True, progress=progress)
    grid = grid_of(prompts, harmless, harmful, subset, languages, limit, seed, tiers, strip_punctuation)
    grid.drop_unusable()  # refuses a set without labels before a model is loaded
    sets = {name: load_prompts(name) for name in elsewhere_sets}
    chat = chat_of(model, {"template": template, "system": system, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code})
    spec = {
        "kind": KIND,
        "model": chat.provenance(),
        "prompts": grid.provenance | {"hash": grid.hash, "labels": labels_hash(grid, refusals)},
        "reference": listed(reference),
        "limit": limit,
        "k": k,
        "draws": draws,
        "graded_draws": graded_draws,
        "elsewhere": {name: labels_hash(other, None) for name, other in sets.items()},
        "seed": seed,
        "refusals": None if refusals is None else Path(refusals).name,
        "max_new_tokens": max_new_tokens,
        "positions": list(POSITIONS),
        "judge": spec_of(choice),
        "judge_fallback": spec_of(fallback),
    }
    found = Run.earlier(out, spec)
    new_tokens = max_new_tokens or enough_tokens(chat, grid)
    if refusals is not None:
        read_refusals(refusals)
    asked = ask(chat, None, grid, listed(reference), seed, new_tokens)
    chosen = choose_judge(asked.grid, chat, refusals, judge=choice, fallback=fallback)
    others = {name: _Other(other, choose_judge(other, chat, refusals, judge=choice, fallback=fallback)) for name, other in sets.items()}
    notes: list[Note] = []
    kept = _repairable(asked, chosen, k, notes)
    for note in chosen.notes:
        logger.info("%s", note)
    run = Run.start(out, spec)
    if found is not None:
        logger.info(
            "%s holds %s run of this request: what is missing is added.", run.folder, "a finished" if found == "finished" else "an unfinished"
        )
    run.update_manifest(
        kind=KIND,
        reference=asked.reference,
        languages={tag: {"name": asked.grid.names.get(tag, tag), "tier": tier} for tag, tier in kept.tiers.items()},
        splits={key: value for key, value in asked.grid.provenance.items() if key.startswith("split")} or "as the set has them",
        organism=is_organism(chat),
    )
    protocol = _Protocol(k, draws, graded_draws, new_tokens, seed, progress)
    acts = capture(chat, asked.grid, positions=POSITIONS, store=run.folder / "activations" / "after.zarr", progress=progress)
    run.save("prompts", prompt_table(acts, asked.grid))
    direction = _direction(run, asked, acts, notes, seed, progress)
    _note(run, asked, notes)  # a continued run does not choose again, and would not know why
    settings = gate_settings(acts, kept, reference=asked.reference, deepest=direction.layer, k=k, draws=draws, seed=seed)
    compared, replies = _compare(run, asked, kept, settings, direction, chosen, protocol)
    _gate_tables(run, acts, kept.tiers, settings, compared, replies, protocol)
    _elsewhere(run, asked, settings.ours, compared, direction, others, protocol, notes)
    _latency(run, asked, kept, compared, direction, protocol)
    _note(run, asked, notes)
    _forget(run)
    names = {"name": chat.name, "fingerprint": chat.fingerprint, "template": chat.template.hash, "system": chat.system}
    write_json(
        run.folder / "summary.json", gate_summary(run, model=names, tiers=kept.tiers, k=k, reads=settings.ours.source.place, direction=direction)
    )
    run.update_manifest(status="finished")
    return run


def _repairable(asked: Asked, judge: PerLanguageJudge, k: int, notes: list[Note]) -> PromptGrid:
    """Keep the languages whose edited replies can be judged, and see that each target has its examples."""
    judged = judged_under_edits(judge, asked.grid.languages, notes)
    targets = [tag for tag in judged if tag not in asked.reference]
    if not targets:
        left_out = "; ".join(f"{tag}: {reason}" for _, tag, _, reason in notes)
        raise PromptError(
            f"There is no language to repair: {', '.join(asked.grid.languages)} are reference languages or cannot be judged under an edit "
            f"({left_out}). Expected others; give --reference, or a judge that can judge edited replies (--refusals FILE, markers, "
            "classifier:MODEL, guard:MODEL)."
        )
    frame = asked.grid.frame[(asked.grid.frame["split"] == "fit") & asked.grid.frame["language"].isin(targets)]
    least = frame.groupby(["language", "harmful"])["meaning_id"].nunique().unstack(fill_value=0).reindex(targets, fill_value=0).min(axis=1)
    if least.min() < k:
        short = ", ".join(f"{tag} has {n}" for tag, n in least.items() if n < k)
        raise PromptError(
            f"k={k} harmful and {k} harmless examples per language were asked for, and the fit split holds fewer ({short}). "
            f"Expected k <= {int(least.min())}; ask for fewer, add prompts, or leave these languages out with --languages."
        )
    return asked.grid.select(languages=judged)


def _note(run: Run, asked: Asked, notes: list[Note]) -> None:
    """Keep what was left out, and why; notes of an earlier part of the run stay."""
    earlier = [run.result("dropped").table] if "dropped" in run.results else [asked.dropped]
    tables = [table for table in (*earlier, pd.DataFrame(notes, columns=["what", "language", "n", "reason"])) if len(table)] or earlier
    run.save("dropped", pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True))


def _rules(n_layers: int) -> tuple[SelectionRule, ...]:
    """Return the filters of Arditi et al., then without those that concern removing: a repair only adds.

    Theirs drop layer int(.8 x blocks) too; with 8 blocks layer 6 would go, at three quarters of the depth. Here every layer up to .8 of the
    blocks is tried.
    """
    depth = (int(0.8 * n_layers) + 1.5) / n_layers
    relaxed = SelectionRule(kl_max=None, induce_min=0.0, depth=depth)
    return SelectionRule(kl_max=0.1, induce_min=0.0, depth=depth), relaxed, SelectionRule(kl_max=None, induce_min=None, depth=None)


def _direction(run: Run, asked: Asked, acts: xr.Dataset, notes: list[Note], seed: int, progress: bool) -> Direction:
    """Choose layer and position on the select split; what was chosen before is read back."""
    path = run.folder / "results" / "selected_direction.safetensors"
    if path.is_file() and "selection" in run.results:
        return Direction.load(path)
    candidates = harm_direction(acts, asked.reference, split="fit")
    return selected_direction(
        run, asked.after, asked.grid, candidates, reference=asked.reference, notes=notes, seed=seed, progress=progress,
        rules=_rules(asked.after.n_layers),
    ).direction  # fmt: skip


def _compare(
    run: Run, asked: Asked, grid: PromptGrid, settings: GateSettings, direction: Direction, judge: PerLanguageJudge, protocol: _Protocol
) -> tuple[GateComparison, GateReplies]:
    if {"answers", "strength_answers", "oracle_strength"} <= set(run.results):  # replies are deleted, so they must not be asked for again
        tried = OracleStrength(
            run.result("oracle_strength").table, run.result("oracle_strength").provenance, answers_of(run.result("strength_answers").table)
        )
        replies = GateReplies(tried, answers_of(run.result("answers").table))
    else:
        rows = settings.by["one direction"]  # AdaSteer reads along one direction
        replies = answer_for_gates(
            asked.after, grid, direction, judge, source=rows.source, score=rows.score, examples=rows.examples,
            graded_draws=min(protocol.graded_draws, protocol.draws), max_new_tokens=protocol.new_tokens, out=run.folder / "edited",
            progress=protocol.progress,
        )  # fmt: skip
        run.save("oracle_strength", replies.strength)
        if replies.strength.answered is not None:
            run.save("strength_answers", answers_frame(replies.strength.answered))
        run.save("answers", answers_frame(replies.answered))
    compared = compare_replies(settings, replies, seed=protocol.seed)
    run.save("reading_places", settings.places)
    run.save("prices", compared.prices)
    run.save("repair_rates", compared.rates)
    run.save("repair_contrasts", compared.contrasts)
    told = {"seed": protocol.seed, "k": protocol.k, "prompts": grid.hash, "strength": replies.strength.strength, "direction": direction.metadata}
    save_gate(compared.gate, run.folder / "gate.safetensors", provenance=told)
    return compared, replies


def _gate_tables(
    run: Run, acts: xr.Dataset, tiers: Mapping[str, str | None], settings: GateSettings, compared: GateComparison, replies: GateReplies,
    protocol: _Protocol,
) -> None:  # fmt: skip
    """Everything that follows from states and judged replies: no model is asked."""
    ours, fitted = settings.ours, compared.methods[GATE].gate
    parts = []
    for place in dict.fromkeys(settings.by[reader_of(name)].source.place for name in _CURVES):
        rows = next(one for one in settings.by.values() if one.source.place == place)
        here = {name: compared.methods[name] for name in _CURVES if settings.by[reader_of(name)].source.place == place}
        parts.append(few_shot(
            replies.answered, rows.source, rows.score, rows.pool, rows.targets, here, ks=KS, draws=protocol.draws, seed=protocol.seed
        ))  # fmt: skip
    run.save("few_shot", FewShot(pd.concat([part.table for part in parts], ignore_index=True), parts[0].provenance))
    run.save("repair_strength", strength_by_method(
        replies.strength, ours.select, ours.examples, {GATE: compared.methods[GATE]}, seed=protocol.seed
    ))  # fmt: skip
    run.save("gate_roc", gate_roc(fitted, compared.gate, ours.score, tiers))
    run.save("gate_scores", gate_scores(fitted, compared.gate, ours.score, tiers))
    place = ours.source.place
    everything = gate_data(acts, place.layer, place.position, languages=[*ours.source.languages, *ours.targets])
    run.save("gate_transfer", gate_transfer(everything, tiers, seed=protocol.seed))


def _elsewhere(
    run: Run, asked: Asked, setting: GateSetting, compared: GateComparison, direction: Direction, others: Mapping[str, _Other], protocol: _Protocol,
    notes: list[Note],
) -> None:  # fmt: skip
    """Let the gate meet other prompt sets as it is; what a set does not allow is noted, and everything else stands."""
    if not others or "elsewhere" in run.results:
        return
    fitted, policy = compared.methods[GATE]
    gates = {GATE: [recalibrated(fitted, shown, policy) for shown in setting.examples.examples]}
    seen = set(asked.grid.frame.loc[asked.grid.frame["split"] != "score", "meaning_id"])
    tables: list[pd.DataFrame] = []
    for name, other in others.items():
        try:
            kept = other.grid.select(languages=judged_under_edits(other.judge, other.grid.languages, notes))
            if name.partition(":")[0] == str(asked.grid.provenance.get("source", "")).partition(":")[0]:  # the same meanings, asked differently
                kept = PromptGrid(kept.frame[~kept.frame["meaning_id"].isin(seen)].reset_index(drop=True), provenance=kept.provenance)
            found = elsewhere(
                asked.after, kept, gates, direction, compared.strength.strength, other.judge, name=name, max_new_tokens=protocol.new_tokens,
                out=run.folder / "edited" / f"elsewhere-{len(tables)}", seed=protocol.seed, progress=protocol.progress,
            )  # fmt: skip
            tables.append(found.table)
        except (DataError, PromptError) as reason:
            notes.append(("elsewhere", "all", None, f"{name}: {reason}"))
    if tables:
        run.save("elsewhere", ElsewhereRates(pd.concat(tables, ignore_index=True), {"sets": list(others)}))


def _latency(run: Run, asked: Asked, grid: PromptGrid, compared: GateComparison, direction: Direction, protocol: _Protocol) -> None:
    """Time plain replies against routed ones on a few scored prompts."""
    if "latency" in run.results:
        return
    few = grid.select(split="score").limit(TIMED, seed=protocol.seed)
    route = Route(compared.gate, flagged=Add(direction, compared.strength.strength, "gap", scope=SCOPE), languages=few)
    run.save("latency", latency(asked.after, few, route, max_new_tokens=protocol.new_tokens))


def _forget(run: Run) -> None:
    """Delete replies made under edits: a model pushed to comply says what nobody should keep."""
    if (folder := run.folder / "edited").exists():
        shutil.rmtree(folder)


__all__ = ["KIND", "repair_gate"]
