"""What the cells of an audit resolve, and how many seeds would resolve δ. Reads widths alone. Never imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from undistill.auditing.arms import Arm
from undistill.auditing.case import Case, cases
from undistill.auditing.comparing import estimate
from undistill.auditing.evidence import Evidence
from undistill.auditing.suite import seeds_for
from undistill.auditing.verdict import half_width
from undistill.statistics import half_width as expected_half_width
from undistill.statistics import image_error
from undistill.threat_model import Access

ENOUGH = 8
"""Seeds that are computed where no number of them resolves δ, because there are too few test images."""
MOST = 2_000
KNOWN = 4
"""Seeds from which on their own spread says how many are needed; before, that of other audits does."""


@dataclass(frozen=True)
class Precision:
    """`width`: half-width of the differences that the answer rests on, points; infinite where there is none yet.

    `seeds`: how many report seeds are expected to bring it to δ; None where the error from having few test images alone is larger,
    which is `of_images` points. `images`: how many test images would do then.
    """

    width: float
    seeds: int | None
    of_images: float = 0.0
    images: int | None = None


def precision(evidence: Evidence) -> Precision:
    """The widest of the first query budget, over output accesses that give more than labels; of labels where there is no other."""
    here = [case for case in cases(evidence) if case.card.questions == first_budget(evidence)]
    soft = [case for case in here if case.card.access is not Access.LABEL]
    found = [_of(case) for case in soft or here]
    return max(found, key=lambda one: (one.width, one.of_images), default=Precision(math.inf, None))


def first_budget(evidence: Evidence) -> int | None:
    """The smallest query budget, which seeds are added to; None where queries are not counted."""
    budgets = [case.card.questions for case in cases(evidence)]
    known = [count for count in budgets if count is not None]
    return min(known) if known and len(known) == len(budgets) else (budgets[0] if budgets else None)


def _of(case: Case) -> Precision:
    delta, tests = case.evidence.plan.delta, case.evidence.plan.test_images
    width, units = _width(case)
    error = max((_images(*pair) for pair in _pairs(case)), default=0.0)
    images = float(expected_half_width(0.0, 2, error))
    enough = math.ceil(tests * (images / (0.7 * delta)) ** 2) if images >= delta else None
    if not math.isfinite(width) or units < KNOWN:  # a spread of so few seeds says too little
        usual = max(seeds_for(delta, tests) or ENOUGH, units + 1)
        return Precision(width, None if images >= delta else usual, images, enough)
    sd = math.sqrt(max(width**2 - images**2, 0.0)) / float(expected_half_width(1.0, units))
    wanted = (n for n in range(2, MOST) if expected_half_width(sd, n, error) <= delta)
    return Precision(width, next(wanted, MOST) if images < delta else None, images, enough)


def _width(case: Case) -> tuple[float, int]:
    """(half-width, units): of headroom and gap with an undefended control, else of the gap, of labels alone their accuracy's."""
    if case.card.access is Access.LABEL:
        best = case.best_found
        got = None if best is None else estimate(best)
        if got is None or got.lower is None or got.upper is None:
            return math.inf, 0
        return (got.upper - got.lower) / 2, got.n
    gap = case.contrasts.gap
    return (half_width(case.contrasts) if case.evidence.plan.controlled else float(gap.half)), gap.n


def _pairs(case: Case) -> list[tuple[Arm, Arm]]:
    """The pairs of attacks whose difference counts."""
    floor = case.sides.floor.chosen
    soft = [side.chosen for side in (case.sides.soft, case.sides.soft0)]
    return [(one, floor) for one in soft if one is not None and floor is not None and one is not floor]


def _images(first: Arm, second: Arm) -> float:
    """Standard error from having these test images, points."""
    shared = sorted(first.right().keys() & second.right().keys())
    if not shared:
        return 0.0
    return image_error([first.right()[unit] for unit in shared], [second.right()[unit] for unit in shared])
