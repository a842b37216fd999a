"""What `reproduce --dry-run` prints: every cell, the arithmetic, and a forecast of the time on this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from undistill.attacks.base import ATTACKS
from undistill.attacks.dafl import DAFL
from undistill.attacks.deep_inversion import DeepInversion
from undistill.errors import unknown
from undistill.experiments.cost import Cost, Shape, macs, speed
from undistill.experiments.executors.local import Local
from undistill.paper.compute import PaperFolder, Task
from undistill.paper.reproduce import prepare
from undistill.paper.scales import Settings
from undistill.threat_model import ThreatModel
from undistill.training.environment import choose_device
from undistill.training.precision import arithmetic

SOURCES: dict[str, tuple[int, int, Shape]] = {
    "digits": (1_797, 497, (10, 1, 8)),
    "cifar10": (50_000, 10_000, (10, 3, 32)),
    "cifar100": (50_000, 10_000, (100, 3, 32)),
    "tiny-imagenet": (100_000, 10_000, (200, 3, 64)),
}
"""(images to train on, test images, shape) of each data set, so that nothing need be read for an estimate."""
GPUS: dict[str, tuple[str, dict[str, float]]] = {
    "h200": ("NVIDIA H200", {"resnet18": 9_020.0, "resnetc20": 6_870.0, "cnn": 22_200.0}),
}
"""(name, images a second of training by network) in bf16: images × epochs over seconds, of evidence/laptop-resnet18.

Another network has the rate of the one whose multiply-adds are nearest, by their ratio: small ones are bound by launches."""
BACKWARD, THROUGH = 3, 2
"""Passes of a step of training, and of a gradient for images alone. A generator's own arithmetic is not counted."""


def estimate(
    tasks: Iterable[Task], everything: Mapping[str, Task], device: torch.device, on: str | None = None
) -> dict[str, Cost]:
    """Cost by task key, in the order of the tasks; evaluation is counted too.

    Time is measured for a step of each network once, on random images. Outputs that an earlier task leaves in the logit cache cost
    nothing more, as long as it has room. With `on`, time is that of a GPU which was measured before (`GPUS`).
    """
    estimator = _Estimator(everything, device, on)
    return {task.key: estimator.cost(task) for task in tasks}


class _Estimator:
    """What tasks cost one after another. `kept` holds how many outputs about which views the logit cache has by then."""

    def __init__(self, everything: Mapping[str, Task], device: torch.device, on: str | None = None) -> None:
        self.everything, self.device, self.on = everything, device, on
        self.kept: dict[str, int] = {}

    def cost(self, task: Task) -> Cost:
        """Of one task, those before it done."""
        if task.kind == "protect":
            normal = self.everything[task.settings["teacher"]]
            pushed = self.everything[task.settings.get("adversary", normal.key)]
            work = _work(normal)
            return self._training(normal, work) + self._outputs(pushed, work, f"{pushed.key}/nasty/{task.seed}")
        if task.kind == "train":
            return self._training(task, _work(task))
        if task.kind == "attack":
            return self._attack(task, self.everything[task.needs[0]])
        if task.kind == "inversion":
            attack = ATTACKS.make(task.settings["attack"])
            count = 2 * attack.iterations * attack.batch if isinstance(attack, DeepInversion) else 0
            return self._passes(self._root(self.everything[task.settings["victims"][0]]), count, THROUGH)
        return Cost()

    def _attack(self, task: Task, asked: Task) -> Cost:
        victim, attack, work = self._root(asked), ATTACKS.make(task.settings["attack"]), _work(task)
        if isinstance(attack, DAFL):
            work = task.settings["recipe"]["training"]["epochs"] * attack.steps * attack.batch
            return self._training(task, work) + self._passes(victim, work, THROUGH)
        if isinstance(attack, DeepInversion):
            training = task.settings["recipe"]["training"]
            work = attack.images * training["epochs"] * training["passes"]
            made = self._passes(victim, attack.images * attack.iterations, THROUGH)
            return made + self._training(task, work) + self._passes(victim, work)
        cost = self._training(task, work)
        if attack.control:
            return cost
        card = ThreatModel.parse(task.settings["card"])
        queries = work if card.questions is None else card.questions
        views = json.dumps(task.settings["recipe"]["data"]["views"]) if card.questions is None else str(card.questions)
        tests = _sizes(task)[1]
        return (
            cost
            + self._outputs(victim, queries, f"{asked.key}/{task.seed}/{views}/{card.share}")
            + self._outputs(victim, tests, f"{asked.key}/test")
        )

    def _root(self, task: Task) -> Task:
        """The ordinary training that a victim's network comes from."""
        return task if task.kind == "train" else self.everything[task.settings["teacher"]]

    def _training(self, task: Task, images: int) -> Cost:
        return self._passes(task, images, BACKWARD) + self._passes(task, _sizes(task)[1], exact=True)

    def _outputs(self, network: Task, count: int, about: str) -> Cost:
        """Outputs of a network about some views, as far as the logit cache lacks them."""
        known = self.kept.get(about, 0)
        self.kept[about] = max(known, count)
        return self._passes(network, max(0, count - known))

    def _passes(self, task: Task, images: int, times: int = 1, *, exact: bool = False) -> Cost:
        """So many images through a task's own network; `times` 3 with a step of training, `exact` in float32."""
        settings, shape = _network(task), _sizes(task)[2]
        name = json.dumps(settings, sort_keys=True)
        flop = 2.0 * times * macs(name, shape) * images
        if self.on is not None:
            size = {other: macs(name, shape) / macs(json.dumps({"name": other}), shape) for other in GPUS[self.on][1]}
            near = min(size, key=lambda other: abs(math.log(size[other])))
            return Cost(flop, images * times / BACKWARD / GPUS[self.on][1][near] * size[near])
        training = task.settings["recipe"]["training"]
        precision = "fp32" if exact else arithmetic(training["precision"], self.device)
        found = speed(name, shape, self.device, precision=precision)
        taken = found.training(images, training["batch"]) if times > 1 else found.output * images
        return Cost(flop, taken)


