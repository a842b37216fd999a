"""A reproduction's folder as it is read: its plan, and the measurements of all seeds at every place of a table or figure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from undistill.errors import UsageError
from undistill.experiments.cell import Cell
from undistill.experiments.cell import read as read_cell
from undistill.experiments.store import Store
from undistill.paper.experiments import EXPERIMENTS, Experiment
from undistill.paper.plan import Plan, Point, read
from undistill.paper.published import ITSELF, SELF
from undistill.reporting.naming import decimals, number

HEADS = {ITSELF: "the teacher itself", SELF: "the teacher's own network"}
"""What columns are called that name no network."""
SYMBOLS = {"omega": "ω", "temperature": "τ_S", "alpha": "α", "fraction": "share of images", "adversary": "adversary"}
X = float | str | None
Place = tuple[str, str, str, str, X]
"""(experiment, teacher, arm, column, x)."""


@dataclass(frozen=True)
class Measured:
    """One place, over the plan's seeds. `cells` are those that there are, by seed."""

    points: tuple[Point, ...]
    cells: dict[int, Cell] = field(repr=False)

    @cached_property
    def values(self) -> dict[int, float]:
        """Accuracy in percent by seed."""
        return {seed: cell.accuracy for seed, cell in self.cells.items() if cell.accuracy is not None}

    @property
    def n(self) -> int:
        """How many accuracies there are."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Of the values; None without one."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation; None below two values."""
        return statistics.stdev(self.values.values()) if self.n > 1 else None

    @property
    def missing(self) -> int:
        """Planned, and not measured so far."""
        return len(self.points) - len(self.cells)

    @property
    def lost(self) -> dict[str, int]:
        """Cells without an accuracy, by status."""
        found = Counter(
            "without a value" if c.status == "ok" else c.status for c in self.cells.values() if c.accuracy is None
        )
        return dict(sorted(found.items()))

    @property
    def gone(self) -> str:
        """`[1 diverged, 2 not measured]`, or nothing."""
        count = "" if self.missing == len(self.points) else f"{self.missing} "
        parts = [f"{n} {fate}" for fate, n in self.lost.items()] + [f"{count}not measured"] * bool(self.missing)
        return f"[{', '.join(parts)}]" if parts else ""

    def spread(self, digits: int) -> str:
        """`± 0.31 (3)`: sample standard deviation and number of seeds."""
        return spread(self.sd, self.n, digits)

    @property
    def numbers(self) -> dict[str, str | float | int | None]:
        """For programs."""
        return {
            "mean": short(self.mean),
            "sd": short(self.sd),
            "n": self.n,
            "seeds": " ".join(f"{seed}:{value:.6g}" for seed, value in self.values.items()),
            "missing": self.missing,
            "lost": " ".join(f"{count} {fate}" for fate, count in self.lost.items()),
            "cells": " ".join(cell.id for cell in self.cells.values()),
        }

    @property
    def reported(self) -> float | None:
        """The article's number, as the plan has it."""
        return self.points[0].reported


@dataclass(frozen=True)
class Source:
    """One reproduction. `cells` are found by a point's key; `title` is told apart from all others of the page."""

    folder: Path
    title: str
    plan: Plan
    cells: dict[str, Cell] = field(repr=False)

    @cached_property
    def places(self) -> dict[Place, Measured]:
        """Every place of the plan, in order; of two points for one seed the later is meant."""
        points: dict[Place, dict[int, Point]] = {}
        for point in self.plan.points:
            points.setdefault(place_of(point), {})[point.seed] = point
        return {
            place: Measured(
                tuple(by_seed[seed] for seed in sorted(by_seed)),
                {s: self.cells[p.key] for s, p in sorted(by_seed.items()) if p.key in self.cells},
            )
            for place, by_seed in points.items()
        }

    def at(self, experiment: str, teacher: str = "", arm: str = "", column: str = "", x: X = None) -> Measured | None:
        """A place, or None where the plan has none."""
        return self.places.get((experiment, teacher, arm, column, x))

    def of(self, experiment: str) -> dict[Place, Measured]:
        """The places of an experiment."""
        return {place: measured for place, measured in self.places.items() if place[0] == experiment}

    @cached_property
    def keys(self) -> dict[str, list[Point]]:
        """The cells that the plan asks for, each with the points that it fills."""
        found: dict[str, list[Point]] = {}
        for point in self.plan.points:
            found.setdefault(point.key, []).append(point)
        return found

    @property
    def paper(self) -> bool:
        """Whether networks and data are the paper's, so that its numbers can be held against these."""
        return self.plan.scale == "paper" and not self.plan.recipe

    def digits(self, experiment: str) -> int:
        """Digits behind the point that the experiment's percentages deserve."""
        tested = [c.n_test for m in self.of(experiment).values() for c in m.cells.values() if c.n_test]
        return decimals(min(tested, default=0))


def spread(sd: float | None, n: int, digits: int) -> str:
    """`± 0.31 (3)`, `(1)`, or nothing."""
    return f"± {number(sd, digits)} ({n})" if sd is not None else f"({n})" if n else ""


def short(value: float | None) -> float | None:
    """To six digits behind the point."""
    return None if value is None else round(value, 6)


def symbol(experiment: Experiment) -> str:
    """What the varied setting is called."""
    return SYMBOLS.get(experiment.vary, "")


def place_of(point: Point) -> Place:
    """Where a point stands, whatever its seed."""
    return point.experiment, point.teacher, point.arm, point.column, point.x


def open_sources(folders: Sequence[Path]) -> list[Source]:
    """The reproductions of these folders, in order.

    Raises:
        UsageError: no folder, one that is none, or holds no reproduction.
        RunError: a damaged plan or cell.
    """
    if not folders:
        raise UsageError("a report needs at least one folder of a reproduction")
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder; name one that `undistill reproduce` wrote")
    plans = [read(folder) for folder in folders]
    titles = [plan.title for plan in plans]
    names = [
        f"{plan.title} ({folder.name})" if titles.count(plan.title) > 1 else plan.title
        for folder, plan in zip(folders, plans, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [f"{name} {number}" for number, name in enumerate(names, start=1)]
    return [
        Source(folder, name, plan, _cells(folder)) for folder, name, plan in zip(folders, names, plans, strict=True)
    ]


def covered(sources: Iterable[Source]) -> list[Experiment]:
    """The experiments that any of the plans covers, in the paper's order; one that this version does not know is left out."""
    planned = {point.experiment for source in sources for point in source.plan.points}
    return [experiment for name, experiment in EXPERIMENTS.items() if name in planned]


def _cells(folder: Path) -> dict[str, Cell]:
    """Cells by the key that they were made for. Where settings of two tasks came to one cell, `done/KEY.json` names it."""
    by_key: dict[str, Cell] = {}
    for path in sorted((folder / "cells").glob("*.json")):
        cell = read_cell(path)
        old = by_key.get(cell.key)
        if cell.key and (old is None or (old.status != "ok" and cell.status == "ok")):
            by_key[cell.key] = cell
    store = Store(folder)
    return by_key | {key: done for key in store.marked() if (done := store.done(key)) is not None}
