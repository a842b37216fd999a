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

from undistill.errors import RunError


@dataclass(frozen=True)
class Job:
    """A function of a module and its arguments. It returns (a line to say, the jobs that may start now)."""

    call: Callable[..., tuple[str, list[Job]]]
    arguments: tuple[Any, ...]

    def __call__(self) -> tuple[str, list[Job]]:
        """Do it."""
        return self.call(*self.arguments)


def run_jobs(first: Sequence[Job], jobs: int | None = None) -> Iterator[str]:
    """Do these jobs and all that follow from them; yields each one's line. The first error ends it.

    Args:
        first: jobs that may start at once.
        jobs: processes; None for one a core, 1 for this very process.
    """
    if (count := jobs or len(os.sched_getaffinity(0))) == 1:
        yield from _here(list(first))
        return
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        pending: set[Future[tuple[str, list[Job]]]] = {pool.submit(job) for job in first}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                line, following = future.result()
                pending |= {pool.submit(job) for job in following}
                yield line
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process was killed, perhaps for memory; go on with --resume, or with fewer --jobs"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _here(queue: list[Job]) -> Iterator[str]:
    """One after another in this process, on one thread like a worker, for the number of threads moves the last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        while queue:
            line, following = queue.pop(0)()
            queue[:0] = following
            yield line
    finally:
        torch.set_num_threads(threads)


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
