"""What trainings will cost: arithmetic counted, and time from a few steps of each network, as a worker takes them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from undistill.errors import UndistillError
from undistill.experiments.plan import Plan, Planned
from undistill.models import Classifier, build
from undistill.models.base import MODELS
from undistill.threat_model import ThreatModel
from undistill.training.precision import Precision
from undistill.training.recipe import read as read_recipe

Shape = tuple[int, int, int]
"""(classes, channels, side in pixels)."""
Say = Callable[[str], None]
REPEATS = 5
"""Steps that are timed, after one that warms up; the fastest counts, because others were held up."""
LONGEST = 1.5
"""Seconds after which a timing is not repeated; a network has three timings."""
MOST_MACS = 4_000_000_000
"""Multiply-adds of a batch that is timed; the time of larger ones is extrapolated."""
FEW, MANY = 8, 64
"""Images of the two batches that are timed."""
OVERHEAD = 0.4
"""Seconds of a cell that are neither training nor evaluation: files, queries, checks."""
START = 4.0
"""Seconds until a worker process has imported torch and opened the data."""
VIEWS = 6e-8
"""Seconds that augmentation takes a value of a batch."""
SLOWER = 1.5
"""How much longer than the fastest steps the average one takes, at most, on an idle machine."""
EXTRA = {"average": 1.0, "finetune": 2.0, "feature-kd": 1.3, "linear-probe": 0.3, "head-refit": 0.5, "public": 0.1}
EXTRA |= dict.fromkeys(("semi", "semi-scratch"), 6.0) | dict.fromkeys(("active", "active-scratch"), 5.0)
"""How much longer than distillation some attacks train, roughly."""
UNDO = 8.0
"""Seconds that `inverse` takes to learn the way back."""


@dataclass(frozen=True)
class Cost:
    """`flop` in all, `seconds` on one process of this machine."""

    flop: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flop + other.flop, self.seconds + other.seconds)


@dataclass(frozen=True)
class Span:
    """Seconds of wall time, from an idle machine to one that is as busy as it was when steps were timed."""

    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """Seconds that a network takes on one thread: a training step, an image of its batch, an image in evaluation."""

    step: float
    image: float
    output: float

    def training(self, images: float, batch: int) -> float:
        """Seconds to train on so many images, in batches."""
        return math.ceil(images / batch) * self.step + images * self.image


@cache
def macs(network: str, shape: Shape) -> int:
    """Multiply-adds of one image through a network, given as JSON."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _built(network, shape).eval()(torch.zeros(1, shape[1], shape[2], shape[2]))
    return max(1, counter.get_total_flops() // 2)


@lru_cache(maxsize=32)
def _built(network: str, shape: Shape) -> Classifier:
    return build(MODELS.make(json.loads(network)), *shape, seed=0)


_speeds: dict[tuple[Any, ...], Speed] = {}
_held: list[tuple[float, float]] = []
"""(wall time, processor time) of what was timed."""


def speed(
    network: str, shape: Shape, device: torch.device, *, precision: Precision = "fp32", say: Say | None = None
) -> Speed:
    """How fast a network, given as JSON, is here, on random images; measured once in a process, in a few seconds at most.

    Processor time of one thread, as workers have one; on an accelerator wall time. The least of several repetitions counts.
    Batches of two sizes are timed, and others follow from them. Costly images are timed at 32 pixels and scaled.
    """
    key = (network, shape, device, precision)
    if key not in _speeds:
        if say is not None:
            say(f"timing a few steps of {_named(json.loads(network))}")
        with _one_thread(device):
            _speeds[key] = _measured(network, shape, device, precision)
    return _speeds[key]


def _measured(network: str, shape: Shape, device: torch.device, precision: Precision) -> Speed:
    timed, scale = _smaller(network, shape)
    count = macs(network, timed)
    model = build(MODELS.make(json.loads(network)), *timed, seed=0).to(device)
    optimizer = read_recipe("digits").training.optimizer.build(model, MANY)

    def step(size: int) -> Callable[[], None]:
        images_BCHW = torch.rand(size, timed[1], timed[2], timed[2], device=device)

        def work() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits_BC = model(images_BCHW)
            optimizer.zero_grad(set_to_none=True)
            logits_BC.float().square().mean().backward()
            optimizer.step()

        return work

    many = max(2, min(MANY, MOST_MACS // (3 * count)))
    few = min(FEW, many // 2)
    model.train()
    large = _least(step(many), device)
    image = large / many
    if few > 1:
        image = max(0.0, (large - _least(step(few), device)) / (many - few))
    outputs = max(2, min(128, MOST_MACS // count))
    images_BCHW = torch.rand(outputs, timed[1], timed[2], timed[2], device=device)
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = _least(lambda: model(images_BCHW), device) / outputs
    return Speed(large - image * many, image * scale + VIEWS * shape[1] * shape[2] ** 2, output * scale)


def _smaller(network: str, shape: Shape) -> tuple[Shape, float]:
    """(the shape that is timed, how much more arithmetic the real one is): 32 pixels, where larger images are costly."""
    small = (shape[0], shape[1], 32)
    if shape[2] <= 32 or 4 * macs(network, shape) < MOST_MACS // 3:
        return shape, 1.0
    try:
        return small, macs(network, shape) / macs(network, small)
    except (UndistillError, RuntimeError):  # it takes images of one size only
        return shape, 1.0


def _least(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest of several repetitions, after one that warms up, unless that took long already."""
    found, began = list[float](), time.perf_counter()
    for number in range(REPEATS + 1):
        _wait(device)
        start, start_wall = time.process_time(), time.perf_counter()
        work()
        _wait(device)
        spent, wall = time.process_time() - start, time.perf_counter() - start_wall
        late = time.perf_counter() - began > LONGEST
        if number > 0 or late:
            found.append(spent if device.type == "cpu" else wall)
            _held.append((wall, spent))
        if late:
            break
    return min(found)


def held_up() -> float:
    """How many times longer than its processor time the timed work took, because other programs were running; at least 1."""
    wall, spent = (sum(values) for values in zip(*_held, strict=True)) if _held else (1.0, 1.0)
    return max(1.0, wall / spent) if spent > 0 else 1.0


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _named(network: dict[str, Any]) -> str:
    width = network.get("width", 1.0)
    return str(network["name"]) + ("" if width == 1.0 else f", width {width:g}")


# -- audits ---------------------------------------------------------------------------------------------------------------


def forecast(
    plan: Plan, shape: Shape, *, trained: int, held_out: int, device: torch.device, say: Say | None = None
) -> Plan:
    """The plan of an audit with the seconds of processor time that each of its cells is expected to take.

    Args:
        plan: of an audit.
        shape: classes, channels and side in pixels.
        trained: images that the victim was trained on.
        held_out: images that a search is scored on.
        device: that it will run on.
        say: receives a line for each network that is timed.
    """

    def seconds(cell: Planned) -> float:
        if cell.role == "served":
            return OVERHEAD
        training, card = cell.recipe["training"], ThreatModel.parse(cell.card)
        width = cell.student.get("width", 1.0) * cell.times.get("student.width", 1.0)
        network = {**cell.student.get("settings", {}), "name": cell.student["name"], "width": width}
        found = speed(json.dumps(network, sort_keys=True), shape, device, say=say)
        passes = training["epochs"] * training["passes"] * cell.times.get("training.passes", 1.0)
        images = card.questions or round(card.share * trained)
        extra = UNDO if cell.attack.get("name") == "inverse" else 0.0
        shown = held_out + (0 if cell.role == "search" else plan.test_images)
        more = EXTRA.get(cell.attack.get("name", ""), 1.0)
        return passes * more * found.training(images, training["batch"]) + shown * found.output + OVERHEAD + extra

    cells = tuple(cell.model_copy(update={"seconds": round(seconds(cell), 2)}) for cell in plan.cells)
    return plan.model_copy(update={"cells": cells})


def span(cells: Iterable[Planned], processes: int) -> Span:
    """Wall time of these cells, and of these alone, in so many processes; their `seconds` are a forecast's."""
    known = [cell.seconds or 0.0 for cell in cells]
    if not known:
        return Span(0.0, 0.0)
    count = min(processes, len(known))
    low = max(sum(known) / count, max(known)) + (START if count > 1 else 0.0)
    return Span(low, low * max(SLOWER, SLOWER * held_up()))
