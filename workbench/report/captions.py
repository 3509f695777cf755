"""One sentence per figure, computed from the tables. A claim is made only where a table's verdict column makes it."""

from __future__ import annotations

import pandas as pd

from workbench.report.record import RunRecord
from workbench.report.wording import estimate, interval, listed, number


def _row(table: pd.DataFrame, at: object) -> dict:
    return table.loc[at].to_dict()


def _ends(table: pd.DataFrame, value: str = "value", form: str = ".2f", low: str = "low", high: str = "high") -> str:
    """Return the lowest and the highest language with their intervals."""
    known = table[table[value].notna()]
    if known.empty:
        return "not measured"
    small, large = _row(known, known[value].idxmin()), _row(known, known[value].idxmax())
    if number(small[value], form) == number(large[value], form) and len(known) > 1:
        return f"{estimate(small, value, low, high, form)} in every language"
    return f"{estimate(small, value, low, high, form)} ({small['language']}) to {estimate(large, value, low, high, form)} ({large['language']})"


def by_tier(table: pd.DataFrame, value: str, form: str = ".2f") -> str:
    """Return the range per tier: ``high 0.95 to 0.99, low 0.74 to 0.78``."""
    from workbench.plots.style import TIERS, span

    parts = []
    tiers = table["tier"].astype(object).where(table["tier"].notna(), "unknown")
    for tier in [t for t in TIERS if (tiers == t).any()]:
        parts.append(f"{span(table.loc[tiers == tier, value], form)} in {tier}-tier languages")
    return listed(parts)


def tokens_per_character(run: RunRecord, table: pd.DataFrame) -> str:
    return f"The tokenizer needs {_ends(table)} tokens per character; the more, the longer the same request is for the model."


def understanding(run: RunRecord, table: pd.DataFrame) -> str:
    counts = table["understood"].astype(str).value_counts()
    said = listed(f"{word}: {counts[word]}" for word in ("yes", "no", "not enough evidence", "not assessed") if word in counts)
    measures = listed(dict.fromkeys(table["statistic"].astype(str).str.replace("_", " ")))
    return f"Understood, by {measures}: {said} of {len(table)} languages; measured {_ends(table)}."


def retrieval(run: RunRecord, table: pd.DataFrame) -> str:
    if not table["value"].notna().any():
        return "Translation retrieval was not measurable."
    chosen = table[table["chosen"].astype(bool)] if "chosen" in table else table.iloc[:0]
    among = chosen if chosen["value"].notna().any() else table
    position, layer = among.groupby(["position", "layer"])["value"].mean().idxmax()
    best = table[(table["position"] == position) & (table["layer"] == layer)]
    how = "the layer chosen on other meanings" if among is chosen else "its best layer on average"
    return (
        f"At {how} ({layer}, {position}) a request's translation is the nearest neighbour for {_ends(best)} of meanings; "
        f"the null's 95th percentile is at most {number(best['null_95'].max())} there."
    )


def auroc(run: RunRecord, table: pd.DataFrame) -> str:
    chosen = run.table("harm_represented")
    if chosen is None:
        return f"AUROC over all layers and languages: {_ends(table)}; no layer was chosen."
    layers = chosen.groupby("position", sort=False)["layer"].first()
    parts = [f"at layer {int(layer)} of {p}, AUROC is {by_tier(chosen[chosen['position'] == p], 'auroc')}" for p, layer in layers.items()]
    return f"Of layers chosen on the reference languages: {'; '.join(parts)}."


def nulls(run: RunRecord, table: pd.DataFrame) -> str:
    columns = [c for c in ("null_labels_95", "null_direction_95", "untrained_high", "surface") if c in table]
    parts = []
    for position, part in table.groupby("position", sort=False):
        failing = part.loc[~part["represented"].astype(bool), "language"]
        told = f"{int(part['represented'].sum())} of {len(part)} languages at {position}"
        parts.append(told + (f" (not shown in {listed(failing)})" if len(failing) else ""))
    strongest = number(table[columns].max().max()) if columns else "not measured"
    return f"Harm is represented, its lower bound above every null, in {listed(parts)}; the strongest null reaches {strongest}."


