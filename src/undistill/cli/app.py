"""`undistill`: one verb a command."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from undistill.cli.progress import Reporter, error
from undistill.errors import UndistillError, UsageError

app = typer.Typer(
    name="undistill",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make a classifier hard to copy by knowledge distillation, and measure how hard.",
)

# Typer brings a Click of its own since 0.16, or uses the installed one: ask it for the base of its usage errors.
WRONG_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
Config = Annotated[
    str | None, typer.Option("--config", "-c", help="Recipe: a name (see `undistill list recipe`) or a YAML file.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="A.B=VALUE", help="Change one setting; repeatable.")
]
Data = Annotated[str | None, typer.Option("--data", help="Data set by name.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Local folder in the hub's format instead of a download.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of weights, order and views.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str | None, typer.Option("--precision", help="fp32 or bf16.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; resumed runs are exact at the same number.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks with errors.")]


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
    _show_report(write_report([out], out / "report"), as_json=as_json)


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

    changes = _changes(sets, data=data, data_dir=data_dir, precision=precision, seed=seed)
    if model is not None:
        changes = [f"model.name={model}", *changes]
    recipe = read(config or _default_recipe(data), changes)
    if dry_run:
        return _show_recipe(recipe, as_json=as_json)
    _use_threads(threads)
    with Reporter(quiet=quiet) as reporter:
        splits = _load(recipe, reporter)
        run = call(None, splits, recipe, out=out, resume=resume, device=device, watch=reporter.epoch)
    return _show_run(run, as_json=as_json)


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

    changes = _changes(sets, data=data, data_dir=data_dir, precision=precision, seed=seed)
    victim, recipe = _victim_and_recipe(model, config, changes, name=("defense", defense))
    if dry_run:
        return _show_recipe(recipe, as_json=as_json)
    _use_threads(threads)
    with Reporter(quiet=quiet) as reporter:
        splits = _load(recipe, reporter)
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
    return _show_run(run, as_json=as_json)


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
    from undistill.auditing.attack import attack as call
    from undistill.auditing.attack import plan_recipe
    from undistill.training.recipe import read

    changes = _changes(sets, data=data, data_dir=data_dir, precision=precision, seed=seed)
    if student is not None:
        changes = [f"student.name={student}", *changes]
    victim, recipe = _victim_and_recipe(model, config, changes, name=("attack", name))
    own = [
        change for change in changes if change.startswith("training.")
    ]  # said here, so above the student's own recipe
    recipe = read(plan_recipe(recipe), own)
    if dry_run:
        return _show_recipe(recipe, as_json=as_json)
    _use_threads(threads)
    with Reporter(quiet=quiet) as reporter:
        splits = _load(recipe, reporter)
        cell = call(
            victim, splits, card=card, recipe=recipe, out=out, resume=resume, device=device, watch=reporter.epoch
        )
    if as_json:
        return typer.echo(cell.model_dump_json(indent=1))
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

    _show_report(write_report(folders, out or folders[0] / "report"), as_json=as_json)


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


def main(arguments: list[str] | None = None) -> None:
    """Run the shell's command; every expected failure is one sentence on stderr and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verbose = "-v" in arguments or "--verbose" in arguments
    command = typer.main.get_command(app)
    try:
        with command.make_context("undistill", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except WRONG_USAGE as problem:
        error(f"{problem.format_message().rstrip('.')}; see undistill --help")
        sys.exit(2)
    except UndistillError as problem:
        if verbose:
            traceback.print_exc()
        error(str(problem))
        sys.exit(problem.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        error("interrupted; what was done is kept, go on with --resume")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(0)


def _changes(
    sets: list[str] | None, *, data: str | None, data_dir: Path | None, precision: str | None, seed: int | None
) -> list[str]:
    changes = [] if data is None else [f"data.name={data}"]
    changes += [] if precision is None else [f"training.precision={precision}"]
    changes += [] if seed is None else [f"seed={seed}"]
    changes += [] if data_dir is None else [f"data.dir={json.dumps(str(data_dir.expanduser().resolve()))}"]
    return changes + (sets or [])


def _default_recipe(data: str | None) -> str:
    from undistill.data.sources import SOURCES

    return SOURCES.make(data or "digits").recipe


def _victim_and_recipe(
    model: Path, config: str | None, changes: list[str], *, name: tuple[str, str | None]
) -> tuple[Any, Any]:
    from undistill.training.recipe import read
    from undistill.training.victim import resolve

    victim = resolve(model)
    source: Any = config or victim.recipe
    if source is None:
        raise UsageError(f"{model} is no run folder and brings no recipe; name one with --config")
    if name[1] is not None:
        changes = [f"{name[0]}.name={name[1]}", *changes]
    return victim, read(source, changes)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _load(recipe: Any, reporter: Reporter) -> Any:
    from undistill.data.load import load

    splits = load(recipe.data, progress=reporter.count)
    reporter.say(splits.summary())
    return splits


def _show_recipe(recipe: Any, *, as_json: bool) -> None:
    import yaml

    values = recipe.dump()
    typer.echo(json.dumps(values, indent=1) if as_json else yaml.safe_dump(values, sort_keys=False).rstrip())


def _show_run(run: Any, *, as_json: bool) -> None:
    if as_json:
        return typer.echo(json.dumps({"folder": str(run.folder), **run.result}, indent=1))
    result = run.result
    before = f" (its teacher {result['teacher_accuracy']:.2f} %)" if "teacher_accuracy" in result else ""
    return typer.echo(f"accuracy {result['accuracy']:.2f} %{before} on {result['n_test']:,} test images; {run.folder}")


def _show_report(report: Any, *, as_json: bool) -> None:
    typer.echo(json.dumps(report.values, indent=1) if as_json else report.text)
