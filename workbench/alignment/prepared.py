"""What each method needs before its first step: rows to learn, an interpreter, a teacher, and how the trained model is asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.activations.capture import capture
from workbench.alignment.conditioning import SENTENCE, conditioned, organism_condition
from workbench.alignment.defaults import method_for
from workbench.alignment.distillation import Query, judgements, queries_of, query_pairs
from workbench.alignment.interpreter import SafetyInterpreter
from workbench.alignment.interpreter_layers import ReadingLayer, compare_layers, interpreter_by_layer, layers_to_compare, reading_layer
from workbench.alignment.interpreter_scores import permuted_interpreters, score_interpreter
from workbench.alignment.measured import Asker
from workbench.alignment.msd import MSD
from workbench.alignment.preference import PreferenceSet, load_preferences, preferences_from_grid
from workbench.alignment.teacher import choose_context
from workbench.alignment.trainers import LASA, METHODS, MLC, MPO, Method, name_of
from workbench.alignment.transfer import flip_rate, foreseen, require_transfer
from workbench.behavior.judges import PerLanguageJudge
from workbench.errors import DataError, did_you_mean
from workbench.gates.place import gate_data
from workbench.geometry import find_bottleneck, silhouettes
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.runs.folder import Run
from workbench.runs.selected import Note
from workbench.runs.setting import is_organism

#: Interpreters with permuted labels beside the one that is used.
CONTROLS = 5
#: Meanings per class and language that are looked at while training, and before it.
MONITORED = 24
POSITION = "t_inst"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A method with its rows.

    Attributes
    ----------
    method : Method
    data : PreferenceSet or list of Query
    seen : list of str
        Languages that some training text is in.
    labels : str
        Which labels and replies it uses, for the table of all repairs.
    asked : callable
        Trained model -> further ways to ask it, by name.
    beside : callable
        Writes into a folder what belongs beside the weights.
    notes : list
        What was left out, and why.
    labelled, parallel : int
        Prompts whose label or reply is learned from, and queries that a twin in the reference language must stand beside; over all languages.
    inserts : callable, optional
        Prompts and their languages -> what stands between each and its reply (token ids or None) where the method puts something there.
    held_out : list of Query
        MSD: queries of the select split, by which token weights are shown.
    unreadable : list of str, optional
        LASA: languages that the interpreter was fitted in without being better than chance there; None for other methods.
    """

    method: Method
    data: Any
    seen: list[str]
    labels: str
    asked: Callable[[ChatModel], dict[str, Asker]] = lambda _: {}
    beside: Callable[[Path], None] = lambda _: None
    notes: list[Note] = field(default_factory=list)
    labelled: int = 0
    parallel: int = 0
    inserts: Callable[[Sequence[str], Sequence[str]], list[Any]] | None = None
    held_out: list[Query] = field(default_factory=list)
    unreadable: list[str] | None = None


