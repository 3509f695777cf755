"""Choose the direction that refusal runs along, by what each candidate does to the model on held-out prompts.

Each candidate (position, layer) was tried causally: *bypass*, the refusal score of harmful prompts while it is ablated; *induce*,
that of harmless prompts while it is added; *kl*, how far ablating it moves the next token of harmless prompts. This module
only reads such tables; :func:`workbench.interventions.sweep_directions` fills them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from workbench.errors import DataError, did_you_mean
from workbench.results import Result

#: The rows of a table that pool its languages.
ALL = "all"
_SCORES = ("bypass", "induce", "kl")
_RELEASED = {"refusal_score": "bypass", "steering_score": "induce", "kl_div_score": "kl"}


@dataclass(frozen=True)
class SelectionRule:
    """Which candidates are dropped before the one with the lowest bypass is taken.

    Parameters
    ----------
    kl_max : float or None
        Nats; a candidate at exactly this value stays. None drops none.
    induce_min : float or None
        Lowest induce that stays, in the unit of the criterion.
    depth : float or None
        Candidates at layer int(depth * n_layers) or deeper are dropped: near the end a direction acts on the words, not on
        the decision.
    """

    kl_max: float | None
    induce_min: float | None
    depth: float | None = 0.8


#: Published rules. PolyRefuse drops the induce test, which its directions of ja, ko, yo and zh would fail.
RULES = {"arditi": SelectionRule(0.1, 0.0), "polyrefuse": SelectionRule(0.2, None)}


@dataclass(frozen=True)
class DirectionScores(Result):
    """What each candidate does to the model; one row per position and layer, and per language where a sweep tells them apart.

    Columns: ``position``; ``layer``; ``bypass``, ``induce`` (log-odds of refusing, natural logarithm, or the cosine margin of the
    token-free criterion) and ``kl`` (nats), NaN where a candidate cannot be tried; ``n_harmful``, ``n_harmless``, the prompts
    behind them (NaN where a released file does not say); ``criterion``; where there are languages, ``language`` ("all" pools
    them), ``tier`` and ``reason``, why scores are NaN. Without any edit the scores are in ``provenance["baseline"]``.
    """

    required: ClassVar[tuple[str, ...]] = ("position", "layer", *_SCORES, "n_harmful", "n_harmless", "criterion")

    def of(self, language: str = ALL) -> pd.DataFrame:
        """Return one language's rows, in the order of position (as in the prompt) and layer.

        Raises
        ------
        DataError
            For a language that was not scored, or a candidate that comes twice.
        """
        table = self.table
        if "language" in table:
            known = list(dict.fromkeys(table["language"]))
            if language not in known:
                raise DataError(f"Nothing was scored for language {language!r}; expected one of {known}.{did_you_mean(language, known)}")
            table = table[table["language"] == language]
        elif language != ALL:
            raise DataError(f"These scores do not tell languages apart, so there are none of {language!r}. Leave language= out.")
        twice = table.duplicated(["position", "layer"])
        if twice.any():
            row = table[twice].iloc[0]
            raise DataError(f"Candidate {row['position']}, layer {row['layer']} has two rows. Expected one each; give one sweep's scores.")
        order = [(*_place(position), int(layer)) for position, layer in zip(table["position"], table["layer"], strict=True)]
        return table.iloc[sorted(range(len(table)), key=order.__getitem__)].reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """Return the five lowest bypasses of each position, before any filter."""
        return self.of().dropna(subset=["bypass"]).sort_values("bypass", kind="stable").groupby("position", sort=False).head(5)


@dataclass(frozen=True)
class Selection(Result):
    """The candidate that a rule chose, with the whole table it chose from.

    Columns: those of :class:`DirectionScores`, ``removed_by`` (filters that drop the row, joined by "+": nan, layer, kl,
    induce; empty for survivors), ``rank`` among survivors by bypass (1 is the chosen one; NaN if dropped) and ``selected``.
    """

    required: ClassVar[tuple[str, ...]] = (*DirectionScores.required, "removed_by", "rank", "selected")

    @property
    def position(self) -> Any:
        """Position of the chosen direction: a name, or a released file's negative number."""
        found = self._chosen["position"]
        return int(found) if isinstance(found, int | np.integer) else str(found)

    @property
    def layer(self) -> int:
        """Layer of the chosen direction: residual stream after that many blocks, or the input of block ``layer``."""
        return int(self._chosen["layer"])

    @property
    def _chosen(self) -> pd.Series:
        return self.table[self.table["selected"]].iloc[0]

    @property
    def survivors(self) -> pd.DataFrame:
        """Candidates that passed every filter, lowest bypass first."""
        return self.table[self.table["removed_by"] == ""].sort_values("rank", kind="stable").reset_index(drop=True)

    def of(self, directions: Any) -> Any:
        """Return the chosen one of the directions that were swept."""
        return directions.at(self.layer, self.position)

    def summary(self) -> pd.DataFrame:
        """Return the survivors, best first."""
        return self.survivors.head(10)


