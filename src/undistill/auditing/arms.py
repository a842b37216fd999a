"""One thief of an audit: its cells over seeds or teachers, and what they got right. Never imports torch.

Legend: N test images.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from undistill.experiments.cell import Cell
from undistill.experiments.plan import Planned

Reads = Literal["soft", "labels", "nothing"]
SOFT = ("soft", "naive")
"""Roles of thieves that read more than labels and count for A_soft."""


@dataclass(frozen=True)
class Run:
    """One report cell that has an accuracy: its unit (seed, or teacher), its seed, and 1 for each test image it got right."""

    unit: int
    seed: int
    accuracy: float
    right_N: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Arm:
    """One thief, or one student alone: the cells that differ in seed and teacher alone.

    `score` is what the search gave its settings (percent held out; None: not searched), `held_out` the mean of its report cells.
    `lost` counts diverged cells, `absent` cells that failed or are not computed.
    """

    side: str
    role: str
    reads: Reads
    label: str
    planned: tuple[Planned, ...]
    cells: tuple[Cell, ...]
    runs: tuple[Run, ...]
    score: float | None = None
    lost: int = 0
    absent: int = 0

    @property
    def whole(self) -> bool:
        """Whether every planned cell has an accuracy."""
        return bool(self.runs) and not self.lost and not self.absent

    @property
    def held_out(self) -> float:
        """Mean on images held out over the report cells; −inf where none has it."""
        found = [cell.held_out for cell in self.cells if cell.held_out is not None]
        return fmean(found) if found else -math.inf

    @property
    def mean(self) -> float:
        """Mean accuracy over units; −inf without any."""
        return fmean(self.by_unit().values()) if self.runs else -math.inf

    def by_unit(self) -> dict[int, float]:
        """Mean accuracy of each unit."""
        groups: dict[int, list[float]] = defaultdict(list)
        for run in self.runs:
            groups[run.unit].append(run.accuracy)
        return {unit: fmean(values) for unit, values in sorted(groups.items())}

    def right(self) -> dict[int, NDArray[np.float64]]:
        """How often each test image was right, by unit (values of N)."""
        groups: dict[int, list[NDArray[np.bool_]]] = defaultdict(list)
        for run in self.runs:
            groups[run.unit].append(run.right_N)
        return {unit: np.mean(values, axis=0) for unit, values in sorted(groups.items())}


def reads_of(planned: Planned) -> Reads:
    """How much of an answer a planned cell makes use of."""
    if planned.side == "alone":
        return "nothing"
    return "labels" if planned.role == "labels" or planned.card.split("/")[0] == "label" else "soft"


def procedure(planned: Planned) -> str:
    """What is the same for all cells of one thief: everything but seed, teacher and the cells that a choice is made from."""
    rank = None if planned.choice is None else planned.choice.rank
    told = planned.label if planned.choice is not None else ""
    fixed = [planned.side, planned.role, told, planned.attack, rank, planned.changes, planned.times]
    return json.dumps([*fixed, planned.card, planned.recipe.get("training"), planned.student], sort_keys=True)
