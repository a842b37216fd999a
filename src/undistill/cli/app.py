"""`undistill`: one verb a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from undistill.cli import verbs
from undistill.cli.options import (
    Config,
    Data,
    DataDir,
    Device,
    DryRun,
    Json,
    Out,
    Precision,
    Quiet,
    Resume,
    Seed,
    Sets,
    Threads,
    Verbose,
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
    seed: Annotated[int, typer.Option("--seed", help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, three epochs: does everything run?")] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Processes; default one a core.")] = None,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train, harden, steal and draw the page, on digits.

    Minutes on two cores, no GPU, no download.
    """
    from undistill.reporting.report import write_report
    from undistill.reproduction.demo import run_demo

    with Reporter(quiet=quiet) as reporter:
        run_demo(out, seed=seed, seeds=seeds, quick=quick, resume=resume, jobs=jobs, say=reporter.say)
    verbs.show_report(write_report([out], out / "report"), as_json=as_json)


@app.command()
def train(
    out: Out,
    data: Data = None,
    model: Annotated[str | None, typer.Option("--model", help="Network by name.")] = None,
    config: Config = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    seed: Seed = None,
    resume: Resume = False,
    device: Device = "auto",
    precision: Precision = None,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train an ordinary classifier."""
    from undistill.training.recipe import read
    from undistill.training.train import train as call

    changes = verbs.changes(sets, data=data, data_dir=data_dir, precision=precision, seed=seed)
    if model is not None:
        changes = [f"model.name={model}", *changes]
    recipe = read(config or verbs.default_recipe(data), changes)
    if dry_run:
        return verbs.show_recipe(recipe, as_json=as_json)
    verbs.use_threads(threads)
    with Reporter(quiet=quiet) as reporter:
        splits = verbs.load(recipe, reporter)
        run = call(None, splits, recipe, out=out, resume=resume, device=device, watch=reporter.epoch)
        verbs.keep_victim(run, splits)
    return verbs.show_run(run, as_json=as_json)


@app.command()
def protect(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The trained teacher: a run folder or a model folder.")
    ],
    out: Out,
    defense: Annotated[
        str | None, typer.Option("--with", help="Defense by name (see `undistill list defense`).")
    ] = None,
    adversary: Annotated[
        Path | None, typer.Option("--adversary", help="Network to be pushed away from; MODEL itself if none.")
    ] = None,
    start_from: Annotated[str, typer.Option("--start-from", help="scratch (as in the paper) or teacher.")] = "scratch",
    data: Data = None,
    config: Config = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    seed: Seed = None,
    resume: Resume = False,
    device: Device = "auto",
    precision: Precision = None,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a hardened twin of MODEL."""
    from undistill.defenses.protect import protect as call

    changes = verbs.changes(sets, data=data, data_dir=data_dir, precision=precision, seed=seed)
    if start_from not in ("scratch", "teacher"):
        raise UsageError(f"hardening starts from scratch or from the teacher, not from {start_from!r}")
    if any(change.startswith("model") for change in changes):
        raise UsageError("a hardened twin has its teacher's network: no setting of model can change it")
    victim, recipe = verbs.victim_and_recipe(model, config, changes, name=("defense", defense))
    if dry_run:
        return verbs.show_recipe(recipe, as_json=as_json)
    verbs.use_threads(threads)
    with Reporter(quiet=quiet) as reporter:
        splits = verbs.load(recipe, reporter)
        run = call(
            victim,
            splits,
            adversary=adversary,
            start_from=start_from,  # type: ignore[arg-type]
            recipe=recipe,
            out=out,
            resume=resume,
            device=device,
            watch=reporter.epoch,
        )
        verbs.keep_victim(run, splits)
    return verbs.show_run(run, as_json=as_json)


@app.command()
def attack(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The victim: a run folder or a model folder.")],
    out: Out,
    name: Annotated[str | None, typer.Option("--with", help="Attack by name (see `undistill list attack`).")] = None,
    student: Annotated[str | None, typer.Option("--student", help="The thief's network by name.")] = None,
    card: Annotated[
        str, typer.Option("--card", help="paper, api, or written out: probs/unlabelled/fresh/random/50.")
    ] = "paper",
    data: Data = None,
    config: Config = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    seed: Seed = None,
    resume: Resume = False,
    device: Device = "auto",
    precision: Precision = None,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a student on MODEL's answers.

    For models that you own, or that you were asked to test, and for nothing else.
    """
    from undistill.access import Card
    from undistill.auditing.attack import attack as call
    from undistill.auditing.plan import permit, plan_recipe
    from undistill.training.recipe import read

    changes = verbs.changes(sets, data=data, data_dir=data_dir, precision=precision, seed=seed)
    if student is not None:
        changes = [f"student.name={student}", *changes]
    for change in changes:
        if change.startswith(("model", "defense")):
            raise UsageError(
                f"{change}: the victim is as it is; the thief's network is set by student.name and student.width"
            )
    own = [change for change in changes if change.startswith(("training.", "training="))]
    victim, recipe = verbs.victim_and_recipe(model, config, [c for c in changes if c not in own], name=("attack", name))
    recipe = read(plan_recipe(recipe), own)  # behind the student's own recipe, which they change
    threat = Card.parse(card)
    permit(recipe.attack, threat)
    if dry_run:
        return verbs.show_recipe(recipe, as_json=as_json)
    verbs.use_threads(threads)
    with Reporter(quiet=quiet) as reporter:
        splits = verbs.load(recipe, reporter)
        reporter.say(
            f"student {recipe.student.name}: {recipe.training.epochs} epochs with {recipe.training.optimizer.name}"
        )
        cell = call(
            victim, splits, card=threat, recipe=recipe, out=out, resume=resume, device=device, watch=reporter.epoch
        )
    if as_json:
        return typer.echo(json.dumps(cell.values(), indent=1))
    got = "diverged" if cell.accuracy is None else f"{cell.accuracy:.2f} % on {cell.n_test:,} test images"
    return typer.echo(
        f"{cell.attack} of {cell.victim}, student {cell.student}: {got}, {cell.queries:,} questions asked; {out}"
    )


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
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """What there is, by kind, with settings and their defaults."""
    from undistill.cli.catalog import catalog

    found = catalog(kind)
    if as_json:
        return typer.echo(json.dumps(found, indent=1))
    for heading, entries in found.items():
        typer.echo(f"{heading}:")
        for entry in entries:
            typer.echo(f"  {entry['name']:<18} {entry['about']}")
            if entry["settings"]:
                typer.echo(f"  {'':<18} {', '.join(f'{k}={v}' for k, v in entry['settings'].items())}")
    return None
