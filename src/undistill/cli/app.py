"""`undistill`: one verb a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from undistill.cli import audit, evidence, gate, machine, paper, run, serve, verbs
from undistill.cli.help import Verbs, examples
from undistill.cli.options import BANK_GB, Options, use_plugins, verb
from undistill.cli.progress import Reporter
from undistill.errors import UsageError

app = typer.Typer(
    name="undistill",
    cls=Verbs,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train classifiers that are hard to copy by knowledge distillation, attack them, and measure what an attacker gets.",
    epilog=examples(
        "undistill demo --open",
        "undistill audit MODEL --data photos/ -o runs/audit",
        "undistill audit --help",
    ),
)
START, BUILD = "Start here", "Train, protect, attack"
RESULTS, SETUP = "Results", "This installation"


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Train classifiers that are hard to copy by knowledge distillation, attack them, and measure what an attacker gets."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"undistill {installed('undistill')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@verb(app, START, "undistill demo --open", "undistill demo --quick -o runs/quick")
def demo(
    out: Path = Path("runs/demo"),
    seed: int = 0,
    teachers: int = 6,
    draws: int = 2,
    quick: bool = False,
    plan_only: bool = False,
    fresh: bool = False,
    jobs: int | None = None,
    cache: Path | None = None,
    cache_limit: float = BANK_GB,
    open_page: bool = False,
    resume: bool = False,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Train normal and nasty teachers of digits, attack both, and draw the page.

    Takes about two minutes on two cores; needs no GPU and no download. The same command goes on where it was interrupted.
    """
    from undistill.experiments.runtime import Runtime
    from undistill.oracle.logit_cache import LogitCache
    from undistill.paper.demo import Demo, run_demo
    from undistill.reporting.report import write_report

    kept = LogitCache.of(cache, cache_limit)
    with Reporter(quiet=quiet) as reporter:
        verbs.begin_in(out, reporter, fresh=fresh)
        demo = Demo(seed, teachers, draws, quick)
        run_demo(out, demo, resume=True, runtime=Runtime(cache=kept, jobs=jobs), plan_only=plan_only)
    if plan_only:
        return typer.echo(f"planned; undistill run {out} computes it")
    return verbs.show_report(write_report([out], out / "report"), as_json=as_json, open_page=open_page)


@verb(
    *(app, BUILD),
    "undistill train --data digits -o runs/teacher",
    "undistill train --data photos/ --size 64 --pool 0.2 -o runs/teacher",
)
def train(
    out: Path,
    fresh: bool = False,
    model: str | None = None,
    weights: Path | None = None,
    *,
    options: Options,
) -> None:
    """Train a classifier.

    The same command goes on where it was interrupted.
    """
    from undistill.training.train import train as call

    options.begin(model)
    verbs.must_name_data(options)
    verbs.must_exist("--weights", weights)
    changes = options.changes()
    source = options.config or verbs.default_recipe(options, "finetune" if weights is not None else None)
    recipe, chosen = verbs.train_recipe(source, changes, model, weights)
    state = verbs.state_of(out, recipe, fresh=fresh)
    if options.dry_run:
        verbs.show_recipe(recipe, state, as_json=options.as_json)
        with Reporter(quiet=options.quiet) as reporter:
            return verbs.show_outlook(recipe, recipe.model, options, reporter)
    finished = verbs.is_finished(out, fresh=fresh)
    with Reporter(quiet=options.quiet) as reporter:
        splits = verbs.load_for(recipe, [recipe.model], options, reporter, out, finished=finished)
        verbs.begin_in(out, reporter, weights, fresh=fresh)
        if not finished:
            verbs.warn_of_few(splits, weights, reporter.say)
        run = call(
            chosen,
            splits,
            recipe,
            weights=weights,
            out=out,
            resume=True,
            device=options.device,
            watch=reporter.epoch,
        )
        if (begun := run.config.get("weights")) is not None:
            reporter.say(f"started from {begun['name']}, its last layer {begun['head']}")
        verbs.say_finished(out, reporter, finished=finished)
        verbs.keep_victim(run, splits)
    return verbs.show_run(run, as_json=options.as_json)


