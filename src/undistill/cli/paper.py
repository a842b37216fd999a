"""`undistill reproduce`: the paper's experiments from the shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from undistill.cli import verbs
from undistill.cli.options import BANK_GB, executor_that_works, local_copy
from undistill.cli.progress import Reporter
from undistill.errors import UsageError


def reproduce(
    names: list[str],
    out: Path | None = None,
    scale: str = "smoke",
    seeds: int = 1,
    seed: int = 0,
    only: list[str] | None = None,
    recipe: str = "paper",
    plan_only: bool = False,
    fresh: bool = False,
    dry_run: bool = False,
    on: str | None = None,
    data_dir: Path | None = None,
    jobs: int | None = None,
    executor: str = "local",
    progress: str = "line",
    device: str = "auto",
    cache: Path | None = None,
    cache_limit: float = BANK_GB,
    open_page: bool = False,
    resume: bool = False,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
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
    if on is not None and not dry_run:
        raise UsageError("--on says how long another machine would take; it goes with --dry-run")
    if dry_run:
        return _dry_run(names, fixed | {"on": on}, folder, jobs, device, as_json=as_json)
    from undistill.experiments.runtime import Runtime
    from undistill.oracle.logit_cache import LogitCache
    from undistill.reporting.report import write_report

    kept, place = LogitCache.of(cache, cache_limit), executor_that_works(executor)
    with Reporter(quiet=quiet, progress=progress) as reporter:
        verbs.begin_in(folder, reporter, fresh=fresh)
        runtime = Runtime(device, kept, jobs, place, log=reporter.say)
        call(names, out=folder, data_dir=data_dir, runtime=runtime, plan_only=plan_only, **fixed)
    if plan_only:
        return typer.echo(f"planned; undistill run {folder} computes it")
    return verbs.show_report(write_report([folder], folder / "report"), as_json=as_json, open_page=open_page)


def _dry_run(
    names: list[str], fixed: dict[str, Any], folder: Path, jobs: int | None, device: str, *, as_json: bool
) -> None:
    from undistill.paper.forecast import forecast

    found = forecast(names, folder, jobs=jobs, device=device, **fixed)
    typer.echo(json.dumps(found.values, indent=1) if as_json else found.text)
