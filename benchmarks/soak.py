"""Thousands of tiny cells while workers are killed at random: nothing is lost, nothing grows, no time is wasted.

    python -m benchmarks.soak --out evidence/soak.json

A cell takes a stated time and is stored like any other; it does not import PyTorch, as a worker that trains does each time one
is started. Beside it: what a cell costs that does nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from undistill.experiments.cell import Cell
from undistill.experiments.executors import Job, run_jobs
from undistill.experiments.store import Store

LOOKS = 50
"""How often the driver's memory and open files are looked at."""


def cell(folder: Path, number: int, seconds: float) -> str:
    """Compute for so long, and store what came out; the line is how long it took."""
    began, found = time.perf_counter(), np.zeros(10)
    while time.perf_counter() - began < seconds:
        found += 1.0
    if seconds:
        key = f"{number:016x}"
        made = Cell(id=key, key=key, victim="none", victim_id="", seconds=seconds)
        Store(folder).put(key, made, {"found": found * 0})
    return str(time.perf_counter() - began)


def nothing() -> str:
    return ""


def workers(executor: str) -> list[int]:
    """The process ids of those who compute cells."""
    if executor == "local":
        return [child.pid for child in multiprocessing.active_children() if child.pid]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::work"):
                found.append(int(folder.name))
    return found


@contextmanager
def killing(executor: str, times: int, apart: float, seed: int) -> Iterator[list[int]]:
    """Kill a random worker now and then; yields those that were killed."""
    rng, ended = random.Random(seed), threading.Event()
    killed: list[int] = []

    def go() -> None:
        while len(killed) < times and not ended.wait(apart * rng.uniform(0.5, 1.5)):
            if alive := workers(executor):
                with suppress(ProcessLookupError):
                    os.kill(victim := rng.choice(alive), signal.SIGKILL)
                    killed.append(victim)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def look() -> tuple[float, int, int]:
    """The driver's (resident MB, open files, threads)."""
    status = Path("/proc/self/status").read_text()
    pages = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
    return pages, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def soak(executor: str, cells: int, kills: int, seconds: float, jobs: int, seed: int) -> dict[str, Any]:
    """Do it; what was lost and what it took."""
    apart = cells * seconds / jobs / (kills + 1)
    looks: list[tuple[float, int, int]] = []
    spent = 0.0
    with tempfile.TemporaryDirectory() as place, killing(executor, kills, apart, seed) as killed:
        folder = Path(place)
        todo = [Job(f"{n:016x}", cell, (folder, n, seconds)) for n in range(cells)]
        began = time.perf_counter()
        for number, line in enumerate(run_jobs(todo, jobs, f"{executor} retries=5"), start=1):
            spent += float(line)
            if number == jobs + 1:
                began, spent = time.perf_counter(), 0.0  # what the start of the workers takes is told apart
            if number % max(1, cells // LOOKS) == 0:
                looks.append(look())
        took, store = time.perf_counter() - began, Store(folder)
        there = sum(store.done(job.key) is not None for job in todo)
        left = [path.name for path in folder.rglob("*.part")]
    half = looks[len(looks) // 2 :]
    return {
        "what": "soak",
        "executor": executor,
        "workers": jobs,
        "cells": cells,
        "cell_seconds": seconds,
        "killed": len(killed),
        "lost": cells - there,
        "half_written": len(left),
        "seconds": round(took, 1),
        "over_the_sum": round(took / (spent / jobs) - 1, 3),
        "memory_mb": [round(looks[0][0], 1), round(looks[-1][0], 1)],
        "memory_growth_mb_second_half": round(half[-1][0] - half[0][0], 1),
        "open_files": [looks[0][1], looks[-1][1]],
        "threads": [looks[0][2], looks[-1][2]],
    }


def overhead(executor: str, cells: int, jobs: int) -> dict[str, Any]:
    """What a cell costs that does nothing: wall time, and the driver's processor time."""
    lines = run_jobs([Job(str(n), nothing, ()) for n in range(cells + jobs)], jobs, executor)
    for _ in range(jobs):  # until all have started
        next(lines)
    wall, own = time.perf_counter(), time.process_time()
    count = sum(1 for _ in lines)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return {
        "what": "a cell that does nothing",
        "executor": executor,
        "workers": jobs,
        "cells": count,
        "wall_ms": round(1e3 * wall / count, 2),
        "driver_ms": round(1e3 * own / count, 2),
        "cells_an_hour": round(3600 * count / wall),
    }


def main() -> None:
    """All rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", nargs="+", default=["local", "ray"])
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = []
    for executor in asked.executor:
        for jobs in (1, 2) if executor != "local" else (2,):
            rows.append(overhead(executor, asked.cells, jobs))
            print(rows[-1], flush=True)
        rows.append(soak(executor, asked.cells, asked.kills, asked.seconds, 2, asked.seed))
        print(rows[-1], flush=True)
    if asked.out is not None:
        import torch

        from undistill.training.environment import describe

        command = f"python -m benchmarks.soak --cells {asked.cells} --kills {asked.kills} --seed {asked.seed}"
        asked.out.write_text(json.dumps({"command": command, **describe(torch.device("cpu")), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
