"""How each task of a reproduction or a demo is done. Runs in worker processes; every task can be done again without harm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from undistill.data import Splits, load, locate
from undistill.defenses.protect import protect
from undistill.errors import Diverged, NotFinite
from undistill.experiments.cell import Array, Cell, identify
from undistill.experiments.extraction import attack
from undistill.experiments.graph import Graph
from undistill.experiments.graph import Task as Job
from undistill.experiments.runtime import Runtime
from undistill.experiments.store import Store
from undistill.experiments.victim_metrics import logit_response, victim_cell
from undistill.paper import figures
from undistill.paper.experiments import Figure
from undistill.training.environment import choose_device, describe
from undistill.training.recipe import Recipe, read
from undistill.training.run_folder import Run
from undistill.training.train import train

Kind = Literal["train", "protect", "attack"] | Figure


@dataclass(frozen=True)
class Task:
    """One run folder or figure. `settings` are all that fixes its numbers, `needs` the tasks it rests on, by key.

    `key` is the hash of kind and settings, so that experiments which share a part find each other's. `called` is the name of its
    folder, where that does not follow from label, seed and key.
    """

    kind: Kind
    label: str
    settings: dict[str, Any]
    needs: tuple[str, ...] = ()
    data: str = ""
    seed: int = 0
    called: str = ""
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", identify({"kind": self.kind, **self.settings}))

    @property
    def home(self) -> str:
        """The folder that holds its own."""
        return "students" if self.kind == "attack" else "teachers"

    @property
    def name(self) -> str:
        """The name of its folder. The label is for people: another experiment may have another for the same task."""
        return self.called or f"{self.label}-s{self.seed}-{self.key[:8]}"


@dataclass(frozen=True)
class PaperFolder(Store):
    """A reproduction or a demo on disk, where its data are, and what it runs on."""

    data_dir: Path | None = None
    runtime: Runtime = field(default_factory=Runtime)
    experiment: str = "reproduction"

    def graph(self, tasks: Mapping[str, Task], wanted: Iterable[str] | None = None) -> Graph:
        """These tasks (or the `wanted` ones of them) with what computes them, and which of them are done."""
        chosen = tasks if wanted is None else list(wanted)
        return Graph((self._job(tasks[key], tasks) for key in chosen), self.done)

    def _job(self, task: Task, tasks: Mapping[str, Task]) -> Job:
        return Job(task.key, task.needs, do, (self, task, {key: tasks[key] for key in task.needs}))

    def place_of(self, task: Task) -> Path:
        """A task's run folder, under the label that it was begun with."""
        home = self.folder / task.home
        known = () if task.called else sorted(home.glob(f"*-{task.key[:8]}"))
        return next(iter(known), home / task.name)

    def run(self, task: Task) -> Run:
        """The finished run of a task."""
        return Run.open(self.place_of(task))

    def recipe(self, values: dict[str, Any], **more: Any) -> Recipe:
        """A task's recipe, with where its data are."""
        return read({**values, "data": values["data"] | self.where(values["data"]["name"]), **more})

    def where(self, data: str) -> dict[str, str]:
        """`dir` of a data set, if it comes from a local folder; UsageError if that lacks it."""
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


def do(place: PaperFolder, task: Task, needed: dict[str, Task]) -> str:
    """Do one task whose needs are done, unless it is done; returns a line about it."""
    cell = place.done(task.key)
    if cell is None or cell.status == "failed":
        needs = {key: place.done(key) for key in task.needs}
        lost = next((key for key, need in needs.items() if need is None or need.status != "ok"), None)
        work = {"train": _train, "protect": _protect, "attack": _attack}.get(task.kind, _figure)
        cell, arrays = work(place, task, needed) if lost is None else (_without(place, task, needed[lost]), {})
        cell = place.put(task.key, cell.model_copy(update={"key": task.key}), arrays, label=task.label)
    got = cell.status if cell.status != "ok" else "" if cell.accuracy is None else f"{cell.accuracy:.2f}"
    return f"{task.label} seed {task.seed} {got}".rstrip()


def _train(place: PaperFolder, task: Task, _: dict[str, Task]) -> tuple[Cell, dict[str, Array]]:
    recipe = place.recipe(task.settings["recipe"])
    data = _data(recipe)
    try:
        run = train(
            None, data, recipe, seed=task.seed, out=place.place_of(task), resume=True, device=place.runtime.device
        )
    except (Diverged, NotFinite) as error:
        return _diverged(place, task, "normal", recipe, error), {}
    return victim_cell(run, data, place.experiment, device=choose_device(place.runtime.device))


def _protect(place: PaperFolder, task: Task, needed: dict[str, Task]) -> tuple[Cell, dict[str, Array]]:
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
            out=place.place_of(task),
            resume=True,
            device=place.runtime.device,
            bank=place.runtime.cache,
            accept_accuracy=True,
        )
    except (Diverged, NotFinite) as error:
        return _diverged(place, task, "nasty", recipe, error), {}
    return victim_cell(run, data, place.experiment, device=choose_device(place.runtime.device))


def _attack(place: PaperFolder, task: Task, needed: dict[str, Task]) -> tuple[Cell, dict[str, Array]]:
    settings = task.settings
    student = {key: settings[key] for key in ("attack", "student")}
    recipe = place.recipe(settings["recipe"], **student, seed=task.seed)
    cell = attack(
        place.run(needed[task.needs[0]]),
        _data(recipe),
        out=place.place_of(task),
        runtime=place.runtime,
        threat_model=settings["card"],
        recipe=recipe,
        seed=task.seed,
        cells=place.cells,
        experiment=place.experiment,
        resume=True,
        accept_accuracy=True,
    )
    return cell, {}


def _figure(place: PaperFolder, task: Task, needed: dict[str, Task]) -> tuple[Cell, dict[str, Array]]:
    normal, nasty = (place.run(needed[key]) for key in task.settings["victims"])
    settings = task.settings
    data = _data(place.recipe(needed[settings["victims"][0]].settings["recipe"]))
    if task.kind == "logit-response":
        return logit_response(normal, nasty, data, place.experiment, temperatures=settings["temperatures"])
    if task.kind == "embedding":
        return figures.embedding(
            normal,
            nasty,
            data,
            place.experiment,
            points=settings["points"],
            seed=task.seed,
            device=place.runtime.device,
        )
    return figures.inversion(
        normal,
        nasty,
        data,
        place.experiment,
        attack=settings["attack"],
        pictures=settings["pictures"],
        seed=task.seed,
        device=place.runtime.device,
    )


def _diverged(place: PaperFolder, task: Task, victim: str, recipe: Recipe, error: Exception) -> Cell:
    """A teacher whose loss was not finite: a result too."""
    return Cell(
        id=identify({"diverged": task.key}),
        kind="victim",
        experiment=place.experiment,
        victim=victim,
        victim_id="",
        defense=task.settings.get("defense", {}),
        student=recipe.model.name,
        student_settings=recipe.model.settings,
        seeds={"victim": task.seed},
        status="diverged",
        why=str(error),
        env=describe(choose_device(place.runtime.device)),
    )


def _without(place: PaperFolder, task: Task, lost: Task) -> Cell:
    """What could not be measured for want of a teacher."""
    kind: Any = {"protect": "victim", "attack": "cell"}.get(task.kind, "figure")
    return Cell(
        id=identify({"failed": task.key}),
        kind=kind,
        experiment=place.experiment,
        victim=lost.label,
        victim_id="",
        attack=task.settings.get("attack", {}).get("name", "") if task.kind == "attack" else "",
        seeds={"student": task.seed},
        status="failed",
        why=f"{lost.label} did not train",
    )