def _network(task: Task) -> Settings:
    if task.kind == "attack":
        return {key: value for key, value in task.settings["student"].items() if key != "recipe"}
    found: Settings = task.settings["recipe"]["model"]
    return found


def _sizes(task: Task) -> tuple[int, int, Shape]:
    """(training images, test images, shape) after the recipe's cuts."""
    data: dict[str, Any] = task.settings["recipe"]["data"]
    total, tests, (classes, channels, side) = SOURCES[data["name"]]
    rest = data.get("limit") or total
    rest -= sum(_count(data.get(part), rest) for part in ("test", "pool", "val"))
    return rest, tests, (classes, channels, data.get("size") or side)


def _count(value: float | None, total: int) -> int:
    return 0 if value is None else int(value) if value >= 1 else round(value * total)


def _work(task: Task) -> int:
    """Images that a task trains on, views counted each."""
    training = task.settings["recipe"]["training"]
    count = _sizes(task)[0]
    if task.kind == "attack":
        card = ThreatModel.parse(task.settings["card"])
        count = card.questions or round(card.share * count)
    return count * int(training["epochs"]) * int(training["passes"])


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
    on: str | None = None,
    **fixed: Any,
) -> Forecast:
    """The cells of these experiments, what plays each role, and what they would still cost; nothing is written.

    Args:
        names: of experiments.
        folder: where they would lie; cells that are done there cost nothing more.
        jobs: processes.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        data_dir: looked into for the data sets, if it is named; nothing is read.
        on: a GPU of `GPUS` that the time is given for, in place of this machine's.
        fixed: `scale`, `recipe`, `seed`, `seeds`, `only` as in `reproduce`.

    Raises:
        UsageError: as `reproduce`.
    """
    if on is not None and on not in GPUS:
        raise unknown("GPU with measured rates", on, GPUS)
    plan, planner = prepare(names, **fixed)
    where, place = choose_device(device), PaperFolder(folder, data_dir=data_dir)
    for data in {task.data for task in planner.tasks.values()}:
        place.where(planner.recipe(data).data.name)
    missing = {job.key for job in place.graph(planner.tasks).missing()}
    todo = [task for task in planner.tasks.values() if task.key in missing]
    costs = estimate(todo, planner.tasks, where, on)
    count = 1 if on else Local().at_once(jobs, device)
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
        "device": GPUS[on][0] if on else torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
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
        + (
            " By the rates that some networks had there, and the arithmetic of the others."
            if on
            else " Measured by a few steps of each network on an idle thread; a busy machine takes longer."
        )
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