@dataclass(frozen=True)
class Wanted:
    """What a user asks of a method beyond the loop's settings.

    Attributes
    ----------
    preferences : path, optional
        File of pairs; without it they are made of the prompts' keys.
    train_languages : list of str, optional
        Languages that are trained in. Default: those of the preference file; without one the reference languages for methods that learn replies
        (sft, dpo, kto, lasa), all others for those
        that carry something over to them (msd, mpo, mlc).
    interpreter_languages : list of str, optional
        LASA: languages the interpreter is fitted in; default all.
    layer : int, optional
        LASA: where the interpreter reads; default the bottleneck.
    options : Method, optional
        The method's own settings.
    reasoning : bool
        MSD: let the teacher write its judgement first.
    refusals, judge
        Who says whether a chosen reply complies, as for the replies that are scored.
    max_complying : float
        Largest share of harmful pairs whose chosen reply may comply; they are dropped, more of them stop the run.
    """

    preferences: str | Path | None = None
    train_languages: list[str] | None = None
    interpreter_languages: list[str] | None = None
    layer: int | None = None
    options: Method | None = None
    reasoning: bool = False
    refusals: str | Path | None = None
    judge: Any = "auto"
    max_complying: float = 0.05

    def require_for(self, name: str) -> None:
        """Refuse what another method needs: it would be left aside in silence.

        Raises
        ------
        DataError
            Naming the option and its methods.
        """
        others = tuple(method for method in METHODS if method != "msd")
        given = {
            "--preferences": (self.preferences, others),
            "--interpreter-languages": (self.interpreter_languages, ("lasa",)),
            "--layer": (self.layer, ("lasa",)),
            "--reasoning": (self.reasoning or None, ("msd",)),
        }
        for option, (value, methods) in given.items():
            if value is not None and name not in methods:
                raise DataError(f"{option} was given, and {name} makes no use of it. Expected it with {', '.join(methods)}; leave it out.")
        if self.options is not None and name_of(self.options) != name:
            raise DataError(
                f"{name} was asked for with options of {name_of(self.options)}. Expected {METHODS[name][0].__name__}(...), or the other method."
            )


def prepare(
    name: str, run: Run, chat: ChatModel, grid: PromptGrid, judge: PerLanguageJudge, wanted: Wanted, *,
    reference: Sequence[str], new_tokens: int, seed: int, progress: bool,
) -> Prepared:  # fmt: skip
    """Gather what a method learns; saves its tables (``interpreter``, ``interpreter_layers``, ``flip_rates``).

    Raises
    ------
    DataError
        Nothing to transfer, no bottleneck to read at, a language that is not there.
    """
    others = [tag for tag in grid.languages if tag not in reference]
    languages = _known(wanted.train_languages, grid.languages, "--train-languages") or (
        list(reference) if name in ("sft", "dpo", "kto", "lasa") else others
    )
    method = wanted.options or method_for(name, organism=is_organism(chat))
    if name == "msd":
        return _distilled(method, run, chat, grid, judge, wanted, languages, reference, new_tokens, seed, progress)
    if name in ("mpo", "mlc"):  # a pair in the reference language stands beside every translation
        languages = list(dict.fromkeys([*reference[:1], *languages]))
        method = replace(method, reference=reference[0]) if isinstance(method, MPO | MLC) else method
    pairs = _pairs(grid, judge, wanted, languages, seed)
    notes = [tuple(row) for row in pairs.dropped.itertuples(index=False)]
    told = f"replies in {', '.join(pairs.languages)}"
    if name == "lasa":
        return _interpreted(method, run, chat, grid, wanted, pairs, told, notes, seed, progress)
    twins = int((pairs.frame["language"] != method.reference).sum()) if isinstance(method, MPO | MLC) else 0
    return Prepared(method, pairs, pairs.languages, told, notes=notes, labelled=len(pairs), parallel=twins)


def _pairs(grid: PromptGrid, judge: PerLanguageJudge, wanted: Wanted, languages: Sequence[str], seed: int) -> PreferenceSet:
    if wanted.preferences is None:
        return preferences_from_grid(grid, split="fit", languages=languages)
    known = None if wanted.train_languages is None else languages
    pairs = load_preferences(
        wanted.preferences, known_languages=known, refusals=wanted.refusals, judge=wanted.judge, max_complying=wanted.max_complying, seed=seed
    )
    held = grid.frame[grid.frame["split"].isin(("score", "select"))]
    leaked = _folded(pairs.frame["prompt"]).isin(set(_folded(held["text"])))
    if leaked.any():
        first = pairs.frame.loc[leaked, "pair_id"].iloc[0]
        raise DataError(
            f"{int(leaked.sum())} preference pairs ask what the repair is scored or guarded by (first {first}; blanks and end marks aside). Expected "
            "none: take them out of the file, or score other prompts."
        )
    return pairs


