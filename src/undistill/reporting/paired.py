"""Differences between two groups of cells, seed by seed."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from scipy.special import stdtrit

from undistill.experiments.cell import Cell
from undistill.reporting.rows import Group

ENOUGH = 3
"""Below this many pairs nothing is concluded."""

Key = Callable[[Cell], tuple[int | None, ...]]


@dataclass(frozen=True)
class Difference:
    """`first − second` over the seeds that both have, in points."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    unpaired: int

    @property
    def n(self) -> int:
        """How many pairs."""
        return len(self.first)

    @property
    def each(self) -> list[float]:
        """One difference a pair."""
        return [a - b for a, b in zip(self.first, self.second, strict=True)]

    @property
    def mean(self) -> float:
        """Mean difference; needs a pair."""
        return statistics.fmean(self.each)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % t interval over the pairs; None below three. Says nothing of the error from having few test images."""
        if self.n < ENOUGH:
            return None
        half = float(stdtrit(self.n - 1, 0.975)) * statistics.stdev(self.each) / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    @property
    def sign(self) -> int:
        """1 or −1 where the whole interval lies on that side of nothing, else 0."""
        low, high = self.interval or (0.0, 0.0)
        return 1 if low > 0 else -1 if high < 0 else 0


def both_seeds(cell: Cell) -> tuple[int | None, ...]:
    """Pairs thieves of two victims."""
    return cell.seeds.get("victim"), cell.seeds.get("student")


def student_seed(cell: Cell) -> tuple[int | None, ...]:
    """Pairs a thief with a student alone."""
    return (cell.seeds.get("student"),)


def victim_seed(cell: Cell) -> tuple[int | None, ...]:
    """Pairs victims with each other."""
    return (cell.seeds.get("victim"),)


def difference(first: Group | None, second: Group | None, key: Key = both_seeds) -> Difference | None:
    """Paired by `key`; a key with several values stands for their mean. None without a single pair."""
    if first is None or second is None:
        return None
    one, other = _by_key(first, key), _by_key(second, key)
    shared = sorted((k for k in one if k in other), key=str)
    if not shared:
        return None
    everything = {key(cell) for cell in (*first.cells, *second.cells)}
    return Difference(tuple(one[k] for k in shared), tuple(other[k] for k in shared), len(everything) - len(shared))


def _by_key(group: Group, key: Key) -> dict[tuple[int | None, ...], float]:
    values: dict[tuple[int | None, ...], list[float]] = defaultdict(list)
    for cell in group.cells:
        if cell.accuracy is not None:
            values[key(cell)].append(cell.accuracy)
    return {k: statistics.fmean(v) for k, v in values.items()}
