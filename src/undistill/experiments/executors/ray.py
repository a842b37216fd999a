"""Tasks of Ray: on a cluster that runs already, or one that is started on this machine."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from undistill import plugins
from undistill.errors import RunError, UsageError
from undistill.experiments.executors.base import EXECUTORS, Answer, Executor, Job, Lost, Workers, settle, work
from undistill.threads import usable

AHEAD = 4
"""Jobs that are handed over for each that can be worked on, so that no worker waits for the driver."""


@EXECUTORS.register
class Ray(Executor):
    """Tasks on a Ray cluster whose machines have the working folder, data and models at the same paths.

    `address` is that of a cluster's head (`auto`: the one of this machine), empty for a cluster of this machine alone; `cpus`,
    `gpus` (a fraction, as .25) and `memory` (GB) are reserved for a cell. A cell computes on one thread.
    """

    name: Literal["ray"] = "ray"
    address: str = ""
    cpus: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    memory: float = Field(0.0, ge=0)
    elsewhere = True

    def check(self) -> None:
        """UsageError without Ray."""
        _ray()

    @contextmanager
    def open(self, jobs: int | None, folder: Path) -> Iterator[Workers]:
        """Connect, and disconnect at the end, unless this program had a connection before."""
        ray = _ray()
        own = not ray.is_initialized()
        if own:
            self._connect(ray, jobs)
        try:
            self._has_room(ray)
            count = jobs or max(1, int(ray.cluster_resources().get("CPU", 1.0) / self.cpus))
            limit = jobs or AHEAD * count
            yield Workers(partial(_submit, ray, self._task(ray)), count, limit)
        finally:
            if own:
                ray.shutdown()

    def _connect(self, ray: Any, jobs: int | None) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        own = {"num_cpus": max(1, round((jobs or usable()) * self.cpus)), "include_dashboard": False}
        before = signal.getsignal(signal.SIGTERM)
        try:
            if self.address:
                _reach(self.address)
                ray.init(address=self.address, **quiet)
            else:
                ray.init(address="local", **own, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())
            raise UsageError(
                f"no Ray cluster at address {self.address or 'of this machine'}: {why[:200]}; `ray start --head` starts one"
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray's own would end the driver without a sentence

    def _has_room(self, ray: Any) -> None:
        """UsageError where no machine of the cluster could ever compute a cell; Ray would wait for one."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory * 1e9}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0.0) >= amount for name, amount in wanted.items()) for node in nodes):
            most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in wanted}
            raise UsageError(
                f"no machine of the Ray cluster has {self.cpus:g} CPUs, {self.gpus:g} GPUs and {self.memory:g} GB for a cell; the "
                f"largest have {most['CPU']:g}, {most['GPU']:g} and {most['memory'] / 1e9:.0f}"
            )

    def _task(self, ray: Any) -> Any:
        wanted: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0}
        if self.memory:
            wanted["memory"] = int(self.memory * 1e9)
        unseen = (
            {} if self.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        )  # not by an environment of Ray's, which it would have to make first
        told = ({**plugins.environment(), **unseen}, str(Path.cwd()))
        return partial(ray.remote(**wanted)(work).remote, *told)


def _reach(address: str) -> None:
    """OSError at once where nothing answers at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError("the executor ray needs Ray: pip install 'undistill[ray]'") from None
    return ray


def _submit(ray: Any, task: Callable[[Job], Any], jobs: Sequence[Job]) -> list[Future[str]]:
    return [_told(ray, task(job).future()) for job in jobs]


def _cause(ray: Any, error: Exception) -> Exception:
    if not isinstance(error, ray.exceptions.RaySystemError):
        return error
    why = str(error).partition("traceback:")[0].removeprefix("System error: ").strip()
    return RunError(f"a worker cannot load its job ({why}): all machines need the same packages")


def _told(ray: Any, inner: Future[Answer]) -> Future[str]:
    """A future of the line, which is Lost where Ray lost the worker."""
    told: Future[str] = Future()

    def done(inner: Future[Answer]) -> None:
        error = inner.exception()
        if isinstance(error, ray.exceptions.RayTaskError):
            told.set_exception(_cause(ray, error.cause))
        elif error is not None:
            told.set_exception(Lost(f"its worker is gone ({type(error).__name__})"))
        else:
            settle(told, inner.result())

    inner.add_done_callback(done)
    return told
