"""What a finished run shows in the terminal: the measured figures per language, as they stand in the run folder."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from workbench.report.language_table import language_rows, not_validated
from workbench.report.record import RunRecord
from workbench.report.repair_rows import SEEN_OR_NOT, repair_rows
from workbench.report.training_verdict import method_name
from workbench.report.verdict_table import STAGE_SCORES, unmeasured, verdict_rows
from workbench.report.wording import number

_STAGES = {
    "understood": "under-\nstood", "represented": "repre-\nsented", "calibrated": "cali-\nbrated", "actuated": "actu-\nated",
    "expressed": "ex-\npressed",
}  # fmt: skip
_MARKS = {"ok": "", "fail": " x", "unsure": " ?"}
LOOK: dict[str, Any] = {"title_justify": "left", "caption_justify": "left", "box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 0, 0, 1)}


def figures(run: RunRecord) -> list[Table]:
    """Return the verdicts, the measured figures per language, and the bottleneck; of a repair, what it repairs."""
    if not run.is_diagnosis:
        return [_repaired(run)]
    columns = {
        "understood": "under-\nstood",
        "represented": "AUROC",
        "transferred": "bal.acc.\nref.thr.",
        "own": "bal.acc.\nown thr.",
        "harmful_refusal": "harmful\nrefused",
        "harmless_refusal": "harmless\nrefused",
        "selectivity": "selec-\ntivity",
    }
    title = f"{run.model}: a controlled model with invented languages" if run.is_organism else run.model
    caption = "Two lines in a cell: t_inst, t_post_inst. Refusal in %. The report has the intervals."
    languages = Table(title=title, caption=caption, **LOOK)
    languages.add_column("language", no_wrap=True)
    for name in columns.values():
        languages.add_column(name, justify="right")
    for row in language_rows(run):
        cells = []
        for stage in columns:
            lines = getattr(row, stage)
            shown = [f"{line.interval.split(' ')[0]}\n{line.value}".strip() if stage == "understood" else line.value for line in lines]
            cells.append("\n".join(shown) or "-")
        languages.add_row(f"{row.language} ({row.tier})", *cells)
    languages.add_section()
    for tier, means in _tier_means(run).items():
        languages.add_row(f"mean, {tier}", *(means[stage] for stage in columns))
    decided = _verdicts(run)
    tables = [*decided, languages, *(_repaired(held) for held in (run.repair, run.training) if held is not None)]
    found = run.table("bottleneck", model=None)
    if found is not None:
        bottleneck = Table(title="semantic bottleneck", **LOOK)
        for name in ("model", "position", "verdict", "layer"):
            bottleneck.add_column(name)
        for _, row in found.iterrows():
            layer = (
                f"{number(row['layer'], '.0f')} ({number(row['low'], '.0f')} to {number(row['high'], '.0f')})"
                if row["verdict"] == "bottleneck"
                else "-"
            )
            bottleneck.add_row(str(row.get("model", "after")), str(row["position"]), str(row["verdict"]), layer)
        tables.append(bottleneck)
    return tables


def _verdicts(run: RunRecord) -> list[Table]:
    """Return the verdict per language with what each stage scored; nothing for a run without verdicts."""
    rows = verdict_rows(run)
    if not rows:
        return []
    reasons = {row.reason for row in rows}
    shared = reasons.pop() if len(reasons) == 1 and len(rows) > 1 else ""
    why = f"Why, everywhere: {shared}" if shared else "Why: in the report."
    caption = " ".join(["x: the criterion is shown not to be met, ? open, - not assessed.", why, *unmeasured(run)])
    table = Table(title=f"where the safety decision fails, {run.model}", caption=caption, **LOOK)
    table.add_column("language", no_wrap=True)
    table.add_column("verdict", min_width=14)
    for name in ("gap,\npoints", *(_STAGES.get(stage, stage) for stage in STAGE_SCORES)):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        verdict = f"{row.verdict}, {row.subtype}" if row.subtype else row.verdict
        cells = ["-" if line.state == "none" else f"{line.value}{_MARKS[line.state]}" for line in row.stages.values()]
        table.add_row(f"{row.language} ({row.tier})", verdict, row.gap.value, *cells)
    return [table]


def _repaired(run: RunRecord) -> Table:
    """Return the rates without and with a repair, per language and as means over groups of them."""
    title = f"{run.model}: a controlled model with invented languages" if run.is_organism else run.model
    caption = "Without -> with the gate, in %; selectivity in points. Oracle: true labels decide. The report has the intervals, rivals and controls."
    what, last = "a gate", ["oracle"]
    if run.is_training:
        what, last = f"training ({method_name(run)})", []
        caption = (
            "Before -> after training, in %; selectivity in points; + seen in training. The report has the intervals, other repairs and the cost."
        )
    table = Table(title=f"repair by {what}, {title}", caption=caption, **LOOK)
    table.add_column("language", no_wrap=True)
    for name in ("harmful\nrefused", "harmless\nrefused", "answered\nright", "selec-\ntivity", "gain", *last):
        table.add_column(name, justify="right")
    for row in repair_rows(run):
        changes = (row.harmful_refusal, row.harmless_refusal, row.answer_accuracy, row.selectivity)
        name = row.language.replace(" in training", "") if row.mean else f"{row.language} ({row.tier}){' +' if row.seen else ''}"
        oracle = [row.oracle.value] if last else []
        table.add_row(
            name,
            *(f"{one.before} -> {one.after}" for one in changes),
            row.gain.value,
            *oracle,
            end_section=row.mean and row.language not in SEEN_OR_NOT,
        )
    return table


def _tier_means(run: RunRecord) -> dict[str, dict[str, str]]:
    """Return the means over the languages of each tier, worded like the cells above them."""
    sources = {
        "understood": ("understanding", "value", {}),
        "represented": ("harm_represented", "auroc", {}),
        "transferred": ("thresholds", "balanced_accuracy_transferred", {}),
        "own": ("thresholds", "balanced_accuracy_own", {}),
        "harmful_refusal": ("refusal", "value", {"statistic": "harmful_refusal"}),
        "harmless_refusal": ("refusal", "value", {"statistic": "harmless_refusal"}),
        "selectivity": ("refusal", "value", {"statistic": "selectivity"}),
    }
    means: dict[str, dict[str, str]] = {}
    for tier in dict.fromkeys(run.tiers.values()):
        tags = [tag for tag, at in run.tiers.items() if at == tier]
        means[tier] = {}
        for stage, (name, column, wanted) in sources.items():
            table = run.table(name)
            if table is None:
                means[tier][stage] = "-"
                continue
            for key, value in wanted.items():
                table = table[table[key] == value]
            table = table[table["language"].isin(tags)]
            parts = [part[column].mean() for _, part in table.groupby("position", sort=False)] if "position" in table else [table[column].mean()]
            percent = name == "refusal"
            doubtful = " †" if percent and not_validated(run) & set(tags) else ""
            sign = "+" if stage == "selectivity" else ""
            told = (f"{100 * part:{sign}.0f}" if percent else f"{part:.2f}" for part in parts)
            means[tier][stage] = "\n".join("-" if "nan" in text else text + doubtful for text in told) or "-"
    return means
