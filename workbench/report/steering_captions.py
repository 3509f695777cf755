"""One sentence per figure of the section on directions and edits, computed from the tables."""

from __future__ import annotations

import pandas as pd

from workbench.report.captions import by_tier
from workbench.report.record import RunRecord
from workbench.report.wording import estimate, listed, number

_FILTERS = {"nan": "a score that is not finite", "layer": "depth", "kl": "KL", "induce": "what they induce"}
_DONE = (
    ("ablate", "harmful_refusal", "Harmful prompts refused with it removed"),
    ("add", "harmless_refusal", "harmless prompts refused with it added"),
)


def direction_cosines(run: RunRecord, table: pd.DataFrame) -> str:
    """Say how alike the languages' directions are, beside what permuted labels and the meanings they share would give."""
    known = table[table["value"].notna()]
    if known.empty:
        return "No two languages have a direction at the same place."
    parts, beyond = [], []
    for position, part in known.groupby("position", sort=False):
        layer = int(part["layer"].max())
        here = part[part["layer"] == layer]
        beyond.append(f"{int((here['value'] > here['permuted_same_95']).sum())} of {len(here)} at {position}")
        parts.append(
            f"{number(here['value'].min())} to {number(here['value'].max())} at layer {layer} of {position} (5 % of permuted labels exceed "
            f"{number(here['permuted_95'].max())}, of the same meanings relabelled in both languages {number(here['permuted_same_95'].max())})"
        )
    return (
        f"Cosines between the harm directions of two languages: {listed(parts)}. Translations share their meanings, so only what lies beyond the "
        f"relabelled ones speaks of harm in particular: {listed(beyond)}."
    )


def selection(run: RunRecord, table: pd.DataFrame) -> str:
    """Say which candidate was chosen, and how many each filter removed."""
    whole = table[table["language"] == "all"] if "language" in table else table
    chosen = whole[whole["selected"].astype(bool)]
    if chosen.empty:
        return "No candidate passed the filters."
    row = chosen.iloc[0].to_dict()
    counts = whole["removed_by"].astype(str).str.split("+").explode().value_counts()
    removed = listed(f"{counts[name]} by {_FILTERS.get(name, name)}" for name in counts.index if name)
    survivors = int((whole["removed_by"].astype(str) == "").sum())
    bypass, induce, kl = number(row["bypass"], "+.1f"), number(row["induce"], "+.1f"), number(row["kl"], ".3f")
    return (
        f"Chosen on the select split: layer {int(row['layer'])} of {row['position']}. With it removed harmful prompts score {bypass}, with it added "
        f"harmless ones {induce} (above 0 is refusal), and removing it moves the next token of harmless ones by {kl} nats. {survivors} of "
        f"{len(whole)} candidates passed the filters{f' (dropped: {removed}; some by several)' if removed != 'none' else ''}."
    )


def strength(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what the largest effect was and at which strength."""
    own = table[(table["kind"] == "direction") & (table["statistic"] == "harmless_refusal")]
    means = own.groupby("strength")["value"].mean()
    if means.empty:
        return "No strength could be measured."
    best = float(means.idxmax())  # the smallest of equals
    if best == 0:
        return "At no strength tried are more harmless prompts refused than without the edit." + _doubtful(own)
    here = own[own["strength"] == best]
    found = f"Most harmless prompts are refused with it added at {number(best, 'g')} times its measured length: {by_tier(here, 'value', '.0%')}."
    return found + _doubtful(own)


def steered(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what removing and adding did on the score split, beside the controls."""
    from workbench.plots.style import span

    said = []
    for edit, statistic, doing in _DONE:
        part = table[(table["edit"] == edit) & (table["statistic"] == statistic) & (table["strength"] != 0)]
        own, control = part[part["kind"] == "direction"], part[part["kind"] != "direction"]
        if own.empty:
            continue
        text = f"{doing}: {by_tier(own, 'value', '.0%')}"
        if not control.empty:
            text += f" ({control['direction'].nunique()} control directions of the same length: {span(control['value'], '.0%')})"
        said.append(text)
    accuracy = table[(table["edit"] == "ablate") & (table["statistic"] == "answer_accuracy") & (table["kind"] == "direction")]
    least, plain = accuracy[(accuracy["strength"] != 0) & accuracy["value"].notna()], accuracy[accuracy["strength"] == 0]
    if len(least) and len(plain):
        worst = least.loc[least["value"].idxmin()].to_dict()
        said.append(
            f"harmless prompts answered right with it removed: least in {worst['language']}, {estimate(worst, form='.0%')} "
            f"(without an edit {number(plain['value'].min(), '.0%')} or more)"
        )
    return "; ".join(said) + "." + _doubtful(table) if said else "No edit could be measured."


def _doubtful(table: pd.DataFrame) -> str:
    """Name the languages in which the judge of these replies was not validated."""
    if "validated" not in table or table["validated"].astype(bool).all():
        return ""
    return f" The judge was not validated in {listed(dict.fromkeys(table.loc[~table['validated'].astype(bool), 'language']))} (†)."
