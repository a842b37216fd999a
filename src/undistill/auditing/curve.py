"""How many labelled images give a student alone as much as a thief got. Never imports torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from undistill.auditing.arms import Arm, procedure
from undistill.auditing.comparing import estimate
from undistill.auditing.evidence import Evidence
from undistill.auditing.result import Point
from undistill.experiments.plan import Planned
from undistill.statistics import rising


def learning(evidence: Evidence) -> tuple[Point, ...]:
    """Accuracy of a student alone by its number of labelled images, the best of those that share a number.

    Only of the network that the plan's first student alone has.
    """
    groups: dict[str, list[Planned]] = defaultdict(list)
    for planned in evidence.plan.cells:
        if planned.role in ("alone", "curve") and not evidence.empty(planned):
            groups[procedure(planned)].append(planned)
    arms = [arm for arm in map(evidence.arm, groups.values()) if arm.runs]
    best: dict[int, Arm] = {}
    for arm in arms:
        if arm.planned[0].student == arms[0].planned[0].student:
            images = arm.cells[0].images
            best[images] = max(best.get(images, arm), arm, key=lambda one: one.mean)
    points = []
    for images, arm in sorted(best.items()):
        found = estimate(arm)
        if found is not None and images > 0:
            points.append(Point(x=images, y=found.mean, low=found.low, high=found.high))
    return tuple(points)


def label_equivalents(accuracy: float, points: Sequence[Point]) -> tuple[float | None, bool]:
    """(labelled images that a student alone needs for this accuracy, whether it needs more than were tried).

    The curve is made to rise (isotonic regression, by pooling neighbours that fall), and read between its points as linear in the
    logarithm of the number of images. Above the last point: the last number, True. Below the first, or without two points: None,
    as fewer images were not tried.
    """
    if len(points) < 2:
        return None, False
    heights = rising([point.y for point in points])
    numbers = [point.x for point in points]
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
