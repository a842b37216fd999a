"""What every verb does before and after its call: settings in, a line or JSON out."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from undistill import ranks
from undistill.cli.fresh import start_anew
from undistill.cli.options import Options
from undistill.cli.progress import Reporter, duration
from undistill.errors import UsageError
from undistill.threads import Moment, asked, choose, others, usable

WIDTH = 100
"""Characters of the longest line of `list`."""
FEW_EACH = 100
"""Training images of a class below which a network that starts from random weights stays poor."""


def default_recipe(options: Options, wanted: str | None = None) -> str:
    """The recipe of the data where none is named: `wanted`, or that of the data set."""
    from undistill.data.sources import find

    if wanted is not None:
        if options.data is None:
            raise UsageError("which data? Name them with --data, or a recipe with --config")
        return wanted
    return find(options.data or "digits")[0].recipe


def train_recipe(source: Any, changes: list[str], model: str | None, weights: Path | None) -> tuple[Any, Any]:
    """(recipe, network or None): None where the weights are a folder, which says itself what network it holds."""
    from undistill.training.init_weights import network_in
    from undistill.training.recipe import read

    named = model is not None or any(change.startswith(("model.", "model=")) for change in changes)
    recipe = read(
        source, changes if model is None else [f"model.name={json.dumps(model, ensure_ascii=False)}", *changes]
    )
    if weights is None or named:
        return recipe, recipe.model
    if not weights.is_dir():
        raise UsageError(f"{weights} does not say of which network it is; name that with --model")
    return recipe.model_copy(update={"model": network_in(weights)}), None


def recipe_for(
    model: str, options: Options, changes: list[str], name: tuple[str, str | None], *, fallback: str | None
) -> Any:
    """The recipe for work on MODEL: the one named, the one MODEL brings, or `fallback` (None: that of the data)."""
    from undistill.oracle.victim import brings
    from undistill.training.recipe import read

    brought = brings(model)
    source: Any = options.config or brought
    if source is None:
        if options.data is None:
            raise UsageError(
                f"{model} brings no recipe and names no data: give them with --data, or a recipe with --config"
            )
        source = fallback or default_recipe(options)
    if name[1] is not None:
        changes = [f"{name[0]}.name={name[1]}", *changes]
    return read(source, changes)


def must_name_data(options: Options) -> None:
    """UsageError where neither an option nor a recipe says which data to train on."""
    named = any(change.startswith(("data.name=", "data.dir=", "data=")) for change in options.sets or [])
    if options.data is None and options.config is None and not named:
        raise UsageError(
            "which data? Name them with --data (digits, cifar10, a folder of class folders, a hub id), or a recipe with --config"
        )


def must_exist(option: str, path: Path | None) -> None:
    """UsageError for a path that leads nowhere."""
    if path is not None and not path.expanduser().exists():
        raise UsageError(f"{option}: there is nothing at {path}")


def state_of(out: Path, recipe: Any, *, fresh: bool) -> str:
    """What a command would find in its folder, in words; UsageError for a folder with something else or another recipe."""
    from undistill.training.run_folder import begun, check_recipe

    if not begun(out):
        return f"would start in {out}"
    if fresh:
        return f"would discard the run in {out} and start anew"
    check_recipe(out, recipe)
    if is_finished(out, fresh=fresh):
        return f"the run in {out} is finished; --fresh would start anew"
    return f"would go on in {out}"


def warn_of_few(splits: Any, weights: Path | None, say: Callable[[str], None]) -> None:
    """Say before a training from random weights that there are few images for it, and what would help."""
    from undistill.auditing.precision import faster

    images, classes = len(splits.train), splits.num_classes
    if weights is not None or images >= FEW_EACH * classes:
        return
    advice = faster(splits.train.image_size)
    say(
        f"warning: {images:,} training images of {classes:,} classes are few for a network that starts from random weights: "
        f"expect a poor one, or give trained --weights{advice and '; '}{advice}"
    )


def begin_in(out: Path, reporter: Reporter, *needed: str | Path | None, fresh: bool) -> None:
    """Discard what is in the folder, where that is asked for; UsageError where a MODEL or file that is `needed` is in it."""
    ranks.meet()  # what is in the folder has been looked at
    if fresh and ranks.first():
        paths = [path for name in needed if name is not None for path in _paths_in(str(name))]
        if start_anew(out, paths):
            reporter.say(f"discarded what was in {out}")
    ranks.meet()


def _paths_in(name: str) -> list[Path]:
    """What a MODEL names that is there: a folder or file, weights behind an `@`, the file of a callable."""
    parts = (name, name.partition("@")[2], name.rpartition(":")[0])
    return [path for part in parts if part and (path := Path(part).expanduser()).exists()]


def is_finished(out: Path, *, fresh: bool) -> bool:
    """Whether there is nothing left to do in a run folder."""
    return not fresh and (out / "result.json").exists()


def say_finished(out: Path, reporter: Reporter, *, finished: bool) -> None:
    """Say that the result which is printed was there before, if it was."""
    if finished:
        reporter.say(f"{out} was finished already; --fresh starts anew")


def networks_of(*models: str | None) -> list[Any]:
    """The network of each MODEL: None where it is not known before it is made, nothing for a file of outputs."""
    from undistill.training.init_weights import network_in

    found = [
        Path(model).expanduser() for model in models if model is not None and not model.endswith((".parquet", ".csv"))
    ]
    return [network_in(path) if path.is_dir() else None for path in found]


def load_for(
    recipe: Any, networks: Sequence[Any], options: Options, reporter: Reporter, out: Path, *, finished: bool
) -> Any:
    """Load the recipe's data, with progress; choose the threads for these networks (None: unknown) on them."""
    since = Moment.now()
    splits = load(recipe, reporter)
    line = None if finished else use_threads(options, networks, splits, recipe.training.batch, out, since)
    if line is not None:
        reporter.say(line)
    return splits


