"""A folder's cells as thieves to compare: who, by seed or teacher, right on which test images. Never imports torch.

Legend: N test images, U units.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undistill.auditing.arms import Arm, Run, procedure, reads_of
from undistill.errors import RunError
from undistill.experiments import cell as cells
from undistill.experiments.cell import Cell
from undistill.experiments.plan import Choice, Plan, Planned
from undistill.experiments.plan import read as read_plan
from undistill.experiments.ranking import Ranked, matches, ranked, scores, signature
from undistill.files import read_json

STALE = "its search has changed: compute it again"
"""Why a cell that is there counts as missing."""


@dataclass(frozen=True)
class Evidence:
    """Everything of an audit's folder that a judgement may use."""

    folder: Path
    plan: Plan
    done: Mapping[str, Cell]
    """By key, failed ones among them; planned cells that are not computed have none."""
    right: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """By key of a report cell with an accuracy: right or wrong on each of N test images."""
    stale: frozenset[str] = frozenset()
    """Keys of computed cells whose search gives another thief now, as a cell of it was computed again; not among `done`."""
    _orders: dict[tuple[str, ...], list[Ranked] | None] = field(default_factory=dict, repr=False, compare=False)

    def served(self, victim: str, serving: str) -> Cell | None:
        """What users get from a victim served so; served otherwise where that was not measured; None where nothing was."""
        found = [p for p in self.plan.cells if p.role == "served" and p.victim == victim and self.done.get(p.key)]
        found.sort(key=lambda p: p.card.split("/")[0] != serving)
        return self.done[found[0].key] if found else None

    def accuracy(self, side: str, serving: str) -> float | None:
        """What users get from the victims of a side, percent, mean over teachers; None where that was not measured."""
        cells_of = [self.served(subject.name, serving) for subject in self.plan.subjects if subject.side == side]
        found = [cell.accuracy for cell in cells_of if cell is not None and cell.accuracy is not None]
        return fmean(found) if found and len(found) == len(cells_of) else None

    def search(self, card: str, side: str) -> tuple[Planned, ...]:
        """Cells of the search on a side that a card's thieves were chosen by, or that were run on the card itself."""
        keys = {key for p in self.plan.of(card) if p.choice is not None for key in p.choice.among}
        return tuple(
            p for p in self.plan.cells if p.role == "search" and p.side == side and (p.key in keys or p.card == card)
        )

    def groups(self, planned: Iterable[Planned]) -> list[Ranked]:
        """Scores of the search, best first; without cells that failed or are missing."""
        found = (self.done.get(p.key) for p in planned)
        return scores(c for c in found if c is not None and (c.held_out is not None or c.status == "diverged"))

    def empty(self, planned: Planned) -> bool:
        """Whether a cell stands for an attack that the search does not have: of a higher rank than attacks that worked."""
        if planned.choice is None:
            return False
        order = self._order(planned.choice)
        return order is not None and planned.choice.rank > len(order)

    def arms(self, card: str) -> tuple[Arm, ...]:
        """All thieves and students that count for a card, in the plan's order; without the search and the learning curve."""
        groups: dict[str, list[Planned]] = defaultdict(list)
        for p in self.plan.of(card):
            if p.role not in ("served", "search", "curve") and not self.empty(p):
                groups[procedure(p)].append(p)
        return tuple(self.arm(group) for group in groups.values())

    def arm(self, group: list[Planned]) -> Arm:
        """Cells of one procedure put together."""
        first = group[0]
        found = [(p, self.done[p.key]) for p in group if p.key in self.done]
        runs = [
            Run(self.unit(p), p.seed, cell.accuracy, self.right[p.key])
            for p, cell in found
            if cell.accuracy is not None
        ]
        ok = [cell for _, cell in found if cell.status == "ok"]
        lost = sum(cell.status == "diverged" for _, cell in found)
        return Arm(
            side=first.side,
            role=first.role,
            reads=reads_of(first),
            label=first.label,
            planned=tuple(group),
            cells=tuple(ok),
            runs=tuple(runs),
            score=self._score(first, ok),
            lost=lost,
            absent=len(group) - len(runs) - lost,
        )

    def unit(self, planned: Planned) -> int:
        """The seed; where a method is judged, the teacher's number. Students alone have none and keep their seed."""
        if self.plan.question == "model" or not planned.victim:
            return planned.seed
        return self.plan.subject(planned.victim).teacher

    def _order(self, choice: Choice) -> list[Ranked] | None:
        """What a choice is made from, best first; None where a cell of it failed, so that nothing can be chosen."""
        if choice.among not in self._orders:
            try:
                order = ranked(self.done[key] for key in choice.among if key in self.done)
            except RunError:
                order = None
            self._orders[choice.among] = order
        return self._orders[choice.among]

    def _score(self, planned: Planned, found: list[Cell]) -> float | None:
        """What the search gave the settings of a thief."""
        if planned.choice is not None:
            order = self._order(planned.choice)
            known = order is not None and planned.choice.rank <= len(order)
            return order[planned.choice.rank - 1].score if order is not None and known else None
        if not found:
            return None
        wanted = signature(found[0])
        searched = [p for p in self.plan.cells if p.role == "search" and p.victim == planned.victim]
        same = [p for p in searched if p.key in self.done and signature(self.done[p.key]) == wanted]
        return next((group.score for group in self.groups(same) if group.score > -math.inf), None)


