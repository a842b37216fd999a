"""Jobs of Slurm, by submitit: arrays of cells, requeued when their time is over, results through the shared folder."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from undistill import plugins
from undistill.errors import RunError, UsageError
from undistill.experiments.executors.base import EXECUTORS, Answer, Executor, Job, Lost, Workers, settle, work

log = logging.getLogger(__name__)
PAUSES = (2.0, 5.0, 15.0, 30.0)
"""Seconds after which Slurm is asked again to take jobs."""
LOOK = 0.5
"""Seconds between looks for results."""
ASK = 5.0
"""Seconds between questions to the queue, whether the jobs without a result are still in it."""
LIMIT = 500
"""Jobs that are queued at most, unless --jobs says how many."""
PREFIX = ".undistill-slurm-"
TIMES = 10
"""How often a job may use up its time and be queued again: it goes on from its checkpoint."""


@EXECUTORS.register
class Slurm(Executor):
    """Jobs on a Slurm cluster whose machines have the working folder, data and models at the same paths.

    `minutes` are a job's time limit; one that reaches it is queued again and goes on. `cpus`, `gpus` and `memory` (GB) are asked
    for each cell. `partition`, `account` and `qos` are the cluster's own names.
    """

    name: Literal["slurm"] = "slurm"
    partition: str = ""
    account: str = ""
    qos: str = ""
    minutes: int = Field(60, gt=0)
    cpus: int = Field(1, gt=0)
    gpus: int = Field(0, ge=0)
    memory: float = Field(4.0, gt=0)
    elsewhere = True

    def check(self) -> None:
        """UsageError without submitit or Slurm's commands."""
        _submitit()

    @contextmanager
    def open(self, jobs: int | None, folder: Path) -> Iterator[Workers]:
        """Submit from a folder of its own within the plan's; jobs that a driver left there are cancelled, at the end too."""
        submitit = _submitit()
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"undistill-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        _clear(name, folder)
        home, limit = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder)), jobs or LIMIT
        queue = _Queue(self._submitter(submitit, home, name, limit), home, name)
        try:
            yield Workers(queue.submit, limit, limit)
        finally:
            queue.ended.set()
            _clear(name, folder)

    def _submitter(self, submitit: Any, home: Path, name: str, limit: int) -> Any:
        found = submitit.SlurmExecutor(folder=home, max_num_timeout=TIMES)
        asked: dict[str, Any] = {"partition": self.partition, "qos": self.qos, "account": self.account}
        found.update_parameters(
            job_name=name,
            time=self.minutes,
            cpus_per_task=self.cpus,
            mem=f"{round(self.memory * 1024)}M",
            gpus_per_node=self.gpus or None,
            array_parallelism=limit,
            stderr_to_stdout=True,
            **{key: value for key, value in asked.items() if value},
        )
        return found


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError("the executor slurm needs submitit: pip install 'undistill[slurm]'") from None
    for command in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        if shutil.which(command) is None:
            raise UsageError(f"the executor slurm needs Slurm's commands, and {command} is not on this machine's path")
    return submitit


