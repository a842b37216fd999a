"""`undistill run`: compute what is missing of the plan in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from undistill.cli.options import BANK_GB, executor_that_works, local_copy, use_plugins
from undistill.cli.progress import Reporter
from undistill.errors import RunError, UsageError

AUDIT, REPRODUCTION, DEMO = "audit.json", "reproduction.json", "demo.json"


def run(
    folder: Path,
    key: str | None = None,
    index: int | None = None,
    cells: Path | None = None,
    data_dir: Path | None = None,
    jobs: int | None = None,
    executor: str = "local",
    progress: str = "line",
    device: str = "auto",
    threads: int | None = 1,
    cache: Path | None = None,
    cache_limit: float = BANK_GB,
    plugin: list[Path] | None = None,
    trust: list[str] | None = None,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Compute what is missing of the plan in DIR: an audit, a reproduction or a demo.

    With KEY or --index, one cell of an audit. Finished cells are skipped; `undistill report DIR` draws the page.
    """
    from undistill import plugins
    from undistill.experiments.runtime import Runtime
    from undistill.oracle.logit_cache import LogitCache

    use_plugins(plugin)
    for name in trust or []:
        plugins.trust(name)
    local_copy(None, data_dir)
    kind = next((name for name in (AUDIT, REPRODUCTION, DEMO) if (folder / name).is_file()), None)
    if kind is None:
        raise UsageError(
            f"{folder} holds no plan; `undistill audit plan`, `undistill reproduce --plan` and `undistill demo --plan` write one"
        )
    if kind != AUDIT and (key is not None or index is not None):
        raise UsageError("single cells can be computed of an audit only; leave out KEY and --index")
    with Reporter(quiet=quiet, progress=progress) as reporter:
        kept, say = LogitCache.of(cache, cache_limit), None if kind == AUDIT else reporter.say
        runtime = Runtime(device, kept, jobs, executor_that_works(executor), log=say)
        if key is not None or index is not None:
            line = _cell(folder, key, index, cells, runtime, threads)
        else:
            line = _all(folder, kind, cells, data_dir, runtime, reporter)
    typer.echo(line)
    if line.endswith(": failed"):
        raise RunError("the cell failed; its file says why")


def _all(folder: Path, kind: str, cells: Path | None, data_dir: Path | None, runtime: Any, reporter: Reporter) -> str:
    """Everything that is missing; what to do next."""
    if kind == AUDIT:
        from undistill.auditing.audit import resume as audit

        audit(folder, cells=cells, runtime=runtime, failed=reporter.say)
    elif kind == REPRODUCTION:
        from undistill.paper.reproduce import resume as reproduce

        reproduce(folder, data_dir=data_dir, runtime=runtime)
    else:
        from undistill.paper.demo import read_demo, run_demo

        run_demo(folder, read_demo(folder), resume=True, runtime=runtime)
    return f"finished; undistill report {folder} draws the page"


def _cell(
    folder: Path, key: str | None, index: int | None, cells: Path | None, runtime: Any, threads: int | None
) -> str:
    """One cell of an audit; a line about it."""
    import torch

    from undistill.auditing.compute import AuditFolder, compute
    from undistill.experiments import plan as planned

    found = planned.read(folder)
    if (key is None) == (index is None):
        raise UsageError("name a cell by its KEY or by --index, one of the two")
    if index is not None:
        if index >= len(found.cells):
            raise UsageError(f"the plan has {len(found.cells)} cells, the last is --index {len(found.cells) - 1}")
        key = found.cells[index].key
    torch.set_num_threads(threads or 1)
    return compute(AuditFolder(folder, cells, runtime), str(key))
