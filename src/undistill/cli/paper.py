"""`undistill reproduce`: the paper's experiments from the shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from undistill.cli import verbs
from undistill.cli.help import DATA, JOB
from undistill.cli.options import (
    BANK_GB,
    BankFolder,
    BankLimit,
    Device,
    DryRun,
    Fresh,
    Jobs,
    Json,
    Open,
    Quiet,
    Resume,
    Verbose,
    local_copy,
)
from undistill.cli.progress import Reporter
from undistill.paper.experiments import NAMES


def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help=f"Of {', '.join(NAMES)}, all.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder to write to.  [default: runs/reproduction/SCALE]",
            rich_help_panel=JOB,
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            "--scale",
            metavar="NAME",
            help="smoke (minutes), small (hours), laptop (a night), laptop-resnet18, small-paper-card or paper (a GPU).",
            rich_help_panel=JOB,
        ),
    ] = "smoke",
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", metavar="N", help="How many seeds; directions are judged from 3 on.", rich_help_panel=JOB
        ),
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The first seed.", rich_help_panel=JOB)] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="CELL",
            help="Only the cells that match, as in 'table1/*/CNN/*'; repeatable.",
            rich_help_panel=JOB,
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="At paper scale: paper, or fast (a fifth of the epochs).",
            rich_help_panel=JOB,
        ),
    ] = "paper",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            help="Local copies to read instead of downloads: a data set's folder, or the folder above it.",
            rich_help_panel=DATA,
        ),
    ] = None,
    jobs: Jobs = None,
    device: Device = "auto",
    bank: BankFolder = None,
    bank_limit: BankLimit = BANK_GB,
    open_page: Open = False,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run experiments of the paper and draw their page.

    Finished cells are skipped: the same command goes on where it was interrupted, and experiments share their parts.
    """
    from undistill.paper.reproduce import reproduce as call

    fixed: dict[str, Any] = {
        "scale": scale,
        "recipe": "" if recipe == "paper" else recipe,
        "seed": seed,
        "seeds": seeds,
        "only": tuple(only or ()),
    }
    folder = out or Path("runs/reproduction") / (f"{scale}-{recipe}" if recipe != "paper" else scale)
    local_copy(None, data_dir)
    if dry_run:
        return _dry_run(names, fixed, folder, jobs, device, as_json=as_json)
    from undistill.oracle.logit_cache import Bank
    from undistill.reporting.report import write_report

    kept = Bank.of(bank, bank_limit)
    with Reporter(quiet=quiet) as reporter:
        verbs.begin_in(folder, reporter, fresh=fresh)
        call(names, out=folder, data_dir=data_dir, jobs=jobs, device=device, bank=kept, say=reporter.say, **fixed)
    return verbs.show_report(write_report([folder], folder / "report"), as_json=as_json, open_page=open_page)


def _dry_run(
    names: list[str], fixed: dict[str, Any], folder: Path, jobs: int | None, device: str, *, as_json: bool
) -> None:
    from undistill.paper.forecast import forecast

    found = forecast(names, folder, jobs=jobs, device=device, **fixed)
    typer.echo(json.dumps(found.values, indent=1) if as_json else found.text)
