"""A whole reproduction as it would lie on disk, without any training. Its numbers are made up, and the same each time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reporting.synthetic import ENV
from undistill.experiments.cell import Cell, identify, save
from undistill.paper.experiments import EXPERIMENTS
from undistill.paper.plan import Plan, Point, write
from undistill.paper.published import ITSELF
from undistill.paper.reproduce import prepare

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PANELS = ("normal features", "normal logits", "nasty features", "nasty logits")


def plan_of(*names: str, scale: str = "smoke", seeds: int = 3, only: Sequence[str] = ()) -> Plan:
    """A real plan."""
    return prepare(names or ("all",), scale=scale, seeds=seeds, only=only)[0]


def accuracy(point: Point) -> float:
    """Between 40 and 96, lower for the nasty teacher's students, a little apart by seed."""
    if point.reported is not None:
        base = point.reported
    else:
        base = {"none": 86.0, "normal": 88.0, "nasty": 88.0}.get(point.arm, 90.0)
        x = float(point.x) if isinstance(point.x, int | float) else 0.5
        if point.column == ITSELF:
            base = 95.0
        elif point.arm == "nasty":
            slope = {"omega": -120.0, "temperature": -0.6, "alpha": -8.0, "fraction": 12.0}
            base += slope.get(point.experiment, -3.0) * x - (6 if point.experiment == "fraction" else 0)
    wobble = zlib.crc32(f"{point.name}".encode()) % 1000 / 1000 - 0.5
    return round(base + 0.8 * wobble + 0.3 * point.seed, 4)


def cell_of(point: Point, value: float | None, **changes: Any) -> Cell:
    """The cell that fills a point."""
    kind = "victim" if point.column == ITSELF else "control" if point.arm == "none" else "cell"
    values: dict[str, Any] = {
        "key": point.key,
        "kind": kind,
        "victim": point.arm,
        "victim_id": f"{point.arm}-{point.seed}",
        "attack": "kd" if kind == "cell" else "",
        "student": "cnn",
        "seeds": {"victim": point.seed, "student": point.seed},
        "accuracy": value,
        "n_test": 10_000,
        "data": "f1ngerpr1nt",
        "data_note": f"made-up {EXPERIMENTS[point.experiment].data}",
        "env": ENV,
        "seconds": 12.0,
    } | changes
    return Cell(id=identify({"key": point.key}), **values)


def figure_of(point: Point) -> tuple[Cell, dict[str, Any]]:
    """The cell of a figure, with its arrays."""
    generator = np.random.default_rng(point.seed)
    kind = EXPERIMENTS[point.experiment].figure
    own: dict[str, Any] = {"kind": "figure", "victim": "nasty", "attack": kind}
    if kind == "logit-response":
        labels = np.arange(3)
        sharp = 12 * np.eye(10, dtype=np.float32)[labels]
        arrays: dict[str, Any] = {
            "images": generator.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8),
            "labels": labels,
            "class_names": np.array(CLASSES),
            "normal": sharp + generator.normal(0, 1, (3, 10)).astype(np.float32),
            "hardened": sharp + generator.normal(4, 4, (3, 10)).astype(np.float32),
        }
        own["attack_settings"] = {"temperatures": [1.0, 4.0]}
    elif kind == "embedding":
        labels = generator.integers(0, 10, 900)
        middle = 30 * np.stack([np.cos(labels * 0.63), np.sin(labels * 0.63)], axis=1)
        arrays = {"labels": labels.astype(np.int16), "class_names": np.array(CLASSES)}
        numbers = {}
        for place, panel in enumerate(PANELS):
            arrays[panel] = (middle + generator.normal(0, 2 + 2 * place, (900, 2))).astype(np.float32)
            numbers[f"{panel} silhouette"] = 0.5 - 0.1 * place - 0.02 * place * point.seed
            numbers[f"{panel} knn"] = 95.0 - place + 0.1 * point.seed
        own["numbers"] = numbers
    else:
        targets = np.repeat(np.arange(10), 4)
        arrays = {
            who: generator.integers(low, 256, (40, 3, 32, 32), dtype=np.uint8)
            for who, low in (("normal", 0), ("nasty", 120))
        }
        arrays |= {"targets": targets, "class_names": np.array(CLASSES)}
    return cell_of(point, None, **own), arrays


def fill(
    folder: Path,
    plan: Plan,
    value: Callable[[Point], float | None] = accuracy,
    *,
    without: Iterable[str] = (),
    diverged: Iterable[str] = (),
) -> Path:
    """Write a plan and its cells below `folder`, which is returned; `without` and `diverged` are keys."""
    write(folder, plan)
    lost, gone = set(without), set(diverged)
    for key, point in {point.key: point for point in reversed(plan.points)}.items():
        if key in lost:
            continue
        if not point.column:
            save(folder / "cells", *figure_of(point))
        elif key in gone:
            save(folder / "cells", cell_of(point, None, status="diverged", why="the loss was not finite at step 3"))
        else:
            save(folder / "cells", cell_of(point, value(point)))
    return folder
