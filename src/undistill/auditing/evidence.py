"""The cells of an audit, grouped into arms: each attack or baseline with what it had right. Never imports torch.

Legend: N test images, U units.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from undistill.errors import RunError
from undistill.experiments import cell as cells
from undistill.experiments.cell import Cell
from undistill.experiments.graph import Graph, task_of
from undistill.experiments.plan import Choice, Plan, Planned
from undistill.experiments.plan import read as read_plan
from undistill.experiments.ranking import Ranked, ranked, scores, signature
from undistill.experiments.store import Store
from undistill.statistics import UNKNOWN, Difference, image_error, interval

Classes = NDArray[Any]
Reads = Literal["soft", "labels", "nothing"]
Right = NDArray[np.bool_]
SOFT = ("soft", "naive")
"""Roles of attacks that read more than labels and count for A_soft."""
STALE = "its search has changed: compute it again"
"""Why a computed cell counts as missing."""


@dataclass(frozen=True)
class Run:
    """One report cell that has an accuracy: its unit (seed, or teacher), its seed, and which test images it had right.

    `fidelity`: on how many of them it names the audited model's class, percent; None where a method is audited.
    """

    unit: int
    seed: int
    accuracy: float
    right_N: Right
    fidelity: float | None = None


@dataclass(frozen=True, eq=False)
class Arm:
    """One attack, or one baseline: its cells, which differ in seed and teacher alone.

    `cells` are those that worked. `score`: what the search gave its settings, percent on held-out images; None where it was not
    searched. `lost` counts diverged cells, `absent` those that failed or are not computed.
    """

    planned: tuple[Planned, ...]
    cells: tuple[Cell, ...] = ()
    runs: tuple[Run, ...] = ()
    score: float | None = None
    lost: int = 0
    absent: int = 0

    @property
    def side(self) -> str:
        """`defended`, `undefended`, or `alone` for a baseline."""
        return self.planned[0].side

    @property
    def role(self) -> str:
        """Its role in the plan."""
        return self.planned[0].role

    @property
    def label(self) -> str:
        """Its name in the plan."""
        return self.planned[0].label

    @property
    def reads(self) -> Reads:
        """How much of an output it uses."""
        if self.side == "alone":
            return "nothing"
        return "labels" if self.role == "labels" or self.planned[0].card.split("/")[0] == "label" else "soft"

    @property
    def whole(self) -> bool:
        """Whether every planned cell has an accuracy."""
        return bool(self.runs) and not self.lost and not self.absent

    @property
    def held_out(self) -> float:
        """Mean on held-out images over the report cells; −inf where none has it."""
        found = [cell.held_out for cell in self.cells if cell.held_out is not None]
        return fmean(found) if found else -math.inf

    @property
    def mean(self) -> float:
        """Mean accuracy over units; −inf without any."""
        return fmean(self.by_unit().values()) if self.runs else -math.inf

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of its cells."""
        return tuple(cell.id for cell in self.cells)

    def by_unit(self) -> dict[int, float]:
        """Mean accuracy of each unit."""
        return {unit: fmean(run.accuracy for run in runs) for unit, runs in self._units().items()}

    @property
    def fidelity(self) -> float | None:
        """Mean over runs, percent; None without any."""
        found = [run.fidelity for run in self.runs if run.fidelity is not None]
        return fmean(found) if found else None

    def right(self) -> dict[int, NDArray[np.float64]]:
        """How often each test image was right, by unit (values of N)."""
        return {unit: np.mean([run.right_N for run in runs], axis=0) for unit, runs in self._units().items()}

    def result(self) -> Difference | None:
        """Accuracy with its bounds, percent; None without any."""
        return interval(list(self.by_unit().values()), image_error(list(self.right().values()))) if self.runs else None

    def _units(self) -> dict[int, list[Run]]:
        groups: dict[int, list[Run]] = defaultdict(list)
        for run in self.runs:
            groups[run.unit].append(run)
        return dict(sorted(groups.items()))


