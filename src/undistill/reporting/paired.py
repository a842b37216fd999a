"""Differences between two groups of cells, seed by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from undistill.experiments.cell import Cell
from undistill.reporting.summary import Group
from undistill.statistics import ENOUGH, Difference, interval

Key = Callable[[Cell], tuple[int | None, ...]]


@dataclass(frozen=True)
class Paired:
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

    @cached_property
    def difference(self) -> Difference:
        """Its mean and bounds, those from below three pairs infinite. The error from having few test images is not in them."""
        return interval(self.each, least=ENOUGH)

    @property
    def mean(self) -> float:
        """Mean difference; needs a pair."""
        return float(self.difference.mean)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The two-sided 95 % t interval; None below three pairs."""
        return (self.difference.low, self.difference.high) if self.difference.finite else None

    @property
    def sign(self) -> int:
        """1 or −1 where the whole interval is above or below 0, else 0."""
        return int(self.difference.low > 0) - int(self.difference.high < 0)


def both_seeds(cell: Cell) -> tuple[int | None, ...]:
    """Pairs students of two victims."""
    return cell.seeds.get("victim"), cell.seeds.get("student")


def student_seed(cell: Cell) -> tuple[int | None, ...]:
    """Pairs a student with a baseline."""
    return (cell.seeds.get("student"),)


def victim_seed(cell: Cell) -> tuple[int | None, ...]:
    """Pairs victims with each other."""
    return (cell.seeds.get("victim"),)


def difference(first: Group | None, second: Group | None, key: Key = both_seeds) -> Paired | None:
    """Paired by `key`; a key with several values stands for their mean. None without a single pair."""
    if first is None or second is None:
        return None
    one, other = _by_key(first, key), _by_key(second, key)
    shared = sorted((k for k in one if k in other), key=str)
    if not shared:
        return None
    everything = {key(cell) for cell in (*first.cells, *second.cells)}
    return Paired(tuple(one[k] for k in shared), tuple(other[k] for k in shared), len(everything) - len(shared))


def _by_key(group: Group, key: Key) -> dict[tuple[int | None, ...], float]:
    values: dict[tuple[int | None, ...], list[float]] = defaultdict(list)
    for cell in group.cells:
        if cell.accuracy is not None:
            values[key(cell)].append(cell.accuracy)
    return {k: fmean(v) for k, v in values.items()}