def read(folder: Path) -> Evidence:
    """All of a folder's evidence.

    Raises:
        UsageError: there is no audit.
        RunError: a cell or its arrays are damaged, belong to other data, or contradict each other.
    """
    plan = read_plan(folder)
    found: dict[str, tuple[Path, Cell]] = {}
    for planned in plan.cells:
        place = _place(folder, planned.key)
        if place is not None:
            cell = cells.read(place)
            if cell.data and cell.data != plan.fingerprint:
                raise RunError(f"{place} was computed on other data ({cell.data}) than the plan's ({plan.fingerprint})")
            if not _fits(planned, cell):
                raise RunError(f"{folder}/done/{planned.key}.json names a cell that is not the planned one")
            found[planned.key] = (place.parent, cell)
    stale = _stale(plan, {key: cell for key, (_, cell) in found.items()})
    found = {key: value for key, value in found.items() if key not in stale}
    labels_N = _labels(plan, found)
    right: dict[str, NDArray[np.bool_]] = {}
    seen: dict[str, NDArray[np.bool_]] = {}
    for planned in plan.cells:
        if planned.role in ("search", "served") or planned.key not in found:
            continue
        home, cell = found[planned.key]
        if cell.accuracy is None:
            continue
        if labels_N is None:
            raise RunError(f"{folder} has thieves but no cell of what users get, which holds the true labels")
        if cell.id not in seen:
            seen[cell.id] = _right(home, cell, labels_N)
        right[planned.key] = seen[cell.id]
    return Evidence(folder, plan, {key: cell for key, (_, cell) in found.items()}, right, stale)


def _place(folder: Path, key: str) -> Path | None:
    """Where the cell of a key lies; None where it is not computed."""
    done = folder / "done" / f"{key}.json"
    if not done.is_file():
        return None
    told = read_json(done)
    if not isinstance(told, dict) or not isinstance(told.get("cell"), str):
        raise RunError(f"{done} is damaged: it names no cell")
    name, home = told["cell"], told.get("cells", "cells")
    if re.fullmatch(r"[0-9a-f]{16}", name) is None:
        raise RunError(f"{done} is damaged: {name!r} is no name of a cell")
    if not isinstance(home, str) or Path(home).is_absolute():
        raise RunError(f"{done} is damaged: {home!r} is no folder below or beside the audit's")
    path = folder / home / f"{name}.json"
    return path if path.is_file() else None


def _fits(planned: Planned, cell: Cell) -> bool:
    """Whether a cell is of the card, seed and phase that are planned, and of the attack where the plan names one."""
    served = planned.role == "served"
    return (
        cell.card == planned.card
        and (served or cell.seeds.get("student") == planned.seed)
        and (cell.kind == "victim") == served
        and cell.phase == ("selection" if planned.role == "search" else "report")
        and planned.attack.get("name", cell.attack) == cell.attack
    )


def _stale(plan: Plan, found: Mapping[str, Cell]) -> frozenset[str]:
    """Keys of chosen cells that are no longer those of their search, stage by stage: a cell of the search may be chosen too."""
    stale: set[str] = set()
    for planned in sorted(plan.cells, key=lambda each: each.stage):
        if planned.choice is not None and planned.key in found:
            among = [found[key] for key in planned.choice.among if key in found and key not in stale]
            if not matches(planned, found[planned.key], [cell for cell in among if cell.status != "failed"]):
                stale.add(planned.key)
    return frozenset(stale)


def _labels(plan: Plan, found: Mapping[str, tuple[Path, Cell]]) -> NDArray[Any] | None:
    for planned in plan.cells:
        if planned.role == "served" and planned.key in found and found[planned.key][1].status == "ok":
            home, cell = found[planned.key]
            arrays = cells.read_arrays(home, cell)
            if "labels" not in arrays:
                raise RunError(f"{home / cell.id}.npz holds no labels of the test images")
            return arrays["labels"]
    return None


def _right(home: Path, cell: Cell, labels_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Right or wrong on each test image; RunError where that contradicts the cell's accuracy."""
    predicted_N = cells.read_arrays(home, cell).get("predicted")
    if predicted_N is None or predicted_N.shape != labels_N.shape:
        raise RunError(f"{home / cell.id}.json has no predictions for the {len(labels_N)} test images")
    right_N: NDArray[np.bool_] = predicted_N == labels_N
    if cell.accuracy is None or abs(100 * right_N.mean() - cell.accuracy) > 1e-3:
        raise RunError(f"{home / cell.id}.json says {cell.accuracy} %, its predictions {100 * right_N.mean():.4f} %")
    return right_N
