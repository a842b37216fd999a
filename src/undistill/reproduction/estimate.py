"""What a reproduction would cost: arithmetic counted, time guessed from a few measured steps on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from undistill.access import Card
from undistill.attacks.base import ATTACKS
from undistill.attacks.dafl import DAFL
from undistill.attacks.deep_inversion import DeepInversion
from undistill.models import Classifier, build
from undistill.models.base import MODELS
from undistill.reproduction.scales import Settings
from undistill.reproduction.tasks import Task

Shape = tuple[int, int, int]
"""(classes, channels, side in pixels)."""
SOURCES: dict[str, tuple[int, int, Shape]] = {
    "digits": (1_797, 497, (10, 1, 8)),
    "cifar10": (50_000, 10_000, (10, 3, 32)),
    "cifar100": (50_000, 10_000, (100, 3, 32)),
    "tiny-imagenet": (100_000, 10_000, (200, 3, 64)),
}
"""(images to train on, test images, shape) of each data set, so that nothing need be read for an estimate."""
BACKWARD, THROUGH = 3, 2
"""Passes of a step of training, and of a gradient for images alone. A generator's own arithmetic is not counted."""


@dataclass(frozen=True)
class Cost:
    """`flop` in all, `seconds` on one process of this machine."""

    flop: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flop + other.flop, self.seconds + other.seconds)


def estimate(tasks: Iterable[Task], everything: Mapping[str, Task], device: torch.device) -> dict[str, Cost]:
    """Cost by task key. Time is measured for a step of each network once, on random images; evaluation is counted too."""
    return {task.key: _cost(task, everything, device) for task in tasks}


def _cost(task: Task, everything: Mapping[str, Task], device: torch.device) -> Cost:
    if task.kind == "protect":
        normal = everything[task.settings["teacher"]]
        pushed = everything[task.settings.get("adversary", normal.key)]
        work = _work(normal)
        return _training(normal, work, device) + _passes(pushed, work, device)
    if task.kind == "train":
        return _training(task, _work(task), device)
    if task.kind == "attack":
        return _attack(task, everything[task.needs[0]], everything, device)
    if task.kind == "inversion":
        attack = ATTACKS.make(task.settings["attack"])
        count = 2 * attack.iterations * attack.batch if isinstance(attack, DeepInversion) else 0
        return _passes(_root(everything[task.settings["victims"][0]], everything), count, device, THROUGH)
    return Cost()


def _attack(task: Task, victim: Task, everything: Mapping[str, Task], device: torch.device) -> Cost:
    victim, attack, work = _root(victim, everything), ATTACKS.make(task.settings["attack"]), _work(task)
    if isinstance(attack, DAFL):
        work = task.settings["recipe"]["training"]["epochs"] * attack.steps * attack.batch
        return _training(task, work, device) + _passes(victim, work, device, THROUGH)
    if isinstance(attack, DeepInversion):
        training = task.settings["recipe"]["training"]
        work = attack.images * training["epochs"] * training["passes"]
        made = _passes(victim, attack.images * attack.iterations, device, THROUGH)
        return made + _training(task, work, device) + _passes(victim, work, device)
    cost = _training(task, work, device)
    if attack.control:
        return cost
    asked = Card.parse(task.settings["card"]).questions
    return cost + _passes(victim, (work if asked is None else asked) + _sizes(task)[1], device)


def _root(task: Task, everything: Mapping[str, Task]) -> Task:
    """The ordinary training that a victim's network comes from."""
    return task if task.kind == "train" else everything[task.settings["teacher"]]


def _training(task: Task, images: int, device: torch.device) -> Cost:
    tests = _passes(task, _sizes(task)[1], device)
    return _passes(task, images, device, BACKWARD) + tests


def _passes(task: Task, images: int, device: torch.device, times: int = 1) -> Cost:
    """So many images through a task's own network; `times` 3 with a step of training."""
    settings, shape = _network(task), _sizes(task)[2]
    name = json.dumps(settings, sort_keys=True)
    return Cost(2.0 * times * macs(name, shape) * images, seconds(name, shape, device, train=times > 1) * images)


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
        card = Card.parse(task.settings["card"])
        count = card.questions or round(card.share * count)
    return count * int(training["epochs"]) * int(training["passes"])


@cache
def macs(network: str, shape: Shape) -> int:
    """Multiply-adds of one image through a network, given as JSON."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _built(network, shape).eval()(torch.zeros(1, shape[1], shape[2], shape[2]))
    return counter.get_total_flops() // 2


@cache
def seconds(network: str, shape: Shape, device: torch.device, *, train: bool) -> float:
    """Seconds an image, from a timed step behind one that warms up; large images are timed at 32 pixels and scaled."""
    timed = (shape[0], shape[1], min(shape[2], 32))
    count = macs(network, timed)
    batch = 128 if device.type == "cuda" else max(4, min(128, 2_000_000_000 // count))
    model = _built(network, timed).to(device).train(train)
    images = torch.rand(batch, timed[1], timed[2], timed[2], device=device)
    spent = 0.0
    for _ in range(2):
        started = time.perf_counter()
        with torch.set_grad_enabled(train):
            answer = model(images)
            if train:
                answer.square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent = time.perf_counter() - started
    return spent / batch * macs(network, shape) / count


@lru_cache(maxsize=32)
def _built(network: str, shape: Shape) -> Classifier:
    return build(MODELS.make(json.loads(network)), *shape, seed=0)
