"""How many threads a training takes on this machine, and how they wait for each other. Never imports torch."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Read by GNU's OpenMP, which torch ships on Linux, and by LLVM's and Intel's, which it ships elsewhere."""
FLOP_PER_THREAD = 250e6
"""Floating-point operations of one forward pass over a batch from which one more thread pays.

Measured on two cores: a cnn on digits (80 MFLOP) is slower on two threads than on one, on 32 × 32 pixels (2.7 GFLOP) faster.
"""
WINDOW = 0.2
"""Seconds over which the use of the processor is measured, at least."""


def wait_passively() -> None:
    """Let threads that wait for each other sleep, unless the user's environment says how they wait. Before torch is imported.

    Threads that spin keep the core from the very thread that they wait for, when another process takes turns on it: a step
    of resnetc20 took 6.3 s spinning and 0.6 s sleeping beside two busy processes.
    """
    if not any(name in os.environ for name in (*WAITING, "GOMP_SPINCOUNT")):
        os.environ |= WAITING


def asked() -> int | None:
    """The number of threads that the user's environment sets (`OMP_NUM_THREADS`), or None."""
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(text) if text.isdigit() and int(text) > 0 else None


def usable() -> int:
    """Cores that this process may use, by its affinity and the limits of its control group; at least 1."""
    count = getattr(os, "process_cpu_count", os.cpu_count)  # from Python 3.13
    cores = len(affinity() or ()) or count() or 1
    limit = quota()
    return max(1, cores if limit is None else min(cores, int(limit)))


def affinity() -> set[int] | None:
    """The numbers of the cores that this process may use; None where the system keeps no such list (macOS, Windows)."""
    ask = getattr(os, "sched_getaffinity", None)
    return set(ask(0)) if ask else None


def quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores that control groups (version 1 or 2) allow: the tightest limit of its own and their parents; None for none."""
    limits: list[float] = []
    for line in _text(own).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        home = root / "cpu" if controllers else root
        steps = [part for part in path.split("/") if part]
        for count in range(len(steps) + 1):
            folder = home.joinpath(*steps[:count])
            if controllers:
                words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
            else:
                words = _text(folder / "cpu.max").split()
            if len(words) == 2 and all(word.strip().isdigit() for word in words) and int(words[1]):
                limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


@dataclass(frozen=True)
class Moment:
    """What the processor had done by a moment: seconds on the clock, core-seconds of everybody on our cores, and our own."""

    clock: float
    everybody: float | None
    own: float

    @classmethod
    def now(cls) -> Moment:
        """This moment; `everybody` is None where the system does not say (it does on Linux)."""
        return cls(time.monotonic(), _busy(), time.process_time())

    def others(self, later: Moment) -> float | None:
        """Cores that other processes used from this moment to a later one; None where that is not known."""
        if self.everybody is None or later.everybody is None or later.clock - self.clock < WINDOW / 2:
            return None
        return max(0.0, (later.everybody - self.everybody - (later.own - self.own)) / (later.clock - self.clock))


def others(since: Moment) -> float:
    """Cores that other processes used since then (or in the next instant, if that was just now)."""
    time.sleep(max(0.0, WINDOW - (time.monotonic() - since.clock)))
    used = since.others(Moment.now())
    if used is not None:
        return used
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(0.0, load - 1)  # our own process is counted


def choose(flop: float | None, cores: int, busy: float) -> tuple[int, str]:
    """(threads, why) for a training.

    Args:
        flop: of one forward pass over a batch; None if it is not known, which counts as large.
        cores: that this process may use.
        busy: how many of them other processes use.
    """
    free = max(1, int(cores - busy + 0.5))
    useful = cores if flop is None else max(1, int(flop / FLOP_PER_THREAD))
    count = min(cores, free, useful)
    if count == cores:
        return count, f"all of {cores}" if cores > 1 else "the only core"
    if free < useful:
        return count, f"of {cores} cores, other processes use {busy:.1f}"
    return count, f"of {cores} cores, more would not make this small network faster"


def _busy() -> float | None:
    """Core-seconds that all processes together have used on the cores that this one may use, since the system started."""
    mine = affinity()
    total, found = 0, False
    for line in _text(Path("/proc/stat")).splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and (mine is None or int(name[3:]) in mine):
            user, nice, system, _, _, irq, softirq, *_ = (int(field) for field in fields)
            total, found = total + user + nice + system + irq + softirq, True
    return total / os.sysconf("SC_CLK_TCK") if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
