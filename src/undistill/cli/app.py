"""`undistill`: one verb a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from undistill.cli import audit, machine, paper, verbs
from undistill.cli.help import ACCESS, DATA, JOB, MODELS, Verb, Verbs, examples
from undistill.cli.options import (
    BANK_GB,
    AcceptAccuracy,
    BankFolder,
    BankLimit,
    Fresh,
    Jobs,
    Json,
    Open,
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
MODEL = "a run folder, a model folder, timm:NAME@weights, torchvision:NAME@weights, package.module:callable"


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


@app.command(
    cls=Verb,
    rich_help_panel=START,
    epilog=examples("undistill demo --open", "undistill demo --quick -o runs/quick"),
)
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", help="Another seed shares no teacher and no draw.", rich_help_panel=JOB),
    ] = 0,
    teachers: Annotated[
        int,
        typer.Option("--teachers", metavar="N", help="Pairs of a normal and a nasty teacher.", rich_help_panel=JOB),
    ] = 6,
    draws: Annotated[
        int,
        typer.Option("--draws", metavar="N", help="Draws of query images against each pair.", rich_help_panel=JOB),
    ] = 2,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One pair, one draw, a few steps: does everything run?", rich_help_panel=JOB),
    ] = False,
    fresh: Fresh = False,
    jobs: Jobs = None,
    bank: BankFolder = None,
    bank_limit: BankLimit = BANK_GB,
    open_page: Open = False,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train normal and nasty teachers of digits, attack both, and draw the page.

    Takes about two minutes on two cores; needs no GPU and no download. The same command goes on where it was interrupted.
    """
    from undistill.oracle.logit_cache import Bank
    from undistill.paper.demo import run_demo
    from undistill.reporting.report import write_report

    kept = Bank.of(bank, bank_limit)
    with Reporter(quiet=quiet) as reporter:
        verbs.begin_in(out, reporter, fresh=fresh)
        run_demo(
            out,
            seed=seed,
            teachers=teachers,
            draws=draws,
            quick=quick,
            resume=True,
            jobs=jobs,
            bank=kept,
        )
    verbs.show_report(write_report([out], out / "report"), as_json=as_json, open_page=open_page)


@app.command(
    cls=Verb,
    rich_help_panel=BUILD,
    epilog=examples(
        "undistill train --data digits -o runs/teacher",
        "undistill train --data photos/ --size 64 --pool 0.2 -o runs/teacher",
    ),
)
@shared
def train(
    out: Out,
    fresh: Fresh = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NETWORK",
            help="A name from `undistill list models`, or package.module:callable.  [default: the recipe's]",
            rich_help_panel=MODELS,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="PATH",
            help="Weights to fine-tune: a run or model folder, .safetensors, .pt or .pth.  [default: random]",
            rich_help_panel=MODELS,
        ),
    ] = None,
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
        return verbs.show_recipe(recipe, state, as_json=options.as_json)
    finished = verbs.is_finished(out, fresh=fresh)
    with Reporter(quiet=options.quiet) as reporter:
        splits = verbs.load_for(recipe, [recipe.model], options, reporter, out, finished=finished)
        verbs.begin_in(out, reporter, weights, fresh=fresh)
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


@app.command(
    cls=Verb,
    rich_help_panel=BUILD,
    epilog=examples(
        "undistill protect runs/teacher -o runs/nasty",
        "undistill protect my_model/ --data photos/ --defense nasty-head -o runs/nasty",
    ),
)
@shared
def protect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"The trained teacher: {MODEL}.")],
    out: Out,
    defense: Annotated[
        str | None,
        typer.Option(
            "--defense",
            metavar="NAME",
            help="A name from `undistill list defenses`.  [default: the recipe's, usually nasty]",
            rich_help_panel=JOB,
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--start-from",
            metavar="WEIGHTS",
            help="scratch or teacher.  [default: the defense's own way]",
            rich_help_panel=JOB,
        ),
    ] = None,
    fresh: Fresh = False,
    adversary: Annotated[
        str | None,
        typer.Option(
            "--adversary",
            metavar="MODEL",
            help="Network whose outputs the defense moves away from.  [default: MODEL itself]",
            rich_help_panel=MODELS,
        ),
    ] = None,
    accept_accuracy: AcceptAccuracy = False,
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
        return verbs.show_recipe(recipe, state, as_json=options.as_json)
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


