"""Small tables that stand below the figures of a section."""

from __future__ import annotations

from workbench.report.parts import Table
from workbench.report.record import RunRecord
from workbench.report.wording import estimate, number


def bottlenecks(run: RunRecord) -> list[Table]:
    """Return the verdict on a semantic bottleneck per model and position."""
    table = run.table("bottleneck", model=None)
    if table is None:
        return [Table("Semantic bottleneck", ["verdict"], [["not assessed: there is no table “bottleneck” in this run"]])]
    rows = []
    for _, row in table.iterrows():
        found = str(row["verdict"]) == "bottleneck"
        where = f"{number(row['layer'], '.0f')} ({number(row['low'], '.0f')} to {number(row['high'], '.0f')})" if found else "–"
        rows.append([str(row["position"]), str(row.get("model", "after")), str(row["verdict"]), where, str(row["reason"])])
    return [Table("Semantic bottleneck", ["position", "model", "verdict", "layer (range)", "reason"], rows)]


def bits_per_byte(run: RunRecord) -> list[Table]:
    """Return how well the model predicts each language's requests, where that was measured."""
    table = run.table("bits_per_byte")
    if table is None:
        return []
    order = list(run.tiers)
    table = table.sort_values("language", key=lambda column: column.map({tag: i for i, tag in enumerate(order)}), kind="stable")
    rows = [[str(r["language"]), str(r["tier"]), estimate(r.to_dict()), str(int(r["n"]))] for _, r in table.iterrows()]
    return [
        Table("Bits per byte of the requests", ["language", "tier", "bits per byte", "n"], rows, "8 is guessing among all bytes; lower is better.")
    ]


def reply_forms(run: RunRecord) -> list[Table]:
    """Return the shares of replies that are right, garbled or in another language, where they were counted."""
    table = run.table("refusal")
    names = {"answer_accuracy": "harmless answers right", "garbled": "garbled", "off_language": "in another language"}
    if table is None or not table["statistic"].isin(names).any():
        return []
    present = [s for s in names if (table["statistic"] == s).any()]
    cells = {(r["language"], r["statistic"]): estimate(r.to_dict(), form=".0%") for _, r in table.iterrows()}
    rows = [[tag, tier, *[cells.get((tag, s), "–") for s in present]] for tag, tier in run.tiers.items()]
    judges = ", ".join(dict.fromkeys(table["judge"].astype(str))) if "judge" in table else "unknown"
    return [Table("Form of the replies", ["language", "tier", *[names[s] for s in present]], rows, f"Judge: {judges}.")]