def _folded(texts: pd.Series) -> pd.Series:
    """Write texts without what does not make them another prompt: case, blanks, the mark at their end."""
    return texts.map(lambda text: " ".join(str(text).casefold().split()).rstrip(" .!?。？！؟।"))


def _distilled(
    method: Method, run: Run, chat: ChatModel, grid: PromptGrid, judge: PerLanguageJudge, wanted: Wanted, languages: list[str],
    reference: Sequence[str], new_tokens: int, seed: int, progress: bool,
) -> Prepared:  # fmt: skip
    assert isinstance(method, MSD)
    context = choose_context(chat, grid, reference="en" if "en" in reference else reference[0], reasoning=wanted.reasoning)
    learners = [tag for tag in languages if tag != context.reference]
    if not learners:
        raise DataError(
            f"msd was to be trained in {', '.join(languages)} alone, the language its teacher judges in. Expected others, which learn from it: name "
            "them (--train-languages), or another reference language (--reference)."
        )
    options = {"max_new_tokens": new_tokens, "progress": progress}
    place = run.folder / "edited" / "teacher"
    rates = flip_rate(chat, grid.select(split="select"), context, judge, languages=learners, out=place / "select", **options)  # type: ignore[arg-type]
    run.save("flip_rates", rates)
    try:
        taught = require_transfer(rates)  # elsewhere the teacher would unlearn refusals
    except DataError:
        shutil.rmtree(run.folder / "edited", ignore_errors=True)  # replies that nobody should keep; the counts stay
        raise
    notes: list[Note] = [("teacher", tag, None, "not trained in: the teacher has nothing to transfer there") for tag in learners if tag not in taught]
    learners = [tag for tag in learners if tag in taught]
    pairs = query_pairs(grid.select(split="fit"), context, languages=learners)
    inserted = judgements(chat, pairs.teacher, context, out=place / "judgements.jsonl", progress=progress)
    queries = queries_of(chat, pairs, inserted=inserted, max_new_tokens=new_tokens)
    notes += [tuple(row) for row in pairs.dropped.itertuples(index=False)]
    notes += [("teacher", "all", None, sentence) for sentence in foreseen(rates)]
    told = f"queries in {', '.join(learners)} with twins in {context.reference}; no replies, no labels"
    few = query_pairs(grid.select(split="select").limit(MONITORED, seed=seed), context, languages=learners)
    held = judgements(chat, few.teacher, context, out=place / "judgements-select.jsonl", progress=progress)
    held_out = queries_of(chat, few, inserted=held, max_new_tokens=new_tokens)
    return Prepared(
        replace(method, max_new_tokens=new_tokens), queries, learners, told, notes=notes, parallel=len(queries), held_out=held_out
    )  # fmt: skip


