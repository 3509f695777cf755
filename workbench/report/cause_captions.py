"""One sentence per figure on what would bring refusal back, computed from the tables, and what each does not say."""

from __future__ import annotations

import pandas as pd

from workbench.report.parts import Table
from workbench.report.record import RunRecord
from workbench.report.wording import estimate, interval, listed, number

_STEPS = {
    "transferred": "handing the decision to a gate with the reference's threshold",
    "recalibrated": "setting its threshold anew",
    "oracle": "true labels instead",
    "fitted": "fitting the strength",
}
_SWITCHES = {"threshold_recalibrated": "threshold recalibrated", "errors_removed": "errors removed", "strength_fitted": "strength fitted"}
_EXCHANGED = {"harm_coordinate": "the harm coordinate", "refusal_coordinate": "the refusal coordinate", "state": "the whole state"}


def waterfall(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what share of the gap each step brings back, lowest to highest language, and what a share is not."""
    known = table[table["share"].notna() & (table["step"] != "own")]
    if known.empty:
        said = "In no language is the gap to the reference clear enough to be shared out."
    else:
        parts = []
        for step in (step for step in _STEPS if (known["step"] == step).any()):
            part = known[known["step"] == step]
            labels = listed(dict.fromkeys(part["labels"].astype(str)))
            parts.append(f"{_STEPS[step]} {_span(part['share'])}" + (f" (labels: {labels})" if step == "recalibrated" else ""))
        left = sorted(set(table["language"]) - set(known["language"]))
        said = f"Of the gap in selectivity, net of random directions: {'; '.join(parts)}."
        said += f" Without a clear gap: {listed(left)}." if left else ""
    n = int(table["n"].min())
    return (
        f"{said} What this does not say: that the model itself decides by this direction; a gate in its place shows only that what it needs is "
        f"there. Shares belong to steps taken in this order (the Shapley values below ask how far it matters) and rest on at least {n} prompts per "
        "language. "
        "A random direction is pushed where the gate flags, so that the band is what any push of this size would do."
    )


def restoration(run: RunRecord, table: pd.DataFrame, kind: str) -> str:
    """Say what exchanging one thing does at its peak, beside its controls, and what a peak is not."""
    own = table[(table["kind"] == kind) & (table["outcome"] == "log_odds") & (table["pair"] == "twin")]
    means = own[own["language"].astype(str).str.startswith("mean ")]
    own = means if len(means) else own
    controls = table[(table["matched"] == kind) & (table["outcome"] == "log_odds")]
    parts = []
    for (language, way), part in own.groupby(["language", "way"], sort=False):
        peak = part[part["peak"].eq(True)]
        if peak.empty:
            parts.append(f"{way}, {language}: no layer leads towards the other")
            continue
        row = peak.iloc[0].to_dict()
        beside = controls[(controls["language"] == language) & (controls["way"] == way) & (controls["layer"] == row["layer"])]["value"].dropna()
        told = f", controls at most {number(beside.abs().max())} either way" if len(beside) else ""
        parts.append(f"{way}, {language}: {estimate(row, form='+.2f')} at layer {int(row['layer'])}{told}")
    said = f"Exchanging {_EXCHANGED.get(kind, kind)} with the reference's twin changes the log-odds of refusal: {'; '.join(parts) or 'not measured'}."
    return (
        f"{said} What this does not say: a peak is the largest increment of several layers, so that its value flatters; to state one, choose the "
        "layer on the reference's own classes (‡). At the last layer no block is left to read anything, so that the whole state restores trivially "
        "there. Twins are translations into one reference language; the outcome is the first token, not the reply; and that a coordinate suffices "
        "here does not say that the model computes its decision along it."
    )


def shapley(run: RunRecord) -> list[Table]:
    """Return each switch's mean contribution over the orders of switching."""
    table = run.table("shapley")
    if table is None:
        return []
    cells = {
        (str(r["language"]), str(r["switch"])): f"{number(r['share'], '+.0%')} {interval(r['low'], r['high'], '+.0%')}" for _, r in table.iterrows()
    }
    rows = [
        [tag, tier, *(cells.get((tag, s), "–").strip() for s in _SWITCHES)]
        for tag, tier in run.tiers.items()
        if any((tag, s) in cells for s in _SWITCHES)
    ]
    note = "Share of the gap, net of random directions, averaged over all orders of the three binary switches only; brackets are 95 % intervals."
    return [Table("Does the order matter? (Shapley)", ["language", "tier", *_SWITCHES.values()], rows, note)]


def _span(values: pd.Series) -> str:
    low, high = (_share(v) for v in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _share(value: float) -> str:
    """Return ``+29%``, and ``0%`` without a sign."""
    return "0%" if round(100 * value) == 0 else number(value, "+.0%")
