"""`undistill reproduce`: the paper's experiments from the shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from undistill.cli import verbs
from undistill.cli.options import BANK_GB, BankFolder, BankLimit, Json, Quiet, Verbose
from undistill.cli.progress import Reporter
from undistill.reproduction.grid import NAMES


def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help=f"Of {', '.join(NAMES)}, all.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; default runs/reproduction/SCALE.")
    ] = None,
    scale: Annotated[
        str,
        typer.Option("--scale", help="smoke (minutes), small (hours on two cores), small-paper-card, paper (a GPU)."),
    ] = "smoke",
    recipe: Annotated[
        str, typer.Option("--recipe", help="At paper scale: paper, or fast (a fifth of the epochs).")
    ] = "paper",
    seed: Annotated[int, typer.Option("--seed", help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", help="How many; directions are judged from 3 on.")] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CELL", help="Only such cells: 'table1/*/CNN/*'; repeatable."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder with cifar10, cifar100, tiny-imagenet in the hub's format."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes; default one a core, one on CUDA.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    bank: BankFolder = None,
    bank_limit: BankLimit = BANK_GB,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print cells, arithmetic and time, and stop.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Do experiments of the paper and draw their page.

    What is done already is found by its settings: an interrupted command goes on, and experiments share their parts.
    """
    from undistill.reproduction.reproduce import reproduce as call

    fixed: dict[str, Any] = {
        "scale": scale,
        "recipe": "" if recipe == "paper" else recipe,
        "seed": seed,
        "seeds": seeds,
        "only": tuple(only or ()),
    }
    folder = out or Path("runs/reproduction") / (f"{scale}-{recipe}" if recipe != "paper" else scale)
    if dry_run:
        return _dry_run(names, fixed, folder, jobs, device, as_json=as_json)
    from undistill.oracle.bank import Bank
    from undistill.reporting.report import write_report

    kept = Bank.of(bank, bank_limit)
    with Reporter(quiet=quiet) as reporter:
        call(names, out=folder, data_dir=data_dir, jobs=jobs, device=device, bank=kept, say=reporter.say, **fixed)
    return verbs.show_report(write_report([folder], folder / "report"), as_json=as_json)


def _dry_run(
    names: list[str], fixed: dict[str, Any], folder: Path, jobs: int | None, device: str, *, as_json: bool
) -> None:
    from undistill.reproduction.forecast import forecast

    found = forecast(names, folder, jobs=jobs, device=device, **fixed)
    typer.echo(json.dumps(found.values, indent=1) if as_json else found.text)
