"""What a reproduction would cost: arithmetic counted, time from a few measured steps of each network on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from undistill.attacks.base import ATTACKS
from undistill.attacks.dafl import DAFL
from undistill.attacks.deep_inversion import DeepInversion
from undistill.models import Classifier, build
from undistill.models.base import MODELS
from undistill.paper.scales import Settings
from undistill.paper.tasks import Task
from undistill.threat_model import Card
from undistill.training.evaluate import batch_of
from undistill.training.precision import Precision, arithmetic

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
    """Cost by task key, in the order of the tasks; evaluation is counted too.

    Time is measured for a step of each network once, on random images. Outputs that an earlier task leaves in the logit cache cost
    nothing more, as long as it has room.
    """
    estimator = _Estimator(everything, device)
    return {task.key: estimator.cost(task) for task in tasks}


class _Estimator:
    """What tasks cost one after another. `kept` holds how many outputs about which views the logit cache has by then."""

    def __init__(self, everything: Mapping[str, Task], device: torch.device) -> None:
        self.everything, self.device = everything, device
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
        card = Card.parse(task.settings["card"])
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
        training = task.settings["recipe"]["training"]
        batch = training["batch"] if times == BACKWARD else batch_of(shape[2], self.device)
        precision = "fp32" if exact else arithmetic(training["precision"], self.device)
        an_image = seconds(name, shape, self.device, train=times > 1, batch=batch, precision=precision)
        return Cost(2.0 * times * macs(name, shape) * images, an_image * images)


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
def seconds(
    network: str, shape: Shape, device: torch.device, *, train: bool, batch: int = 128, precision: Precision = "fp32"
) -> float:
    """Seconds an image on one idle thread: the fastest of three steps behind one that warms up.

    On a CPU the process's own time is taken, so that others at work do not count. Large images are timed at 32 pixels and scaled.
    """
    timed = (shape[0], shape[1], min(shape[2], 32))
    count = macs(network, timed)
    batch = batch if device.type == "cuda" else max(4, min(batch, 40_000_000_000 // count))
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    model = _built(network, timed).to(device).train(train)
    images = torch.rand(batch, timed[1], timed[2], timed[2], device=device).contiguous(
        memory_format=torch.channels_last
    )
    spent: list[float] = []
    for _ in range(4):
        started = clock()
        with torch.set_grad_enabled(train), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            answer = model(images)
        if train:
            answer.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(clock() - started)
    return min(spent[1:]) / batch * macs(network, shape) / count


@lru_cache(maxsize=32)
def _built(network: str, shape: Shape) -> Classifier:
    return build(MODELS.make(json.loads(network)), *shape, seed=0)
