"""`undistill audit`: plan, compute and judge an audit; each of the three alone, too."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from undistill.cli import verbs
from undistill.cli.options import (
    BANK_GB,
    AcceptAccuracy,
    BankFolder,
    BankLimit,
    Json,
    Options,
    Out,
    Plugin,
    Quiet,
    Verbose,
    shared,
)
from undistill.cli.options import use_plugins as _use_plugins
from undistill.cli.progress import Reporter
from undistill.errors import RunError, UsageError

Cells = Annotated[Path | None, typer.Option("--cells", help="Folder of cells that audits share; default in OUT.")]
Jobs = Annotated[int | None, typer.Option("--jobs", min=1, help="Processes; default one a core, one on CUDA.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an audit.")]


@dataclass(frozen=True)
class Asked:
    """What is audited, and how: the same for an audit and for its plan alone."""

    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="The model to audit; none with --method.")] = None
    control: Annotated[str | None, typer.Option("--control", help="Its undefended twin; verdicts need one.")] = None
    suite: Annotated[str, typer.Option("--suite", help="quick (an indication) or standard (verdicts).")] = "quick"
    card: Annotated[
        str,
        typer.Option("--card", help="What the thief holds: unlabelled/fresh, labelled/fresh, paper, or a whole card."),
    ] = "unlabelled/fresh"
    serve: Annotated[
        str | None, typer.Option("--serve", help="Ways of serving, by comma: probs,top5:2,top1,labels,weights.")
    ] = None
    questions: Annotated[
        str | None, typer.Option("--questions", help="Numbers of questions, by comma; the first is searched on.")
    ] = None
    students: Annotated[
        str | None, typer.Option("--students", help="Thieves' networks, by comma, with widths: cnn:0.5,resnetc20.")
    ] = None
    seeds: Annotated[int | None, typer.Option("--seeds", help="Report seeds; with --method, for each teacher.")] = None
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Training steps of a thief with a number of questions.")
    ] = None
    delta: Annotated[float | None, typer.Option("--delta", help="The smallest difference that matters, points.")] = None
    public: Annotated[str | None, typer.Option("--public", help="Public weights that thieves start from.")] = None
    also: Annotated[
        list[str] | None, typer.Option("--also", metavar="ATTACK", help="An attack of your own, tried too; repeatable.")
    ] = None
    behind: Annotated[
        list[str] | None,
        typer.Option(
            "--behind", help="Answer-side defense in front of MODEL: stingy, 'rounding digits=1'; repeatable."
        ),
    ] = None
    answers: Annotated[
        str | None,
        typer.Option("--answers", help="MODEL is a function that answers with logits, probs, topk or label."),
    ] = None
    unseen: Annotated[bool, typer.Option("--unseen", help="Your word that MODEL never saw the fresh pool.")] = False
    method: Annotated[
        str | None, typer.Option("--method", help="Audit a defense, on teachers that are trained for it.")
    ] = None
    teachers: Annotated[int, typer.Option("--teachers", min=1, help="How many teachers, with --method.")] = 3

    accept_accuracy: AcceptAccuracy = False

    def request(self) -> Any:
        """As the library takes it."""
        from undistill.auditing.asking import Request

        outside = ("model", "control", "accept_accuracy")
        given = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in outside}
        listed = {name: _list(given[name]) for name in ("serve", "questions", "students")}
        counts = tuple(_count(text) for text in listed.pop("questions"))
        return Request(
            **{
                **given,
                **listed,
                "questions": counts,
                "behind": tuple(self.behind or ()),
                "also": tuple(self.also or ()),
            }
        )


class OrAll(TyperGroup):
    """A group whose default command takes what names no other."""

    default = "all"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front of a MODEL or of options."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=OrAll,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What a thief still gets from a model: `undistill audit MODEL -o DIR` does it all (`audit all --help` has the options).",
)


@app.command("all")
@shared
def all_(
    asked: Asked,
    out: Out,
    cells: Cells = None,
    jobs: Jobs = None,
    *,
    options: Options,
) -> None:
    """Plan an audit, compute its cells and draw its page.

    What is computed already is found and not done again: an interrupted command goes on.
    """
    from undistill.auditing.audit import run
    from undistill.auditing.tell import told

    with Reporter(quiet=options.quiet) as reporter:
        ready = _prepared(reporter, asked, options, out, cells)
        if options.dry_run:
            return _show_plan(ready.plan, jobs, as_json=options.as_json)
        for line in told(ready.plan, jobs)[:3]:
            reporter.say(line)
        run(ready, jobs=jobs, say=reporter.say)
    return _judge(out, as_json=options.as_json)


@app.command()
@shared
def plan(asked: Asked, out: Out, *, options: Options) -> None:
    """Write the plan of an audit: its cells, their cost, what is skipped and why.

    Each cell is then `undistill audit cell DIR KEY` or `--index N`, stage after stage.
    """
    from undistill.auditing import planned

    with Reporter(quiet=options.quiet) as reporter:
        ready = _prepared(reporter, asked, options, out, None)
    if not options.dry_run:
        planned.write(out, ready.plan)
    _show_plan(ready.plan, None, as_json=options.as_json)


@app.command()
def cell(
    folder: Folder,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="The cell's key, or its first letters.")] = None,
    index: Annotated[int | None, typer.Option("--index", min=0, help="The cell's place in the plan, from 0.")] = None,
    cells: Cells = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = 1,
    bank: BankFolder = None,
    bank_limit: BankLimit = BANK_GB,
    plugin: Plugin = None,
    trust: Annotated[
        list[str] | None, typer.Option("--trust", metavar="MODULE:CALLABLE", help="Code that the plan may call.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compute one cell of a plan; one that is there already is left as it is."""
    import torch

    from undistill import plugins
    from undistill.auditing import planned
    from undistill.auditing.desk import Desk, compute
    from undistill.oracle.bank import Bank

    _use_plugins(plugin)
    found = planned.read(folder)
    if (key is None) == (index is None):
        raise UsageError("name a cell by its KEY or by --index, one of the two")
    if index is not None:
        if index >= len(found.cells):
            raise UsageError(f"the plan has {len(found.cells)} cells, the last is --index {len(found.cells) - 1}")
        key = found.cells[index].key
    for name in trust or []:
        plugins.trust(name)
    torch.set_num_threads(threads or 1)
    with Reporter(quiet=quiet):
        line = compute(Desk(folder, cells, device, Bank.of(bank, bank_limit)), str(key))
    typer.echo(line)
    if line.endswith(": failed"):
        raise RunError("the cell failed; its file says why")


