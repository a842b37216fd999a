"""The demo: pairs of a normal and a nasty teacher of digits, and attackers with few query images against both.

It is planned as tasks of the paper, so that an interrupted demo goes on where it stopped. What is measured, and from which
cells, is in `demo_result`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undistill.attacks.base import ATTACKS
from undistill.data import load
from undistill.errors import UsageError
from undistill.experiments.graph import run
from undistill.experiments.runtime import Runtime
from undistill.files import locked, read_json, write_json
from undistill.paper.compute import PaperFolder, Task
from undistill.paper.demo_result import ATTACKERS, FILE, NORMAL, SCHEMA, Attacker
from undistill.paper.planner import bare
from undistill.training.recipe import Recipe, read

TEACHERS, ATTACKER = "digits-demo", "digits-attacker"
"""Recipes of the teachers, and of the attackers' students."""
QUICK = {TEACHERS: ("training.epochs=3",), ATTACKER: ("training.epochs=1", "training.passes=5")}
"""What `--quick` changes: enough to see every part work, not enough to learn anything from the numbers."""


@dataclass(frozen=True)
class Demo:
    """What fixes a demo."""

    seed: int = 0
    teachers: int = 6
    draws: int = 2
    quick: bool = False

    @property
    def settings(self) -> dict[str, int | bool]:
        """As they are written into the folder."""
        fixed = {"schema": SCHEMA, "seed": self.seed, "teachers": self.teachers, "draws": self.draws}
        return {**fixed, "quick": self.quick}

    @property
    def pairs(self) -> range:
        """Seeds of the teachers. Two demos of different seeds and the same size share none."""
        return range(self.seed * self.teachers, (self.seed + 1) * self.teachers)

    def students(self, pair: int) -> range:
        """Seeds of the draws of query images, and of the students, against a pair of teachers."""
        return range(pair * self.draws, (pair + 1) * self.draws)

    def recipe(self, name: str) -> Recipe:
        """A recipe, cut short for `--quick`."""
        return read(name, QUICK[name] if self.quick else ())

    def tasks(self, attackers: Sequence[Attacker] = ATTACKERS) -> dict[str, Task]:
        """Each pair of teachers, with its figure and its attackers after it."""
        whole, own = self.recipe(TEACHERS).dump(), self.recipe(ATTACKER).dump()
        student = {**own["student"], "recipe": None}
        found: dict[str, Task] = {}

        def add(kind: Any, label: str, settings: dict[str, Any], needs: tuple[str, ...], seed: int) -> str:
            task = Task(kind, label, {**settings, "seed": seed}, needs, "digits", seed, called=f"{label}-s{seed}")
            return found.setdefault(task.key, task).key

        for pair in self.pairs:
            normal = add("train", "normal", {"recipe": bare(whole)}, (), pair)
            nasty = add("protect", "nasty", {"teacher": normal, "defense": whole["defense"]}, (normal,), pair)
            both = {"victims": [normal, nasty], "temperatures": (1, 4)}
            add("logit-response", "logits", both, (normal, nasty), pair)
            victims = {"normal": normal, "nasty": nasty}
            for draw in self.students(pair):
                for attacker in attackers:
                    attack = ATTACKS.make(dict(attacker.attack)).model_dump(mode="json")
                    for teacher in attacker.teachers or (NORMAL,):
                        settings: dict[str, Any] = {"recipe": bare(own), "student": student, "attack": attack}
                        settings |= {"card": attacker.threat_model, "victim": victims[teacher]}
                        add("attack", f"{attacker.name}-{teacher}", settings, (victims[teacher],), draw)
        return found


def run_demo(
    out: str | Path,
    demo: Demo | None = None,
    *,
    resume: bool = False,
    runtime: Runtime | None = None,
    attackers: Sequence[Attacker] = ATTACKERS,
    plan_only: bool = False,
) -> Path:
    """Train pairs of teachers and attack both; cells go to `out/cells`. Returns `out`.

    Args:
        out: folder; locked meanwhile.
        demo: seed and size; another seed shares no teacher and no draw of query images.
        resume: go on with what is there.
        runtime: device, cache and processes.
        attackers: those that are tried; others can follow with `resume`.
        plan_only: write the plan and compute nothing.
    """
    out, demo, runtime = Path(out), demo or Demo(), runtime or Runtime()
    if demo.seed < 0 or demo.teachers < 1 or demo.draws < 1:
        raise UsageError(
            f"the demo needs a seed of at least 0, 1 pair of teachers and 1 draw, not {demo.seed}, {demo.teachers} and "
            f"{demo.draws}"
        )
    if demo.quick:
        demo = Demo(demo.seed, 1, 1, quick=True)
    with locked(out):
        _claim(out, demo, resume=resume)
        if plan_only:
            return out
        load(demo.recipe(TEACHERS).data)  # decoded and cached once, before the workers look for it
        folder = PaperFolder(out, runtime=runtime.in_worker(), experiment="demo")
        for line in run(folder.graph(demo.tasks(attackers)).missing(), runtime.at_once, runtime.executor, out):
            runtime.say(line)
    return out


def read_demo(folder: Path) -> Demo:
    """The demo whose plan is in a folder."""
    values = read_json(folder / FILE)
    return Demo(**{name: value for name, value in values.items() if name != "schema"})


def _claim(out: Path, demo: Demo, *, resume: bool) -> None:
    """Write the demo's plan; UsageError if the folder belongs to something else."""
    path = out / FILE
    if path.exists():
        found = read_json(path)
        if not resume:
            raise UsageError(
                f"{out} holds a demo already; go on with it (resume=True), or choose another folder with -o"
            )
        if found != demo.settings:
            raise UsageError(
                f"{out} holds a demo with other settings ({found}); choose another folder with -o, or discard what is there "
                "with --fresh"
            )
        return
    others = [entry.name for entry in out.iterdir() if not entry.name.startswith(".")]
    if others:
        raise UsageError(
            f"{out} is not empty and holds no demo ({others[0]!r} is there); choose another folder with -o"
        )
    write_json(path, demo.settings)
