"""Repair a model by training, and measure it as it was before: one call, one run folder."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.alignment.defaults import config_for, method_for
from workbench.alignment.engine import TrainedModel
from workbench.alignment.guard import guard
from workbench.alignment.measured import Asker, answer_with, asker, rates_of
from workbench.alignment.monitored import gaps_of, monitor_of, scorable
from workbench.alignment.msd import MSD
from workbench.alignment.prepared import Prepared, Wanted, notes_table, prepare
from workbench.alignment.reply_monitor import collapse_notes, start_weights
from workbench.alignment.reward_gaps import Pairs
from workbench.alignment.settings import method_with
from workbench.alignment.trainers import METHODS, train
from workbench.alignment.written import write_weights
from workbench.behavior.choice import spec_of
from workbench.behavior.judges import PerLanguageJudge, choose_judge, read_refusals
from workbench.errors import DataError, PromptError, WorkbenchError, did_you_mean
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.repair.actions import Answered
from workbench.repair.kinds import UNREPAIRED
from workbench.repair.replies import answers_frame, answers_of
from workbench.runs.asked import Asked, ask, chat_of, grid_of, listed
from workbench.runs.folder import Run, write_json
from workbench.runs.judge import judges_asked
from workbench.runs.selected import Note, judged_under_edits
from workbench.runs.setting import enough_tokens, is_organism, labels_hash
from workbench.runs.summary import figure

logger = logging.getLogger(__name__)

KIND, SCHEMA = "training repair", "workbench-training/1"
#: What the table calls the weights of a method that is meant to be asked with more in front of it.
ALONE = "weights alone"


def repair_training(
    method: str,
    model: Any,
    *,
    prompts: str | Path | PromptGrid,
    preferences: str | Path | None = None,
    max_complying: float = 0.05,
    train_languages: Sequence[str] | str | None = None,
    interpreter_languages: Sequence[str] | str | None = None,
    layer: int | None = None,
    options: Any = None,
    settings: Sequence[str] | None = None,
    reasoning: bool = False,
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
    learning_rate: float | None = None,
    epochs: float | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    accumulation: int | None = None,
    lora_rank: int | None = None,
    allow_loss: bool = False,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    out: str | Path = "runs/training",
    trust_remote_code: bool = False,
    progress: bool = True,
) -> Run:
    """Train a repair on the fit split, watch it on the select split, and score it beside its start on the score split.

    Parameters
    ----------
    method : {"lasa", "msd", "dpo", "kto", "sft", "mpo", "mlc"}
        What is optimised (:mod:`workbench.alignment.trainers`).
    model : str, path or ChatModel
        The start; it stays as it is.
    prompts, harmless, harmful, subset, languages, limit, tiers, strip_punctuation
        As in :func:`workbench.prompts.sources.load_prompts`. ``limit`` is meanings per class.
    preferences : path, optional
        Pairs to learn (:func:`workbench.alignment.preference.load_preferences`); without it they are made of the prompts' keys. MSD needs none.
    max_complying : float
        Largest share of harmful pairs whose chosen reply may comply. They are dropped and counted; more of them stop the run.
    train_languages : sequence of str or "a,b", optional
        Languages trained in. Default: those of the preference file; without one the reference languages where replies are learned (sft, dpo, kto,
        lasa), and the others for msd, mpo and mlc.
    interpreter_languages, layer
        LASA: languages the interpreter is fitted in (default all), and the layer it reads (default the bottleneck, found on what is not scored).
    options : Method, optional
        The method's own settings, such as ``MSD(on_policy=False)``.
    settings : sequence of str, optional
        Settings as words (``"beta=0.2"``), put in place of the defaults that suit the model.
    reasoning : bool
        MSD on a real model: the teacher writes its judgement first.
    reference : sequence of str or "a,b", optional
        Languages a repair is made from; default the high tier.
    template, system, dtype, device, trust_remote_code
        As in :func:`workbench.models.load.load_model`.
    refusals, judge, judge_model, judge_template, judge_fallback, max_new_tokens
        As in :func:`workbench.repair.run.repair_gate`.
    learning_rate, epochs, max_steps, batch_size, accumulation, lora_rank
        In place of the method's defaults (:mod:`workbench.alignment.defaults`).
    allow_loss : bool
        Write weights although held-out harmful refusal falls in a language; the model card says so.
    seed : int
        Of splits, order, sampled replies and resamples.
    out : path
        Run folder; an unfinished run of the same request is continued, its training from the last checkpoint.

    Returns
    -------
    Run
        ``run.folder / "model"`` is what every other command takes; tables as in docs/run-folder.md.

    Raises
    ------
    PromptError, ModelError, DataError, StoreMismatchError
        For input that does not allow a repair; for MSD, a teacher that has nothing to transfer; a repair that lowers harmful refusal.
    TrainingError
        A loss that is not finite; the last good checkpoint is kept.

    Examples
    --------
    >>> run = repair_training("msd", "organism:aligned", prompts="organism", out="runs/msd")  # doctest: +SKIP
    """
    if method not in METHODS:
        raise DataError(f"There is no training {method!r}. Expected one of {', '.join(METHODS)}.{did_you_mean(method, METHODS)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError(
            f"A repair was started by {os.environ['WORLD_SIZE']} processes. Expected one: it also generates and scores. Train with several by "
            "workbench.alignment.trainers.train under `accelerate launch`, and measure what it saved by `workbench diagnose`."
        )
    method_with(method, settings or [])  # before anything is loaded
    given = {"model": judge_model, "template": judge_template, "send_to": None, "cache": Path(out) / "judge.jsonl"}
    choice, fallback = judges_asked(judge, judge_fallback, given, redact=True, progress=progress)
    grid = grid_of(prompts, harmless, harmful, subset, languages, limit, seed, tiers, strip_punctuation)
    grid.drop_unusable()
    chat = chat_of(model, {"template": template, "system": system, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code})
    config = config_for(
        method, organism=is_organism(chat), seed=seed, lora_rank=lora_rank, learning_rate=learning_rate, epochs=epochs, max_steps=max_steps,
        batch_size=batch_size, accumulation=accumulation,
    )  # fmt: skip
    if settings:
        options = method_with(method, settings, options or method_for(method, organism=is_organism(chat)))
    wanted = Wanted(preferences, listed(train_languages), listed(interpreter_languages), layer, options, reasoning, refusals, choice, max_complying)
    spec = {
        "kind": KIND,
        "method": method,
        "model": chat.provenance(),
        "prompts": grid.provenance | {"hash": grid.hash, "labels": labels_hash(grid, refusals)},
        "preferences": None if preferences is None else {"name": Path(preferences).name, "hash": _hash(preferences)},
        "max_complying": max_complying,
        "train_languages": wanted.train_languages,
        "interpreter_languages": wanted.interpreter_languages,
        "layer": layer,
        "options": repr(options),
        "reasoning": reasoning,
        "training": config.decisive(),
        "reference": listed(reference),
        "limit": limit,
        "seed": seed,
        "refusals": None if refusals is None else Path(refusals).name,
        "max_new_tokens": max_new_tokens,
        "judge": spec_of(choice),
        "judge_fallback": spec_of(fallback),
    }
    wanted.require_for(method)
    Run.earlier(out, spec)
    new_tokens = max_new_tokens or enough_tokens(chat, grid)
    if refusals is not None:
        read_refusals(refusals)
    asked = ask(chat, None, grid, listed(reference), seed, new_tokens)
    chosen = choose_judge(asked.grid, chat, refusals, judge=choice, fallback=fallback)
    notes: list[Note] = []
    judged = judged_under_edits(chosen, asked.grid.languages, notes)
    if not judged:
        told = "; ".join(dict.fromkeys(reason for _, _, _, reason in notes))
        raise PromptError(
            f"There is no language in which a trained model's replies can be judged ({told}). Expected a column refusal, openings that refuse "
            "(--refusals FILE), or a judge for them (--judge markers, classifier:MODEL, guard:MODEL)."
        )
    kept = asked.grid.select(languages=judged)
    run = Run.start(out, spec)
    run.update_manifest(
        kind=KIND,
        method=method,
        reference=asked.reference,
        languages={tag: {"name": kept.names.get(tag, tag), "tier": tier} for tag, tier in kept.tiers.items()},
        splits={key: value for key, value in kept.provenance.items() if key.startswith("split")} or "as the set has them",
        organism=is_organism(chat),
    )
    try:
        _repair(
            run, method, chat, asked, kept, chosen, wanted, config, notes,
            new_tokens=new_tokens, allow_loss=allow_loss, seed=seed, progress=progress,
        )  # fmt: skip
    except WorkbenchError:
        # refused before anything was measured: the mended request can go where this one was
        if set(run.results) <= {"dropped"} and not (run.folder / ".training").exists():
            shutil.rmtree(run.folder)
        raise
    run.update_manifest(status="finished")
    return run


def _repair(
    run: Run, method: str, chat: ChatModel, asked: Asked, grid: PromptGrid, judge: PerLanguageJudge, wanted: Wanted, config: Any,
    notes: list[Note], *, new_tokens: int, allow_loss: bool, seed: int, progress: bool,
) -> None:  # fmt: skip
    shutil.rmtree(run.folder / "model", ignore_errors=True)  # of an earlier call that was allowed more
    (run.folder / "summary.json").unlink(missing_ok=True)
    prepared = prepare(
        method, run, chat, grid, judge, wanted, reference=asked.reference, new_tokens=new_tokens, seed=seed, progress=progress
    )  # fmt: skip
    notes += prepared.notes
    left_out = [table for table in (asked.dropped, notes_table(notes)) if len(table)]
    run.save("dropped", pd.concat(left_out, ignore_index=True) if left_out else notes_table([]))
    if isinstance(prepared.method, MSD) and "token_weights" not in run.results:
        weighed = start_weights(chat, prepared.held_out, prepared.method, tiers=grid.tiers, batch_size=config.batch_size, seed=seed)
        run.save("token_weights", weighed)
    pairs = scorable(chat, grid, prepared, seed=seed)
    watched = monitor_of(chat, grid, judge, prepared, pairs.get("own"), new_tokens=new_tokens, seed=seed)
    trained = train(prepared.method, chat, prepared.data, config, run.folder, watched, progress=progress, keep_checkpoints=True)
    run.save("training_curve", trained.history)
    warnings = [*_not_readable(prepared), *collapse_notes(trained.history)]
    for sentence in warnings:
        logger.warning("%s", sentence)
    run.update_manifest(warnings=warnings)
    cost = {"seconds": trained.seconds, "steps": trained.steps, "tokens": trained.tokens, "trained_parameters": trained.trained_parameters}
    needed = {"labelled_prompts": prepared.labelled, "parallel_queries": prepared.parallel}
    run.save("cost", pd.DataFrame([{"method": method} | cost | needed]))
    repaired = trained.chat(chat, f"{chat.name} + {method}")
    askers = {UNREPAIRED: asker(chat), **_asked(method, prepared, repaired)}
    if pairs:
        run.save("reward_gaps", gaps_of(_scored(method, chat, repaired, pairs), reference=asked.reference))
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "progress": progress}
    held_out = answer_with(askers, grid.select(split="select"), judge, out=run.folder / "edited" / "select", **options)
    guarded = guard(held_out, UNREPAIRED, [name for name in held_out.actions if name != UNREPAIRED])
    run.save("guard", guarded)
    answered = answer_with(askers, grid.select(split="score"), judge, out=run.folder / "edited" / "score", **options)
    run.save("answers", answers_frame(answered))
    _count(run, method, asked, prepared, answered, seed)
    shutil.rmtree(run.folder / "edited", ignore_errors=True)  # what a model under repair says of harmful prompts nobody should keep
    if guarded.lowered and not allow_loss:
        shutil.rmtree(run.folder / ".training", ignore_errors=True)  # checkpoints are weights too
    guarded.require(allowed=allow_loss)
    write_weights(run.folder / "model", trained, chat, prepared, guarded, method=method, allowed=allow_loss, seed=seed)
    shutil.rmtree(run.folder / ".training", ignore_errors=True)
    _summarise(run, method, chat, grid, prepared, trained, warnings)


def _hash(path: str | Path) -> str | None:
    """Hash a file's bytes (16 hex digits); what cannot be read is told where it is read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def _not_readable(prepared: Prepared) -> list[str]:
    if not prepared.unreadable:
        return []
    return [
        f"The interpreter is not shown to be better than chance on the select split in {', '.join(prepared.unreadable)}: harm is not readable there "
        "with so many prompts. Leave these languages out of --interpreter-languages, read another --layer, or give more prompts."
    ]


