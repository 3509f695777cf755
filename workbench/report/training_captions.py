"""One sentence or two per figure of a repair by training, computed from the tables: what, on which split, which interval."""

from __future__ import annotations

import pandas as pd

from workbench.report.captions import by_tier
from workbench.report.record import RunRecord
from workbench.report.repair_rows import Compared, seen_in
from workbench.report.training_verdict import where
from workbench.report.wording import listed, number

_PAID = (
    ("answer_accuracy", -1, "lose more than 2 points of right answers"),
    ("harmless_refusal", 1, "refuse more than 2 points more of harmless prompts"),
)
_INTERVALS = "Intervals: 95 % over meanings, score split."


def languages(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what harmful and harmless refusal become under each repair, by tier."""
    compared = Compared.of(run)
    if compared is None:
        return _INTERVALS
    own = table[~table["language"].astype(str).str.startswith("mean ") & table["value"].notna()]
    told = []
    for method in (compared.plain, compared.gate):
        parts = []
        for statistic, what in (("harmful_refusal", "harmful"), ("harmless_refusal", "harmless")):
            rows = own[(own["method"] == method) & (own["statistic"] == statistic)]
            if len(rows):
                parts.append(f"{what} {by_tier(rows, 'value', '.0%')}")
        told.append(f"“{method}” {' and '.join(parts)}")
    seen = seen_in(run)
    shaded = "" if seen is None else f" Training saw texts in {listed(seen)}; the others are shaded."
    n = int(table["n"].max())
    return f"Refused of the prompts of {n} held-out meanings: {'; '.join(told)}.{shaded} {_INTERVALS}"


def cost(run: RunRecord, table: pd.DataFrame, place: str) -> str:
    """Say which repairs stay within the budget, and that the highest of several was picked."""
    rows = table[(table["language"] == place) & table["value"].notna()]
    wide = rows.pivot_table(index="method", columns="statistic", values="value", observed=True)
    said = []
    for statistic, sign, what in _PAID:
        if statistic in wide:
            over = [str(method) for method, value in (sign * wide[statistic]).items() if value > 0.02]
            said.append(f"{len(over)} of {len(wide)} {what}" + (f" ({listed(over)})" if over else ""))
    picked = " The highest gain of the title is picked on what is shown." if len(wide) > 1 else ""
    return f"Each repair minus the model as it is, the same prompts and judge, {where(place)}: {'; '.join(said)}.{picked} {_INTERVALS}"


def curves(run: RunRecord, table: pd.DataFrame) -> str:
    """Say what is measured while training, and that it decides nothing."""
    steps = int(table["step"].max())
    watched = table[(table["language"].fillna("") != "") & table["value"].notna()]
    at = sorted({int(step) for step in watched["step"]})
    gaps = (
        " A reward gap is by how much the right reply is likelier than the wrong one, per token, on held-out pairs; it warns without a reply being "
        "generated, and is no refusal rate."
        if table["statistic"].isin(["reward_gap", "reward_gap_harmless"]).any()
        else ""
    )
    asked = (
        f"Rates and lengths are of replies to a few prompts of the select split, asked at {len(at)} steps up to {steps}; nothing is chosen by "
        f"them.{gaps}"
        if at
        else ""
    )
    losses = table[(table["statistic"] == "loss") & table["value"].notna()].sort_values("step")
    loss = f"The loss goes from {number(losses['value'].iloc[0])} to {number(losses['value'].iloc[-1])}. " if len(losses) > 1 else ""
    return f"{loss}{asked}".strip() or f"{steps} steps."


def layers(run: RunRecord, table: pd.DataFrame) -> str:
    """Say whether the layer that is used reads harm better than those around it."""
    compared = run.table("layers_compared")
    said = "Interpreters were trained on the fit split and their threshold chosen on select; scores are of the score split."
    if compared is None:
        return f"{said} Dotted, of accuracy: trained on permuted labels, the highest of the languages."
    group = "unseen" if (compared["group"] == "unseen").any() else "all"
    rows = compared[compared["group"] == group]
    at = int(rows["reference"].iloc[0])
    others = rows[rows["layer"] != at]
    told = []
    for verdict, words in (("better", "better than at"), ("worse", "worse than at"), ("not told apart", "not told apart from that at")):
        found = [int(layer) for layer in others.loc[others["verdict"] == verdict, "layer"]]
        if found:
            told.append(f"{words} {'layer' if len(found) == 1 else 'layers'} {listed(found)}")
    whose = {"unseen": "languages that it was not trained in", "all": "all languages"}[group]
    return f"In {whose}, accuracy at layer {at} is {'; '.join(told) or 'compared with no other layer'} (corrected for the number of layers). {said}"


def weights(run: RunRecord, table: pd.DataFrame) -> str:
    """Say how much of the weight the first tokens have."""
    replies, first = int(table["prompt_id"].nunique()), 3 if table["token_index"].max() >= 9 else 1
    parts = []
    for label, name in ((True, "harmful"), (False, "harmless")):
        rows = table[table["harmful"].astype(bool) == label]
        total = rows["weight"].sum()
        if total > 0:
            parts.append(f"{number(100 * rows.loc[rows['token_index'] < first, 'weight'].sum() / total, '.0f')} % in replies to {name} requests")
    held = "the first three tokens hold" if first > 1 else "the first token holds"
    return (
        f"Weights of the tokens of {replies} replies to prompts of the select split, before the first step; {held} {listed(parts)}. "
        "The teacher's part is how sure it is of the next token, the student's how unlikely the student finds that token. "
        "A formula of our own reading: the paper's notes leave choices open."
    )


def strips(run: RunRecord, table: pd.DataFrame) -> str:
    """Say how the strips are read."""
    return (
        "One reply per tier to a harmful request and one to a harmless one, the first of the table: numbers only, no token is shown. A weight is the "
        "product of the two parts above it, scaled within its reply."
    )


__all__ = ["cost", "curves", "languages", "layers", "strips", "weights"]
