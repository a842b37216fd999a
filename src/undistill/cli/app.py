"""`undistill`: one verb a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from undistill.cli import audit, paper, verbs
from undistill.cli.options import (
    BANK_GB,
    BankFolder,
    BankLimit,
    Json,
    Options,
    Out,
    Plugin,
    Quiet,
    Resume,
    Verbose,
    shared,
    use_plugins,
)
from undistill.cli.progress import Reporter
from undistill.errors import UsageError

app = typer.Typer(
    name="undistill",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make a classifier hard to copy by knowledge distillation, and measure how hard.",
)
MODEL = "a run folder, a model folder, timm:NAME@weights, torchvision:NAME@weights, package.module:callable"


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Make a classifier hard to copy by knowledge distillation, and measure how hard."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"undistill {installed('undistill')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", help="Another seed shares no teacher and no draw.")] = 0,
    teachers: Annotated[int, typer.Option("--teachers", "--seeds", help="Pairs of a normal and a nasty teacher.")] = 6,
    draws: Annotated[int, typer.Option("--draws", help="Draws of query images against each pair.")] = 2,
    quick: Annotated[
        bool, typer.Option("--quick", help="One pair, one draw, a few steps: does everything run?")
    ] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Processes; default one a core.")] = None,
    bank: BankFolder = None,
    bank_limit: BankLimit = BANK_GB,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train normal and nasty teachers of digits, attack both, and write the report.

    Two minutes on two cores, no GPU, no download.
    """
    from undistill.oracle.bank import Bank
    from undistill.reporting.report import write_report
    from undistill.reproduction.demo import run_demo

    kept = Bank.of(bank, bank_limit)
    with Reporter(quiet=quiet) as reporter:
        run_demo(
            out,
            seed=seed,
            teachers=teachers,
            draws=draws,
            quick=quick,
            resume=resume,
            jobs=jobs,
            bank=kept,
            count=reporter.count,
        )
    verbs.show_report(write_report([out], out / "report"), as_json=as_json)


@app.command()
@shared
def train(
    out: Out,
    model: Annotated[str | None, typer.Option("--model", help="Network by name, or package.module:callable.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="Start from these (fine-tuning): a run or model folder, .safetensors, .pt, .pth."
        ),
    ] = None,
    *,
    options: Options,
) -> None:
    """Train an ordinary classifier."""
    from undistill.training.train import train as call

    options.begin(model)
    changes = options.changes()
    source = options.config or verbs.default_recipe(options, "finetune" if weights is not None else None)
    recipe, chosen = verbs.train_recipe(source, changes, model, weights)
    if options.dry_run:
        return verbs.show_recipe(recipe, as_json=options.as_json)
    options.use_threads()
    with Reporter(quiet=options.quiet) as reporter:
        splits = verbs.load(recipe, reporter)
        run = call(
            chosen,
            splits,
            recipe,
            weights=weights,
            out=out,
            resume=options.resume,
            device=options.device,
            watch=reporter.epoch,
        )
        if (begun := run.config.get("weights")) is not None:
            reporter.say(f"began from {begun['name']}, its head {begun['head']}")
        verbs.keep_victim(run, splits)
    return verbs.show_run(run, as_json=options.as_json)


@app.command()
@shared
def protect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"The trained teacher: {MODEL}.")],
    out: Out,
    defense: Annotated[
        str | None, typer.Option("--with", help="Defense by name (see `undistill list defense`).")
    ] = None,
    adversary: Annotated[
        str | None, typer.Option("--adversary", help="Model to be pushed away from; MODEL itself if none.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option("--start-from", help="scratch or teacher; default the defense's own way.")
    ] = None,
    *,
    options: Options,
) -> None:
    """Train a hardened twin of MODEL."""
    from undistill.defenses.protect import beginning
    from undistill.defenses.protect import protect as call

    options.begin(model, adversary)
    changes = options.changes()
    if any(change.startswith("model") for change in changes):
        raise UsageError("a hardened twin has its teacher's network: no setting of model can change it")
    recipe = verbs.recipe_for(model, options, changes, ("defense", defense), fallback="finetune")
    beginning(recipe.defense, start_from)
    bank = options.open_bank()
    if options.dry_run:
        return verbs.show_recipe(recipe, as_json=options.as_json)
    options.use_threads()
    with Reporter(quiet=options.quiet) as reporter:
        splits = verbs.load(recipe, reporter)
        run = call(
            model,
            splits,
            adversary=adversary,
            start_from=start_from,  # type: ignore[arg-type]
            recipe=recipe,
            out=out,
            resume=options.resume,
            device=options.device,
            bank=bank,
            watch=reporter.epoch,
        )
        verbs.keep_victim(run, splits)
    return verbs.show_run(run, as_json=options.as_json)


