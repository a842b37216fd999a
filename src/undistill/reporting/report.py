"""Folders of cells → a page, a Markdown file and a JSON file; `undistill.audit`, which computes them first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undistill.auditing.analyze import analyze
from undistill.errors import UsageError
from undistill.experiments.plan import FILE as AUDIT
from undistill.paper.demo_result import is_demo
from undistill.paper.plan import FILE
from undistill.reporting.attack import write_attacks
from undistill.reporting.audit.page import write_audit
from undistill.reporting.demo import write_demo
from undistill.reporting.export import Report
from undistill.reporting.paper.page import write_reproduction

if TYPE_CHECKING:
    from undistill.data import Splits
    from undistill.experiments.runtime import Runtime
    from undistill.oracle.victim import Model

__all__ = ["Report", "audit", "write_report"]


def write_report(folders: Sequence[Path], out: Path) -> Report:
    """Draw all cells below `folders` into `out/index.html`, `report.md` and `report.json`; the same cells give the same bytes.

    Folders of reproductions become the page of the paper's tables and figures, the folder of an audit its own page.

    Raises:
        UsageError: a folder does not exist, none holds a cell, or reproductions and other folders are mixed.
        RunError: a damaged cell, or `out` cannot be written.
    """
    audits = [folder for folder in folders if (folder / AUDIT).is_file()]
    if audits:
        if len(folders) > 1:
            raise UsageError(
                f"{audits[0]} holds an audit, which has a page of its own; `undistill compare` sets several side by side"
            )
        return write_audit(analyze(audits[0]), out)
    plans = [folder for folder in folders if (folder / FILE).is_file()]
    if plans:
        others = [str(folder) for folder in folders if folder not in plans]
        if others:
            raise UsageError(
                f"{plans[0]} holds a reproduction and {others[0]} does not; draw them into two reports, one of each kind"
            )
        return write_reproduction(folders, out)
    if len(folders) == 1 and is_demo(folders[0]):
        return write_demo(folders[0], out)
    return write_attacks(folders, out)


def audit(
    model: Model | None,
    data: Splits | None = None,
    *,
    out: str | Path,
    runtime: Runtime | None = None,
    **settings: Any,
) -> Report:
    """Plan an audit, compute its cells, judge them and draw the page. What is in `out` already is not computed again.

    Args:
        model: as `attack` takes it; None with `method`.
        data: the victim's; None to load what its recipe names. A model that no path leads to needs them.
        out: folder of the audit.
        runtime: device, logit cache, processes, log. One process where the model or the data are given as objects.
        settings: fields of `auditing.config.AuditConfig` (control, suite, time, access, queries, students, …), and of `Runtime`
            (device, cache, jobs, log).

    Returns:
        The report in `out/report`: `text` for a terminal, `values`, and the `page`.

    Raises:
        UsageError: models, data or settings that do not fit, a control that is none, a folder that holds another audit.
        TypeError: an argument of another name.
    """
    from undistill.auditing.audit import prepare_in_time, run
    from undistill.auditing.config import AuditConfig
    from undistill.experiments.runtime import runtime_of

    runtime, settings = runtime_of(runtime, settings)
    run(prepare_in_time(model, data, AuditConfig.of(**settings), out=out, runtime=runtime))
    return write_report([Path(out)], Path(out) / "report")
