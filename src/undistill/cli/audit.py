"""`undistill audit`: plan, compute and judge an audit; each of the three alone, too."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from undistill.cli import help, verbs
from undistill.cli.help import ACCESS, JOB, MORE
from undistill.cli.options import BANK_GB, Options, executor_that_works, verb
from undistill.cli.progress import Reporter
from undistill.cli.run import run
from undistill.errors import UsageError

PANELS = {
    **dict.fromkeys(("model", "control", "data", "time", "out", "suite", "name"), JOB),
    **dict.fromkeys(
        ("access", "queries", "unqueried", "output_defense", "threat_model", "outputs", "assume_fresh"), ACCESS
    ),
    **dict.fromkeys(
        ("students", "extra_attack", "public", "seeds", "steps", "delta", "method", "teachers", "config", "sets"), MORE
    ),
}
"""The group of each option and their order; the others keep their own group."""


@dataclass(frozen=True)
class Asked:
    """What is audited, and how: the same for an audit and for its plan alone."""

    model: str | None = None
    control: str | None = None
    suite: str = "timed"
    time: str | None = None
    access: str | None = None
    queries: str | None = None
    unqueried: int | None = None
    output_defense: list[str] | None = None
    threat_model: str = "unlabelled/fresh"
    outputs: str | None = None
    assume_fresh: bool = False
    name: str | None = None
    students: str | None = None
    extra_attack: list[str] | None = None
    public: str | None = None
    seeds: int | None = None
    steps: int | None = None
    delta: float | None = None
    method: str | None = None
    teachers: int = 3
    accept_accuracy: bool = False

    def config(self, **more: Any) -> Any:
        """As the library takes it."""
        from undistill.auditing.config import AuditConfig

        values = {name: value for name, value in asdict(self).items() if name != "model"}
        lists = {name: _list(values[name]) for name in ("access", "students")}
        lists |= {name: tuple(values[name] or ()) for name in ("output_defense", "extra_attack")}
        return AuditConfig.of(**{**values, **lists, "queries": tuple(map(_count, _list(self.queries))), **more})


class Verb(help.Verb):
    """A verb of audits, its options in the order of `PANELS`."""

    panels = PANELS

    def __init__(self, *arguments: Any, **given: Any) -> None:
        super().__init__(*arguments, **given)
        order = {name: place for place, name in enumerate(PANELS)}
        self.params.sort(key=lambda parameter: order.get(parameter.name or "", len(order)))

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Without the name of the command that need not be named."""
        path = ctx.command_path.removesuffix(f" {OrAll.default}")
        formatter.write_usage(path, " ".join(self.collect_usage_pieces(ctx)))


