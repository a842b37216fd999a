"""What an audit will cost: a few steps of each of its students are timed on this machine, as a worker would take them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from undistill.experiments.plan import Plan, Planned
from undistill.losses import softened_kl
from undistill.models import build
from undistill.threat_model import Card
from undistill.training.recipe import Student
from undistill.training.recipe import read as read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

Shape = tuple[int, int, int]
REPEATS = 5
"""Steps that are timed, after one that warms up; the fastest counts, as others were held up."""
OVERHEAD = 0.4
"""Seconds of a cell that are neither training nor evaluation: files, queries, checks."""
START = 4.0
"""Seconds until a worker process has imported torch and opened the data."""
VIEWS = 6e-8
"""Seconds that augmentation takes a value of a batch."""
SLOWER = 1.5
"""How much longer than the fastest steps the average one takes, at most, on a machine that has nothing else to do."""
EXTRA = {"average": 1.0, "finetune": 2.0, "feature-kd": 1.3, "linear-probe": 0.3, "head-refit": 0.5}
"""How much longer than distillation some attacks train, roughly."""


@dataclass(frozen=True)
class Span:
    """Seconds of wall time, from a machine that has nothing else to do to one that is as busy as it was when steps were timed."""

    low: float
    high: float


def forecast(plan: Plan, shape: Shape, *, trained: int, held_out: int, device: torch.device) -> Plan:
    """The plan with the seconds of processor time that each of its cells is expected to take.

    Args:
        plan: of an audit.
        shape: classes, channels and side in pixels.
        trained: images that the victim was trained on.
        held_out: images that a search is scored on.
        device: that it will run on.
    """
    expected = {cell.key: _seconds(cell, plan.test_images, shape, trained, held_out, device) for cell in plan.cells}
    cells = tuple(cell.model_copy(update={"seconds": round(expected[cell.key], 2)}) for cell in plan.cells)
    return plan.model_copy(update={"cells": cells})


def span(cells: Iterable[Planned], processes: int) -> Span:
    """Wall time of these cells, and of these alone, in so many processes; their `seconds` are a forecast's."""
    known = [cell.seconds or 0.0 for cell in cells]
    if not known:
        return Span(0.0, 0.0)
    count = min(processes, len(known))
    low = max(sum(known) / count, max(known)) + (START if count > 1 else 0.0)
    return Span(low, low * max(SLOWER, SLOWER * held_up()))


def _seconds(cell: Planned, tests: int, shape: Shape, trained: int, held_out: int, device: torch.device) -> float:
    if cell.role == "served":
        return OVERHEAD
    training, card = cell.recipe["training"], Card.parse(cell.card)
    student = {**cell.student, "width": cell.student.get("width", 1.0) * cell.times.get("student.width", 1.0)}
    step, output = timed(json.dumps(student, sort_keys=True), training["batch"], shape, device)
    images = card.questions or round(card.share * trained)
    passes = training["epochs"] * training["passes"] * cell.times.get("training.passes", 1.0)
    shown = held_out + (0 if cell.role == "search" else tests)
    more = EXTRA.get(cell.attack.get("name", ""), 1.0)
    return passes * math.ceil(images / training["batch"]) * step * more + shown * output + OVERHEAD


@cache
def timed(student: str, batch: int, shape: Shape, device: torch.device) -> tuple[float, float]:
    """(seconds of a step, seconds an image in evaluation) of a student given as JSON, on random images.

    Processor time of one thread, as workers have one; on an accelerator wall time. The least of several repetitions.
    """
    classes, channels, side = shape
    wanted: dict[str, Any] = json.loads(student)
    network = build(Student.model_validate(wanted).network, classes, channels, side, seed=0).to(device)
    optimizer = read_recipe("digits").training.optimizer.build(network, batch)
    images_BCHW = torch.rand(batch, channels, side, side, device=device)
    logits_BC = torch.randn(batch, classes, device=device)

    def step() -> None:
        loss = softened_kl(logits_BC, network(images_BCHW), 4.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    with _one_thread(device):
        of_step = _least(step, device)
        network.eval()
        many_BCHW = torch.rand(max(8, 128 * 32 * 32 // max(side, 32) ** 2), channels, side, side, device=device)
        with torch.no_grad():
            of_answers = _least(lambda: network(many_BCHW), device)
    return of_step + VIEWS * images_BCHW.numel(), of_answers / len(many_BCHW)


def _least(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest of several repetitions, after one that warms up."""
    work()
    found = []
    for _ in range(REPEATS):
        _wait(device)
        began, began_wall = time.process_time(), time.perf_counter()
        work()
        _wait(device)
        spent, wall = time.process_time() - began, time.perf_counter() - began_wall
        found.append(spent if device.type == "cpu" else wall)
        _seen.append((wall, spent))
    return min(found)


_seen: list[tuple[float, float]] = []
"""(wall time, processor time) of what was timed."""


def held_up() -> float:
    """How many times longer than its processor time the timed work took, because other programs were running; at least 1."""
    wall, spent = (sum(values) for values in zip(*_seen, strict=True)) if _seen else (1.0, 1.0)
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
