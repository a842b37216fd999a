"""What a judgement says of one card: attacks, levels, contrasts, verdict and sentence. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

from undistill.auditing.arms import SOFT, Arm
from undistill.auditing.case import Case
from undistill.auditing.comparing import estimate, record
from undistill.auditing.curve import label_equivalents
from undistill.auditing.flags_search import temperatures
from undistill.auditing.naming import title, unique_names
from undistill.auditing.result import AttackResult, Contrast, Estimate, Point, ThreatModelResult, Verdict
from undistill.auditing.wording import sentence
from undistill.experiments.ranking import signature
from undistill.threat_model import Access

ABOUT = {
    "headroom": ("A_soft0 − floor", "what soft outputs of the undefended control are worth over labels alone"),
    "gap": ("A_soft − floor", "what soft outputs of the defended model are still worth over labels alone"),
    "took": ("A_soft0 − max(A_def, floor)", "what the defense took from the best attack found"),
    "over_alone": ("A_def − A_ref", "what the defended model is worth to an attacker that holds labels"),
    "twin_over_alone": ("A_soft0 − A_ref", "what the undefended control is worth to an attacker that holds labels"),
}
"""The contrasts by their formula, and what they are about."""


def card_result(case: Case, points: tuple[Point, ...]) -> ThreatModelResult:
    """Everything about one card."""
    plan, card = case.evidence.plan, case.card
    verdict, why = case.judged
    names = unique_names(case.arms)
    best, twin = case.best_found, case.best("undefended", *SOFT, "labels")
    best_estimate = None if best is None else estimate(best)
    room = case.contrasts.headroom
    took, sure = case.contrasts.took, room.lower > plan.delta
    equivalents = (None, False) if best_estimate is None else label_equivalents(best_estimate.mean, points)
    images = max((cell.images for arm in case.arms for cell in arm.cells), default=card.questions or 0)
    tried = _tried(case)
    levels = {
        "A_def": _level(case, "defended", *SOFT, "labels"),
        "A_soft": _level(case, "defended", *SOFT, *(["labels"] if case.sides.closed else [])),
        "A_label": _level(case, "defended", "labels"),
        "A_soft0": _level(case, "undefended", *SOFT),
        "A_label0": _level(case, "undefended", "labels"),
        "A_ref": _level(case, "alone", "alone"),
    }
    judged: dict[str, Any] = {"verdict" if plan.verdicts else "indication": cast("Verdict | None", verdict)}
    return ThreatModelResult(
        id=case.id,
        threat_model=case.text,
        access=card.serving,
        queries=card.questions,
        images=images,
        labelled=case.labelled,
        title=title(card, images),
        sentence=sentence(
            case,
            tried=tried,
            images=images,
            best=best_estimate,
            twin=None if twin is None else estimate(twin),
            labels=levels["A_label"],
            equivalents=equivalents,
        ),
        attacks=tuple(_thief(case, arm, names[arm]) for arm in case.arms),
        best=None if best is None else names[best],
        best_undefended=None if twin is None else names[twin],
        relative_accuracy=_share(case, "defended", best),
        relative_accuracy_undefended=_share(case, "undefended", twin),
        label_equivalents=equivalents[0],
        label_equivalents_beyond=equivalents[1],
        headroom=_record(case, "headroom"),
        reduction=_record(case, "took"),
        reduction_share=round(100 * max(took.mean, 0.0) / room.mean, 2) if sure and math.isfinite(took.mean) else None,
        contrasts=tuple(_contrasts(case)),
        why=why,
        search=_search(case),
        tried=tried,
        **levels,
        **judged,
    )


def _level(case: Case, side: str, *roles: str) -> Estimate | None:
    best = case.best(side, *roles)
    return None if best is None else estimate(best)


def _share(case: Case, side: str, best: Arm | None) -> float | None:
    served = case.evidence.accuracy(side, case.card.serving)
    return None if best is None or not served else round(100 * best.mean / served, 4)


def _record(case: Case, name: str) -> Estimate | None:
    """A contrast of a threat model with a control; what a defense took is never below nothing in print."""
    difference = getattr(case.contrasts, name)
    if math.isnan(difference.mean) or case.card.access is Access.LABEL:
        return None
    return record(difference, least=0.0 if name == "took" else -math.inf)


def _contrasts(case: Case) -> Iterator[Contrast]:
    for name, (formula, about) in ABOUT.items():
        found = _record(case, name)
        if found is not None:
            yield Contrast(name=formula, about=about, estimate=found)


def _thief(case: Case, arm: Arm, name: str) -> AttackResult:
    places = case.sides
    chosen = (places.soft.chosen, places.labels.chosen, places.soft0.chosen, places.alone.chosen)
    first = arm.cells[0] if arm.cells else None
    return AttackResult(
        name=name,
        attack=first.attack if first else arm.planned[0].attack.get("name", arm.label),
        settings=first.attack_settings if first else {},
        side=cast("Any", arm.side),
        role=arm.role,
        reads=arm.reads,
        accuracy=estimate(arm),
        gain=_gain(case, arm),
        each=tuple(round(value, 4) for value in arm.by_unit().values()),
        held_out=round(arm.score, 4) if arm.score is not None and math.isfinite(arm.score) else None,
        chosen=any(arm is one for one in chosen),
        lost=arm.lost + arm.absent,
        queries=first.queries if first else 0,
        cells=tuple(cell.id for cell in arm.cells),
    )


def _gain(case: Case, arm: Arm) -> Estimate | None:
    """Points above the label-only attack on the audited model that the search ranked first."""
    floor = case.sides.labels.chosen
    if floor is None or arm is floor:
        return None
    found = case.compare(arm, floor)
    return None if math.isnan(found.mean) else record(found)


def _search(case: Case) -> dict[str, tuple[Point, ...]]:
    found = {}
    for side in ("defended", "undefended"):
        response = temperatures(case.searched(side))
        if response:
            found[side] = tuple(Point(x=tau, y=round(score, 4), name="kd") for tau, score in response.items())
    return found


def _tried(case: Case) -> int:
    """Different attacks of the defended model, search included."""
    report = {signature(cell) for arm in case.arms if arm.side == "defended" for cell in arm.cells[:1]}
    done = case.evidence.done
    searched = {signature(done[p.key]) for p in case.evidence.search(case.text, "defended") if p.key in done}
    return len(report | searched)
