"""Which attack is best, by images held out alone: the search of an audit, read back. Never imports torch."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from undistill.errors import RunError
from undistill.experiments.cell import Cell
from undistill.experiments.plan import Planned


@dataclass(frozen=True)
class Ranked:
    """An attack with its best settings, as an attacker of the report takes them over.

    `score` is the mean of `held_out` over the search's seeds, percent; −inf where a cell diverged. `cells` are those of these
    settings.
    """

    attack: str
    settings: dict[str, Any]
    training: dict[str, Any]
    student: str
    student_settings: dict[str, Any]
    score: float
    cells: tuple[str, ...] = field(default=(), compare=False)

    @property
    def record(self) -> dict[str, Any]:
        """The attack as recipes write it: its name among its settings."""
        return {**self.settings, "name": self.attack}


def signature(cell: Cell) -> str:
    """What makes two cells the same attack but for seeds and victim: attack, training section, student, as JSON text."""
    return json.dumps(
        [cell.attack, cell.attack_settings, cell.recipe.get("training", {}), cell.student, cell.student_settings],
        sort_keys=True,
    )


def scores(cells: Iterable[Cell]) -> list[Ranked]:
    """Every group of equal settings with its mean score, best first; equal scores in the order of their settings' text.

    Reads `held_out` and nothing else that was measured: no number of the test images can change the order. A diverged cell
    scores −inf.

    Raises:
        RunError: a cell failed, or is done without a score. Choosing among the rest would choose by what crashed.
    """
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[signature(cell)].append(cell)
    found = [(text, _scored(group)) for text, group in groups.items()]
    return [ranked for _, ranked in sorted(found, key=lambda pair: (-pair[1].score, pair[0]))]


def ranked(cells: Iterable[Cell]) -> list[Ranked]:
    """Each attack once, with its best settings, the best attack first; without attacks that diverged at all of their settings.

    Errors as `scores`.
    """
    best: dict[str, Ranked] = {}
    for group in scores(cells):
        if group.score > -math.inf:
            best.setdefault(group.attack, group)
    return list(best.values())


def pick(cells: Iterable[Cell], rank: int) -> Ranked | None:
    """The attack of this rank (1 is the best), None where fewer attacks were tried. Errors as `scores`."""
    found = ranked(cells)
    return found[rank - 1] if rank <= len(found) else None


def matches(planned: Planned, cell: Cell, found: Sequence[Cell]) -> bool:
    """Whether a cell is of the attack and settings that its search gives now; `found` are cells of the search that did not fail.

    Compared are attack, settings, optimizer and clipping, with what the plan changes or multiplies. True where nothing is
    chosen, and for a cell that failed, which is computed again anyhow. A cell that only says that the search had no attack of
    this rank (diverged, without a recipe) matches as long as it has none.
    """
    if planned.choice is None or cell.status == "failed":
        return True
    try:
        best = pick(found, planned.choice.rank)
    except RunError:
        return False
    absent = cell.status == "diverged" and not cell.recipe
    if best is None or absent:
        return best is None and absent
    training = cell.recipe.get("training", {})
    same = (cell.attack, cell.attack_settings) == (best.attack, _under("attack.", planned.changes, best.settings))
    clip = planned.changes.get("training.clip", best.training.get("clip"))
    wanted = {**best.training.get("optimizer", {})}
    for name, factor in _under("training.optimizer.", planned.times, {}).items():
        wanted[name] = wanted[name] * factor if name in wanted else None
    return same and training.get("clip") == clip and _alike(training.get("optimizer", {}), wanted)


def _under(prefix: str, given: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The base with what is given for the names behind a prefix."""
    return {**base, **{path.removeprefix(prefix): value for path, value in given.items() if path.startswith(prefix)}}


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal, but for the last digit of a number that was multiplied."""

    def same(first: Any, second: Any) -> bool:
        numbers = isinstance(first, float) and isinstance(second, float)
        return math.isclose(first, second) if numbers else bool(first == second)

    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def _scored(group: Sequence[Cell]) -> Ranked:
    first = group[0]
    return Ranked(
        attack=first.attack,
        settings=first.attack_settings,
        training=first.recipe.get("training", {}),
        student=first.student,
        student_settings=first.student_settings,
        score=fmean(_score(cell) for cell in group),
        cells=tuple(cell.id for cell in group),
    )


def _score(cell: Cell) -> float:
    if cell.status == "diverged":
        return -math.inf
    if cell.status == "failed" or cell.held_out is None:
        raise RunError(
            f"no attacker can be chosen: {cell.attack} of the search, cell {cell.id}, has no score: {cell.why or cell.status}"
        )
    return cell.held_out