def use_threads(
    options: Options, networks: Sequence[Any], splits: Any, batch: int, out: Path, since: Moment
) -> str | None:
    """Set the number of CPU threads; a line of what was chosen and why, or None where nothing was.

    A number that the user asked for is used as it is. A run that goes on keeps its number, because another one moves the last
    bits. Otherwise it follows from the largest network (None: unknown), the batch and the cores that other processes leave.
    """
    import torch

    from undistill.training.environment import choose_device, forward_flop

    if options.threads is not None:
        torch.set_num_threads(options.threads)
        return None
    if asked() is not None or choose_device(options.device).type != "cpu":
        return None
    cores, before = usable(), threads_before(out)
    if before is not None and before <= cores:
        count, why = before, "as the run began"
    else:
        each = [None if network is None else forward_flop(network, splits, batch) for network in networks]
        known = [flop for flop in each if flop is not None]
        flop = max(known) if len(known) == len(each) else None
        count, why = choose(flop, cores, others(since))
    torch.set_num_threads(count)
    return f"{count} CPU thread{'s' if count > 1 else ''} ({why}; --threads sets another number)"


def threads_before(out: Path) -> int | None:
    """The threads of an unfinished run in this folder; None where there is none."""
    if (out / "result.json").exists() or not (out / "checkpoint").is_dir():
        return None
    try:
        threads = json.loads((out / "env.json").read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return threads if isinstance(threads, int) and threads > 0 else None


def load(recipe: Any, reporter: Reporter) -> Any:
    """Load the recipe's data, with progress."""
    from undistill.data.load import load

    return load(recipe.data, progress=reporter.count)  # which logs a summary


def keep_victim(run: Any, splits: Any) -> None:
    """Save the finished run's own accuracy beside it as a cell, which reports show next to what attackers got."""
    from undistill.experiments.cell import save
    from undistill.experiments.victim_metrics import victim_cell

    if not ranks.first():
        return
    with ranks.alone():
        cell, arrays = victim_cell(run, splits, "attack")
    if not (run.folder / "cells" / f"{cell.id}.json").exists():
        save(run.folder / "cells", cell, arrays)


def show_recipe(recipe: Any, state: str, *, as_json: bool) -> None:
    """Print what would be done: the resolved settings, and on stderr what the folder holds."""
    import yaml

    values = recipe.dump()
    typer.echo(json.dumps(values, indent=1) if as_json else yaml.safe_dump(values, sort_keys=False).rstrip())
    if not as_json:
        typer.echo(state, err=True)


def show_outlook(
    recipe: Any, network: Any, options: Options, reporter: Reporter, *, threat: Any = None, cached: bool = False
) -> None:
    """Print what the data take on disk and in memory, and how long the training takes, on stderr.

    Args:
        recipe: of the training.
        network: that is trained; None where it is not known, or only a part of it is.
        options: of the command.
        reporter: of progress.
        threat: the threat model, of an attack.
        cached: whether another network's outputs are kept.
    """
    from undistill.data.load import outlook
    from undistill.experiments.cost import speed
    from undistill.oracle.logit_cache import in_bytes
    from undistill.training.environment import choose_device
    from undistill.training.precision import arithmetic

    if options.as_json or not ranks.first():
        return
    if (found := outlook(recipe.data, progress=reporter.count)) is None:
        return
    shape, training = found.shape, recipe.training
    images = max(2, found.parts["train"] if threat is None else _held(found.parts, threat))
    text = f"{sum(found.splits.values()):,} images of {shape.channels} × {shape.stored} × {shape.stored} pixels"
    text += f", {in_bytes(found.decoded)} decoded"
    if found.encoded:
        text += f": above the memory limit, so they stay encoded ({in_bytes(found.files)} in the cache)"
    typer.echo(text, err=True)
    passes = training.epochs * training.passes
    text = f"{images:,} training images, {passes:,} passes"
    if network is not None:
        device = choose_device(options.device)
        record = json.dumps(network.model_dump(mode="json", by_alias=True), sort_keys=True)
        form = (found.classes, shape.channels, found.size)
        pace = speed(record, form, device, precision=arithmetic(training.precision, device))
        text += f": about {duration(passes * pace.training(images, training.batch))} on one thread or GPU"
        if found.encoded:
            text += f", and {duration(passes * images * found.seconds)} of decoding, divided by the other cores"
    typer.echo(text, err=True)
    if cached and (threat is None or threat.questions is None):
        most = (passes if recipe.data.views else 1) * images * (4 * found.classes + 4)
        typer.echo(f"logit cache: up to {in_bytes(most)}; its limit is {in_bytes(options.open_bank().limit)}", err=True)


def _held(parts: dict[str, int], threat: Any) -> int:
    """Images that an attacker trains on."""
    pool = parts["pool" if threat.pool == "fresh" else "train"]
    return min(pool, threat.questions) if threat.questions is not None else round(threat.share * pool)


def show_run(run: Any, *, as_json: bool) -> None:
    """Print what a run reached."""
    if as_json:
        return typer.echo(json.dumps({"folder": str(run.folder), **run.result}, indent=1))
    result = run.result
    before = f" (its teacher {result['teacher_accuracy']:.2f} %)" if "teacher_accuracy" in result else ""
    return typer.echo(f"accuracy {result['accuracy']:.2f} %{before} on {result['n_test']:,} test images; {run.folder}")


def show_report(report: Any, *, as_json: bool, open_page: bool = False) -> None:
    """Print a report's tables, and open its page in a browser where that is asked for."""
    typer.echo(json.dumps(report.values, indent=1) if as_json else report.text)
    if open_page:
        import webbrowser

        address = report.page.resolve().as_uri()
        if not webbrowser.open(address):
            typer.echo(f"no browser could be started; the page is {address}", err=True)


def show_cell(cell: Any, out: Path, *, as_json: bool) -> None:
    """Print what an attacker got."""
    if as_json:
        return typer.echo(json.dumps(cell.values(), indent=1))
    got = "diverged" if cell.accuracy is None else f"{cell.accuracy:.2f} % on {cell.n_test:,} test images"
    own = json.loads((out / "result.json").read_text(encoding="utf-8")).get("victim_accuracy")
    got += "" if own is None else f" (the victim itself {own:.2f} %)"
    return typer.echo(f"{cell.attack} of {cell.victim}, student {cell.student}: {got}, {cell.queries:,} queries; {out}")


def import_data(
    reporter: Reporter,
    source: Path,
    data: str | None,
    data_dir: Path | None,
    size: int | None,
    channels: int | None,
    changes: list[str],
) -> Any:
    """The data of a model that is imported, at the size that it takes; None without --data."""
    from undistill.models.convert import size_of
    from undistill.training.recipe import read

    if data is None:
        if changes or data_dir is not None:
            raise UsageError(f"{changes[0] if changes else '--data-dir'} is about data: name them with --data")
        return None
    options = Options(data=data, data_dir=data_dir, size=size or size_of(source), sets=changes)
    more = [] if channels is None else [f"data.channels={channels}"]
    return load(read(default_recipe(options), [*more, *options.changes()]), reporter)


def show_import(folder: Path, found: tuple[Any, str] | None, *, as_json: bool) -> None:
    """Print what was imported: its normalization and where that is from, and its accuracy (`found`) if it was measured."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network, origin = config["network"], config["origin"]
    if as_json:
        doubts = {} if found is None else {"doubt": found[1]}
        told = {"normalization": origin["normalization"], "accuracy": origin.get("accuracy"), **doubts}
        return typer.echo(json.dumps({"folder": str(folder), "network": network, **told}, indent=1))
    shape = f"{network['in_channels']} × {network['image_size']} × {network['image_size']} pixels"
    typer.echo(f"{network['name']}, {network['num_classes']} classes, {shape}; {folder}")
    mean, std = (", ".join(f"{value:.4g}" for value in network[part]) for part in ("mean", "std"))
    typer.echo(f"normalization: mean {mean}, std {std} ({origin['normalization']})")
    if "class_order" in origin:
        typer.echo("outputs: put in the data's order of classes")
    if found is None:
        return typer.echo("accuracy: not measured; --data names the images to measure it on")
    typer.echo(f"accuracy: {found[0]}")
    return typer.echo(f"warning: {found[1]}") if found[1] else None


def show_catalog(found: dict[str, list[dict[str, Any]]], *, brief: bool, as_json: bool) -> None:
    """Print what there is, in lines of at most `WIDTH` characters: names and words, and unless `brief` formulas and settings."""
    if as_json:
        return typer.echo(json.dumps(found, indent=1))
    for heading, entries in found.items():
        typer.echo(f"{heading}:")
        for entry in entries:
            if brief:
                line = f"  {entry['name']:<18} "
                typer.echo(line + textwrap.shorten(entry["about"], WIDTH - len(line), placeholder=" …"))
                continue
            about = [entry["about"], *([entry["formula"]] if entry.get("formula") else [])]
            settings = ", ".join(f"{name}={value}" for name, value in entry["settings"].items())
            first = f"  {entry['name']:<18} "
            for text in [*about, *([settings] if settings else [])]:
                typer.echo(textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=" " * 23))
                first = " " * 21
    if brief:
        typer.echo("`undistill list attacks` shows the formulas and settings of attacks, and so on.")
    return None


def network(model: str | None, sets: list[str] | None) -> dict[str, Any] | None:
    """A network's name with settings `stem=7x7`, as values."""
    import yaml

    if model is None and sets:
        raise UsageError("--set changes a network: name that with --model")
    values: dict[str, Any] = {"name": model}
    for setting in sets or []:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"a setting of the network is written name=value, not {setting!r}")
        try:
            values[name.removeprefix("model.")] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(f"the value of {name} is no YAML: {text!r}") from None
    return None if model is None else values


def numbers(name: str, text: str | None) -> list[float] | None:
    """`0.49,0.48,0.45` as numbers."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--{name} is a list of numbers such as 0.49,0.48,0.45, not {text!r}") from None


def moments(text: str | None) -> list[float] | str | None:
    """A mean: numbers by comma, or a word that stands for some."""
    return text if text is None or text.strip().isalpha() else numbers("mean", text)


def whole_numbers(name: str, text: str | None) -> list[int] | None:
    """`0,1,10,2` as numbers."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--{name} is a list of whole numbers such as 0,1,10,2, not {text!r}") from None


def lines(path: Path) -> list[str]:
    """The lines of a text file, empty ones left out."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read class names from {path}: {error}") from error