@dataclass(frozen=True)
class Evidence:
    """All of an audit's folder that a result may rest on.

    `done`: cells by key, failed ones among them. `right`: by key of a report cell with an accuracy, which of N test images it had
    right. `fidelity`: by the same keys, the percentage of test images on which it names the audited model's class. `stale`: keys of
    computed cells whose search now gives other settings; not among `done`.
    """

    folder: Path
    plan: Plan
    done: Mapping[str, Cell]
    right: Mapping[str, Right] = field(default_factory=dict)
    fidelity: Mapping[str, float] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    _orders: dict[tuple[str, ...], list[Ranked] | None] = field(default_factory=dict, repr=False, compare=False)

    def served(self, victim: str, access: str) -> Cell | None:
        """What users get from a victim at an output access; at another one where that was not measured; None where nothing was."""
        found = [p for p in self.plan.cells if p.role == "served" and p.victim == victim and self.done.get(p.key)]
        found.sort(key=lambda p: p.card.split("/")[0] != access)
        return self.done[found[0].key] if found else None

    def accuracy(self, side: str, access: str) -> float | None:
        """What users get from the victims of a side, percent, mean over teachers; None where that was not measured."""
        measured = [self.served(subject.name, access) for subject in self.plan.subjects if subject.side == side]
        found = [cell.accuracy for cell in measured if cell is not None and cell.accuracy is not None]
        return fmean(found) if found and len(found) == len(measured) else None

    def search(self, threat_model: str, side: str) -> tuple[Planned, ...]:
        """Cells of the search on a side: those that a threat model's attacks were chosen from, and those run on it."""
        keys = {key for p in self.plan.of(threat_model) if p.choice is not None for key in p.choice.among}
        own = [p for p in self.plan.cells if p.role == "search" and p.side == side]
        return tuple(p for p in own if p.key in keys or p.card == threat_model)

    def scores(self, planned: Iterable[Planned]) -> list[Ranked]:
        """Scores of these cells of the search, best first; without those that failed or are missing."""
        found = (self.done.get(p.key) for p in planned)
        return scores(c for c in found if c is not None and (c.held_out is not None or c.status == "diverged"))

    def empty(self, planned: Planned) -> bool:
        """Whether a cell's rank is beyond the attacks that worked in the search, so that there is nothing to compute."""
        order = None if planned.choice is None else self._order(planned.choice)
        return order is not None and planned.choice is not None and planned.choice.rank > len(order)

    def arms(self, threat_model: str) -> tuple[Arm, ...]:
        """All attacks and baselines of a threat model, in the plan's order; without the search and the learning curve."""
        return self.group(p for p in self.plan.of(threat_model) if p.role not in ("served", "search", "curve"))

    def group(self, planned: Iterable[Planned]) -> tuple[Arm, ...]:
        """Cells that differ in seed and teacher alone, put together; without empty ranks."""
        groups: dict[str, list[Planned]] = defaultdict(list)
        for p in planned:
            if not self.empty(p):
                groups[_procedure(p)].append(p)
        return tuple(map(self._arm, groups.values()))

    def unit(self, planned: Planned) -> int:
        """The seed; where a method is audited, the teacher's number. Baselines have no teacher and keep their seed."""
        if self.plan.question == "model" or not planned.victim:
            return planned.seed
        return self.plan.subject(planned.victim).teacher

    def _arm(self, group: list[Planned]) -> Arm:
        found = [(p, self.done[p.key]) for p in group if p.key in self.done]
        runs = [
            Run(self.unit(p), p.seed, c.accuracy, self.right[p.key], self.fidelity.get(p.key))
            for p, c in found
            if c.accuracy is not None
        ]
        worked = tuple(cell for _, cell in found if cell.status == "ok")
        lost = sum(cell.status == "diverged" for _, cell in found)
        absent = len(group) - len(runs) - lost
        return Arm(tuple(group), worked, tuple(runs), self._score(group[0], worked), lost, absent)

    def _order(self, choice: Choice) -> list[Ranked] | None:
        """What a choice is made from, best first; None where a cell of it failed, so that nothing can be chosen."""
        if choice.among not in self._orders:
            try:
                order = ranked(self.done[key] for key in choice.among if key in self.done)
            except RunError:
                order = None
            self._orders[choice.among] = order
        return self._orders[choice.among]

    def _score(self, planned: Planned, found: tuple[Cell, ...]) -> float | None:
        """What the search gave an arm's settings."""
        if planned.choice is not None:
            order = self._order(planned.choice) or []
            return order[planned.choice.rank - 1].score if planned.choice.rank <= len(order) else None
        if not found:
            return None
        wanted = signature(found[0])
        searched = [p for p in self.plan.cells if p.role == "search" and p.victim == planned.victim]
        same = [p for p in searched if p.key in self.done and signature(self.done[p.key]) == wanted]
        return next((group.score for group in self.scores(same) if group.score > -math.inf), None)


