"""Jobs: what waits for what, and what happens when one fails."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from undistill.errors import Busy, RunError, UndistillError, UsageError
from undistill.experiments.executors import Job, base, executor_of, run_jobs
from undistill.experiments.runtime import Runtime


def note(log: Path, word: str) -> str:
    with log.open("a") as file:
        file.write(f"{word}\n")
    return word


def wait_for(log: Path, *words: str) -> str:
    """Fails where one of the words was not written before."""
    said = log.read_text().split()
    if missing := [word for word in words if word not in said]:
        raise UsageError(f"started before {missing[0]}")
    return note(log, "+".join(words))


def fail() -> str:
    raise RunError("it broke")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.e2e)])
def test_a_job_starts_behind_all_that_it_waits_for(tmp_path: Path, processes: int) -> None:
    log = tmp_path / "log"
    jobs = [
        Job("a", note, (log, "a")),
        Job("b", note, (log, "b")),
        Job("ab", wait_for, (log, "a", "b"), ("a", "b")),
        Job("c", note, (log, "c")),
        Job("all", wait_for, (log, "a+b", "c"), ("ab", "c")),
    ]
    assert sorted(run_jobs(jobs, processes)) == ["a", "a+b", "a+b+c", "b", "c"]
    assert log.read_text().split()[-1] == "a+b+c"


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.e2e)])
def test_an_error_is_told_and_raised_when_the_others_are_done(tmp_path: Path, processes: int) -> None:
    log = tmp_path / "log"
    jobs = [Job("bad", fail, ()), Job("late", note, (log, "late"), ("bad",)), Job("free", note, (log, "free"))]
    said: list[str] = []
    with pytest.raises(RunError, match="it broke"):
        said.extend(run_jobs(jobs, processes))
    assert log.read_text() == "free\n"
    assert sorted(said) == ["failed: it broke", "free"]


def die(log: Path, times: int) -> str:
    """Kill this very process, so many times."""
    note(log, "died")
    if len(log.read_text().split()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@pytest.mark.e2e
def test_a_job_whose_process_is_killed_is_done_again_and_disturbs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    jobs = [Job("dies", die, (log, 2)), *(Job(name, note, (other, name)) for name in "abcd")]
    assert sorted(run_jobs(jobs, 2)) == ["a", "b", "c", "d", "survived"]
    assert sorted(other.read_text().split()) == list("abcd")  # each once
    assert caplog.text.count("dies is done again: a worker process was killed") == 2


@pytest.mark.e2e
def test_a_job_that_always_dies_is_given_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said: list[str] = []
    jobs = [Job("dies", die, (log, 9)), Job("late", note, (log, "late"), ("dies",)), Job("b", str.upper, ("b",))]
    with pytest.raises(RunError, match="perhaps for memory; fewer --jobs need less; the same command goes on"):
        said.extend(run_jobs(jobs, 2, "local retries=1"))
    assert sorted(line.partition(":")[0] for line in said) == ["B", "failed"]
    assert log.read_text().split() == ["died", "died"]


def test_a_cell_that_another_process_computes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LOOK", 0.0)
    waits = iter(range(2))

    def call() -> str:
        for _ in waits:
            raise Busy("in use")
        return "done"

    assert list(run_jobs([Job("a", call, ())], 1)) == ["done"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rey", "no executor called 'rey'; did you mean ray?"),
        ("ray gpu=1", "there is no setting 'gpu'; there are name, retries, address, cpus, gpus, memory"),
        ("slurm minutes=0", "minutes: input should be greater than 0"),
        ("local retries", "a setting of local is written SETTING=VALUE"),
        ("", "an executor is written NAME"),
    ],
)
def test_an_executor_that_there_is_not_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        executor_of(text)


@pytest.mark.parametrize(("name", "module", "extra"), [("ray", "ray", "ray"), ("slurm", "submitit", "slurm")])
def test_a_missing_extra_is_named(name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'undistill\[{extra}\]'"):
        list(run_jobs([Job("a", str, ())], executor=name))


def test_a_runtime_takes_an_executor_by_its_text_and_workers_compute_by_themselves() -> None:
    runtime = Runtime(executor="ray gpus=.25", jobs=8)  # type: ignore[arg-type]
    assert runtime.executor.settings["gpus"] == 0.25
    assert runtime.in_worker().executor.name == "local"
    assert runtime.at_once == 8


class Odd(UsageError):
    """An error that cannot be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def odd() -> str:
    raise Odd("out", "side")


def full() -> str:
    raise MemoryError


def wrong() -> str:
    raise ValueError("no such thing")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("call", "says"),
    [(odd, "outside"), (full, "too little memory; the same command"), (wrong, "bad failed: ValueError: no such thing")],
)
def test_whatever_a_job_raises_is_a_sentence_and_disturbs_no_other(call: Callable[[], str], says: str) -> None:
    said: list[str] = []
    with pytest.raises(UndistillError, match=says):
        said.extend(run_jobs([Job("bad", call, ()), Job("b", str.upper, ("b",)), Job("c", str.upper, ("c",))], 2))
    assert {"B", "C"} < set(said)


def test_no_workers_are_refused() -> None:
    with pytest.raises(UsageError, match="not 0"):
        list(run_jobs([Job("a", str, ())], 0))