@verb(
    *(app, BUILD),
    "undistill protect runs/teacher -o runs/nasty",
    "undistill protect my_model/ --data photos/ --defense nasty-head -o runs/nasty",
)
def protect(
    model: str,
    out: Path,
    defense: str | None = None,
    start_from: str | None = None,
    fresh: bool = False,
    adversary: str | None = None,
    accept_accuracy: bool = False,
    *,
    options: Options,
) -> None:
    """Train a protected version of MODEL, such as a nasty teacher.

    The same command goes on where it was interrupted.
    """
    from undistill.defenses.protect import beginning
    from undistill.defenses.protect import protect as call
    from undistill.oracle.victim import plausible

    options.begin(model, adversary)
    for given in filter(None, (model, adversary)):
        plausible(given)
    changes = options.changes()
    if any(change.startswith("model") for change in changes):
        raise UsageError("a protected model has its teacher's network: no setting of model can change it")
    recipe = verbs.recipe_for(model, options, changes, ("defense", defense), fallback="finetune")
    beginning(recipe.defense, start_from)
    state = verbs.state_of(out, recipe, fresh=fresh)
    if options.dry_run:
        verbs.show_recipe(recipe, state, as_json=options.as_json)
        with Reporter(quiet=options.quiet) as reporter:
            whole = None if recipe.defense.name == "nasty-head" else verbs.networks_of(model)[0]
            return verbs.show_outlook(recipe, whole, options, reporter, cached=whole is not None)
    finished = verbs.is_finished(out, fresh=fresh)
    with Reporter(quiet=options.quiet) as reporter:
        splits = verbs.load_for(recipe, verbs.networks_of(model, adversary), options, reporter, out, finished=finished)
        verbs.begin_in(out, reporter, model, adversary, fresh=fresh)
        run = call(
            model,
            splits,
            adversary=adversary,
            start_from=start_from,  # type: ignore[arg-type]
            recipe=recipe,
            out=out,
            resume=True,
            accept_accuracy=accept_accuracy,
            device=options.device,
            bank=options.open_bank(),
            watch=reporter.epoch,
        )
        verbs.say_finished(out, reporter, finished=finished)
        verbs.keep_victim(run, splits)
    return verbs.show_run(run, as_json=options.as_json)


@verb(
    *(app, BUILD),
    "undistill attack runs/nasty -o runs/student",
    "undistill attack runs/nasty --threat-model api -o runs/student-api",
)
def attack(
    model: str,
    out: Path,
    attack: str | None = None,
    fresh: bool = False,
    student: str | None = None,
    name: str | None = None,
    threat_model: str = "paper",
    outputs: str | None = None,
    assume_fresh: bool = False,
    query_test: bool = False,
    query_log: Path | None = None,
    accept_accuracy: bool = False,
    *,
    options: Options,
) -> None:
    """Train a student on MODEL's outputs and measure what it gets.

    For models that you own or were asked to test, and no others. The same command goes on where it was interrupted.
    """
    from undistill.experiments.extraction import attack as call
    from undistill.experiments.extraction import permit, plan_recipe
    from undistill.experiments.runtime import Runtime
    from undistill.oracle.victim import plausible
    from undistill.threat_model import Access, ThreatModel
    from undistill.training.recipe import read

    options.begin(model, student)
    plausible(model)
    threat = ThreatModel.parse(threat_model)
    if outputs is not None:
        Access.parse(outputs)
    if query_log is not None and Path(model).expanduser().is_dir():
        raise UsageError(f"--query-log keeps the responses of a function, and {model} is a folder: leave it out")
    changes = [] if student is None else [f"student.name={json.dumps(student, ensure_ascii=False)}"]
    changes += options.changes()
    for change in changes:
        if change.startswith(("model", "defense")):
            raise UsageError(
                f"{change}: the victim is not changed; set the attacker's network by student.name and student.width"
            )
    own = [change for change in changes if change.startswith(("training.", "training="))]
    rest = [change for change in changes if change not in own]
    recipe = verbs.recipe_for(model, options, rest, ("attack", attack), fallback=None)
    recipe = read(plan_recipe(recipe), own)  # behind the student's own recipe, which they change
    permit(recipe.attack, threat)
    state = verbs.state_of(out, recipe, fresh=fresh)
    if options.dry_run:
        verbs.show_recipe(recipe, state, as_json=options.as_json)
        with Reporter(quiet=options.quiet) as reporter:
            network = recipe.student.network
            return verbs.show_outlook(recipe, network, options, reporter, threat=threat, cached=True)
    finished = verbs.is_finished(out, fresh=fresh)
    with Reporter(quiet=options.quiet) as reporter:
        splits = verbs.load_for(
            recipe, [recipe.student.network, *verbs.networks_of(model)], options, reporter, out, finished=finished
        )
        reporter.say(
            f"student {recipe.student.name}: {recipe.training.epochs} epochs with {recipe.training.optimizer.name}"
        )
        verbs.begin_in(out, reporter, model, recipe.student.weights, fresh=fresh)
        cell = call(
            model,
            splits,
            out=out,
            runtime=Runtime(options.device, options.open_bank(), watch=reporter.epoch),
            threat_model=threat,
            recipe=recipe,
            outputs=outputs,
            name=name,
            assume_fresh=assume_fresh,
            ask_test=query_test,
            query_log=query_log,
            accept_accuracy=accept_accuracy,
            resume=True,
        )
        verbs.say_finished(out, reporter, finished=finished)
    return verbs.show_cell(cell, out, as_json=options.as_json)


