"""Prompts in, run folder out: every measurement of the main job, in order, each resumable."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.activations.capture import capture
from workbench.behavior.choice import spec_of
from workbench.behavior.judges import PerLanguageJudge, choose_judge, read_refusals
from workbench.diagnosis import measure
from workbench.diagnosis.decide import decide
from workbench.diagnosis.gated import measure_waterfall
from workbench.diagnosis.geometry import measure_geometry, measure_retrieval, tell_what_is_left_out
from workbench.diagnosis.harm import measure_harm
from workbench.diagnosis.hypotheses import Hypothesis
from workbench.diagnosis.restoration import measure_restoration
from workbench.diagnosis.steering import measure_steering
from workbench.diagnosis.summary import summarise
from workbench.diagnosis.understanding import understanding
from workbench.directions import Directions
from workbench.geometry.bottleneck import Bottleneck
from workbench.models.chat import ChatModel
from workbench.models.load import load_model, untrained_like
from workbench.prompts.grid import PromptGrid
from workbench.runs.asked import Asked, ask, chat_of, grid_of, listed
from workbench.runs.folder import Run, write_json
from workbench.runs.judge import judges_asked
from workbench.runs.selected import Note
from workbench.runs.setting import enough_tokens, is_organism, labels_hash, prompt_table

logger = logging.getLogger(__name__)

POSITIONS = ("t_inst", "t_post_inst")
HEADLINE_POSITION = "t_inst"


def diagnose(
    model: Any,
    *,
    prompts: str | Path | PromptGrid,
    before: Any = None,
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
    send_to: str | None = None,
    max_new_tokens: int | None = None,
    strip_punctuation: bool = False,
    null_seeds: int = 3,
    steer: int = 16,
    walk: int = 32,
    hypotheses: Sequence[Hypothesis] = (),
    quick: bool = False,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    out: str | Path = "runs/diagnosis",
    redact: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> Run:
    """Measure where a multilingual chat model's safety decision fails, and write it all to a run folder.

    Parameters
    ----------
    model : str, path or ChatModel
        The model to diagnose ("after" alignment); also ``"organism:aligned"``. A model in memory comes as
        ``load_model(model, tokenizer=tokenizer)``.
    prompts : str, path or PromptGrid
        ``NAME``, ``NAME:PATH``, a file, or a grid.
    before : optional
        The model before alignment; it is asked with the diagnosed model's template.
    harmless, harmful, subset, languages, limit, tiers, strip_punctuation
        As in :func:`workbench.prompts.sources.load_prompts`. ``limit`` is meanings per class.
    reference : sequence of str or "a,b", optional
        Languages the harm direction and the transferred threshold come from; default the high tier.
    template, system, dtype, device, trust_remote_code
        As in :func:`workbench.models.load.load_model`.
    refusals : path, optional
        CSV of ``language,text``: openings that count as a refusal.
    judge : str or Judge
        Who says what is a refusal: "auto", "markers", "first_token", "classifier:MODEL", "guard:MODEL", "endpoint", "stereotype", or a judge
        of your own (:mod:`workbench.behavior.choice`).
    judge_model, judge_template, judge_fallback
        The model of a classifier, guard or endpoint; a guard model's question; what judges languages that the judge cannot serve.
    send_to : str, optional
        Address of the endpoint judge: giving it is the consent to send every scored prompt and its reply there. Not with ``redact``.
    max_new_tokens : int, optional
        Default: enough for the longest keyed answer where there is a key, else 48.
    null_seeds : int
        Untrained copies of the model that harm must beat; fewer than 3 leave "represented" undecided.
    steer : int
        Meanings per class and language that are answered with the chosen direction removed, with it added at several strengths, and with
        random directions in its place (about 30 replies to each prompt); 0 acts on nothing.
    walk : int
        Meanings per class and language that the waterfall asks under a gate's edit and under random ones (6 or 12 replies to each prompt of a
        language that is no reference); 0, or ``steer=0``, leaves it out, and with it the subtype of an actuation failure.
    hypotheses : sequence of Hypothesis
        Further ones to test on the run's tables (:mod:`workbench.diagnosis.hypotheses`); verdicts do not depend on them.
    quick : bool
        Measure what the verdicts need and no more: no geometry, no language track, no sweep of strengths, no restoration map. It takes
        about a third of the time and comes to the same verdicts.
    seed : int
        Of splits, draws and resamples.
    out : path
        Run folder, new or holding an unfinished run of the same request, which is continued.
    redact : bool
        Keep no reply text at all once it has been judged.
    progress : bool
        Show bars.

    Returns
    -------
    Run
        ``run.folder``, ``run.summary``, ``run.result(name)``.

    Raises
    ------
    PromptError, ModelError, StoreMismatchError
        For input that does not allow a diagnosis, before anything long begins.

    Examples
    --------
    >>> run = diagnose("organism:aligned", before="organism:helpful", prompts="organism", out="runs/demo")  # doctest: +SKIP
    """
    wanted = {"model": judge_model, "template": judge_template, "send_to": send_to, "cache": Path(out) / "judge.jsonl"}
    choice, fallback = judges_asked(judge, judge_fallback, wanted, redact=redact, progress=progress)
    grid = grid_of(prompts, harmless, harmful, subset, languages, limit, seed, tiers, strip_punctuation)
    grid.drop_unusable()  # refuses a set without labels before a model is loaded
    options: dict[str, Any] = {"template": template, "system": system, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    after = chat_of(model, options)
    spec = {
        "model": after.provenance(),
        "before": None if before is None else before.name if isinstance(before, ChatModel) else str(before),
        "prompts": grid.provenance | {"hash": grid.hash, "labels": labels_hash(grid, refusals)},
        "reference": listed(reference),
        "limit": limit,
        "null_seeds": null_seeds,
        "seed": seed,
        "refusals": None if refusals is None else Path(refusals).name,
        "max_new_tokens": max_new_tokens,
        "positions": list(POSITIONS),
        "steer": steer,
        "walk": walk,
        "judge": spec_of(choice),
        "judge_fallback": spec_of(fallback),
    } | ({"quick": True} if quick else {})
    found = Run.earlier(out, spec)
    new_tokens = max_new_tokens or enough_tokens(after, grid)
    if refusals is not None:
        read_refusals(refusals)
    earlier = None
    if isinstance(before, ChatModel):
        earlier = replace(before, template=after.template, system=after.system)
    elif before is not None:
        with tempfile.TemporaryDirectory() as place:
            shared = Path(place) / "template.jinja"
            shared.write_text(after.template.text, encoding="utf-8")
            given = template if after.template.kind == "raw" else str(shared)
            earlier = load_model(before, **{**options, "template": given, "system": after.system})
    asked = ask(after, earlier, grid, listed(reference), seed, new_tokens)
    chosen = choose_judge(asked.grid, asked.after, refusals, judge=choice, fallback=fallback)
    for note in chosen.notes:
        logger.info("%s", note)
    # nothing is written before all of the request is known to be good: a corrected request may use the same folder
    run = Run.start(out, spec)
    if found is not None:
        done = "a finished" if found == "finished" else "an unfinished"
        logger.info("%s holds %s run of this request: its activations and replies are used again, what is missing is added.", run.folder, done)
    if earlier is not None:
        (run.folder / "template.jinja").write_text(after.template.text, encoding="utf-8")
    run.update_manifest(
        before=None if earlier is None else earlier.provenance(),
        reference=asked.reference,
        languages={tag: {"name": asked.grid.names.get(tag, tag), "tier": tier} for tag, tier in asked.grid.tiers.items()},
        splits={k: v for k, v in asked.grid.provenance.items() if k.startswith("split")} or "as the set has them",
        organism=is_organism(after),
    )
    run.save("dropped", asked.dropped)
    _measure(
        run, asked, judge=chosen, new_tokens=new_tokens, null_seeds=null_seeds, steer=steer, walk=walk, hypotheses=hypotheses, quick=quick, seed=seed,
        redact=redact, progress=progress,
    )  # fmt: skip
    run.update_manifest(status="finished")
    return run


def _measure(
    run: Run,
    asked: Asked,
    *,
    judge: PerLanguageJudge,
    new_tokens: int,
    null_seeds: int,
    steer: int,
    walk: int,
    hypotheses: Sequence[Hypothesis],
    quick: bool,
    seed: int,
    redact: bool,
    progress: bool,
) -> None:
    grid = asked.grid
    stores = run.folder / "activations"
    acts = capture(asked.after, grid, positions=POSITIONS, store=stores / "after.zarr", progress=progress)
    earlier = None if asked.before is None else capture(asked.before, grid, positions=POSITIONS, store=stores / "before.zarr", progress=progress)
    untrained = [
        capture(untrained_like(asked.after, s), grid, positions=POSITIONS, store=stores / f"untrained-{s}.zarr", progress=progress)
        for s in range(seed, seed + null_seeds)
    ]
    run.save("prompts", prompt_table(acts, grid))
    run.save("tokens_per_character", measure.tokens_per_character(acts))

    found = measure_harm(run, asked, acts, earlier, untrained, seed)
    if quick:
        tell_what_is_left_out(run, asked)
        bottleneck = pd.DataFrame(columns=[*Bottleneck.required, "model"])
    else:
        bottleneck = measure_geometry(run, asked, acts, earlier, untrained, found.layers, seed=seed, progress=progress)

    outcomes, refusal = measure.behaviour(run, asked.after, grid, judge=judge, new_tokens=new_tokens, redact=redact, progress=progress)
    run.save("outcomes", outcomes)
    run.save("refusal", refusal)
    harm = Directions.load(run.folder / "results" / "harm_direction.safetensors")
    steered = measure_steering(
        run, asked, acts, harm, judge, n=steer, new_tokens=new_tokens, select_only=quick, seed=seed, redact=redact, progress=progress
    )  # fmt: skip
    answers = measure.answered_right(outcomes)
    keyless = [tag for tag in grid.languages if tag not in set(answers.loc[answers["value"].notna(), "language"])]
    bits = None
    if keyless:
        bits = measure.bits(asked.after, grid.select(languages=keyless), rng=np.random.default_rng(seed))
        run.save("bits_per_byte", bits)
        if quick:
            measure_retrieval(run, asked, acts, untrained, seed)
    retrieval = run.result("retrieval").table if "retrieval" in run.results else None
    known = understanding(grid.tiers, answers=answers, retrieval=measure.headline_retrieval(retrieval, POSITIONS), bits=bits)
    run.save("understanding", known)
    lost = [str(tag) for tag in known.loc[known["understood"] == "no", "language"]]
    notes: list[Note] = []
    walked = measure_waterfall(
        run, asked, acts, outcomes, judge, notes, leave_out=lost, n=walk if steer else 0, new_tokens=new_tokens, seed=seed, redact=redact,
        progress=progress,
    )  # fmt: skip
    left_out = [run.result("dropped").table, steered.notes, pd.DataFrame(notes, columns=["what", "language", "n", "reason"])]
    run.save("dropped", pd.concat([table for table in left_out if len(table)] or left_out[:1], ignore_index=True))

    names = {"name": asked.after.name, "fingerprint": asked.after.fingerprint}
    earlier_names = None if asked.before is None else {"name": asked.before.name, "fingerprint": asked.before.fingerprint}
    summary = summarise(
        model=names | {"template": asked.after.template.hash, "system": asked.after.system},
        before=earlier_names,
        tiers=grid.tiers,
        bottleneck=bottleneck,
        refusal=refusal,
        represented=found.represented,
        auroc=found.both,
        thresholds=found.thresholds,
        understanding=known,
        headline_position=HEADLINE_POSITION,
    )
    for tag, entry in decide(run, asked, found, outcomes, known, walked, hypotheses=hypotheses).items():
        summary["languages"][tag] |= entry
    write_json(run.folder / "summary.json", summary | {"steering": steered.summary})
    if steer and not quick:
        measure_restoration(run, asked, acts, harm, seed=seed, progress=progress)
