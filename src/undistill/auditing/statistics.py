"""Differences between thieves over seeds or teachers, with intervals that know of few seeds and few test images.

Legend: U units (seeds of students, or teachers), N test images; `…` any axes in front. Never imports torch.

A unit's difference is d_u = a_u − b_u, of two thieves that share seed, initial weights and order of images; dbar is its mean.
Two errors are independent of each other:

* other seeds would have come out otherwise: se_units = sd(d_u) / √U, with U − 1 in the sd, judged by Student's t with U − 1
  degrees of freedom;
* other test images would have come out otherwise: se_images = sd(m_i) / √N, where m_i is the mean over units of (a right on
  image i) − (b right on image i), in points. It is what a paired bootstrap over images converges to: a bootstrap mean is the
  mean of N draws from the m_i, whose standard deviation is sd(m_i) / √N exactly (with N in the sd; here N − 1, by a factor
  √(N / (N − 1)) wider). Judged by the normal distribution, N being hundreds.

Half-width at one-sided level p: √((t_p · se_units)² + (z_p · se_images)²). Where a seed's luck differs from image to image, the
same luck is counted in both terms; the interval is then too wide by that much, never too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Floats = NDArray[np.float64]
ONE_SIDED, TWO_SIDED = 0.95, 0.975
"""Quantiles of one-sided 95 % bounds and of the ends of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Difference:
    """A mean difference in points with its bounds; floats, or arrays of one shape for many differences at once.

    `lower`, `upper`: one-sided 95 %; `low`, `high`: two-sided 95 %. They are −inf and +inf where one unit gives none; where nothing
    at all is known the mean is NaN. `n` counts units.
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


def interval(differences_U: Any, se_images: Any = 0.0, *, shared: tuple[float, int] = (0.0, 1)) -> Difference:
    """Mean and bounds of differences along the last axis (`… U`), in points; the bounds are infinite for one unit.

    Args:
        differences_U: one a unit.
        se_images: standard error from having these test images and no others, in points; shape `…`.
        shared: (standard error, number) of what all units have in common and what therefore does not show in their spread, such
            as students alone where the units are teachers. Judged by t with number − 1 degrees of freedom, and added in
            quadrature.

    Without any spread over units the images' error remains; without that too the difference is what it is on every unit.
    """
    values_U = np.asarray(differences_U, np.float64)
    n = values_U.shape[-1]
    mean = values_U.mean(axis=-1)
    if n < 2 or (shared[0] > 0 and shared[1] < 2):
        whole = np.full_like(mean, np.inf)
        return _plain(Difference(mean, -whole, whole, -whole, whole, n))
    se_units = values_U.std(axis=-1, ddof=1) / math.sqrt(n)
    one, two = (
        np.sqrt(
            (stdtrit(n - 1, level) * se_units) ** 2
            + (ndtri(level) * np.asarray(se_images, np.float64)) ** 2
            + (stdtrit(max(shared[1] - 1, 1), level) * shared[0]) ** 2
        )
        for level in (ONE_SIDED, TWO_SIDED)
    )
    return _plain(Difference(mean, mean - one, mean + one, mean - two, mean + two, n))


def image_error(first_UN: Any, second_UN: Any = None) -> float:
    """se_images of the mean difference, in points, from what was right on which image (`U N`, 0 or 1, or means between).

    Without a second thief, of the first one's accuracy. 0 for a single image, which tells nothing of others.
    """
    means_N = np.asarray(first_UN, np.float64).mean(axis=0)
    if second_UN is not None:
        means_N = means_N - np.asarray(second_UN, np.float64).mean(axis=0)
    count = len(means_N)
    return 0.0 if count < 2 else float(100 * means_N.std(ddof=1) / math.sqrt(count))


def _plain(difference: Difference) -> Difference:
    """Floats instead of arrays without axes."""
    if np.ndim(difference.mean):
        return difference
    mean, lower, upper = float(difference.mean), float(difference.lower), float(difference.upper)
    return Difference(mean, lower, upper, float(difference.low), float(difference.high), difference.n)
