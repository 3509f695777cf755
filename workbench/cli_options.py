"""Options that several commands share, and what all of them end with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Seed = Annotated[int, typer.Option(help="Seed of splits, draws and resampling.")]
Prompts = Annotated[
    str,
    typer.Option(
        help="Prompt set: NAME, NAME:PATH, a .csv/.jsonl/.json/.parquet file, or a datasets id. NAME is organism, multijail, polyrefuse, xsafety, "
        "textdetox, paradetox, flores200 or ntrex128 (the last two carry no harm label: to capture only)."
    ),
]
Harmless = Annotated[str | None, typer.Option(help="A second set that brings the harmless prompts.")]
Harmful = Annotated[str | None, typer.Option(help="A second set that brings the harmful prompts.")]
Subset = Annotated[str | None, typer.Option(help="Part of the set, where it has parts.")]
Languages = Annotated[str | None, typer.Option(help="BCP-47 tags, comma-separated; default all.", metavar="a,b")]
Limit = Annotated[int | None, typer.Option(help="Meanings per class, seeded and the same in every language.", min=1)]
Tiers = Annotated[Path | None, typer.Option(help="CSV of language,tier (high, mid, low).", metavar="FILE")]
Template = Annotated[str | None, typer.Option(help="Chat template: a file, 'plain' for base models, 'raw' for none; default the model's own.")]
System = Annotated[str | None, typer.Option(help="System prompt.")]
Strip = Annotated[bool, typer.Option("--strip-punctuation", help="Remove final punctuation, which alone can tell classes apart.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")]
Refusals = Annotated[Path | None, typer.Option(help="CSV of language,text: openings that count as a refusal.", metavar="FILE")]
JudgeModel = Annotated[str | None, typer.Option(help="Model of a classifier or guard judge.", metavar="MODEL")]
JudgeTemplate = Annotated[
    Path | None, typer.Option(help="A guard model's question, with {prompt} and {reply}; default its chat template.", metavar="FILE")
]
JudgeFallback = Annotated[str | None, typer.Option(help="Who judges languages that the judge cannot serve.", metavar="NAME")]
EditedJudge = Annotated[str, typer.Option(help="Who says what is a refusal: auto, markers, classifier:MODEL or guard:MODEL.", metavar="NAME")]
NewTokens = Annotated[int | None, typer.Option(help="Length of a reply; default by the set.", min=1)]
Model = Annotated[str, typer.Argument(help="Directory, hub id or organism:aligned.")]


def tags(text: str | None) -> list[str] | None:
    """Split a list with commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def finish(folder: Path) -> None:
    """Build the report, show the measured figures as they stand in the run folder, and name the report last."""
    from rich.console import Console

    from workbench.report import build_report
    from workbench.report.record import RunRecord
    from workbench.report.terminal import figures

    path = build_report(folder)
    console = Console()
    for table in figures(RunRecord.read(folder)):
        console.print(table)
    typer.echo(path)
