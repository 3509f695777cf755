"""The protocol of repair by a gate: prompts in, run folder out; every long part resumable.

Examples come from the fit split, place and strength from the select split, and every number that is reported from the score split.
Replies given under edits are deleted once all are judged; what was judged is kept, without text.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
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
from workbench.gates import save_gate
from workbench.prompts.grid import PromptGrid
from workbench.prompts.sources import load_prompts
from workbench.repair.applied import KIND
from workbench.repair.gate import GateComparison, compare_replies
from workbench.repair.kinds import GATE
from workbench.repair.methods import decided
from workbench.repair.replies import GateReplies, answer_for_gates, answers_frame, answers_of
from workbench.repair.setting import GateSettings, gate_settings
from workbench.repair.strength import OracleStrength
from workbench.repair.summary import gate_summary
from workbench.repair.tables import Other, Protocol, gate_tables, meet_elsewhere, time_replies
from workbench.runs.asked import Asked, ask, chat_of, grid_of, listed
from workbench.runs.folder import Run, write_json
from workbench.runs.judge import judges_asked
from workbench.runs.selected import Note, judged_under_edits, selected_direction
from workbench.runs.setting import enough_tokens, is_organism, labels_hash, prompt_table

logger = logging.getLogger(__name__)

POSITIONS = ("t_inst", "t_post_inst")


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
    for name, value, least in (("k", k, 1), ("draws", draws, 3), ("graded_draws", graded_draws, 1), ("seed", seed, 0)):
        if value < least:
            raise DataError(f"{name}={value}. Expected at least {least}.")
    given = {"model": judge_model, "template": judge_template, "send_to": None, "cache": Path(out) / "judge.jsonl"}
    choice, fallback = judges_asked(judge, judge_fallback, given, redact=True, progress=progress)
    grid = grid_of(prompts, harmless, harmful, subset, languages, limit, seed, tiers, strip_punctuation)
    grid.drop_unusable()  # refuses a set without labels before a model is loaded
    sets = {name: load_prompts(name, allow_one_class=True) for name in elsewhere_sets}
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
    others = {name: Other(other, choose_judge(other, chat, refusals, judge=choice, fallback=fallback)) for name, other in sets.items()}
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
    protocol = Protocol(k, draws, graded_draws, new_tokens, seed, progress)
    acts = capture(chat, asked.grid, positions=POSITIONS, store=run.folder / "activations" / "after.zarr", progress=progress)
    run.save("prompts", prompt_table(acts, asked.grid))
    direction = _direction(run, asked, acts, notes, seed, progress)
    _note(run, asked, notes)  # a continued run does not choose again, and would not know why
    settings = gate_settings(acts, kept, reference=asked.reference, deepest=direction.layer, k=k, draws=draws, seed=seed)
    compared, replies = _compare(run, asked, kept, settings, direction, chosen, protocol)
    notes.extend(("gate", tag, None, one.caution) for tag, one in compared.gate.recalibrations_.items() if one.caution)
    gate_tables(run, acts, kept.tiers, settings, compared, replies, protocol)
    meet_elsewhere(run, asked, settings.ours, compared, direction, others, protocol, notes)
    time_replies(run, asked, kept, compared, direction, protocol)
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
        told = "; ".join(f"{tag}: {reason}" for _, tag, _, reason in notes)
        left_out = f" ({told})" if told else ""
        raise PromptError(
            f"There is no language to repair: {', '.join(asked.grid.languages)} are reference languages or cannot be judged under an edit"
            f"{left_out}. Expected others; give --reference, or a judge that can judge edited replies (--refusals FILE, markers, "
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
    run: Run, asked: Asked, grid: PromptGrid, settings: GateSettings, direction: Direction, judge: PerLanguageJudge, protocol: Protocol
) -> tuple[GateComparison, GateReplies]:
    kept = {"answers", "strength_answers", "oracle_strength", "multiples"}
    if kept <= set(run.results):  # replies are deleted, so they must not be asked for again
        tried = OracleStrength(
            run.result("oracle_strength").table, run.result("oracle_strength").provenance, answers_of(run.result("strength_answers").table)
        )
        replies = GateReplies(tried, answers_of(run.result("answers").table), run.result("multiples").table)
    else:
        rows = settings.by["one direction"]  # AdaSteer reads along one direction
        replies = answer_for_gates(
            asked.after, grid, direction, judge, source=rows.source, select=rows.select, score=rows.score, examples=rows.examples,
            graded_draws=min(protocol.graded_draws, protocol.draws), max_new_tokens=protocol.new_tokens, out=run.folder / "edited",
            progress=protocol.progress,
        )  # fmt: skip
        run.save("oracle_strength", replies.strength)
        if replies.strength.answered is not None:
            run.save("strength_answers", answers_frame(replies.strength.answered))
        run.save("multiples", replies.multiples)
        run.save("answers", answers_frame(replies.answered))
    compared = compare_replies(settings, replies, seed=protocol.seed)
    run.save("reading_places", settings.places)
    run.save("prices", compared.prices)
    run.save("decisions", decided(compared.answered, compared.runs[GATE]))
    run.save("repair_rates", compared.rates)
    run.save("repair_contrasts", compared.contrasts)
    told = {"seed": protocol.seed, "k": protocol.k, "prompts": grid.hash, "strength": replies.strength.strength, "direction": direction.metadata}
    save_gate(compared.gate, run.folder / "gate.safetensors", provenance=told)
    return compared, replies


def _forget(run: Run) -> None:
    """Delete replies made under edits: a model pushed to comply says what nobody should keep."""
    if (folder := run.folder / "edited").exists():
        shutil.rmtree(folder)


__all__ = ["repair_gate"]
