"""Jobs: what waits for what, and what happens when one fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from undistill.errors import RunError, UsageError
from undistill.experiments.executors import Job, run_jobs


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