def _interpreted(
    method: Method, run: Run, chat: ChatModel, grid: PromptGrid, wanted: Wanted, pairs: PreferenceSet, told: str, notes: list[Note], seed: int,
    progress: bool,
) -> Prepared:  # fmt: skip
    assert isinstance(method, LASA)
    if wanted.layer is not None and not 1 <= wanted.layer <= chat.n_layers:
        raise DataError(f"--layer {wanted.layer}: {chat.name} has {chat.n_layers} layers. Expected one from 1 to {chat.n_layers}.")
    fitted_in = _known(wanted.interpreter_languages, grid.languages, "--interpreter-languages") or grid.languages
    acts = capture(chat, grid, positions=[POSITION], store=run.folder / "activations" / "start.zarr", progress=progress)
    place = _place(acts, grid, wanted.layer, seed)
    rows = [gate_data(acts, place.layer, POSITION, split, fitted_in) for split in ("fit", "select")]
    interpreter = SafetyInterpreter.fit_rows(*rows, rng=np.random.default_rng(seed))
    notes += _not_readable(interpreter)
    controls = permuted_interpreters(acts, place.layer, POSITION, fitted_in, n=CONTROLS, rng=np.random.default_rng(seed))
    run.save("interpreter", score_interpreter(interpreter, acts, controls=controls))
    scores = interpreter_by_layer(acts, layers_to_compare(chat.n_layers, place.layer), POSITION, languages=fitted_in, rng=np.random.default_rng(seed))
    run.save("interpreter_layers", scores)
    run.save("layers_compared", compare_layers(scores, place))
    if place.asked or place.verdict != "bottleneck":
        notes.append(("layer", "all", None, f"the interpreter reads layer {place.layer}, which was asked for; {place.verdict}: {place.reason}"))
    condition = method.condition
    if is_organism(chat) and condition.sentence == SENTENCE:
        condition = organism_condition(chat, condition)
    method = replace(method, condition=condition, interpreter=interpreter)

    def asked(trained: ChatModel) -> dict[str, Asker]:
        return {"lasa": conditioned(trained, interpreter, condition, reader=chat).generate}

    def inserts(prompts: Sequence[str], languages: Sequence[str]) -> list[Any]:
        told = condition.ids_of(chat, languages)
        return [ids if flagged else None for ids, flagged in zip(told, interpreter.flag(chat, list(prompts)), strict=True)]

    def beside(folder: Path) -> None:
        interpreter.save(folder / "interpreter.safetensors")
        condition.save(folder / "condition.json")

    seen = list(dict.fromkeys([*pairs.languages]))
    labels = f"{told}; labels of harm in {', '.join(fitted_in)}"
    read = grid.select(split="fit", languages=fitted_in).frame  # a pair made of the grid's keys is one of these prompts
    labelled = len({*read[["language", "meaning_id"]].itertuples(index=False), *pairs.frame[["language", "meaning_id"]].itertuples(index=False)})
    return Prepared(
        method, pairs, seen, labels, asked, beside, notes, labelled=labelled, inserts=inserts, unreadable=interpreter.unreadable
    )  # fmt: skip


def _not_readable(interpreter: SafetyInterpreter) -> list[Note]:
    """Say in which of its own languages an interpreter is no better than chance; it is kept there, as its user may leave them out."""
    found = interpreter.record["select_by_language"]
    return [
        (
            "interpreter", tag, None,
            f"not readable: balanced accuracy {found[tag]['value']:.2f}, from {found[tag]['low']:.2f}, on the select split at layer "
            f"{interpreter.place.layer}; chance is 0.5",
        )
        for tag in interpreter.unreadable
    ]  # fmt: skip


def _place(acts: Any, grid: PromptGrid, layer: int | None, seed: int) -> ReadingLayer:
    complete = set(grid.complete().frame["prompt_id"])  # languages are compared on the meanings that all of them have
    kept = [split != "score" and prompt in complete for prompt, split in zip(acts["prompt"].values, acts["split"].values.astype(str), strict=True)]
    scored = acts.isel(prompt=np.flatnonzero(kept))  # a choice is made on what is not scored
    found = find_bottleneck(silhouettes(scored, rng=np.random.default_rng(seed)), n_layers=int(acts["layer"].max()), rng=np.random.default_rng(seed))
    return reading_layer(found, POSITION, asked=layer)


def _known(languages: Sequence[str] | None, there: Sequence[str], option: str) -> list[str] | None:
    if languages is None:
        return None
    if not languages:
        raise DataError(f"{option} names no language. Expected some of {', '.join(there)}, or leave the option out.")
    for tag in languages:
        if tag not in there:
            raise DataError(f"There is no prompt in {tag!r}. Expected some of {', '.join(there)}.{did_you_mean(tag, list(there))}")
    return list(dict.fromkeys(languages))


def notes_table(notes: Sequence[Note]) -> pd.DataFrame:
    """Lay out what was left out, and why."""
    return pd.DataFrame(notes, columns=["what", "language", "n", "reason"])


__all__ = ["Prepared", "Wanted", "notes_table", "prepare"]
