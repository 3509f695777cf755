"""Two runs side by side (before and after a repair, two models): verdicts, stage scores and rates, compared where both have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.behavior.resampling import mover_sum
from workbench.errors import DataError
from workbench.report.build import rendered
from workbench.report.drawing import UNEXPECTED, plotted, write_whole
from workbench.report.facts import facts, provenance
from workbench.report.parts import FAIL, NONE, OK, UNSURE, Figure, Line
from workbench.report.shared import paired_prompts, what_is_shared
from workbench.report.side import STATISTICS, Side, doubted
from workbench.report.verdict_table import STAGE_SCORES, VerdictRow, verdict_rows
from workbench.report.wording import interval, listed, number
from workbench.statistics import Difference, Estimate, newcombe_paired


@dataclass(frozen=True)
class RateRow:
    """One language and statistic: both runs, second minus first with its interval, and how the interval was had."""

    language: str
    tier: str
    statistic: str
    first: str
    second: str
    difference: Line
    how: str
    apart: Difference


@dataclass(frozen=True)
class VerdictPair:
    """One language: both verdicts, and per stage the first score, the second and their difference."""

    language: str
    tier: str
    verdicts: tuple[str, str]
    states: tuple[str, str]
    stages: dict[str, list[Line]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What two runs share and how they differ there; drawn by :func:`compare_runs`, and in the terminal."""

    first: Side
    second: Side
    verdicts: list[VerdictPair]
    rates: list[RateRow]
    shared: list[str]
    said: list[str]
    problems: list[str]


def compared(first: str | Path, second: str | Path) -> Comparison:
    """Read two run folders and compare what both have.

    Raises
    ------
    DataError
        One of them is no run folder, they share no language, or their tables are not as this version writes them.
    """
    sides = (Side.read(first), Side.read(second))
    common = [tag for tag in sides[0].run.tiers if tag in sides[1].run.tiers]
    if not common:
        here, there = (", ".join(side.run.tiers) or "none" for side in sides)
        raise DataError(f"{first} has the languages {here}, {second} has {there}: none is in both. Expected runs that share a language at least.")
    try:
        verdicts, rates = _verdicts(*sides, common), _rates(*sides, common)
        shared = what_is_shared(*sides, common)
    except UNEXPECTED as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"A table of {first} or {second} is not as this version writes it ({type(error).__name__}: {error}). Expected what `workbench diagnose` "
            "or `workbench repair gate` wrote; run the same command again into a new folder."
        ) from error
    problems = [f"Not read: {why}" for side in sides for why in side.run.broken.values()]
    problems += [f"{side.name} is not finished: tables may be missing." for side in sides if side.run.find("manifest.status") != "finished"]
    return Comparison(*sides, verdicts, rates, shared, _said(*sides, verdicts, rates), problems)


def compare_runs(first: str | Path, second: str | Path, out: str | Path | None = None) -> Path:
    """Write a page that puts two runs side by side.

    Parameters
    ----------
    first, second : path
        Run folders: diagnoses or repairs, in either order. For a repair stand the rates of its gate, or of the trained model.
    out : path, optional
        Default ``compare.html`` in the second folder.

    Returns
    -------
    Path
        The page: one file that opens offline and fetches nothing.

    Raises
    ------
    DataError
        As :func:`compared`.
    """
    found = compared(first, second)
    path = Path(second) / "compare.html" if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs = (found.first.run, found.second.run)
    told = [dict(facts(run)) for run in runs]
    manifests = [dict(provenance(run)) for run in runs]
    names = dict.fromkeys([*manifests[0], *manifests[1]])
    differing = [(name, *(one.get(name, "–") for one in manifests)) for name in names if manifests[0].get(name) != manifests[1].get(name)]
    page = rendered(
        "compare.html",
        first=found.first,
        second=found.second,
        said=found.said,
        verdicts=found.verdicts,
        stage_names=list(STAGE_SCORES),
        rates=found.rates,
        figure=_figure(found),
        shared=found.shared,
        facts=[(name, *(one.get(name, "–") for one in told)) for name in dict.fromkeys([*told[0], *told[1]])],
        differing=differing,
        problems=found.problems,
        organism=any(run.is_organism for run in runs),
        tags={**{row.language: row.tier for row in found.verdicts}, **{row.language: row.tier for row in found.rates}},
        run=runs[0],
    )
    write_whole(path, page)
    return path


