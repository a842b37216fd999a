"""What every verb does before and after its call: settings in, a line or JSON out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from undistill.cli.progress import Reporter
from undistill.errors import UsageError


def changes(
    sets: list[str] | None, *, data: str | None, data_dir: Path | None, precision: str | None, seed: int | None
) -> list[str]:
    """What the options change in a recipe, as settings; `sets`, said last, win."""
    changes = [] if data is None else [f"data.name={data}"]
    changes += [] if precision is None else [f"training.precision={precision}"]
    changes += [] if seed is None else [f"seed={seed}"]
    changes += [] if data_dir is None else [f"data.dir={json.dumps(str(data_dir.expanduser().resolve()))}"]
    return changes + (sets or [])


def default_recipe(data: str | None) -> str:
    """The recipe of a data set where none is named."""
    from undistill.data.sources import SOURCES

    return SOURCES.make(data or "digits").recipe


def victim_and_recipe(
    model: Path, config: str | None, changes: list[str], *, name: tuple[str, str | None]
) -> tuple[Any, Any]:
    """MODEL, and the recipe it brings (or the one named) with the changes made."""
    from undistill.training.recipe import read
    from undistill.oracle.victim import resolve

    victim = resolve(model)
    source: Any = config or victim.recipe
    if source is None:
        raise UsageError(f"{model} is no run folder and brings no recipe; name one with --config")
    if name[1] is not None:
        changes = [f"{name[0]}.name={name[1]}", *changes]
    return victim, read(source, changes)


def use_threads(threads: int | None) -> None:
    """Limit CPU threads, if asked to."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


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
