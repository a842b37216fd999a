"""`undistill evidence`: finished studies as Parquet files with a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from undistill.cli.help import JOB, Verbs, examples
from undistill.cli.options import verb
from undistill.errors import UsageError

FOLDER = Path("evidence")
app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Pack a finished study into one file, check and read such files.",
    epilog=examples("undistill evidence pack runs/audit -o evidence/audit.parquet", "undistill evidence verify"),
)


@verb(app, JOB, "undistill evidence pack runs/audit -o evidence/audit.parquet")
def pack(folder: Path, out: Path | None = None, as_json: bool = False, verbose: bool = False) -> None:
    """Make one Parquet file of a study's plans and cells, and list its cells in MANIFEST.csv beside it."""
    from undistill.experiments import evidence

    file = out or FOLDER / f"{folder.resolve().name}{evidence.SUFFIX}"
    if file.suffix != evidence.SUFFIX:
        raise UsageError(f"evidence is a Parquet file: {file} should end in {evidence.SUFFIX}")
    count = evidence.pack(folder, file)
    size = file.stat().st_size
    said = {"file": str(file), "cells": count, "bytes": size}
    typer.echo(json.dumps(said, indent=1) if as_json else f"{count:,} cells, {size / 1e6:.1f} MB; {file}")


@verb(app, JOB, "undistill evidence unpack evidence/audit.parquet -o runs/audit")
def unpack(file: Path, out: Path, as_json: bool = False, verbose: bool = False) -> None:
    """Write a packed study into a new folder, as it was before: reports are drawn from it, and what is missing is computed."""
    from undistill.experiments import evidence

    count = evidence.unpack(file, out)
    typer.echo(json.dumps({"folder": str(out), "cells": count}, indent=1) if as_json else f"{count:,} cells; {out}")


@verb(app, JOB, "undistill evidence verify", "undistill evidence verify evidence/audit.parquet")
def verify(files: list[Path] | None = None, as_json: bool = False, verbose: bool = False) -> None:
    """Check files against MANIFEST.csv, and accuracies against the predictions beside them."""
    from undistill.experiments import evidence

    counts = {str(file): evidence.verify(file) for file in _files(files)}
    typer.echo(
        json.dumps(counts, indent=1) if as_json else "\n".join(f"{n:6,} cells  {file}" for file, n in counts.items())
    )


@verb(app, JOB, "undistill evidence show 9da2f48527174ed1")
def show(cell: str, files: list[Path] | None = None, as_json: bool = False, verbose: bool = False) -> None:
    """Print one cell, and the command of the study that it belongs to."""
    from undistill.experiments import evidence

    file, row = evidence.find(_files(files), cell)
    values: dict[str, Any] = json.loads(row.values)
    commands = evidence.commands(file, row)
    if as_json:
        return typer.echo(json.dumps({"file": str(file), "commands": commands, "cell": values}, indent=1))
    for name, value in values.items():
        if value not in (None, "", [], {}) and name != "curve":
            typer.echo(f"{name:<16} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    typer.echo(f"{'file':<16} {file}")
    for command in commands:
        typer.echo(f"{'command':<16} {command}")
    return None


def _files(given: list[Path] | None) -> list[Path]:
    """The files, or all of the folder `evidence`; UsageError where there are none."""
    files = [
        file for path in given or [FOLDER] for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])
    ]
    if not files:
        raise UsageError(f"there are no Parquet files in {' or '.join(map(str, given or [FOLDER]))}; name a file")
    return files
