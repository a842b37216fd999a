"""From a card's thieves to the differences that its verdict rests on. Never imports torch.

Legend: N test images, U units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np

from undistill.auditing.arms import SOFT, Arm
from undistill.auditing.result import Estimate
from undistill.auditing.verdict import Arms, Contrasts, Side, contrasts
from undistill.experiments.plan import Plan
from undistill.statistics import UNKNOWN, Difference, image_error, interval
from undistill.threat_model import Access


def shows_labels(plan: Plan) -> bool:
    """Whether the defended model, or each of them, shows labels alone however it is served."""
    ours = [subject for subject in plan.subjects if subject.side == "defended"]
    return bool(ours) and all(subject.shows == Access.LABEL.label for subject in ours)


def sides(arms: Sequence[Arm], labelled: bool, *, closed: bool = False) -> Arms[Arm]:
    """A card's thieves in their places. Thieves that were given more effort than the controls are left out.

    Of a `closed` model, which shows labels alone, thieves of labels read all that there is: they are the soft ones too.
    """
    soft = of(arms, "defended", *SOFT)
    labels = of(arms, "defended", "labels")
    alone = of(arms, "alone", "alone") if labelled else ()
    closed = closed and not soft
    return Arms(
        soft=chosen(labels if closed else soft),
        labels=chosen(labels),
        thieves=chosen((*soft, *labels, *alone)),
        soft0=chosen(of(arms, "undefended", *SOFT)),
        floor=chosen((*labels, *alone)),
        alone=chosen(alone),
        defended=chosen((*soft, *labels)),
        closed=closed,
    )


def of(arms: Iterable[Arm], side: str, *roles: str) -> tuple[Arm, ...]:
    """Those of a side in these roles."""
    return tuple(arm for arm in arms if arm.side == side and arm.role in roles)


def chosen(arms: Sequence[Arm]) -> Side[Arm]:
    """All of them, and the one with the best score in the search; without any score, the first.

    Equal scores are those of one choice tried with several students: then the one with more right on images held out. Test
    images have no say.
    """
    if not arms:
        return Side()
    return Side(
        tuple(arms), max(arms, key=lambda arm: (-math.inf if arm.score is None else arm.score, _breaks_ties(arm)))
    )


def _breaks_ties(arm: Arm) -> float:
    return -math.inf if arm.score is None else arm.held_out


def found(arms: Sequence[Arm], labelled: bool, plan: Plan) -> Contrasts:
    """The contrasts of a card."""
    return contrasts(sides(arms, labelled, closed=shows_labels(plan)), comparer(plan))


def comparer(plan: Plan) -> Callable[[Arm, Arm], Difference]:
    """`compare(a, b)`: a − b, paired by seed or by teacher, unknown where either has lost cells or they share no unit."""

    @cache
    def compare(first: Arm, second: Arm) -> Difference:
        if not first.whole or not second.whole:
            return UNKNOWN
        if plan.question == "method" and "alone" in (first.side, second.side):
            return _against_alone(first, second)
        shared = sorted(first.by_unit().keys() & second.by_unit().keys())
        if not shared:
            return UNKNOWN
        one, other = first.by_unit(), second.by_unit()
        ours, theirs = first.right(), second.right()
        error = image_error([ours[unit] for unit in shared], [theirs[unit] for unit in shared])
        return interval([one[unit] - other[unit] for unit in shared], error)

    return compare


def _against_alone(first: Arm, second: Arm) -> Difference:
    """Thieves of several teachers against students that have none: each teacher's mean against the same seeds alone.

    Where all teachers were robbed with the same seeds, luck of the students alone is the same in each difference and does not
    show in their spread: its standard error is added.
    """
    if first.side == "alone" and second.side == "alone":
        return UNKNOWN
    sign = -1 if first.side == "alone" else 1
    thief, alone = (second, first) if first.side == "alone" else (first, second)
    by_seed = {run.seed: run for run in alone.runs}
    differences, ours, theirs = [], [], []
    used: set[tuple[int, ...]] = set()
    for unit in thief.by_unit():
        pairs = [(run, by_seed[run.seed]) for run in thief.runs if run.unit == unit and run.seed in by_seed]
        if not pairs:
            return UNKNOWN
        differences.append(sign * float(np.mean([run.accuracy - other.accuracy for run, other in pairs])))
        ours.append(np.mean([run.right_N for run, _ in pairs], axis=0))
        theirs.append(np.mean([other.right_N for _, other in pairs], axis=0))
        used.add(tuple(sorted(run.seed for run, _ in pairs)))
    common = (0.0, 1)
    if len(used) == 1:
        accuracies = [by_seed[seed].accuracy for seed in next(iter(used))]
        count = len(accuracies)
        common = (float(np.std(accuracies, ddof=1)) / math.sqrt(count) if count > 1 else math.inf, count)
    return interval(differences, image_error(ours, theirs), shared=common)


def estimate(arm: Arm) -> Estimate | None:
    """An arm's accuracy with its interval, cut to what an accuracy can be; None without any accuracy."""
    if not arm.runs:
        return None
    whole = record(interval(list(arm.by_unit().values()), image_error(list(arm.right().values()))))
    ends = {name: getattr(whole, name) for name in ("low", "lower", "upper", "high")}
    return whole.model_copy(update={name: min(max(end, 0.0), 100.0) for name, end in ends.items() if end is not None})


def record(difference: Difference, *, least: float = -math.inf) -> Estimate:
    """A difference as a judgement keeps it: rounded, None for bounds that are infinite; its mean at least `least`."""
    mean = max(difference.mean, least)

    def end(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    return Estimate(
        mean=round(mean, 4),
        n=difference.n,
        low=end(difference.low),
        high=end(difference.high),
        lower=end(difference.lower),
        upper=end(difference.upper),
    )
