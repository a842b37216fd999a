"""Grid × scale × seeds → points and the tasks that fill them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from undistill.attacks.base import ATTACKS
from undistill.errors import UsageError
from undistill.paper.compute import Task
from undistill.paper.experiments import Experiment, Figure, named
from undistill.paper.plan import Point
from undistill.paper.published import ITSELF, SELF, reported
from undistill.paper.scales import Scale, Stage
from undistill.training.recipe import Recipe, component, read

Filled = tuple[Point, Task]


class Planner:
    """Plans one scale. `tasks` holds every task by key; each follows what it needs."""

    def __init__(self, scale: Scale, seeds: Sequence[int]) -> None:
        self.scale, self.seeds = scale, tuple(seeds)
        self.tasks: dict[str, Task] = {}
        self._recipes: dict[str, Recipe] = {}

    def points(self, names: Sequence[str], only: Sequence[str] = ()) -> tuple[Point, ...]:
        """The points of these experiments; with `only`, those whose name matches a pattern, and what they need.

        Raises:
            UsageError: a pattern that matches nothing.
        """
        chosen = self.experiments(names)
        filled = [pair for experiment in chosen for seed in self.seeds for pair in self._experiment(experiment, seed)]
        for pattern in only:
            if not any(fnmatchcase(point.name, pattern) for point, _ in filled):
                raise UsageError(f"no cell is called {pattern!r}; --dry-run shows how they are called")
        if only:
            filled = [pair for pair in filled if any(fnmatchcase(pair[0].name, pattern) for pattern in only)]
            self.keep(task.key for _, task in filled)
        return tuple(dict.fromkeys(point for point, _ in filled))

    def experiments(self, names: Sequence[str]) -> tuple[Experiment, ...]:
        """The experiments of these names, as far as the scale has their data; UsageError for a name of which it has none."""
        found: dict[Experiment, None] = {}
        for name in names:
            here = [experiment for experiment in named(name) if experiment.data in self.scale.stages]
            if not here:
                raise UsageError(f"--scale {self.scale.name} has no {named(name)[0].data}, which {name} needs")
            found |= dict.fromkeys(here)
        return tuple(found)

    def keep(self, keys: Iterable[str]) -> None:
        """Forget all tasks but these and those that they need."""
        wanted: set[str] = set()
        for key in keys:
            self._mark(key, wanted)
        self.tasks = {key: task for key, task in self.tasks.items() if key in wanted}

    def _mark(self, key: str, wanted: set[str]) -> None:
        if key not in wanted:
            wanted.add(key)
            for need in self.tasks[key].needs:
                self._mark(need, wanted)

    def _experiment(self, experiment: Experiment, seed: int) -> Iterator[Filled]:
        if experiment.vary == "adversary":
            yield from self._adversaries(experiment, seed)
        elif experiment.vary:
            yield from self._sweep(experiment, seed)
        elif experiment.kind == "table":
            yield from self._table(experiment, seed)
        if experiment.figure:
            yield _fill(experiment, seed, self._figure(experiment, experiment.figure, seed), experiment.teachers[0])

    def _table(self, experiment: Experiment, seed: int) -> Iterator[Filled]:
        if "none" in experiment.arms:
            for column in experiment.students:
                if column != SELF or len(experiment.teachers) == 1:
                    task = self._alone(experiment, column, seed)
                    yield _fill(experiment, seed, task, "", "none", column)
        for teacher in experiment.teachers:
            for arm in experiment.arms:
                if arm == "none":
                    continue
                victim = self._victim(experiment, teacher, arm, seed)
                yield _fill(experiment, seed, victim, teacher, arm, ITSELF)
                for column in experiment.students:
                    if column != teacher:
                        task = self._student(experiment, teacher, column, seed, victim)
                        yield _fill(experiment, seed, task, teacher, arm, column)

    def _sweep(self, experiment: Experiment, seed: int) -> Iterator[Filled]:
        teacher, vary = experiment.teachers[0], experiment.vary
        for column in self._columns(experiment) if "none" in experiment.arms else ():
            for x in experiment.values if vary == "fraction" else (None,):
                task = self._alone(experiment, column, seed, share=float(x or 1))
                yield _fill(experiment, seed, task, "", "none", column, x)
        for arm in experiment.arms:
            for place, x in enumerate(experiment.values if arm != "none" else ()):
                defense = {"omega": x} if vary == "omega" else {}
                victim = self._victim(experiment, teacher, arm, seed, defense)
                if defense or place == 0:
                    yield _fill(experiment, seed, victim, teacher, arm, ITSELF, x if defense else None)
                varied: dict[str, Any] = {vary: x} if vary in ("temperature", "alpha") else {}
                share = float(x) if vary == "fraction" else 1.0
                for column in self._columns(experiment):
                    task = self._student(experiment, teacher, column, seed, victim, varied, share)
                    yield _fill(experiment, seed, task, teacher, arm, column, x)

    def _adversaries(self, experiment: Experiment, seed: int) -> Iterator[Filled]:
        teacher = experiment.teachers[0]
        for role in map(str, experiment.values):
            if role not in self.stage(experiment).networks:
                continue
            victim = self._victim(experiment, teacher, "nasty", seed, adversary="" if role == teacher else role)
            yield _fill(experiment, seed, victim, teacher, "nasty", ITSELF, role)
            for column in self._columns(experiment):
                task = self._student(experiment, teacher, column, seed, victim)
                yield _fill(experiment, seed, task, teacher, "nasty", column, role)

    def _columns(self, experiment: Experiment) -> tuple[str, ...]:
        return self.scale.sweep_students or experiment.students

    def stage(self, experiment: Experiment) -> Stage:
        """What stands for the experiment's data set."""
        return self.scale.stages[experiment.data]

    def recipe(self, data: str) -> Recipe:
        """How the teachers of a data set are trained."""
        if data not in self._recipes:
            stage = self.scale.stages[data]
            self._recipes[data] = read(stage.recipe, stage.changes)
        return self._recipes[data]

    def _teacher(self, experiment: Experiment, role: str, seed: int, own: str | None = None) -> Task:
        """An ordinary training of the network that plays a role; `own` is another recipe for it."""
        recipe = self.recipe(experiment.data)
        values = component(recipe.dump(), "model", self.stage(experiment).networks[role])
        if own is not None:
            values["training"] = read(own).dump()["training"]
        settings = {"recipe": bare(values), "seed": seed}
        return self._keep(Task("train", f"normal-{_safe(role)}", settings, (), experiment.data, seed))

    def _victim(
        self,
        experiment: Experiment,
        role: str,
        arm: str,
        seed: int,
        defense: dict[str, Any] | None = None,
        adversary: str = "",
    ) -> Task:
        """A normal teacher, or its nasty version; ω = 0 is no push, and so the normal one."""
        normal = self._teacher(experiment, role, seed)
        if arm == "normal" or (defense or {}).get("omega") == 0:
            return normal
        values = normal.settings["recipe"]
        chosen = {**values["defense"], **(defense or {})}
        settings = {"teacher": normal.key, "defense": chosen, "seed": seed}
        needs: tuple[str, ...] = (normal.key,)
        label = f"nasty-{_safe(role)}"
        if adversary:
            pushed = self._teacher(experiment, adversary, seed, self.stage(experiment).adversaries.get(adversary))
            settings["adversary"], needs = pushed.key, (normal.key, pushed.key)
            label += f"-from-{_safe(adversary)}"
        if defense:
            label += f"-omega-{defense['omega']:g}"
        return self._keep(Task("protect", label, settings, needs, experiment.data, seed))

    def _student(
        self,
        experiment: Experiment,
        teacher: str,
        column: str,
        seed: int,
        victim: Task,
        varied: dict[str, Any] | None = None,
        share: float = 1.0,
    ) -> Task:
        """One attack of one victim."""
        base = self.recipe(experiment.data).dump()["attack"]
        if experiment.attack == "kd":
            attack, card = {**base, **(varied or {})}, self.scale.card(share)
        else:
            attack, card = self.data_free(experiment), "weights/none/none/random"
        settings = {
            **self._attacker(experiment, teacher, column, share),
            "victim": victim.key,
            "attack": attack,
            "card": card,
        }
        label = f"{experiment.attack}-{_safe(column)}-of-{victim.label}"
        return self._keep(Task("attack", label, {**settings, "seed": seed}, (victim.key,), experiment.data, seed))

    def _alone(self, experiment: Experiment, column: str, seed: int, share: float = 1.0) -> Task:
        """A student without a teacher. It needs a teacher's folder for its data, not its answers: its key does not know which."""
        teacher = experiment.teachers[0]
        attacker = self._attacker(experiment, teacher, column, share)
        settings = {**attacker, "attack": {"name": "scratch"}, "card": self.scale.card(share), "seed": seed}
        needs = (self._teacher(experiment, teacher, seed).key,)
        return self._keep(Task("attack", f"alone-{_safe(column)}", settings, needs, experiment.data, seed))

    def _attacker(self, experiment: Experiment, teacher: str, column: str, share: float) -> dict[str, Any]:
        """The student's network and its whole recipe."""
        stage, scale = self.stage(experiment), self.scale
        student = dict(
            stage.networks[teacher] if column == SELF else stage.students.get(column) or stage.networks[column]
        )
        values = self.recipe(experiment.data).dump()
        if own := student.pop("recipe", None):
            values["training"] = read(own).dump()["training"]
        changes = stage.attacker
        if experiment.attack != "kd":
            changes += scale.data_free.get(experiment.name, scale.data_free.get(experiment.attack, ()))
        elif scale.attacker is not None:
            changes += scale.attacker.changes(share)
        recipe = read(values, changes).dump()
        return {"recipe": bare(recipe), "student": {**student, "recipe": None}}

    def data_free(self, experiment: Experiment) -> dict[str, Any]:
        """All settings of a data-free attack at this scale."""
        found = self.scale.attacks.get(experiment.name, self.scale.attacks.get(experiment.attack, {}))
        whole: dict[str, Any] = ATTACKS.make({"name": experiment.attack, **found}).model_dump(mode="json")
        return whole

    def _figure(self, experiment: Experiment, figure: Figure, seed: int) -> Task:
        victims = [self._victim(experiment, experiment.teachers[0], arm, seed).key for arm in ("normal", "nasty")]
        settings: dict[str, Any] = {"victims": victims}
        if figure == "logit-response":
            settings["temperatures"] = sorted({1.0, float(self.recipe(experiment.data).defense.temperature)})
        elif figure == "embedding":
            settings |= {"points": self.scale.points, "seed": seed}
        else:
            settings |= {"pictures": self.scale.pictures, "attack": self.data_free(experiment), "seed": seed}
        return self._keep(Task(figure, experiment.name, settings, tuple(victims), experiment.data, seed))

    def _keep(self, task: Task) -> Task:
        return self.tasks.setdefault(task.key, task)


def _fill(
    experiment: Experiment,
    seed: int,
    task: Task,
    teacher: str,
    arm: str = "",
    column: str = "",
    x: float | str | None = None,
) -> Filled:
    known = reported(experiment.name, teacher, arm, column) if experiment.kind == "table" else None
    point = Point(
        experiment=experiment.name,
        teacher=teacher,
        arm=arm,
        column=column,
        x=x,
        seed=seed,
        key=task.key,
        reported=known,
    )
    return point, task


def bare(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what a task says itself, and without where the data lie."""
    kept = {key: value for key, value in recipe.items() if key not in ("seed", "attack", "student")}
    return {**kept, "data": {key: value for key, value in recipe["data"].items() if key != "dir"}}


def _safe(role: str) -> str:
    return role.lower().replace("-", "")
