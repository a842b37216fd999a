"""How each task of a reproduction is done. Runs in worker processes; every task can be done again without harm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from undistill.data import Splits, load, locate
from undistill.defenses.protect import protect
from undistill.errors import Diverged, NotFinite
from undistill.experiments.attack import attack
from undistill.experiments.cell import Array, Cell, identify, save
from undistill.experiments.cell import read as read_cell
from undistill.experiments.describe import logit_response, victim_cell
from undistill.files import read_json, write_json
from undistill.oracle.logit_cache import USUAL, Bank
from undistill.paper import figures
from undistill.paper.tasks import Task
from undistill.training.environment import choose_device, describe
from undistill.training.recipe import Recipe, read
from undistill.training.run_folder import Run
from undistill.training.train import train

EXPERIMENT = "reproduction"


@dataclass(frozen=True)
class Place:
    """Where a reproduction lies, where its data are, and what it runs on."""

    out: Path
    data_dir: Path | None = None
    device: str = "auto"
    bank: Bank | None = USUAL

    @property
    def cells(self) -> Path:
        """Where cells lie."""
        return self.out / "cells"

    def folder(self, task: Task) -> Path:
        """A task's run folder, under whatever label it was begun."""
        home = self.out / task.home
        return next(iter(sorted(home.glob(f"*-{task.key[:8]}"))), home / task.name)

    def run(self, task: Task) -> Run:
        """The finished run of a task."""
        return Run.open(self.folder(task))

    def recipe(self, values: dict[str, Any], **more: Any) -> Recipe:
        """A task's recipe, with where its data lie."""
        return read({**values, "data": values["data"] | self.where(values["data"]["name"]), **more})

    def where(self, data: str) -> dict[str, str]:
        """`dir` of a data set, where it comes from a local folder; UsageError where that lacks it."""
        if self.data_dir is None or data == "digits":
            return {}
        place = locate(data, self.data_dir)
        return {} if place is None else {"dir": str(place.resolve())}


@lru_cache(maxsize=4)
def data_of(settings: str) -> Splits:
    """The data of a recipe's section, as JSON; a worker opens each of them once."""
    return load(Recipe.model_validate_json(f'{{"data": {settings}}}').data)


def _data(recipe: Recipe) -> Splits:
    return data_of(recipe.data.model_copy(update={"views": ()}).model_dump_json())


def finished(place: Place, key: str) -> Cell | None:
    """The cell that fills a task's key, or None where there is work to do."""
    marker = place.out / "done" / f"{key}.json"
    told = read_json(marker) if marker.is_file() else None
    name = told.get("cell") if isinstance(told, dict) else None
    path = place.cells / f"{name}.json"
    if not isinstance(name, str) or not re.fullmatch(r"[0-9a-f]{16}", name) or not path.is_file():
        return None
    return read_cell(path)


def do(place: Place, task: Task, needed: dict[str, Task]) -> str:
    """Do one task whose needs are done, unless it is done; returns a line about it."""
    cell = finished(place, task.key)
    if cell is None:
        needs = {key: finished(place, key) for key in task.needs}
        lost = next((key for key, need in needs.items() if need is None or need.status != "ok"), None)
        work = {"train": _train, "protect": _protect, "attack": _attack}.get(task.kind, _figure)
        cell, arrays = work(place, task, needed) if lost is None else (_without(task, needed[lost]), {})
        cell = save(place.cells, cell.model_copy(update={"key": task.key}), arrays)
        if cell.status != "failed":  # what only wants its teacher is tried again
            write_json(place.out / "done" / f"{task.key}.json", {"cell": cell.id, "label": task.label})
    got = cell.status if cell.status != "ok" else "" if cell.accuracy is None else f"{cell.accuracy:.2f}"
    return f"{task.label} seed {task.seed} {got}".rstrip()


def _train(place: Place, task: Task, _: dict[str, Task]) -> tuple[Cell, dict[str, Array]]:
    recipe = place.recipe(task.settings["recipe"])
    data = _data(recipe)
    try:
        run = train(None, data, recipe, seed=task.seed, out=place.folder(task), resume=True, device=place.device)
    except (Diverged, NotFinite) as error:
        return _diverged(place, task, "normal", recipe, error), {}
    return victim_cell(run, data, EXPERIMENT, device=choose_device(place.device))


def _protect(place: Place, task: Task, needed: dict[str, Task]) -> tuple[Cell, dict[str, Array]]:
    normal = place.run(needed[task.settings["teacher"]])
    adversary = task.settings.get("adversary")
    recipe = place.recipe(needed[task.settings["teacher"]].settings["recipe"])
    data = _data(recipe)
    try:
        run = protect(
            normal,
            data,
            task.settings["defense"],
            adversary=None if adversary is None else place.run(needed[adversary]),
            seed=task.seed,
            out=place.folder(task),
            resume=True,
            device=place.device,
            bank=place.bank,
            accept_accuracy=True,
        )
    except (Diverged, NotFinite) as error:
        return _diverged(place, task, "nasty", recipe, error), {}
    return victim_cell(run, data, EXPERIMENT, device=choose_device(place.device))


def _attack(place: Place, task: Task, needed: dict[str, Task]) -> tuple[Cell, dict[str, Array]]:
    settings = task.settings
    student = {key: settings[key] for key in ("attack", "student")}
    recipe = place.recipe(settings["recipe"], **student, seed=task.seed)
    cell = attack(
        place.run(needed[task.needs[0]]),
        _data(recipe),
        card=settings["card"],
        recipe=recipe,
        seed=task.seed,
        out=place.folder(task),
        cells=place.cells,
        experiment=EXPERIMENT,
        resume=True,
        device=place.device,
        bank=place.bank,
        accept_accuracy=True,
    )
    return cell, {}


def _figure(place: Place, task: Task, needed: dict[str, Task]) -> tuple[Cell, dict[str, Array]]:
    normal, nasty = (place.run(needed[key]) for key in task.settings["victims"])
    settings = task.settings
    data = _data(place.recipe(needed[settings["victims"][0]].settings["recipe"]))
    if task.kind == "logit-response":
        return logit_response(normal, nasty, data, EXPERIMENT, temperatures=settings["temperatures"])
    if task.kind == "embedding":
        return figures.embedding(
            normal, nasty, data, EXPERIMENT, points=settings["points"], seed=task.seed, device=place.device
        )
    return figures.inversion(
        normal,
        nasty,
        data,
        EXPERIMENT,
        attack=settings["attack"],
        pictures=settings["pictures"],
        seed=task.seed,
        device=place.device,
    )


def _diverged(place: Place, task: Task, victim: str, recipe: Recipe, error: Exception) -> Cell:
    """A teacher whose loss was not finite: a result too."""
    return Cell(
        id=identify({"diverged": task.key}),
        kind="victim",
        experiment=EXPERIMENT,
        victim=victim,
        victim_id="",
        defense=task.settings.get("defense", {}),
        student=recipe.model.name,
        student_settings=recipe.model.settings,
        seeds={"victim": task.seed},
        status="diverged",
        why=str(error),
        env=describe(choose_device(place.device)),
    )


def _without(task: Task, lost: Task) -> Cell:
    """What could not be measured for want of a teacher."""
    kind: Any = {"protect": "victim", "attack": "cell"}.get(task.kind, "figure")
    return Cell(
        id=identify({"failed": task.key}),
        kind=kind,
        experiment=EXPERIMENT,
        victim=lost.label,
        victim_id="",
        attack=task.settings.get("attack", {}).get("name", "") if task.kind == "attack" else "",
        seeds={"student": task.seed},
        status="failed",
        why=f"{lost.label} did not train",
    )
