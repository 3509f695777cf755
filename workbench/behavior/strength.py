"""What a model does the harder it is pushed: refusal, answers and garble by strength, beside control directions of the same length.

A push in any direction changes a model. What a direction does is therefore read against random directions of its own norm at
the same strength (at least five), and against whatever other controls are given: one from permuted labels, one that tells
languages apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from workbench.behavior.generate import generate
from workbench.behavior.outcomes import Judge
from workbench.behavior.refusal import refusal_rates
from workbench.directions.direction import Direction
from workbench.errors import DataError, ModelCheckError, did_you_mean
from workbench.interventions.edits import Ablate, Add, Places
from workbench.models.chat import ChatModel
from workbench.prompts.grid import PromptGrid
from workbench.results import Result

KINDS = ("add", "ablate")
_FEWEST = 5
_RATES = ["language", "tier", "statistic", "value", "low", "high", "n", "judge", "validated"]


@dataclass(frozen=True)
class StrengthSweep(Result):
    """Rates by strength: one row per strength, direction, language and statistic.

    ``direction`` names it; ``kind`` is "direction" (the one in question), "random" or "control"; ``seed`` numbers random ones.
    ``statistic``, ``value``, ``low``, ``high``, ``n``, ``judge`` and ``validated`` as in
    :class:`~workbench.behavior.refusal.RefusalRates`. Strength 0 is the model without any edit, measured once, and stands with
    each direction. :attr:`stopped` lists strengths at which the model broke down.
    """

    required: ClassVar[tuple[str, ...]] = ("strength", "direction", "kind", "seed", *_RATES)

    @property
    def stopped(self) -> pd.DataFrame:
        """Strengths that were not measured (direction, strength, reason): logits became NaN, infinite or all alike."""
        return pd.DataFrame(self.provenance.get("stopped", []), columns=["direction", "strength", "reason"])

    def summary(self) -> pd.DataFrame:
        """Return one row per strength and statistic: the direction's mean over languages beside the controls' lowest and highest."""
        means = self.table.groupby(["statistic", "strength", "kind", "direction"], sort=False)["value"].mean().reset_index()
        own = means[means["kind"] == "direction"].set_index(["statistic", "strength"])["value"].rename("direction")
        others = means[means["kind"] != "direction"].groupby(["statistic", "strength"])["value"].agg(control_low="min", control_high="max")
        return pd.concat([own, others], axis=1).reset_index()


@dataclass(frozen=True)
class StrengthChoice(Result):
    """The strength that a rule chose, with what it chose from: one row per strength, means over languages.

    Columns: ``strength``; ``value`` of the statistic aimed at; ``accuracy_cost`` and ``garbled_cost``, the fall of answer accuracy
    and the rise of garbled and off-language replies against strength 0; ``control_high`` and ``control_low``, the extremes of
    the controls at that strength; ``allowed``, ``reached``, ``chosen``.
    """

    required: ClassVar[tuple[str, ...]] = ("strength", "value", "accuracy_cost", "garbled_cost", "allowed", "reached", "chosen")

    @property
    def strength(self) -> float:
        """The chosen strength, in the sweep's scale."""
        return float(self.table.loc[self.table["chosen"], "strength"].iloc[0])


class _Branch(NamedTuple):
    name: str
    kind: str
    seed: int | None
    direction: Direction


