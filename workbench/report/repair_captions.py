"""One sentence or two per figure of a repair, computed from the tables: what, how many draws and labels, which split, which interval."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from workbench.report.captions import by_tier
from workbench.report.record import RunRecord
from workbench.report.repair_verdict import Target, targets_of
from workbench.report.wording import estimate, listed, number

_INTERVALS = "Intervals: 95 % over meanings and draws of examples."


def methods(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what is averaged over what, and which labels each method used."""
    from workbench.repair.kinds import ADASTEER

    target = _leading(run)
    n, draws, known = int(table["n"].max()), int(table["draws"].max()), set(table["method"])
    labels = listed(label for label in dict.fromkeys(table["labels"].astype(str)) if label != "none")
    over = f"Means over {len(target.tags)} {target.where} ({', '.join(target.tags)})" if target.mean else f"Rates in {target.where}"
    strength = "all push with the same strength" + (f", {ADASTEER} with a multiple chosen on the select split" if ADASTEER in known else "")
    best = " The best rival of the title is picked in its favour, as the highest on the prompts scored here." if "rival" in _kinds(known) else ""
    return (
        f"{over} on {n} held-out meanings. Methods that learn from a language got {labels} labels of it (harmful + harmless; “all” is the ceiling), "
        f"drawn up to {draws} times; {strength}.{best} {_INTERVALS}"
    )


def _leading(run: RunRecord) -> Target:
    return next(iter(targets_of(run)), Target("mean low", "low", []))


def _kinds(methods: Iterable[str]) -> set[str]:
    from workbench.repair.kinds import kind_of

    return {kind_of(str(method)) for method in methods}


def few_shot(run: RunRecord, table: pd.DataFrame) -> str:
    """Say from how many examples on the gate is as good as with the most, how far single draws spread, and what has no curve."""
    from workbench.plots.few_shot import headline_of

    target, gate = _leading(run), headline_of(table["method"].astype(str))
    rows = table[(table["method"] == gate) & (table["language"] == target.place) & (table["statistic"] == "selectivity") & table["value"].notna()]
    if rows.empty:
        return "The gate has no curve in this run."
    rows = rows.sort_values("k")
    last = rows.iloc[-1]
    enough = rows[rows["value"] >= last["value"] - 0.02].iloc[0]
    spread = rows[rows["k"] > 0]
    single = "" if spread.empty else _single(spread.iloc[0].to_dict())
    return (
        f"With k = {int(enough['k'])} the gate is within 2 points of what it reaches with k = {int(last['k'])} (selectivity "
        f"{estimate(last.to_dict())}, {target.where}, score split, up to {int(rows['draws'].max())} draws of examples from the fit split){single}. "
        f"{_unpriced(gate)}What needs no labels goes across. {_curveless(run, table)}{_INTERVALS}"
    )


def _unpriced(gate: str) -> str:
    """Say why the headline's price is not the one of the comparison."""
    from workbench.repair.kinds import PRICED_AS_GIVEN

    said = "The price of a miss is left as it is by default: choosing it takes labels of the select split, more than k. "
    return said if gate == PRICED_AS_GIVEN else ""


def _curveless(run: RunRecord, table: pd.DataFrame) -> str:
    """Say why a rival that was compared has no curve."""
    from workbench.repair.kinds import ADASTEER

    rates = run.table("repair_rates")
    if rates is None or ADASTEER not in set(rates["method"]) or ADASTEER in set(table["method"]):
        return ""
    return f"{ADASTEER} has no curve: it pushes each prompt by a strength of its own, so its replies are generated anew for each draw of examples. "


def _single(row: dict) -> str:
    return f"; at k = {int(row['k'])} 10 to 90 % of single draws give {number(row['draw_10'])} to {number(row['draw_90'])}"


def strength(run: RunRecord, table: pd.DataFrame) -> str:
    """Say which strength was chosen and by what."""
    chosen = table.loc[table["chosen"].astype(bool), "strength"]
    target = _leading(run)
    if chosen.empty:
        return "No strength is marked as chosen."
    at = float(chosen.iloc[0])
    here = table[(table["strength"] == at) & (table["language"] == target.place) & (table["statistic"] == "selectivity") & table["value"].notna()]
    told = listed(f"{row['method']} {estimate(row.to_dict())}" for _, row in here.iterrows())
    return (
        f"Strength {at:g} (gaps of the direction) was chosen for every method on the select split: the smallest at which true labels come close to "
        f"their best. Selectivity there, {target.where}: {told}. No number of this figure is from the score split."
    )


def transfer(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what is carried over between different languages, beside gates of permuted labels."""
    apart = table[(table["source"] != table["target"]) & (table["source"] != "all others") & table["value"].notna()]
    parts = []
    for statistic, name in (("auroc", "AUROC"), ("balanced_accuracy", "balanced accuracy at the source's threshold")):
        rows = apart[apart["statistic"] == statistic]
        if len(rows):
            beats = int((rows["low"] > rows["null"]).sum())
            parts.append(
                f"{name} {number(rows['value'].min())} to {number(rows['value'].max())} (above gates of permuted labels in {beats} of {len(rows)})"
            )
    own = apart[apart["statistic"] == "own_balanced_accuracy"]
    said = f"From one language to another: {listed(parts)}" if parts else "Nothing was carried from one language to another"
    if len(own):
        said += f"; with a threshold chosen on the target's own select split {number(own['value'].min())} to {number(own['value'].max())}"
    return said + ". Score split, no examples of the target; intervals: 95 % over meanings. “All others”: fitted on every language but the target."


def roc(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what each threshold flags, by tier."""
    said = []
    for mark, name in (("source threshold", "the source languages' threshold"), ("recalibrated", "the one set with the first draw's examples")):
        rows = table[table["mark"] == mark]
        if len(rows):
            said.append(f"{name} flags of harmful ones {by_tier(rows, 'hit')}, of harmless ones {by_tier(rows, 'false_alarm')}")
    n = int(table["n"].max())
    return (
        f"Of the prompts of {n} held-out meanings {'; '.join(said) or 'no threshold is marked'}. AUROC with 95 % intervals over meanings; chance .5."
    )


def scores(run: RunRecord, table: pd.DataFrame) -> str:
    """Say how far examples move the threshold."""
    lines = table.drop_duplicates("language")
    moved = lines[lines["threshold"] != lines["source_threshold"]]
    if moved.empty:
        return "No threshold was moved."
    source = number(moved["source_threshold"].iloc[0], ".2f")
    return (
        f"The source languages' threshold is {source}; the first draw's examples set {number(moved['threshold'].min())} to "
        f"{number(moved['threshold'].max())} in {len(moved)} languages. What scores at or above a threshold is flagged. The best in hindsight knows "
        "the labels of the prompts shown and is no method."
    )


def elsewhere(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what the gate does on sets it was not made for."""
    rows = table[~table["language"].astype(str).str.startswith("mean ") & table["value"].notna()]
    sets = listed(dict.fromkeys(rows["set"].astype(str)))
    parts = []
    for statistic, what in (("harmful_refusal", "harmful"), ("harmless_refusal", "harmless")):
        for method, part in rows[rows["statistic"] == statistic].groupby("method", sort=False):
            parts.append(f"{what} under “{method}” {by_tier(part, 'value', '.0%')}")
    return f"On {sets}, with gate and strength as they are, refused: {'; '.join(parts)}. Intervals: 95 % over meanings."
