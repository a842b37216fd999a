"""Threads: what a machine has free, what a network makes use of, and how threads wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from undistill import threads
from undistill.threads import FLOP_PER_THREAD, Moment, choose, quota


@pytest.mark.parametrize(
    ("flop", "cores", "busy", "count"),
    [
        (None, 8, 0.0, 8),
        (None, 8, 6.2, 2),
        (None, 8, 8.0, 1),
        (None, 8, 20.0, 1),
        (None, 1, 0.0, 1),
        (0.1 * FLOP_PER_THREAD, 8, 0.0, 1),
        (3.5 * FLOP_PER_THREAD, 8, 0.0, 3),
        (3.5 * FLOP_PER_THREAD, 8, 6.0, 2),
        (0.0, 2, 0.0, 1),
    ],
)
def test_threads_are_those_that_pay_and_are_free(flop: float | None, cores: int, busy: float, count: int) -> None:
    chosen, why = choose(flop, cores, busy)
    assert chosen == count
    assert ("other processes" in why) == (busy > 5)


def groups(root: Path, own: str, files: dict[str, str]) -> float | None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "own").write_text(own)
    return quota(root, root / "own")


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "100000 100000\n"}, 1.0),
        (
            "3:cpuset:/x\n4:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("nonsense\n", {"cpu.max": "nonsense"}, None),
    ],
)
def test_the_limit_of_a_control_group_is_found(
    tmp_path: Path, own: str, files: dict[str, str], cores: float | None
) -> None:
    assert groups(tmp_path, own, files) == cores


def test_a_process_may_use_at_least_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "quota", lambda: 0.3)
    assert threads.usable() == 1


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_getaffinity", "process_cpu_count"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads.usable() == 6


def test_what_this_process_uses_is_not_others() -> None:
    assert Moment(10.0, 100.0, 5.0).others(Moment(12.0, 105.0, 6.5)) == pytest.approx(1.75)
    assert Moment(10.0, 100.0, 5.0).others(Moment(12.0, 101.0, 7.0)) == 0.0
    assert Moment(10.0, None, 5.0).others(Moment(12.0, 101.0, 7.0)) is None
    assert Moment(10.0, 100.0, 5.0).others(Moment(10.01, 100.0, 5.0)) is None


@pytest.mark.parametrize(("text", "count"), [("4", 4), ("4,2", 4), ("", None), ("0", None), ("many", None)])
def test_a_users_number_of_threads_is_read(monkeypatch: pytest.MonkeyPatch, text: str, count: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads.asked() == count


@pytest.mark.parametrize("name", [*threads.WAITING, "GOMP_SPINCOUNT"])
def test_a_users_way_of_waiting_is_kept(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in (*threads.WAITING, "GOMP_SPINCOUNT"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "7")
    threads.wait_passively()
    assert [os.environ.get(other) for other in (*threads.WAITING, "GOMP_SPINCOUNT")].count(None) == 2


def test_the_shell_waits_passively_before_torch_is_there() -> None:
    code = (
        "import os, sys\nfrom undistill.cli.main import main\n"
        "try: main(['--version'])\nfinally: print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_"))}
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout
    assert said.splitlines()[-1] == "PASSIVE False"