@app.command()
@shared
def attack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"The victim: {MODEL}, answers.parquet.")],
    out: Out,
    name: Annotated[str | None, typer.Option("--with", help="Attack by name (see `undistill list attack`).")] = None,
    student: Annotated[str | None, typer.Option("--student", help="The thief's network by name.")] = None,
    card: Annotated[
        str, typer.Option("--card", help="paper, api, or written out: probs/unlabelled/fresh/random/50.")
    ] = "paper",
    answers: Annotated[
        str | None,
        typer.Option(
            "--answers", help="MODEL is a function of uint8 images that answers with logits, probs, topk or label."
        ),
    ] = None,
    called: Annotated[
        str | None, typer.Option("--called", help="What reports call MODEL; tells two functions of one name apart.")
    ] = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Your word that a MODEL of unknown origin never saw the fresh pool.")
    ] = False,
    ask_test: Annotated[
        bool, typer.Option("--ask-test", help="Ask a function about the test images too, for its own accuracy.")
    ] = False,
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", help="File of a function's answers, for thieves to share; default in OUT."),
    ] = None,
    *,
    options: Options,
) -> None:
    """Train a student on MODEL's answers.

    For models that you own, or that you were asked to test, and for nothing else.
    """
    from undistill.access import Access, Card
    from undistill.auditing.attack import attack as call
    from undistill.auditing.plan import permit, plan_recipe
    from undistill.training.recipe import read

    options.begin(model, student)
    changes = [] if student is None else [f"student.name={json.dumps(student, ensure_ascii=False)}"]
    changes += options.changes()
    for change in changes:
        if change.startswith(("model", "defense")):
            raise UsageError(
                f"{change}: the victim is as it is; the thief's network is set by student.name and student.width"
            )
    own = [change for change in changes if change.startswith(("training.", "training="))]
    rest = [change for change in changes if change not in own]
    recipe = verbs.recipe_for(model, options, rest, ("attack", name), fallback=None)
    recipe = read(plan_recipe(recipe), own)  # behind the student's own recipe, which they change
    threat = Card.parse(card)
    permit(recipe.attack, threat)
    bank = options.open_bank()
    if answers is not None:
        Access.parse(answers)
    if options.dry_run:
        return verbs.show_recipe(recipe, as_json=options.as_json)
    options.use_threads()
    with Reporter(quiet=options.quiet) as reporter:
        splits = verbs.load(recipe, reporter)
        reporter.say(
            f"student {recipe.student.name}: {recipe.training.epochs} epochs with {recipe.training.optimizer.name}"
        )
        cell = call(
            model,
            splits,
            card=threat,
            recipe=recipe,
            answers=answers,
            called=called,
            unseen=unseen,
            ask_test=ask_test,
            ledger=ledger,
            out=out,
            resume=options.resume,
            device=options.device,
            bank=bank,
            watch=reporter.epoch,
        )
    return verbs.show_cell(cell, out, as_json=options.as_json)


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A state dict (.safetensors, .pt, .pth, .tar) or a checkpoint's folder."),
    ],
    out: Out,
    model: Annotated[str | None, typer.Option("--model", help="Network of a plain state dict.")] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="Text file of class names, one a line, in the order of the outputs."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="NAME=VALUE", help="A setting of that network (stem=7x7); repeatable."),
    ] = None,
    size: Annotated[int | None, typer.Option("--size", help="Side in pixels of the images it takes.")] = None,
    channels: Annotated[int | None, typer.Option("--channels", help="1 (grey) or 3.")] = None,
    mean: Annotated[str | None, typer.Option("--mean", help="Its normalisation: 0.49,0.48,0.45.")] = None,
    std: Annotated[str | None, typer.Option("--std", help="Its normalisation: 0.25,0.24,0.26.")] = None,
    plugin: Plugin = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a model folder of weights from elsewhere.

    Reads safetensors, state dicts of torch.save and the paper authors' checkpoints; never unpickles.
    """
    from undistill.models.importing import import_model

    use_plugins(plugin)
    names = None if classes is None else verbs.lines(classes)
    mean_C, std_C = verbs.numbers("mean", mean), verbs.numbers("std", std)
    network = verbs.network(model, sets)
    folder = import_model(
        source, out, model=network, class_names=names, image_size=size, in_channels=channels, mean=mean_C, std=std_C
    )
    verbs.show_import(folder, as_json=as_json)


app.command()(paper.reproduce)
app.add_typer(audit.app, name="audit")
app.command()(audit.compare)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold cells.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; default `report` in the first one.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draw the page of the cells below these folders."""
    from undistill.reporting.report import write_report

    verbs.show_report(write_report(folders, out or folders[0] / "report"), as_json=as_json)


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="attack, defense, model, data, view, optimizer, schedule, recipe or card.")
    ] = None,
    plugin: Plugin = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """What there is, by kind, with settings and their defaults."""
    from undistill.cli.catalog import catalog

    use_plugins(plugin)
    verbs.show_catalog(catalog(kind), as_json=as_json)
