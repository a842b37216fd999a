"""Independent trainings side by side: what waits for what, what is tried again, and who may do it. Never imports torch."""

from __future__ import annotations

import heapq
import logging
import os
import pickle
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

from pydantic import Field

from undistill.errors import GO_ON, Busy, RunError, UndistillError, UsageError
from undistill.progress import Step, tell
from undistill.registry import Component, Registry, parsed

log = logging.getLogger(__name__)
LOOK, PATIENCE = 1.0, 600.0
"""Seconds between two looks at a cell that another process is computing, and until it is left to that."""


class Lost(Exception):
    """A worker ended without an answer: it was killed, or its machine is gone. The job can be done again."""


@dataclass(frozen=True)
class Job:
    """A function of a module and its arguments, which returns a line to say; it waits for the jobs of the keys in `after`.

    `seconds` are what it is expected to take on one thread, for the time that is said to be left; None where that is unknown.
    """

    key: str
    call: Callable[..., str]
    arguments: tuple[Any, ...]
    after: tuple[str, ...] = ()
    seconds: float | None = None

    def __call__(self) -> str:
        """Do it. Where another process is at it, such as one that a driver which was killed has left, wait for that."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.call(*self.arguments)
            except Busy as error:
                if time.monotonic() > until:
                    raise
                log.warning("%s: %s", self.key, error)
                time.sleep(LOOK)


@dataclass(frozen=True)
class Workers:
    """What an executor has opened. `submit` hands over jobs, `limit` at most at a time; `count` of them are worked on at once."""

    submit: Callable[[Sequence[Job]], Sequence[Future[str]]]
    count: int
    limit: int


class Executor(Component):
    """Where jobs are done. A job whose worker is lost is done again, at most `retries` times.

    `elsewhere`: its workers are on several machines, so that a file that one cannot read or write is tried on another one.
    """

    retries: int = Field(2, ge=0)
    elsewhere: ClassVar[bool] = False

    def at_once(self, jobs: int | None, device: str) -> int | None:
        """How many jobs are worked on at once: as asked, or None for as many as there is room for."""
        return jobs

    def check(self) -> None:
        """UsageError where what it needs is not installed."""

    def open(self, jobs: int | None, folder: Path) -> AbstractContextManager[Workers]:
        """Its workers, until the block ends; what is still being done then is given up.

        Args:
            jobs: how many at a time; None for as many as there is room for.
            folder: of the plan; all workers reach it by the same path.

        Raises:
            UsageError: what it needs is not installed, or cannot be reached.
        """
        raise NotImplementedError


EXECUTORS: Registry[Executor] = Registry("executor", "undistill.experiments.executors")


def executor_of(asked: str | dict[str, Any] | Executor) -> Executor:
    """An executor from a shell text such as `ray address=auto gpus=.25`, its settings or itself; UsageError for what is none."""
    return EXECUTORS.make(parsed(asked, "executor", "slurm partition=long") if isinstance(asked, str) else asked)


def run_jobs(
    jobs: Sequence[Job], processes: int | None = None, executor: str | Executor = "local", folder: Path | None = None
) -> Iterator[str]:
    """Do these jobs, in their order as far as they need not wait; yields each one's line.

    A job that fails is told of at once, those that wait for it are not begun, the others are done; then the first error is raised.

    Args:
        jobs: each after those that it waits for.
        processes: how many at a time; None for one a core, or as many as a cluster takes. 1 is this very process where it can be.
        executor: who does them.
        folder: for what an executor has to write down.
    """
    chosen = executor_of(executor)
    if processes is not None and processes < 1:
        raise UsageError(f"at least one cell is computed at a time, not {processes}")
    known = [job.seconds for job in jobs if job.seconds is not None]
    whole, spent, failed = sum(known), 0.0, 0
    told = len(known) == len(jobs) and whole > 0
    with chosen.open(processes, folder or Path()) as workers:
        count = min(workers.count, len(jobs)) or 1
        tell(Step("job", 0, len(jobs), 0.0, seconds=whole / count if told else None))
        for number, (job, line, running) in enumerate(_spread(workers, list(jobs), chosen), start=1):
            spent += job.seconds or 0.0
            failed += is_failed(line)
            share = spent / whole if told else number / len(jobs)
            tell(Step("job", number, len(jobs), share, running=min(running, workers.count), failed=failed))
            yield line


def is_failed(line: str) -> bool:
    """Whether a job's line says that it failed."""
    return line.startswith("failed: ") or line.endswith("failed")


