"""The demo: pairs of a normal and a nasty teacher of digits, and attackers with few query images against both.

Every training is a run folder of its own, so that an interrupted demo goes on where it stopped. What is measured, and from which
cells, is in `demo_result`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from undistill.data import Splits, load
from undistill.defenses.protect import protect
from undistill.errors import UsageError
from undistill.experiments.attack import attack
from undistill.experiments.cell import save
from undistill.experiments.describe import logit_response, victim_cell
from undistill.experiments.executors import Job, run_jobs
from undistill.files import locked, read_json, write_json
from undistill.oracle.logit_cache import USUAL, Bank
from undistill.paper.demo_result import ATTACKERS, NORMAL, SCHEMA, Attacker
from undistill.training.recipe import Recipe, read
from undistill.training.run_folder import Run
from undistill.training.train import train

TEACHERS, ATTACKER = "digits-demo", "digits-attacker"
"""Recipes of the teachers, and of the attackers' students."""
QUICK = {TEACHERS: ("training.epochs=3",), ATTACKER: ("training.epochs=1", "training.passes=5")}
"""What `--quick` changes: enough to see every part work, not enough to learn anything from the numbers."""


@dataclass(frozen=True)
class Demo:
    """What fixes a demo, and where it is."""

    out: Path
    seed: int
    teachers: int
    draws: int
    quick: bool
    bank: Bank | None

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

    def teacher(self, name: str, pair: int) -> Path:
        """A teacher's run folder."""
        return self.out / "teachers" / f"{name}-s{pair}"


def run_demo(
    out: str | Path,
    *,
    seed: int = 0,
    teachers: int = 6,
    draws: int = 2,
    quick: bool = False,
    resume: bool = False,
    jobs: int | None = None,
    bank: Bank | None = USUAL,
    attackers: Sequence[Attacker] = ATTACKERS,
) -> Path:
    """Train pairs of teachers and attack both; cells go to `out/cells`. Returns `out`.

    Args:
        out: folder; locked meanwhile.
        seed: of everything; another seed shares no teacher and no draw of query images.
        teachers: pairs of teachers, a normal and a nasty one each.
        draws: of query images against each pair.
        quick: one pair, one draw, a few steps.
        resume: go on with what is there.
        jobs: processes at a time, of one thread each; None for one a core.
        bank: keeps the teachers' outputs for students with the same queries; None keeps nothing.
        attackers: those that are tried; others can follow with `resume`.
    """
    if seed < 0 or teachers < 1 or draws < 1:
        raise UsageError(
            f"the demo needs a seed of at least 0, 1 pair of teachers and 1 draw, not {seed}, {teachers} and {draws}"
        )
    demo = Demo(Path(out), seed, 1 if quick else teachers, 1 if quick else draws, quick, bank)
    with locked(demo.out):
        _claim(demo, resume=resume)
        load(demo.recipe(TEACHERS).data)  # decoded and cached once, before the workers look for it
        todo = list(_jobs(demo, attackers))
        for _ in run_jobs(todo, jobs):
            pass
    return demo.out


def _claim(demo: Demo, *, resume: bool) -> None:
    """Settle that this folder belongs to this demo; UsageError if it belongs to something else."""
    path = demo.out / "demo.json"
    if path.exists():
        found = read_json(path)
        if not resume:
            raise UsageError(
                f"{demo.out} holds a demo already; go on with it (resume=True), or choose another folder with -o"
            )
        if found != demo.settings:
            raise UsageError(
                f"{demo.out} holds a demo with other settings ({found}); choose another folder with -o, or discard what is there "
                "with --fresh"
            )
        return
    others = [entry.name for entry in demo.out.iterdir() if not entry.name.startswith(".")]
    if others:
        raise UsageError(
            f"{demo.out} is not empty and holds no demo ({others[0]!r} is there); choose another folder with -o"
        )
    write_json(path, demo.settings)


def _jobs(demo: Demo, attackers: Sequence[Attacker]) -> Iterator[Job]:
    """Each pair of teachers, and its attackers behind it."""
    for pair in demo.pairs:
        yield Job(f"teachers-{pair}", _teachers, (demo, pair))
        for draw in demo.students(pair):
            for attacker in attackers:
                for teacher in attacker.teachers or (NORMAL,):
                    key = f"{attacker.name}-{teacher}-{draw}"
                    yield Job(key, _student, (demo, pair, draw, attacker, teacher), (f"teachers-{pair}",))


def _teachers(demo: Demo, pair: int) -> str:
    """Train a normal teacher and the nasty one that is pushed away from it."""
    recipe = demo.recipe(TEACHERS)
    data = load(recipe.data)
    normal = train(None, data, recipe, seed=pair, out=demo.teacher("normal", pair), resume=True)
    out, bank = demo.teacher("nasty", pair), demo.bank
    nasty = protect(normal, data, seed=pair, out=out, resume=True, bank=bank, accept_accuracy=True)
    labels = {"labels": data.test.labels_N.numpy().astype(np.int16)}
    for run in (normal, nasty):
        cell, arrays = victim_cell(run, data, "demo")
        save(demo.out / "cells", cell, arrays | labels)
    save(demo.out / "cells", *logit_response(normal, nasty, data, "demo", temperatures=(1, 4)))
    return f"teachers {pair}"


@lru_cache(maxsize=1)
def _data(recipe: str) -> Splits:
    return load(Recipe.model_validate_json(recipe).data)


def _student(demo: Demo, pair: int, draw: int, attacker: Attacker, teacher: str) -> str:
    """One attacker with one draw of query images against one teacher."""
    recipe = demo.recipe(ATTACKER)
    attack(
        Run.open(demo.teacher(teacher, pair)),
        _data(recipe.model_dump_json()),
        dict(attacker.attack),
        card=attacker.threat_model,
        recipe=recipe,
        seed=draw,
        out=demo.out / "students" / f"{attacker.name}-{teacher}-s{draw}",
        cells=demo.out / "cells",
        experiment="demo",
        resume=True,
        bank=demo.bank,
        accept_accuracy=True,
    )
    return f"{attacker.name} {draw}"