def _scored(method: str, chat: ChatModel, repaired: ChatModel, pairs: dict[str, Pairs]) -> dict[str, tuple[ChatModel, Pairs]]:
    """Return what reward gaps are measured of: the start, the trained model as it is asked, and its weights alone where that is something else."""
    ways = {UNREPAIRED: (chat, pairs["plain"]), method: (repaired, pairs["own"])}
    return ways if pairs["own"] is pairs["plain"] else ways | {f"{method}, {ALONE}": (repaired, pairs["plain"])}


def _asked(method: str, prepared: Prepared, repaired: ChatModel) -> dict[str, Asker]:
    """Return every way the repaired model is asked, the method's own first."""
    more = prepared.asked(repaired)
    return {**more, f"{method}, {ALONE}": asker(repaired)} if more else {method: asker(repaired)}


def _count(run: Run, method: str, asked: Asked, prepared: Prepared, answered: Answered, seed: int) -> None:
    labels = {name: "none" if name == UNREPAIRED else prepared.labels for name in answered.actions}
    rates, contrasts = rates_of(answered, start=UNREPAIRED, seen=prepared.seen, reference=asked.reference, labels=labels, seed=seed)
    run.save("repair_rates", rates)
    run.save("repair_contrasts", contrasts)


def _summarise(
    run: Run, method: str, chat: ChatModel, grid: PromptGrid, prepared: Prepared, trained: TrainedModel, warnings: list[str]
) -> None:  # fmt: skip
    methods: dict[str, Any] = {}
    for _, row in run.result("repair_rates").table.iterrows():
        methods.setdefault(str(row["method"]), {}).setdefault(str(row["language"]), {})[str(row["statistic"])] = figure(row)
    differences: dict[str, Any] = {}
    for _, row in run.result("repair_contrasts").table.iterrows():
        differences.setdefault(str(row["method"]), {}).setdefault(str(row["language"]), {})[str(row["statistic"])] = figure(row)
    summary = {
        "schema": SCHEMA,
        "model": {"name": chat.name, "fingerprint": chat.fingerprint, "template": chat.template.hash, "system": chat.system},
        "languages": {tag: {"tier": tier, "seen": tag in prepared.seen} for tag, tier in grid.tiers.items()},
        "method": method,
        "unrepaired": UNREPAIRED,
        "labels": prepared.labels,
        "cost": {"seconds": trained.seconds, "steps": trained.steps, "tokens": trained.tokens, "trained_parameters": trained.trained_parameters},
        "methods": methods,
        "differences": differences,
        "repaired": "model",
        "warnings": warnings,
    }
    if prepared.unreadable is not None:
        summary["unreadable"] = prepared.unreadable
    write_json(run.folder / "summary.json", summary)


__all__ = ["KIND", "answers_of", "repair_training"]