def _spread(workers: Workers, jobs: list[Job], executor: Executor) -> Iterator[tuple[Job, str, int]]:
    """Hand out jobs, the first that may start next; yields each that ended, its line, and how many are at work."""
    order = {job.key: number for number, job in enumerate(jobs)}
    sorter = TopologicalSorter({job.key: [key for key in job.after if key in order] for job in jobs})
    sorter.prepare()
    ready: list[int] = []
    errors: list[UndistillError] = []
    again: Counter[str] = Counter()
    running: dict[Future[str], Job] = {}
    ended: SimpleQueue[Future[str]] = SimpleQueue()
    while True:
        for key in sorter.get_ready():
            heapq.heappush(ready, order[key])
        batch = [jobs[heapq.heappop(ready)] for _ in range(min(len(ready), workers.limit - len(running)))]
        for job, future in zip(batch, workers.submit(batch) if batch else (), strict=True):
            running[future] = job
            future.add_done_callback(ended.put)
        if not running:
            break
        for future in _some(ended):
            job = running.pop(future)
            try:
                line = future.result()
                sorter.done(job.key)
            except (Lost, UndistillError) as error:
                again[job.key] += 1
                if again[job.key] <= executor.retries and _passes(error, executor):
                    log.warning("%s is done again: %s", job.key, error)
                    heapq.heappush(ready, order[job.key])
                    continue
                errors.append(error if isinstance(error, UndistillError) else RunError(f"{error}; {GO_ON}"))
                line = f"failed: {errors[-1]}"  # what waits for it is never ready
            yield job, line, len(running)
    if errors:
        raise errors[0]


def _passes(error: Exception, executor: Executor) -> bool:
    """Whether another worker may succeed where one did not."""
    return isinstance(error, Lost) or (executor.elsewhere and type(error) is RunError)


def _some(ended: SimpleQueue[Future[str]]) -> Iterator[Future[str]]:
    """Those that ended, at least one."""
    yield ended.get()
    while not ended.empty():
        yield ended.get()


def begin_worker(environment: Mapping[str, str]) -> None:
    """In a worker: the driver's plugins, and one thread, for the number of threads moves the last bits."""
    os.environ.update(environment)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # read by a torch that comes later
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


Answer = str | UndistillError | Lost
"""What a worker sends back: a job's line, or why there is none."""


def answer(job: Job) -> Answer:
    """In a worker: the job's line or its error, in a form that survives the way back."""
    try:
        return job()
    except UndistillError as error:
        return error if _travels(error) else RunError(str(error))
    except MemoryError:
        return Lost("its worker has too little memory")
    except Exception as error:
        log.exception(job.key)
        return RunError(f"{job.key} failed: {type(error).__name__}: {error}")


def _travels(error: Exception) -> bool:
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), type(error))  # noqa: S301  our own bytes
    except Exception:  # noqa: BLE001  whatever an exception of a plugin does
        return False


def settle(future: Future[str], found: Answer) -> None:
    """Give a driver's future what a worker sent."""
    if isinstance(found, str):
        future.set_result(found)
    else:
        future.set_exception(found)


def work(environment: Mapping[str, str], folder: str, job: Job) -> Answer:
    """On a worker of a cluster: the job's answer, in the driver's working folder."""
    try:
        os.chdir(folder)
    except OSError:
        return RunError(
            f"{socket.gethostname()} has no folder {folder}: the working folder is on a path that all machines share"
        )
    begin_worker(environment)
    return answer(job)