def select_direction(scores: DirectionScores, *, n_layers: int | None = None, rule: str | SelectionRule = "arditi", language: str = ALL) -> Selection:
    """Choose the candidate with the lowest bypass among those that pass a rule's filters.

    Parameters
    ----------
    scores : DirectionScores
        Of a sweep, or of a released file (:func:`read_scores`).
    n_layers : int, optional
        Number of blocks of the model; by default what the scores recorded.
    rule : {"arditi", "polyrefuse"} or SelectionRule
        "arditi": dropped are scores that are not finite, layers from int(0.8 n_layers) on, KL above 0.1 and induce below 0.
        "polyrefuse": KL above 0.2 instead, and no induce test.
    language : str
        Whose scores decide; by default those pooled over the languages swept.

    Returns
    -------
    Selection
        Ties go to the first in the order of position (as in the prompt), then layer. Scores without any control beside them
        say what a direction does, not that only it does so: try the chosen one against random directions (strength_sweep).

    Raises
    ------
    DataError
        If every candidate is dropped, saying which filter dropped how many and what would keep the nearest one; for an unknown
        rule or language.

    References
    ----------
    Arditi et al. 2024, arXiv:2406.11717, section 2.3 and released code; Wang et al. 2025, arXiv:2505.17306, released code.

    Examples
    --------
    >>> table = pd.DataFrame({"position": -1, "layer": [2, 3, 9], "bypass": [1.0, -4.0, -9.0], "induce": 2.0, "kl": 0.05})
    >>> scores = DirectionScores(table.assign(n_harmful=32, n_harmless=32, criterion="refusal_tokens"))
    >>> select_direction(scores, n_layers=10).layer
    3
    """
    if isinstance(rule, str) and rule not in RULES:
        raise DataError(f"rule={rule!r}: expected {' or '.join(map(repr, RULES))}, or a SelectionRule.{did_you_mean(rule, RULES)}")
    filters = RULES[rule] if isinstance(rule, str) else rule
    n_layers = scores.provenance.get("n_layers") if n_layers is None else n_layers
    if filters.depth is not None and n_layers is None:
        raise DataError("The scores do not say how many blocks the model has. Pass n_layers=.")
    table = scores.of(language)
    removed = _removed(table, filters, n_layers)
    table["removed_by"] = ["+".join(name for name, drops in removed.items() if drops[row]) for row in range(len(table))]
    kept = table[table["removed_by"] == ""].sort_values("bypass", kind="stable")
    if kept.empty:
        raise DataError(_nothing_left(table, removed, filters, n_layers))
    table["rank"] = pd.Series(np.arange(1.0, len(kept) + 1), index=kept.index).reindex(table.index)
    table["selected"] = table["rank"] == 1
    told = {"rule": rule if isinstance(rule, str) else "own", **asdict(filters), "n_layers": n_layers, "chosen_on": language}
    return Selection(table, {**scores.provenance, **told})


