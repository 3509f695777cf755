"""One sentence per figure of the geometry section that compares languages or models, computed from the tables."""

from __future__ import annotations

import pandas as pd

from workbench.report.captions import by_tier
from workbench.report.record import RunRecord
from workbench.report.wording import estimate, interval, listed, number


def harm_variance(run: RunRecord, table: pd.DataFrame) -> str:
    """Say how much of harm is shared, at the layer where harm holds most variance."""
    last = str(table["position"].iloc[-1])
    here = table[(table["factor"] == "harm") & (table["position"] == last) & table["share"].notna()]
    if here.empty:
        return "The share of harm is not defined at any layer."
    peak = here.loc[here["share"].idxmax()].to_dict()
    same = table[(table["factor"] == "language x harm") & (table["position"] == last) & (table["layer"] == peak["layer"])]
    said = f"Harm that is the same in every language holds {estimate(peak, 'share')} of the variance at layer {int(peak['layer'])} of {last}"
    if not same.empty:
        said += f", harm that differs by language {estimate(same.iloc[0].to_dict(), 'share')}"
    if not same.empty and pd.notna(same["index"].iloc[0]):
        index = estimate(same.iloc[0].to_dict(), "index", "index_low", "index_high")
        said += f": a transfer index of {index} (0: one harm for all languages, 1: one for each)"
    return said + "."


def similarity(run: RunRecord, table: pd.DataFrame) -> str:
    """Say how often translations stand out to each other, at the best layer."""
    mexa = table[(table["statistic"] == "mexa") & table["value"].notna()]
    if mexa.empty:
        return "Similarity to the reference languages was not measurable."
    position, layer = mexa.groupby(["position", "layer"])["value"].mean().idxmax()
    here = mexa[(mexa["position"] == position) & (mexa["layer"] == layer)]
    said = f"Translations stand out to each other (MEXA) most at layer {int(layer)} of {position}: {by_tier(here, 'value')}"
    if here["control"].notna().any():
        said += f"; in an untrained copy at most {number(here['control'].max())}"
    return said + "."


def separation_change(run: RunRecord, table: pd.DataFrame) -> str:
    """Say whether alignment did more for the reference languages, from the contrast's interval."""
    from workbench.plots.separated import basis_name, compared

    contrast = run.table("separation_contrast", model=None)
    share, statistic, basis = compared(table)  # what the figure shows first
    if share.empty:
        return "The change of separation is not defined."
    layer = int(share["layer"].max())
    parts = []
    for position, part in share[share["layer"] == layer].groupby("position", sort=False):
        parts.append(f"{by_tier(part, 'change', '+.2f')} at {position}")
    said = f"From before to after, the classes' share of variance at layer {layer} ({basis_name(statistic, basis)}) changed by {'; '.join(parts)}"
    if contrast is None:
        return said + "."
    rows = contrast[(contrast["statistic"] == statistic) & (contrast["basis"] == basis) & (contrast["layer"] == layer)]
    told = [f"{number(r['contrast'], '+.2f')} {interval(r['low'], r['high'], '+.2f')} at {r['position']}" for _, r in rows.iterrows()]
    return f"{said}. Reference languages minus the others: {listed(told)}."


def language_track(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what the last layer would speak, and how much of it cannot be attributed."""
    rows = table[table["kind"] == "rollup"]
    rows = rows[(rows["layer"] == rows["layer"].max()) & (rows["position"] == rows["position"].iloc[-1])]
    own = rows[(rows["spoken"] == "own") & rows["share"].notna()]
    if own.empty:
        return "No language could be attributed to what the layers would say."
    unseen = own["unseen"].max()
    said = f"At the last layer of {own['position'].iloc[0]}, tokens of the prompt's own language hold {by_tier(own, 'attributed')} of the probability"
    if unseen > 0.5:
        said += f"; up to {number(unseen, '.0%')} lies on tokens never seen in these prompts, so that no language is named there"
    return said + "."