@app.command(
    cls=Verb,
    rich_help_panel=BUILD,
    epilog=examples(
        "undistill attack runs/nasty -o runs/student",
        "undistill attack runs/nasty --threat-model api -o runs/student-api",
    ),
)
@shared
def attack(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"The victim: {MODEL}, answers.parquet.")],
    out: Out,
    name: Annotated[
        str | None,
        typer.Option(
            "--attack",
            metavar="NAME",
            help="A name from `undistill list attacks`.  [default: the recipe's, usually kd]",
            rich_help_panel=JOB,
        ),
    ] = None,
    fresh: Fresh = False,
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            metavar="NETWORK",
            help="The attacker's network, a name from `undistill list models`.  [default: the recipe's]",
            rich_help_panel=MODELS,
        ),
    ] = None,
    called: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What reports call MODEL.", rich_help_panel=MODELS),
    ] = None,
    card: Annotated[
        str,
        typer.Option(
            "--threat-model",
            metavar="NAME",
            help="paper, api, data-free, or written out: access/data/pool/start/queries, as in "
            "probs/unlabelled/fresh/random/50.",
            rich_help_panel=ACCESS,
        ),
    ] = "paper",
    answers: Annotated[
        str | None,
        typer.Option(
            "--outputs",
            metavar="KIND",
            help="MODEL is a function of uint8 images that returns logits, probs, topk or label.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    unseen: Annotated[
        bool,
        typer.Option(
            "--assume-fresh",
            help="Assert, unverified, that MODEL was not trained on the query pool.",
            rich_help_panel=ACCESS,
        ),
    ] = False,
    ask_test: Annotated[
        bool,
        typer.Option(
            "--query-test",
            help="Query a function on the test images too, for its accuracy and the student's fidelity.",
            rich_help_panel=ACCESS,
        ),
    ] = False,
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--query-log",
            metavar="FILE",
            help="Keeps a function's responses; attacks that share it pay once.  [default: answers.parquet in DIR]",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    accept_accuracy: AcceptAccuracy = False,
    *,
    options: Options,
) -> None:
    """Train a student on MODEL's outputs and measure what it gets.

    For models that you own or were asked to test, and no others. The same command goes on where it was interrupted.
    """
    from undistill.experiments.attack import attack as call
    from undistill.experiments.holdings import permit, plan_recipe
    from undistill.oracle.victim import plausible
    from undistill.threat_model import Access, Card
    from undistill.training.recipe import read

    options.begin(model, student)
    plausible(model)
    threat = Card.parse(card)
    if answers is not None:
        Access.parse(answers)
    if ledger is not None and Path(model).expanduser().is_dir():
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
    recipe = verbs.recipe_for(model, options, rest, ("attack", name), fallback=None)
    recipe = read(plan_recipe(recipe), own)  # behind the student's own recipe, which they change
    permit(recipe.attack, threat)
    state = verbs.state_of(out, recipe, fresh=fresh)
    if options.dry_run:
        return verbs.show_recipe(recipe, state, as_json=options.as_json)
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
            card=threat,
            recipe=recipe,
            answers=answers,
            called=called,
            unseen=unseen,
            ask_test=ask_test,
            ledger=ledger,
            accept_accuracy=accept_accuracy,
            out=out,
            resume=True,
            device=options.device,
            bank=options.open_bank(),
            watch=reporter.epoch,
        )
        verbs.say_finished(out, reporter, finished=finished)
    return verbs.show_cell(cell, out, as_json=options.as_json)


