"""From a folder of cells to an audit's result: numbers, intervals, verdicts, sentences, flags. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from undistill.auditing import text
from undistill.auditing.case import Case, attack_of, cases, of
from undistill.auditing.evidence import SOFT, STALE, Arm, Evidence
from undistill.auditing.evidence import read as read_evidence
from undistill.auditing.flags import raised, temperatures
from undistill.auditing.precision import outlook
from undistill.auditing.result import (
    AttackResult,
    AuditResult,
    Contrast,
    Decides,
    Estimate,
    Line,
    Point,
    ThreatModelResult,
    Verdict,
    VictimResult,
)
from undistill.errors import UsageError
from undistill.experiments.ranking import signature
from undistill.statistics import Difference, rising


def analyze(folder: Path) -> AuditResult:
    """The result of an audit, from its plan and its cells alone; missing cells make threat models inconclusive.

    Raises:
        UsageError: there is no audit in the folder, or nothing of it is computed.
        RunError: its files are damaged or contradict each other.
    """
    evidence = read_evidence(folder)
    plan, done = evidence.plan, evidence.done
    if not any(planned.role == "served" and planned.key in done for planned in plan.cells):
        raise UsageError(f"nothing of {folder} is computed yet: `undistill run {folder}` does it")
    here = cases(evidence)
    points = learning(evidence)
    half = next((case.contrasts.half_width for case in here if math.isfinite(case.contrasts.half_width)), None)
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
        threat_models=tuple(_threat_model(case, points) for case in here),
        learning=points,
        flags=raised(evidence, here),
        not_tried=text.not_tried(plan),
        lines=tuple(_lines(evidence)),
        provenance=_provenance(evidence),
        commands=tuple(command for command in (plan.command, f"undistill report {folder}") if command),
        planned=len(plan.cells),
        done=sum(p.key in done and done[p.key].status != "failed" for p in plan.cells),
        failed=sum(cell.status == "failed" for cell in done.values()),
        seconds=round(sum(cell.seconds for cell in computed.values()), 3),
        outlook=outlook(evidence),
    )


# -- one threat model ------------------------------------------------------------------------------------------------


def _threat_model(case: Case, points: tuple[Point, ...]) -> ThreatModelResult:
    """Everything about one threat model."""
    plan, names = case.evidence.plan, text.unique_names(case.arms)
    best, undefended = case.best_found, case.best_undefended
    got = estimate(best)
    room, reduction = case.contrasts.headroom, case.contrasts.reduction
    size, beyond = label_equivalents(got.mean, points) if got else (None, False)
    images = max((cell.images for arm in case.arms for cell in arm.cells), default=case.threat_model.questions or 0)
    known = room.lower > plan.delta and math.isfinite(reduction.mean)
    found = ThreatModelResult(
        id=case.id,
        threat_model=case.text,
        access=case.threat_model.serving,
        queries=case.threat_model.questions,
        images=images,
        labelled=case.labelled,
        title=text.title(case.threat_model, images),
        sentence="",
        attacks=tuple(_attack(case, arm, names[arm]) for arm in case.arms),
        best=None if best is None else names[best],
        best_undefended=None if undefended is None else names[undefended],
        A_def=estimate(case.best("defended", *SOFT, "labels")),
        A_soft=estimate(case.best("defended", *SOFT, *(["labels"] if case.comparison.labels_only else []))),
        A_label=estimate(case.best("defended", "labels")),
        A_ref=estimate(case.best("alone", "alone")),
        A_soft0=estimate(case.best("undefended", *SOFT)),
        A_label0=estimate(case.best("undefended", "labels")),
        relative_accuracy=_relative(case, "defended", best),
        relative_accuracy_undefended=_relative(case, "undefended", undefended),
        label_equivalents=size,
        label_equivalents_beyond=beyond,
        headroom=_contrast(case, "headroom"),
        reduction=_contrast(case, "reduction"),
        reduction_share=round(100 * max(reduction.mean, 0.0) / room.mean, 2) if known else None,
        contrasts=tuple(_contrasts(case)),
        verdict=cast("Verdict | None", case.verdict) if plan.verdicts else None,
        indication=None if plan.verdicts else cast("Verdict | None", case.verdict),
        why=text.why(case),
        search=_search(case),
        tried=_tried(case),
        decides=_decides(case, names),
    )
    sentence = text.sentence(case, found, best=got, undefended=estimate(undefended))
    return found.model_copy(update={"sentence": sentence})


def _attack(case: Case, arm: Arm, name: str) -> AttackResult:
    places = case.comparison
    chosen = (places.soft.chosen, places.labels.chosen, places.soft0.chosen, places.baseline.chosen)
    first, floor = arm.cells[0] if arm.cells else None, places.labels.chosen
    return AttackResult(
        name=name,
        attack=attack_of(arm),
        settings=first.attack_settings if first else {},
        side=cast("Any", arm.side),
        role=arm.role,
        reads=arm.reads,
        accuracy=estimate(arm),
        gain=None if floor is None or arm is floor else record(case.compare(arm, floor)),
        each=tuple(round(value, 4) for value in arm.by_unit().values()),
        held_out=round(arm.score, 4) if arm.score is not None and math.isfinite(arm.score) else None,
        chosen=any(arm is one for one in chosen),
        fidelity=None if arm.fidelity is None else round(arm.fidelity, 2),
        lost=arm.lost + arm.absent,
        queries=first.queries if first else 0,
        cells=arm.ids,
    )


def estimate(arm: Arm | None) -> Estimate | None:
    """An arm's accuracy with its interval, cut to what an accuracy can be; None without any accuracy."""
    result = None if arm is None else arm.result()
    whole = None if result is None else record(result)
    if whole is None:
        return None
    ends = {name: getattr(whole, name) for name in ("low", "lower", "upper", "high")}
    return whole.model_copy(update={name: min(max(end, 0.0), 100.0) for name, end in ends.items() if end is not None})