def read_scores(path: str | Path) -> DirectionScores:
    """Read ``direction_evaluations.json`` as the code of arXiv:2406.11717 and arXiv:2505.17306 writes it.

    Returns
    -------
    DirectionScores
        Positions are negative numbers from the end of the prompt; layer l is the input of block l, our layer l. ``n_layers`` is
        recorded if every block was tried.

    Raises
    ------
    DataError
        No such file, or another kind of file.
    """
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}). Expected a direction_evaluations.json.") from error
    columns = {"position", "layer", *_RELEASED}
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and columns <= set(row) for row in rows):
        raise DataError(f"{path.name} holds no list of scores. Expected objects with {', '.join(sorted(columns))}.")
    table = pd.DataFrame(rows)[["position", "layer", *_RELEASED]].rename(columns=_RELEASED)
    table = table.astype({"position": int, "layer": int, **dict.fromkeys(_SCORES, float)})
    layers = sorted(set(table["layer"]))
    whole = {"n_layers": len(layers)} if layers == list(range(len(layers))) and len(table) == len(layers) * table["position"].nunique() else {}
    unknown = float("nan")
    return DirectionScores(table.assign(n_harmful=unknown, n_harmless=unknown, criterion="refusal_tokens"), {"file": path.name, **whole})


def _place(position: Any) -> tuple[float, str]:
    """Order positions as they are in the prompt; numbers count from its end."""
    if isinstance(position, int | np.integer):
        return float(position), ""
    post = re.fullmatch(r"post\[(\d+)\]", position)
    if post:
        return float(post[1]), ""
    return {"mean_inst": -2.0, "t_inst": -1.0, "t_post_inst": math.inf}.get(position, math.inf), position


def _first_dropped(filters: SelectionRule, n_layers: int | None) -> float:
    return math.inf if filters.depth is None or n_layers is None else int(filters.depth * n_layers)


def _removed(table: pd.DataFrame, filters: SelectionRule, n_layers: int | None) -> dict[str, np.ndarray]:
    """Say per filter which rows it drops by itself."""
    found = {
        "nan": ~np.isfinite(table[list(_SCORES)].to_numpy(dtype=float)).all(axis=1),
        "layer": (table["layer"] >= _first_dropped(filters, n_layers)).to_numpy(),
        "kl": (table["kl"] > (math.inf if filters.kl_max is None else filters.kl_max)).to_numpy(),
        "induce": (table["induce"] < (-math.inf if filters.induce_min is None else filters.induce_min)).to_numpy(),
    }
    return {name: np.asarray(drops, dtype=bool) for name, drops in found.items()}


def _nothing_left(table: pd.DataFrame, removed: dict[str, np.ndarray], filters: SelectionRule, n_layers: int | None) -> str:
    alone = {name: drops & (sum(removed.values()) == 1) for name, drops in removed.items()}
    bounds = {
        "nan": "not finite",
        "layer": f"layer {_first_dropped(filters, n_layers)} or deeper",
        "kl": f"KL above {filters.kl_max}",
        "induce": f"induce below {filters.induce_min}",
    }
    told = "; ".join(
        f"{bounds[name]}: {int(drops.sum())} ({int(alone[name].sum())} by nothing else)" for name, drops in removed.items() if drops.any()
    )
    if removed["nan"].all():
        why = next((str(reason) for reason in table.get("reason", []) if reason), "the scores are NaN")
        return f"All {len(table)} candidates were dropped, since none has finite scores ({why}). Extract directions that differ from zero."
    finite = table[~removed["nan"]]
    count = pd.Series(sum(drops for name, drops in removed.items() if name != "nan"), index=table.index)[finite.index]
    nearest = finite[count == count.min()]
    # among those that the fewest filters drop: the one that needs the least, counted in the filters' own widths
    over = (nearest["kl"] / (filters.kl_max or 1)).where(removed["kl"][nearest.index], 0)
    over += (((filters.induce_min or 0) - nearest["induce"]) / table["induce"].std(ddof=0)).where(removed["induce"][nearest.index], 0)
    over += ((nearest["layer"] - _first_dropped(filters, n_layers) + 1) / (n_layers or 1)).where(removed["layer"][nearest.index], 0)
    best = nearest.loc[over.fillna(math.inf).idxmin()]
    relax = {
        "layer": f"depth={_outward((best['layer'] + 1) / (n_layers or 1), up=True)}",
        "kl": f"kl_max={_outward(best['kl'], up=True)}",
        "induce": f"induce_min={_outward(best['induce'], up=False)}",
    }
    needs = " and ".join(relax[name] for name in relax if removed[name][best.name])
    shown = ", ".join(f"{name if name != 'kl' else 'KL'} {best[name]:.3g}" for name in _SCORES)
    where = f"{best['position']}, layer {int(best['layer'])}"
    return (
        f"All {len(table)} candidates were dropped ({told}). Nearest is {where} ({shown}): it stays with {needs}. Relax the rule on purpose, "
        "rule=SelectionRule(kl_max=..., induce_min=..., depth=...), or sweep other positions."
    )