def projections(run: RunRecord, table: pd.DataFrame) -> str:
    known = run.table("thresholds")
    if known is None:
        return f"Projections of {table['prompt_id'].nunique()} prompts; no thresholds were set in this run."
    parts = [
        f"{number(part['transferred_threshold'].iloc[0], '.3g')} at {position}, "
        f"own thresholds {number(part['own_threshold'].min(), '.3g')} to {number(part['own_threshold'].max(), '.3g')}"
        for position, part in known.groupby("position", sort=False)
    ]
    return f"The threshold of the reference languages is {'; '.join(parts)} (activation units); right of a threshold counts as harmful."


def thresholds(run: RunRecord, table: pd.DataFrame) -> str:
    parts = []
    for position, part in table.groupby("position", sort=False):
        gap, apart = _ends(part, "gap", "+.2f", "gap_low", "gap_high"), part.loc[part["gap_low"] > 0, "language"]
        parts.append(
            f"{gap} at {position}, with an interval above zero in {listed(apart)}"
            if len(apart)
            else f"{gap} at {position}, with no interval above zero"
        )
    return f"An own threshold changes balanced accuracy by {'; '.join(parts)}."


def refusal(run: RunRecord, table: pd.DataFrame) -> str:
    harmful, harmless = (table[table["statistic"] == s] for s in ("harmful_refusal", "harmless_refusal"))
    said = f"Harmful prompts are refused in {_ends(harmful, form='.0%')} of cases"
    if not harmless.empty:
        worst = _row(harmless, harmless["value"].idxmax())
        said += f", harmless ones in at most {estimate(worst, form='.0%')} ({worst['language']})"
    if "validated" in table and not table["validated"].astype(bool).all():
        doubtful = dict.fromkeys(table.loc[~table["validated"].astype(bool), "language"])
        said += f"; the judge was not validated in {listed(doubtful)} (†)"
    return said + "."


def variance_shares(run: RunRecord, table: pd.DataFrame) -> str:
    first = table["scaling"].iloc[0]
    meaning = table[(table["factor"] == "meaning") & (table["scaling"] == first) & table["share"].notna()]
    if meaning.empty:
        return "The share of meaning is not defined at any layer."
    peak = _row(meaning, meaning["share"].idxmax())
    same = table[(table["layer"] == peak["layer"]) & (table["position"] == peak["position"]) & (table["scaling"] == first)]
    other = same[same["factor"] == "language"]
    said = f"Meaning holds {estimate(peak, 'share')} of the variance at its highest layer ({int(peak['layer'])}, {peak['position']})"
    if not other.empty:
        said += f", language {estimate(other.iloc[0].to_dict(), 'share')} there"
    if "null_share" in peak and pd.notna(peak["null_share"]):
        said += f"; noise would give meaning {number(peak['null_share'])}"
    return said + "."


def silhouettes(run: RunRecord, table: pd.DataFrame) -> str:
    rows = table[(table["statistic"] == "difference") & table["value"].notna()]
    if rows.empty:
        return "The silhouettes are not defined at any layer."
    parts = []
    for position, part in rows.groupby("position", sort=False):
        peak = _row(part, part["value"].idxmax())
        parts.append(f"{number(peak['value'], '+.2f')} {interval(peak['low'], peak['high'], '+.2f')} at layer {int(peak['layer'])} of {position}")
    return f"The silhouette by meaning minus the one by language is at most {listed(parts)}; whether that is a bottleneck is decided below."


def clusters(run: RunRecord, table: pd.DataFrame) -> str:
    models = "before and after alignment" if (table["model"] == "before").any() else "in the model diagnosed"
    return (
        f"{table['prompt_id'].nunique()} prompts on axes fitted per panel and layer, {models}: a picture to look at, from which nothing is concluded."
    )


def separation(run: RunRecord, table: pd.DataFrame) -> str:
    from workbench.plots.separated import compared

    table, _, _ = compared(table)  # what the figure shows
    after = table[table["model"] == "after"]
    means = after.groupby(["position", "layer"])["value"].mean()
    if not means.notna().any():
        return "The separation of the classes is not defined at any layer."
    position, layer = means.idxmax()
    here = (table["position"] == position) & (table["layer"] == layer)
    shares = by_tier(table[here & (table["model"] == "after")], "value")
    said = f"At layer {layer} of {position}, where it is largest on average, the classes' share of variance is {shares}"
    before = table[here & (table["model"] == "before")]
    return said + (f"; before alignment it was {by_tier(before, 'value')}." if not before.empty else ".")
