"""Tasks, what each waits for, which of them are done, and running those that are missing. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from undistill.experiments.cell import Cell
from undistill.experiments.executors import Executor, Job, run_jobs
from undistill.experiments.plan import Planned
from undistill.experiments.ranking import matches

Lookup = Callable[[str], Cell | None]


@dataclass(frozen=True)
class Task:
    """One cell to compute: `run(*arguments)` does it, in any process, and returns a line about it.

    `needs` are keys of tasks that are done first. Where the settings follow from a search, `among` are the tasks of the search,
    and `matches` says whether a cell has the settings that the search's cells give now. `seconds` are expected on one thread.
    """

    key: str
    needs: tuple[str, ...] = ()
    run: Callable[..., str] | None = None
    arguments: tuple[Any, ...] = ()
    seconds: float | None = None
    among: tuple[str, ...] = ()
    matches: Callable[[Cell, Sequence[Cell]], bool] | None = None


class Graph:
    """Tasks in an order in which each follows what it needs, and the cells that fill them.

    A cell is *valid* if it is there, did not fail, and has the settings that its search gives now.
    """

    def __init__(self, tasks: Iterable[Task], lookup: Lookup) -> None:
        self.tasks = {task.key: task for task in tasks}
        self.lookup = lookup
        self._known: dict[str, Cell | None] = {}

    def current(self, key: str) -> Cell | None:
        """The cell of a task, failed ones too; None where there is none or its search gives other settings by now."""
        if key not in self._known:
            self._known[key] = None
            task, cell = self.tasks[key], self.lookup(key)
            if cell is not None and task.matches is not None:
                searched = [self.current(other) for other in task.among]
                ok = [other for other in searched if other is not None and other.status != "failed"]
                if None in searched or not task.matches(cell, ok):
                    cell = None
            self._known[key] = cell
        return self._known[key]

    def valid(self, key: str) -> Cell | None:
        """The cell of a task, if it counts."""
        cell = self.current(key)
        return None if cell is None or cell.status == "failed" else cell

    def missing(self) -> tuple[Task, ...]:
        """The tasks to run, in order: those without a valid cell, and those whose search holds one of these."""
        found: dict[str, Task] = {}
        for key, task in self.tasks.items():
            if self.valid(key) is None or not found.keys().isdisjoint(task.among):
                found[key] = task
        return tuple(found.values())


def task_of(planned: Planned, run: Callable[..., str] | None = None, arguments: tuple[Any, ...] = ()) -> Task:
    """The task of an audit's planned cell."""
    choice, seconds = planned.choice, planned.seconds
    if choice is None:
        return Task(planned.key, planned.needs, run, arguments, seconds)
    return Task(planned.key, planned.needs, run, arguments, seconds, choice.among, partial(matches, planned))


def run(tasks: Sequence[Task], processes: int | None, executor: Executor, folder: Path) -> Iterator[str]:
    """Run these tasks, each after those of them that it needs; yields a line for each. Arguments and errors as `run_jobs`."""
    wanted = {task.key for task in tasks}
    jobs = [
        Job(t.key, t.run, t.arguments, tuple(key for key in t.needs if key in wanted), t.seconds)
        for t in tasks
        if t.run is not None
    ]
    yield from run_jobs(jobs, processes, executor, folder)