@app.command()
def judge(folder: Folder, as_json: Json = False, verbose: Verbose = False) -> None:
    """Judge the cells of an audit and draw its page; what is missing makes it inconclusive."""
    _judge(folder, as_json=as_json)


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of audits.")],
    out: Out = Path("runs/comparison"),
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Set audits side by side: what thieves got against what users lost."""
    from undistill.auditing.judge import judge as judged
    from undistill.reporting.audit.compare import write_comparison

    found = [(folder.name, judged(folder)) for folder in folders]
    verbs.show_report(write_comparison(found, out), as_json=as_json)


def _judge(folder: Path, *, as_json: bool) -> None:
    from undistill.auditing import planned
    from undistill.reporting.report import write_report

    planned.read(folder)
    verbs.show_report(write_report([folder], folder / "report"), as_json=as_json)


def _prepared(reporter: Reporter, asked: Asked, options: Options, out: Path, cells: Path | None) -> Any:
    """The plan, with what each cell is expected to take."""
    from undistill.auditing.audit import prepare
    from undistill.training.recipe import read

    if asked.model is None and asked.method is None:
        raise UsageError("audit what? Name a MODEL, or a defense with --method")
    request = asked.request()
    _only_what_counts(options.sets or ())
    options.begin(asked.model, asked.control, *request.students)
    if asked.model is None:
        recipe = read(options.config or verbs.default_recipe(options), options.changes())
    else:
        recipe = verbs.recipe_for(asked.model, options, options.changes(), ("attack", None), fallback=None)
    options.use_threads()
    splits = verbs.load(recipe, reporter)
    ready = prepare(
        asked.model,
        splits,
        request,
        control=asked.control,
        recipe=recipe,
        out=out,
        cells=cells,
        device=options.device,
        bank=options.open_bank(),
        command=_command(),
        accept_accuracy=asked.accept_accuracy,
    )
    return _forecast(ready, splits, options.device)


def _only_what_counts(sets: Sequence[str]) -> None:
    """UsageError for a setting of a recipe that an audit does not read."""
    instead = {
        "student": "thieves' networks are named with --students",
        "attack": "the suite names the attacks; --also tries one of your own",
        "training.epochs": "with a number of questions, --steps says how long thieves train",
        "training.passes": "with a number of questions, --steps says how long thieves train",
    }
    for setting in sets:
        name = setting.partition("=")[0]
        told = next((why for part, why in instead.items() if name == part or name.startswith(f"{part}.")), None)
        if told is not None:
            raise UsageError(f"{name} changes nothing here: {told}")


def _forecast(ready: Any, splits: Any, device: str) -> Any:
    from dataclasses import replace

    from undistill.auditing.forecast import forecast
    from undistill.training.env import choose_device

    shape = (splits.num_classes, splits.train.channels, splits.train.image_size)
    held_out = sum(len(part) for part in (splits.val, splits.pool) if part is not None)
    sizes = {"trained": len(splits.train), "held_out": min(held_out, 4000)}
    told = forecast(ready.plan, shape, **sizes, device=choose_device(device))
    return replace(ready, plan=told)


def _show_plan(plan: Any, jobs: int | None, *, as_json: bool) -> None:
    """Print a plan: cells by stage and role, cost, what it can resolve, what is skipped."""
    from undistill.auditing.tell import told

    typer.echo(json.dumps(plan.dump(), indent=1) if as_json else "\n".join(told(plan, jobs)))


def _list(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--questions are whole numbers by comma, not {text!r}") from None


def _command() -> str:
    """The command as it was typed, for the page; without what only says how fast or where it ran."""
    return shlex.join(["undistill", *sys.argv[1:]]) if sys.argv[1:2] == ["audit"] else ""