def _verdicts(first: Side, second: Side, common: list[str]) -> list[VerdictPair]:
    """Pair the verdicts; a repair has none, so that there is nothing to pair."""
    rows = [{row.language: row for row in verdict_rows(side.run)} for side in (first, second)]
    found = []
    for tag in common:
        one, two = (side.get(tag) for side in rows)
        if one is not None and two is not None:
            words = tuple(f"{row.verdict} ({row.subtype})" if row.subtype else row.verdict for row in (one, two))
            stages = {stage: _stage(first, second, tag, stage, one, two) for stage in STAGE_SCORES}
            found.append(VerdictPair(tag, one.tier, (words[0], words[1]), (one.state, two.state), stages))
    return found


def _stage(first: Side, second: Side, tag: str, stage: str, one: VerdictRow, two: VerdictRow) -> list[Line]:
    """Return both scores, and their difference where both were measured as the same statistic."""
    scores = []
    for side in (first, second):
        table = side.run.table("stages")
        rows = pd.DataFrame() if table is None else table[(table["language"] == tag) & (table["stage"] == stage)]
        scores.append(rows.iloc[0] if len(rows) and pd.notna(rows["value"].iloc[0]) else None)
    lines = [one.stages[stage], two.stages[stage]]
    known = [score for score in scores if score is not None]
    if len(known) < 2 or known[0]["statistic"] != known[1]["statistic"]:
        return lines
    apart = _independent(*(Estimate(*(float(score[c]) for c in ("value", "low", "high"))) for score in known))
    return [*lines, Line(number(apart.difference, "+.2f"), interval(apart.low, apart.high, "+.2f"), "second − first")]


def _independent(first: Estimate, second: Estimate) -> Difference:
    """Return the second minus the first from their intervals, as if nothing were shared."""
    return Difference(*mover_sum([(1.0, second), (-1.0, first)]))


def _rates(first: Side, second: Side, common: list[str]) -> list[RateRow]:
    prompts = paired_prompts(first, second)
    doubtful = doubted(first.run) | doubted(second.run)
    found = []
    for tag in common:
        for statistic, (name, more_is_better) in STATISTICS.items():
            one, two = (_rate(side.rates, tag, statistic) for side in (first, second))
            if one is None or two is None:
                continue
            both = _paired(prompts[prompts["language"] == tag], statistic)
            apart = _independent(one, two) if both is None else both[1]
            how = "independent" if both is None else f"paired, {both[0]} prompts"
            how += "; judge not validated †" if tag in doubtful else ""
            better = apart if more_is_better else Difference(-apart.difference, -apart.high, -apart.low)
            state = NONE if tag in doubtful else OK if better.low > 0 else FAIL if better.high < 0 else UNSURE
            points = [100 * value for value in apart]
            line = Line(number(points[0], "+.1f"), interval(points[1], points[2], "+.1f"), state=state)
            found.append(RateRow(tag, first.run.tiers[tag], name, _percent(one), _percent(two), line, how, apart))
    return found


def _rate(rates: pd.DataFrame, tag: str, statistic: str) -> Estimate | None:
    rows = rates[(rates["language"] == tag) & (rates["statistic"] == statistic)]
    return None if rows.empty else Estimate(*(float(rows[column].iloc[0]) for column in ("value", "low", "high")))


def _paired(prompts: pd.DataFrame, statistic: str) -> tuple[int, Difference] | None:
    """Compare the same prompts one by one; None where the runs share too few, or did not note the outcome."""
    if prompts.empty:
        return None
    harmful = prompts["harmful"].astype(bool)
    groups = {"harmful_refusal": prompts[harmful], "harmless_refusal": prompts[~harmful]}
    if statistic == "answer_accuracy":
        part = groups["harmless_refusal"].dropna(subset=["correct_first", "correct_second"])
        return _difference(part, "correct")
    if statistic == "selectivity":
        parts = [_difference(part, "refused") for part in groups.values()]
        if parts[0] is None or parts[1] is None:
            return None
        total = mover_sum([(1.0, Estimate(*parts[0][1])), (-1.0, Estimate(*parts[1][1]))])  # harmful and harmless are different meanings
        return parts[0][0] + parts[1][0], Difference(*total)
    return _difference(groups[statistic], "refused")


def _difference(part: pd.DataFrame, column: str) -> tuple[int, Difference] | None:
    if len(part) < 2:
        return None
    second, first = (part[f"{column}_{which}"].astype(bool).to_numpy() for which in ("second", "first"))
    return len(part), newcombe_paired(second, first)