def _clear(name: str, folder: Path) -> None:
    """Cancel the jobs of this name, and remove what they left."""
    # Those that run are killed: one that may end by itself would hold its folder meanwhile.
    for how in (["--state=PENDING"], ["--signal=KILL", "--full"], []):
        subprocess.run(["scancel", f"--name={name}", *how], capture_output=True, check=False)  # noqa: S603, S607
    for left in folder.glob(f"{PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


class _Over(BaseException):
    """Passes through a job, which would take an Exception for its own."""


@dataclass(frozen=True)
class Call:
    """A job with all that it needs; where its time is over, the same is queued again."""

    environment: Mapping[str, str]
    folder: str
    job: Job

    def __call__(self) -> Answer:
        """The job's answer. That its time is over and it cannot be queued again is no result of the job."""
        queue_again: Any = signal.getsignal(signal.SIGUSR2)

        def over(*signalled: Any) -> None:
            try:
                queue_again(*signalled)
            except Exception as error:
                raise _Over(str(error)) from error

        if callable(queue_again):
            signal.signal(signal.SIGUSR2, over)
        try:
            return work(self.environment, self.folder, self.job)
        except _Over as error:
            return RunError(f"its time in Slurm is over: {error}")

    def checkpoint(self) -> Any:
        """What is queued again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Queue:
    """The jobs of one driver in Slurm's queue, watched from a thread."""

    def __init__(self, submitter: Any, home: Path, name: str) -> None:
        self.submitter, self.home, self.name = submitter, home, name
        self.waiting: dict[str, tuple[Any, Future[str]]] = {}
        self.missed: set[str] = set()
        self.queued = False
        self.ended, self.lock = threading.Event(), threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, jobs: Sequence[Job]) -> list[Future[str]]:
        """Queue them as one array. What Slurm refuses after it took others is tried again for a while, for it may be restarting."""
        calls = [Call(plugins.environment(), str(Path.cwd()), job) for job in jobs]
        futures: list[Future[str]] = [Future() for _ in calls]
        for pause in (*PAUSES, None) if self.queued else (None,):
            found = self._array(calls)
            if not isinstance(found, RunError):
                self.queued = True
                with self.lock:
                    self.waiting |= {job.job_id: (job, future) for job, future in zip(found, futures, strict=True)}
                break
            if not self.queued:
                raise found
            if pause is None or self.ended.wait(pause):
                for future in futures:
                    future.set_exception(found)
                break
        return futures

    def _array(self, calls: Sequence[Call]) -> list[Any] | RunError:
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError
        from submitit.helpers import clean_env

        try:
            where = {name: value for name, value in os.environ.items() if name == "SLURM_CONF"}
            with clean_env():  # of a job that the driver itself may be
                os.environ.update(where)
                return self.submitter.submit_array(calls)
        except (UncompletedJobError, FailedSubmissionError, OSError) as error:
            return RunError(f"sbatch refused the jobs: {_last(str(error))}")

    def _watch(self) -> None:
        asked = time.monotonic()
        while not self.ended.wait(LOOK):
            try:
                there = {path.name.partition("_0_result.pkl")[0] for path in self.home.glob("*_result.pkl")}
                for key in there & self.waiting.keys():
                    self._end(key, _result(self.waiting[key][0]))
                if time.monotonic() - asked > ASK:
                    asked = time.monotonic()
                    self._look()
            except OSError as error:  # too many files or processes, a folder that is gone for a moment
                log.warning("Slurm's queue cannot be looked at: %s", error)

    def _look(self) -> None:
        """Jobs that twice were neither in the queue nor had a result are lost."""
        told = subprocess.run(  # noqa: S603
            ["squeue", "--all", "--noheader", "--array", "--format=%i", f"--name={self.name}"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            env={name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")},
        )
        if told.returncode == 0:
            gone = self.waiting.keys() - {line.strip() for line in told.stdout.splitlines()}
            for key in gone & self.missed:
                said = _last(_text(self.waiting[key][0].paths.stdout))
                self._end(key, Lost(f"its job left Slurm's queue without a result{said and f' ({said})'}"))
            self.missed = gone - self.missed

    def _end(self, key: str, found: Answer) -> None:
        with self.lock:
            _, future = self.waiting.pop(key)
        settle(future, found)


def _result(job: Any) -> Answer:
    """What a job that has ended left, from a file that this driver's own job wrote into its own folder."""
    try:
        found: Answer = job.result()
    except Exception as error:  # noqa: BLE001  of submitit, of the pickle, of a package that is not here: the driver goes on
        return RunError(f"Slurm's job {job.job_id} failed: {_last(str(error))}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _last(text: str) -> str:
    """The last line that says something, which submitit's pointers to its logs do not."""
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line.strip(" -=") and not line.startswith(("- /", "You can check", "submitit"))]
    return said[-1][:300] if said else ""
