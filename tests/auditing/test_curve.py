"""Label-equivalents: a curve that is made to rise, and read backwards."""

from __future__ import annotations

import pytest

from undistill.auditing.analyze import label_equivalents
from undistill.auditing.result import Point

POINTS = tuple(Point(x=x, y=y) for x, y in ((10, 50.0), (100, 70.0), (1000, 90.0)))


@pytest.mark.parametrize(
    ("accuracy", "wanted"),
    [(70, (100, False)), (80, (316.2, False)), (50, (10, False)), (49, (None, False)), (91, (1000, True))],
)
def test_label_equivalents(accuracy: float, wanted: tuple[float | None, bool]) -> None:
    number, beyond = label_equivalents(accuracy, POINTS)
    assert number == pytest.approx(wanted[0])
    assert beyond == wanted[1]
    assert label_equivalents(accuracy, POINTS[:1]) == (None, False)
