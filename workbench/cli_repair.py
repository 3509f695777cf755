"""``workbench repair``: by a gate, or by training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli_options import (
    Device,
    Dtype,
    EditedJudge,
    Harmful,
    Harmless,
    JudgeFallback,
    JudgeModel,
    JudgeTemplate,
    Languages,
    Limit,
    Model,
    NewTokens,
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
from workbench.errors import DataError

app = typer.Typer(help="Repair the safety decision, and measure what the repair does.", no_args_is_help=True)


@app.command("gate")
def repair_gate(
    model: Model,
    prompts: Prompts,
    k: Annotated[int, typer.Option(help="Harmful, and harmless, labelled examples per language.", min=1)] = 4,
    draws: Annotated[int, typer.Option(help="How often the examples are drawn anew.", min=3)] = 20,
    graded_draws: Annotated[int, typer.Option(help="Draws for which AdaSteer's replies are generated.", min=1)] = 5,
    elsewhere: Annotated[
        list[str] | None, typer.Option(help="Another prompt set that the gate meets unchanged; may be given several times.", metavar="SET")
    ] = None,
    harmless: Harmless = None,
    harmful: Harmful = None,
    subset: Subset = None,
    languages: Languages = None,
    reference: Annotated[
        str | None, typer.Option(help="Languages the gate is fitted on; default those of tier high. The others are repaired.", metavar="a,b")
    ] = None,
    tiers: Tiers = None,
    template: Template = None,
    system: System = None,
    limit: Limit = None,
    refusals: Refusals = None,
    judge: EditedJudge = "auto",
    judge_model: JudgeModel = None,
    judge_template: JudgeTemplate = None,
    judge_fallback: JudgeFallback = None,
    max_new_tokens: NewTokens = None,
    strip_punctuation: Strip = False,
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Run folder; an unfinished run of the same request is continued.", metavar="DIR")] = Path("runs/repair"),
    trust_remote_code: Trust = False,
) -> None:
    """Recalibrate a gate with k examples per language, and measure it beside rivals and controls.

    Example: workbench repair gate organism:aligned --prompts organism --k 4 --out runs/repair
    """
    options = dict(locals())
    from workbench.repair.run import repair_gate as run_repair

    options["languages"], options["reference"] = tags(languages), tags(reference)
    options["elsewhere_sets"] = options.pop("elsewhere") or []
    run = run_repair(options.pop("model"), **options)
    finish(run.folder)


Training = Callable[..., None]
TOLD = {
    "lasa": "Train on the semantic bottleneck: an interpreter reads harm there, and a sentence tells the model (LASA, arXiv:2604.12710).",
    "msd": "Distil the model's own judgement of the reference language into others; needs queries only (MSD, arXiv:2605.02971).",
    "dpo": "Direct preference optimisation on pairs (arXiv:2305.18290).",
    "kto": "Kahneman-Tversky optimisation on single replies (arXiv:2402.01306).",
    "sft": "Fine-tune on the chosen replies.",
    "mpo": "Bring every language's reward gap to the reference language's (MPO, arXiv:2505.16869).",
    "mlc": "Make translations of a prompt end in one state, beside learning the reference language's replies (MLC, arXiv:2602.16660).",
}


def _training(method: str) -> Training:
    def command(
        model: Model,
        prompts: Prompts,
        preferences: Annotated[
            Path | None, typer.Option(help="Pairs to learn: prompt, chosen, rejected; default from the prompts' keys.", metavar="FILE")
        ] = None,
        max_complying: Annotated[
            float, typer.Option(help="Share of harmful pairs whose chosen reply may comply; these are dropped.", min=0, max=1)
        ] = 0.05,
        train_languages: Annotated[str | None, typer.Option(help="Languages trained in; the others show what carries over.", metavar="a,b")] = None,
        interpreter_languages: Annotated[str | None, typer.Option(help="LASA: languages of the interpreter; default all.", metavar="a,b")] = None,
        layer: Annotated[int | None, typer.Option(help="LASA: layer the interpreter reads; default the bottleneck.", min=1)] = None,
        settings: Annotated[
            list[str] | None, typer.Option("--set", help="A setting of the method, such as beta=0.2; several times.", metavar="NAME=VALUE")
        ] = None,
        reasoning: Annotated[bool, typer.Option("--reasoning", help="MSD: the teacher writes its judgement first.")] = False,
        learning_rate: Annotated[float | None, typer.Option(help="Default by method.")] = None,
        epochs: Annotated[float | None, typer.Option(help="Passes over the rows.")] = None,
        max_steps: Annotated[int | None, typer.Option(help="Steps, in place of epochs.", min=1)] = None,
        batch_size: Annotated[int | None, typer.Option(help="Rows of one pass.", min=1)] = None,
        accumulation: Annotated[int | None, typer.Option(help="Passes of one step.", min=1)] = None,
        lora_rank: Annotated[int | None, typer.Option(help="Train an adapter of this rank; default every weight.", min=1)] = None,
        allow_loss: Annotated[
            bool, typer.Option("--allow-loss", help="Write weights although a language refuses fewer harmful prompts; the card says so.")
        ] = False,
        harmless: Harmless = None,
        harmful: Harmful = None,
        subset: Subset = None,
        languages: Languages = None,
        reference: Annotated[str | None, typer.Option(help="Languages a repair is made from; default those of tier high.", metavar="a,b")] = None,
        tiers: Tiers = None,
        template: Template = None,
        system: System = None,
        limit: Limit = None,
        refusals: Refusals = None,
        judge: EditedJudge = "auto",
        judge_model: JudgeModel = None,
        judge_template: JudgeTemplate = None,
        judge_fallback: JudgeFallback = None,
        max_new_tokens: NewTokens = None,
        strip_punctuation: Strip = False,
        seed: Seed = 0,
        dtype: Dtype = None,
        device: Device = None,
        out: Annotated[Path | None, typer.Option(help="Run folder; an unfinished run of the same request is continued.", metavar="DIR")] = None,
        trust_remote_code: Trust = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "method"}  # of the function around this one
        from workbench.alignment.run import repair_training

        for name in ("languages", "reference", "train_languages", "interpreter_languages"):
            given[name] = tags(given[name])
        given["out"] = out or Path("runs") / method
        finish(repair_training(method, given.pop("model"), **given).folder)

    command.__doc__ = f"{TOLD[method]}\n\n    Example: workbench repair {method} organism:aligned --prompts organism --out runs/{method}\n    "
    return command


for _name in TOLD:
    app.command(_name)(_training(_name))


@app.command("table")
def repair_table(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of repairs of one model, by a gate or by training.", metavar="RUN")],
    out: Annotated[Path | None, typer.Option(help="Write a page as well: table and figures, one file.", metavar="FILE.html")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows for other programs instead of tables.")] = False,
) -> None:
    """Put all repairs of one model into one table: what they do, and what they take.

    Example: workbench repair table runs/gate runs/lasa runs/msd --out runs/repairs.html
    """
    from workbench.alignment.table import repair_table as tabulate
    from workbench.report.repairs import repairs_page, terminal_tables

    if out is not None and out.suffix.lower() != ".html":
        raise DataError(f"--out {out} is no page. Expected a name that ends in .html.")
    table = tabulate(runs)
    path = None if out is None else repairs_page(table, out)
    if as_json:
        typer.echo(table.to_json())
        return
    from rich.console import Console

    console = Console()
    for one in terminal_tables(table):
        console.print(one)
    if path is not None:
        typer.echo(path)
