"""`undistill.audit`: plan an audit, compute its cells, judge them and draw the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from undistill.reporting.report import write_report
from undistill.reporting.written import Report

if TYPE_CHECKING:
    from undistill.data import Splits
    from undistill.experiments.runtime import Runtime
    from undistill.oracle.victim import Model


def audit(
    model: Model | None,
    data: Splits | None = None,
    *,
    out: str | Path,
    runtime: Runtime | None = None,
    **settings: Any,
) -> Report:
    """What an attacker gets from a model. What was computed before is found in `out` and not computed again.

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
    from undistill.auditing.audit import prepare, run
    from undistill.auditing.config import AuditConfig
    from undistill.experiments.runtime import runtime_of

    runtime, settings = runtime_of(runtime, settings)
    run(prepare(model, data, AuditConfig.of(**settings), out=out, runtime=runtime))
    return write_report([Path(out)], Path(out) / "report")