def comparer(plan: Plan) -> Callable[[Arm, Arm], Difference]:
    """`compare(a, b)`: a − b, paired by seed or by teacher; unknown where either lost a cell or they share no unit."""

    @cache
    def compare(first: Arm, second: Arm) -> Difference:
        if not first.whole or not second.whole:
            return UNKNOWN
        if plan.question == "method" and "alone" in (first.side, second.side):
            return _against_baseline(first, second)
        one, other, ours, theirs = first.by_unit(), second.by_unit(), first.right(), second.right()
        shared = sorted(one.keys() & other.keys())
        if not shared:
            return UNKNOWN
        error = image_error([ours[unit] for unit in shared], [theirs[unit] for unit in shared])
        return interval([one[unit] - other[unit] for unit in shared], error)

    return compare


def _against_baseline(first: Arm, second: Arm) -> Difference:
    """Attacks on several teachers against baselines, which have none: each teacher's mean against baselines of the same seeds.

    Where all teachers were attacked with the same seeds, the baselines' variation is the same in each difference and does not show
    in their spread, so its standard error is added.
    """
    if first.side == second.side == "alone":
        return UNKNOWN
    sign = -1 if first.side == "alone" else 1
    attack, baseline = (second, first) if first.side == "alone" else (first, second)
    by_seed = {run.seed: run for run in baseline.runs}
    differences, ours, theirs = [], [], []
    used: set[tuple[int, ...]] = set()
    for unit in attack.by_unit():
        pairs = [(run, by_seed[run.seed]) for run in attack.runs if run.unit == unit and run.seed in by_seed]
        if not pairs:
            return UNKNOWN
        differences.append(sign * float(np.mean([run.accuracy - other.accuracy for run, other in pairs])))
        ours.append(np.mean([run.right_N for run, _ in pairs], axis=0))
        theirs.append(np.mean([other.right_N for _, other in pairs], axis=0))
        used.add(tuple(sorted(run.seed for run, _ in pairs)))
    shared = (0.0, 1)
    if len(used) == 1:
        accuracies = [by_seed[seed].accuracy for seed in next(iter(used))]
        count = len(accuracies)
        shared = (float(np.std(accuracies, ddof=1)) / math.sqrt(count) if count > 1 else math.inf, count)
    return interval(differences, image_error(ours, theirs), shared=shared)