def _percent(one: Estimate) -> str:
    return f"{number(100 * one.value, '.0f')} {interval(100 * one.low, 100 * one.high, '.0f')}".strip()


def _said(first: Side, second: Side, verdicts: list[VerdictPair], rates: list[RateRow]) -> list[str]:
    """Say where verdicts differ, and where selectivity does with an interval that excludes 0."""
    said = [f"{second.name}, {second.what}, beside {first.name}, {first.what}."]
    if verdicts:
        changed = [f"{row.language}: {row.verdicts[0]} → {row.verdicts[1]}" for row in verdicts if row.verdicts[0] != row.verdicts[1]]
        said.append(f"The verdict differs in {len(changed)} of {len(verdicts)} languages" + (f": {'; '.join(changed)}." if changed else "."))
    elif first.run.is_diagnosis != second.run.is_diagnosis:
        whose = "of its gate" if first.run.is_repair or second.run.is_repair else "of the trained model"
        said.append(f"A repair has no verdicts: the rates {whose} are compared with the diagnosis' refusal.")
    else:
        said.append("Verdicts are not in both runs, so that none are compared.")
    main = [row for row in rates if row.statistic == "selectivity"]
    if not main:
        return [*said, "No rates are in both runs."]
    for state, word in ((OK, "higher"), (FAIL, "lower")):
        rows = [row for row in main if row.difference.state == state]
        if rows:
            ends = sorted(100 * row.apart.difference for row in rows)
            told = number(ends[0], "+.0f") if len(rows) == 1 else f"{number(ends[0], '+.0f')} to {number(ends[-1], '+.0f')}"
            said.append(f"Selectivity is {word} in the second run in {listed(row.language for row in rows)}: {told} points.")
    open_ = [row.language for row in main if row.difference.state == UNSURE]
    if open_:
        said.append(f"In {listed(open_)} the difference in selectivity includes 0; that is not evidence of equality.")
    return said


def rates_of_both(found: Comparison) -> pd.DataFrame:
    """Return the rates that both runs have, the first run's above the second's, as :func:`workbench.plots.compared.two_runs` draws them."""
    sides, kept = (found.first, found.second), {(row.language, row.statistic) for row in found.rates}
    names = [side.name for side in sides]
    if names[0] == names[1]:
        names = [f"{name}, {which}" for name, which in zip(names, ("first", "second"), strict=True)]
    tables = []
    for side, name in zip(sides, names, strict=True):
        has = [(tag, STATISTICS[s][0]) in kept for tag, s in zip(side.rates["language"], side.rates["statistic"], strict=True)]
        tables.append(side.rates[has].assign(run=name))
    return pd.concat(tables, ignore_index=True)


def _figure(found: Comparison) -> Figure | None:
    from workbench.plots.compared import two_runs

    if not found.rates:
        return Figure("two_runs", missing="No rates are in both runs.")
    html = plotted(two_runs(rates_of_both(found)), "two_runs", list(dict.fromkeys(row.language for row in found.rates)))
    return Figure(
        "two_runs", html, "Open: the first run; filled: the second. Intervals are each run's own; the table below has those of the differences."
    )


def terminal_table(found: Comparison) -> Any:
    """Return the comparison as a table for the terminal."""
    from rich.table import Table

    from workbench.report.terminal import LOOK

    title = f"first: {found.first.name}; second: {found.second.name}"
    table = Table(title=title, caption="First -> second, in %; difference of selectivity in points with its 95 % interval.", **LOOK)
    table.add_column("language", no_wrap=True)
    pairs = {row.language: row for row in found.verdicts}
    if pairs:
        table.add_column("verdict")
    for name, _ in STATISTICS.values():
        table.add_column(name.replace(" ", "\n").replace("selectivity", "selec-\ntivity"), justify="right")
    table.add_column("difference", justify="right", no_wrap=True)
    by = {(row.language, row.statistic): row for row in found.rates}
    for tag in dict.fromkeys([*pairs, *(row.language for row in found.rates)]):
        cells = [tag]
        if pairs:
            cells.append(" ->\n".join(dict.fromkeys(pairs[tag].verdicts)) if tag in pairs else "-")
        for name, _ in STATISTICS.values():
            row = by.get((tag, name))
            cells.append("-" if row is None else f"{row.first.split(' ')[0]} -> {row.second.split(' ')[0]}")
        row = by.get((tag, "selectivity"))
        cells.append("-" if row is None else f"{row.difference.value}\n{row.difference.interval}")
        table.add_row(*cells)
    return table
