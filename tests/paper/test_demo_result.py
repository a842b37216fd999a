"""The demo's interval covers what it claims to, and differences are paired."""

from __future__ import annotations

import numpy as np
import pytest

from undistill.paper.demo_result import over_pairs
from undistill.statistics import interval


@pytest.mark.parametrize(("of_pairs", "of_draws"), [(0.0, 3.0), (2.0, 3.0), (3.0, 1.0)])
def test_an_interval_over_pairs_covers_whatever_the_draws_share(of_pairs: float, of_draws: float) -> None:
    """95 % of 20,000 simulated demos; an interval over all draws as if they were independent covers less."""
    rng = np.random.default_rng(0)
    demos, pairs, draws = 20_000, 6, 3
    taken = 4 + rng.normal(0, of_pairs, (demos, pairs, 1)) + rng.normal(0, of_draws, (demos, pairs, draws))
    nested, flat = interval(taken.mean(axis=2)), interval(taken.reshape(demos, -1))
    covered = np.mean((nested.low <= 4) & (nested.high >= 4))
    naive = np.mean((flat.low <= 4) & (flat.high >= 4))
    assert covered == pytest.approx(0.95, abs=0.006)
    if of_pairs:
        assert naive < covered - 0.05


def test_draws_of_a_pair_are_one_unit_however_many_they_are() -> None:
    right, wrong = np.ones(200), np.zeros(200)
    half = np.repeat([1.0, 0.0], 100)
    found = over_pairs([0, 0, 0, 1], [right, right, right, right], [half, half, half, wrong])
    assert (found.n, found.mean) == (2, 75.0)


def test_the_interval_knows_of_few_test_images() -> None:
    first = [np.repeat([1.0, 0.0], [8, 2])] * 4
    second = [np.repeat([1.0, 0.0], [6, 4])] * 4
    few = over_pairs([0, 1, 2, 3], first, second)
    many = over_pairs([0, 1, 2, 3], [np.tile(a, 50) for a in first], [np.tile(b, 50) for b in second])
    assert few.mean == many.mean == pytest.approx(20)
    assert few.low < 0 < many.low  # no spread over pairs, so the images' error is all there is


def test_one_pair_gives_no_interval_and_none_gives_nothing() -> None:
    one = over_pairs([3], [np.ones(10)], [np.zeros(10)])
    assert (one.mean, one.finite) == (100.0, False)
    none = over_pairs([], [], [])
    assert np.isnan(none.mean)
    assert not none.finite