class OrAll(TyperGroup):
    """A group whose default command takes what names no other."""

    default = "all"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front of a MODEL or of options, `--help` among them."""
        if args and args[0] not in self.commands:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=OrAll,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What an attacker gets from a model: `undistill audit MODEL` does it all (`undistill audit --help` has the options).",
)
EXAMPLES = (
    "undistill audit runs/my-model",
    "undistill audit runs/nasty --control runs/normal --time 30m -o runs/audit",
)
AFTER = """
The same command goes on where it was interrupted, and adds seeds with more
--time. Parts of it: undistill audit plan, undistill run DIR, undistill report DIR."""


@verb(app, JOB, *EXAMPLES, name="all", cls=Verb, after=AFTER)
def all_(
    asked: Asked,
    out: Path | None = None,
    fresh: bool = False,
    cells: Path | None = None,
    jobs: int | None = None,
    executor: str = "local",
    progress: str = "line",
    open_page: bool = False,
    *,
    options: Options,
) -> None:
    """What an attacker gets from MODEL, by output access and query budget; whether its defense helps; what to do.

    Trains extracted models for at most --time, then writes a page.
    """
    from undistill.auditing.audit import run as compute

    with Reporter(quiet=options.quiet, progress=progress) as reporter:
        out = out or _folder_for(asked)
        ready, splits = _prepared(reporter, asked, options, out, cells, jobs, executor)
        if options.dry_run:
            return _show_plan(ready.plan, jobs, as_json=options.as_json)
        verbs.begin_in(out, reporter, asked.model, asked.control, asked.public, fresh=fresh)
        _announce(reporter, ready, splits)
        compute(ready, failed=reporter.say)
    return _judge(out, as_json=options.as_json, open_page=open_page)


@verb(app, JOB, cls=Verb)
def plan(asked: Asked, out: Path | None = None, *, options: Options) -> None:
    """Write the plan of an audit: its cells, their cost, what is skipped and why.

    `undistill run DIR` then computes all of them, `undistill run DIR KEY` or `--index N` one, stage after stage.
    """
    from undistill.experiments import plan as planned

    with Reporter(quiet=options.quiet) as reporter:
        out = out or _folder_for(asked)
        ready, _ = _prepared(reporter, asked, options, out, None)
    if not options.dry_run:
        planned.write(out, ready.plan)
    _show_plan(ready.plan, None, as_json=options.as_json)


@verb(app, JOB)
def cell(
    folder: Path,
    key: str | None = None,
    index: int | None = None,
    cells: Path | None = None,
    device: str = "auto",
    threads: int | None = 1,
    cache: Path | None = None,
    cache_limit: float = BANK_GB,
    plugin: list[Path] | None = None,
    trust: list[str] | None = None,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Compute one cell of a plan, as `undistill run DIR KEY` does."""
    if key is None and index is None:
        raise UsageError("name a cell by its KEY or by --index, one of the two")
    run(
        folder,
        key,
        index,
        cells,
        device=device,
        threads=threads,
        cache=cache,
        cache_limit=cache_limit,
        plugin=plugin,
        trust=trust,
        quiet=quiet,
    )


@verb(app, JOB)
def judge(folder: Path, open_page: bool = False, as_json: bool = False, verbose: bool = False) -> None:
    """Draw the page of an audit from the cells that are there, as `undistill report DIR` does."""
    _judge(folder, as_json=as_json, open_page=open_page)


def compare(
    folders: list[Path],
    out: Path = Path("runs/comparison"),
    open_page: bool = False,
    as_json: bool = False,
    verbose: bool = False,
) -> None:
    """Set audits side by side: what attackers get against what users lose."""
    from undistill.auditing.analyze import analyze as judged
    from undistill.reporting.audit.compare import named, write_comparison

    found = write_comparison(named([(folder, judged(folder)) for folder in folders]), out)
    verbs.show_report(found, as_json=as_json, open_page=open_page)


def _judge(folder: Path, *, as_json: bool, open_page: bool = False) -> None:
    from undistill.experiments import plan as planned
    from undistill.reporting.report import write_report

    planned.read(folder)
    verbs.show_report(write_report([folder], folder / "report"), as_json=as_json, open_page=open_page)


def _folder_for(asked: Asked) -> Path:
    """`runs/audit-NAME`, by the model's or the method's own name."""
    from undistill.auditing.text import PLAIN

    given = asked.name or asked.model or asked.method or ""
    path = given.partition("@")[0].rpartition(":")[2].replace("\\", "/")
    name = next((part for part in reversed(path.split("/")) if part not in PLAIN), "model")
    return Path("runs") / f"audit-{re.sub(r'[^A-Za-z0-9._-]+', '-', name.partition(' ')[0])}"


