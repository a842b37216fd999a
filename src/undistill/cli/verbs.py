"""What every verb does before and after its call: settings in, a line or JSON out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from undistill.cli.options import Options
from undistill.cli.progress import Reporter
from undistill.errors import UsageError


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
    from undistill.training.recipe import read
    from undistill.training.weights import network_in

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

    source: Any = options.config or brings(model)
    if source is None:
        if options.data is None:
            raise UsageError(
                f"{model} brings no recipe and names no data: give them with --data, or a recipe with --config"
            )
        source = fallback or default_recipe(options)
    if name[1] is not None:
        changes = [f"{name[0]}.name={name[1]}", *changes]
    return read(source, changes)


def load(recipe: Any, reporter: Reporter) -> Any:
    """Load the recipe's data, with progress."""
    from undistill.data.load import load

    splits = load(recipe.data, progress=reporter.count)
    reporter.say(splits.summary())
    return splits


def keep_victim(run: Any, splits: Any) -> None:
    """Put the finished run's own accuracy beside it as a cell, for reports to show next to what thieves got."""
    from undistill.auditing.cell import save
    from undistill.auditing.describe import victim_cell

    cell, arrays = victim_cell(run, splits, "attack")
    if not (run.folder / "cells" / f"{cell.id}.json").exists():
        save(run.folder / "cells", cell, arrays)


def show_recipe(recipe: Any, *, as_json: bool) -> None:
    """Print resolved settings."""
    import yaml

    values = recipe.dump()
    typer.echo(json.dumps(values, indent=1) if as_json else yaml.safe_dump(values, sort_keys=False).rstrip())


def show_run(run: Any, *, as_json: bool) -> None:
    """Print what a run reached."""
    if as_json:
        return typer.echo(json.dumps({"folder": str(run.folder), **run.result}, indent=1))
    result = run.result
    before = f" (its teacher {result['teacher_accuracy']:.2f} %)" if "teacher_accuracy" in result else ""
    return typer.echo(f"accuracy {result['accuracy']:.2f} %{before} on {result['n_test']:,} test images; {run.folder}")


def show_report(report: Any, *, as_json: bool) -> None:
    """Print a report's tables."""
    typer.echo(json.dumps(report.values, indent=1) if as_json else report.text)


def show_cell(cell: Any, out: Path, *, as_json: bool) -> None:
    """Print what a thief got."""
    if as_json:
        return typer.echo(json.dumps(cell.values(), indent=1))
    got = "diverged" if cell.accuracy is None else f"{cell.accuracy:.2f} % on {cell.n_test:,} test images"
    own = json.loads((out / "result.json").read_text()).get("victim_accuracy")
    got += "" if own is None else f" (the victim itself {own:.2f} %)"
    return typer.echo(
        f"{cell.attack} of {cell.victim}, student {cell.student}: {got}, {cell.queries:,} questions asked; {out}"
    )


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
    from undistill.models.importing import size_of
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
    config = json.loads((folder / "config.json").read_text())
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


def show_catalog(found: dict[str, list[dict[str, Any]]], *, as_json: bool) -> None:
    """Print what there is."""
    if as_json:
        return typer.echo(json.dumps(found, indent=1))
    for heading, entries in found.items():
        typer.echo(f"{heading}:")
        for entry in entries:
            typer.echo(f"  {entry['name']:<18} {entry['about']}")
            if entry["settings"]:
                typer.echo(f"  {'':<18} {', '.join(f'{k}={v}' for k, v in entry['settings'].items())}")
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
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read class names from {path}: {error}") from error
