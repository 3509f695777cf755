"""The command line: ``workbench demo | diagnose | repair METHOD | capture | report | compare | organism train``.

Heavy packages are imported inside the commands, so that ``--help`` answers at once. An error the workbench knows is one
paragraph on standard error and exit code 2; ``--debug`` shows where it came from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli_options import (
    Device,
    Dtype,
    Harmful,
    Harmless,
    JudgeFallback,
    JudgeTemplate,
    Languages,
    Limit,
    Model,
    Prompts,
    Refusals,
    Seed,
    Strip,
    Subset,
    System,
    Template,
    Tiers,
    Trust,
    finish,
    tags,
)
from workbench.cli_repair import app as repair_app
from workbench.errors import DataError, WorkbenchError

app = typer.Typer(
    name="workbench",
    help="Find at which stage, layer and language a multilingual chat model's safety decision fails.\n\n"
    "Examples:\n\n"
    "  workbench demo\n\n"
    "  workbench diagnose MODEL --before BASE --prompts multijail:PATH --harmless polyrefuse:PATH --languages en,sw,th\n\n"
    "  workbench repair gate MODEL --prompts prompts.csv --k 4 --out runs/repair\n\n"
    "  workbench repair msd MODEL --prompts prompts.csv --out runs/msd\n\n"
    "  workbench report runs/mine",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
organism_app = typer.Typer(help="The embedded model with known truth.", no_args_is_help=True)
app.add_typer(organism_app, name="organism")
app.add_typer(repair_app, name="repair")


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False) -> None:
    """Take the options of all commands."""


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo")) -> None:
    """Diagnose the embedded model, offline: a controlled model with invented languages.

    Example: workbench demo --out runs/demo
    """
    from workbench.diagnosis.diagnose import diagnose as run_diagnosis

    run = run_diagnosis("organism:aligned", before="organism:helpful", prompts="organism", out=out)
    finish(run.folder)


@app.command()
def diagnose(
    model: Model,
    prompts: Prompts,
    before: Annotated[str | None, typer.Option(help="The model before alignment.", metavar="MODEL")] = None,
    harmless: Harmless = None,
    harmful: Harmful = None,
    subset: Subset = None,
    languages: Languages = None,
    reference: Annotated[str | None, typer.Option(help="Reference languages; default those of tier high.", metavar="a,b")] = None,
    tiers: Tiers = None,
    template: Template = None,
    system: System = None,
    limit: Limit = None,
    refusals: Refusals = None,
    judge: Annotated[
        str,
        typer.Option(
            help="Who says what is a refusal: auto, markers, first_token, classifier:MODEL, guard:MODEL, endpoint or stereotype.",
            metavar="NAME",
        ),
    ] = "auto",
    judge_model: Annotated[str | None, typer.Option(help="Model of a classifier, guard or endpoint judge.", metavar="MODEL")] = None,
    judge_template: JudgeTemplate = None,
    judge_fallback: JudgeFallback = None,
    send_to: Annotated[
        str | None,
        typer.Option(
            help="Address of the endpoint judge, and the consent to send prompts and replies there; its key in WORKBENCH_JUDGE_API_KEY.",
            metavar="URL",
        ),
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of a reply; default by the set.", min=1)] = None,
    strip_punctuation: Strip = False,
    null_seeds: Annotated[int, typer.Option(help="Untrained models that harm's AUROC must beat.", min=0)] = 3,
    steer: Annotated[int, typer.Option(help="Meanings per class and language answered under each edit; 0 acts on nothing.", min=0)] = 16,
    walk: Annotated[int, typer.Option(help="Meanings per class and language that the waterfall asks; 0 leaves it out.", min=0)] = 32,
    quick: Annotated[bool, typer.Option("--quick", help="The verdicts and what they rest on; no geometry, no restoration map.")] = False,
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Run folder; an unfinished run of the same request is continued.", metavar="DIR")] = Path(
        "runs/diagnosis"
    ),
    redact: Annotated[bool, typer.Option("--redact", help="Keep no reply text.")] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Measure where a model's safety decision fails, and write a run folder with a report.

    Example: workbench diagnose MODEL --before BASE --prompts multijail:PATH --harmless polyrefuse:PATH --languages en,sw,th --limit 50
    """
    options = dict(locals())
    from workbench.diagnosis.diagnose import diagnose as run_diagnosis

    options["languages"], options["reference"] = tags(languages), tags(reference)
    run = run_diagnosis(options.pop("model"), **options)
    finish(run.folder)