def _announce(reporter: Reporter, ready: Any, splits: Any) -> None:
    """Say how long it takes and how precise it will be; UsageError where the least that can be done takes far more time."""
    from undistill.auditing.precision import announced, fewer_pixels
    from undistill.auditing.text import clock

    takes = ready.takes()
    total = sum(len(part) for part in (splits.train, splits.pool, splits.val, splits.test) if part is not None)
    if ready.replan is None:
        lines = announced(ready.plan, (takes.low, takes.high), total=total)
    else:
        advice = fewer_pixels(ready.plan, splits.train.image_size)
        if takes.low > TOO_LONG * ready.seconds:
            raise UsageError(
                f"the least that this audit can do, {len(ready.plan.seeds)} seeds, takes about {clock(takes.low)} here and --time "
                f"is {clock(ready.seconds)}: give it --time {math.ceil(takes.low / 60)}m or more, or fewer --queries, --access or "
                f"--steps, or smaller --students{advice and '; '}{advice}"
            )
        whole = ready.takes(whole=True)
        fitting = [int(ready.seconds * len(ready.plan.seeds) / max(each, 1e-3)) for each in (whole.high, whole.low)]
        seeds = (min(fitting[0], MOST), min(fitting[1], MOST))
        lines = announced(ready.plan, (takes.low, takes.high), seeds=seeds, seconds=ready.seconds, total=total)
        if advice and takes.high > ready.seconds:
            lines.append(f"warning: this takes longer than --time; {advice}")
    for line in lines:
        reporter.say(line)


MOST = 40
"""Seeds that an announcement counts on at most; δ is usually resolved before."""
TOO_LONG = 3.0
"""How many times its time the first round may be expected to take before the audit is refused."""


def _prepared(
    reporter: Reporter,
    asked: Asked,
    options: Options,
    out: Path,
    cells: Path | None,
    jobs: int | None = None,
    executor: str = "local",
) -> tuple[Any, Any]:
    """(the plan, with what each cell is expected to take; the data)."""
    from undistill.auditing.audit import prepare_in_time
    from undistill.experiments.runtime import Runtime
    from undistill.training.recipe import read

    place = executor_that_works(executor)
    if asked.model is None and asked.method is None:
        raise UsageError("audit what? Name a MODEL, or a defense with --method")
    config = asked.config()
    _only_what_counts(options.sets or ())
    options.begin(asked.model, asked.control, *config.students)
    if asked.model is None:
        recipe = read(options.config or verbs.default_recipe(options), options.changes())
    else:
        recipe = verbs.recipe_for(asked.model, options, options.changes(), ("attack", None), fallback=None)
    options.use_threads()
    splits = verbs.load(recipe, reporter)

    runtime = Runtime(options.device, options.open_bank(), jobs, place)
    config = config.but(recipe=recipe, cells=cells)
    ready = prepare_in_time(asked.model, splits, config, out=out, runtime=runtime, command=_command(), say=reporter.say)
    return ready, splits


def _only_what_counts(sets: Sequence[str]) -> None:
    """UsageError for a setting of a recipe that an audit does not read."""
    instead = {
        "student": "attackers' networks are named with --students",
        "attack": "the suite names the attacks; --extra-attack tries one more",
        "training.epochs": "with a query budget, --steps says how long attackers train",
        "training.passes": "with a query budget, --steps says how long attackers train",
    }
    for setting in sets:
        name = setting.partition("=")[0]
        told = next((why for part, why in instead.items() if name == part or name.startswith(f"{part}.")), None)
        if told is not None:
            raise UsageError(f"{name} changes nothing here: {told}")


def _show_plan(plan: Any, jobs: int | None, *, as_json: bool) -> None:
    """Print a plan: cells by stage and role, cost, what it can resolve, what is skipped."""
    from undistill.auditing.precision import plan_lines

    typer.echo(json.dumps(plan.dump(), indent=1) if as_json else "\n".join(plan_lines(plan, jobs)))


def _list(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--queries are whole numbers by comma, not {text!r}") from None


SHOWN = ("--json", "--open", "-q", "--quiet", "-v", "--verbose", "--fresh")
WHERE = ("--executor", "--progress", "--memory-limit")
"""Options, those of `WHERE` with a value, that change neither a number nor a word of the page."""


def _command() -> str:
    """The command as it was typed, for the page; without what only says where it runs or how its result is shown."""
    from undistill.auditing.text import without

    words = without(shlex.join(["undistill", *(word for word in sys.argv[1:] if word not in SHOWN)]), *WHERE)
    return shlex.join(words) if words[1:2] == ["audit"] else ""