def strength_sweep(
    chat: ChatModel,
    grid: PromptGrid,
    direction: Direction,
    strengths: Sequence[float],
    *,
    judge: Judge,
    scale: str = "raw",
    scope: str | Sequence[str] = "all",
    kind: str = "add",
    layers: Places = None,
    controls: Mapping[str, Direction | np.ndarray] | None = None,
    seeds: Sequence[int] = range(5),
    control_strengths: Sequence[float] | None = None,
    languages: Sequence[str] | None = None,
    split: str | None = "select",
    max_new_tokens: int = 64,
    token_budget: int = 4096,
    out: str | Path | None = None,
    progress: bool = True,
) -> StrengthSweep:
    """Let the model reply to every prompt at each strength of a direction and of its controls, and judge the replies.

    Parameters
    ----------
    chat, grid
        Who is asked, and what: harmful and harmless prompts.
    direction : Direction
        The one in question.
    strengths : sequence of float
        In units of ``scale``; for kind "ablate" shares removed, from 0 to 1. 0 is measured in any case.
    judge : Judge
        Says what each reply is.
    scale, scope, layers
        As of :class:`~workbench.interventions.Add`; for "ablate" layers=None removes it everywhere.
    kind : {"add", "ablate"}
    controls : mapping of name to Direction or vector, optional
        Further controls, such as from permuted labels or between languages. They are given the direction's own norm, gap and layer.
    seeds : sequence of int
        Of the random directions, at least five.
    control_strengths : sequence of float, optional
        Strengths at which controls are tried; by default all.
    languages : sequence of str, optional
        By default all of the grid.
    split : str or None
        "select" to choose a strength, "score" to report one.
    out : path, optional
        Folder of the replies, one file (mode 600) per direction and strength; a second call goes on from there.
    progress : bool
        Show one bar over the runs.

    Returns
    -------
    StrengthSweep

    Raises
    ------
    DataError
        One class only, no strengths, shares outside 0 to 1, fewer than five seeds, a control of another width or layer.
    ModelError
        For a direction of another model or width.
    ModelCheckError
        If the model breaks down without any edit. Under an edit that ends the branch: what was measured is kept, larger
        strengths of that sign are not tried, and :attr:`StrengthSweep.stopped` names the strength.
    """
    plan = _checked(np.atleast_1d(strengths).tolist(), kind, control_strengths, seeds)
    asked = grid.select(languages=languages, split=split)
    n_harmful = int(asked.frame["harmful"].sum())
    if n_harmful in (0, len(asked)):
        raise DataError(
            f"{n_harmful} of {len(asked)} prompts in {', '.join(asked.languages)}, split {split!r}, are harmful. Expected both classes: a strength "
            "that makes a model refuse everything is no repair."
        )
    branches = [_Branch("direction", "direction", None, direction), *_controls(direction, controls or {}, seeds)]
    runs = [(branch, strength) for branch in branches for strength in plan[branch.kind == "direction"]]
    for branch, strength in runs:  # what does not fit the model is refused before anything is generated
        _ = _edit(branch.direction, strength, kind, scale, scope, layers, asked).placed(chat)
    folder = None if out is None else Path(out)
    with tqdm(total=len(runs) + 1, unit="run", desc="strengths", disable=not progress) as bar:

        def rates(name: str, strength: float, *edits: Any) -> pd.DataFrame:
            file = None if folder is None else folder / f"{name}_{strength:g}.jsonl"
            with chat.edited(*edits):
                replies = generate(chat, asked, max_new_tokens=max_new_tokens, token_budget=token_budget, out=file, progress=False)
            bar.update()
            return refusal_rates(judge.outcomes(replies, asked), asked).table[_RATES]

        plain = rates("none", 0.0)
        tables, stopped = [], []
        for branch in branches:
            tables.append(_labelled(plain, branch, 0.0))
            for side in _sides(plan[branch.kind == "direction"]):
                for strength in side:
                    try:
                        edit = _edit(branch.direction, strength, kind, scale, scope, layers, asked)
                        tables.append(_labelled(rates(_slug(branch), strength, edit), branch, strength))
                    except ModelCheckError as error:
                        stopped.append({"direction": branch.name, "strength": strength, "reason": str(error)})
                        bar.update(len(side) - side.index(strength))
                        break
    table = pd.concat(tables, ignore_index=True).astype({"seed": "Int64"})
    order = {branch.name: i for i, branch in enumerate(branches)}
    table = table.sort_values(["direction", "strength"], key=lambda c: c.map(order) if c.name == "direction" else c, kind="stable", ignore_index=True)
    options = {"scale": scale, "scope": [scope] if isinstance(scope, str) else list(scope), "edit": kind, "split": split, "seeds": list(seeds)}
    about = {"layer": direction.layer, "position": direction.position, "norm": direction.norm, "toward": direction.metadata.get("toward")}
    told = {"direction": about, "controls": list(controls or {}), "grid": asked.hash, "judge": judge.name, "max_new_tokens": max_new_tokens}
    return StrengthSweep(table, {**chat.provenance(), **options, **told, "layers": layers, "stopped": stopped})