def read(folder: Path) -> Evidence:
    """All of a folder's evidence.

    Raises:
        UsageError: there is no audit.
        RunError: a cell or its arrays are damaged, belong to other data, or contradict each other.
    """
    plan, store = read_plan(folder), Store(folder)
    found: dict[str, tuple[Path, Cell]] = {}
    for planned in plan.cells:
        place = store.place(planned.key)
        if place is not None:
            cell = cells.read(place)
            if cell.data and cell.data != plan.fingerprint:
                raise RunError(f"{place} was computed on other data ({cell.data}) than the plan's ({plan.fingerprint})")
            if not _fits(planned, cell):
                raise RunError(f"{folder}/done/{planned.key}.json names a cell that is not the planned one")
            found[planned.key] = (place.parent, cell)
    graph = Graph(map(task_of, plan.cells), {key: cell for key, (_, cell) in found.items()}.get)
    stale = frozenset(key for key in found if graph.current(key) is None)
    found = {key: value for key, value in found.items() if key not in stale}
    labels_N, model_N = _served(plan, found)
    predicted = _predicted(folder, plan, found, labels_N)
    right: dict[str, Right] = {key: predicted_N == labels_N for key, predicted_N in predicted.items()}
    fidelity = (
        {} if model_N is None else {key: 100 * float((each_N == model_N).mean()) for key, each_N in predicted.items()}
    )
    return Evidence(folder, plan, {key: cell for key, (_, cell) in found.items()}, right, fidelity, stale)


def _procedure(planned: Planned) -> str:
    """What all cells of one arm share: everything but seed, teacher and the cells that a choice is made from."""
    rank = None if planned.choice is None else planned.choice.rank
    label = planned.label if planned.choice is not None else ""
    fixed = [planned.side, planned.role, label, planned.attack, rank, planned.changes, planned.times]
    return json.dumps([*fixed, planned.card, planned.recipe.get("training"), planned.student], sort_keys=True)


def _fits(planned: Planned, cell: Cell) -> bool:
    """Whether a cell is of the threat model, seed and phase that are planned, and of the attack where the plan names one."""
    served = planned.role == "served"
    return (
        cell.card == planned.card
        and (served or cell.seeds.get("student") == planned.seed)
        and (cell.kind == "victim") == served
        and cell.phase == ("selection" if planned.role == "search" else "report")
        and planned.attack.get("name", cell.attack) == cell.attack
    )


def _served(plan: Plan, found: Mapping[str, tuple[Path, Cell]]) -> tuple[Classes | None, Classes | None]:
    """(the true classes of the test images, those that the audited model names; None for a method)."""
    labels_N: Classes | None = None
    model_N: Classes | None = None
    served = [
        (planned, *found[planned.key]) for planned in plan.cells if planned.role == "served" and planned.key in found
    ]
    for planned, home, cell in served:
        if cell.status != "ok":
            continue
        arrays = cells.read_arrays(home, cell)
        if "labels" not in arrays:
            raise RunError(f"{home / cell.id}.npz holds no labels of the test images")
        labels_N = arrays["labels"] if labels_N is None else labels_N
        if model_N is None and plan.question == "model" and plan.subject(planned.victim).side == "defended":
            model_N = arrays.get("predicted")
    return labels_N, model_N


def _predicted(
    folder: Path, plan: Plan, found: Mapping[str, tuple[Path, Cell]], labels_N: Classes | None
) -> dict[str, Classes]:
    """The classes that each report cell names, by key; RunError where they contradict its accuracy."""
    predicted: dict[str, Classes] = {}
    by_id: dict[str, Classes] = {}
    for planned in plan.cells:
        if planned.role in ("search", "served") or planned.key not in found:
            continue
        home, cell = found[planned.key]
        if cell.accuracy is None:
            continue
        if labels_N is None:
            raise RunError(f"{folder} has attacks but no cell of what users get, which holds the true labels")
        if cell.id not in by_id:
            by_id[cell.id] = _predicted_of(home, cell, labels_N)
        predicted[planned.key] = by_id[cell.id]
    return predicted


def _predicted_of(home: Path, cell: Cell, labels_N: Classes) -> Classes:
    predicted_N = cells.read_arrays(home, cell).get("predicted")
    if predicted_N is None or predicted_N.shape != labels_N.shape:
        raise RunError(f"{home / cell.id}.json has no predictions for the {len(labels_N)} test images")
    right = 100 * (predicted_N == labels_N).mean()
    if cell.accuracy is None or abs(right - cell.accuracy) > 1e-3:
        raise RunError(f"{home / cell.id}.json says {cell.accuracy} %, its predictions {right:.4f} %")
    return predicted_N
