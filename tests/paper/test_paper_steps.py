"""The paper's scale, a few steps of each kind of training: networks at full width, real sizes, batches of four."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from undistill.data import ImageSet, Splits
from undistill.experiments.extraction import attack
from undistill.experiments.runtime import Runtime
from undistill.paper import compute as work
from undistill.paper.compute import PaperFolder, Task, _attack, _protect, _train
from undistill.paper.forecast import SOURCES
from undistill.paper.planner import Planner
from undistill.paper.scales import FAST, PAPER, Scale
from undistill.training.recipe import read

pytestmark = pytest.mark.slow
IMAGES = 8


def kinds(scale: Scale) -> dict[str, tuple[Task, dict[str, Task]]]:
    """One task of each kind of training (data, networks, attack) by a name, with all tasks."""
    planner = Planner(scale, [0])
    planner.points(["table1", "table2", "table3", "adversary", "dafl", "deep-inversion"])
    found: dict[str, tuple[Task, dict[str, Task]]] = {}
    for task in planner.tasks.values():
        about: Any = task.settings.get("attack", {}).get("name", "")
        model = task.settings.get("student") or task.settings.get("recipe", {}).get("model") or task.label
        name = json.dumps([task.data, task.kind, about, model], sort_keys=True)
        if task.kind in ("train", "protect", "attack"):
            found.setdefault(name, (task, planner.tasks))
    return found


PAPERS = kinds(PAPER)


def short(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe of two steps at the learning rate of a batch of four; all else stays."""
    batch = IMAGES // 2
    optimizer = values["training"]["optimizer"]
    slower = {**optimizer, "lr": optimizer["lr"] * batch / values["training"]["batch"]}
    training = {**values["training"], "epochs": 1, "batch": batch, "passes": 1, "optimizer": slower}
    return {**values, "training": training}


def data(name: str) -> Splits:
    """Random images in the data set's own sizes."""
    classes, channels, side = SOURCES[name][2]
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, channels, side, side), generator=rng, dtype=torch.uint8)
    names = tuple(map(str, range(classes)))
    images = ImageSet.of(pixels, torch.arange(IMAGES) % classes, names)
    return Splits(
        name, images, None, None, images, f"random-{name}", "random", {}, (0.5,) * channels, (0.25,) * channels, {}
    )


@pytest.mark.parametrize("name", PAPERS)
def test_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, tasks = PAPERS[name]
    made = data(task.data)
    monkeypatch.setattr(work, "_data", lambda _: made)
    monkeypatch.setattr(PaperFolder, "recipe", lambda _, values, **more: read({**short(values), **more}))
    place = PaperFolder(tmp_path, runtime=Runtime("cpu"))
    monkeypatch.setattr(work, "attack", _capped(attack))
    done: dict[str, Any] = {}
    for one in _behind(task, tasks):
        do = {"train": _train, "protect": _protect, "attack": _attack}[one.kind]
        cell, _ = do(place, one, tasks)
        done[one.kind] = cell
    assert done[task.kind].status in ("ok", "diverged")
    assert (place.place_of(task) / "result.json").exists()


def _behind(task: Task, tasks: dict[str, Task]) -> list[Task]:
    """The task and what it needs, each once, needs first."""
    found: dict[str, Task] = {}
    for key in task.needs:
        found |= {one.key: one for one in _behind(tasks[key], tasks)}
    return [*found.values(), *([task] if task.key not in found else [])]


def _capped(call: Any) -> Any:
    """`attack` with two small steps of whatever a data-free attack does."""

    def capped(*arguments: Any, recipe: Any, **named: Any) -> Any:
        values = recipe.dump()
        cut = {"dafl": {"batch": 4, "steps": 2}, "deep-inversion": {"batch": 4, "images": 8, "iterations": 2}}
        values["attack"] |= cut.get(values["attack"]["name"], {})
        return call(*arguments, recipe=values, **named)

    return capped


def test_fast_recipes_differ_in_their_training_alone() -> None:
    assert kinds(FAST).keys() == PAPERS.keys()