def choose_strength(
    sweep: StrengthSweep,
    *,
    statistic: str = "selectivity",
    at_least: float | None = None,
    at_most: float | None = None,
    margin: float = 0.05,
    languages: Sequence[str] | None = None,
) -> StrengthChoice:
    """Choose the smallest strength that reaches an aim at a bounded cost, on the select split.

    Allowed are strengths at which, averaged over languages, answer accuracy (where there is a key) falls by at most ``margin``
    against strength 0, and garbled and off-language replies together rise by at most ``margin``. Among them the smallest
    that reaches the aim is chosen; without an aim, the smallest whose statistic lies within .02 of the best. Where the aim is
    to have harmless prompts refused, answers that are no longer given are no cost.

    Parameters
    ----------
    statistic : str
        One of the sweep's, such as selectivity, harmful_refusal or harmless_refusal.
    at_least, at_most : float, optional
        The aim; one of them, as a share.
    margin : float
        Cost allowed, as a share of prompts.
    languages : sequence of str, optional
        Over which is averaged; by default all.

    Raises
    ------
    DataError
        For a sweep of the score split, an unknown statistic or language, or no strength that is allowed and reaches the aim (the nearest
        is named).
    """
    if sweep.provenance.get("split") == "score":
        raise DataError("This sweep was measured on the split 'score'. Expected 'select': a strength chosen where it is reported looks too good.")
    if at_least is not None and at_most is not None:
        raise DataError("Both at_least and at_most were given. Expected one aim.")
    table = sweep.table
    for name, given, known in (("statistic", [statistic], set(table["statistic"])), ("languages", languages or [], set(table["language"]))):
        unknown = [item for item in given if item not in known]
        if unknown:
            raise DataError(f"{name}: the sweep has no {unknown[0]!r}; it has {', '.join(sorted(known))}.{did_you_mean(unknown[0], known)}")
    if languages is not None:
        table = table[table["language"].isin(list(languages))]
    means = table.groupby(["kind", "direction", "strength", "statistic"], sort=False)["value"].mean().unstack("statistic")
    own = means.xs("direction", level="kind").droplevel("direction").sort_index()
    accuracy = own["answer_accuracy"] if "answer_accuracy" in own else pd.Series(np.nan, index=own.index)
    broken = own[["garbled", "off_language"]].sum(axis=1)
    found = pd.DataFrame({"value": own[statistic], "accuracy_cost": accuracy.loc[0.0] - accuracy, "garbled_cost": broken - broken.loc[0.0]})
    others = means[means.index.get_level_values("kind") != "direction"][statistic].groupby("strength")
    found = found.join(others.agg(control_low="min", control_high="max"))
    slack = margin + 1e-12
    answers = (found["accuracy_cost"].fillna(0) <= slack) | (statistic == "harmless_refusal")
    found["allowed"] = answers & (found["garbled_cost"] <= slack)
    best = found.loc[found["allowed"], "value"].max()
    if at_most is not None:
        found["reached"] = found["value"] <= at_most
    else:
        found["reached"] = found["value"] >= (best - 0.02 if at_least is None else at_least)
    fine = found[found["allowed"] & found["reached"]]
    aim = f"{statistic} {f'at most {at_most:g}' if at_most is not None else f'at least {at_least:g}' if at_least is not None else 'near its best'}"
    if fine.empty:
        nearest = found.loc[found["allowed"], "value"].agg("idxmin" if at_most is not None else "idxmax")
        costly = found.index[found["reached"]].tolist()
        other = f"{costly} would reach it at a higher cost" if costly else "none reaches it at any cost"
        raise DataError(
            f"No strength reaches {aim} at a cost of at most {margin:g}. The nearest that is allowed is {nearest:g} "
            f"({found.loc[nearest, 'value']:.2f}); {other}. Try other strengths, or accept a larger margin."
        )
    chosen = min(fine.index, key=lambda strength: (abs(strength), strength))
    found["chosen"] = found.index == chosen
    rule = f"smallest strength with {aim}, accuracy and garble within {margin:g} of strength 0"
    return StrengthChoice(found.reset_index(), {**sweep.provenance, "rule": rule, "statistic": statistic})


