"""Independent trainings in parallel: processes of one thread each, because small networks wait for Python, not for cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from undistill import plugins
from undistill.errors import GO_ON, RunError, UndistillError
from undistill.progress import Step, tell
from undistill.threads import usable


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
        """Do it."""
        return self.call(*self.arguments)


def run_jobs(jobs: Sequence[Job], processes: int | None = None) -> Iterator[str]:
    """Do these jobs, in their order as far as they need not wait; yields each one's line.

    A job that fails is told of at once, those that wait for it are not begun, the others are done; then the first error is raised.

    Args:
        jobs: each after those that it waits for.
        processes: how many; None for one a core, 1 for this very process.
    """
    if (count := processes or usable()) == 1:
        yield from _counted(jobs, 1, _here(list(jobs)))
        return
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(plugins.environment(),))
    try:
        yield from _counted(jobs, count, _spread(pool.submit, count, list(jobs)))
    except BrokenProcessPool as error:
        raise RunError(
            f"a worker process was killed, perhaps for memory; with fewer --jobs it may fit, {GO_ON}"
        ) from error
    except (KeyboardInterrupt, SystemExit):  # a signal: what the workers are at is done again, from its checkpoint
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def processes(jobs: int | None, device: str) -> int | None:
    """How many: as asked, one on CUDA, or None for one a core."""
    if jobs is None and device != "cpu":
        import torch

        return 1 if torch.cuda.is_available() else None
    return jobs


def _counted(jobs: Sequence[Job], count: int, ended: Iterator[tuple[Job, str]]) -> Iterator[str]:
    """The lines of the jobs that ended, telling each time how far all of them are."""
    known = [job.seconds for job in jobs if job.seconds is not None]
    whole, spent = sum(known), 0.0
    told = len(known) == len(jobs) and whole > 0
    tell(Step("job", 0, len(jobs), 0.0, seconds=whole / count if told else None))
    for number, (job, line) in enumerate(ended, start=1):
        spent += job.seconds or 0.0
        tell(Step("job", number, len(jobs), spent / whole if told else number / len(jobs)))
        yield line


def _spread(submit: Callable[[Job], Future[str]], count: int, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
    """Hand out jobs one by one, the first that may start next; yields each that ended, with its line."""
    order = {job.key: number for number, job in enumerate(jobs)}
    sorter = TopologicalSorter({job.key: [key for key in job.after if key in order] for job in jobs})
    sorter.prepare()
    ready: list[int] = []
    failed: list[UndistillError] = []
    running: dict[Future[str], Job] = {}
    while True:
        ready = sorted([*ready, *(order[key] for key in sorter.get_ready())])
        while ready and len(running) < count:
            job = jobs[ready.pop(0)]
            running[submit(job)] = job
        if not running:
            break
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            job = running.pop(future)
            try:
                line = future.result()
                sorter.done(job.key)
            except UndistillError as error:  # what waits for it is never ready
                failed.append(error)
                line = f"failed: {error}"
            yield job, line
    if failed:
        raise failed[0]


def _here(jobs: list[Job]) -> Iterator[tuple[Job, str]]:
    """One after another in this process, on one thread like a worker, for the number of threads moves the last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _spread(_now, 1, jobs)
    finally:
        torch.set_num_threads(threads)


def _now(job: Job) -> Future[str]:
    """What a pool's `submit` gives, of a job that is done in this very process."""
    future: Future[str] = Future()
    try:
        future.set_result(job())
    except UndistillError as error:
        future.set_exception(error)
    return future


def _begin(environment: dict[str, str]) -> None:
    """In a worker: the parent's plugins and one thread. An interrupt or the parent's death ends it without a word."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _follow() -> None:
    """Die with the parent: a parent that was killed cannot stop them, and would leave workers behind that hold its folders."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