def record(difference: Difference, *, least: float = -math.inf) -> Estimate | None:
    """A difference as results keep it: rounded, None for infinite bounds, its mean at least `least`; None where it is unknown."""
    if math.isnan(difference.mean):
        return None

    def end(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    return Estimate(
        mean=round(max(difference.mean, least), 4),
        n=difference.n,
        low=end(difference.low),
        high=end(difference.high),
        lower=end(difference.lower),
        upper=end(difference.upper),
    )


def _relative(case: Case, side: str, best: Arm | None) -> float | None:
    served = case.evidence.accuracy(side, case.threat_model.serving)
    return None if best is None or not served else round(100 * best.mean / served, 4)


def _contrast(case: Case, name: str) -> Estimate | None:
    """A contrast of a threat model with a control. A reduction is never reported below 0."""
    least = 0.0 if name == "reduction" else -math.inf
    return None if case.label_only else record(getattr(case.contrasts, name), least=least)


def _contrasts(case: Case) -> Iterator[Contrast]:
    for name, (formula, about) in text.CONTRASTS.items():
        found = _contrast(case, name)
        if found is not None:
            yield Contrast(name=formula, about=about, estimate=found)


def _search(case: Case) -> dict[str, tuple[Point, ...]]:
    responses = {side: temperatures(case.searched(side)) for side in ("defended", "undefended")}
    return {
        side: tuple(Point(x=tau, y=round(score, 4), name="kd") for tau, score in response.items())
        for side, response in responses.items()
        if response
    }


def _decides(case: Case, names: Mapping[Arm, str]) -> Decides | None:
    """What hangs on the best attack on the audited model; None where no other one was reported."""
    known = sorted((arm for arm in of(case.arms, "defended", *SOFT, "labels") if arm.runs), key=lambda arm: -arm.mean)
    second = next((arm for arm in known if attack_of(arm) != attack_of(known[0])), None)
    if second is None:
        return None
    best, rest = known[0], replace(case, without=frozenset({attack_of(known[0])}))
    return Decides(
        attack=attack_of(best),
        best=names[best],
        runner_up=names[second],
        ahead=record(case.compare(best, second)),
        without=cast("Verdict | None", rest.verdict),
    )


def _tried(case: Case) -> int:
    """Different attacks on the defended model, search included."""
    report = {signature(cell) for arm in case.arms if arm.side == "defended" for cell in arm.cells[:1]}
    done = case.evidence.done
    searched = {signature(done[p.key]) for p in case.evidence.search(case.text, "defended") if p.key in done}
    return len(report | searched)


# -- the learning curve of baselines ---------------------------------------------------------------------------------


def learning(evidence: Evidence) -> tuple[Point, ...]:
    """Accuracy of a baseline by its number of labeled images, the best of those that share a number.

    Only of the network that the plan's first baseline has.
    """
    arms = [arm for arm in evidence.group(p for p in evidence.plan.cells if p.role in ("alone", "curve")) if arm.runs]
    best: dict[int, Arm] = {}
    for arm in arms:
        images = arm.cells[0].images
        if arm.planned[0].student == arms[0].planned[0].student and images > 0:
            best[images] = max(best.get(images, arm), arm, key=lambda one: one.mean)
    points = [(images, estimate(arm)) for images, arm in sorted(best.items())]
    return tuple(Point(x=images, y=e.mean, low=e.low, high=e.high) for images, e in points if e is not None)


def label_equivalents(accuracy: float, points: Sequence[Point]) -> tuple[float | None, bool]:
    """(labeled images that a baseline needs for this accuracy, whether it needs more than were tried).

    The curve is made to rise (isotonic regression), and read between its points as linear in the logarithm of the number of images.
    Above the last point: the last number, True. Below the first, or without two points: None, as fewer images were not tried.
    """
    if len(points) < 2:
        return None, False
    heights, numbers = rising([point.y for point in points]), [point.x for point in points]
    if accuracy > heights[-1]:
        return numbers[-1], True
    if accuracy < heights[0]:
        return None, False
    place = next(i for i, height in enumerate(heights) if height >= accuracy)
    if place == 0:
        return numbers[0], False
    share = (accuracy - heights[place - 1]) / (heights[place] - heights[place - 1])
    low, high = math.log(numbers[place - 1]), math.log(numbers[place])
    return round(math.exp(low + share * (high - low)), 1), False


# -- victims, cells, provenance --------------------------------------------------------------------------------------


def _victims(evidence: Evidence) -> Iterator[VictimResult]:
    for planned in evidence.plan.cells:
        cell = evidence.done.get(planned.key)
        if planned.role != "served" or cell is None or cell.accuracy is None:
            continue
        subject, numbers = evidence.plan.subject(planned.victim), cell.numbers
        yield VictimResult(
            name=subject.name,
            side=subject.side,
            label=(subject.label or cell.victim)
            .replace(", the twin", " (control)")
            .replace(", the control", " (control)"),
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
            settings=text.settings_text(settings),
            student=text.student_text(cell.student, cell.student_settings) if cell and cell.student else "",
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
    names = ("undistill", "commit", "python", "torch", "device", "processor", "precision")
    found = {
        name: sorted({str(cell.env[name]) for cell in evidence.done.values() if name in cell.env}) for name in names
    }
    plan = evidence.plan
    return {
        **{name: ", ".join(values) for name, values in found.items() if values},
        "data": plan.data_note or str(plan.data.get("name", "")),
        "fingerprint": plan.fingerprint,
    }
