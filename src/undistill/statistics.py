"""Intervals of mean differences over few units (seeds of students, or teachers) and few test images. Never imports torch.

Legend: U units, N test images; `…` any axes in front.

A unit's difference is d_u = a_u − b_u, of two models that share seed, initial weights and order of images. Its mean has two errors,
which are independent of each other:

* of the units: se_units = sd(d_u) / √U, with U − 1 in the sd, judged by Student's t with U − 1 degrees of freedom;
* of the test images: se_images = sd(m_i) / √N, where m_i is the mean over units of (a right on image i) − (b right on image i), in
  points, judged by the normal distribution. A paired bootstrap over images converges to it.

Half-width at one-sided level p: √((t_p · se_units)² + (z_p · se_images)²). Variation between seeds that differs from image to image
is counted in both terms, so the interval may be too wide, never too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

ONE_SIDED, TWO_SIDED = 0.95, 0.975
"""Quantiles of one-sided 95 % bounds and of the ends of a two-sided 95 % interval."""
ENOUGH = 3
"""Seeds below which reports of the paper's experiments conclude nothing."""


@dataclass(frozen=True)
class Difference:
    """A mean difference in points with its bounds; floats, or arrays of one shape for many differences at once.

    `lower`, `upper`: one-sided 95 %; `low`, `high`: two-sided 95 %. They are −inf and +inf where there are too few units, and the
    mean is NaN where there is none. `n` counts units.
    """

    mean: Any
    lower: Any
    upper: Any
    low: Any
    high: Any
    n: int

    @property
    def half(self) -> Any:
        """Half-width of the two one-sided bounds; +inf where nothing is known."""
        return (self.upper - self.lower) / 2

    @property
    def finite(self) -> bool:
        """Whether there is an interval (of a single difference)."""
        return math.isfinite(self.lower) and math.isfinite(self.upper)


UNKNOWN = Difference(math.nan, -math.inf, math.inf, -math.inf, math.inf, 0)


def interval(
    differences_U: Any, se_images: Any = 0.0, *, shared: tuple[float, int] = (0.0, 1), least: int = 2
) -> Difference:
    """Mean and bounds of differences along the last axis (`… U`), in points.

    Args:
        differences_U: one a unit.
        se_images: standard error from having these test images and no others, in points; shape `…`.
        shared: (standard error, number) of what all units have in common and what therefore does not show in their spread, such
            as baselines where the units are teachers. Judged by t with number − 1 degrees of freedom, and added in quadrature.
        least: units below which the bounds are infinite.
    """
    values_U = np.asarray(differences_U, np.float64)
    n = values_U.shape[-1]
    mean = values_U.mean(axis=-1)
    if n < least or (shared[0] > 0 and shared[1] < 2):
        one = two = np.full_like(mean, np.inf)
    else:
        sd = values_U.std(axis=-1, ddof=1)
        one, two = (
            np.hypot(half_width(sd, n, se_images, level), stdtrit(max(shared[1] - 1, 1), level) * shared[0])
            for level in (ONE_SIDED, TWO_SIDED)
        )
    ends = (mean, mean - one, mean + one, mean - two, mean + two)
    mean, lower, upper, low, high = ends if np.ndim(mean) else map(float, ends)
    return Difference(mean, lower, upper, low, high, n)


def half_width(sd: Any, n: int, se_images: Any = 0.0, level: float = ONE_SIDED) -> Any:
    """Half-width of the bounds at a one-sided level, in points.

    Args:
        sd: standard deviation of the differences over units, points.
        n: units, at least 2.
        se_images: standard error from the test images, points.
        level: quantile.
    """
    return np.hypot(stdtrit(n - 1, level) * np.asarray(sd) / math.sqrt(n), ndtri(level) * np.asarray(se_images))


def image_error(first_UN: Any, second_UN: Any = None) -> float:
    """se_images of the mean difference, in points, from what was right on which image (`U N`, 0 or 1, or means between).

    Without a second model, of the first one's accuracy. 0 for a single image, which says nothing of others.
    """
    means_N = np.asarray(first_UN, np.float64).mean(axis=0)
    if second_UN is not None:
        means_N = means_N - np.asarray(second_UN, np.float64).mean(axis=0)
    count = len(means_N)
    return 0.0 if count < 2 else float(100 * means_N.std(ddof=1) / math.sqrt(count))


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Slope of the least-squares line; needs two different x."""
    x, y = (np.asarray(values, np.float64) for values in (xs, ys))
    return float((x - x.mean()) @ y / ((x - x.mean()) ** 2).sum())


def rising(values: Sequence[float]) -> list[float]:
    """The nearest sequence, in squares, that never falls (isotonic regression)."""
    from scipy.optimize import isotonic_regression  # slow to import

    return [float(value) for value in isotonic_regression(values).x]
