"""This machine's processes, of one thread each: small networks wait for Python, not for cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from undistill import plugins
from undistill.errors import UndistillError
from undistill.experiments.executors.base import (
    EXECUTORS,
    Answer,
    Executor,
    Job,
    Lost,
    Workers,
    answer,
    begin_worker,
    settle,
)
from undistill.threads import usable

KILLED = "a worker process was killed, perhaps for memory; fewer --jobs need less"


@EXECUTORS.register
class Local(Executor):
    """Processes on this machine, --jobs of them; with --jobs 1, the command's own."""

    name: Literal["local"] = "local"

    def at_once(self, jobs: int | None, device: str) -> int:
        """As asked, one on CUDA, or one a core."""
        if jobs is None and device != "cpu":
            import torch

            return 1 if torch.cuda.is_available() else usable()
        return jobs or usable()

    @contextmanager
    def open(self, jobs: int | None, folder: Path) -> Iterator[Workers]:
        """Its processes; where the driver stops they end at once, and what they were at is done again from its checkpoint."""
        count = jobs or usable()
        if count == 1:
            with _one_thread():
                yield Workers(_here, 1, 1)
            return
        before = set(multiprocessing.active_children())
        pools = _Pools(count)
        try:
            yield Workers(pools.submit, count, count)
        except BaseException:
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()
            raise
        finally:
            pools.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread like a worker."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _here(jobs: Sequence[Job]) -> list[Future[str]]:
    """What a pool's `submit` gives, of jobs that are done in this very process."""
    return [_now(job) for job in jobs]


def _now(job: Job) -> Future[str]:
    future: Future[str] = Future()
    try:
        future.set_result(job())
    except UndistillError as error:
        future.set_exception(error)
    return future


class _Pools:
    """Pools of one process each, so that a process that is killed takes no other's job with it."""

    def __init__(self, count: int) -> None:
        self.idle = [_pool() for _ in range(count)]
        self.all = list(self.idle)

    def submit(self, jobs: Sequence[Job]) -> list[Future[str]]:
        """Each to a process that is idle; there are as many."""
        return [self._one(job) for job in jobs]

    def _one(self, job: Job) -> Future[str]:
        pool, told = self.idle.pop(), Future[str]()
        try:
            inner = pool.submit(answer, job)
        except BrokenProcessPool:  # killed while it waited
            inner = (pool := self._another(pool)).submit(answer, job)

        def done(inner: Future[Answer]) -> None:
            error = inner.exception()
            lost = isinstance(error, BrokenProcessPool)
            self.idle.append(self._another(pool) if lost else pool)
            if error is None:
                settle(told, inner.result())
            else:
                told.set_exception(Lost(KILLED) if lost else error)

        inner.add_done_callback(done)
        return told

    def _another(self, pool: ProcessPoolExecutor) -> ProcessPoolExecutor:
        """A pool in place of one whose process is gone."""
        pool.shutdown(wait=False)
        self.all.remove(pool)
        self.all.append(fresh := _pool())
        return fresh

    def close(self) -> None:
        """End all processes, once they are idle."""
        for pool in self.all:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in self.all:
            pool.shutdown()


def _pool() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=_begin, initargs=(plugins.environment(),))


def _begin(environment: dict[str, str]) -> None:
    """In a worker process: an interrupt or the parent's death ends it without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()
    begin_worker(environment)


def _follow() -> None:
    """Die with the parent: a parent that was killed cannot stop them, and would leave workers behind that hold its folders."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
