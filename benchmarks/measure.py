"""Arms timed in turn, and the memory of a process with all its children."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Failed(Exception):
    """An arm ended badly."""


def once(command: list[str], threads: int | None = None) -> dict[str, Any]:
    """Run a command: `wall` seconds, `mib` at most (proportional set size of all its processes), and the JSON it printed last."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    environment.pop("OMP_NUM_THREADS", None)  # everybody chooses for himself, as PyTorch does if nobody speaks
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    most = [0.0]
    watcher = threading.Thread(target=_watch, args=(process.pid, most), daemon=True)
    watcher.start()
    out, errors = process.communicate()
    wall = time.perf_counter() - began
    watcher.join()
    if process.returncode:
        raise Failed(
            f"{' '.join(command)}: {errors.strip().splitlines()[-1] if errors.strip() else process.returncode}"
        )
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return {"wall": wall, "mib": round(most[0])} | (json.loads(lines[-1]) if lines else {})


def arm(python: str = sys.executable, module: str = "benchmarks.arm", **spec: Any) -> list[str]:
    """The command of one arm."""
    return [python, "-m", module, json.dumps(spec)]


def in_turn(commands: dict[str, list[str]], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Each command `repeats` times, alternately, so that a slow minute hits all of them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name].append(once(command))
    return found


def steady(runs: list[dict[str, Any]]) -> float:
    """Median seconds of an epoch behind the first, over all runs."""
    return statistics.median(seconds for run in runs for seconds in run["epochs"][1:] or run["epochs"])


def median(runs: list[dict[str, Any]], name: str) -> float:
    """Median of one number over all runs."""
    return statistics.median(run[name] for run in runs)


def _watch(pid: int, most: list[float]) -> None:
    """Keep the largest memory of a process and its descendants until it ends."""
    while Path(f"/proc/{pid}").exists() and _state(pid) not in ("Z", ""):
        total = sum(_pss(each) for each in _family(pid))
        most[0] = max(most[0], total / 1024)
        time.sleep(0.5)  # looking at a process's memory holds it up


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    except OSError:
        pass
    return found


def _pss(pid: int) -> int:
    """kB; memory that processes share is split between them."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
