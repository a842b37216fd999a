"""What `reproduce --dry-run` says: every cell, the arithmetic, and a guess of the time on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from undistill.experiments.executors import processes
from undistill.paper.estimate import Cost, estimate
from undistill.paper.reproduce import prepare
from undistill.paper.work import Place, finished
from undistill.threads import usable
from undistill.training.environment import choose_device

JUDGED = 3
"""Seeds from which on the paper's claims are judged."""


@dataclass(frozen=True)
class Forecast:
    """`text` for a terminal, `values` for programs."""

    text: str
    values: dict[str, Any]


def forecast(
    names: Sequence[str],
    folder: Path,
    *,
    jobs: int | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    **fixed: Any,
) -> Forecast:
    """The cells of these experiments, what plays each role, and what they would still cost; nothing is written.

    Args:
        names: of experiments.
        folder: where they would lie; cells that are done there cost nothing more.
        jobs: processes.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        data_dir: looked into for the data sets, if it is named; nothing is read.
        fixed: `scale`, `recipe`, `seed`, `seeds`, `only` as in `reproduce`.

    Raises:
        UsageError: as `reproduce`.
    """
    plan, planner = prepare(names, **fixed)
    where, place = choose_device(device), Place(folder, data_dir)
    for data in {task.data for task in planner.tasks.values()}:
        place.where(planner.recipe(data).data.name)
    todo = [task for task in planner.tasks.values() if finished(place, task.key) is None]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        costs = estimate(todo, planner.tasks, where)
    finally:
        torch.set_num_threads(threads)
    count = processes(jobs, device) or usable()
    total = sum(costs.values(), Cost())
    waiting = set(costs)
    rows: list[dict[str, Any]] = []
    for point in plan.points:
        state = "done" if point.key not in costs else "to do" if point.key in waiting else "shared"
        waiting.discard(point.key)
        own = costs[point.key] if state == "to do" else Cost()
        rows.append({"cell": point.name, "key": point.key, "state": state, "pflop": own.flop / 1e15, "s": own.seconds})
    parts = sum((costs[key] for key in waiting), Cost())  # adversaries, teachers that no wanted cell shows
    values = {
        "plan": plan.title,
        "cells": rows,
        "tasks": len(todo),
        "pflop": total.flop / 1e15,
        "core_seconds": total.seconds,
        "processes": count,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        "seconds": total.seconds / count,
    }
    lines = [
        f"{row['cell']:<44} {row['state']:<7}" + (_cost(row["pflop"], row["s"]) if row["state"] == "to do" else "")
        for row in rows
    ]
    if waiting:
        lines.append(
            f"{f'{len(waiting)} trainings that these stand on':<44} to do  {_cost(parts.flop / 1e15, parts.seconds)}"
        )
    when = f"{_time(total.seconds / count)} on {count} {'process' if count == 1 else 'processes'} ({values['device']})"
    stand_ins = _stand_ins(plan.networks, {task.data for task in planner.tasks.values()})
    if stand_ins:
        lines.append(f"\nnetworks: {'; '.join(stand_ins)}")
    if len(plan.seeds) < JUDGED:
        lines.append(f"\nseeds: {len(plan.seeds)}; no claim of the paper is judged below {JUDGED} (--seeds {JUDGED})")
    lines.append(
        f"\n{plan.title}: {len(rows)} cells, {len(todo)} trainings and figures to do, {total.flop / 1e15:,.3g} PFLOP, about {when}."
        " Measured by a few steps of each network on an idle thread; a busy machine takes longer."
    )
    return Forecast("\n".join(lines), values)


def _stand_ins(networks: dict[str, dict[str, str]], wanted: set[str]) -> list[str]:
    """`cnn, width 0.5 plays ResNet18 (cifar10)` for each role that another network than its own plays."""
    own = {"CNN": "cnn", "ResNetC-20": "resnetc20", "ResNetC-32": "resnetc32"}
    return [
        f"{network} plays {role} ({data})"
        for data in sorted(wanted)
        for role, network in networks[data].items()
        if network != own.get(role.removesuffix(" as a student"), role.removesuffix(" as a student").lower())
    ]


def _cost(pflop: float, seconds: float) -> str:
    return f"{pflop:>10.3g} PFLOP {_time(seconds):>10}"


def _time(seconds: float) -> str:
    for unit, size in (("days", 172_800), ("hours", 7_200), ("minutes", 120)):
        if seconds >= size:
            return f"{seconds / (size / 2):,.1f} {unit}"
    return f"{seconds:,.0f} s"
