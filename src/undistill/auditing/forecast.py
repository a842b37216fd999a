"""What an audit will cost: a few steps of each of its thieves are timed on this machine."""

from __future__ import annotations

import json
import math
import time
from functools import cache
from typing import Any

import torch

from undistill.access import Card
from undistill.auditing.planned import Plan, Planned
from undistill.losses import softened_kl
from undistill.models import build
from undistill.training.recipe import Student
from undistill.training.recipe import read as read_recipe

Shape = tuple[int, int, int]
STEPS = 5
"""Steps that are timed, behind one that warms up."""
OVERHEAD = 0.4
"""Seconds of a cell that are neither training nor evaluation: files, questions, checks."""
EXTRA = {"average": 1.0, "finetune": 2.0, "feature-kd": 1.3, "linear-probe": 0.3}
"""How much longer than distillation some attacks train, roughly."""


def forecast(plan: Plan, shape: Shape, *, trained: int, held_out: int, device: torch.device) -> Plan:
    """The plan with the seconds that each of its cells is expected to take in one process.

    Args:
        plan: of an audit.
        shape: classes, channels and side in pixels.
        trained: images that the victim was trained on.
        held_out: images that a search is scored on.
        device: that it will run on.
    """
    told = {cell.key: _seconds(cell, plan.test_images, shape, trained, held_out, device) for cell in plan.cells}
    cells = tuple(cell.model_copy(update={"seconds": round(told[cell.key], 2)}) for cell in plan.cells)
    return plan.model_copy(update={"cells": cells})


def _seconds(cell: Planned, tests: int, shape: Shape, trained: int, held_out: int, device: torch.device) -> float:
    if cell.role == "served":
        return OVERHEAD
    training, card = cell.recipe["training"], Card.parse(cell.card)
    student = {**cell.student, "width": cell.student.get("width", 1.0) * cell.times.get("student.width", 1.0)}
    step, answer = timed(json.dumps(student, sort_keys=True), training["batch"], shape, device)
    images = card.questions or round(card.share * trained)
    passes = training["epochs"] * training["passes"] * cell.times.get("training.passes", 1.0)
    shown = held_out + (0 if cell.role == "search" else tests)
    more = EXTRA.get(cell.attack.get("name", ""), 1.0)
    return passes * math.ceil(images / training["batch"]) * step * more + shown * answer + OVERHEAD


@cache
def timed(student: str, batch: int, shape: Shape, device: torch.device) -> tuple[float, float]:
    """(seconds of a step, seconds an image that it answers) of a student given as JSON, on random images."""
    classes, channels, side = shape
    wanted: dict[str, Any] = json.loads(student)
    network = build(Student.model_validate(wanted).network, classes, channels, side, seed=0).to(device)
    optimizer = read_recipe("digits").training.optimizer.build(network, batch)
    images_BCHW = torch.rand(batch, channels, side, side, device=device)
    answers_BC = torch.randn(batch, classes, device=device)
    began = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            _wait(device)
            began = time.perf_counter()
        loss = softened_kl(answers_BC, network(images_BCHW), 4.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    _wait(device)
    of_step = (time.perf_counter() - began) / STEPS
    network.eval()
    asked_BCHW = torch.rand(max(8, 128 * 32 * 32 // max(side, 32) ** 2), channels, side, side, device=device)
    with torch.no_grad():
        network(asked_BCHW)
        began = time.perf_counter()
        network(asked_BCHW)
        _wait(device)
    return of_step, (time.perf_counter() - began) / len(asked_BCHW)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