def _checked(strengths: Sequence[float], kind: str, control_strengths: Sequence[float] | None, seeds: Sequence[int]) -> dict[bool, list[float]]:
    """Return the strengths without 0 of the direction (True) and of its controls (False)."""
    if kind not in KINDS:
        raise DataError(f"kind={kind!r}: expected {' or '.join(KINDS)}.{did_you_mean(str(kind), KINDS)}")
    if len(set(seeds)) < _FEWEST:
        raise DataError(
            f"{len(set(seeds))} random directions. Expected at least {_FEWEST} different seeds: a single random push may refuse or comply by chance."
        )
    plan = {}
    for which, given in ((True, strengths), (False, strengths if control_strengths is None else control_strengths)):
        values = sorted({float(strength) for strength in given} - {0.0})
        if not np.isfinite(values).all() or (which and not values):
            raise DataError(f"strengths={list(given)}: expected at least one finite number other than 0.")
        if kind == "ablate" and not all(0 < strength <= 1 for strength in values):
            raise DataError(f"strengths={list(given)} of kind 'ablate' are shares removed. Expected numbers from 0 to 1.")
        plan[which] = values
    stray = sorted(set(plan[False]) - set(plan[True]))
    if stray:
        raise DataError(f"control_strengths has {stray}, at which the direction itself is not tried. Expected some of strengths.")
    return plan


def _sides(strengths: list[float]) -> list[list[float]]:
    """Order strengths outwards from 0, each sign by itself."""
    return [sorted(s for s in strengths if s > 0), sorted((s for s in strengths if s < 0), reverse=True)]


def _controls(direction: Direction, controls: Mapping[str, Direction | np.ndarray], seeds: Sequence[int]) -> Iterator[_Branch]:
    for seed in dict.fromkeys(int(seed) for seed in seeds):
        vector = np.random.default_rng(seed).normal(size=len(direction.unit))
        yield _Branch(f"random {seed}", "random", seed, replace(direction, unit=vector / np.linalg.norm(vector)))
    for name, control in controls.items():
        vector = np.asarray(control.unit if isinstance(control, Direction) else control, dtype=np.float64)
        layer = control.layer if isinstance(control, Direction) else direction.layer
        length = float(np.linalg.norm(vector)) if vector.shape == direction.unit.shape else 0.0
        if layer != direction.layer or not np.isfinite(length) or length == 0 or name == "direction":
            raise DataError(
                f"The control {name!r} has shape {vector.shape}, length {length:.3g} and layer {layer}. Expected a direction of layer "
                f"{direction.layer} with {len(direction.unit)} entries that is not zero, under a name of its own."
            )
        yield _Branch(name, "control", None, replace(direction, unit=vector / length))


def _edit(
    direction: Direction, strength: float, kind: str, scale: str, scope: str | Sequence[str], layers: Places, asked: PromptGrid
) -> Add | Ablate:
    if kind == "add":
        return Add(direction, strength, scale, layers=layers, scope=scope)
    share = None if strength == 1 else dict.fromkeys(asked.frame["prompt_id"], strength)
    return Ablate(direction, "everywhere" if layers is None else layers, scope=scope, rows=share)


def _slug(branch: _Branch) -> str:
    """Name a branch as a file: its letters and digits, and a hash of the vector where the name may not be unique."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in branch.name)
    return f"{plain}-{hashlib.sha256(branch.direction.unit.tobytes()).hexdigest()[:6]}"


def _labelled(rates: pd.DataFrame, branch: _Branch, strength: float) -> pd.DataFrame:
    labelled = rates.copy()
    for place, (column, value) in enumerate({"strength": strength, "direction": branch.name, "kind": branch.kind, "seed": branch.seed}.items()):
        labelled.insert(place, column, value)
    return labelled.astype({"seed": "Int64"})