@app.command(
    "import",
    cls=Verb,
    rich_help_panel=BUILD,
    epilog=examples(
        "undistill import weights.pt --model resnet18 --mean imagenet -o models/mine",
        "undistill import checkpoint/ -o models/mine",
    ),
)
def import_(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A state dict (.safetensors, .pt, .pth, .tar) or a checkpoint's folder."),
    ],
    out: Out,
    model: Annotated[
        str | None, typer.Option("--model", help="Network of a plain state dict.", rich_help_panel=MODELS)
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes", help="Text file of class names, one a line, in the order of the outputs.", rich_help_panel=DATA
        ),
    ] = None,
    class_order: Annotated[
        str | None,
        typer.Option(
            "--class-order",
            help="For each output the class of the data that it stands for, from 0: 0,1,10,11,2.",
            rich_help_panel=DATA,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="The model's data, a name, a folder or a hub id: accuracy is measured on its test images.",
            rich_help_panel=DATA,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", help="Local folder in the hub's format instead of a download.", rich_help_panel=DATA
        ),
    ] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(
            "--accuracy", help="Its accuracy as its author states it, percent, to compare with.", rich_help_panel=MODELS
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="NAME=VALUE",
            help="A setting of that network (stem=7x7) or of --data (data.val=0).",
            rich_help_panel=MODELS,
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side in pixels of the images it takes.", rich_help_panel=MODELS)
    ] = None,
    channels: Annotated[int | None, typer.Option("--channels", help="1 (grey) or 3.", rich_help_panel=MODELS)] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            help="The normalization it was trained with: 0.49,0.48,0.45, or none (it takes pixels in [0, 1] as they are), data "
            "(the moments of --data), imagenet. timm's and torchvision's networks have a published one.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", help="Beside a --mean of numbers: 0.25,0.24,0.26.", rich_help_panel=MODELS)
    ] = None,
    plugin: Plugin = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
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
app.command(
    cls=Verb,
    rich_help_panel=RESULTS,
    epilog=examples(
        "undistill reproduce table1 --scale smoke --open",
        "undistill reproduce all --scale small --seeds 3 --dry-run",
    ),
)(paper.reproduce)
app.command(
    cls=Verb,
    rich_help_panel=RESULTS,
    epilog=examples(
        "undistill compare runs/audit-a runs/audit-b", "undistill compare runs/audit-a runs/audit-b -o runs/ab"
    ),
)(audit.compare)


@app.command(
    cls=Verb,
    rich_help_panel=RESULTS,
    epilog=examples("undistill report runs/demo --open", "undistill report runs/a runs/b -o runs/both"),
)
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders that hold cells.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder to write to.  [default: report in the first one]",
            rich_help_panel=JOB,
        ),
    ] = None,
    open_page: Open = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draw the page of attacks, a demo, audit or reproduction."""
    from undistill.reporting.report import write_report

    verbs.show_report(write_report(folders, out or folders[0] / "report"), as_json=as_json, open_page=open_page)


@app.command(
    "list",
    cls=Verb,
    rich_help_panel=SETUP,
    epilog=examples("undistill list attacks", "undistill list recipes --json"),
)
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="attacks, defenses, output-defenses, models, data, views, optimizers, schedules, recipes or "
            "threat-models.  [default: all]",
        ),
    ] = None,
    plugin: Plugin = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List attacks, defenses, models, data sets and recipes."""
    from undistill.cli.catalog import catalog

    use_plugins(plugin)
    verbs.show_catalog(catalog(kind), brief=kind is None, as_json=as_json)


app.command(
    cls=Verb,
    rich_help_panel=SETUP,
    epilog=examples("undistill doctor", "undistill doctor --json"),
)(machine.doctor)
app.command(
    cls=Verb,
    rich_help_panel=SETUP,
    epilog=examples("undistill cache", "undistill cache --prune --kind logits"),
)(machine.cache)
