"""Intervals: closed form, against a bootstrap, against SciPy, and how often they cover the truth."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from undistill.statistics import UNKNOWN, image_error, interval, rising, slope


def test_without_an_error_from_images_it_is_scipys_t_interval() -> None:
    values = [1.0, 2.5, 0.5, 3.0, 2.0]
    found = interval(values)
    ends = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(ends)
    one = stats.t.interval(0.90, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.lower, found.upper) == pytest.approx(one)
    assert found.mean == pytest.approx(1.8)
    assert found.n == 5


def test_both_errors_are_added_in_quadrature() -> None:
    values, error = [1.0, 2.0, 3.0], 0.7
    t, z = stats.t.ppf(0.95, 2), stats.norm.ppf(0.95)
    half = math.sqrt((t * 1 / math.sqrt(3)) ** 2 + (z * error) ** 2)
    assert interval(values, error).half == pytest.approx(half)


def test_one_unit_gives_no_interval() -> None:
    found = interval([3.0], 0.5)
    assert (found.mean, found.lower, found.upper, found.low, found.high) == (
        3,
        -math.inf,
        math.inf,
        -math.inf,
        math.inf,
    )
    assert not found.finite


def test_without_spread_the_images_error_remains() -> None:
    assert interval([2.0, 2.0, 2.0], 0.5).half == pytest.approx(0.5 * stats.norm.ppf(0.95))
    assert interval([2.0, 2.0, 2.0]).half == 0


def test_what_units_share_widens() -> None:
    values = [1.0, 2.0, 3.0]
    t = stats.t.ppf(0.95, 2)
    half = math.hypot(t / math.sqrt(3), t * 0.4)
    assert interval(values, shared=(0.4, 3)).half == pytest.approx(half)
    assert not interval(values, shared=(0.4, 1)).finite
    assert interval(values, shared=(0.0, 1)) == interval(values)


def test_many_at_once_are_those_one_by_one() -> None:
    values = np.random.default_rng(0).normal(size=(4, 6))
    many = interval(values, 0.3)
    for row in range(4):
        one = interval(values[row], 0.3)
        assert (many.mean[row], many.lower[row], many.high[row]) == pytest.approx((one.mean, one.lower, one.high))


def test_unknown_is_not_finite() -> None:
    assert not UNKNOWN.finite
    assert UNKNOWN.half == math.inf


def test_the_images_error_is_that_of_a_paired_bootstrap() -> None:
    rng = np.random.default_rng(1)
    easy = rng.random(500)
    first, second = (rng.random((3, 500)) < easy * 0.9), (rng.random((3, 500)) < easy)
    per_image = first.mean(axis=0) - second.mean(axis=0)
    draws = [100 * per_image[rng.integers(0, 500, 500)].mean() for _ in range(4000)]
    assert image_error(first, second) == pytest.approx(float(np.std(draws)), rel=0.05)


def test_of_one_arm_it_is_the_binomial_error() -> None:
    right = np.array([[1] * 90 + [0] * 10])
    assert image_error(right) == pytest.approx(100 * math.sqrt(0.9 * 0.1 / 99))
    assert image_error(right, right) == 0
    assert image_error([[1]]) == 0


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.floats(0, 5))
def test_ends_are_in_order(values: list[float], error: float) -> None:
    found = interval(values, error)
    assert found.low <= found.lower <= found.mean <= found.upper <= found.high


@pytest.mark.parametrize(("seeds", "spread", "error"), [(3, 1.0, 0.0), (5, 1.2, 0.6), (10, 0.4, 0.14), (5, 0.0, 0.5)])
def test_bounds_cover_as_often_as_they_say(seeds: int, spread: float, error: float) -> None:
    rng = np.random.default_rng(seeds)
    values = rng.normal(size=(20_000, seeds)) * spread + rng.normal(size=(20_000, 1)) * error
    found = interval(values, error)
    assert 0.94 <= float(np.mean(found.upper >= 0)) <= 0.975
    assert 0.94 <= float(np.mean((found.low <= 0) & (found.high >= 0))) <= 0.985


def test_below_the_least_number_of_units_there_is_no_interval() -> None:
    assert interval([1.0, 2.0]).finite
    assert not interval([1.0, 2.0], least=3).finite
    assert interval([1.0, 2.0], least=3).mean == 1.5


def test_slope_by_hand() -> None:
    assert slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]) == pytest.approx(2.0)


def test_a_curve_that_falls_is_pooled() -> None:
    assert rising([1, 3, 2, 4]) == [1, 2.5, 2.5, 4]
    assert rising([3, 2, 1]) == [2, 2, 2]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_a_pooled_curve_rises_and_keeps_its_mean(values: list[float]) -> None:
    found = rising(values)
    assert all(a <= b + 1e-9 for a, b in pairwise(found))
    assert sum(found) == pytest.approx(sum(values))
