"""Flags that a threat model's reported attacks raise. Each function gives (what was seen, cells) pairs, none for no doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean

from undistill.auditing.arms import SOFT, Arm
from undistill.auditing.case import Case
from undistill.auditing.comparing import of
from undistill.auditing.naming import name_of

Seen = Iterator[tuple[str, tuple[str, ...]]]
Doubt = Callable[[Case], Seen]
DOUBTS: dict[str, tuple[str, Doubt]] = {}
CHANCE = 1.5
"""A student is near chance below this many times the accuracy of guessing."""
REFIT = 1.0
"""Points within which a refitted head is as good as the best undefended one."""
ENOUGH = 5
"""Seeds or teachers below which intervals are wide and their level is uncertain."""
CLEANERS = ("sanitise", "decoupled", "standardised-kd")
"""Attacks that change an answer before they learn from it."""


def doubt(name: str, title: str) -> Callable[[Doubt], Doubt]:
    """Register a flag."""

    def register(function: Doubt) -> Doubt:
        DOUBTS[name] = (title, function)
        return function

    return register


@doubt("diverged-or-chance", "An attack's training failed")
def diverged_or_chance(case: Case) -> Seen:
    """An attacker with cells that diverged, or whose accuracy is little above guessing."""
    guess = 100 / case.evidence.plan.classes
    for arm in case.arms:
        if arm.lost:
            yield f"{name_of(arm)} diverged in {arm.lost} of {len(arm.planned)} cells.", _ids(arm)
        elif arm.runs and arm.mean < CHANCE * guess:
            yield f"{name_of(arm)} reaches {arm.mean:.1f} %, guessing {guess:.1f}.", _ids(arm)


@doubt("below-alone", "Attackers with labels do worse with the model than without it")
def below_alone(case: Case) -> Seen:
    """The best attack of the defended model is below a baseline, though it has the same labels."""
    over = case.contrasts.over_alone
    if case.labelled and over.finite and over.upper < 0:
        yield f"The best attack found is {-over.mean:.1f} points below the baseline.", ()


@doubt("hard-beats-soft", "Labels alone teach more than the paper's student learns from soft outputs")
def hard_beats_soft(case: Case) -> Seen:
    """Naive distillation of the defended model is below the attack of labels that the search chose."""
    labels = case.sides.labels.chosen
    for arm in of(case.arms, "defended", "naive"):
        if labels is not None and (gap := case.compare(arm, labels)).upper < 0:
            yield (
                f"{name_of(arm)} is {-gap.mean:.1f} points below {name_of(labels)}: at least {-gap.upper:.1f}.",
                (*_ids(arm), *_ids(labels)),
            )


@doubt("head-refit", "A new last layer on the model's features undoes the defense")
def head_refit(case: Case) -> Seen:
    """An attacker who refits the last layer is within a point of the best attack of the undefended control."""
    twin = case.best("undefended", *SOFT, "labels")
    for arm in of(case.arms, "defended", *SOFT, "labels", "effort"):
        refit = arm.runs and arm.cells[0].attack == "head-refit"
        if refit and twin is not None and arm.mean >= twin.mean - REFIT:
            yield f"{name_of(arm)} reaches {arm.mean:.1f} %, the best attack of the control {twin.mean:.1f}.", _ids(arm)


@doubt("still-improving", "More effort still helps the attacker")
def still_improving(case: Case) -> Seen:
    """The best attack with more steps or a wider student beats all that were given the usual effort, on the same seeds."""
    usual = [arm for arm in of(case.arms, "defended", *SOFT, "labels") if arm.runs]
    for arm in of(case.arms, "defended", "effort"):
        got = arm.by_unit()
        rivals = [
            [units[unit] for unit in got]
            for units in (rival.by_unit() for rival in usual)
            if got.keys() <= units.keys()
        ]
        if not got or not rivals:
            continue
        most = max(fmean(values) for values in rivals)
        if arm.mean - most > case.evidence.plan.delta / 2:
            yield (
                f"{name_of(arm)} reaches {arm.mean:.1f} %, the best at usual effort {most:.1f} on the same seeds.",
                _ids(arm),
            )


@doubt("sanitising-helps", "Cleaning the outputs first helps the attacker")
def sanitising_helps(case: Case) -> Seen:
    """An attack that changes answers before it learns from them beats plain distillation, in the search or in the report."""
    clean, plain = (
        _best_score(case, lambda name: name in CLEANERS),
        _best_score(case, lambda name: name == "kd"),
    )
    if clean is not None and plain is not None and clean[1] - plain[1] > case.evidence.plan.delta:
        yield f"In the search {clean[0]} got {clean[1]:.1f} % of images held out, kd {plain[1]:.1f}.", ()
        return
    soft = of(case.arms, "defended", *SOFT)
    cleaners = [arm for arm in soft if arm.cells and arm.cells[0].attack in CLEANERS]
    others = [arm for arm in soft if arm.cells and arm.cells[0].attack == "kd"]
    for arm in cleaners:
        gaps = [case.compare(arm, other) for other in others]
        if gaps and min(gap.lower for gap in gaps) > 0:
            least = min(gap.mean for gap in gaps)
            yield f"{name_of(arm)} is {least:.1f} points above the best plain distillation.", _ids(arm)
            return


@doubt("too-weak", "Undefended distillation does not beat what an attacker has without soft outputs")
def too_weak(case: Case) -> Seen:
    """Headroom that is not shown to be there: nothing can be taken, and nothing can be seen to be taken."""
    room = case.contrasts.headroom
    if case.evidence.plan.controlled and room.finite and room.lower <= 0:
        yield f"Headroom is {room.mean:.1f} points, and may be none: its lower bound is {room.lower:.1f}.", ()


@doubt("trained-pool", "The attacker queries the model's own training images")
def trained_pool(case: Case) -> Seen:
    """On images that it was trained on, a model's top class nearly is the label."""
    if case.card.data == "unlabelled" and case.card.pool == "trained":
        yield "On the images that it learnt, a model's labels are nearly the true ones.", ()


@doubt("vouched", "That the images are fresh is asserted, not verified")
def vouched(case: Case) -> Seen:
    """Cells whose images nobody can show to be unseen by the victim."""
    ids = tuple(cell.id for arm in case.arms for cell in arm.cells if cell.vouched)
    if ids:
        what = "1 cell" if len(ids) == 1 else f"{len(ids)} cells"
        yield f"In {what} that the model never saw the attacker's images is asserted and not verified.", ids


@doubt("few-seeds", "Fewer than five seeds or teachers")
def few_seeds(case: Case) -> Seen:
    """Intervals from so few are wide, and only as good as the assumption of normal errors."""
    evidence = case.evidence
    compared = [arm for side in ("defended", "undefended") for arm in of(case.arms, side, *SOFT, "labels")]
    units = min((len({evidence.unit(p) for p in arm.planned}) for arm in compared), default=ENOUGH)
    if units < ENOUGH:
        what = "teacher" if evidence.plan.question == "method" else "seed"
        yield f"{units} {what}{'' if units == 1 else 's'}.", ()


def _best_score(case: Case, wanted: Callable[[str], bool]) -> tuple[str, float] | None:
    for group in case.searched("defended"):
        if wanted(group.attack) and group.score > float("-inf"):
            return group.attack, group.score
    return None


def _ids(arm: Arm) -> tuple[str, ...]:
    return tuple(cell.id for cell in arm.cells)