def _outward(value: float, *, up: bool) -> str:
    """Round a bound to three digits so that what lies at it stays."""
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 2) if value else 1.0
    return f"{(math.ceil if up else math.floor)(value / step) * step:.6g}"


def criteria_agreement(first: DirectionScores, second: DirectionScores, *, rule: str | SelectionRule = "arditi") -> pd.DataFrame:
    """Say how far two criteria agree on the same candidates: one row per language scored by both.

    Parameters
    ----------
    first, second : DirectionScores
        Of the same directions and model, such as by refusal tokens and token-free.
    rule : str or SelectionRule
        Applied to both.

    Returns
    -------
    DataFrame
        ``language``; ``bypass``, ``induce``: Spearman's rank correlation over candidates finite in both (0 without any
        agreement; NaN for fewer than three); ``n`` candidates; ``first``, ``second``: what each selects ("position@layer", empty if
        nothing is left); ``same``: whether it is the same; ``rank``: place of the second's choice among all n by the first's bypass
        (1 is lowest). Candidates of neighbouring layers are nearly copies of each other, so a correlation over them has no honest
        interval.

    Raises
    ------
    DataError
        If they share no candidate or no language.
    """
    tags = [tag for tag in _languages(first) if tag in _languages(second)]
    rows = []
    for tag in tags:
        both = first.of(tag).merge(second.of(tag), on=["position", "layer"], suffixes=("_1", "_2"))
        if both.empty:
            raise DataError("The two criteria share no candidate. Expected sweeps of the same directions.")
        both = both[np.isfinite(both[[f"{name}_{k}" for name in _SCORES for k in (1, 2)]].to_numpy(dtype=float)).all(axis=1)]
        order = {name: _spearman(both[f"{name}_1"].to_numpy(), both[f"{name}_2"].to_numpy()) for name in ("bypass", "induce")}
        chosen = [_choice(scores, rule, tag) for scores in (first, second)]
        place = both[(both["position"].map(str) + "@" + both["layer"].map(str)) == chosen[1]]
        rank = float((both["bypass_1"] < place["bypass_1"].iloc[0]).sum() + 1) if len(place) else float("nan")
        same = bool(chosen[0]) and chosen[0] == chosen[1]
        rows.append({"language": tag, **order, "n": len(both), "first": chosen[0], "second": chosen[1], "same": same, "rank": rank})
    if not rows:
        raise DataError("The two criteria were measured in no language in common. Expected sweeps of the same languages.")
    return pd.DataFrame(rows)


def _languages(scores: DirectionScores) -> list[str]:
    return [str(tag) for tag in dict.fromkeys(scores.table["language"])] if "language" in scores.table else [ALL]


def _choice(scores: DirectionScores, rule: str | SelectionRule, language: str) -> str:
    try:
        found = select_direction(scores, rule=rule, language=language)
    except DataError:  # nothing left: that is an answer here
        return ""
    return f"{found.position}@{found.layer}"


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