@app.command()
def capture(
    model: Model,
    prompts: Prompts,
    store: Annotated[Path, typer.Option("--store", "--out", help="Where the activations go, a .zarr folder.", metavar="STORE")],
    layers: Annotated[str, typer.Option(help="'all', or layers such as 0,8,16: the residual stream after that many blocks.")] = "all",
    positions: Annotated[str, typer.Option(help="Token positions, comma-separated.")] = "t_inst,t_post_inst",
    harmless: Harmless = None,
    harmful: Harmful = None,
    subset: Subset = None,
    languages: Languages = None,
    tiers: Tiers = None,
    template: Template = None,
    system: System = None,
    limit: Limit = None,
    strip_punctuation: Strip = False,
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: Trust = False,
) -> None:
    """Store a model's residual stream for a prompt set, resumably.

    Example: workbench capture MODEL --prompts prompts.csv --store runs/acts.zarr --layers 8,16,24
    """
    wanted: str | list[int | str] = layers if layers == "all" else [_layer(part) for part in layers.split(",")]
    from workbench.activations.capture import capture as run_capture
    from workbench.models.load import load_model
    from workbench.prompts import load_prompts

    grid = load_prompts(
        prompts,
        harmless=harmless,
        harmful=harmful,
        subset=subset,
        languages=tags(languages),
        limit=limit,
        seed=seed,
        tiers=tiers,
        strip_punctuation=strip_punctuation,
    )
    chat = load_model(model, template=template, system=system, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    run_capture(chat, grid, layers=wanted, positions=tags(positions) or [], store=store)
    typer.echo(store)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")]) -> None:
    """Build figures and report.html again from a run folder alone.

    Example: workbench report runs/demo
    """
    from workbench.report import build_report
    from workbench.report.record import RunRecord

    path = build_report(run)
    for why in RunRecord.read(run).broken.values():
        typer.echo(f"Not read: {why}", err=True)
    typer.echo(path)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")],
    second: Annotated[Path, typer.Argument(help="Run folder to compare with it.", metavar="RUN")],
    out: Annotated[Path | None, typer.Option(help="The page; default compare.html in the second folder.", metavar="FILE.html")] = None,
) -> None:
    """Put two runs side by side: before and after a repair, or two models.

    Example: workbench compare runs/before runs/after --out runs/compare.html
    """
    from rich.console import Console

    from workbench.report.compare import compare_runs, compared, terminal_table

    path = compare_runs(first, second, out)
    found = compared(first, second)
    console = Console()
    console.print(terminal_table(found))
    for sentence in found.shared:
        typer.echo(sentence)
    for problem in found.problems:
        typer.echo(problem, err=True)
    typer.echo(path)


@organism_app.command("train")
def organism_train(
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Where base/, helpful/ and the model asked for go.", metavar="DIR")] = Path("runs/organism"),
    languages: Annotated[str | None, typer.Option(help="Private-use tags with invented names, most spoken first.", metavar="TAG=Name,...")] = None,
    failure: Annotated[
        str,
        typer.Option(
            help="The stage that fails in low-resource languages: calibration, representation, actuation-unrouted, actuation-unresponsive, "
            "understanding, or healthy; with -2 made in a second way.",
            metavar="NAME",
        ),
    ] = "calibration",
) -> None:
    """Train the organism from scratch (two CPU cores, under half an hour), or a variant of the one in DIR (minutes).

    Examples: workbench organism train --seed 1 --out runs/organism-1

      workbench organism train --seed 1 --out runs/organism-1 --failure representation
    """
    names = None if languages is None else _named(languages)
    from workbench.organism.failures import train_failure

    folder = train_failure(failure, out, seed=seed, names=names, progress=True)
    typer.echo(folder.parent if failure == "calibration" else folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; the entry point ``workbench``.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default those of the process.

    Raises
    ------
    SystemExit
        Always: 0 when done, 2 for an error the workbench or the command line knows, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    _say_what_the_pipeline_does()
    try:
        app([a for a in arguments if a != "--debug"], prog_name="workbench")
    except (WorkbenchError, OSError) as error:
        if debug:
            raise
        _complain(str(error) if isinstance(error, WorkbenchError) else _refused_by_the_system(error))
        raise SystemExit(2) from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt) or stop.code == _INTERRUPTED:
            _complain("Stopped. What was finished is kept: the same command continues.")
        raise


_INTERRUPTED = 130  # the exit code that typer makes of Ctrl-C


def _refused_by_the_system(error: OSError) -> str:
    """Say what the operating system refused, where, and what to do."""
    where = f"{error.filename}: " if error.filename is not None else ""
    return (
        f"{where}{error.strerror or error}. Expected paths that can be read and written, and free space. Check path, permissions and space, and give "
        "the same command again: what was finished is kept."
    )


def _say_what_the_pipeline_does() -> None:
    """Show on standard error what a diagnosis says of its run folder (that it continues one, for instance)."""
    import logging

    class Plain(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            typer.echo(record.getMessage(), err=True)

    for room in ("workbench.diagnosis", "workbench.repair", "workbench.alignment"):
        logger = logging.getLogger(room)
        logger.setLevel(logging.INFO)
        if not logger.handlers:
            logger.addHandler(Plain())


def _complain(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(" ".join(message.split()), style="red"))


def _layer(text: str) -> int | str:
    part = text.strip()
    return int(part) if part.lstrip("-").isdigit() else part


def _named(text: str) -> dict[str, str]:
    """Read ``TAG=Name,TAG=Name``."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = [tag for tag, sign, name in pairs if not (sign and tag.strip() and name.strip())]
    if wrong or not pairs:
        raise DataError(f"--languages was {text!r}. Expected TAG=Name pairs with commas between, such as qaa=Fenno,qab=Marrish.")
    return {tag.strip(): name.strip() for tag, _, name in pairs}


if __name__ == "__main__":
    main()