@verb(
    *(app, BUILD),
    "undistill import weights.pt --model resnet18 --mean imagenet -o models/mine",
    "undistill import checkpoint/ -o models/mine",
    name="import",
)
def import_(
    source: Path,
    out: Path,
    model: str | None = None,
    classes: Path | None = None,
    class_order: str | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    accuracy: float | None = None,
    sets: list[str] | None = None,
    size: int | None = None,
    channels: int | None = None,
    mean: str | None = None,
    std: str | None = None,
    plugin: list[Path] | None = None,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Make a model folder of weights from elsewhere.

    Reads safetensors, state dicts of torch.save and the paper authors' checkpoints; never unpickles.
    """
    from undistill.models.convert import import_model
    from undistill.oracle.victim import measure

    use_plugins(plugin)
    own = [change for change in sets or [] if not change.startswith("data.")]
    told: dict[str, Any] = {
        "model": verbs.network(model, own),
        "class_names": None if classes is None else verbs.lines(classes),
        "class_order": verbs.whole_numbers("class-order", class_order),
        "image_size": size,
        "in_channels": channels,
        "mean": verbs.moments(mean),
        "std": verbs.numbers("std", std),
        "accuracy": accuracy,
    }
    with Reporter(quiet=quiet) as reporter:
        changes = [change for change in sets or [] if change not in own]
        splits = verbs.import_data(reporter, source, data, data_dir, size, channels, changes)
        folder = import_model(source, out, data=splits, **told)
        found = None if splits is None else measure(folder, splits)
    verbs.show_import(folder, found, as_json=as_json)


app.add_typer(audit.app, name="audit", rich_help_panel=START)
verb(app, RESULTS, "undistill run runs/audit", "undistill run runs/audit --index 3")(run.run)
verb(
    *(app, RESULTS),
    "undistill reproduce table1 --scale smoke --open",
    "undistill reproduce all --scale small --seeds 3 --dry-run",
)(paper.reproduce)
verb(
    *(app, RESULTS),
    "undistill compare runs/audit-a runs/audit-b",
    "undistill compare runs/audit-a runs/audit-b -o runs/ab",
)(audit.compare)
verb(
    *(app, RESULTS),
    "undistill gate runs/audit --max-relative-accuracy 0.9 --at 1000 --access top1",
    "undistill gate runs/audit --format junit -o gate.xml",
)(gate.gate)
verb(
    *(app, BUILD),
    "undistill serve runs/nasty --output-defense rounding",
    "undistill serve models/mine --access top1 --host 0.0.0.0 --rate 100",
)(serve.serve)


@verb(app, RESULTS, "undistill report runs/demo --open", "undistill report runs/a runs/b -o runs/both")
def report(
    folders: list[Path],
    out: Path | None = None,
    open_page: bool = False,
    as_json: bool = False,
    verbose: bool = False,
) -> None:
    """Draw the page of attacks, a demo, audit or reproduction, from its folder or from packed evidence."""
    from undistill.experiments.evidence import SUFFIX, unpack
    from undistill.reporting.report import write_report

    if any(path.suffix == SUFFIX for path in folders):
        if len(folders) > 1:
            raise UsageError("a packed study is reported alone; `undistill evidence unpack` makes folders of several")
        folder = out or Path("runs") / folders[0].stem
        unpack(folders[0], folder)
        folders, out = [folder], None
    verbs.show_report(write_report(folders, out or folders[0] / "report"), as_json=as_json, open_page=open_page)


app.add_typer(evidence.app, name="evidence", rich_help_panel=RESULTS)


@verb(app, SETUP, "undistill list attacks", "undistill list recipes --json", name="list")
def list_(
    kind: str | None = None, plugin: list[Path] | None = None, as_json: bool = False, verbose: bool = False
) -> None:
    """List attacks, defenses, models, data sets and recipes."""
    from undistill.cli.catalog import catalog

    use_plugins(plugin)
    verbs.show_catalog(catalog(kind), brief=kind is None, as_json=as_json)


verb(app, SETUP, "undistill doctor", "undistill doctor --json")(machine.doctor)
verb(app, SETUP, "undistill cache", "undistill cache --prune --kind logits")(machine.cache)
