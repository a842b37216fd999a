"""Independent trainings in parallel: processes of one thread each, for small networks wait for Python, not for cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from undistill.errors import GO_ON, RunError, UndistillError


@dataclass(frozen=True)
class Job:
    """A function of a module and its arguments, which returns a line to say; it waits for the jobs of the keys in `after`."""

    key: str
    call: Callable[..., str]
    arguments: tuple[Any, ...]
    after: tuple[str, ...] = ()

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
    if (count := processes or len(os.sched_getaffinity(0))) == 1:
        yield from _here(list(jobs))
        return
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield from _spread(pool.submit, count, list(jobs))
    except BrokenProcessPool as error:
        raise RunError(
            f"a worker process was killed, perhaps for memory; with fewer --jobs it may fit, {GO_ON}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def processes(jobs: int | None, device: str) -> int | None:
    """How many: as asked, one on CUDA, or None for one a core."""
    if jobs is None and device != "cpu":
        import torch

        return 1 if torch.cuda.is_available() else None
    return jobs


def _spread(submit: Callable[[Job], Future[str]], count: int, waiting: list[Job]) -> Iterator[str]:
    """Hand out jobs one by one, so that the first that may start is the next that does."""
    done: set[str] = set()
    failed: list[UndistillError] = []
    running: dict[Future[str], str] = {}
    while True:
        while len(running) < count and (job := next((j for j in waiting if done.issuperset(j.after)), None)):
            waiting.remove(job)
            running[submit(job)] = job.key
        if not running:
            break
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            key = running.pop(future)
            try:
                line = future.result()
                done.add(key)
            except UndistillError as error:
                failed.append(error)
                line = f"failed: {error}"
            yield line
    if failed:
        raise failed[0]


def _here(jobs: list[Job]) -> Iterator[str]:
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


def _begin() -> None:
    """In a worker: one thread; an interrupt ends it without a word, for the parent speaks; so does the parent's death."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _follow() -> None:
    """Die with the parent: one that was killed can stop nobody, and would leave workers behind that hold its folders."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
