"""From a folder of cells to a judgement: numbers, intervals, verdicts, sentences, flags. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from undistill.auditing.card_result import card_result
from undistill.auditing.case import cases
from undistill.auditing.curve import learning
from undistill.auditing.evidence import STALE, Evidence
from undistill.auditing.evidence import read as read_evidence
from undistill.auditing.flags import raised
from undistill.auditing.naming import settings_text, student_text
from undistill.auditing.outlook import outlook
from undistill.auditing.result import AuditResult, Line, VictimResult
from undistill.auditing.verdict import half_width
from undistill.auditing.wording import not_tried
from undistill.errors import UsageError


def analyze(folder: Path) -> AuditResult:
    """The judgement of an audit, from its plan and its cells alone; cells that are not there yet make cards inconclusive.

    Raises:
        UsageError: there is no audit in the folder, or nothing of it is computed.
        RunError: its files are damaged or contradict each other.
    """
    evidence = read_evidence(folder)
    plan, done = evidence.plan, evidence.done
    if not any(planned.role == "served" and planned.key in done for planned in plan.cells):
        raise UsageError(
            f"nothing of {folder} is computed yet: begin with stage 0 (`undistill audit cell {folder} --index 0`)"
        )
    here = cases(evidence)
    points = learning(evidence)
    half = next((half_width(case.contrasts) for case in here if math.isfinite(half_width(case.contrasts))), None)
    method = plan.question == "method"
    computed = {cell.id: cell for cell in done.values() if cell.status != "failed"}
    return AuditResult(
        title=plan.title,
        suite=plan.suite,
        question=plan.question,
        verdicts=plan.verdicts,
        delta=plan.delta,
        resolves=plan.resolves,
        measured_half_width=None if half is None else round(half, 4),
        units=len({s.teacher for s in plan.subjects}) if method else len(plan.seeds),
        victims=tuple(_victims(evidence)),
        threat_models=tuple(card_result(case, points) for case in here),
        learning=points,
        flags=raised(evidence, here),
        not_tried=not_tried(plan),
        lines=tuple(_lines(evidence)),
        provenance=_provenance(evidence),
        commands=tuple(text for text in (plan.command, f"undistill report {folder}") if text),
        planned=len(plan.cells),
        done=sum(p.key in done and done[p.key].status != "failed" for p in plan.cells),
        failed=sum(cell.status == "failed" for cell in done.values()),
        seconds=round(sum(cell.seconds for cell in computed.values()), 3),
        outlook=outlook(evidence),
    )


def _victims(evidence: Evidence) -> Iterator[VictimResult]:
    for planned in evidence.plan.cells:
        cell = evidence.done.get(planned.key)
        if planned.role != "served" or cell is None or cell.accuracy is None:
            continue
        subject, numbers = evidence.plan.subject(planned.victim), cell.numbers
        yield VictimResult(
            name=subject.name,
            side=subject.side,
            label=(subject.label or cell.victim).replace(", the twin", " (control)"),
            network=subject.network or cell.student,
            defense=subject.defense or cell.defense,
            output_defenses=subject.behind,
            access=planned.card.split("/")[0],
            accuracy=cell.accuracy,
            nll=cell.nll,
            ece=cell.ece,
            brier=None if "brier" not in numbers else round(100 * numbers["brier"], 6),
            **{name: numbers.get(name) for name in ("top5", "spread")},
            second={key.removeprefix("second_"): value for key, value in numbers.items() if key.startswith("second_")},
            n_test=cell.n_test,
            cell=cell.id,
        )


def _lines(evidence: Evidence) -> Iterator[Line]:
    for planned in evidence.plan.cells:
        cell = evidence.done.get(planned.key)
        settings = cell.attack_settings if cell else {k: v for k, v in planned.attack.items() if k != "name"}
        yield Line(
            key=planned.key,
            cell=cell.id if cell else "",
            side=planned.side,
            role=planned.role,
            victim=planned.victim,
            attack=(cell.attack if cell else "") or str(planned.attack.get("name", planned.label)),
            settings=settings_text(settings),
            student=student_text(cell.student, cell.student_settings) if cell and cell.student else "",
            threat_model=planned.card,
            seed=planned.seed,
            phase="selection" if planned.role == "search" else "report",
            accuracy=cell.accuracy if cell else None,
            held_out=cell.held_out if cell else None,
            queries=cell.queries if cell else 0,
            seconds=cell.seconds if cell else 0.0,
            status=cell.status if cell else "missing",
            why=cell.why if cell else STALE if planned.key in evidence.stale else "",
            command=f"undistill audit cell {evidence.folder} {planned.key}",
        )


def _provenance(evidence: Evidence) -> dict[str, str]:
    """Versions and machines that the cells name, and the data."""
    found = {}
    for name in ("undistill", "commit", "python", "torch", "device", "processor", "precision"):
        values = sorted({str(cell.env[name]) for cell in evidence.done.values() if name in cell.env})
        if values:
            found[name] = ", ".join(values)
    plan = evidence.plan
    return {**found, "data": plan.data_note or str(plan.data.get("name", "")), "fingerprint": plan.fingerprint}
