"""Label-equivalents: a curve that is made to rise, and read backwards."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undistill.auditing.curve import label_equivalents, rising
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


def test_a_curve_that_falls_is_pooled() -> None:
    assert rising([1, 3, 2, 4]) == [1, 2.5, 2.5, 4]
    assert rising([3, 2, 1]) == [2, 2, 2]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_a_pooled_curve_rises_and_keeps_its_mean(values: list[float]) -> None:
    found = rising(values)
    assert all(a <= b + 1e-9 for a, b in pairwise(found))
    assert sum(found) == pytest.approx(sum(values))
